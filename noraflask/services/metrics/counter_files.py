"""The numbers: one file that says which series there are, and for each place among the workers a file of their values.

    series          names: a head (bytes used, cells used), then records: length of the name, how many cells, the first of them, the name
    cells-<place>   values: doubles; a series has the same cells in the file of every place

A file of values is named by the worker's place, not by its process id: the worker that takes the place of a dead one goes on in the same file, so no
count is lost, nothing is merged, and there are never more files than places. A series is named once for all workers and costs each of them 8 bytes a
cell. So a thousand repositories fit, and a scrape adds up columns of numbers rather than reading the same names in every file.

The folder mostly lies where other users of the machine may write to as well. It is reached through its descriptor, so that it is this one whatever
becomes of its name; and nothing is opened in what only looks like one that an earlier server left.
"""

from __future__ import annotations

import contextlib
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
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from noraflask.services.metrics.catalogue import FAMILIES, GAUGE, HISTOGRAM, OTHER, Family
from noraflask.services.private_folder import inside
from noraflask.services.shared_lock import SharedLock

MOST_CELLS = 1 << 20
"""Of each place: 8 MiB, of which only what is reserved takes memory, and that is"""
STEP_BYTES = 32 * 1024
"""at a time."""
CELL_BYTES = 8
SPARE_CELLS = mmap.PAGESIZE // CELL_BYTES
"""The last of them are written to by series that have no room, and read by nobody."""
MOST_SERIES = 2000
"""Of one family, for labels that are not as bounded as was thought."""
MOST_OF_A_REPOSITORY = 300
"""Of one family with the label `registry`: for each repository, so that the last one has as much room as the first."""
ATTEMPTS = 10
MASTER = "master"
PREFIX = "nora-metrics-"
_HEAD = struct.Struct("=QQ")
_RECORD = struct.Struct("=HHI")

log = logging.getLogger(__name__)


class Named(NamedTuple):
    """A series: its family, its labels' values, and where its cells begin. A histogram has a sum, then a count for each bucket."""

    family: Family
    labels: tuple[str, ...]
    first: int


class TooMany(Exception):
    """The family, or a repository's part of it, has as many series as it may."""


class CounterFiles:
    """Made in the master; `move()` gives a forked worker a file of its own."""

    cells: memoryview[float]

    def __init__(self, parent: Path, families: Iterable[Family] = FAMILIES) -> None:
        """Makes a folder below `parent`, best on a tmpfs; it goes with this process. Raises OSError when it cannot be made."""
        sweep(parent)
        self.folder, descriptor, held = _new_folder(parent)
        self.inside = Path(inside(descriptor)) if os.path.exists(inside(descriptor)) else self.folder
        """A path to the folder by way of its descriptor, for all that opens something in it."""
        self._index = SeriesIndex(self.inside / "series", families)
        weakref.finalize(self, _remove, self.folder, (descriptor, held, self._index.descriptor), os.getpid())
        self._full = False
        self.move(MASTER)

    def move(self, place: str) -> None:
        """From now on this process counts in the file of that place. Gauges start at 0: they were the dead process's."""
        self.lock = threading.Lock()
        """Held by whoever adds to cells."""
        self._file = _CellFile(self._path(place), self._index.cells_used)
        self.cells = self._file.cells
        for cell in self._index.gauges():
            self.cells[cell] = 0.0

    def forget(self, place: str) -> None:
        """The process of that place has ended: its counts stay, its gauges do not."""
        try:
            descriptor = os.open(self._path(place), os.O_RDWR)
        except FileNotFoundError:
            return
        try:
            for cell in self._index.gauges():
                os.pwrite(descriptor, bytes(CELL_BYTES), cell * CELL_BYTES)
        finally:
            os.close(descriptor)

    def first_cell(self, family: Family, labels: tuple[str, ...]) -> int:
        """Of the series, which is made at 0 when it is new. Where there is no room left, cells that nobody reads. Raises TooMany."""
        size = _size(family)
        try:
            first = self._index.first_cell(family, labels, size)
            self._file.reserve(first + size)
        except OSError as problem:
            if not self._full:
                log.error("there is no room for more series of metrics, new ones are not counted: %s", problem.strerror or problem)
            self._full = True
            return MOST_CELLS - SPARE_CELLS
        return first

    def totals(self) -> Iterator[tuple[Named, tuple[float, ...]]]:
        """Every series with its cells, added up over all places. Raises OSError."""
        named = self._index.all()
        used = max((series.first + _size(series.family) for series in named), default=0)
        columns = [_read_cells(path, used) for path in sorted(self.inside.glob("cells-*"))]
        sums = tuple(map(sum, zip(*columns, strict=True)))
        for series in named:
            yield series, sums[series.first : series.first + _size(series.family)]

    def _path(self, place: str) -> Path:
        return self.inside / f"cells-{place}"


class SeriesIndex:
    """Which series there are. All processes of a server read and extend one file; made before they are forked."""

    def __init__(self, path: Path, families: Iterable[Family]) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._lock = SharedLock()
        self._families = {family.name: family for family in families}
        self._known: dict[tuple[str, tuple[str, ...]], Named] = {}
        self._sizes: dict[tuple[str, ...], int] = {}
        self._read_to = _HEAD.size
        self.cells_used = 0
        os.pwrite(self.descriptor, _HEAD.pack(_HEAD.size, 0), 0)

    def first_cell(self, family: Family, labels: tuple[str, ...], size: int) -> int:
        """Raises TooMany, or OSError when the file cannot grow."""
        with self._lock:
            self._catch_up()
            known = self._known.get((family.name, labels))
            if known is not None:
                return known.first
            self._check_bounds(family, labels, size)
            name = json.dumps([family.name, *labels]).encode()
            record = _RECORD.pack(len(name), size, self.cells_used) + name
            if os.pwrite(self.descriptor, record, self._read_to) < len(record):
                raise OSError(0, "the folder is full")
            head = _HEAD.pack(self._read_to + len(record), self.cells_used + size)  # last: a process that is killed before leaves no half record
            os.pwrite(self.descriptor, head, 0)
            self._catch_up()
            return self._known[family.name, labels].first

    def all(self) -> list[Named]:
        with self._lock:
            self._catch_up()
            return list(self._known.values())

    def gauges(self) -> list[int]:
        return [series.first for series in self.all() if series.family.kind == GAUGE]

    def _check_bounds(self, family: Family, labels: tuple[str, ...], size: int) -> None:
        group = _group(family, labels)
        for_the_rest = set(labels[family.by_repository :]) <= {OTHER}
        if not for_the_rest and self._sizes.get(group, 0) >= (MOST_OF_A_REPOSITORY if len(group) > 1 else MOST_SERIES):
            raise TooMany
        if self.cells_used + size > MOST_CELLS - SPARE_CELLS:
            raise OSError(0, f"{MOST_CELLS} cells are in use")

    def _catch_up(self) -> None:
        """Read what other processes have added."""
        used, cells = _HEAD.unpack(os.pread(self.descriptor, _HEAD.size, 0))
        if used == self._read_to:
            return
        data, at = os.pread(self.descriptor, used - self._read_to, self._read_to), 0
        while at < len(data):
            length, _, first = _RECORD.unpack_from(data, at)
            at += _RECORD.size
            name, *labels = json.loads(data[at : at + length])
            at += length
            family, values = self._families[name], tuple(labels)
            self._known[name, values] = Named(family, values, first)
            group = _group(family, values)
            self._sizes[group] = self._sizes.get(group, 0) + 1
        self._read_to, self.cells_used = used, cells


class _CellFile:
    """Space is reserved before it is written to: a page that a full tmpfs cannot give would end the process by SIGBUS."""

    def __init__(self, path: Path, cells_used: int) -> None:
        self._path: Path | None = path
        self._reserved = 0
        try:
            memory = self._map(path, cells_used * CELL_BYTES)
        except OSError as problem:
            log.error("what this process counts does not appear in /metrics, there is no room for it: %s", problem)
            self._path, memory = None, mmap.mmap(-1, MOST_CELLS * CELL_BYTES)
        self.cells = memoryview(memory).cast("d")

    def _map(self, path: Path, used_bytes: int) -> mmap.mmap:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            size = MOST_CELLS * CELL_BYTES
            if os.fstat(descriptor).st_size < size:
                os.ftruncate(descriptor, size)
            self._reserved = _whole_steps(max(used_bytes, STEP_BYTES))
            os.posix_fallocate(descriptor, 0, self._reserved)
            spare = SPARE_CELLS * CELL_BYTES
            os.posix_fallocate(descriptor, size - spare, spare)
            return mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)

    def reserve(self, cells: int) -> None:
        """Raises OSError."""
        end = cells * CELL_BYTES
        if self._path is None or end <= self._reserved:
            return
        descriptor = os.open(self._path, os.O_RDWR)
        try:
            os.posix_fallocate(descriptor, self._reserved, _whole_steps(end) - self._reserved)
        finally:
            os.close(descriptor)
        self._reserved = _whole_steps(end)


class Buckets:
    """A histogram's cells in this process. The lock of the files is held by whoever calls observe()."""

    __slots__ = ("_bounds", "_first")

    def __init__(self, bounds: tuple[float, ...], first: int) -> None:
        self._bounds, self._first = bounds, first

    def observe(self, cells: memoryview[float], amount: float) -> None:
        first = self._first
        cells[first] += amount
        cells[first + 1 + bisect_left(self._bounds, amount)] += 1.0


def parent_folder() -> Path:
    """Where prometheus_client's own variable says, else memory that no restart of the machine outlives.

    The folder that the variable names is made when it is missing, for this user alone. Raises OSError.
    """
    named = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not named:
        return Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir())
    with contextlib.suppress(FileExistsError):
        os.mkdir(named, 0o700)
    return Path(named)


def sweep(parent: Path) -> None:
    """Remove what servers of this user left that were killed: nobody holds the lock of their folders."""
    try:
        with os.scandir(parent) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(PREFIX)]
    except OSError:
        return
    for name in names:
        descriptors: list[int] = []
        try:
            descriptors.append(_open_own(parent / name))
            descriptors.append(_lock(descriptors[0]))
        except OSError:  # somebody holds it, or it is not ours
            for descriptor in descriptors:
                os.close(descriptor)
            continue
        _remove(parent / name, tuple(descriptors), os.getpid())


def _size(family: Family) -> int:
    return len(family.buckets) + 2 if family.kind == HISTOGRAM else 1


def _group(family: Family, labels: tuple[str, ...]) -> tuple[str, ...]:
    """Series that are bounded together."""
    return (family.name, labels[0]) if family.by_repository else (family.name,)


def _whole_steps(size: int) -> int:
    return -(-size // STEP_BYTES) * STEP_BYTES


def _read_cells(path: Path, cells: int) -> array[float]:
    """By read(2), which gives zeros for what was never reserved; to look there through a mapping would take memory."""
    found = array("d")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        found.frombytes(os.pread(descriptor, cells * CELL_BYTES, 0).ljust(cells * CELL_BYTES, b"\0"))
    finally:
        os.close(descriptor)
    return found


def _open_own(folder: Path) -> int:
    """A descriptor of a folder that this user alone can have filled. Raises OSError for a link, a pipe, and what is somebody else's to write to."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        os.close(descriptor)
        raise PermissionError(f"{folder} belongs to somebody else")
    return descriptor


def _new_folder(parent: Path) -> tuple[Path, int, int]:
    """A folder, its descriptor, and that of its lock. Another server that starts at this moment may sweep it away before it is locked."""
    for attempt in range(ATTEMPTS):
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        descriptors: list[int] = []
        try:
            descriptors.append(_open_own(folder))
            descriptors.append(_lock(descriptors[0]))
            os.stat(folder)
            return folder, descriptors[0], descriptors[1]
        except (FileNotFoundError, BlockingIOError):
            for descriptor in descriptors:
                os.close(descriptor)
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError


def _lock(folder: int) -> int:
    """Held as long as the master or one of its workers lives. Raises OSError."""
    descriptor = os.open(".lock", os.O_CREAT | os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove(folder: Path, descriptors: tuple[int, ...], owner: int) -> None:
    """Only the process that made it; its workers end with copies of everything. The first descriptor is the folder's."""
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            if os.path.samestat(os.lstat(folder), os.fstat(descriptors[0])):
                shutil.rmtree(folder, ignore_errors=True)
        for descriptor in descriptors:
            os.close(descriptor)
