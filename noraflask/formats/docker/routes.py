"""OCI Distribution 1.1 over HTTP. Sections named are those of the OCI distribution-spec; the pure part is in `protocol.py`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

from flask import Blueprint, Response, request

from noraflask.digest import Digest
from noraflask.errors import (
    BadRequest,
    BlobUnknown,
    CurationDenied,
    DigestMismatch,
    ManifestBlobUnknown,
    ManifestUnknown,
    NoraError,
    NotFound,
    RangeInvalid,
    RepositoryUnknown,
    Unauthenticated,
)
from noraflask.formats.docker import images, protocol
from noraflask.formats.docker.images import Graph, Graphs, Images
from noraflask.formats.docker.protocol import Manifest, Wanted
from noraflask.pointer import Pointer
from noraflask.services.auth.principal import Action, Principal, Scope, Source
from noraflask.services.curation.gate import Permit
from noraflask.services.curation.model import Package
from noraflask.services.metrics import catalogue
from noraflask.services.upload import Upload, read_body
from noraflask.web.access import DELETE, LISTING, LOGIN, PUBLIC, PULL, PUSH, access, may, may_by_right, may_everywhere
from noraflask.web.addresses import absolute, outside, own_host
from noraflask.web.context import PRINCIPAL, note, principal, repository, services
from noraflask.web.forms import read_form_lists
from noraflask.web.gate import decide, open_permit, permit, policy, recall, remember, served
from noraflask.web.responses import Answer, send

IMMUTABLE = {"Cache-Control": "max-age=31536000, immutable"}
JSON = "application/json"

bp = Blueprint("oci", __name__)


@bp.get("/")
@access(LOGIN)
def ping() -> Response:
    """Clients find out here how to log in, and whether a login is good. So it is closed to anonymous clients also where they may pull."""
    return Answer("{}", content_type=JSON)


# Bearer tokens (distribution, "Token Authentication Specification", "OAuth2 Token Authentication").


@bp.get("/token")
@access(PUBLIC)
def get_token() -> Response:
    """Who asks is known by the Basic login of this request; whoever has none gets a token for what is open to all."""
    return issue_token(principal(), request.args.getlist("scope"), request.args.get("offline_token") == "true")


@bp.post("/token")
@access(PUBLIC)
def post_token() -> Response:
    logins = services().logins
    if logins is None:
        raise NotFound("this registry has no logins")
    fields = read_form_lists()
    form = {name: values[0] for name, values in fields.items()}
    grant = form.get("grant_type")
    if grant == "password":
        who = logins.login(form.get("username", ""), form.get("password", ""), request.environ)
    elif grant == "refresh_token":
        who = logins.by_refresh_token(form.get("refresh_token", ""), request.environ)
    else:
        raise BadRequest("grant_type must be password or refresh_token")
    request.environ[PRINCIPAL] = who
    return issue_token(who, fields.get("scope", []), form.get("access_type") == "offline")


def issue_token(who: Principal, scopes: list[str], offline: bool) -> Response:
    """A token for what of the wanted scopes the principal may do. RFC 6749, 5.1: never cached."""
    logins = services().logins
    if logins is None:
        raise NotFound("this registry has no logins")
    if who.source is Source.ANONYMOUS and not services().access.rights(who).grants:
        raise Unauthenticated()
    if who.bearer is not None:  # it would live for ever, and get a refresh token that is cut to nothing
        raise Unauthenticated("a bearer token is no login; ask with what it was issued for")
    granted = tuple(scope for wanted in protocol.parse_scopes(scopes) if (scope := granted_scope(wanted)).actions)
    token, issued, lifetime = logins.issue(who, "bearer", logins.config.bearer_ttl_secs, granted)
    members: dict[str, object] = {
        "token": token,
        "access_token": token,
        "expires_in": lifetime,
        "issued_at": datetime.fromtimestamp(issued, UTC).isoformat().replace("+00:00", "Z"),
        "scope": " ".join(protocol.render_scope(scope.names[0], (action.value for action in scope.actions)) for scope in granted),
    }
    if offline and who.source in (Source.PASSWORD, Source.TOKEN):
        members["refresh_token"] = logins.issue(who, "refresh", logins.config.refresh_ttl_days * 86400)[0]
    return Answer(json.dumps(members), content_type=JSON, headers={"Cache-Control": "no-store"})


def granted_scope(wanted: Wanted) -> Scope:
    here = (repository().name,)
    if wanted.name is None:
        return Scope(frozenset((PULL,)), here, (LISTING,))
    return Scope(
        frozenset(action for action in (PULL, PUSH, DELETE) if action.value in wanted.actions and may(action, wanted.name)), here, (wanted.name,)
    )


def challenge(action: Action, name: str | None, error: str, source: str = "") -> str:
    """`source`: a name that must be pulled from as well."""
    scopes = [protocol.wanted_scope(None if name == LISTING else name or "", action.value), protocol.wanted_scope(source, PULL.value)]
    return protocol.render_challenge(absolute(f"{repository().mount}/token"), own_host(), " ".join(filter(None, scopes)), error)


# Blobs ("Pulling blobs", "Deleting Blobs").


@bp.get("/<path:name>/blobs/<digest>")
@access(PULL)
def get_blob(name: str, digest: str) -> Response:
    name, wanted = protocol.parse_name(name), Digest.parse(digest)
    content, granted = services().content, permit_blob(name, wanted, is_read=request.method == "GET")
    found = content.stat(wanted) if content.exists(protocol.blob_pointer(repository().name, name, wanted)) else None
    if found and request.method == "HEAD" and may(PUSH, name):
        content.touch(wanted)
        found = content.stat(wanted)  # as it is now that nobody deletes it
    if found is None:
        raise BlobUnknown(detail={"digest": digest})
    return send(granted, wanted, found.size, "application/octet-stream", BlobUnknown, IMMUTABLE)


@bp.delete("/<path:name>/blobs/<digest>")
@access(DELETE)
def delete_blob(name: str, digest: str) -> Response:
    """The name forgets the blob; other names that hold it do not."""
    pointer = protocol.blob_pointer(repository().name, protocol.parse_name(name), Digest.parse(digest))
    if not services().content.exists(pointer):
        raise BlobUnknown(detail={"digest": digest})
    services().content.remove(pointer)
    note("delete", f"{name}@{digest}", "blob")
    return Answer(status=202)


# Uploads ("Pushing blobs").


@bp.post("/<path:name>/blobs/uploads/")
@access(PUSH)
def start_upload(name: str) -> Response:
    """Mount a blob of another name, take a whole blob (?digest=), or begin a session."""
    name = protocol.parse_name(name)
    if "mount" in request.args and mount(name, Digest.parse(request.args["mount"]), request.args.get("from")):
        return blob_created(name, Digest.parse(request.args["mount"]))
    expected = Digest.parse(request.args["digest"]) if "digest" in request.args else None
    staging, scope = services().staging, scope_of(name)
    session = staging.begin(scope)
    if expected is None:
        return upload_state(202, name, session, 0)
    with staging.resume(scope, session) as upload:
        try:
            receive(name, upload)
            return finish(name, upload, expected)
        except NoraError:
            upload.discard()  # nobody knows this session, so nobody can go on with it
            raise


@bp.get("/<path:name>/blobs/uploads/<session>")
@access(PUSH)
def get_upload(name: str, session: str) -> Response:
    name = protocol.parse_name(name)
    return upload_state(204, name, session, services().staging.offset(scope_of(name), session))


@bp.patch("/<path:name>/blobs/uploads/<session>")
@access(PUSH)
def patch_upload(name: str, session: str) -> Response:
    name = protocol.parse_name(name)
    with services().staging.resume(scope_of(name), session) as upload:
        receive(name, upload)
        return upload_state(202, name, session, upload.offset)


@bp.put("/<path:name>/blobs/uploads/<session>")
@access(PUSH)
def put_upload(name: str, session: str) -> Response:
    """The last bytes, if any, and the digest of all."""
    name, expected = protocol.parse_name(name), Digest.parse(request.args.get("digest"))
    with services().staging.resume(scope_of(name), session) as upload:
        receive(name, upload)
        return finish(name, upload, expected)


@bp.delete("/<path:name>/blobs/uploads/<session>")
@access(PUSH)
def cancel_upload(name: str, session: str) -> Response:
    services().staging.cancel(scope_of(protocol.parse_name(name)), session)
    return Answer(status=204)


def receive(name: str, upload: Upload) -> None:
    """Append the request's body to an upload. Raises RangeInvalid, with what the client needs to go on, for a chunk that is not the next one."""
    try:
        expected_bytes = protocol.check_chunk(request.headers.get("Content-Range"), request.content_length, upload.offset)
    except RangeInvalid as problem:
        problem.headers.update(upload_headers(name, upload.session, upload.offset))
        raise
    upload.receive(request.stream, services().config.docker.max_upload_session_size_mb << 20, expected_bytes)


def finish(name: str, upload: Upload, expected: Digest) -> Response:
    content = services().content
    with content.together(expected):
        content.keep(upload, expected)
        content.point(protocol.blob_pointer(repository().name, name, expected), blob_pointer_to(expected, upload.offset))
    note("push", f"{name}@{expected}", "blob")
    services().metrics.count(catalogue.UPLOADS, repository().name)
    return blob_created(name, expected)


def mount(name: str, digest: Digest, source: str | None) -> bool:
    """Let a name have a blob that another one has. Without a source, any will do, for those who may read them all ("Mounting a blob").

    Raises Unauthenticated for a bearer token that does not cover the source while its owner may read it: the client asks for one that does.
    """
    content = services().content
    if source is None:
        allowed = may_everywhere(PULL) and open_permit() is not None
    else:
        pointer = protocol.blob_pointer(repository().name, protocol.parse_name(source), digest)
        if principal().bearer is not None and not may(PULL, source) and may_by_right(PULL, source):
            raise Unauthenticated(headers={"WWW-Authenticate": challenge(PUSH, name, "insufficient_scope", source)})
        allowed = may(PULL, source) and content.exists(pointer) and is_free(source, digest)
    if not allowed:
        return False
    with content.lease(digest):
        found = content.stat(digest)
        if found is None:
            return False
        content.point(protocol.blob_pointer(repository().name, name, digest), blob_pointer_to(digest, found.size))
    note("mount", f"{name}@{digest}", f"blob from {source}" if source else "blob")
    return True


def blob_pointer_to(digest: Digest, size: int) -> Pointer:
    return Pointer(digest, size, "application/octet-stream", services().content.now())


def scope_of(name: str) -> str:
    return f"{repository().name}/{name}"


def upload_state(status: int, name: str, session: str, offset: int) -> Response:
    return Answer(status=status, headers=upload_headers(name, session, offset))


def upload_headers(name: str, session: str, offset: int) -> dict[str, str]:
    headers = {
        "Location": address(f"{name}/blobs/uploads/{session}"),
        "Range": protocol.upload_range(offset),
        "Docker-Upload-UUID": session,
    }
    minimum = services().config.docker.chunk_min_bytes
    if minimum and not offset:
        headers["OCI-Chunk-Min-Length"] = str(minimum)
    return headers


def blob_created(name: str, digest: Digest) -> Response:
    return Answer(status=201, headers={"Location": address(f"{name}/blobs/{digest}"), "Docker-Content-Digest": str(digest)})


# Manifests ("Pulling manifests", "Pushing Manifests", "Deleting Manifests", "Deleting tags").


@bp.get("/<path:name>/manifests/<reference>")
@access(PULL)
def get_manifest(name: str, reference: str) -> Response:
    name, wanted = protocol.parse_name(name), protocol.parse_reference(reference)
    stored = find_manifest(name, wanted)
    granted = permit_manifest(name, wanted, stored.digest)
    accept = request.environ.get("HTTP_ACCEPT")
    if isinstance(wanted, str) and not protocol.accepts(accept, stored.media_type):
        stored = acceptable_child(name, stored, accept)
        granted = permit_manifest(name, stored.digest, stored.digest)
    if granted.package.format and request.method == "GET":
        served(granted, str(stored.digest))
    return send(
        granted,
        stored.digest,
        stored.size,
        stored.media_type,
        ManifestUnknown,
        {"Vary": "Accept"} if isinstance(wanted, str) else IMMUTABLE,
    )


@bp.put("/<path:name>/manifests/<reference>")
@access(PUSH)
def put_manifest(name: str, reference: str) -> Response:
    name, target = protocol.parse_name(name), protocol.parse_reference(reference)
    tags = [protocol.parse_tag(tag) for tag in request.args.getlist("tag")]
    wanted = Digest.parse(request.args["digest"]) if "digest" in request.args else None
    if isinstance(target, str):
        tags.insert(0, target)
    else:
        wanted = target
    limit = min(protocol.MANIFEST_BYTES, services().config.server.body_limit_mb << 20)
    data = read_body(request.stream, limit, request.content_length)
    digest = Digest.of(data, wanted.algorithm if wanted else "sha256")
    if wanted and wanted != digest:
        raise DigestMismatch(detail={"expected": str(wanted), "received": str(digest)})
    manifest = protocol.parse_manifest(data, request.headers.get("Content-Type", ""))
    check_references(name, manifest)
    with services().content.changing(scope_of(name)):
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
    name, wanted = protocol.parse_name(name), protocol.parse_reference(reference)
    content, here = services().content, repository().name
    stored = find_manifest(name, wanted)
    if isinstance(wanted, str):
        with content.changing(scope_of(name)):
            content.remove(protocol.tag_pointer(here, name, wanted))
        note("delete", f"{name}:{wanted}", f"manifest {stored.digest}, the tag alone")
        return Answer(status=202)
    with content.changing(scope_of(name)):
        forget_manifest(name, stored)
    note("delete", f"{name}@{wanted}", "manifest")
    return Answer(status=202)


def forget_manifest(name: str, stored: Pointer) -> None:
    content, here, digest = services().content, repository().name, stored.digest
    for tag, leads_to in content.pointers(protocol.tags_folder(here, name)):
        if leads_to.digest == digest:
            content.remove(protocol.tag_pointer(here, name, tag))
    try:
        subject = protocol.parse_manifest(read_manifest(stored), stored.media_type).subject
    except ManifestUnknown:  # its bytes are lost; what is left must be deletable all the same
        subject = None
    if subject:
        content.remove(protocol.referrer_pointer(here, name, subject, digest))
    content.remove(protocol.manifest_pointer(here, name, digest))


def find_manifest(name: str, reference: Digest | str) -> Pointer:
    """Raises ManifestUnknown, also for a tag whose manifest is gone."""
    content, here = services().content, repository().name
    if isinstance(reference, Digest):
        stored = content.pointer(protocol.manifest_pointer(here, name, reference))
    else:
        stored = content.pointer(protocol.tag_pointer(here, name, reference))
    if stored is None or (isinstance(reference, str) and not content.exists(protocol.manifest_pointer(here, name, stored.digest))):
        raise ManifestUnknown(detail={"name": name, "reference": str(reference)})
    return stored


def read_manifest(stored: Pointer) -> bytes:
    try:
        return services().content.read(stored.digest)
    except NotFound:
        raise ManifestUnknown(detail={"digest": str(stored.digest)}) from None


def acceptable_child(name: str, stored: Pointer, accept: str | None) -> Pointer:
    """For a client that does not take the type a tag leads to: the index's default image. Raises ManifestUnknown, as other registries do."""
    if stored.media_type in protocol.INDEXES:
        child = protocol.default_child(protocol.parse_manifest(read_manifest(stored), stored.media_type), accept)
        if child:
            return find_manifest(name, child)
    raise ManifestUnknown(f"the manifest is of type {stored.media_type}, which the request's Accept header does not admit", detail={"name": name})


def check_references(name: str, manifest: Manifest) -> None:
    """Raises ManifestBlobUnknown unless config, layers and children are in this name."""
    content, here = services().content, repository().name
    for digest in manifest.blobs:
        if not content.exists(protocol.blob_pointer(here, name, digest)) or content.stat(digest) is None:
            raise ManifestBlobUnknown(f"the blob {digest} is not in {name}; push it before the manifest", detail={"digest": str(digest)})
    for digest in manifest.children:
        if not content.exists(protocol.manifest_pointer(here, name, digest)):
            raise ManifestBlobUnknown(f"the manifest {digest} is not in {name}; push it before the index", detail={"digest": str(digest)})


def keep_manifest(name: str, manifest: Manifest, stored: Pointer, data: bytes, tags: list[str]) -> None:
    """Bytes first, then what points to them, tags last: whoever finds a tag finds all of it."""
    content, here = services().content, repository().name
    key = protocol.manifest_pointer(here, name, stored.digest)
    with content.together(stored.digest):
        content.keep_bytes(data, stored.digest)
        there = content.point(key, stored)
        content.mark(protocol.name_pointer(here, name))
    if not there.leads_to_the_same(stored):  # the same bytes under another media type
        content.repoint(key, replace(stored, created=there.created))
    if manifest.subject:
        entry = protocol.referrer_pointer(here, name, manifest.subject, stored.digest)
        content.repoint(entry, replace(stored, own=protocol.referrer_members(manifest)))
    for tag in tags:
        content.repoint(protocol.tag_pointer(here, name, tag), stored)


# Listings ("Listing Tags", "Listing Referrers"; the catalog is distribution's own).


@bp.get("/<path:name>/tags/list")
@access(PULL)
def list_tags(name: str) -> Response:
    name, size = protocol.parse_name(name), protocol.page_size(request.args.get("n"))
    content, here = services().content, repository().name
    if not content.exists(protocol.name_pointer(here, name)):
        raise RepositoryUnknown(detail={"name": name})
    shown = visible_tags(name, content.names(protocol.tags_folder(here, name), request.args.get("last", "")))
    page = protocol.take_page(shown, size)
    links = protocol.next_link(address(f"{name}/tags/list"), page, size)
    return Answer(json.dumps({"name": name, "tags": page.entries}), content_type=JSON, headers=links)


@bp.get("/_catalog")
@access(PULL, listing=True)
def catalog() -> Response:
    size, last = protocol.page_size(request.args.get("n")), request.args.get("last", "")
    pointers = services().content.names(protocol.names_folder(repository().name))
    names = sorted(name for name in (protocol.name_of_pointer(pointer) for pointer in pointers) if name > last)
    page = protocol.take_page((name for name in visible_names(names) if may_by_right(PULL, name)), size)
    links = protocol.next_link(address("_catalog"), page, size)
    return Answer(json.dumps({"repositories": page.entries}), content_type=JSON, headers=links)


@bp.get("/<path:name>/referrers/<digest>")
@access(PULL)
def list_referrers(name: str, digest: str) -> Response:
    name, subject = protocol.parse_name(name), Digest.parse(digest)
    size = protocol.page_size(request.args.get("n")) or protocol.REFERRERS_PAGE
    wanted = request.args.get("artifactType")
    content, folder = services().content, protocol.referrers_folder(repository().name, name, subject)
    descriptors = {}
    for referrer in visible_referrers(name, subject, content.names(folder, request.args.get("last", ""))):
        pointer = content.pointer(protocol.referrer_pointer(repository().name, name, subject, Digest.parse(referrer)))
        descriptor = protocol.descriptor_of(pointer) if pointer else None
        if descriptor and wanted in (None, descriptor.get("artifactType")):
            descriptors[referrer] = descriptor
        if len(descriptors) > size:
            break
    page = protocol.take_page(descriptors, size)
    filters = {"artifactType": wanted} if wanted is not None else {}
    headers = protocol.next_link(address(f"{name}/referrers/{digest}"), page, size, **filters)
    if wanted is not None:
        headers["OCI-Filters-Applied"] = "artifactType"
    body = protocol.render_referrers(descriptors[referrer] for referrer in page.entries)
    return Answer(body, content_type=protocol.OCI_INDEX, headers=headers)


# The gate (images.py works out the verdicts).

GRAPHS = Graphs()


def permit_manifest(name: str, reference: Digest | str, digest: Digest) -> Permit:
    """Raises CurationDenied."""
    granted = open_permit()
    if granted is not None:
        return granted
    here, version = repository().name, str(reference)
    key = (here, name, version, digest)
    granted = recall(key, lambda: stamp_of(name))
    if granted is not None:
        return granted
    package = images.package(here, name, version, str(digest), pushed_at(name)(str(digest)))
    if not versions_matter(package):
        return remember(key, permit(package), None)
    stamp, found = stamp_of(name), images_of(name)  # in this order: what changes in between makes the stamp an old one
    granted = permit(package, found.tag(version, str(digest)) if isinstance(reference, str) else found.manifest(version))
    return granted if stamp is None else remember(key, granted, stamp)


def permit_blob(name: str, digest: Digest, is_read: bool) -> Permit:
    """Raises CurationDenied. Who may push is told whether a blob is there: a push asks before it sends and after, and no bytes leave."""
    granted = open_permit()
    if granted is not None:
        return granted
    here = repository().name
    key = (here, name, digest, is_read)
    granted = recall(key, lambda: stamp_of(name))
    if granted is not None:
        return granted
    package = images.package(here, name, str(digest), str(digest))
    if not is_read and may(PUSH, name):
        return permit(package, images.ALLOWED)
    if not versions_matter(package):
        return remember(key, permit(package), None)
    stamp = stamp_of(name)
    granted = permit(package, images_of(name).blob(str(digest), is_read))
    return granted if stamp is None else remember(key, granted, stamp)


def is_free(name: str, digest: Digest) -> bool:
    """May the blob be read under this name? For a mount, which shall not lead it past the gate."""
    try:
        permit_blob(name, digest, is_read=True)
    except CurationDenied:
        return False
    return True


def visible_tags(name: str, tags: Iterable[str]) -> Iterator[str]:
    """The index of a name; raises CurationDenied for a name that is blocked as a whole."""
    if open_permit() is not None:
        return iter(tags)
    package = images.package(repository().name, name)
    permit(package)
    if not versions_matter(package):
        return iter(tags)
    found = images_of(name)
    leads = {tag: digest for digest, names in graph_of(name).tags.items() for tag in names}
    return (tag for tag in tags if tag in leads and found.tag(tag, leads[tag]).allowed)


def visible_names(names: list[str]) -> Iterator[str]:
    if open_permit() is not None:
        return iter(names)
    here = repository().name
    permit(images.package(here, ""), images.ALLOWED)  # the list itself; what is on it is asked one by one
    return (name for name in names if decide(images.package(here, name)).allowed)


def visible_referrers(name: str, subject: Digest, referrers: Iterable[str]) -> Iterator[str]:
    """Raises CurationDenied for a subject that is blocked."""
    if open_permit() is not None:
        return iter(referrers)
    permit_manifest(name, subject, subject)
    found = images_of(name)
    return (referrer for referrer in referrers if found.manifest(referrer).allowed)


def versions_matter(package: Package) -> bool:
    return services().curation.concerns_versions(policy(), package)


def images_of(name: str) -> Images:
    return Images(repository().name, name, graph_of(name), decide, pushed_at(name))


def stamp_of(name: str) -> object | None:
    """The state of all that verdicts on a name's images rest on."""
    return services().content.revision(scope_of(name))


def graph_of(name: str) -> Graph:
    return GRAPHS.of(services().content, repository().name, name)


def pushed_at(name: str) -> Callable[[str], float | None]:
    """When a manifest or a blob came, by its digest. Anything else has no time."""
    content, here = services().content, repository().name

    def when(digest: str) -> float | None:
        found = Digest.parse(digest)
        pointer = content.pointer(protocol.manifest_pointer(here, name, found)) or content.pointer(protocol.blob_pointer(here, name, found))
        return pointer.created if pointer else None

    return when


# Shared by the views.


def address(path: str) -> str:
    """Of something in this repository, as the client must write it."""
    return outside(f"{repository().mount}/{path}")
