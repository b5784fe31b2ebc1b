"""Folders of the disk storage: made when they are needed, and durable before what is in them is acknowledged."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator

from noraflask.storage.disk_files import explain, sync, version_of

SETTLED_BYTES = 4 * 1024 * 1024
"""Of the folders that a process has seen to."""
FOLDER_BYTES = 120
DURABLE_KEPT = 4096
READ_ONLY = "storage is read-only; pulls are served, pushes are refused"

log = logging.getLogger(__name__)


class Folders:
    def __init__(self, root: str, private: str) -> None:
        """`private`: the beginning of keys below which folders are for the server's own user alone."""
        self.root = root
        self._private = private
        self._settled = {root}
        self._settled_bytes = 0
        self._durable: dict[str, str] = {}
        """Files that were made durable when they were found, with the version that they had."""
        self._group = _Group()

    def is_private(self, key: str) -> bool:
        return key.startswith(self._private)

    def place(self, path: str, place: Callable[[], object]) -> None:
        """Do `place` in the path's folder, which is made when it is missing, and make the folder durable."""
        folder = folder_of(path)
        try:
            self._settle(folder)
            place()
        except FileNotFoundError:  # the folder was removed since this process last looked
            self._settled, self._settled_bytes = {self.root}, 0
            self._settle(folder)
            place()
        if self._group.folders is None:
            sync(folder)
        else:
            self._group.folders[folder] = None

    @property
    def later(self) -> list[int] | None:
        """Where descriptors of new files go that are synced at the end of the group that this thread is in; None: it is in none."""
        return None if self._group.folders is None else self._group.files

    def is_durable(self, path: str) -> bool:
        """Is this the file that was found before? Also False for a file that is there and that this process has not come across yet."""
        version = self._durable.get(path)
        try:
            return version is not None and version == version_of(os.stat(path))
        except FileNotFoundError:
            return False

    def found(self, path: str) -> None:
        """Make a file durable that was there already, by whomever it was made. What this process has seen to before is not synced again."""
        if self.is_durable(path):
            return
        version = version_of(os.stat(path))
        sync(path)
        sync(folder_of(path))
        if len(self._durable) >= DURABLE_KEPT:
            self._durable = {}
        self._durable[path] = version

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Sync what this thread creates inside once, at the end: one commit of the file system's journal instead of many.

        Objects appear in the order of the calls; they are durable when the block ends without an error. Groups do not nest.
        """
        files: list[int] = []
        folders: dict[str, None] = {}
        self._group.files, self._group.folders = files, folders
        try:
            try:
                yield
            finally:
                self._group.folders = None
            for descriptor in files:  # first, so that the first commit takes the folders along
                os.fdatasync(descriptor)
            for folder in folders:
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    sync(folder)
        except OSError as problem:
            raise explain(problem) from problem
        finally:
            for descriptor in files:
                os.close(descriptor)

    def prepare(self, folders: Iterable[str]) -> None:
        """Make folders that will be needed, so that no push has to wait for them one by one. What cannot be made now is made when it is needed."""
        paths = [f"{self.root}/{folder}" for folder in folders]
        try:
            for path in paths:
                os.makedirs(path, mode=0o750, exist_ok=True)
            for parent in {os.path.dirname(path) for path in paths}:
                self._settle(parent)
                sync(parent)
        except OSError as problem:
            log.warning("folders could not be made in advance: %s", problem)
            return
        self._settled.update(paths)

    def _settle(self, folder: str) -> None:
        """Make a folder and see to it once in this process that its name, and its parents' names, are on disk."""
        if folder in self._settled:
            return
        parent = os.path.dirname(folder)
        self._settle(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700 if self.is_private(f"{folder[len(self.root) + 1 :]}/") else 0o750)
        sync(parent)
        self._settled_bytes += len(folder) + FOLDER_BYTES
        if self._settled_bytes > SETTLED_BYTES:
            self._settled, self._settled_bytes = {self.root}, 0
        self._settled.add(folder)


class _Group(threading.local):
    """What this thread will sync at the end of its block; `folders` None: it is in none."""

    files: list[int]
    folders: dict[str, None] | None = None


def folder_of(path: str) -> str:
    """os.path.dirname() for a path that has no double slash, at a fifth of the cost."""
    return path.rpartition("/")[0]


def sweep_and_lock(incoming: str) -> int | None:
    """Remove what an earlier process left on its way, unless another one works here; hold a shared lock for as long as this one lives."""
    try:
        descriptor = os.open(os.path.join(incoming, ".lock"), os.O_CREAT | os.O_RDONLY, 0o640)
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
        _sweep(incoming)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def _sweep(incoming: str) -> None:
    with os.scandir(incoming) as entries:
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


def names_in(folder: str) -> list[str]:
    """What is in a folder, unsorted; a folder's name ends in a slash. Empty where there is none. Raises OSError."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []


def holds_a_file(folder: str) -> bool:
    """Is there a file, at any depth? Raises OSError."""
    folders = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    return True
                folders.append(entry.path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return any(holds_a_file(path) for path in folders)
