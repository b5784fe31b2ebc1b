"""The one path by which stored bytes leave: HEAD, conditional requests, ranges, and the server's file_wrapper for the kernel to send,
or a proxy that sends the file itself (accel.py).

RFC 9110: 13 conditional requests, in the order of 13.2.2; 14.2 Range.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from flask import Response, request
from werkzeug.datastructures import Headers
from werkzeug.exceptions import RequestedRangeNotSatisfiable
from werkzeug.http import http_date, parse_date
from werkzeug.wsgi import wrap_file

from noraflask.digest import Digest
from noraflask.errors import NotFound, NotGated, PreconditionFailed
from noraflask.recording import CURRENT
from noraflask.services.curation.gate import Permit
from noraflask.web import byte_ranges
from noraflask.web.accel import internal_path, told_to_proxy
from noraflask.web.byte_ranges import Multipart, Pieces
from noraflask.web.context import HANDED_OVER, SERVED, services

INLINE_BYTES = 64 * 1024
"""Up to this size bytes are read and sent with the headers in one piece; beyond it the kernel sends the file."""


class Answer(Response):
    """A response whose headers are final as the view made them; Flask would copy and look through them once more for each request."""

    default_mimetype = None

    def get_wsgi_headers(self, environ: Any) -> Headers:
        if self.is_sequence and "Content-Length" not in self.headers and self.status_code not in (204, 304):
            self.headers["Content-Length"] = str(sum(len(piece) for piece in self.response))
        return self.headers


class HandedOver(Answer):
    """The head of an answer whose body a proxy sends. Whoever still looks at its headers, as the guard does, finds them like those of the others."""

    def get_wsgi_headers(self, environ: Any) -> Headers:
        return told_to_proxy(self.headers)


def send(
    permit: Permit,
    digest: Digest,
    size: int,
    media_type: str,
    missing: type[NotFound],
    headers: Mapping[str, str],
    modified: float | None = None,
) -> Response:
    """Send content whose digest is known, with the gate's permit (web/gate.py). Raises `missing` when its bytes are not there.

    `headers`: the format's own, among them the strong ETag that conditions are about. `modified`: when it was changed, seconds since the epoch, where
    the format tells clients. Raises PreconditionFailed.
    """
    if not isinstance(permit, Permit) or not _is_for(permit, digest):
        raise NotGated()
    answer = {"Accept-Ranges": "bytes", **headers}
    if modified is not None:
        answer["Last-Modified"] = http_date(modified)
    environ, etag = request.environ, answer.get("ETag", "")
    if _is_not_modified(environ, etag, modified):
        return _whole(b"", 304, answer)
    answer["Content-Type"] = media_type
    environ[SERVED] = True
    start, stop, status = 0, size, 200
    if "HTTP_RANGE" in environ and environ.get("HTTP_IF_RANGE", etag) == etag:  # a date never fits: two changes within a second have the same
        ranges = _ranges(environ["HTTP_RANGE"], size)
        body = byte_ranges.multipart(ranges, size, media_type, str(digest)) if len(ranges) > 1 else None
        if body and body.size < size:
            return _send_parts(body, digest, size, missing, answer)
        if ranges and not body:
            ((start, stop),), status = ranges, 206
            answer["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    answer["Content-Length"] = str(stop - start)
    if environ["REQUEST_METHOD"] == "HEAD":
        return _whole(b"", status, answer)
    content = services().content
    has_date = modified is not None and environ.get("HTTP_IF_RANGE", '"')[-1:] != '"'  # nginx would compare it with Last-Modified
    if size > INLINE_BYTES and not has_date and (path := internal_path(content, environ, digest, size)):
        environ[HANDED_OVER] = stop - start
        return HandedOver(status=status, headers=answer | {"X-Accel-Redirect": path})
    try:
        if size <= INLINE_BYTES:
            data = content.read(digest)
            return _whole(data if status == 200 else data[start:stop], status, answer)
        reader = content.open(digest, start, stop if status == 206 else None)
    except NotFound:
        raise missing(detail={"digest": str(digest)}) from None
    return Answer(wrap_file(environ, reader, 1024 * 1024), status=status, headers=answer, direct_passthrough=True)  # type: ignore[arg-type]


def _whole(data: bytes, status: int, headers: Mapping[str, str]) -> Response:
    """An answer that is complete here and now: a request that is recorded may be answered so again."""
    recording = CURRENT.get()
    if recording is not None:
        recording.body = data
    return Answer(data or None, status=status, headers=headers)


def _is_for(permit: Permit, digest: Digest) -> bool:
    """Whoever asked for certain bytes is not sent others."""
    comparable = [asked for asked in permit.package.digests if asked.startswith(f"{digest.algorithm}:")]
    return not comparable or str(digest) in comparable


def _is_not_modified(environ: Mapping[str, Any], etag: str, modified: float | None) -> bool:
    """RFC 9110, 13.2.2. Raises PreconditionFailed."""
    if "HTTP_IF_MATCH" in environ:
        if not matches(environ["HTTP_IF_MATCH"], etag):
            raise PreconditionFailed()
    elif "HTTP_IF_UNMODIFIED_SINCE" in environ and _is_later(modified, environ["HTTP_IF_UNMODIFIED_SINCE"]):
        raise PreconditionFailed()
    if "HTTP_IF_NONE_MATCH" in environ:
        return matches(environ["HTTP_IF_NONE_MATCH"], etag, weak=True)
    return "HTTP_IF_MODIFIED_SINCE" in environ and _is_later(modified, environ["HTTP_IF_MODIFIED_SINCE"]) is False


def matches(header: str, etag: str, weak: bool = False) -> bool:
    """Does If-Match or If-None-Match name the entity tag of what is there? `weak`: the comparison of RFC 9110, 8.8.3.2, that lets W/ pass."""
    entries = (entry.strip() for entry in header.split(","))
    return header.strip() == "*" or (bool(etag) and etag in (entry.removeprefix("W/") if weak else entry for entry in entries))


def _is_later(modified: float | None, header: str) -> bool | None:
    """Was it changed after that date? None: there is nothing to compare, and the condition is to be ignored."""
    date = parse_date(header)
    return None if modified is None or date is None else int(modified) > date.timestamp()


def _ranges(header: str, size: int) -> list[tuple[int, int]]:
    """None are asked for, or the header is to be ignored: an empty list. Raises 416."""
    try:
        return byte_ranges.parse(header, size) or []
    except byte_ranges.Unsatisfiable:
        raise RequestedRangeNotSatisfiable(size) from None


def _send_parts(body: Multipart, digest: Digest, size: int, missing: type[NotFound], headers: Mapping[str, str]) -> Response:
    answer = {**headers, "Content-Length": str(body.size), "Content-Type": body.content_type}
    if request.method == "HEAD":
        return _whole(b"", 206, answer)
    content = services().content
    try:
        if size <= INLINE_BYTES:
            return _whole(body.of(content.read(digest)), 206, answer)
        data = Pieces(body, partial(content.open, digest))
    except NotFound:
        raise missing(detail={"digest": str(digest)}) from None
    return Answer(data, status=206, headers=answer)
