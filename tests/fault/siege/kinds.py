"""What each kind of hostile client does, as a script: a generator of things to do, begun anew on each connection."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from .steps import FOREVER, Answers, Deaf, Pause, Script, Target, Write, location_of

SLOW_RATE = 2048
UNFINISHED = "Content-Length: 1048576"
CHUNKED = "Transfer-Encoding: chunked"
SOME_DIGEST = "sha256:" + "5" * 64
BURST = b"x" * 100 * 1024
HOLD = b"x" * 8


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


def silent_api_body(target: Target) -> Script:
    yield Write(target.head("POST", "/api/tokens", "Content-Type: application/json", "Content-Length: 100"))
    yield Pause(FOREVER)
    return "ended"


def silent_continue(target: Target) -> Script:
    """Announces a body, asks whether to send it, and then does not."""
    fields = ("Expect: 100-continue", UNFINISHED)
    yield Write(target.head("POST", f"/v2/drip/app/blobs/uploads/?digest={SOME_DIGEST}", *fields, login=target.upload_login))
    yield Pause(FOREVER)
    return "ended"


def tls_hello(target: Target) -> Script:
    """The beginning of TLS, on a port that does not speak it."""
    yield Write(bytes.fromhex("16030100fa010000f60303") + b"\0" * 40)
    yield Pause(FOREVER)
    return "ended"


def silent_manifest_body(target: Target) -> Script:
    fields = ("Content-Type: application/vnd.oci.image.manifest.v1+json", "Content-Length: 500")
    yield Write(target.head("PUT", "/v2/drip/app/manifests/v1", *fields, login=target.upload_login))
    yield Pause(FOREVER)
    return "ended"


# ---- who sends slowly


def slow_token_body(target: Target) -> Script:
    yield Write(target.head("POST", "/v2/token", "Content-Type: application/x-www-form-urlencoded", "Content-Length: 1000"))
    while True:
        yield Pause(1)
        yield Write(b"x")


def slow_raw_file(target: Target) -> Script:
    yield Write(target.head("PUT", "/raw/drip/file", UNFINISHED, login=target.upload_login))
    while True:
        yield Pause(1)
        yield Write(b"x")


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
    data = (b"%d slowly " % next(target.numbers) * target.slow_bytes)[: target.slow_bytes]
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
    target.busy_session = location_of(head)
    yield Write(target.head("PATCH", target.busy_session, UNFINISHED, login=target.upload_login) + HOLD)
    while True:
        yield Pause(1)
        yield Write(b"x")


def busy_session(target: Target) -> Script:
    """A small PATCH to a session that another one holds."""
    while not target.busy_session:
        yield Pause(0.1)
    while True:
        yield Write(target.head("PATCH", target.busy_session, "Content-Length: 10", login=target.upload_login) + b"x" * 10)
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


def _endless(target: Target, beginning: bytes, piece: bytes) -> Script:
    """Much of a part of the framing that does not end, and then little by little."""
    yield Write(target.head("POST", f"/v2/drip/app/blobs/uploads/?digest={SOME_DIGEST}", CHUNKED, login=target.upload_login) + beginning)
    while True:
        yield Pause(0.05)
        yield Write(piece)


def chunk_extension(target: Target) -> Script:
    """A line with the size of a chunk that does not end."""
    return _endless(target, b"3;x=" + b"x" * 3_000_000, b"x")


def trailer_lines(target: Target) -> Script:
    """A trailer of many short fields."""
    return _endless(target, b"0\r\n" + b"a:b\r\n" * 600_000, b"a:b\r\n")


# ---- who does not read


def deaf_reader(target: Target) -> Script:
    yield Write(target.head("GET", target.layer))
    yield Deaf()
    return "ended"


def deaf_asker(target: Target) -> Script:
    """Hundreds of small questions at once, and reads no answer."""
    yield Write(target.head("GET", "/v2/team/app/manifests/v1", "Accept: */*") * 100)
    yield Deaf()
    return "ended"


def slow_reader(target: Target) -> Script:
    """Of an answer that its socket has no room for it takes a little at a time."""
    yield Write(target.head("GET", target.layer))
    while True:
        yield Deaf(1)


def rude(target: Target) -> Script:
    """Is gone before its answer."""
    yield Write(target.head("GET", target.layer))
    yield Pause(0.5)
    return "gone"


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
    for number in target.numbers:
        name = f"n{number}/" + "a" * 7980
        yield Write(target.head("GET", f"/v2/{name}/{'tags/list' if number % 2 else 'manifests/v1'}"))
        yield Answers()
        yield Pause(0.5)
    return "ended"


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
    "silent api body": silent_api_body,
    "silent continue": silent_continue,
    "tls hello": tls_hello,
    "slow token body": slow_token_body,
    "slow raw file": slow_raw_file,
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
    "deaf asker": deaf_asker,
    "slow reader": slow_reader,
    "rude": rude,
    "pipelined metrics": pipelined("/metrics", 60, 2),
    "pipelined health": pipelined("/health", 60, 5),
    "1200 metrics": pipelined("/metrics", 1200, FOREVER),
    "12 metrics": pipelined("/metrics", 12, FOREVER),
    "12 healths": pipelined("/health", 12, FOREVER),
    "sessions without end": sessions_without_end,
    "long name": long_name,
    "index of another type": repeated(lambda target: target.index, "Accept: application/vnd.oci.image.manifest.v1+json", pause=1),
    "referrers": repeated(lambda target: target.referrers, pause=1),
}
NARROW = frozenset({"deaf reader", "deaf asker", "slow reader"})
"""Kinds whose sockets have little room for what comes."""
ONCE = frozenset({"allowed upload", "1200 metrics", "12 metrics", "12 healths"})
"""Kinds that do not come back when their connection is gone."""

MIX = {
    "mute": 150,
    "idle": 254,
    "slow head": 200,
    "silent token body": 200,
    "silent manifest body": 100,
    "silent api body": 50,
    "silent continue": 50,
    "tls hello": 20,
    "slow token body": 100,
    "slow raw file": 50,
    "slow upload": 150,
    "slow patch": 100,
    "burst upload": 120,
    "busy holder": 1,
    "busy session": 60,
    "trailer": 80,
    "large trailer": 4,
    "trailer lines": 3,
    "chunk extension": 3,
    "deaf reader": 150,
    "deaf asker": 10,
    "slow reader": 20,
    "rude": 10,
    "pipelined metrics": 20,
    "pipelined health": 19,
    "sessions without end": 20,
    "long name": 40,
    "index of another type": 8,
    "referrers": 8,
}
"""The 2,000 of the siege."""
