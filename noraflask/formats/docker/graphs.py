"""Graphs of images, read from storage: what the manifests of a name are made of, and which tags lead to them.

A graph is read once for each state of its name, in each process, by one thread; requests and explanations share it.

What one hostile pusher can make of it: 36,000 blobs of a byte or two fill a manifest of 4 MiB with descriptors, and each further manifest of that
kind is 430 KB of edges. So all is bounded by bytes. Where one name would take more than GRAPHS_BYTES, the gate says no to what is in that name, and
to nothing else. The graphs of other names may be driven out of memory, and are then read again; their locks are their own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

from noraflask.digest import Digest
from noraflask.errors import ManifestInvalid, NotFound
from noraflask.formats.docker import twins
from noraflask.formats.docker.protocol import keys, manifests
from noraflask.keys import Key
from noraflask.pointer import Pointer
from noraflask.services.bounded_memory import BoundedMemory
from noraflask.services.content import Content
from noraflask.services.name_locks import NameLocks

GRAPHS_BYTES = 128 * 1024 * 1024
"""Of one process, all graphs together, and the most that one may have."""
PARTS_BYTES = 16 * 1024 * 1024
"""Likewise: what parsed manifests are made of, so that a push to a large name does not cost reading all its manifests again."""
PARTS_SHARE_BYTES = PARTS_BYTES // 64
WAIT_SECONDS = 10
"""How long a thread waits for another that reads the same graph."""
NODE_BYTES = 300
"""A digest or a tag as text, its place in a dict and in a list."""
EDGE_BYTES = 12
DIGEST_BYTES = 130
"""As text."""


@dataclass(frozen=True, slots=True)
class Graph:
    """All manifests of a name: their tags, what they are made of, and who is made of them. Twins are one, called by their sha256 (twins.py)."""

    tags: dict[str, list[str]] = field(default_factory=dict)
    """By digest."""
    parents: dict[str, list[str]] = field(default_factory=dict)
    """Indexes, by the digest of a child."""
    holders: dict[str, list[str]] = field(default_factory=dict)
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


class Parts(NamedTuple):
    """What a manifest is made of, which never changes."""

    children: tuple[str, ...]
    blobs: tuple[str, ...]
    alias: str
    """Its sha256."""


class Graphs:
    """Of one storage, in one process."""

    def __init__(self, limit_bytes: int = GRAPHS_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._known: BoundedMemory[tuple[str, str], tuple[object, Graph]] = BoundedMemory(limit_bytes)
        """With the revision that it was read at."""
        self._parts: BoundedMemory[tuple[str, str], Parts] = BoundedMemory(PARTS_BYTES, PARTS_SHARE_BYTES)
        self._locks = NameLocks(WAIT_SECONDS)

    def of(self, content: Content, repository: str, name: str) -> Graph:
        """Raises Unavailable where another thread needs too long for it."""
        graph = self._current(content, repository, name)[1]
        if graph is None:
            with self._locks.hold((repository, name)):
                revision, graph = self._current(content, repository, name)  # another thread may have read it meanwhile
                if graph is None:
                    graph, size_bytes = self._read(content, repository, name)
                    if revision is not None:
                        self._known.put((repository, name), (revision, graph), size_bytes)
        return graph

    def _current(self, content: Content, repository: str, name: str) -> tuple[object | None, Graph | None]:
        """The name's revision, and its graph, if it was read at that revision."""
        revision = revision_of(content, repository, name)
        known = self._known.get((repository, name)) if revision is not None else None
        return revision, known[1] if known is not None and known[0] == revision else None

    def _read(self, content: Content, repository: str, name: str) -> tuple[Graph, int]:
        """With an estimate of its bytes."""
        tags: dict[str, list[str]] = {}
        parents: dict[str, list[str]] = {}
        holders: dict[str, list[str]] = {}
        aliases: dict[str, str] = {}
        created: dict[str, float] = {}
        digests: set[str] = set()
        gone: dict[str, list[str]] = {}
        edges = known_tags = 0

        def estimate() -> int:
            return (known_tags + len(digests) + len(gone) + len(aliases) + len(parents) + len(holders)) * NODE_BYTES + edges * EDGE_BYTES

        for tag, pointer in content.pointers(keys.tags_folder(repository, name)):
            tags.setdefault(str(pointer.digest), []).append(tag)
            known_tags += 1
            if estimate() > self._limit_bytes:
                return TOO_LARGE, 0
        for digest, manifest, is_gone in manifests_of(content, repository, name):
            if is_gone:
                gone[digest] = deleted_tags(manifest)
                known_tags += len(gone[digest])
            else:
                digests.add(digest)
            parts = self._parts_of(content, manifest) if manifest and digest not in created else None
            if manifest is None or parts is None:
                continue
            created[digest] = manifest.created
            if parts.alias != digest:
                aliases[digest] = parts.alias
            for child in parts.children:
                parents.setdefault(child, []).append(digest)
            for blob in parts.blobs:
                holders.setdefault(blob, []).append(digest)
            aliases |= blob_twins(content, repository, name, [blob for blob in parts.blobs if blob not in aliases])
            edges += len(parts.children) + len(parts.blobs)
            if estimate() > self._limit_bytes:
                return TOO_LARGE, 0
        return _twins_as_one(Graph(tags, parents, holders, frozenset(digests), aliases, gone, created)), estimate()

    def _parts_of(self, content: Content, pointer: Pointer) -> Parts | None:
        """None: its bytes are lost."""
        key = (str(pointer.digest), pointer.media_type)
        parts = self._parts.get(key)
        if parts is None:
            try:
                data = content.read(pointer.digest)
                manifest = manifests.parse_manifest(data, pointer.media_type)
            except (NotFound, ManifestInvalid):
                return None
            alias = pointer.digest if pointer.digest.algorithm == "sha256" else Digest.of(data)
            parts = Parts(tuple(map(str, manifest.children)), tuple(map(str, manifest.blobs)), str(alias))
            self._parts.put(key, parts, DIGEST_BYTES * (len(parts.children) + len(parts.blobs)))
        return parts


def manifests_of(content: Content, repository: str, name: str) -> Iterator[tuple[str, Pointer | None, bool]]:
    """Digest and pointer of each, first those that are there, then (True) those that deletions.py remembers; they may be there as well."""
    folders = (keys.manifests_folder(repository, name), keys.gone_folder(repository, name))
    for folder, is_gone in zip(folders, (False, True), strict=True):
        for digest in content.names(folder):
            yield digest, content.pointer(Key.trusted(f"{folder}/{digest}")), is_gone


def blob_twins(content: Content, repository: str, name: str, blobs: Iterable[str]) -> dict[str, str]:
    """The sha256 of those that were pushed by another algorithm."""
    others = (Digest.parse(blob) for blob in blobs if not blob.startswith(twins.CANONICAL))
    return {str(other): str(twin) for other in others if (twin := twins.noted(content, repository, name, other))}


def deleted_tags(pointer: Pointer | None) -> list[str]:
    """Of what deletions.py keeps."""
    tags = pointer.own.get("tags") if pointer else None
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []


def _twins_as_one(graph: Graph) -> Graph:
    if not graph.aliases:
        return graph
    same = graph.same
    created: dict[str, float] = {}
    for digest, moment in graph.created.items():
        created[same(digest)] = min(moment, created.get(same(digest), moment))
    return replace(
        graph,
        tags=_joined(graph.tags, same, str),
        parents=_joined(graph.parents, same, same),
        holders=_joined(graph.holders, same, same),
        digests=frozenset(map(same, graph.digests)),
        gone=_joined(graph.gone, same, str),
        created=created,
    )


def _joined(lists: dict[str, list[str]], key: Callable[[str], str], value: Callable[[str], str]) -> dict[str, list[str]]:
    joined: dict[str, list[str]] = {}
    for name, values in lists.items():
        joined.setdefault(key(name), []).extend(map(value, values))
    return joined


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
