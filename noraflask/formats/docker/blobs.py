"""Blobs ("Pulling blobs", "Deleting Blobs")."""

from __future__ import annotations

from flask import Response, request

from noraflask.digest import Digest
from noraflask.errors import BlobUnknown
from noraflask.formats.docker.blueprint import IMMUTABLE, bp, content_headers
from noraflask.formats.docker.protocol import keys
from noraflask.formats.docker.verdicts import permit_blob
from noraflask.web.access import DELETE, PULL, PUSH, access, may
from noraflask.web.context import note, repository, services
from noraflask.web.gate import served
from noraflask.web.responses import Answer, send


@bp.get("/<path:name>/blobs/<digest>")
@access(PULL)
def get_blob(name: str, digest: str) -> Response:
    wanted = Digest.parse(digest)
    content, is_read = services().content, request.method == "GET"
    may_push = not is_read and may(PUSH, name)
    granted = permit_blob(name, wanted, is_read, may_push)
    found = None
    if content.exists(keys.blob_pointer(repository().name, name, wanted)):
        if may_push:
            content.touch(wanted)  # before it is looked for: a manifest that needs it comes in a later request
        found = content.stat(wanted)
    if found is None:
        raise BlobUnknown(detail={"digest": digest})
    served(granted, wanted)
    return send(granted, wanted, found.size, "application/octet-stream", BlobUnknown, content_headers(wanted, IMMUTABLE))


@bp.delete("/<path:name>/blobs/<digest>")
@access(DELETE)
def delete_blob(name: str, digest: str) -> Response:
    """The name forgets the blob; other names that hold it do not."""
    content, pointer = services().content, keys.blob_pointer(repository().name, name, Digest.parse(digest))
    if not content.exists(pointer):
        raise BlobUnknown(detail={"digest": digest})
    with content.changing(keys.name_folder(repository().name, name)):
        content.remove(pointer)
    note("delete", f"{name}@{digest}", "blob")
    return Answer(status=202)
