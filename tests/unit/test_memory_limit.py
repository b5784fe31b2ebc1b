"""The memory that cgroups grant, of this process and of another one."""

from __future__ import annotations

import os

import pytest

from noraflask.services.memory_limit import cgroup_limit, memory_limit

MIB = 1024 * 1024
MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("lines", "files", "limit"),
    [
        ("0::/", {}, MACHINE),
        ("0::/", {"memory.max": "max"}, MACHINE),
        ("0::/", {"memory.max": "1000"}, 1000),
        ("0::/system.slice/nora.service", {"system.slice/nora.service/memory.max": "2000", "system.slice/memory.max": "max"}, 2000),
        ("0::/pod/nora", {"pod/nora/memory.max": "2000", "pod/memory.max": "1000"}, 1000),
        ("0::/pod/nora", {"memory.max": "3000"}, 3000),
        ("4:memory:/docker/1f\n0::/", {"memory/memory.limit_in_bytes": "5000"}, 5000),
        ("4:cpu,memory:/a\n0::/", {"memory/a/memory.limit_in_bytes": "5000", "memory/memory.limit_in_bytes": "9223372036854771712"}, 5000),
        ("3:cpu:/", {"memory.limit_in_bytes": "1"}, MACHINE),
        ("", {"memory.max": "1"}, MACHINE),
    ],
)
def test_memory_limit(tmp_path, lines, files, limit):
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text(lines)
    for name, content in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(content + "\n")
    assert memory_limit(tmp_path, tmp_path / "cgroup") == limit


def test_memory_limit_where_there_is_no_proc(tmp_path):
    assert memory_limit(tmp_path, tmp_path) == MACHINE


def test_the_memory_limit_of_a_cgroup_and_those_above(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "memory" / "docker").mkdir(parents=True)
    (tmp_path / "a" / "memory.max").write_text(f"{512 * MIB}\n")
    (tmp_path / "a" / "b" / "memory.max").write_text("max\n")
    (tmp_path / "memory" / "docker" / "memory.limit_in_bytes").write_text(f"{256 * MIB}\n")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert cgroup_limit("0::/a/b\n", tmp_path) == 512 * MIB
    assert cgroup_limit("0::/\n", tmp_path) is None
    assert cgroup_limit("4:memory:/docker\n0::/\n", tmp_path) == 256 * MIB
    assert cgroup_limit("4:memory:/other\n", tmp_path) is None
    assert cgroup_limit("", tmp_path) is None
