"""What the processes that share a disk storage agree by: cells of a few bytes, each of which can be locked, in files below `.shared/`.

A key's hash chooses its cell; two keys may share one, which costs a wait or a vain look, never correctness. Locks are those of open file descriptions
(fcntl(2), F_OFD_SETLKW): threads exclude each other like processes do, and the kernel drops them when their process dies, after its last call.
Nothing here outlives a power cut; nothing needs to, as no process does.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator

from noraflask.keys import Key
from noraflask.storage import GRACE_SECONDS
from noraflask.storage.disk_files import explain

_FLOCK = struct.Struct("@hhqqi0q")
_SECONDS = struct.Struct("<I")


class Cells:
    def __init__(self, path: str, count: int, width: int, fill: bool = False) -> None:
        """`count`: a power of two. `fill`: take the room on the disk now, so that a full one hinders no writer later."""
        self._path, self._count, self._width, self._fill = path, count, width, fill
        self._reading: int | None = None
        self._lock = threading.Lock()
        with contextlib.suppress(OSError):  # a read-only disk; who needs the file then is told
            os.close(self.open())

    def open(self) -> int:
        """A descriptor whose locks are its own. Raises OSError."""
        try:
            return os.open(self._path, os.O_RDWR)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
            size = self._count * self._width
            try:
                os.posix_fallocate(descriptor, 0, size) if self._fill else os.truncate(descriptor, size)  # neither changes what is there
            except OSError:
                os.truncate(descriptor, size)
            return descriptor

    def reading(self) -> int:
        """A descriptor that this process keeps, never to be locked. Raises OSError."""
        with self._lock:
            if self._reading is None:
                try:
                    self._reading = os.open(self._path, os.O_RDONLY)
                except FileNotFoundError:
                    self._reading = self.open()
            return self._reading

    def close(self) -> None:
        with self._lock:
            if self._reading is not None:
                os.close(self._reading)
                self._reading = None

    def number(self, key: str) -> int:
        return zlib.crc32(key.encode()) & (self._count - 1)

    def lock(self, descriptor: int, number: int, kind: int, wait: bool = True) -> bool:
        """`kind`: fcntl.F_RDLCK or F_WRLCK. False: somebody else has it."""
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, number, 1, 0))
        except OSError as problem:
            if wait or problem.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            return False
        return True

    def is_locked(self, descriptor: int, number: int) -> bool:
        """By another descriptor, in whatever way."""
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0))
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def read(self, descriptor: int, number: int) -> bytes:
        return os.pread(descriptor, self._width, number * self._width)

    def write(self, descriptor: int, number: int, value: bytes) -> None:
        os.pwrite(descriptor, value, number * self._width)


class DiskLocks:
    """One writer at a time for each key: between the look at a version and the rename. Held for microseconds."""

    def __init__(self, folder: str) -> None:
        self._cells = Cells(os.path.join(folder, "writers"), 1 << 30, 0)

    @contextlib.contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """Raises OSError."""
        descriptor = self._cells.open()
        try:
            self._cells.lock(descriptor, self._cells.number(key), fcntl.F_WRLCK)
            yield
        finally:
            os.close(descriptor)


class DiskRevisions:
    """A cell is the revision, random; its shared lock is a writer's announcement."""

    def __init__(self, folder: str) -> None:
        self._cells = Cells(os.path.join(folder, "revisions"), 1 << 14, 8, fill=True)
        self._here = object()  # so that revisions of two storages are never equal
        self.close = self._cells.close

    @contextlib.contextmanager
    def changing(self, name: str) -> Iterator[None]:
        cells, number, descriptor = self._cells, self._cells.number(name), -1
        try:
            descriptor = cells.open()
            cells.lock(descriptor, number, fcntl.F_RDLCK)
            cells.write(descriptor, number, os.urandom(8))
        except OSError as problem:
            if descriptor >= 0:
                os.close(descriptor)
            raise explain(problem) from problem
        try:
            yield
        finally:
            os.close(descriptor)

    def revision(self, name: str) -> object | None:
        cells, number = self._cells, self._cells.number(name)
        try:
            descriptor = cells.reading()
            revision = cells.read(descriptor, number)
            return None if cells.is_locked(descriptor, number) else (self._here, revision)  # in this order
        except OSError:
            return None


class DiskLeases:
    """A cell is the second at which somebody held it last; holders share its lock, a deleter has it alone."""

    def __init__(self, folder: str, delete: Callable[[Key], None], clock: Callable[[], float] = time.time) -> None:
        self._cells = Cells(os.path.join(folder, "leases"), 1 << 20, _SECONDS.size)
        self._delete = delete
        self._clock = clock

    @contextlib.contextmanager
    def hold(self, *keys: str) -> Iterator[None]:
        numbers = [self._cells.number(key) for key in keys]
        try:
            descriptor = self._held(numbers)
        except OSError as problem:
            raise explain(problem) from problem
        began = self._clock()
        try:
            yield
        finally:
            if self._clock() - began > GRACE_SECONDS / 4:
                with contextlib.suppress(OSError):
                    self._note(descriptor, numbers)
            os.close(descriptor)

    def touch(self, *keys: str) -> None:
        with contextlib.suppress(OSError):  # a full or read-only disk: whoever links later holds, and looks again
            os.close(self._held([self._cells.number(key) for key in keys]))

    def mark(self) -> float:
        return self._clock()

    def reap(self, key: Key, mark: float, still_needed: Callable[[], bool]) -> bool:
        number, descriptor = self._cells.number(key), -1
        try:
            descriptor = self._cells.open()
            if not self._cells.lock(descriptor, number, fcntl.F_WRLCK, wait=False):
                return False
            (held,) = _SECONDS.unpack(self._cells.read(descriptor, number).ljust(_SECONDS.size, b"\0"))
            if held >= mark - GRACE_SECONDS or still_needed():
                return False
            self._delete(key)
            return True
        except OSError as problem:
            raise explain(problem) from problem
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _held(self, numbers: list[int]) -> int:
        """A descriptor that holds the cells until it is closed. Raises OSError."""
        descriptor = self._cells.open()
        try:
            for number in numbers:
                self._cells.lock(descriptor, number, fcntl.F_RDLCK)
            self._note(descriptor, numbers)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _note(self, descriptor: int, numbers: Iterable[int]) -> None:
        value = _SECONDS.pack(int(self._clock()) & 0xFFFFFFFF)
        for number in numbers:
            self._cells.write(descriptor, number, value)
