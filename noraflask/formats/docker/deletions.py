"""What a deletion must not free: of what is deleted while a rule blocks it, the gate remembers what its verdicts rested on.

Without that, deleting a blocked tag would free its digest and its other tags, and deleting a blocked image its platforms and layers. So the pointer
of the manifest is kept aside, with the tags that were blocked; the graph (graphs.py) counts it among what blocks, and never among what allows. It is
forgotten when no rule blocks it any longer. Moving a tag is no deletion: whoever pushes says what the tag is from now on (docs/curation.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from noraflask.digest import Digest
from noraflask.formats.docker import twins
from noraflask.formats.docker.graphs import deleted_tags
from noraflask.formats.docker.images import is_block, package
from noraflask.formats.docker.protocol import keys
from noraflask.formats.docker.verdicts import images_of, pushed_at
from noraflask.pointer import Pointer
from noraflask.services.curation.model import Package
from noraflask.web import gate
from noraflask.web.context import repository, services

MOST_TAGS = 1000
"""Of one manifest. Whoever may push and delete decides how many there are."""
MOST_LOOKED_AT = 1000
"""Of what is remembered, to see whether it can be forgotten."""


def remember_tag(name: str, tag: str, stored: Pointer) -> None:
    """Before a tag is deleted, within `changing`. Raises what writing raises: then it is not deleted."""
    asked = _asked(name, tag, stored.digest)
    if asked is not None and is_block(gate.decide_for_all(asked), strict=True):
        _keep(name, stored, [tag])


def remember_manifest(name: str, stored: Pointer, tags: Iterable[str]) -> None:
    """Before a manifest is deleted, with the tags that lead to it. As remember_tag()."""
    if _asked(name, str(stored.digest), stored.digest) is None:
        return
    images = images_of(name, gate.decide_for_all)
    digest = str(stored.digest)
    blocked = [tag for tag in tags if is_block(images.own_tag(tag, digest), strict=True)]
    if blocked or is_block(images.deleted(digest), strict=True):
        _keep(name, stored, blocked)
    _forget(name, lambda remembered: is_block(images.deleted(str(remembered)), strict=True), besides=stored.digest)


def _asked(name: str, version: str, digest: Digest) -> Package | None:
    """None where no rule could tell it from the rest of its name, so that nothing needs to be remembered of it."""
    content, repository_name = services().content, repository().name
    asked = package(repository_name, name, version, str(digest), pushed_at(name)(str(digest)))
    if gate.is_open() or not gate.versions_matter(asked):
        return None
    found = [digest]
    if digest.algorithm != twins.CANONICAL:
        found.insert(0, twins.canonical(content, repository_name, name, digest))
    elif gate.names_digests(asked, twins.OTHER) and (twin := twins.other(content, repository_name, name, digest)):
        found.append(twin)
    return replace(asked, digests=tuple(map(str, found)))


def _keep(name: str, stored: Pointer, tags: list[str]) -> None:
    content = services().content

    def with_tags(before: Pointer | None) -> Pointer:
        known = deleted_tags(before) if before else []
        every = [*known, *(tag for tag in tags if tag not in known)]
        own = {**(before.own if before else {}), **stored.own}  # a tag's pointer says less than the manifest's
        return replace(before or stored, own={**own, "tags": every[:MOST_TAGS]})

    content.change(keys.gone_pointer(repository().name, name, stored.digest), with_tags)


def _forget(name: str, is_blocked: Callable[[Digest], bool], besides: Digest) -> None:
    content, repository_name = services().content, repository().name
    for text in list(content.names(keys.gone_folder(repository_name, name), limit=MOST_LOOKED_AT)):
        digest = Digest.parse(text)
        if digest != besides and not is_blocked(digest):
            content.remove(keys.gone_pointer(repository_name, name, digest))
            if not content.exists(keys.manifest_pointer(repository_name, name, digest)):
                content.remove(keys.parts_pointer(repository_name, name, digest))
