"""Graphs of images, read from storage: what the manifests of a name are made of, and which tags lead to them.

A graph is read once for each state of its name, in each process, by one thread; requests and explanations share it. It is read from what was kept of
each manifest when it was pushed (protocol/kept.py), so that no manifest is parsed again.

What one hostile pusher can make of it: tens of thousands of manifests, of blobs in each of them, of tags. So all is bounded by bytes: where one name
would take more than GRAPHS_BYTES, the gate says no to what is in that name, and to nothing else. The graphs of other names may be driven out of
memory, and are then read again; their locks are their own, and of names that take long one is read at a time.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple
from weakref import WeakKeyDictionary

from noraflask import json_document
from noraflask.digest import Digest
from noraflask.errors import ManifestInvalid, NotFound, Unavailable
from noraflask.formats.docker import twins
from noraflask.formats.docker.protocol import kept, keys, manifests
from noraflask.formats.docker.protocol.kept import WIDTHS, Parts, digests_in
from noraflask.keys import Key
from noraflask.pointer import Pointer
from noraflask.services.bounded_memory import BoundedMemory
from noraflask.services.content import Content
from noraflask.services.name_locks import NameLocks

GRAPHS_BYTES = 24 * 1024 * 1024
"""Of one process, all graphs together, and the most that one may have."""
WAIT_SECONDS = 10
"""How long a thread waits for another that reads the same graph."""
SHORT_READS = 1000
"""Documents that a graph is read from without waiting for those that are longer."""
LONG_SECONDS = 2
"""How long a long one waits for another long one."""
NODE_BYTES = 300
"""A digest or a tag as text, its place in a dict and in a list."""
EDGE_BYTES = 12
GONE = "/_gone/"
"""In the path of what deletions.py remembers."""
MANIFEST_BYTES = 600
"""A digest as text, its version, its time and its place among those that hold the same blobs."""


class Holders(Mapping[str, Sequence[str]]):
    """Manifests, by the digest of a blob.

    The bytes of all digests lie in a row, manifest by manifest, and a question searches it. It takes a fifth of a dict's memory, and a name is read
    without a step for each blob. Manifests that are made of the same blobs share them.
    """

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}

    def add(self, manifest: str, blobs: Mapping[str, bytes]) -> int:
        """Bytes that it took."""
        return sum(self._rows.setdefault(algorithm, _Row(WIDTHS[algorithm])).add(manifest, row) for algorithm, row in blobs.items() if row)

    def copy(self) -> Holders:
        copied = Holders()
        copied._rows = {algorithm: row.copy() for algorithm, row in self._rows.items()}
        return copied

    def only_of(self, manifests: Collection[str]) -> Iterator[str]:
        """Blobs that none but these manifests hold, in one pass over all."""
        return (f"{algorithm}:{digest.hex()}" for algorithm, row in self._rows.items() for digest in row.only_of(manifests))

    def __getitem__(self, digest: str) -> list[str]:
        algorithm, _, digits = digest.partition(":")
        row = self._rows.get(algorithm)
        found = row.find(bytes.fromhex(digits)) if row else []
        if not found:
            raise KeyError(digest)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter({digest: None for algorithm, row in self._rows.items() for digest in digests_in({algorithm: bytes(row.digests)})})

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Row:
    """Digests of one algorithm."""

    def __init__(self, width: int) -> None:
        self.digests = bytearray()
        self._width = width
        self._ends: array[int] = array("Q")
        self._owners: list[list[str]] = []
        self._places: dict[bytes, int] = {}

    def copy(self) -> _Row:
        copied = _Row(self._width)
        copied.digests, copied._ends, copied._places = self.digests[:], self._ends[:], dict(self._places)
        copied._owners = [list(owners) for owners in self._owners]
        return copied

    def add(self, manifest: str, digests: bytes) -> int:
        mark = blake2b(digests, digest_size=16).digest()
        place = self._places.get(mark)
        if place is not None:
            self._owners[place].append(manifest)
            return 0
        self._places[mark] = len(self._owners)
        self.digests += digests
        self._ends.append(len(self.digests))
        self._owners.append([manifest])
        return len(digests)

    def only_of(self, manifests: Collection[str]) -> set[bytes]:
        own, others, start = list[range](), list[range](), 0
        for end, owners in zip(self._ends, self._owners, strict=True):
            (own if all(owner in manifests for owner in owners) else others).append(range(start, end, self._width))
            start = end
        found = {digest for places in own for digest in self._at(places)}
        for places in others:
            found.difference_update(self._at(places))
        return found

    def _at(self, places: Iterable[int]) -> Iterator[bytes]:
        return (bytes(self.digests[place : place + self._width]) for place in places)

    def find(self, digest: bytes) -> list[str]:
        found: list[str] = []
        position = self.digests.find(digest)
        while position >= 0:
            if position % self._width:
                position += 1  # the end of one digest and the beginning of another
            else:
                place = bisect_right(self._ends, position)
                found += self._owners[place]
                position = self._ends[place]
            position = self.digests.find(digest, position)
        return found


@dataclass(frozen=True, slots=True)
class Graph:
    """All manifests of a name: their tags, what they are made of, and who is made of them. Twins are one, called by their sha256 (twins.py)."""

    tags: dict[str, list[str]] = field(default_factory=dict)
    """By digest."""
    parents: dict[str, list[str]] = field(default_factory=dict)
    """Indexes, by the digest of a child."""
    holders: Holders = field(default_factory=Holders)
    """Manifests, by the digest of a blob."""
    digests: frozenset[str] = frozenset()
    aliases: dict[str, str] = field(default_factory=dict)
    """Of manifests and blobs that were pushed by another algorithm: their sha256."""
    gone: dict[str, list[str]] = field(default_factory=dict)
    """Manifests that were deleted while a rule blocked them, and manifests of which such a tag was: with these tags (deletions.py)."""
    created: dict[str, float] = field(default_factory=dict)
    """When each manifest was pushed first, seconds since the epoch."""
    is_too_large: bool = False
    """The name holds more than is kept of one; nothing of it is known then."""

    def same(self, digest: str) -> str:
        """What the digest's bytes are called here."""
        return self.aliases.get(digest, digest)


TOO_LARGE = Graph(is_too_large=True)


@dataclass(slots=True)
class Reading:
    """A graph while it is made, and afterwards what the next one of that name is made from: of most manifests and tags nothing has changed."""

    tags: dict[str, tuple[int, str]] = field(default_factory=dict)
    """The version of each tag's pointer, hashed, and the digest that it leads to."""
    versions: dict[str, int] = field(default_factory=dict)
    """Likewise, of the pointer of each manifest, by its path below the name."""
    parents: dict[str, list[str]] = field(default_factory=dict)
    holders: Holders = field(default_factory=Holders)
    digests: set[str] = field(default_factory=set)
    aliases: dict[str, str] = field(default_factory=dict)
    gone: dict[str, list[str]] = field(default_factory=dict)
    created: dict[str, float] = field(default_factory=dict)
    bytes: int = 0
    """An estimate, of what is of manifests."""

    def copy(self) -> Reading:
        """Of the manifests, to which others can be added."""
        parents = {child: list(indexes) for child, indexes in self.parents.items()}
        rest = set(self.digests), dict(self.aliases), dict(self.gone), dict(self.created)
        return Reading({}, dict(self.versions), parents, self.holders.copy(), *rest, self.bytes)

    def add(self, digest: str, created: float, parts: Parts, aliases: dict[str, str]) -> None:
        """What a manifest is made of. `aliases`: of itself and of its blobs, those that have another algorithm."""
        self.aliases |= aliases
        digest = aliases.get(digest, digest)
        self.created[digest] = min(created, self.created.get(digest, created))
        for child in digests_in(parts.children):
            indexes = self.parents.setdefault(child, [])
            self.bytes += EDGE_BYTES if indexes else NODE_BYTES
            indexes.append(digest)
        self.bytes += self.holders.add(digest, kept.renamed(parts.blobs, aliases))

    @property
    def all_bytes(self) -> int:
        return self.bytes + NODE_BYTES * len(self.tags)

    def graph(self) -> Graph:
        same, tags, parents = self.aliases.get, dict[str, list[str]](), self.parents
        for tag, (_, digest) in self.tags.items():
            tags.setdefault(same(digest, digest), []).append(tag)
        if self.aliases:
            parents = {}
            for child, indexes in self.parents.items():
                parents.setdefault(same(child, child), []).extend(indexes)
        digests = frozenset(same(digest, digest) for digest in self.digests)
        gone: dict[str, list[str]] = {}
        for digest, deleted in self.gone.items():
            gone.setdefault(same(digest, digest), []).extend(deleted)
        return Graph(tags, parents, self.holders, digests, self.aliases, gone, self.created)


class Known(NamedTuple):
    revision: object
    graph: Graph
    reading: Reading


class Graphs:
    """Of one storage, in one process."""

    def __init__(self, limit_bytes: int = GRAPHS_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._known: BoundedMemory[tuple[str, str], Known] = BoundedMemory(limit_bytes)
        self._locks = NameLocks(WAIT_SECONDS)
        self._long = threading.Lock()
        """Of whoever reads a graph that takes long."""

    def of(self, content: Content, repository: str, name: str) -> Graph:
        """Raises Unavailable where other threads need too long."""
        _, known, is_current = self._look(content, repository, name)
        if known is not None and is_current:
            return known.graph
        with self._locks.hold((repository, name)):
            revision, known, is_current = self._look(content, repository, name)  # another thread may have read it meanwhile
            if known is not None and is_current:
                return known.graph
            turn = Turn(self._long)
            try:
                reading = self._read(content, repository, name, known.reading if known else Reading(), turn)
            finally:
                turn.end()
            graph = reading.graph() if reading else TOO_LARGE
            if revision is not None:
                self._known.put((repository, name), Known(revision, graph, reading or Reading()), reading.all_bytes if reading else 0)
        return graph

    def _look(self, content: Content, repository: str, name: str) -> tuple[object | None, Known | None, bool]:
        """The name's revision, what is known of it, and whether that was read at this revision."""
        revision = revision_of(content, repository, name)
        known = self._known.get((repository, name))
        return revision, known, known is not None and revision is not None and known.revision == revision

    def _read(self, content: Content, repository: str, name: str, before: Reading, turn: Turn) -> Reading | None:
        """None: it is too large."""
        base = keys.name_folder(repository, name)
        folders = keys.manifests_folder(repository, name), keys.gone_folder(repository, name)
        versions = {key.removeprefix(base): version for folder in folders for key, version in _versions(content, folder)}
        made = before.copy() if before.versions.items() <= versions.items() else Reading()
        for path in versions.keys() - made.versions.keys() if made.versions else list(versions):
            turn.step()
            made.versions[path] = versions[path]
            self._add(made, content, repository, name, path)
            if made.all_bytes > self._limit_bytes:
                return None
        for key, version in _versions(content, keys.tags_folder(repository, name)):
            tag = key.rpartition("/")[2]
            known = before.tags.get(tag)
            if known is None or known[0] != version:
                turn.step()
                pointer = content.pointer(keys.tag_pointer(repository, name, tag))
                known = (version, str(pointer.digest)) if pointer else None
            if known:
                made.tags[tag] = known
            if made.all_bytes > self._limit_bytes:
                return None
        return made

    def _add(self, made: Reading, content: Content, repository: str, name: str, path: str) -> None:
        """A manifest that is there, or one that deletions.py remembers; it may be there as well."""
        digest, pointer = path.rpartition("/")[2], content.pointer(Key.trusted(keys.name_folder(repository, name) + path))
        made.bytes += MANIFEST_BYTES
        if path.startswith(GONE):
            made.gone[digest] = deleted_tags(pointer)
            made.bytes += NODE_BYTES * len(made.gone[digest])
        else:
            made.digests.add(digest)
        found = parts_of(content, repository, name, pointer) if pointer else None
        if pointer and found:
            parts, sha256 = found
            others = {algorithm: row for algorithm, row in parts.blobs.items() if algorithm != twins.CANONICAL}  # not known when it was pushed
            made.bytes += NODE_BYTES * sum(len(row) // WIDTHS[algorithm] for algorithm, row in others.items())
            aliases = twins.noted_of(content, repository, name, map(Digest.parse, digests_in(others)))
            made.add(digest, pointer.created, parts, aliases if sha256 == digest else aliases | {digest: sha256})


class Turn:
    """Of one who reads a graph, among those whose graphs take long: taken once it turns out to be one of them."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock, self._is_held = lock, False
        self._steps = 0

    def step(self) -> None:
        """One more document is read. Raises Unavailable where others take too long."""
        self._steps += 1
        if self._steps == SHORT_READS:
            if not self._lock.acquire(timeout=LONG_SECONDS):
                raise Unavailable(retry_after_seconds=1)
            self._is_held = True

    def end(self) -> None:
        if self._is_held:
            self._lock.release()


def _versions(content: Content, folder: str) -> Iterator[tuple[str, int]]:
    """Keys in a folder of pointers, with their versions."""
    for entry in content.list(folder):
        if entry.info is not None:
            yield entry.key, hash(entry.info.version)


def parts_of(content: Content, repository: str, name: str, pointer: Pointer) -> tuple[Parts, str] | None:
    """What a manifest is made of, and its sha256. None: its bytes are lost."""
    own = pointer.own
    parts = Parts.read(own)
    if parts is None:
        document = content.pointer(keys.parts_pointer(repository, name, pointer.digest))
        parts = Parts.read(document.own) if document else None
    return (parts, str(own.get("sha256", pointer.digest))) if parts else _parsed(content, pointer)


def _parsed(content: Content, pointer: Pointer) -> tuple[Parts, str] | None:
    """From the manifest itself, where its documents do not say it, as after a power cut or a restore of some of them."""
    try:
        with json_document.take_turn(pointer.size):
            data = content.read(pointer.digest)
            return Parts.of(manifests.parse_manifest(data, pointer.media_type)), str(Digest.of(data))
    except (NotFound, ManifestInvalid):
        return None


def deleted_tags(pointer: Pointer | None) -> list[str]:
    """Of what deletions.py keeps."""
    tags = pointer.own.get("tags") if pointer else None
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []


def revision_of(content: Content, repository: str, name: str) -> object | None:
    """The state of all that a name's graph is read from. None: somebody is changing it now."""
    return content.revision(keys.name_folder(repository, name))


_GRAPHS: WeakKeyDictionary[Content, Graphs] = WeakKeyDictionary()
_GRAPHS_LOCK = threading.Lock()


def graph_of(content: Content, repository: str, name: str) -> Graph:
    """As Graphs.of(), from the one memory that this process has for that storage."""
    graphs = _GRAPHS.get(content)
    if graphs is None:
        with _GRAPHS_LOCK:
            graphs = _GRAPHS.setdefault(content, Graphs())
    return graphs.of(content, repository, name)
