"""Listings ("Listing Tags", "Listing Referrers"; the catalog is distribution's own)."""

from __future__ import annotations

import json

from flask import Response, request

from noraflask.digest import Digest
from noraflask.errors import RepositoryUnknown
from noraflask.formats.docker.blueprint import JSON, address, bp, named
from noraflask.formats.docker.protocol import keys
from noraflask.formats.docker.protocol import listings as protocol
from noraflask.formats.docker.protocol.manifests import descriptor_of, render_referrers
from noraflask.formats.docker.protocol.media_types import OCI_INDEX
from noraflask.formats.docker.stock import STOCK
from noraflask.formats.docker.verdicts import visible_names, visible_referrers, visible_tags
from noraflask.web.access import PULL, access, may_by_right
from noraflask.web.context import repository, services, target
from noraflask.web.responses import Answer


@bp.get("/<path:name>/tags/list")
@access(PULL)
def list_tags(name: str) -> Response:
    size = protocol.page_size(request.args.get("n"))
    content, repository_name = services().content, repository().name
    if not content.exists(keys.name_pointer(repository_name, name)):
        raise RepositoryUnknown(detail={"name": name})
    shown = visible_tags(name, content.names(keys.tags_folder(repository_name, name), request.args.get("last", "")))
    page = protocol.take_page(shown, size)
    links = protocol.next_link(address(f"{name}/tags/list"), page, size)
    return Answer(json.dumps({"name": target().prefix + name, "tags": page.entries}), content_type=JSON, headers=links)


@bp.get("/_catalog")
@access(PULL, listing=True)
def catalog() -> Response:
    size, last = protocol.page_size(request.args.get("n")), request.args.get("last", "")
    own, at = repository(), target()
    held = STOCK.names(services().content, own.name, last)
    names = held if at.prefix else (name for name in held if named(name)[0] is own)  # not those that another repository hides at this address
    page = protocol.take_page((name for name in visible_names(names) if may_by_right(PULL, name)), size)
    links = protocol.next_link(address("_catalog"), page, size)
    return Answer(json.dumps({"repositories": page.entries}), content_type=JSON, headers=links)


@bp.get("/<path:name>/referrers/<digest>")
@access(PULL)
def list_referrers(name: str, digest: str) -> Response:
    subject = Digest.parse(digest)
    size = protocol.page_size(request.args.get("n")) or protocol.REFERRERS_PAGE
    wanted = request.args.get("artifactType")
    content, folder = services().content, keys.referrers_folder(repository().name, name, subject)
    descriptors = {}
    for referrer in visible_referrers(name, subject, content.names(folder, request.args.get("last", ""))):
        pointer = content.pointer(keys.referrer_pointer(repository().name, name, subject, Digest.parse(referrer)))
        descriptor = descriptor_of(pointer) if pointer else None
        if descriptor and wanted in (None, descriptor.get("artifactType")):
            descriptors[referrer] = descriptor
        if len(descriptors) > size:
            break
    page = protocol.take_page(descriptors, size)
    filters = {"artifactType": wanted} if wanted is not None else {}
    headers = protocol.next_link(address(f"{name}/referrers/{digest}"), page, size, **filters)
    if wanted is not None:
        headers["OCI-Filters-Applied"] = "artifactType"
    body = render_referrers(descriptors[referrer] for referrer in page.entries)
    return Answer(body, content_type=OCI_INDEX, headers=headers)
