"""Taking files in: PUT of a whole file, or of the parts of one, and going on with what broke off.

An upload that breaks off stays in staging under the repository, the path and the principal for as long as staging keeps idle uploads. Each request
with a whole body has an upload of its own, so that two writers of one path do not disturb each other; who asks how far it came is told of the newest.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from flask import Response, request

from noraflask.digest import Digest
from noraflask.errors import AlreadyExists, BadRequest, ClientGone, DigestMismatch, NoraError, SizeMismatch, TooLarge, UnsupportedMediaType
from noraflask.formats.raw import protocol
from noraflask.formats.raw.blueprint import bp
from noraflask.formats.raw.conditions import Conditions, Write, check_put, judge_put, may_overwrite, parse_conditions
from noraflask.formats.raw.files import as_file, facts, find, is_folder
from noraflask.formats.raw.protocol import Part
from noraflask.keys import Key
from noraflask.pointer import Pointer
from noraflask.services.metrics import catalogue
from noraflask.services.staging_usage import Unfinished
from noraflask.services.upload import Upload
from noraflask.suspension import Steps
from noraflask.web.access import PUSH, access
from noraflask.web.addresses import outside
from noraflask.web.context import note, principal, repository, services, target, uploader
from noraflask.web.responses import Answer

MOST_UNFINISHED = 64
"""Uploads that broke off and are kept, of each principal in each repository; beyond them a broken one is forgotten at once."""


@dataclass(frozen=True, slots=True)
class Put:
    """What a request asks for, checked as far as it can be before the body is read."""

    name: str
    key: Key
    conditions: Conditions
    overwrite: str
    part: Part | None
    """None: the body is the whole file."""
    announced: tuple[Digest, ...]
    """Digests that the whole file must have."""
    part_digests: tuple[Digest, ...]
    """Digests that this body must have, where it is a part."""
    media_type: str

    @property
    def size(self) -> int | None:
        """Of the whole file; None where the request does not say."""
        return self.part.total if self.part else request.content_length

    @property
    def sha256(self) -> Digest | None:
        return next((digest for digest in self.announced if digest.algorithm == "sha256"), None)


@bp.put("/<file:name>")
@access(PUSH)
def put_file(name: str) -> Steps[Response]:
    put = read_put(name)
    if put.part and not put.part.size:
        found = unfinished(name)
        return Answer(status=204, headers=protocol.offset_headers(found.offset if found else 0))
    check(put)
    with (yield from opened(put)) as upload, forgetting(put, upload):
        yield from receive(put, upload)
        if put.part and upload.offset < put.part.total:
            return Answer(status=202, headers=protocol.offset_headers(upload.offset))
        return finish(put, upload)


def read_put(name: str) -> Put:
    """Raises BadRequest, InvalidDigest, InvalidName, DigestMismatch, UnsupportedMediaType."""
    headers = request.headers
    if headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("files are kept as they come; send the bytes without Content-Encoding")
    conditions = parse_conditions(request.environ)
    check_put(conditions)
    part = protocol.parse_part(headers.get("Content-Range"), request.content_length)
    of_body = protocol.one_of_each(protocol.parse_digest_field("Content-Digest", headers.get("Content-Digest")))
    is_whole = part is None or part.size == part.total
    of_file = protocol.parse_digest_field("Repr-Digest", headers.get("Repr-Digest")) + protocol.parse_checksum(headers.get("X-Checksum-Sha256"))
    return Put(
        name,
        protocol.file_key(repository().name, name),
        conditions,
        repository().settings.overwrite,
        part,
        protocol.one_of_each(of_file + of_body if is_whole else of_file),
        () if is_whole else of_body,
        protocol.media_type(name, headers.get("Content-Type")),
    )


def check(put: Put) -> None:
    """What can be refused before the body is read. Raises PreconditionFailed, AlreadyExists, TooLarge."""
    limit = repository().settings.max_file_size
    if (put.size or 0) > limit:
        raise TooLarge(f"the file is larger than the {limit} bytes that this repository takes (max_file_size)", {"limit_bytes": limit})
    current = find(put.name)
    judge_put(put.conditions, put.overwrite, as_file(current), put.sha256, put.size)
    if current is None:
        check_place(put.name)


def check_place(name: str) -> None:
    """A name is a file's or a folder's: whoever saves what is here must be able to. Raises AlreadyExists."""
    content, repository_name = services().content, repository().name
    above = protocol.folders_above(name)
    for folder in above:
        if content.exists(protocol.file_key(repository_name, folder)):
            raise AlreadyExists(f"{folder} is a file, so nothing can lie below it; choose another path, or delete that file first")
    if is_folder(content, repository_name, name):
        raise AlreadyExists(f"{name} is a folder; choose another name, such as {name}/<file>, or delete the files in it first")


# Uploads on their way.


def unfinished(name: str, offset: int | None = None) -> Unfinished | None:
    """The newest upload of this path and principal; with an offset, the newest that is so far."""
    found = services().staging.unfinished(scope(), session_start(name))
    return next((upload for upload in found if offset is None or upload.offset == offset), None)


def scope() -> str:
    return f"{repository().name}/files"


def session_start(name: str) -> str:
    """What the sessions of a path and a principal begin with."""
    who = principal()
    return hashlib.sha256(f"{who.source.value}\n{who.name}\n{name}".encode()).hexdigest()[:16]


def opened(put: Put) -> Steps[Upload]:
    """The upload that the body belongs to: a new one, or the one that it goes on with."""
    if is_new(put):
        return services().staging.upload(scope(), session_start(put.name), uploader())
    return (yield from services().staging.claim(scope(), session_at(put)))


def is_new(put: Put) -> bool:
    return put.part is None or put.part.first == 0


@contextlib.contextmanager
def forgetting(put: Put, upload: Upload) -> Iterator[None]:
    """What came in before the client broke off stays; after any other failure what this request began is forgotten."""
    try:
        yield
    except (ClientGone, SizeMismatch):
        if is_new(put) and (not upload.offset or len(services().staging.unfinished(scope(), owner=uploader())) > MOST_UNFINISHED):
            upload.discard()
        raise
    except NoraError:
        if is_new(put):
            upload.discard()
        raise


def session_at(put: Put) -> str:
    """The upload that the part goes on with. Raises RangeInvalid."""
    assert put.part is not None
    found = unfinished(put.name, put.part.first)
    if found is None:
        newest = unfinished(put.name)
        protocol.check_offset(put.part, newest.offset if newest else 0)
        raise BadRequest()  # not reached: the offset cannot fit
    return found.session


def receive(put: Put, upload: Upload) -> Steps[None]:
    start = upload.offset
    if put.part and put.part.first:
        protocol.check_offset(put.part, start)  # another request may have gone on with it since we looked
    size = put.part.size if put.part else request.content_length
    try:
        yield from upload.receive(repository().settings.max_file_size, size)
    except SizeMismatch:
        if size is not None and upload.offset - start > size:  # a body in chunks that is longer than its Content-Range
            upload.cut(start)
        raise
    for wanted in put.part_digests:
        if upload.digest_from(start, wanted.algorithm) != wanted:
            upload.cut(start)
            raise DigestMismatch("the bytes of this part do not have the digest that Content-Digest announces; send the part again")


# The file.


def finish(put: Put, upload: Upload) -> Response:
    """Keep the bytes, then let the name lead to them, if the conditions still hold. Raises DigestMismatch, PreconditionFailed, AlreadyExists."""
    digest = check_digests(put, upload)
    content = services().content
    pointer = Pointer(digest, upload.offset, put.media_type, content.now())
    written: list[Write] = []

    def point(current: Pointer | None) -> Pointer:
        write = judge_put(put.conditions, put.overwrite, as_file(current), digest, pointer.size)
        written[:] = [write]
        if write is not Write.SAME or current is None:
            return pointer
        return replace(current, media_type=pointer.media_type) if may_overwrite(put.conditions, put.overwrite) else current

    point(find(put.name))  # so that bytes which no name will lead to are not kept
    is_pointed_to = False
    with content.together(digest):
        content.keep(upload, digest)
        if written[0] is Write.CREATE:
            with contextlib.suppress(AlreadyExists):  # somebody was faster: then the conditions are judged anew
                content.create(put.key, pointer)
                is_pointed_to = True
    if not is_pointed_to:
        with content.lease(digest):
            content.change(put.key, point)
    note("push", put.name, f"file {digest}, {WORDS[written[0]]}")
    services().metrics.count(catalogue.UPLOADS, repository().name)
    location = outside(f"{target().base}/{protocol.address_of(put.name)}")
    return Answer(status=200, headers={**facts(digest), "Location": location})


WORDS = {Write.CREATE: "new", Write.REPLACE: "in place of another", Write.SAME: "which was there already"}


def check_digests(put: Put, upload: Upload) -> Digest:
    """The SHA-256. Raises DigestMismatch; the upload is of no use then."""
    digest = upload.digest("sha256")
    for wanted in put.announced:
        received = digest if wanted.algorithm == "sha256" else upload.digest(wanted.algorithm)
        if received != wanted:
            upload.discard()
            raise DigestMismatch(
                f"the bytes received have the {received.algorithm} {received.hex}, and {wanted.hex} was announced; nothing was stored",
                {"expected": str(wanted), "received": str(received), "bytes": upload.offset},
            )
    return digest
