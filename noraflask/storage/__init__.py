"""Storage: named objects behind a few atomic verbs.

A reader sees the whole old object or the whole new one, never a part. When a writing verb returns, its effect survives a power cut.
Backends: `disk` (the default; disk_files.py has its files, disk_folders.py its folders, disk_cells.py its locks) and `memory` (the smallest reading
of the contract, for tests). `tests/contract/` is the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import BinaryIO, Literal, Protocol

from noraflask.keys import Key
from noraflask.recording import Look


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    size: int
    """Bytes."""
    modified: float
    """Seconds since the epoch, when the object was written here. A copy or a restore changes it: dates that count are in documents."""
    version: str
    """Opaque. Equal only while the object is the same: another object under this key never has it again, whatever its bytes are."""


class Entry:
    """One line of a listing: an object with its info, or, with a delimiter, a folder: its key ends in a slash and its info is None."""

    __slots__ = ("_info", "_stat", "key")

    def __init__(self, key: str, info: ObjectInfo | None = None, stat: Callable[[Key], ObjectInfo | None] | None = None) -> None:
        """`stat`: asks for the info when somebody wants it, on backends where a listing does not bring it along."""
        self.key = key
        self._info = info
        self._stat = stat

    @property
    def info(self) -> ObjectInfo | None:
        """None: a folder, or an object that was deleted since it was listed."""
        if self._stat is not None:
            self._info, self._stat = self._stat(Key.trusted(self.key)), None
        return self._info


class Reader(Protocol):
    """What `open` gives: a binary stream that may also have a real `fileno()`, positioned at the first byte asked for."""

    size: int
    """Bytes of the whole object, whatever range was asked for."""

    @property
    def version(self) -> str:
        """Of the object whose bytes these are, as in ObjectInfo."""

    def read(self, size: int = -1, /) -> bytes: ...
    def close(self) -> None: ...


Source = bytes | BinaryIO
"""What is stored: bytes, or a local file that holds nothing else and is not written to any more (a finished upload)."""


class Storage(Protocol):
    """Every verb may raise StorageFull, StorageReadOnly or Unavailable. What was to be written is not acknowledged then, and never seen in part.

    A key that names an object is no prefix of another one: formats keep names and what is below them apart.
    """

    backend: str
    """The name operators know: `local`, `memory`."""
    abilities: Abilities

    def open(self, key: Key, start: int = 0, stop: int | None = None) -> Reader:
        """The object's bytes from `start` up to, without, `stop`. Raises NotFound."""

    def whole(self, key: Key) -> bytes:
        """All bytes of an object that is known to be small. Raises NotFound."""

    def stat(self, key: Key) -> ObjectInfo | None:
        """Size, time and version without reading; None when there is no such object."""

    def stat_many(self, keys: Iterable[Key]) -> Sequence[ObjectInfo | None]:
        """As `stat`, in the order of the keys. Where each answer takes a journey, the journeys are made side by side."""

    def create(self, key: Key, source: Source) -> str:
        """Store under a new key; returns the version. Raises AlreadyExists, by then the object that is there is durable as well."""

    def replace(self, key: Key, source: Source) -> str:
        """Store under a key, new or not; returns the version."""

    def swap(self, key: Key, data: bytes, expected: str | None) -> str:
        """Replace what still has the version `expected`; returns the new version. `expected` None: there must be no object, as for `create`.

        Raises Changed, with nothing done, when the object has another version, is gone, or is there although None was expected. Among all writers
        in all processes, whatever verb they use, exactly one succeeds against one version.
        """

    def delete(self, key: Key, expected: str | None = None) -> None:
        """Remove; quiet when there is nothing. `expected`: only what still has this version, else Changed."""

    def list(self, prefix: str, after: str = "", limit: int | None = None, delimiter: Literal["", "/"] = "") -> Iterator[Entry]:
        """Objects whose keys begin with `prefix` ("" or ending in a slash) and sort behind `after`, in the order of their UTF-8 bytes, lazily.

        With a delimiter, what lies deeper is shown once, as its folder: `list("a/", delimiter="/")` gives `a/b` and `a/c/`. A folder is there as
        long as there is an object below it. Its key counts for `after`, so a page goes on after the last key of the page before. `limit`: at most
        so many entries. One page costs what its folder holds at worst (disk), never what lies beside it.
        """


class Leases(Protocol):
    """Who relies on an object's being there says so, so that nobody who deletes what is not needed takes it from under the hands.

    A holder: `with hold(key):` look whether it is there, or store it; write what points to it; leave. A deleter: begins a mark, gathers what is
    pointed to, then asks `reap` for each object that is not. What is held, or was held since the mark began or within GRACE_SECONDS before, stays.
    Those seconds cover a client that was told that something is there (`touch`) and links to it in a later request, and a holder that was killed
    after it wrote a pointer which the deleter's search had passed already. `hold` blocks no other holder, and waits for a deleter only.

    A backend without locks, such as S3, can keep this too: a holder writes an object `<shard>/<random>` with the time at which it ends, renews it,
    and then waits while the shard holds a deleter's notice; a deleter writes its notice with a time limit, then lists the shard, and takes nothing
    that a lease in it names. Each writes first and looks afterwards, so one of them always sees the other. Leases stay there for the grace.
    """

    def hold(self, *keys: str) -> AbstractContextManager[None]:
        """Until the block ends, or the process does, however it dies."""

    def touch(self, *keys: str) -> None:
        """Hold for an instant. To be called before one looks whether the object is there."""

    def mark(self) -> float:
        """Begin to look for what is not needed."""

    def reap(self, key: Key, mark: float, still_needed: Callable[[], bool]) -> bool:
        """Delete an object unless somebody has held it since the mark; `still_needed` is asked last, when nobody can begin to. True: it is gone."""


GRACE_SECONDS = 3600.0


class Revisions(Protocol):
    """A value for each name that tells whether what was worked out from the name's documents still holds. It validates memory, so it is not durable.

    A writer: `with changing(name):` write or delete; leave. A reader: take the revision, then read, and keep the outcome with it; later, the outcome
    holds while the revision is equal.

    Why that is right. A writer announces itself and then gives the name a revision that it never had, both before its first change, and withdraws
    after its last one. A reader takes the revision first and looks for announced writers second; if there is one, the answer is None and nothing is
    kept. So a revision that was handed out belongs to a state in which every writer that had come until then was done; the next one changes the
    revision before it changes anything else. A writer that is killed is withdrawn by the kernel, after its last change; a slow one stays announced.

    S3: a document for each name, changed by `swap`: the writers, each with a deadline that it renews and stops writing at, and the revision.
    """

    def changing(self, name: str) -> AbstractContextManager[None]:
        """Around all that changes documents of a name."""

    def revision(self, name: str) -> object | None:
        """Equal only as long as nobody changed the name's documents. None: somebody is changing them now."""


def nothing(*_: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a backend can do besides its verbs. What a backend leaves out costs time, not correctness."""

    leases: Leases
    revisions: Revisions
    create_soon: Callable[[Key, bytes], object]
    """As `create`, but within `together()` it is durable only when the block ends, bytes and all. A power cut before that may leave the object empty
    or in part, so it is for documents whose readers see that and take them for absent."""
    together: Callable[[], AbstractContextManager[None]] = nullcontext
    """What this thread creates inside appears at once, in order, and is durable when the block ends without an error, for the price of one."""
    prepare: Callable[[Iterable[str]], object] = nothing
    """Make room for keys to come, below these folders (no last slash), where the first key costs more than the next. Never raises."""
    probe: Callable[[], object] = nothing
    """Write, make durable and remove something small. Raises StorageFull, StorageReadOnly or Unavailable."""
    watch: Callable[[Key], Look] | None = None
    """A function that tells, quickly and without ever raising, a version of the object: equal as long as the object is the same, or is still absent.
    It is asked for each request that is answered as one before was (recording.py); None: no request is."""
    incoming: str | None = None
    """A local folder from which a finished upload becomes an object without a copy."""
