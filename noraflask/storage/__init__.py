"""Storage: named objects behind six atomic verbs.

A reader sees the whole old object or the whole new one, never a part. When a writing verb returns, its effect survives a power cut.
Backends: `disk` (the default) and `memory` (the smallest reading of the contract, for tests). `tests/contract/test_storage.py` is the contract.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from noraflask.keys import Key


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    size: int
    """Bytes."""
    modified: float
    """Seconds since the epoch, when the object was written."""


class Reader(Protocol):
    """What `open` gives: a binary stream that may also have a real `fileno()`, positioned at the first byte asked for."""

    size: int
    """Bytes of the whole object, whatever range was asked for."""

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

    def open(self, key: Key, start: int = 0, stop: int | None = None) -> Reader:
        """The object's bytes from `start` up to, without, `stop`. Raises NotFound."""

    def stat(self, key: Key) -> ObjectInfo | None:
        """Size and time without reading; None when there is no such object."""

    def create(self, key: Key, source: Source) -> None:
        """Store under a new key. Raises AlreadyExists, by then the object that is there is durable as well."""

    def replace(self, key: Key, source: Source) -> None:
        """Store under a key, new or not."""

    def delete(self, key: Key) -> None:
        """Remove; quiet when there is nothing."""

    def list(self, prefix: str, after: str = "") -> Iterator[str]:
        """Keys that begin with `prefix` ("" or ending in a slash) and sort behind `after`, in the order of their UTF-8 bytes, lazily."""


class ReadsWhole(Protocol):
    """An extra ability, for the hot path: a small object in one go, for fewer calls than open, read and close cost."""

    def whole(self, key: Key) -> bytes:
        """All bytes. Raises NotFound. Only for objects known to be small."""


class Prepares(Protocol):
    """An extra ability: make room for keys to come, where the first key below a prefix costs more than the next."""

    def prepare(self, folders: Iterable[str]) -> None:
        """`folders`: prefixes without their last slash. Never raises; it only saves time later."""


class Groups(Protocol):
    """An extra ability: several new objects made durable for the price of one."""

    def together(self) -> AbstractContextManager[None]:
        """What this thread creates inside appears at once, in order, and is durable when the block ends without an error."""


class Stamps(Protocol):
    """An extra ability: has a folder changed since?"""

    def stamp(self, *folders: str) -> object | None:
        """Equal as long as no key directly below the folders was created, replaced or deleted. None when that is too fresh to tell."""


class Probes(Protocol):
    """An extra ability: can this backend be written to, right now?"""

    def probe(self) -> None:
        """Write, make durable and remove something small. Raises StorageFull, StorageReadOnly or Unavailable."""
