"""What each kind of hostile client does, as a script: a generator of things to do, begun anew on each connection."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Write:
    data: bytes


@dataclass(frozen=True)
class Pause:
    """What comes meanwhile is read and thrown away."""

    seconds: float


@dataclass(frozen=True)
class Answers:
    """Wait for so many; the script is given status and head of the last one."""

    count: int = 1


@dataclass(frozen=True)
class Deaf:
    """Never read again."""


Script = Generator[Write | Pause | Answers | Deaf, tuple[int, bytes], str]
FOREVER = 1e6


@dataclass
class Target:
    """What the scripts must know of the registry; all paths begin with /."""

    session_login: str
    """Value of Authorization, for the one who opens sessions without end."""
    upload_login: str
    """For those whose uploads are slow."""
    layer: str = "/v2/"
    """Of some MiB."""
    index: str = "/v2/"
    """An image index of 4 MB."""
    referrers: str = "/v2/"
    """Of a subject with many MB of annotations."""
    slow_bytes: int = 8192
    """Length of a slow upload that is allowed, at SLOW_RATE bytes a second."""
    sessions: dict[str, bytes] = field(default_factory=dict)

    def head(self, method: str, path: str, *fields: str, login: str = "") -> bytes:
        named = [f"Authorization: {login}"] if login else []
        return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: registry", *named, *fields, "", "")).encode("latin-1")


SLOW_RATE = 2048
UNFINISHED = "Content-Length: 1048576"
CHUNKED = "Transfer-Encoding: chunked"
SOME_DIGEST = "sha256:" + "5" * 64
BURST = b"x" * 100 * 1024
HOLD = b"x" * 8


def location_of(head: bytes) -> str:
    found = next(line.partition(b":")[2].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"location:")).decode()
    parts = urlsplit(found)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


# ---- who waits


def mute(target: Target) -> Script:
    yield Pause(FOREVER)
    return "ended"


def idle(target: Target) -> Script:
    """A connection kept alive after a proper request."""
    yield Write(target.head("GET", "/v2/", login=target.upload_login))
    yield Answers()
    yield Pause(FOREVER)
    return "ended"


def slow_head(target: Target) -> Script:
    yield Write(b"GET /v2/ HTTP/1.1\r\nHost: registry\r\nX-Slow: ")
    while True:
        yield Pause(1)
        yield Write(b"x")


def silent_token_body(target: Target) -> Script:
    yield Write(target.head("POST", "/v2/token", "Content-Type: application/x-www-form-urlencoded", "Content-Length: 100"))
    yield Pause(FOREVER)
    return "ended"


def silent_manifest_body(target: Target) -> Script:
    fields = ("Content-Type: application/vnd.oci.image.manifest.v1+json", "Content-Length: 500")
    yield Write(target.head("PUT", "/v2/drip/app/manifests/v1", *fields, login=target.upload_login))
    yield Pause(FOREVER)
    return "ended"


# ---- who sends slowly


def slow_upload(target: Target) -> Script:
    """In one request, a byte a second."""
    path = f"/v2/drip/app/blobs/uploads/?digest={SOME_DIGEST}"
    yield Write(target.head("POST", path, UNFINISHED, login=target.upload_login))
    while True:
        yield Pause(1)
        yield Write(b"x")


def slow_patch(target: Target) -> Script:
    """Into a session of its own, in chunks of a byte."""
    yield Write(target.head("POST", "/v2/drip/app/blobs/uploads/", "Content-Length: 0", login=target.upload_login))
    status, head = yield Answers()
    if status != 202:
        yield Pause(2)
        return "refused"
    yield Write(target.head("PATCH", location_of(head), CHUNKED, login=target.upload_login))
    while True:
        yield Pause(1)
        yield Write(b"1\r\nx\r\n")


def burst_upload(target: Target) -> Script:
    """100 KiB at once, as from somebody who is fast, and then a byte a second."""
    path = f"/v2/drip/app/blobs/uploads/?digest={SOME_DIGEST}"
    yield Write(target.head("POST", path, UNFINISHED, login=target.upload_login) + BURST)
    while True:
        yield Pause(1)
        yield Write(b"x")


def allowed_upload(target: Target) -> Script:
    """As slow as it may be, and right to the end."""
    data = b"slowly " * (target.slow_bytes // 7 + 1)
    target.sessions["count"] = number = b"%d" % (int(target.sessions.get("count", b"0")) + 1)
    data = (number + b" " + data)[: target.slow_bytes]
    yield Write(target.head("POST", "/v2/drip/slow/blobs/uploads/", "Content-Length: 0", login=target.upload_login))
    status, head = yield Answers()
    if status != 202:
        return f"session refused {status}"
    location, digest = location_of(head), hashlib.sha256(data).hexdigest()
    path = f"{location}{'&' if '?' in location else '?'}digest=sha256:{digest}"
    yield Write(target.head("PUT", path, f"Content-Length: {len(data)}", login=target.upload_login))
    for at in range(0, len(data), SLOW_RATE):
        yield Write(data[at : at + SLOW_RATE])
        yield Pause(1)
    status, _ = yield Answers()
    return "whole" if status == 201 else f"refused {status}"


def busy_holder(target: Target) -> Script:
    """Opens the session that many others write to, and keeps it busy with a PATCH that never ends."""
    yield Write(target.head("POST", "/v2/drip/app/blobs/uploads/", "Content-Length: 0", login=target.upload_login))
    status, head = yield Answers()
    if status != 202:
        yield Pause(2)
        return "refused"
    target.sessions["busy"] = location_of(head).encode()
    yield Write(target.head("PATCH", location_of(head), UNFINISHED, login=target.upload_login) + HOLD)
    while True:
        yield Pause(1)
        yield Write(b"x")


def busy_session(target: Target) -> Script:
    """A small PATCH to a session that another one holds."""
    while "busy" not in target.sessions:
        yield Pause(0.1)
    while True:
        yield Write(target.head("PATCH", target.sessions["busy"].decode(), "Content-Length: 10", login=target.upload_login) + b"x" * 10)
        yield Answers()
        yield Pause(0.5)


def _trailer(target: Target, size: int) -> Script:
    path = f"/v2/drip/app/blobs/uploads/?digest={SOME_DIGEST}"
    yield Write(target.head("POST", path, CHUNKED, login=target.upload_login) + b"3\r\nxxx\r\n0\r\nX-Trailer: " + b"x" * size)
    while True:
        yield Pause(0.05 if size > 1_000_000 else 0.5)
        yield Write(b"x")


def trailer(target: Target) -> Script:
    """A chunked body whose trailer does not end."""
    return _trailer(target, 2000)


def large_trailer(target: Target) -> Script:
    return _trailer(target, 3_000_000)


def chunk_extension(target: Target) -> Script:
    """A line with the size of a chunk that does not end."""
    path = f"/v2/drip/app/blobs/uploads/?digest={SOME_DIGEST}"
    yield Write(target.head("POST", path, CHUNKED, login=target.upload_login) + b"3;x=" + b"x" * 3_000_000)
    while True:
        yield Pause(0.05)
        yield Write(b"x")


def trailer_lines(target: Target) -> Script:
    """A trailer of many short fields."""
    path = f"/v2/drip/app/blobs/uploads/?digest={SOME_DIGEST}"
    yield Write(target.head("POST", path, CHUNKED, login=target.upload_login) + b"0\r\n" + b"a:b\r\n" * 600_000)
    while True:
        yield Pause(0.05)
        yield Write(b"a:b\r\n")


# ---- who does not read


def deaf_reader(target: Target) -> Script:
    yield Write(target.head("GET", target.layer))
    yield Deaf()
    return "ended"


# ---- who asks for much


def pipelined(path: str, count: int, pause: float) -> Callable[[Target], Script]:
    def script(target: Target) -> Script:
        while True:
            yield Write(target.head("GET", path) * count)
            yield Answers(count)
            yield Pause(pause)

    return script


def sessions_without_end(target: Target) -> Script:
    while True:
        yield Write(target.head("POST", "/v2/mallory/app/blobs/uploads/", "Content-Length: 0", login=target.session_login))
        yield Answers()
        yield Pause(0.1)


def long_name(target: Target) -> Script:
    number = 0
    while True:
        number += 1
        target.sessions["names"] = b"%d" % (int(target.sessions.get("names", b"0")) + 1)
        name = f"n{target.sessions['names'].decode()}/" + "a" * 7980
        yield Write(target.head("GET", f"/v2/{name}/{'tags/list' if number % 2 else 'manifests/v1'}"))
        yield Answers()
        yield Pause(0.5)


def repeated(path_of: Callable[[Target], str], *fields: str, pause: float) -> Callable[[Target], Script]:
    def script(target: Target) -> Script:
        while True:
            yield Write(target.head("GET", path_of(target), *fields))
            yield Answers()
            yield Pause(pause)

    return script


KINDS: dict[str, Callable[[Target], Script]] = {
    "mute": mute,
    "idle": idle,
    "slow head": slow_head,
    "silent token body": silent_token_body,
    "silent manifest body": silent_manifest_body,
    "slow upload": slow_upload,
    "slow patch": slow_patch,
    "burst upload": burst_upload,
    "allowed upload": allowed_upload,
    "busy holder": busy_holder,
    "busy session": busy_session,
    "trailer": trailer,
    "large trailer": large_trailer,
    "trailer lines": trailer_lines,
    "chunk extension": chunk_extension,
    "deaf reader": deaf_reader,
    "pipelined metrics": pipelined("/metrics", 60, 2),
    "pipelined health": pipelined("/health", 60, 2),
    "1200 metrics": pipelined("/metrics", 1200, FOREVER),
    "12 metrics": pipelined("/metrics", 12, FOREVER),
    "12 healths": pipelined("/health", 12, FOREVER),
    "sessions without end": sessions_without_end,
    "long name": long_name,
    "index of another type": repeated(lambda target: target.index, "Accept: application/vnd.oci.image.manifest.v1+json", pause=1),
    "referrers": repeated(lambda target: target.referrers, pause=1),
}
ONCE = frozenset({"allowed upload", "1200 metrics", "12 metrics", "12 healths"})
"""Kinds that do not come back when their connection is gone."""

MIX = {
    "mute": 200,
    "idle": 280,
    "slow head": 250,
    "silent token body": 250,
    "silent manifest body": 150,
    "slow upload": 150,
    "slow patch": 100,
    "burst upload": 130,
    "busy holder": 1,
    "busy session": 60,
    "trailer": 90,
    "large trailer": 4,
    "trailer lines": 3,
    "chunk extension": 3,
    "deaf reader": 220,
    "pipelined metrics": 20,
    "pipelined health": 13,
    "sessions without end": 20,
    "long name": 40,
    "index of another type": 8,
    "referrers": 8,
}
"""The 2,000 of the siege."""
