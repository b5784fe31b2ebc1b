"""What storage has of an image, for those who explain decisions; requests ask images.py themselves."""

from __future__ import annotations

from noraflask.digest import Digest
from noraflask.formats.docker import protocol
from noraflask.formats.docker.images import Graph, Graphs, Images, Judge, package
from noraflask.services.content import Content
from noraflask.services.curation.explaining import Stored
from noraflask.services.curation.model import Decision, Package

_GRAPHS = Graphs()


def find(content: Content, asked: Package, judge: Judge) -> Stored | None:
    """None: there is no image of that name."""
    names = (asked.name, f"library/{asked.name}") if "/" not in asked.name else (asked.name,)
    for name in names:
        graph = _GRAPHS.of(content, asked.repository, name)
        if graph.digests:
            return _stored(content, asked, name, graph, judge)
    return None


def _stored(content: Content, asked: Package, name: str, graph: Graph, judge: Judge) -> Stored:
    here = asked.repository

    def pushed(digest: str) -> float | None:
        pointer = content.pointer(protocol.manifest_pointer(here, name, Digest.parse(digest)))
        return pointer.created if pointer else None

    images = Images(here, name, graph, judge, pushed)
    leads = {tag: digest for digest, tags in graph.tags.items() for tag in tags}
    allowed = tuple(tag for tag, digest in sorted(leads.items()) if images.tag(tag, digest).allowed)
    version = asked.version
    digest = leads.get(version) if version else None
    decision: Decision | None = None
    if version and digest:
        decision = images.tag(version, digest)
    elif version in graph.digests:
        digest, decision = version, images.manifest(version)
    return Stored(name, package(here, name, version, digest, pushed(digest) if digest else None), decision, allowed)


def count_names(content: Content, repository: str) -> int:
    """Names that hold an image, for the metrics."""
    return sum(1 for _ in content.names(protocol.names_folder(repository)))
