"""The gate's part of Docker: permits for manifests and blobs, and listings without what may not be had. images.py works out the verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from noraflask.digest import Digest
from noraflask.errors import CurationDenied
from noraflask.formats.docker import graphs, images, twins
from noraflask.formats.docker.images import Images
from noraflask.formats.docker.protocol import keys
from noraflask.formats.docker.readback import is_read_back, is_told
from noraflask.services.curation.gate import Permit
from noraflask.services.curation.model import Decision, Package
from noraflask.web import gate
from noraflask.web.context import repository, services


def permit_manifest(name: str, reference: Digest | str, digest: Digest) -> Permit:
    """Raises CurationDenied. Who may push is told what is there, as for blobs, and may read back what he is pushing (readback.py)."""
    version = str(reference)

    def package() -> Package:
        return images.package(repository().name, name, version, str(digest), pushed_at(name)(str(digest)))

    def work() -> gate.Asked:
        asked = judged(package(), name, lambda found: found.tag(version, str(digest)) if isinstance(reference, str) else found.manifest(version))
        about, decision = asked if isinstance(asked, tuple) else (asked, gate.decide(asked))
        return (about, replace(decision, allowed=True, read_back=True)) if is_read_back(name, digest, decision) else asked

    if not gate.is_open() and is_told(name):
        told = images.package(repository().name, name, version, str(digest))
        return gate.once((name, version, digest, "told"), None, lambda: (told, images.ALLOWED))
    return gate.once((name, reference, digest), lambda: revision_of(name), work)


def permit_blob(name: str, digest: Digest, is_read: bool, may_push: bool = False) -> Permit:
    """Raises CurationDenied. Who may push is told whether a blob is there: a push asks before it sends and after, and no bytes leave."""
    text = str(digest)

    def package() -> Package:
        return replace(images.package(repository().name, name, text, text, pushed_at(name)(text)), is_part=True)

    if not is_read and may_push:
        return gate.once(None, None, lambda: (images.package(repository().name, name, text, text), images.ALLOWED))

    def work() -> gate.Asked:
        return judged(package(), name, lambda found: found.blob(text, is_read, str(canonical(name, digest))))

    return gate.once((name, digest, is_read), lambda: revision_of(name), work)


def is_free(name: str, digest: Digest) -> bool:
    """May the blob be read under this name? For a mount, which shall not lead it past the gate."""
    try:
        permit_blob(name, digest, is_read=True)
    except CurationDenied:
        return False
    return True


def visible_tags(name: str, tags: Iterable[str]) -> Iterator[str]:
    """The index of a name; raises CurationDenied for a name that is blocked as a whole."""
    package = images.package(repository().name, name)
    gate.once(None, None, lambda: package)
    if not gate.versions_matter(package):
        return iter(tags)
    found, graph = images_of(name), graph_of(name)
    if graph.is_too_large:
        gate.once(None, None, lambda: (package, images.TOO_LARGE))
    leads = {tag: digest for digest, names in graph.tags.items() for tag in names}
    return (tag for tag in tags if tag in leads and found.tag(tag, leads[tag]).allowed)


def visible_names(names: Iterable[str]) -> Iterator[str]:
    """The list itself may be had; what is on it is asked one by one."""
    repository_name = repository().name
    return gate.shown((images.package(repository_name, ""), images.ALLOWED), names, lambda name: images.package(repository_name, name))


def visible_referrers(name: str, subject: Digest, referrers: Iterable[str]) -> Iterator[str]:
    """Raises CurationDenied for a subject that is blocked."""
    if not permit_manifest(name, subject, subject).package.format:
        return iter(referrers)
    if not gate.versions_matter(images.package(repository().name, name)):
        return iter(referrers)
    found = images_of(name)
    return (referrer for referrer in referrers if found.manifest(referrer).allowed)


def judged(package: Package, name: str, verdict: Callable[[Images], Decision]) -> gate.Asked:
    """The graph is read only where the policy can tell versions of the name apart."""
    return (package, verdict(images_of(name))) if gate.versions_matter(package) else package


def images_of(name: str, judge: images.Judge = gate.decide) -> Images:
    graph, pushed, repository_name = graph_of(name), pushed_at(name), repository().name
    other = None
    if gate.names_digests(images.package(repository_name, name), twins.OTHER):
        other = other_of(name)
    return Images(repository_name, name, graph, judge, lambda digest: graph.created.get(digest) or pushed(digest), other)


def canonical(name: str, digest: Digest) -> Digest:
    return twins.canonical(services().content, repository().name, name, digest)


def other_of(name: str) -> Callable[[str], str | None]:
    content, repository_name = services().content, repository().name

    def find(digest: str) -> str | None:
        twin = twins.other(content, repository_name, name, Digest.parse(digest))
        return str(twin) if twin else None

    return find


def graph_of(name: str) -> graphs.Graph:
    return graphs.graph_of(services().content, repository().name, name)


def revision_of(name: str) -> object | None:
    return graphs.revision_of(services().content, repository().name, name)


def pushed_at(name: str) -> Callable[[str], float | None]:
    """When a manifest or a blob came, by its digest. Anything else has no time."""
    content, repository_name = services().content, repository().name

    def when(digest: str) -> float | None:
        found = Digest.parse(digest)
        manifest, blob = keys.manifest_pointer(repository_name, name, found), keys.blob_pointer(repository_name, name, found)
        pointer = content.pointer(manifest) or content.pointer(blob)
        return pointer.created if pointer else None

    return when
