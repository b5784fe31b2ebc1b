"""What other users of the machine could have put in the place of a file: paths through folders that they may write to.

The server's own user and root are trusted; so is the group of either. Where everybody may write, such as in /tmp, a file counts only if it is one of
theirs: that a folder there is sticky keeps others from replacing it, and not from having made it first.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

MOST_LINKS = 40
"""As path_resolution(7) has it."""


def who_else_may_write(file: Path) -> str | None:
    """Why somebody else could change a file, or put another in its place; None: nobody could. Quiet about what cannot be looked at."""
    steps = list(_steps(file))
    if steps and stat.S_ISCHR(steps[-1][1].st_mode):
        return None  # such as /dev/null
    for number, (path, found) in enumerate(steps):
        is_above = number < len(steps) - 2
        if stat.S_ISLNK(found.st_mode) or _is_read_only(path):
            reason = "" if _is_trusted(found.st_uid) or _is_read_only(path) else f"{path} belongs to {_name(found.st_uid)}"
        else:
            reason = _why(path, found, may_be_sticky=is_above)
        if reason:
            return reason
    return None


def planted(path: Path) -> str | None:
    """Why somebody else may have put there what lies at a path: it, or a folder or a link on the way, is his, and everybody may write where it lies.

    None: nobody has. What is not there was put there by nobody.
    """
    everybody_writes = False
    for place, found in _steps(path):
        if everybody_writes and not _is_trusted(found.st_uid):
            return f"{place} belongs to {_name(found.st_uid)}, and lies where everybody may write"
        everybody_writes = stat.S_ISDIR(found.st_mode) and bool(found.st_mode & stat.S_IWOTH)
    return None


def open_own(path: Path, flags: int, mode: int) -> int:
    """As os.open(). Where everybody may write to the folder, only a file of this user or root is taken: no link, no pipe, nothing with a second name.

    Raises OSError.
    """
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not os.fstat(folder).st_mode & stat.S_IWOTH:
            return os.open(path.name, flags | os.O_CLOEXEC, mode, dir_fd=folder)
        descriptor = os.open(path.name, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, mode, dir_fd=folder)
    finally:
        os.close(folder)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or not _is_trusted(found.st_uid) or found.st_nlink > 1:
        os.close(descriptor)
        raise PermissionError(errno.EPERM, "somebody else may have put it there", str(path))
    return descriptor


def _steps(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything on the way to a file, from / on, the links and where they lead as well. Ends at what is not there."""
    parts, place, links = list(Path(os.path.abspath(path)).parts[1:]), "/", 0
    try:
        yield place, os.lstat(place)
        while parts:
            part = parts.pop(0)
            if part == "..":
                place = os.path.dirname(place)
                continue
            here = os.path.join(place, part)
            found = os.lstat(here)
            yield here, found
            if not stat.S_ISLNK(found.st_mode):
                place = here
                continue
            links += 1
            target = Path(os.readlink(here))
            if links > MOST_LINKS:
                return
            parts[:0] = target.parts[1:] if target.is_absolute() else target.parts
            if target.is_absolute():
                place = "/"
            yield place, os.lstat(place)
    except (OSError, ValueError):  # also what no path can be
        return


def _why(path: str, found: os.stat_result, may_be_sticky: bool) -> str:
    if not _is_trusted(found.st_uid):
        return f"{path} belongs to {_name(found.st_uid)}"
    if found.st_mode & stat.S_IWOTH and not (may_be_sticky and found.st_mode & stat.S_ISVTX):
        return f"everybody may write to {path}"
    if found.st_mode & stat.S_IWGRP and found.st_gid not in (0, os.getegid()) and not (may_be_sticky and found.st_mode & stat.S_ISVTX):
        return f"the group {found.st_gid} may write to {path}"
    return ""


def _is_trusted(user: int) -> bool:
    return user in (0, os.geteuid())


def _is_read_only(path: str) -> bool:
    """A mount that nobody writes to, such as a ConfigMap of Kubernetes, whatever its modes say."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"
