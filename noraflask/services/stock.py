"""Stock: what a format has in storage, told to those who know no format: garbage collection, retention, verify, backup, inventory, explain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from noraflask.digest import Digest
from noraflask.services.content import Content
from noraflask.services.curation.explaining import Stored
from noraflask.services.curation.model import Decision, Package

Judge = Callable[[Package], Decision]


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One version of a name: what a client can ask for by it."""

    version: str
    created: float | None
    """Seconds since the epoch; None: nobody knows."""
    size: int
    """Bytes of the artifacts that are this version's own."""
    digests: tuple[Digest, ...] = ()
    """Of those artifacts."""


class Stock(Protocol):
    """`repository` is the repository's name, in front of all its keys. All but look() read keys and small documents, a page at a time."""

    def names(self, content: Content, repository: str, after: str = "", limit: int | None = None) -> Iterator[str]:
        """Names that hold something, in the order of their bytes, those after `after`, `limit` of them at most."""

    def versions(self, content: Content, repository: str, name: str) -> Iterator[StoredVersion]:
        """In no particular order."""

    def references(self, content: Content, repository: str) -> Iterator[Digest]:
        """Every content digest that a document of the repository needs, also more than once. What none names, and no lease, may be deleted."""

    def look(self, content: Content, asked: Package, judge: Judge) -> Stored | None:
        """What is known of a package, for an explanation, and the gate's whole answer. None: there is no such name."""
