"""Manifests ("Pulling manifests", "Pushing Manifests", "Deleting Manifests", "Deleting tags")."""

from __future__ import annotations

from dataclasses import replace

from flask import Response, request

from noraflask import json_document
from noraflask.digest import Digest
from noraflask.errors import DigestMismatch, ManifestBlobUnknown, ManifestUnknown, Unavailable
from noraflask.formats.docker import twins
from noraflask.formats.docker.blueprint import IMMUTABLE, address, bp, content_headers
from noraflask.formats.docker.deletions import remember_manifest, remember_tag
from noraflask.formats.docker.protocol import kept, keys, media_types, names
from noraflask.formats.docker.protocol import manifests as protocol
from noraflask.formats.docker.protocol.manifests import Manifest
from noraflask.formats.docker.readback import note_push
from noraflask.formats.docker.verdicts import permit_manifest
from noraflask.keys import Key
from noraflask.pointer import Pointer
from noraflask.services.metrics import catalogue
from noraflask.suspension import Steps
from noraflask.web.access import DELETE, PULL, PUSH, access
from noraflask.web.bodies import read_body
from noraflask.web.context import note, repository, services, state
from noraflask.web.gate import served
from noraflask.web.responses import Answer, send

PUSH_ATTEMPTS = 10
"""How often a manifest is put there anew that others delete while it is pushed."""


@bp.get("/<path:name>/manifests/<reference>")
@access(PULL)
def get_manifest(name: str, reference: str) -> Response:
    wanted = names.parse_reference(reference)
    stored = find_manifest(name, wanted)
    granted = permit_manifest(name, wanted, stored.digest)
    accept = request.environ.get("HTTP_ACCEPT")
    if isinstance(wanted, str) and stored.media_type in media_types.INDEXES and media_types.takes_images_alone(accept):
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
    with json_document.take_turn(len(data)):
        manifest = protocol.parse_manifest(data, request.headers.get("Content-Type", ""))
        check_references(name, manifest)
        stored = Pointer(digest, len(data), manifest.media_type, services().content.now())
        with services().content.changing(keys.name_folder(repository().name, name)):
            keep_manifest(name, manifest, stored, data, tags)
    note_push(name, stored, tags)
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
            remember_tag(name, wanted, stored)
            content.remove(keys.tag_pointer(repository_name, name, wanted))
    if isinstance(wanted, Digest):
        note("delete", f"{name}@{wanted}", "manifest")
    else:
        note("delete", f"{name}:{wanted}", f"manifest {stored.digest}, the tag alone")
    return Answer(status=202)


def forget_manifest(name: str, stored: Pointer) -> None:
    """And the name, with its last manifest. A push of the same manifest at this moment finds that it is gone, and puts it there anew."""
    content, repository_name, digest = services().content, repository().name, stored.digest
    key, subject, seen = keys.manifest_pointer(repository_name, name, digest), kept.subject_of(stored), dict[str, str]()
    tags = tags_of(name, digest, seen)
    remember_manifest(name, stored, [tag.rpartition("/")[2] for tag, _ in tags])
    for tag, version in tags:
        content.remove(tag, version)
    entry = keys.referrer_pointer(repository_name, name, subject, digest) if subject else None
    if entry:
        content.remove(entry)
    if not content.exists(keys.gone_pointer(repository_name, name, digest)):
        content.remove(keys.parts_pointer(repository_name, name, digest))
    content.remove(key)
    content.remove(keys.pushed_pointer(repository_name, name, digest))
    left = tags_of(name, digest, seen)  # by a push that was done in between
    if entry and (version_left := content.version(entry)):
        left.append((entry, version_left))
    for pointer, version in left:
        if not content.exists(key):
            content.remove(pointer, version)
    content.unmark(keys.name_pointer(repository_name, name), lambda: any(content.list(keys.manifests_folder(repository_name, name), limit=1)))


def tags_of(name: str, digest: Digest, seen: dict[str, str]) -> list[tuple[Key, str]]:
    """Tags that lead to a manifest, with their versions. `seen`: the versions of those that were looked at before; they are not read again."""
    content, found = services().content, []
    for entry in content.list(keys.tags_folder(repository().name, name)):
        if entry.info is None or seen.get(entry.key) == entry.info.version:
            continue
        seen[entry.key] = entry.info.version
        tag = content.pointer(Key.trusted(entry.key))
        if tag is not None and tag.digest == digest:
            found.append((Key.trusted(entry.key), entry.info.version))
    return found


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


def acceptable_child(name: str, stored: Pointer, accept: str | None) -> Pointer:
    """For a client that takes images and no index: the index's default image. Where it has none, or none that is here, the index as it is."""
    child = kept.default_child(stored, accept)
    found = services().content.pointer(keys.manifest_pointer(repository().name, name, child)) if child else None
    return found or stored


def check_references(name: str, manifest: Manifest) -> None:
    """Raises ManifestBlobUnknown unless config, layers and children are in this name. Children may be missing where the repository allows it."""
    content, repository_name = services().content, repository().name
    if manifest.children and repository().settings.sparse_indexes == "allow":
        return

    def is_manifest(digest: Digest) -> bool:
        return content.exists(keys.manifest_pointer(repository_name, name, digest))

    for digest in manifest.blobs:
        if content.exists(keys.blob_pointer(repository_name, name, digest)) and content.stat(digest) is not None:
            continue
        if not manifest.children or not is_manifest(digest):  # an index may call a manifest by a type of its own
            raise ManifestBlobUnknown(f"the blob {digest} is not in {name}; push it before the manifest", detail={"digest": str(digest)})
    for digest in dict.fromkeys(manifest.images):
        if not is_manifest(digest):
            raise ManifestBlobUnknown(f"the manifest {digest} is not in {name}; push it before the index", detail={"digest": str(digest)})


def keep_manifest(name: str, manifest: Manifest, stored: Pointer, data: bytes, tags: list[str]) -> None:
    """Bytes first, then what points to them, tags last: whoever finds a tag finds all of it. What readers need of the manifest is in the pointers.

    Raises Unavailable when others go on deleting it.
    """
    for _ in range(PUSH_ATTEMPTS):
        pointers = point_to(name, manifest, stored, data, tags)
        if all(map(services().content.exists, pointers)):
            return
    raise Unavailable("the manifest was deleted while it was pushed; push it again")


def point_to(name: str, manifest: Manifest, stored: Pointer, data: bytes, tags: list[str]) -> list[Key]:
    """The keys of what must be there afterwards, unless somebody deletes the same manifest at this moment."""
    content, repository_name = services().content, repository().name
    sha256 = stored.digest if stored.digest.algorithm == "sha256" else Digest.of(data)
    parts = kept.Parts.of(manifest, twins.noted_of(content, repository_name, name, manifest.blobs))
    pointers = {keys.manifest_pointer(repository_name, name, stored.digest): kept.manifest_members(manifest, stored.digest, sha256, parts)}
    if kept.has_many_parts(manifest):  # first, since who finds the manifest looks for them
        pointers = {keys.parts_pointer(repository_name, name, stored.digest): parts.members()} | pointers
    with content.together(stored.digest):
        content.keep_bytes(data, stored.digest)
        there = {key: content.point(key, replace(stored, own=own)) for key, own in pointers.items()}
        content.mark(keys.name_pointer(repository_name, name))
    for key, own in pointers.items():
        wanted = replace(stored, own=own, created=there[key].created)
        if wanted != there[key]:  # the same bytes under another media type
            content.repoint(key, wanted)
    last: list[Key] = []
    if manifest.subject:
        entry = keys.referrer_pointer(repository_name, name, manifest.subject, stored.digest)
        last.append(entry)
        content.repoint(entry, replace(stored, own=kept.referrer_members(manifest)))
    for tag in tags:
        last.append(keys.tag_pointer(repository_name, name, tag))
        content.repoint(last[-1], replace(stored, own=kept.tag_members(manifest)))
    return [*pointers, *last]
