"""Which folders lie on file systems whose stat(2) can be believed (noraflask/storage/mounts.py)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from noraflask.storage import disk, disk_files, mounts
from noraflask.storage.disk import DiskStorage


@pytest.mark.parametrize(
    ("kind", "local"),
    [("ext4", True), ("xfs", True), ("tmpfs", True), ("overlay", True), ("nfs4", False), ("cifs", False), ("fuse.s3fs", False), ("new", False)],
)
def test_what_is_not_known_to_be_local_is_not(kind: str, local: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "mount_here", lambda path: mounts.Mount("/", kind))
    assert mounts.is_local("/srv/nora") == local


def test_where_nobody_tells_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> mounts.Mount:
        raise FileNotFoundError("/proc/self/mountinfo")

    monkeypatch.setattr(mounts, "mount_here", fail)
    assert not mounts.is_local("/srv/nora")


@pytest.mark.parametrize("local", [True, False])
def test_storage_is_watched_where_it_is_local(local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "is_local", lambda path: local)
    storage = DiskStorage(tmp_path / "storage")
    assert (storage.abilities.watch is not None) == local
    storage.close()


def test_storage_is_not_watched_where_times_are_whole_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on ext3. A name that is set three times within a second may have a file with the first one's inode and times again."""
    monkeypatch.setattr(disk, "is_local", lambda path: True)
    utime = os.utime
    monkeypatch.setattr(disk_files.os, "utime", lambda file, ns: utime(file, ns=(ns[0] // 10**9 * 10**9, ns[1] // 10**9 * 10**9)))
    storage = DiskStorage(tmp_path)
    assert storage.abilities.watch is None
    storage.close()
