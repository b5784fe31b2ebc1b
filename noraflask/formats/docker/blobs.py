"""Blobs ("Pulling blobs", "Deleting Blobs")."""

from __future__ import annotations

from flask import Response, request

from noraflask.digest import Digest
from noraflask.errors import BlobUnknown
from noraflask.formats.docker.blueprint import IMMUTABLE, access, bp, content_headers
from noraflask.formats.docker.protocol import keys
from noraflask.formats.docker.verdicts import permit_blob
from noraflask.web.access import DELETE, PULL
from noraflask.web.context import note, repository, services
from noraflask.web.responses import Answer, send


@bp.get("/<path:name>/blobs/<digest>")
@access(PULL)
def get_blob(name: str, digest: str) -> Response:
    wanted = Digest.parse(digest)
    content, granted = services().content, permit_blob(name, wanted, is_read=request.method == "GET")
    found = content.stat(wanted) if content.exists(keys.blob_pointer(repository().name, name, wanted)) else None
    if found is None:
        raise BlobUnknown(detail={"digest": digest})
    return send(granted, wanted, found.size, "application/octet-stream", BlobUnknown, content_headers(wanted, IMMUTABLE))


@bp.delete("/<path:name>/blobs/<digest>")
@access(DELETE)
def delete_blob(name: str, digest: str) -> Response:
    """The name forgets the blob; other names that hold it do not."""
    pointer = keys.blob_pointer(repository().name, name, Digest.parse(digest))
    if not services().content.exists(pointer):
        raise BlobUnknown(detail={"digest": digest})
    services().content.remove(pointer)
    note("delete", f"{name}@{digest}", "blob")
    return Answer(status=202)
