"""Disk storage: objects as files below one folder; a key is the file's relative path.

    <root>/<key>                 the objects
    <root>/.incoming/<x>.tmp     objects on their way; gone after a restart
    <root>/.incoming/…           uploads that outgrew the tmpfs (services/staging.py)

An object appears by `link` or `rename` after its bytes are on the disk, and the verb returns after its folder is: fsync(2), "calling fsync() does not
necessarily ensure that the entry in the directory containing the file has also reached disk".
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import logging
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from noraflask.errors import AlreadyExists, InvalidName, NotFound, StorageFull, StorageReadOnly, Unavailable
from noraflask.keys import Key
from noraflask.storage import ObjectInfo, Source

INCOMING = ".incoming"
ANY_FOLDER = 0x7FFFFFFF
"""Stands for no folder: an absolute path needs none."""
WHOLE_BYTES = 128 * 1024
"""What one read(2) takes of a small object; a larger one is read in the ordinary way."""
PROBE_BYTES = 1024 * 1024
COPY_BYTES = 1024 * 1024

log = logging.getLogger(__name__)


class DiskReader(io.FileIO):
    """A file positioned at `start` that reads no further than `stop`; `fileno()` is real, so that the kernel can send it."""

    def __init__(self, path: str, start: int, stop: int | None) -> None:
        super().__init__(path, "rb")
        self.size = os.fstat(self.fileno()).st_size
        self._left = None if stop is None else max(0, stop - start)
        if start:
            self.seek(start)

    def read(self, size: int | None = -1, /) -> bytes:
        if self._left is None:
            return super().read(-1 if size is None else size) or b""
        wanted = self._left if size is None or size < 0 else min(size, self._left)
        data = super().read(wanted) or b""
        self._left -= len(data)
        return data


YOUNG_SECONDS = 1.0
"""A folder this young may change again without a new time stamp."""
PRIVATE = "_auth/"
"""Keys and tokens: below it files are for the server's own user alone."""


class DiskStorage:
    backend = "local"

    def __init__(self, root: Path, private: bool = False) -> None:
        """Makes the folders. Raises OSError when that cannot be done. `private`: all of it is for the server's own user alone."""
        self.root = os.path.abspath(root)
        self._private = "" if private else PRIVATE
        if private:
            os.makedirs(self.root, mode=0o700, exist_ok=True)
        self.incoming = os.path.join(self.root, INCOMING)
        os.makedirs(self.incoming, mode=0o750, exist_ok=True)
        self._device = os.stat(self.incoming).st_dev
        self._settled = {self.root}
        self._deferred = threading.local()
        self._lock_file = self._sweep_and_lock()
        self._nameless = self._can_link_nameless()

    def open(self, key: Key, start: int = 0, stop: int | None = None) -> DiskReader:
        try:
            return DiskReader(f"{self.root}/{key}", start, stop)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotFound() from None
        except OSError as problem:
            raise explain(problem) from problem

    def whole(self, key: Key) -> bytes:
        try:
            descriptor = os.open(f"{self.root}/{key}", os.O_RDONLY)
            try:
                data = os.read(descriptor, WHOLE_BYTES)
                if len(data) < WHOLE_BYTES:
                    return data
            finally:
                os.close(descriptor)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotFound() from None
        except OSError as problem:
            raise explain(problem) from problem
        with self.open(key) as reader:
            return reader.read()

    def stat(self, key: Key) -> ObjectInfo | None:
        try:
            found = os.stat(f"{self.root}/{key}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as problem:
            raise explain(problem) from problem
        return None if stat.S_ISDIR(found.st_mode) else ObjectInfo(found.st_size, found.st_mtime)

    def create(self, key: Key, source: Source) -> None:
        path = f"{self.root}/{key}"
        try:
            if source == b"":
                self._in_folder(path, lambda: os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, self._mode(key))))
            elif not self._link_upload(source, path):
                file = self._nameless_file if self._nameless else self._durable_file
                with file(source, self._mode(key)) as name:
                    self._in_folder(path, lambda: _link(name, path))
        except FileExistsError:
            self._sync_or_defer(os.path.dirname(path))
            raise AlreadyExists() from None
        except OSError as problem:
            raise explain(problem) from problem

    def replace(self, key: Key, source: Source) -> None:
        path = f"{self.root}/{key}"
        try:
            with self._durable_file(source, self._mode(key)) as name:
                self._in_folder(path, lambda: os.replace(name, path))
        except OSError as problem:
            raise explain(problem) from problem

    def delete(self, key: Key) -> None:
        path = f"{self.root}/{key}"
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            self._sync_folder(os.path.dirname(path))  # also when it was gone: another request may have removed it just now
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return
        except OSError as problem:
            raise explain(problem) from problem

    def list(self, prefix: str, after: str = "") -> Iterator[str]:
        folder = f"{self.root}/{prefix}"
        try:
            with os.scandir(folder) as entries:
                # A folder sorts as its name and a slash, so that "a-b" comes before what is in "a/".
                names = sorted((e.name + "/" if e.is_dir(follow_symlinks=False) else e.name for e in entries), key=os.fsencode)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as problem:
            raise explain(problem) from problem
        for name in names:
            key = prefix + name
            if not prefix and name.startswith("."):
                continue
            if not name.endswith("/"):
                if os.fsencode(key) > os.fsencode(after):
                    yield key
            elif after.startswith(key) or os.fsencode(key) > os.fsencode(after):
                yield from self.list(key, after)

    def stamp(self, *folders: str) -> object | None:
        """Creating, renaming over and removing change the folder's time. The kernel's clock has steps of some milliseconds, hence the wait."""
        found: list[tuple[int, int] | None] = []
        for folder in folders:
            try:
                status = os.stat(f"{self.root}/{folder}")
            except (FileNotFoundError, NotADirectoryError):
                found.append(None)
                continue
            except OSError as problem:
                raise explain(problem) from problem
            if abs(time.time() - status.st_mtime) < YOUNG_SECONDS:
                return None
            found.append((status.st_ino, status.st_mtime_ns))
        return tuple(found)

    def probe(self) -> None:
        """A volume with less than PROBE_BYTES left counts as full: the next push would not fit."""
        try:
            found = os.statvfs(self.incoming)
            if found.f_bavail * found.f_frsize < PROBE_BYTES:
                raise OSError(errno.ENOSPC, "hardly any space is left")
            with self._durable_file(b"probe"):
                self._sync_folder(self.incoming)
        except OSError as problem:
            raise explain(problem) from problem

    def prepare(self, folders: Iterable[str]) -> None:
        """Make folders that will be needed, so that no push has to wait for them one by one. What cannot be made now is made when it is needed."""
        paths = [f"{self.root}/{folder}" for folder in folders]
        try:
            for path in paths:
                os.makedirs(path, mode=0o750, exist_ok=True)
            for parent in {os.path.dirname(path) for path in paths}:
                self._settle(parent)
                self._sync_folder(parent)
        except OSError as problem:
            log.warning("folders could not be made in advance: %s", problem)
            return
        self._settled.update(paths)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Sync the folders of all that this thread creates inside once, at the end: one commit of the file system's journal instead of many.

        Data is synced, and objects appear, in the order of the calls; they are durable when the block ends without an error.
        """
        folders: set[str] = set()
        self._deferred.folders = folders
        try:
            yield
        finally:
            self._deferred.folders = None
        try:
            for folder in folders:
                self._sync_folder(folder)
        except OSError as problem:
            raise explain(problem) from problem

    def _link_upload(self, source: Source, path: str) -> bool:
        """Place a finished upload that is on this volume already, as it is. False when it is on another device, or another mount of this one."""
        if isinstance(source, bytes) or os.fstat(source.fileno()).st_dev != self._device:
            return False
        os.fdatasync(source.fileno())
        try:
            self._in_folder(path, lambda: _link(os.fspath(source.name), path))
        except OSError as problem:
            if problem.errno != errno.EXDEV:
                raise
            return False
        return True

    @contextlib.contextmanager
    def _durable_file(self, source: Source, mode: int = 0o640) -> Iterator[str]:
        """The path of a temporary file on this volume that holds the source's bytes, on disk. The caller may rename it away."""
        name = os.path.join(self.incoming, secrets.token_hex(12) + ".tmp")
        descriptor = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        try:
            try:
                _write(descriptor, source)
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
            yield name
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
        if os.path.lexists(name):
            os.unlink(name)

    @contextlib.contextmanager
    def _nameless_file(self, source: Source, mode: int = 0o640) -> Iterator[str]:
        """As _durable_file(), for a link only: a file without a name (open(2), O_TMPFILE) costs less, and a crash leaves nothing of it."""
        descriptor = os.open(self.incoming, os.O_TMPFILE | os.O_WRONLY, mode)
        try:
            _write(descriptor, source)
            os.fdatasync(descriptor)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)

    def _can_link_nameless(self) -> bool:
        """Some file systems, and containers without /proc, cannot."""
        path = os.path.join(self.incoming, f".trial-{secrets.token_hex(8)}.tmp")
        try:
            with self._nameless_file(b"trial") as name:
                _link(name, path)
            os.unlink(path)
        except OSError:
            return False
        return True

    def _is_private(self, key: str) -> bool:
        return key.startswith(self._private)

    def _mode(self, key: str) -> int:
        return 0o600 if self._is_private(key) else 0o640

    def _in_folder(self, path: str, place: Any) -> None:
        """Do `place` in the path's folder, which is made when it is missing, and make the folder durable."""
        folder = os.path.dirname(path)
        try:
            self._settle(folder)
            place()
        except FileNotFoundError:  # the folder was removed since this process last looked
            self._settled = {self.root}
            self._settle(folder)
            place()
        self._sync_or_defer(folder)

    def _sync_or_defer(self, folder: str) -> None:
        folders = getattr(self._deferred, "folders", None)
        if folders is None:
            self._sync_folder(folder)
        else:
            folders.add(folder)

    def _settle(self, folder: str) -> None:
        """Make a folder and see to it once in this process that its name, and its parents' names, are on disk."""
        if folder in self._settled:
            return
        parent = os.path.dirname(folder)
        self._settle(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700 if self._is_private(f"{folder[len(self.root) + 1 :]}/") else 0o750)
        self._sync_folder(parent)
        if len(self._settled) > 100_000:
            self._settled = {self.root}
        self._settled.add(folder)

    @staticmethod
    def _sync_folder(folder: str) -> None:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _sweep(self) -> None:
        with os.scandir(self.incoming) as entries:
            for entry in entries:
                if not entry.name.endswith(".tmp"):
                    continue
                try:
                    os.unlink(entry.path)
                except OSError as problem:
                    if problem.errno != errno.EROFS:
                        raise
                    log.warning(READ_ONLY)
                    return

    def _sweep_and_lock(self) -> int | None:
        """Remove what an earlier process left on its way, unless another one works here; hold a shared lock for as long as this one lives."""
        try:
            descriptor = os.open(os.path.join(self.incoming, ".lock"), os.O_CREAT | os.O_RDONLY, 0o640)
        except OSError as problem:
            if problem.errno != errno.EROFS:
                raise
            log.warning(READ_ONLY)
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            log.warning("another server works on this storage folder; leftovers of earlier ones stay until it stops")
        else:
            self._sweep()
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return descriptor


READ_ONLY = "storage is read-only; pulls are served, pushes are refused"


def _link(source: str, path: str) -> None:
    """linkat(2) with AT_SYMLINK_FOLLOW, which /proc/self/fd needs; Python passes the flag only together with a folder's descriptor."""
    os.link(source, path, src_dir_fd=ANY_FOLDER, follow_symlinks=True)


def _write(descriptor: int, source: Source) -> None:
    if isinstance(source, bytes):
        view = memoryview(source)
        while view:
            view = view[os.write(descriptor, view) :]
        return
    offset, size = 0, os.fstat(source.fileno()).st_size
    while offset < size:
        sent = os.sendfile(descriptor, source.fileno(), offset, min(size - offset, COPY_BYTES * 16))
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
