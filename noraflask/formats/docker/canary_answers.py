"""What the registry's answers to a canary say of the proxy that they came through."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPMessage

from noraflask.services.doctor import remedies
from noraflask.services.doctor.findings import Finding, ok, wrong
from noraflask.services.doctor.front import Answer, Front
from noraflask.services.doctor.machine import size_text


def remedy_of_413(answer: Answer) -> tuple[str, ...]:
    return ("docker.max_upload_session_size_mb = 20480",) if answer.is_ours else remedies.BODY_LIMIT


def judge_location(front: Front, location: str, absolute: str, asked: str, remedy: tuple[str, ...]) -> Iterator[Finding]:
    """Does it lead back through the front, by scheme, host, port and sub-path?"""
    wanted = front.target.origin + asked
    if not location:
        yield wrong("Location", "is missing in the answer to the start of an upload", *remedies.ANSWER_HEADERS)
    elif not absolute.startswith(wanted):
        yield wrong("Location", f"{location} does not lead through {front.target.base}: clients cannot go on with an upload", *remedy)


def judge_pull(answer: Answer, digest: str, size: int) -> Finding:
    """Of the GET of a layer."""
    if answer.status != 200:
        return wrong("pull", f"of a layer: {answer.told()}", *remedies.UPSTREAM)
    for name in ("X-Accel-Redirect", "X-Sendfile"):
        if answer.headers.get(name):
            empty = " and no bytes do" if not answer.size else ""
            return wrong("pull", f"{name} reaches the client{empty}: the proxy does not act on it", *remedies.ACCEL)
    coding = answer.headers.get("Content-Encoding")
    if coding:
        return wrong("pull", f"the proxy compresses layers ({coding}): their digests are those of other bytes", *remedies.COMPRESSION)
    if answer.cut or answer.size < size:
        text = f"a layer ends after {answer.size} of {size} bytes: {answer.cut or 'the answer says that this is all'}"
        return wrong("pull", text, *remedies.PULL_CUT)
    if answer.digest != digest:
        return wrong("pull", "other bytes come back than were pushed", *remedies.COMPRESSION)
    lost = list(missing_headers(answer.headers, digest))
    if lost:
        return wrong("pull", f"the proxy changes what the registry says of a layer: {', '.join(lost)}", *remedies.ANSWER_HEADERS)
    return ok("pull", f"a layer of {size_text(size)}, whole; Docker-Content-Digest and ETag come through")


def missing_headers(headers: HTTPMessage, digest: str) -> Iterator[str]:
    """What of an answer is not as the registry says it."""
    for name, wanted in (("Docker-Content-Digest", digest), ("ETag", f'"{digest}"')):
        found = headers.get(name)
        if found != wanted:
            yield f"{name} is {found}" if found else f"{name} is missing"
