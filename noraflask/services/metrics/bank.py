"""The numbers: cells in files that all processes of a server share, so that any worker can answer for all of them.

The files have the form of prometheus_client's multiprocess mode (its mmap_dict.py): a 4-byte length and 4 bytes of nothing, then for each series
its key (length, JSON, 1 to 8 blanks up to a multiple of 8) and two doubles, value and time stamp. Its MultiProcessCollector adds them up.

Two things differ from its own writer. A worker's file is named by its place among the workers, not by its process id: the worker that takes the
place of a dead one goes on in the same file, so nothing is lost, nothing is merged, and there are never more files than places. And who counts
several things at once takes the lock once and adds to cells, a fifth of the price.
"""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
import os
import shutil
import struct
import tempfile
import threading
import weakref
from bisect import bisect_left
from pathlib import Path

from prometheus_client.utils import floatToGoString

from noraflask.services.metrics.catalogue import COUNTER, GAUGE, HISTOGRAM, Family

CAPACITY_BYTES = 4 * 1024 * 1024
"""Of each file; sparse, so only what is reserved takes memory, and that is"""
STEP_BYTES = 32 * 1024
"""at a time."""
MASTER = "master"
PREFIX = "nora-metrics-"
_LENGTH = struct.Struct("=i")
_START = 8
_KINDS = (COUNTER, HISTOGRAM, GAUGE)

log = logging.getLogger(__name__)


class Series:
    """One number: where it lies in this process's file."""

    __slots__ = ("cell", "key", "kind")

    def __init__(self, kind: str, key: str, cell: int) -> None:
        self.kind, self.key, self.cell = kind, key, cell


class Buckets:
    """A histogram: its sum, and a count for each bucket. bank.lock is held by whoever calls observe()."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...], sum: Series, counts: tuple[Series, ...]) -> None:
        self._bounds, self._sum, self._counts = bounds, sum, counts

    def observe(self, cells: memoryview[float], amount: float) -> None:
        cells[self._sum.cell] += amount
        cells[self._counts[bisect_left(self._bounds, amount)].cell] += 1.0


class Bank:
    """Made in the master; `move()` gives a forked worker files of its own."""

    counters: memoryview[float]
    histograms: memoryview[float]
    gauges: memoryview[float]

    def __init__(self, parent: Path) -> None:
        """Makes a folder below `parent`, best on a tmpfs; it goes with this process. Raises OSError when it cannot be made."""
        sweep(parent)
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        self._owner = os.getpid()
        self._lock_file = _lock(self.folder)
        weakref.finalize(self, _remove, self.folder, self._lock_file, self._owner)
        self._series: list[Series] = []
        self.move(MASTER)

    def move(self, place: str) -> None:
        """From now on this process counts in the files of that place. Gauges start at 0: they were the dead process's."""
        self.lock = threading.Lock()
        with self.lock:
            self._files = {kind: _File(self._path(kind, place), fresh=kind == GAUGE) for kind in _KINDS}
            self.counters, self.histograms, self.gauges = (self._files[kind].cells for kind in _KINDS)
            for series in self._series:
                series.cell = self._files[series.kind].cell_of(series.key)

    def forget(self, place: str) -> None:
        """The process of that place is gone: its counts stay, its gauges do not."""
        self._path(GAUGE, place).unlink(missing_ok=True)

    def series(self, family: Family, name: str, labels: dict[str, str]) -> Series:
        """A new one; callers keep it. Made twice, both share the cell."""
        key = json.dumps([family.name.removesuffix("_total") if family.kind == COUNTER else family.name, name, labels, family.help], sort_keys=True)
        with self.lock:
            made = Series(family.kind, key, self._files[family.kind].cell_of(key))
            self._series.append(made)
        return made

    def buckets(self, family: Family, labels: dict[str, str]) -> Buckets:
        bounds = (*family.buckets, float("inf"))
        counts = tuple(self.series(family, f"{family.name}_bucket", {**labels, "le": floatToGoString(bound)}) for bound in bounds)
        return Buckets(family.buckets, self.series(family, f"{family.name}_sum", labels), counts)

    def _path(self, kind: str, place: str) -> Path:
        return self.folder / f"{kind}_{place}.db"


class _File:
    """Space is reserved before it is written to: a page that a full tmpfs cannot give would end the process by SIGBUS."""

    def __init__(self, path: Path, fresh: bool) -> None:
        self._path: Path | None = path
        self._reserved = 0
        try:
            if fresh:
                path.unlink(missing_ok=True)
            self._memory = self._map(path)
        except OSError as problem:
            log.error("what this process counts is not told, there is no room for it: %s", problem)
            self._path, self._memory = None, mmap.mmap(-1, CAPACITY_BYTES)
        self.cells = memoryview(self._memory).cast("d")
        self._cells: dict[str, int] = {}
        self._used = max(_START, _LENGTH.unpack_from(self._memory)[0])
        self._read()
        self._full = False

    def _map(self, path: Path) -> mmap.mmap:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, max(CAPACITY_BYTES, os.fstat(descriptor).st_size))
            os.posix_fallocate(descriptor, 0, STEP_BYTES)
            os.posix_fallocate(descriptor, CAPACITY_BYTES - mmap.PAGESIZE, mmap.PAGESIZE)  # for what there is no room for
            self._reserved = STEP_BYTES
            return mmap.mmap(descriptor, CAPACITY_BYTES)
        finally:
            os.close(descriptor)

    def _has_room(self, end: int) -> bool:
        if end > CAPACITY_BYTES - mmap.PAGESIZE:
            return False
        while self._path is not None and end > self._reserved:
            try:
                descriptor = os.open(self._path, os.O_RDWR)
                try:
                    os.posix_fallocate(descriptor, self._reserved, STEP_BYTES)
                finally:
                    os.close(descriptor)
            except OSError:
                return False
            self._reserved += STEP_BYTES
        return True

    def _read(self) -> None:
        at = _START
        while at < self._used:
            length = _LENGTH.unpack_from(self._memory, at)[0]
            key = self._memory[at + _LENGTH.size : at + _LENGTH.size + length].decode()
            at += _LENGTH.size + length + _blanks(length)
            self._cells[key] = at // 8
            at += 16

    def cell_of(self, key: str) -> int:
        """The cell of a series, which is made at 0 when it is new. Where there is no room left, one that nobody reads."""
        found = self._cells.get(key)
        if found is not None:
            return found
        text = key.encode()
        record = _LENGTH.pack(len(text)) + text + b" " * _blanks(len(text)) + bytes(16)
        end = self._used + len(record)
        if not self._has_room(end):
            if not self._full:
                log.error("there are more series of metrics than there is room for; new ones are not counted")
            self._full = True
            return CAPACITY_BYTES // 8 - 1
        self._memory[self._used : end] = record
        self._cells[key] = end // 8 - 2
        self._used = end
        self._memory[: _LENGTH.size] = _LENGTH.pack(end)  # last: a reader must not see it before the rest
        return end // 8 - 2


def parent_folder() -> Path:
    """Where prometheus_client's own variable says, else memory that no restart of the machine outlives."""
    named = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Path(named or ("/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()))


def sweep(parent: Path) -> None:
    """Remove what servers left that were killed: nobody holds the lock of their folders."""
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            descriptor = _lock(folder)
        except OSError:  # somebody does, or it is not ours
            continue
        _remove(folder, descriptor, os.getpid())


def _lock(folder: Path) -> int:
    """Held as long as the master or one of its workers lives. Raises OSError."""
    descriptor = os.open(folder / ".lock", os.O_CREAT | os.O_RDONLY, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove(folder: Path, descriptor: int, owner: int) -> None:
    """Only the process that made it; its workers end with copies of everything."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _blanks(length: int) -> int:
    return 8 - (_LENGTH.size + length) % 8
