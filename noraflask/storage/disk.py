"""Disk storage: objects as files below one folder; a key is the file's relative path.

    <root>/<key>                 the objects
    <root>/.incoming/<x>.tmp     objects on their way; gone after a restart
    <root>/.incoming/…           uploads that outgrew the tmpfs (services/staging.py)
    <root>/.shared/…             what the processes agree by (disk_cells.py); may be removed while no server runs

An object appears by `link` or `rename` after its bytes are on the disk, and the verb returns after its folder is: fsync(2), "calling fsync() does not
necessarily ensure that the entry in the directory containing the file has also reached disk".
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from noraflask.config.other_users import planted
from noraflask.errors import AlreadyExists, Changed, NotFound
from noraflask.keys import Key
from noraflask.recording import Look
from noraflask.storage import Abilities, Entry, ObjectInfo, Source
from noraflask.storage.disk_cells import DiskLeases, DiskLocks, DiskRevisions
from noraflask.storage.disk_files import (
    DiskReader,
    can_link_nameless,
    explain,
    keeps_nanoseconds,
    link,
    looking_at,
    named_file,
    nameless_file,
    stamp,
    sync,
    version_of,
)
from noraflask.storage.disk_folders import Folders, folder_of, holds_a_file, names_in, sweep_and_lock
from noraflask.storage.mounts import is_local

INCOMING = ".incoming"
SHARED = ".shared"
WHOLE_BYTES = 128 * 1024
"""What one read(2) takes of a small object; a larger one is read in the ordinary way."""
PROBE_BYTES = 1024 * 1024
PRIVATE = "_auth/"
"""Keys and tokens: below it files are for the server's own user alone."""
NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class DiskStorage:
    backend = "local"

    def __init__(self, root: Path, private: bool = False) -> None:
        """Makes the folders. Raises OSError when that cannot be done. `private`: all of it is for the server's own user alone."""
        self.root = os.path.abspath(root)
        stranger = planted(root)
        if stranger:
            raise PermissionError(f"the folder {root} is not used: {stranger}")
        if private:
            os.makedirs(self.root, mode=0o700, exist_ok=True)
        self.incoming = os.path.join(self.root, INCOMING)
        os.makedirs(self.incoming, mode=0o750, exist_ok=True)
        self._device = os.stat(self.incoming).st_dev
        self._folders = Folders(self.root, "" if private else PRIVATE)
        self._lock_file = sweep_and_lock(self.incoming)
        self._nameless = can_link_nameless(self.incoming)
        shared = os.path.join(self.root, SHARED)
        self._locks, self._revisions = DiskLocks(shared), DiskRevisions(shared)
        self.abilities = Abilities(
            leases=DiskLeases(shared, self.delete),
            revisions=self._revisions,
            create_soon=self.create_soon,
            together=self._folders.together,
            prepare=self._folders.prepare,
            probe=self.probe,
            watch=self.watch if keeps_nanoseconds(self.incoming) and is_local(self.root) else None,
            incoming=self.incoming,
        )

    def open(self, key: Key, start: int = 0, stop: int | None = None) -> DiskReader:
        try:
            return DiskReader(f"{self.root}/{key}", start, stop)
        except NO_FILE:
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
        except NO_FILE:
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
        return None if stat.S_ISDIR(found.st_mode) else ObjectInfo(found.st_size, found.st_mtime, version_of(found))

    def stat_many(self, keys: Iterable[Key]) -> Sequence[ObjectInfo | None]:
        return [self.stat(key) for key in keys]

    def watch(self, key: Key) -> Look:
        return looking_at(f"{self.root}/{key}")

    def create(self, key: Key, source: Source) -> str:
        return self._create(key, source)

    def create_soon(self, key: Key, data: bytes) -> str:
        return self._create(key, data, soon=True)

    def replace(self, key: Key, source: Source) -> str:
        path = f"{self.root}/{key}"

        def rename() -> None:
            with self._locks.alone(key):
                os.replace(name, path)

        try:
            with named_file(self.incoming, source, self._mode(key)) as (name, version):
                self._folders.place(path, rename)
        except OSError as problem:
            raise explain(problem) from problem
        return version

    def swap(self, key: Key, data: bytes, expected: str | None) -> str:
        """A reader may see the new object before it is durable; nobody was told of it then, and who swaps it again makes both durable."""
        path = f"{self.root}/{key}"
        try:
            if expected is None:
                return self._create(key, data)
            self._expect(path, expected)  # who is too late anyway need not write first
            with named_file(self.incoming, data, self._mode(key)) as (name, version):
                with self._locks.alone(key):
                    self._expect(path, expected)
                    os.replace(name, path)
                sync(folder_of(path))
        except AlreadyExists:
            raise Changed() from None
        except OSError as problem:
            raise explain(problem) from problem
        return version

    def delete(self, key: Key, expected: str | None = None) -> None:
        path = f"{self.root}/{key}"
        try:
            with self._locks.alone(key):
                if expected is not None:
                    self._expect(path, expected)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            sync(folder_of(path))  # also when it was gone: another request may have removed it just now
        except NO_FILE:
            return
        except OSError as problem:
            raise explain(problem) from problem

    def list(self, prefix: str, after: str = "", limit: int | None = None, delimiter: Literal["", "/"] = "") -> Iterator[Entry]:
        found = self._list(prefix, after, limit is not None, delimiter)
        if limit is None:
            yield from found
            return
        for _, entry in zip(range(limit), found, strict=False):
            yield entry

    def _list(self, prefix: str, after: str, is_page: bool, delimiter: str) -> Iterator[Entry]:
        # Python compares text by code points, whose order is that of their UTF-8 bytes. A folder sorts with its slash: "a-b" comes before "a/…".
        try:
            names = names_in(f"{self.root}/{prefix}")
        except OSError as problem:
            raise explain(problem) from problem
        if after > prefix:
            names = [name for name in names if (key := prefix + name) > after or (key[-1] == "/" and not delimiter and after.startswith(key))]
        if not prefix:
            names = [name for name in names if name[0] != "."]
        for name in _in_order(names, is_page):
            key = prefix + name
            if name[-1] != "/":
                yield Entry(key, stat=self.stat)
            elif not delimiter:
                yield from self._list(key, after, is_page, delimiter)
            elif self._is_folder(key):
                yield Entry(key)

    def probe(self) -> None:
        """A volume with less than PROBE_BYTES left counts as full: the next push would not fit."""
        try:
            found = os.statvfs(self.incoming)
            if found.f_bavail * found.f_frsize < PROBE_BYTES:
                raise OSError(errno.ENOSPC, "hardly any space is left")
            with named_file(self.incoming, b"probe", 0o640):
                sync(self.incoming)
        except OSError as problem:
            raise explain(problem) from problem

    def close(self) -> None:
        """Give back what is held for as long as the process works here."""
        self._revisions.close()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def _create(self, key: Key, source: Source, soon: bool = False) -> str:
        """`soon`: within a group, the bytes are synced at its end too."""
        path = f"{self.root}/{key}"
        try:
            version = None if isinstance(source, bytes) else self._link_upload(source, path)
            if version is not None:
                return version
            if self._folders.is_durable(path):
                raise AlreadyExists()
            mode = self._mode(key)
            later = self._folders.later if soon else None
            file = nameless_file(self.incoming, source, mode, later) if self._nameless else named_file(self.incoming, source, mode)
            with file as (name, version):
                self._folders.place(path, lambda: link(name, path))
            return version
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                self._folders.found(path)
            raise AlreadyExists() from None
        except OSError as problem:
            raise explain(problem) from problem

    def _link_upload(self, source: Source, path: str) -> str | None:
        """Place a finished upload that is on this volume already, as it is. None when it is on another device, or another mount of this one."""
        if isinstance(source, bytes) or os.fstat(source.fileno()).st_dev != self._device:
            return None
        version = stamp(source.fileno())
        os.fdatasync(source.fileno())
        try:
            self._folders.place(path, lambda: link(os.fspath(source.name), path))
        except OSError as problem:
            if problem.errno != errno.EXDEV:
                raise
            return None
        return version

    def _expect(self, path: str, version: str) -> None:
        """Raises Changed, OSError."""
        try:
            if version_of(os.stat(path)) == version:
                return
        except (FileNotFoundError, NotADirectoryError):
            pass
        raise Changed()

    def _is_folder(self, key: str) -> bool:
        try:
            return holds_a_file(f"{self.root}/{key}")
        except OSError as problem:
            raise explain(problem) from problem

    def _mode(self, key: str) -> int:
        return 0o600 if self._folders.is_private(key) else 0o640


def _in_order(names: list[str], is_page: bool) -> Iterator[str]:
    """Of a page hardly all are wanted, so they are sorted only as far as somebody asks."""
    if not is_page:
        names.sort()
        yield from names
        return
    heapq.heapify(names)
    while names:
        yield heapq.heappop(names)
