"""How much memory processes may take, as the kernel will enforce it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
NO_LIMIT = 1 << 60
"""Version 1 writes "no limit" as a number above it."""


def memory_limit(proc: Path = Path("/proc"), cgroups: Path = CGROUPS) -> int:
    """Bytes: what the cgroups around this process grant, or what the machine has."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        granted = cgroup_limit((proc / "self/cgroup").read_text(), cgroups)
    except OSError:
        return machine
    return min(machine, granted or machine)


def cgroup_limit(cgroup: str, cgroups: Path = CGROUPS) -> int | None:
    """The least that a cgroup and those above it grant (cgroups(7), version 1 and 2), in bytes; `cgroup`: the text of /proc/<pid>/cgroup.

    A limit further up holds as well: of the pod, or of the slice. Within a container the path may be the host's, and only the top is there.
    None: no limit.
    """
    granted = []
    for file in _limit_files(cgroup, cgroups):
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
            granted.append(int(file.read_text()))
    return min((limit for limit in granted if limit < NO_LIMIT), default=None)


def _limit_files(cgroup: str, cgroups: Path) -> Iterator[Path]:
    for line in cgroup.splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        top, name = (cgroups / "memory", "memory.limit_in_bytes") if controllers else (cgroups, "memory.max")
        folder = top / path.strip("/")
        yield from (place / name for place in (folder, *folder.parents) if place.is_relative_to(top))
