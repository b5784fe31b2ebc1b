"""Manifests ("Pulling manifests", "Pushing Manifests", "Deleting Manifests", "Deleting tags")."""

from __future__ import annotations

from dataclasses import replace

from flask import Response, request

from noraflask.digest import Digest
from noraflask.errors import DigestMismatch, ManifestBlobUnknown, ManifestUnknown, NotFound
from noraflask.formats.docker.blueprint import IMMUTABLE, address, bp, content_headers
from noraflask.formats.docker.protocol import keys, media_types, names
from noraflask.formats.docker.protocol import manifests as protocol
from noraflask.formats.docker.protocol.manifests import Manifest
from noraflask.formats.docker.verdicts import permit_manifest
from noraflask.pointer import Pointer
from noraflask.services.metrics import catalogue
from noraflask.suspension import Steps
from noraflask.web.access import DELETE, PULL, PUSH, access
from noraflask.web.bodies import read_body
from noraflask.web.context import note, repository, services, state
from noraflask.web.gate import served
from noraflask.web.responses import Answer, send


@bp.get("/<path:name>/manifests/<reference>")
@access(PULL)
def get_manifest(name: str, reference: str) -> Response:
    wanted = names.parse_reference(reference)
    stored = find_manifest(name, wanted)
    granted = permit_manifest(name, wanted, stored.digest)
    accept = request.environ.get("HTTP_ACCEPT")
    if isinstance(wanted, str) and not media_types.accepts(accept, stored.media_type):
        stored = acceptable_child(name, stored, accept)
        granted = permit_manifest(name, stored.digest, stored.digest)
    served(granted, stored.digest)
    headers = content_headers(stored.digest, {"Vary": "Accept"} if isinstance(wanted, str) else IMMUTABLE)
    return send(granted, stored.digest, stored.size, stored.media_type, ManifestUnknown, headers)


@bp.put("/<path:name>/manifests/<reference>")
@access(PUSH)
def put_manifest(name: str, reference: str) -> Steps[Response]:
    target = names.parse_reference(reference)
    tags = [names.parse_tag(tag) for tag in request.args.getlist("tag")]
    wanted = Digest.parse(request.args["digest"]) if "digest" in request.args else None
    if isinstance(target, str):
        tags.insert(0, target)
    else:
        wanted = target
    limit = min(protocol.MANIFEST_BYTES, state().config.server.body_limit_mb << 20)
    data = yield from read_body(limit)
    digest = Digest.of(data, wanted.algorithm if wanted else "sha256")
    if wanted and wanted != digest:
        raise DigestMismatch(detail={"expected": str(wanted), "received": str(digest)})
    manifest = protocol.parse_manifest(data, request.headers.get("Content-Type", ""))
    check_references(name, manifest)
    with services().content.changing(keys.name_folder(repository().name, name)):
        keep_manifest(name, manifest, Pointer(digest, len(data), manifest.media_type, services().content.now()), data, tags)
    for tag in tags or [""]:
        note("push", f"{name}:{tag}" if tag else f"{name}@{digest}", f"manifest {digest}")
    services().metrics.count(catalogue.UPLOADS, repository().name)
    response = Answer(status=201, headers={"Location": address(f"{name}/manifests/{digest}"), "Docker-Content-Digest": str(digest)})
    if manifest.subject:
        response.headers["OCI-Subject"] = str(manifest.subject)
    for tag in tags:
        response.headers.add("OCI-Tag", tag)
    return response


@bp.delete("/<path:name>/manifests/<reference>")
@access(DELETE)
def delete_manifest(name: str, reference: str) -> Response:
    """By tag: that tag alone. By digest: the manifest, the tags that lead to it, and its entry among its subject's referrers."""
    wanted = names.parse_reference(reference)
    content, repository_name = services().content, repository().name
    stored = find_manifest(name, wanted)
    with content.changing(keys.name_folder(repository_name, name)):
        if isinstance(wanted, Digest):
            forget_manifest(name, stored)
        else:
            content.remove(keys.tag_pointer(repository_name, name, wanted))
    if isinstance(wanted, Digest):
        note("delete", f"{name}@{wanted}", "manifest")
    else:
        note("delete", f"{name}:{wanted}", f"manifest {stored.digest}, the tag alone")
    return Answer(status=202)


def forget_manifest(name: str, stored: Pointer) -> None:
    content, repository_name, digest = services().content, repository().name, stored.digest
    for tag, leads_to in content.pointers(keys.tags_folder(repository_name, name)):
        if leads_to.digest == digest:
            content.remove(keys.tag_pointer(repository_name, name, tag))
    try:
        subject = protocol.parse_manifest(read_manifest(stored), stored.media_type).subject
    except ManifestUnknown:  # its bytes are lost; what is left must be deletable all the same
        subject = None
    if subject:
        content.remove(keys.referrer_pointer(repository_name, name, subject, digest))
    content.remove(keys.manifest_pointer(repository_name, name, digest))


def find_manifest(name: str, reference: Digest | str) -> Pointer:
    """Raises ManifestUnknown, also for a tag whose manifest is gone."""
    content, repository_name = services().content, repository().name
    if isinstance(reference, Digest):
        stored = content.pointer(keys.manifest_pointer(repository_name, name, reference))
    else:
        stored = content.pointer(keys.tag_pointer(repository_name, name, reference))
    if stored is None or (isinstance(reference, str) and not content.exists(keys.manifest_pointer(repository_name, name, stored.digest))):
        raise ManifestUnknown(detail={"name": name, "reference": str(reference)})
    return stored


def read_manifest(stored: Pointer) -> bytes:
    try:
        return services().content.read(stored.digest)
    except NotFound:
        raise ManifestUnknown(detail={"digest": str(stored.digest)}) from None


def acceptable_child(name: str, stored: Pointer, accept: str | None) -> Pointer:
    """For a client that does not take the type a tag leads to: the index's default image. Raises ManifestUnknown, as other registries do."""
    if stored.media_type in media_types.INDEXES:
        child = protocol.default_child(protocol.parse_manifest(read_manifest(stored), stored.media_type), accept)
        if child:
            return find_manifest(name, child)
    raise ManifestUnknown(f"the manifest is of type {stored.media_type}, which the request's Accept header does not admit", detail={"name": name})


def check_references(name: str, manifest: Manifest) -> None:
    """Raises ManifestBlobUnknown unless config, layers and children are in this name."""
    content, repository_name = services().content, repository().name
    for digest in manifest.blobs:
        if not content.exists(keys.blob_pointer(repository_name, name, digest)) or content.stat(digest) is None:
            raise ManifestBlobUnknown(f"the blob {digest} is not in {name}; push it before the manifest", detail={"digest": str(digest)})
    for digest in manifest.children:
        if not content.exists(keys.manifest_pointer(repository_name, name, digest)):
            raise ManifestBlobUnknown(f"the manifest {digest} is not in {name}; push it before the index", detail={"digest": str(digest)})


def keep_manifest(name: str, manifest: Manifest, stored: Pointer, data: bytes, tags: list[str]) -> None:
    """Bytes first, then what points to them, tags last: whoever finds a tag finds all of it."""
    content, repository_name = services().content, repository().name
    key = keys.manifest_pointer(repository_name, name, stored.digest)
    with content.together(stored.digest):
        content.keep_bytes(data, stored.digest)
        there = content.point(key, stored)
        content.mark(keys.name_pointer(repository_name, name))
    if not there.leads_to_the_same(stored):  # the same bytes under another media type
        content.repoint(key, replace(stored, created=there.created))
    if manifest.subject:
        entry = keys.referrer_pointer(repository_name, name, manifest.subject, stored.digest)
        content.repoint(entry, replace(stored, own=protocol.referrer_members(manifest)))
    for tag in tags:
        content.repoint(keys.tag_pointer(repository_name, name, tag), stored)
