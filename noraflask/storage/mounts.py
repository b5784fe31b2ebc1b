"""What kind of file system a folder lies on, as the kernel tells it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")
NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs")
LOCAL_FILE_SYSTEMS = frozenset(
    (*MEMORY_FILE_SYSTEMS, "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "reiserfs", "overlay")
)
"""Whose stat(2) comes from this machine's own memory or disk, and is never an old answer. All others may wait for somebody, or remember."""


@dataclass(frozen=True, slots=True)
class Mount:
    point: str
    kind: str
    """Such as ext4 or tmpfs."""


def mount_of(path: str, mountinfo: str) -> Mount:
    """The mount that holds an absolute, resolved path, by the text of /proc/self/mountinfo: proc(5)."""
    mount = Mount("/", "unknown")
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split()
        if not separator or len(fields) < 5 or not after:
            continue
        point = _unescaped(fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(mount.point):  # of several on one point the last one counts
            mount = Mount(point, after.split()[0])
    return mount


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def mount_here(path: Path | str) -> Mount:
    return mount_of(os.path.realpath(path), Path("/proc/self/mountinfo").read_text(errors="replace"))


def is_local(path: str) -> bool:
    """Not knowing is no."""
    try:
        return mount_here(path).kind in LOCAL_FILE_SYSTEMS
    except OSError:
        return False
