"""Uploads ("Pushing blobs")."""

from __future__ import annotations

from flask import Response, request

from noraflask.digest import Digest
from noraflask.errors import InvalidDigest, InvalidName, NoraError, RangeInvalid, RepositoryUnknown, Unauthenticated, Unavailable
from noraflask.formats.docker import twins
from noraflask.formats.docker.blueprint import address, bp, named
from noraflask.formats.docker.protocol import keys, ranges
from noraflask.formats.docker.tokens import challenge
from noraflask.formats.docker.verdicts import is_free
from noraflask.pointer import Pointer
from noraflask.services.metrics import catalogue
from noraflask.services.upload import Upload
from noraflask.suspension import Steps
from noraflask.web.access import PULL, PUSH, access, may, may_by_right, may_everywhere
from noraflask.web.context import note, principal, repository, services, uploader
from noraflask.web.gate import is_open
from noraflask.web.responses import Answer


@bp.post("/<path:name>/blobs/uploads/", strict_slashes=False)
@access(PUSH)
def start_upload(name: str) -> Steps[Response]:
    """Mount a blob of another name, take a whole blob (?digest=), or begin a session."""
    mounted = mount(name, request.args["mount"], request.args.get("from", "")) if request.args.get("mount") else None
    if mounted is not None:
        return blob_created(name, mounted)
    expected = Digest.parse(request.args["digest"]) if "digest" in request.args else None
    staging, scope = services().staging, scope_of(name)
    if expected is None:
        return upload_state(202, name, staging.begin(scope, owner=uploader()), 0)
    with staging.upload(scope, owner=uploader()) as upload:
        try:
            yield from receive(name, upload)
            return finish(name, upload, expected)
        except NoraError:
            upload.discard()  # nobody knows this session, so nobody can go on with it
            raise


@bp.get("/<path:name>/blobs/uploads/<session>")
@access(PUSH)
def get_upload(name: str, session: str) -> Response:
    return upload_state(204, name, session, services().staging.offset(scope_of(name), session))


@bp.patch("/<path:name>/blobs/uploads/<session>")
@access(PUSH)
def patch_upload(name: str, session: str) -> Steps[Response]:
    with (yield from services().staging.claim(scope_of(name), session)) as upload:
        yield from receive(name, upload)
        return upload_state(202, name, session, upload.offset)


@bp.put("/<path:name>/blobs/uploads/<session>")
@access(PUSH)
def put_upload(name: str, session: str) -> Steps[Response]:
    """The last bytes, if any, and the digest of all."""
    expected = Digest.parse(request.args.get("digest"))
    with (yield from services().staging.claim(scope_of(name), session)) as upload:
        yield from receive(name, upload)
        return finish(name, upload, expected)


@bp.delete("/<path:name>/blobs/uploads/<session>")
@access(PUSH)
def cancel_upload(name: str, session: str) -> Response:
    services().staging.cancel(scope_of(name), session)
    return Answer(status=204)


def receive(name: str, upload: Upload) -> Steps[None]:
    """Append the request's body to an upload. Raises RangeInvalid, with what the client needs to go on, for a chunk that is not the next one."""
    try:
        expected_bytes = ranges.check_chunk(request.headers.get("Content-Range"), request.content_length, upload.offset)
    except RangeInvalid as problem:
        problem.headers.update(upload_headers(name, upload.session, upload.offset))
        raise
    yield from upload.receive(repository().settings.max_upload_session_size_mb << 20, expected_bytes)


def finish(name: str, upload: Upload, expected: Digest) -> Response:
    content, repository_name = services().content, repository().name
    twin = upload.digest(twins.CANONICAL) if expected.algorithm != twins.CANONICAL else None
    with content.together(expected):
        content.keep(upload, expected)
        if twin:
            twins.note(content, repository_name, name, expected, twin, upload.offset)
        content.point(keys.blob_pointer(repository_name, name, expected), pointer_to(expected, upload.offset))
    note("push", f"{name}@{expected}", "blob")
    services().metrics.count(catalogue.UPLOADS, repository_name)
    return blob_created(name, expected)


def mount(name: str, wanted: str, source: str) -> Digest | None:
    """Let a name have a blob that another one has. Without a source, any will do, for those who may read them all ("Mounting a blob").

    None: it cannot be done, for whatever reason, and the client uploads the blob instead. Raises Unauthenticated for a bearer token that does not
    cover the source while its owner may read it: the client asks for one that does.
    """
    content = services().content
    try:
        digest, found_source = Digest.parse(wanted), named(source) if source else None
    except (InvalidDigest, InvalidName, RepositoryUnknown):
        return None
    if found_source is None:
        allowed = may_everywhere(PULL) and is_open()
    else:
        other, its_name = found_source
        is_here = other.name == repository().name
        if principal().bearer is not None and not may(PULL, its_name, other.name) and may_by_right(PULL, its_name, other.name):
            raise Unauthenticated(headers={"WWW-Authenticate": challenge(PUSH, name, "insufficient_scope", source)})
        allowed = (
            may(PULL, its_name, other.name)
            and content.exists(keys.blob_pointer(other.name, its_name, digest))
            and (is_free(its_name, digest) if is_here else is_open())  # the verdicts of another repository are not worked out here
        )
    if not allowed:
        return None
    with content.lease(digest):
        found = content.stat(digest)
        if found is None or not has_twin(name, digest, found.size):
            return None
        content.point(keys.blob_pointer(repository().name, name, digest), pointer_to(digest, found.size))
    note("mount", f"{name}@{digest}", f"blob from {source}" if source else "blob")
    return digest


def has_twin(name: str, digest: Digest, size: int) -> bool:
    """Note what the gate must know of a blob that comes by a mount. False: it cannot be found out now, and the client sends the blob instead."""
    if digest.algorithm == twins.CANONICAL:
        return True
    content, repository_name = services().content, repository().name
    try:
        twin = twins.canonical(content, repository_name, name, digest)
    except Unavailable:
        return False
    if twin == digest:  # its bytes went meanwhile
        return False
    twins.note(content, repository_name, name, digest, twin, size)
    return True


def pointer_to(digest: Digest, size: int) -> Pointer:
    return Pointer(digest, size, "application/octet-stream", services().content.now())


def scope_of(name: str) -> str:
    return keys.name_folder(repository().name, name)


def upload_state(status: int, name: str, session: str, offset: int) -> Response:
    return Answer(status=status, headers=upload_headers(name, session, offset))


def upload_headers(name: str, session: str, offset: int) -> dict[str, str]:
    headers = {
        "Location": address(f"{name}/blobs/uploads/{session}"),
        "Range": ranges.upload_range(offset),
        "Docker-Upload-UUID": session,
    }
    minimum = repository().settings.chunk_min_bytes
    if minimum and not offset:
        headers["OCI-Chunk-Min-Length"] = str(minimum)
    return headers


def blob_created(name: str, digest: Digest) -> Response:
    return Answer(status=201, headers={"Location": address(f"{name}/blobs/{digest}"), "Docker-Content-Digest": str(digest)})
