"""What storage has of images, for those who know no format (services/stock.py); requests ask verdicts.py."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from noraflask.digest import Digest
from noraflask.errors import InvalidDigest
from noraflask.formats.docker import twins
from noraflask.formats.docker.graphs import Graph, graph_of
from noraflask.formats.docker.images import TOO_LARGE, Images, package
from noraflask.formats.docker.protocol import keys
from noraflask.formats.docker.protocol.names import is_name
from noraflask.services.content import Content
from noraflask.services.curation.explaining import Stored
from noraflask.services.curation.model import Decision, Package
from noraflask.services.stock import Judge, StoredVersion

MOST_TAGS = 1000
"""The newest tags, of which it is told whether they may be had: anybody may ask for an explanation, and each tag takes a verdict."""


class ImageStock:
    """A version of an image is a tag, or the digest of a manifest that has none. Its own artifact is its manifest: layers belong to several."""

    def names(self, content: Content, repository: str, after: str = "", limit: int | None = None) -> Iterator[str]:
        return map(keys.name_of_pointer, content.names(keys.names_folder(repository), keys.pointer_of_name(after), limit))

    def versions(self, content: Content, repository: str, name: str) -> Iterator[StoredVersion]:
        tagged = set()
        for tag, pointer in content.pointers(keys.tags_folder(repository, name)):
            tagged.add(pointer.digest)
            yield StoredVersion(tag, pointer.created, pointer.size, (pointer.digest,))
        for digest, pointer in content.pointers(keys.manifests_folder(repository, name)):
            if pointer.digest not in tagged:
                yield StoredVersion(digest, pointer.created, pointer.size, (pointer.digest,))

    def references(self, content: Content, repository: str) -> Iterator[Digest]:
        """Told by the keys alone: all that can be pulled under a name has a pointer there, a blob also before the first manifest comes."""
        for pointer in content.names(repository):
            folder, _, last = pointer.rpartition("/")
            if folder.endswith(("/_blobs", "/_manifests", "/_gone")):
                try:
                    yield Digest.parse(last)
                except InvalidDigest:
                    continue

    def look(self, content: Content, asked: Package, judge: Judge) -> Stored | None:
        names = (asked.name, f"library/{asked.name}") if "/" not in asked.name else (asked.name,)
        for name in filter(is_name, names):
            graph = graph_of(content, asked.repository, name)
            if graph.is_too_large:
                return Stored(name, package(asked.repository, name, asked.version), TOO_LARGE, ())
            if graph.digests:
                return _stored(content, asked, name, graph, judge)
        return None


def _stored(content: Content, asked: Package, name: str, graph: Graph, judge: Judge) -> Stored:
    repository, pushed = asked.repository, graph.created.get

    def other(digest: str) -> str | None:
        twin = twins.other(content, repository, name, Digest.parse(digest))
        return str(twin) if twin else None

    images = Images(repository, name, graph, judge, pushed, other)
    leads = {tag: digest for digest, tags in graph.tags.items() for tag in tags}
    newest = heapq.nlargest(MOST_TAGS, leads, key=lambda tag: (pushed(leads[tag], 0.0), tag))
    allowed = tuple(sorted(tag for tag in newest if images.tag(tag, leads[tag]).allowed))
    version = asked.version
    digest = leads.get(version) if version else None
    decision: Decision | None = None
    if version and digest:
        decision = images.tag(version, digest)
    elif version and graph.same(version) in graph.digests:
        digest, decision = version, images.manifest(version)
    described = package(repository, name, version, digest, pushed(graph.same(digest)) if digest else None)
    return Stored(name, described, decision, allowed, _own(graph, digest) if digest else frozenset())


def _own(graph: Graph, digest: str) -> frozenset[str]:
    """What no other image of the name is made of; by all digests that are known of it."""
    children: dict[str, list[str]] = {}
    outside = {child: set(parents) for child, parents in graph.parents.items() if child not in graph.tags}
    for child, parents in outside.items():
        for parent in parents:
            children.setdefault(parent, []).append(child)
    inside, todo = {graph.same(digest)}, [graph.same(digest)]
    while todo:
        parent = todo.pop()
        for child in children.get(parent, ()):
            outside[child].discard(parent)
            if not outside[child] and child not in inside:
                inside.add(child)
                todo.append(child)
    inside.update(graph.holders.only_of(inside))
    return frozenset(inside | {twin for twin, same in graph.aliases.items() if same in inside})


STOCK = ImageStock()
