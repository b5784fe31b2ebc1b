"""Replace an operator's file by another, all or nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path


def replace_file(path: Path, parts: Iterable[bytes], new_mode: int) -> None:
    """A reader sees the old bytes or the new ones, also after a power cut. Mode and owner stay what they were; a new file gets `new_mode` and its
    folder's owner, so that the server can still read what root wrote. Raises OSError, also for a link; then nothing has changed."""
    try:
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode):
            raise PermissionError(errno.EPERM, "it is a link, or no file", str(path))
        mode, exists = found.st_mode & 0o777, True
    except FileNotFoundError:
        mode, exists = new_mode, False
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(parts)
            os.fchmod(descriptor, mode)
            with contextlib.suppress(OSError):
                owner = os.lstat(path) if exists else os.stat(path.parent)
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            file.flush()
            os.fsync(descriptor)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
