"""Files of the disk storage: how they are read, written, made durable and told apart."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator

from noraflask.errors import InvalidName, StorageFull, StorageReadOnly, Unavailable
from noraflask.storage import Source

ANY_FOLDER = 0x7FFFFFFF
"""Stands for no folder: an absolute path needs none."""
COPY_BYTES = 16 * 1024 * 1024

log = logging.getLogger(__name__)


def version_of(status: os.stat_result) -> str:
    """Inode, time in nanoseconds and size.

    The kernel stamps files with a clock that stands still for some milliseconds, and gives a freed inode to the next file at once, so two objects
    could follow each other with all three equal. Hence stamp(): each file gets the real clock's nanosecond before it appears. Two files that are
    there together differ in the inode; two that follow each other on one inode differ in the time, because each takes some microseconds to write.
    """
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"


def look_at(path: str) -> object:
    """What changes whenever version_of() would, and when somebody has tampered with the file; None when there is none."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return object()  # equal to nothing: whoever opens it finds out what is wrong
    return found.st_ino, found.st_mtime_ns, found.st_size, found.st_ctime_ns


@functools.lru_cache(256)
def looking_at(path: str) -> Callable[[], object]:
    """One for all that rests on the file."""
    return functools.partial(look_at, path)


def stamp(descriptor: int) -> str:
    """Give a file that is about to appear, and that nobody writes to any more, a time of its own; returns its version."""
    now = time.time_ns()
    os.utime(descriptor, ns=(now, now))
    return version_of(os.fstat(descriptor))


class DiskReader(io.FileIO):
    """A file positioned at `start` that reads no further than `stop`; `fileno()` is real, so that the kernel can send it."""

    def __init__(self, path: str, start: int, stop: int | None) -> None:
        super().__init__(path, "rb")
        self._status = os.fstat(self.fileno())
        self.size = self._status.st_size
        self._left = None if stop is None else max(0, stop - start)
        if start:
            self.seek(start)

    @property
    def version(self) -> str:
        return version_of(self._status)

    def read(self, size: int | None = -1, /) -> bytes:
        if self._left is None:
            return super().read(-1 if size is None else size) or b""
        wanted = self._left if size is None or size < 0 else min(size, self._left)
        data = super().read(wanted) or b""
        self._left -= len(data)
        return data


@contextlib.contextmanager
def named_file(folder: str, source: Source, mode: int) -> Iterator[tuple[str, str]]:
    """Path and version of a temporary file in the folder that holds the source's bytes, on disk. The caller may rename it away."""
    name = os.path.join(folder, secrets.token_hex(12) + ".tmp")
    descriptor = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    try:
        try:
            _write(descriptor, source)
            version = stamp(descriptor)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        yield name, version
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    if os.path.lexists(name):
        os.unlink(name)


@contextlib.contextmanager
def nameless_file(folder: str, source: Source, mode: int, later: list[int] | None = None) -> Iterator[tuple[str, str]]:
    """As named_file(), for a link only: a file without a name (open(2), O_TMPFILE) costs less, and a crash leaves nothing of it.

    `later`: takes the descriptor when all went well; whoever has the list syncs and closes it.
    """
    descriptor = os.open(folder, os.O_TMPFILE | os.O_WRONLY, mode)
    try:
        _write(descriptor, source)
        version = stamp(descriptor)
        if source and later is None:  # of an empty file there is nothing but its name to make durable
            os.fdatasync(descriptor)
        yield f"/proc/self/fd/{descriptor}", version
        if later is not None:
            later.append(descriptor)
            descriptor = -1
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def can_link_nameless(folder: str) -> bool:
    """Some file systems, and containers without /proc, cannot."""
    path = os.path.join(folder, f".trial-{secrets.token_hex(8)}.tmp")
    try:
        with nameless_file(folder, b"trial", 0o600) as (name, _):
            link(name, path)
        os.unlink(path)
    except OSError:
        return False
    return True


def keeps_nanoseconds(folder: str) -> bool:
    """Ext3, and ext4 with inodes of 128 bytes, keep whole seconds: a freed inode may come again with all that look_at() sees."""
    try:
        with named_file(folder, b"", 0o600) as (name, _):
            os.utime(name, ns=(1, 1))
            kept = os.stat(name).st_mtime_ns == 1
    except OSError:  # a read-only or full disk: the folder itself has a time
        kept = os.stat(folder).st_ctime_ns % 1_000_000_000 != 0
    if not kept:
        log.warning("this file system keeps no nanoseconds; a change that two writers make in one moment may be lost")
    return kept


def link(source: str, path: str) -> None:
    """linkat(2) with AT_SYMLINK_FOLLOW, which /proc/self/fd needs; Python passes the flag only together with a folder's descriptor."""
    os.link(source, path, src_dir_fd=ANY_FOLDER, follow_symlinks=True)


def sync(path: str, flags: int = 0) -> None:
    """Make a folder's names, or a file's bytes, durable."""
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(descriptor: int, source: Source) -> None:
    if isinstance(source, bytes):
        view = memoryview(source)
        while view:
            view = view[os.write(descriptor, view) :]
        return
    offset, size = 0, os.fstat(source.fileno()).st_size
    while offset < size:
        sent = os.sendfile(descriptor, source.fileno(), offset, min(size - offset, COPY_BYTES))
        if not sent:
            raise OSError(errno.EIO, "the upload's file became shorter while it was copied")
        offset += sent


def explain(problem: OSError) -> Exception:
    """The project's own error for one of the operating system's, with no path in it; the cause stays in the log."""
    log.error("storage: %s", problem)
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull()
    if problem.errno == errno.EROFS:
        return StorageReadOnly()
    if problem.errno == errno.ENAMETOOLONG:
        return InvalidName("the name is too long to be stored")
    return Unavailable("the server's storage does not work; tell its operator and try again later")
