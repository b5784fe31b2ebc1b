"""Listings ("Listing Tags", "Listing Referrers"; the catalog is distribution's own)."""

from __future__ import annotations

import json
from collections.abc import Iterator

from flask import Response, request

from noraflask.digest import Digest
from noraflask.errors import RepositoryUnknown
from noraflask.formats.docker.blueprint import JSON, address, bp, named
from noraflask.formats.docker.protocol import keys
from noraflask.formats.docker.protocol import listings as protocol
from noraflask.formats.docker.protocol.kept import descriptor_of, render_referrers
from noraflask.formats.docker.protocol.listings import Page, Scan
from noraflask.formats.docker.protocol.media_types import OCI_INDEX
from noraflask.formats.docker.stock import STOCK
from noraflask.formats.docker.verdicts import visible_names, visible_referrers, visible_tags
from noraflask.web.access import PULL, access, may_by_right
from noraflask.web.context import repository, services, target
from noraflask.web.responses import Answer


@bp.get("/<path:name>/tags/list")
@access(PULL)
def list_tags(name: str) -> Response:
    size = protocol.page_length(protocol.page_size(request.args.get("n")))
    content, repository_name = services().content, repository().name
    if not content.exists(keys.name_pointer(repository_name, name)):
        raise RepositoryUnknown(detail={"name": name})
    tags = Scan(content.names(keys.tags_folder(repository_name, name), request.args.get("last", "")))
    page = tags.cut(protocol.take_page(visible_tags(name, tags), size))
    links = protocol.next_link(address(f"{name}/tags/list"), page, size)
    return Answer(json.dumps({"name": target().prefix + name, "tags": page.entries}), content_type=JSON, headers=links)


@bp.get("/_catalog")
@access(PULL, listing=True)
def catalog() -> Response:
    size, last = protocol.page_length(protocol.page_size(request.args.get("n"))), request.args.get("last", "")
    own, at = repository(), target()
    held = Scan(STOCK.names(services().content, own.name, last))
    names = held if at.prefix else (name for name in held if named(name)[0] is own)  # not those that another repository hides at this address
    page = held.cut(protocol.take_page((name for name in visible_names(names) if may_by_right(PULL, name)), size))
    links = protocol.next_link(address("_catalog"), page, size)
    return Answer(json.dumps({"repositories": page.entries}), content_type=JSON, headers=links)


@bp.get("/<path:name>/referrers/<digest>")
@access(PULL)
def list_referrers(name: str, digest: str) -> Response:
    subject = Digest.parse(digest)
    size = min(protocol.page_size(request.args.get("n")) or protocol.REFERRERS_PAGE, protocol.REFERRERS_PAGE)
    wanted = request.args.get("artifactType")
    page, descriptors = referrers_page(name, subject, size, wanted)
    filters = {"artifactType": wanted} if wanted is not None else {}
    headers = protocol.next_link(address(f"{name}/referrers/{digest}"), page, size, **filters)
    if wanted is not None:
        headers["OCI-Filters-Applied"] = "artifactType"
    return Answer(render_referrers(descriptors), content_type=OCI_INDEX, headers=headers)


def referrers_page(name: str, subject: Digest, size: int, wanted: str | None) -> tuple[Page, list[bytes]]:
    """Bounded in entries and in bytes, both of what is shown and of what is read. It is never empty because its first entry is a large one."""
    folder = keys.referrers_folder(repository().name, name, subject)
    referrers = Scan(services().content.names(folder, request.args.get("last", "")))
    shown: list[str] = []
    descriptors: list[bytes] = []
    shown_bytes = read_bytes = 0
    last = ""
    for referrer, descriptor, is_wanted in rendered_referrers(name, subject, visible_referrers(name, subject, referrers), wanted):
        read_bytes += len(descriptor)
        is_full = len(shown) == size or (shown and shown_bytes + len(descriptor) > protocol.REFERRERS_BYTES)
        if (is_wanted and is_full) or (last and read_bytes > protocol.REFERRERS_READ_BYTES):
            return Page(shown, True, last), descriptors
        if is_wanted:
            shown.append(referrer)
            descriptors.append(descriptor)
            shown_bytes += len(descriptor)
        last = referrer
    return referrers.cut(Page(shown, False)), descriptors


def rendered_referrers(name: str, subject: Digest, referrers: Iterator[str], wanted: str | None) -> Iterator[tuple[str, bytes, bool]]:
    """Each with its descriptor, and whether that is of the artifact type that is asked for; None: any."""
    content, repository_name = services().content, repository().name
    for referrer in referrers:
        pointer = content.pointer(keys.referrer_pointer(repository_name, name, subject, Digest.parse(referrer)))
        if pointer is not None:
            descriptor = descriptor_of(pointer)
            yield referrer, json.dumps(descriptor).encode(), wanted in (None, descriptor.get("artifactType"))
