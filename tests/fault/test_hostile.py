"""Input that no honest client sends. Each gets a refusal that says why, or a closed connection; nothing is stored, logged as a fault or killed by it.

Bare sockets all the way: a proper client library would not let these out.
"""

from __future__ import annotations

import json
import random
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server import Server

from .conftest import all_workers, assert_well, lasting
from .oci import MANIFEST_TYPE, Answer, Client, Wire, config_of, digest_of, manifest_of, noise, with_digest

CODES = frozenset({
    "BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN", "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN", "SIZE_INVALID", "UNAUTHORIZED", "DENIED", "UNSUPPORTED", "TOOMANYREQUESTS",
})  # fmt: skip
"""OCI distribution-spec, "Error Codes": the closed list."""
ANSWER_SECONDS = 10
LAYER = noise(4000, "hostile layer")
CONFIG = config_of(LAYER)
MANIFEST = manifest_of(CONFIG, LAYER)
APP = "/v2/hostile/app"
examples = settings(max_examples=80, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="nora-fault-") as folder, Server(Path(folder)) as server, Client(server.port) as client:
        client.push_image("hostile/app", "v1", LAYER)
        assert_well(server, all_workers(server))
        yield server


@pytest.fixture
def alive(shared: Server) -> Iterator[Server]:
    """After the test: the same processes, nothing in the log that should not be there, and proper requests work."""
    workers, faults = all_workers(shared), shared.log_faults()
    yield shared
    assert_well(shared, workers)
    assert shared.log_faults() == faults


@pytest.fixture
def server(alive: Server) -> Iterator[Server]:
    """As `alive`, and the storage is as it was before the test."""
    before = tree(alive)
    yield alive
    assert tree(alive) == before


def tree(server: Server) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_size) for path in lasting(path for path in server.storage.rglob("*") if path.is_file()))


def send(server: Server, request: bytes, method: str = "GET") -> Answer | None:
    """The answer to these bytes; None when the server closes without one. A server that does neither in time fails the test."""
    with Wire(server.port, timeout=ANSWER_SECONDS) as wire:
        wire.send(request)
        return wire.answer(method)


def request(target: bytes | str, method: str = "GET", headers: bytes = b"", body: bytes | None = None) -> bytes:
    line = method.encode() + b" " + (target.encode() if isinstance(target, str) else target) + b" HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
    length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
    return line + headers + length + b"\r\n" + (body or b"")


def assert_refused(answer: Answer | None, *statuses: int, http: bool = True, codes: frozenset[str] = CODES) -> None:
    """A 4xx with the spec's JSON; where the request was not even HTTP (`http=False`) any 4xx or a closed connection."""
    if answer is None:
        assert not http, "the connection was closed without an answer"
        return
    assert 400 <= answer.status < 500, answer
    assert not statuses or answer.status in statuses, answer
    if http:
        assert answer.code in codes, answer
        assert answer.headers["Content-Type"].startswith("application/json")


def assert_survived(answer: Answer | None) -> None:
    """Taken or refused, but not broken by it; a refusal has the spec's form."""
    if answer is not None:
        assert answer.status < 500, answer
        assert answer.status < 400 or answer.code in CODES or not answer.body, answer


# ---------------------------------------------------------------------------------------------------------- names and references

BAD_NAMES = [
    *("..", "../..", "../../../../etc/passwd", "a/../b", "a/./b", "a//b", "/a", "a/", "./a"),
    *("%2e%2e", "%2e%2e/%2e%2e", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "a/%2e%2e/b", "%252e%252e", "%252e%252e%252f", "..%2f..",
      "..%c0%af..", "%c0%ae%c0%ae"),
    *("..%5c..", "..\\..", "a\\b", "a%5cb", "%00", "a%00", "a%00b", "..%00", "a%0ab", "a%0d%0aX-Injected:%20y", "a%20b", "a%09b", "a%7fb"),
    *("A", "Upper/app", "a/B", "%41", "%C3%A9", "%c3%a9/app", "%EF%BC%8E%EF%BC%8E", "%FF%FE", "%ED%A0%80", "%F4%90%80%80", "%D9%A3",
      "%E2%80%AE"),
    *("-a", "a-", "_a", "a_", ".a", "a.", "a..b", "a___b", "a._b", "a/-b", "a/_b", "a:b", "a@b", "a;b", "a,b", "a*b", "~a", "a%3fb",
      "a%23b", "%", "a%", "%zz", "%u002e"),
    *(".incoming", ".names", "_tags", "a/_tags/b", "a/_manifests", "%2eincoming", "blobs/_blobs", "a/.lock"),
    *("a" * 256, "a/" * 127 + "aa", "a" * 3000, "%61" * 300),
]  # fmt: skip
NOT_HTTP_NAMES = ["a b", "é", "a\x00b", "a\x01b", "a\x7fb", "a" * 100_000, "%2e%2e/" * 5000, "a\tb"]
PLACES = {
    "manifests": ("/v2/{}/manifests/v1", ("GET", "HEAD", "PUT", "DELETE")),
    "blobs": (f"/v2/{{}}/blobs/{digest_of(LAYER)}", ("GET", "HEAD", "DELETE")),
    "uploads": ("/v2/{}/blobs/uploads/", ("POST",)),
    "upload": (f"/v2/{{}}/blobs/uploads/{'0' * 32}", ("GET", "PATCH", "PUT", "DELETE")),
    "tags": ("/v2/{}/tags/list", ("GET",)),
    "referrers": (f"/v2/{{}}/referrers/{digest_of(MANIFEST)}", ("GET",)),
    "reference": (APP + "/manifests/{}", ("GET", "HEAD", "PUT", "DELETE")),
    "digest": (APP + "/blobs/{}", ("GET", "HEAD", "DELETE")),
    "session": (APP + "/blobs/uploads/{}", ("GET", "PATCH", "PUT", "DELETE")),
}
GOOD_TAGS = frozenset({"A", "a_", "a-", "a.", "_a", "a..b", "a___b", "a._b", "_tags", "%41"})


def hostile_request(place: str, name: str, method: str) -> bytes:
    body = {"PUT": MANIFEST, "PATCH": b"x", "POST": b""}.get(method)
    headers = f"Content-Type: {MANIFEST_TYPE}\r\n".encode() if method == "PUT" else b""
    return request(PLACES[place][0].format(name), method, headers, body)


@pytest.mark.parametrize("place", PLACES)
def test_bad_names_are_refused_everywhere(server: Server, place: str) -> None:
    for name in BAD_NAMES:
        if place in ("reference", "digest", "session") and (name in GOOD_TAGS or name in ("/a", "a/", "a//b", "./a")):
            continue
        for method in PLACES[place][1]:
            answer = send(server, hostile_request(place, name, method), method)
            assert_refused(answer, 400, 404, 405, 414, http=method != "HEAD" and len(name) < 2000)


@pytest.mark.parametrize("place", PLACES)
def test_names_that_http_forbids_are_refused_everywhere(server: Server, place: str) -> None:
    for name in NOT_HTTP_NAMES:
        for method in PLACES[place][1]:
            assert_refused(send(server, hostile_request(place, name, method), method), http=False)


def test_non_utf8_bytes_in_a_target(server: Server) -> None:
    for raw in (b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xe9", b"a\x80b", bytes(range(128, 256))):
        for target in (b"/v2/" + raw + b"/manifests/v1", b"/v2/hostile/app/manifests/" + raw, b"/v2/hostile/app/tags/list?last=" + raw, b"/" + raw):
            answer = send(server, request(target))
            assert answer is None or answer.status < 500, answer


FRAGMENTS = [
    "..", ".", "/", "//", "%2e", "%2f", "%5c", "%00", "%", "%25", "a", "A", "_", "-", "v2", "blobs", "uploads", "manifests", "tags",
    "list", "sha256:", "0" * 64, "?", "&", "=", "#", ";", "\\", "%ff", "%c3%a9", "app", "hostile", "referrers", "_catalog",
]  # fmt: skip


@examples
@given(parts=st.lists(st.sampled_from(FRAGMENTS), max_size=12), method=st.sampled_from(["GET", "HEAD", "DELETE", "PATCH"]))
def test_any_path_gets_an_answer(server: Server, parts: list[str], method: str) -> None:
    target = "/v2/" + "".join(parts)
    answer = send(server, request(target, method, body=b"" if method == "PATCH" else None), method)
    assert answer is not None
    assert answer.status < 500, (target, answer)
    assert method == "HEAD" or answer.status < 400 or answer.code in CODES, (target, answer)


BAD_DIGESTS = [
    *("sha256:", "sha256", ":", "sha256:x", "sha256:" + "0" * 63, "sha256:" + "0" * 65, "sha256:" + "A" * 64, "SHA256:" + "0" * 64,
      "sha256:" + "g" * 64),
    *("sha1:" + "0" * 40, "md5:" + "0" * 32, "sha384:" + "0" * 96, "sha512:" + "0" * 64, "sha256:" + "0" * 128, "sha256+b64:" + "0" * 64,
      "blake3:" + "0" * 64),
    *("sha256:" + "%D9%A3" * 64, "sha256:" + "%EF%BC%90" * 64, "sha256:" + "0" * 64 + "%0a", "%20sha256:" + "0" * 64,
      "sha256:" + "0" * 63 + "%00"),
    *("sha256:../../../etc/passwd", "sha256:..%2f..%2f", "sha256%3A", "sha256::" + "0" * 64, "sha256:" + "0" * 64 + ":" + "0" * 64,
      "a:b", "sha256:" + "0" * 3000),
]  # fmt: skip


@pytest.mark.parametrize("digest", BAD_DIGESTS, ids=range(len(BAD_DIGESTS)))
def test_bad_digests_are_refused_everywhere(server: Server, digest: str) -> None:
    with Client(server.port) as client:
        location = client.begin("hostile/app")
        for method, target in (
            *((method, f"{APP}/blobs/{digest}") for method in ("GET", "DELETE")),
            *((method, f"{APP}/manifests/{digest}") for method in ("GET", "PUT", "DELETE")),
            ("GET", f"{APP}/referrers/{digest}"),
            ("PUT", with_digest(location, digest)),
            ("POST", f"{APP}/blobs/uploads/?digest={digest}"),
        ):
            assert_refused(send(server, request(target, method, body=b"{}" if method in ("PUT", "POST") else None)), 400, 404)
        assert_survived(send(server, request(f"{APP}/blobs/uploads/?mount={digest}&from=hostile/app", "POST", body=b"")))
        assert client.ask("DELETE", location).status == 204


# --------------------------------------------------------------------------------------------------------------- query strings

ODD = ["-1", "abc", "1e3", "0x10", "1.5", "", "%00", "1" + "0" * 30, "1" + "0" * 5000, "%D9%A3", "+5", "%205", "1,2", "NaN", "\u0663"]
QUERIES = [
    *(f"n={value}" for value in ODD),
    *(f"last={value}" for value in ("%00", "%ff%fe", "..%2f..", "a" * 3000, "%ED%A0%80", "", "v1%0a", "*", "v1&last=v2")),
    *("n=1&n=2", "n", "=", "&&&&", "%", "%zz=%zz", "n=1;last=v1", "a=1&" * 900, "n=1&last=%00&n=-1", "n%00=1", "[]=1", "n[]=1"),
    *("artifactType=%00", "artifactType=%ff%fe", "artifactType=a%0d%0ab", "artifactType=" + "a/" * 1000, "artifactType=a&artifactType=b",
      "artifactType=%22%3e"),
    *("digest=x&digest=y", "mount=x&mount=y&from=z", "from=../..", "ns=docker.io", "ns=%00", "tag=..", "tag=%00&tag=a"),
]  # fmt: skip


@pytest.mark.parametrize(
    "path", [f"{APP}/tags/list", "/v2/_catalog", f"{APP}/referrers/{digest_of(MANIFEST)}", f"{APP}/manifests/v1", "/v2/", "/health"]
)
def test_odd_queries(server: Server, path: str) -> None:
    for query in QUERIES:
        answer = send(server, request(f"{path}?{query}"))
        if path.startswith("/v2/") and query.isascii() and len(query) < 3000:
            assert answer is not None, query
            assert_survived(answer)
        else:
            assert answer is None or answer.status < 500, (query, answer)


def test_odd_queries_on_uploads(server: Server) -> None:
    good = digest_of(LAYER)
    for query in (f"digest={good}&digest={digest_of(CONFIG)}", f"digest={digest_of(b'?')}&digest={good}", "digest", "digest=%00", f"Digest={good}"):
        with Client(server.port) as client:
            location = client.begin("hostile/app")
            separator = "&" if "?" in location else "?"
            assert_refused(send(server, request(f"{location}{separator}{query}", "PUT", body=b"not the layer")), 400)
            client.ask("DELETE", location)
    for query in (
        "mount=..&from=..",
        f"mount={good}&from=../..",
        f"mount={good}&from=%00",
        f"mount={good}&from={'a' * 3000}",
        f"mount={good}&from=UPPER",
        "mount=&from=",
    ):
        answer = send(server, request(f"{APP}/blobs/uploads/?{query}", "POST", body=b""))
        assert answer is not None
        assert answer.status in (202, 400, 404), (query, answer)
        if answer.status == 202:
            with Client(server.port) as client:
                assert client.ask("DELETE", answer.location).status == 204


# ------------------------------------------------------------------------------------------------------- requests and headers

NOT_HTTP = {
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
    "noise": noise(4000, "not http") + b"\r\n\r\n",
    "nul": bytes(10_000) + b"\r\n\r\n",
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http 0.9": b"GET /v2/\r\n\r\n",
    "version 9": b"GET /v2/ HTTP/9.9\r\nHost: x\r\n\r\n",
    "version long": b"GET /v2/ HTTP/1." + b"1" * 500 + b"\r\nHost: x\r\n\r\n",
    "no version": b"GET /v2/ \r\nHost: x\r\n\r\n",
    "two spaces": b"GET  /v2/  HTTP/1.1\r\nHost: x\r\n\r\n",
    "no target": b"GET HTTP/1.1\r\nHost: x\r\n\r\n",
    "lower method": b"get /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "method nul": b"G\x00T /v2/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "method long": b"A" * 9000 + b" /v2/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "line endless": b"GET /" + b"a" * 200_000,
    "header endless": b"GET /v2/ HTTP/1.1\r\nX: " + b"a" * 2_000_000,
    "headers many": b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(5000)) + b"\r\n",
    "header large": b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    "header no colon": b"GET /v2/ HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n",
    "header no name": b"GET /v2/ HTTP/1.1\r\nHost: x\r\n: nonsense\r\n\r\n",
    "header space": b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX Y: z\r\n\r\n",
    "header space colon": b"PATCH /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\nhello",
    "header fold": b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n",
    "header nul": b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
    "header cr": b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n",
    "header name bytes": b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX\xff: a\r\n\r\n",
    "bare lf": b"GET /v2/ HTTP/1.1\nHost: x\n\n",
    "absolute": b"GET http://other/v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "connect": b"CONNECT other:443 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "fragment": b"GET /v2/#/../ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "no slash": b"GET v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "empty": b"\r\n\r\n\r\n\r\n",
}


@pytest.mark.parametrize("kind", NOT_HTTP)
def test_what_is_not_http(server: Server, kind: str) -> None:
    with Wire(server.port, timeout=ANSWER_SECONDS) as wire:
        wire.send(NOT_HTTP[kind])
        if not NOT_HTTP[kind].endswith(b"\n") or kind == "empty":
            wire.sock.shutdown(1)  # it would rightly wait for the rest
        answer = wire.answer()
    assert answer is None or answer.status < 500, answer


LENGTHS = {
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n",
    "same length twice": b"Content-Length: 5\r\nContent-Length: 5\r\n",
    "list": b"Content-Length: 5, 5\r\n",
    "negative": b"Content-Length: -5\r\n",
    "plus": b"Content-Length: +5\r\n",
    "hex": b"Content-Length: 0x5\r\n",
    "float": b"Content-Length: 5.0\r\n",
    "words": b"Content-Length: five\r\n",
    "empty": b"Content-Length: \r\n",
    "underscore": b"Content-Length: 1_0\r\n",
    "arabic": "Content-Length: \u0665\r\n".encode(),
    "huge": b"Content-Length: 1" + b"0" * 30 + b"\r\n",
    "vast": b"Content-Length: " + b"9" * 6000 + b"\r\n",
    "both": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "both other way": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "chunked twice": b"Transfer-Encoding: chunked, chunked\r\n",
    "chunked two headers": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "chunked first": b"Transfer-Encoding: chunked, gzip\r\n",
    "gzip": b"Transfer-Encoding: gzip, chunked\r\n",
    "identity": b"Transfer-Encoding: identity\r\n",
    "unknown": b"Transfer-Encoding: xchunked\r\n",
    "tab": b"Transfer-Encoding:\tchunked\r\n",
    "vertical tab": b"Transfer-Encoding: \x0bchunked\r\n",
    "underscored": b"Transfer_Encoding: chunked\r\nContent_Length: 5\r\nContent-Length: 5\r\n",
}


@pytest.mark.parametrize("kind", LENGTHS)
def test_lengths_that_contradict_themselves(server: Server, kind: str) -> None:
    """Whatever of it is taken as a body, the bytes after it must never be taken for a second request on the session."""
    with Client(server.port) as client:
        location = client.begin("hostile/app")
        smuggled = f"DELETE {location} HTTP/1.1\r\nHost: x\r\n\r\n".encode() if "both" in kind or "two" in kind else b""
        with Wire(server.port, timeout=ANSWER_SECONDS) as wire:
            wire.send(f"PATCH {location} HTTP/1.1\r\nHost: x\r\n".encode() + LENGTHS[kind] + b"\r\n" + b"0\r\n\r\n" + smuggled)
            wire.sock.shutdown(1)
            answer = wire.answer()
        assert answer is None or answer.status < 500, answer
        assert client.ask("GET", location).status == 204
        assert client.ask("DELETE", location).status == 204


CHUNKS = {
    "negative": b"-5\r\nhello\r\n0\r\n\r\n",
    "hex prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "space": b"5 \r\nhello\r\n0\r\n\r\n",
    "words": b"five\r\nhello\r\n0\r\n\r\n",
    "empty size": b"\r\nhello\r\n0\r\n\r\n",
    "unicode": "\u0665\r\nhello\r\n0\r\n\r\n".encode(),
    "too long": b"7\r\nhello\r\n0\r\n\r\n",
    "too short": b"3\r\nhello\r\n0\r\n\r\n",
    "no end of chunk": b"5\r\nhello0\r\n\r\n",
    "bare lf": b"5\nhello\n0\n\n",
    "overflow": b"FFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
    "vast": b"F" * 100_000 + b"\r\nhello\r\n0\r\n\r\n",
    "endless size": b"0" * 300_000,
    "extension": b"5;a=b\r\nhello\r\n0\r\n\r\n",
    "extension vast": b"5;" + b"a" * 200_000 + b"\r\nhello\r\n0\r\n\r\n",
    "trailer": b"5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n",
    "trailer vast": b"5\r\nhello\r\n0\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    "trailer broken": b"5\r\nhello\r\n0\r\n\x00\xff\r\n\r\n",
    "no last": b"5\r\nhello\r\n",
    "nothing": b"",
    "one byte each": b"".join(b"1\r\n%c\r\n" % byte for byte in b"hello" * 2000) + b"0\r\n\r\n",
}


@pytest.mark.parametrize("kind", CHUNKS)
@pytest.mark.parametrize("finishing", [False, True], ids=["patch", "put"])
def test_chunk_framings(server: Server, kind: str, finishing: bool) -> None:
    with Client(server.port) as client:
        location = client.begin("hostile/app")
        target = with_digest(location, digest_of(b"never sent")) if finishing else location
        head = f"{'PUT' if finishing else 'PATCH'} {target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n".encode()
        with Wire(server.port, timeout=ANSWER_SECONDS) as wire:
            wire.send(head + CHUNKS[kind])
            wire.sock.shutdown(1)
            answer = wire.answer()
        assert answer is None or answer.status < 500, answer
        assert not finishing or answer is None or answer.status != 201
        if client.ask("GET", location).status == 204:
            assert (client.received(location) or 0) <= 10_000
            assert client.ask("DELETE", location).status == 204


HEADERS = [
    *(b"Host: " + value for value in (b"", b"a b", b"[::", b"x:99999", b"x:-1", b"../..", b"<script>", b"a" * 5000, b"\xff", b"x, y")),
    *(b"X-Forwarded-For: " + value for value in (b"<script>", b"1.2.3.4, ,,,", b"999.999.999.999", b"a" * 5000, b"::1%eth0", b"\xff")),
    *(b"X-Forwarded-Host: " + value for value in (b"evil\"'<>", b"a b", b"x/../..", b"\xff\xfe", b"[::", b"a" * 5000)),
    *(b"X-Forwarded-Proto: " + value for value in (b"javascript", b"", b"https,http", b"\xff", b"a" * 5000)),
    *(b"X-Forwarded-Port: " + value for value in (b"-1", b"99999999999", b"http", b"1" * 5000)),
    *(b"X-Forwarded-Prefix: " + value for value in (b"/../..", b"//evil", b"a" * 5000, b"\xff", b"/%0d%0aX: y")),
    *(b"Forwarded: " + value for value in (b"for=;;;=", b'for="[::"', b"=" * 5000)),
    *(b"Accept: " + value for value in (b"", b",,,,", b"a" * 7000, b"*/*;q=abc", b";;;=", b"\xff", b"x/y;q=-1", b"*/*," * 1500)),
    *(b"If-None-Match: " + value for value in (b"*", b'"', b'W/"', b"\xff", b'"a",' * 1500, b"sha256:x")),
    *(b"If-Modified-Since: " + value for value in (b"yesterday", b"99999999999", b"\xff", b"Thu, 99 Foo 99999 99:99:99 GMT")),
    *(b"Authorization: " + value for value in (b"Basic", b"Basic !!!!", b"Basic /////w==", b"Bearer " + b"a" * 5000, b"\xff",
      b"Basic Og==")),
    *(b"X-Request-Id: " + value for value in (b"a\tb", b"a" * 5000, b"\xff", b'"},{"', b"%0d%0a")),
    *(b"User-Agent: " + value for value in (b'"\\\x1b[31m', b"\xff\xfe", b'{"level":"error"}')),
    *(b"Expect: " + value for value in (b"100-continue", b"200-ok", b"\xff")),
    *(b"Connection: " + value for value in (b"upgrade\r\nUpgrade: h2c", b"close, keep-alive", b"\xff", b"host")),
    *(b"Content-Encoding: gzip", b"Cookie: " + b"a=b;" * 1500, b"SCRIPT_NAME: /x", b"Script-Name: /x", b"X-HTTP-Method-Override: DELETE"),
    *(b"Content-Type: " + value for value in (b"multipart/form-data", b"multipart/form-data; boundary=" + b"a" * 5000, b";;;", b"\xff")),
]  # fmt: skip


def test_odd_headers(server: Server) -> None:
    for header in HEADERS:
        for target in (f"{APP}/manifests/v1", f"{APP}/blobs/{digest_of(LAYER)}", f"{APP}/tags/list?n=1", "/v2/", "/health"):
            answer = send(server, b"GET " + target.encode() + b" HTTP/1.1\r\nHost: x\r\n" + header + b"\r\nConnection: close\r\n\r\n")
            assert answer is None or answer.status < 500, (header, answer)
            assert b"\r" not in str(answer and answer.headers).encode().replace(b"\r\n", b"")


def test_odd_forwarding_headers_make_no_odd_location(server: Server) -> None:
    for header in HEADERS:
        if not header.startswith((b"Host", b"X-Forwarded", b"Forwarded")):
            continue
        answer = send(
            server,
            b"POST " + APP.encode() + b"/blobs/uploads/ HTTP/1.1\r\nHost: x\r\n" + header + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        )
        assert answer is None or answer.status < 500, (header, answer)
        if answer is not None and answer.status == 202:
            location = answer.headers["Location"]
            assert location.isprintable(), header
            assert not set(location) & set("<>\"' \\"), location
            with Client(server.port) as client:
                client.ask("DELETE", APP + location.partition("/hostile/app")[2])


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PROPFIND", "PATCH", "POST", "PUT", "DELETE", "FOO", "QUERY", "A" * 15, "GET"])
def test_methods_that_an_address_does_not_have(server: Server, method: str) -> None:
    for target in ("/v2/", f"{APP}/tags/list", "/v2/_catalog", f"{APP}/referrers/{digest_of(MANIFEST)}", "/v2/x", f"{APP}/blobs/uploads/{'0' * 32}"):
        answer = send(server, request(target, method, body=None if method in ("GET", "TRACE", "OPTIONS") else b""))
        assert answer is not None
        assert_survived(answer)


def test_many_requests_in_one_segment(server: Server) -> None:
    with Wire(server.port, timeout=ANSWER_SECONDS) as wire:
        wire.send(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n" * 300 + request("/v2/"))
        everything = b""
        while data := wire.sock.recv(65536):
            everything += data
    assert everything.count(b"HTTP/1.1 200") in range(1, 302)
    assert b"HTTP/1.1 5" not in everything


# ---------------------------------------------------------------------------------------------------------------------- ranges

BAD_RANGES = [
    "bytes=--1",
    "bytes=5-2",
    f"bytes={10**30}-",
    "bytes=a-b",
    "bytes=",
    "bytes",
    "octets=0-1",
    "bytes=0-1-2",
    "bytes=-",
    "bytes=\u0660-\u0661",
    "bytes=0x0-0x5",
    "bytes=+1-5",
    "bytes=1_0-20",
    "bytes=-0",
    f"bytes={'9' * 6000}-",
    "=",
    "0-5",
]
GOOD_RANGES = [
    "bytes=-1", f"bytes=0-{10**30}", f"bytes=-{10**30}", "bytes=0-0", "bytes=0-0,2-3", "bytes= 0-5", "bytes=0-5,", "bytes=3999-",
    "Bytes=0-5", ",".join(["bytes=0-0"] + ["1-1"] * 1000),
]  # fmt: skip


def assert_slice(answer: Answer | None, data: bytes) -> None:
    """All of it, or exactly the part that Content-Range names, or a refusal that names the length."""
    assert answer is not None
    if answer.status == 200:
        assert answer.body == data
    elif answer.status == 206 and "boundary=" in answer.headers["Content-Type"]:
        parts = answer.body.split(f"--{answer.headers['Content-Type'].partition('boundary=')[2]}".encode())
        assert (parts[0].strip(), parts[-1].strip()) == (b"", b"--")
        assert len(answer.body) < len(data) + 256
        for part in parts[1:-1]:
            head, _, body = part.removesuffix(b"\r\n").partition(b"\r\n\r\n")
            first, last = re.search(rb"(?i)content-range: bytes (\d+)-(\d+)/%d" % len(data), head).groups()  # type: ignore[union-attr]
            assert body == data[int(first) : int(last) + 1] != b""
    elif answer.status == 206:
        first, last = answer.headers["Content-Range"].removeprefix("bytes ").partition("/")[0].split("-")
        assert answer.headers["Content-Range"].endswith(f"/{len(data)}")
        assert answer.body == data[int(first) : int(last) + 1] != b""
    elif answer.status == 416:
        assert answer.headers["Content-Range"] == f"bytes */{len(data)}"
        assert answer.code in CODES
    else:
        assert_refused(answer, 400)


@pytest.mark.parametrize("value", BAD_RANGES + GOOD_RANGES)
def test_odd_ranges(server: Server, value: str) -> None:
    answer = send(server, request(f"{APP}/blobs/{digest_of(LAYER)}", headers=b"Range: " + value.encode() + b"\r\n"))
    if value.isascii() and len(value) < 5000:
        assert_slice(answer, LAYER)
    else:
        assert answer is None or answer.status < 500


@examples
@given(first=st.integers(0, 4100), last=st.integers(0, 4100), form=st.sampled_from(["{0}-{1}", "{0}-", "-{1}", "{1}-{0}"]))
def test_any_range_is_its_part_of_the_blob(server: Server, first: int, last: int, form: str) -> None:
    value = form.format(first, last)
    answer = send(server, request(f"{APP}/blobs/{digest_of(LAYER)}", headers=f"Range: bytes={value}\r\n".encode()))
    assert_slice(answer, LAYER)
    if form == "{0}-{1}" and first <= last and first < len(LAYER):
        assert answer is not None
        assert (answer.status, answer.body) == (206, LAYER[first : last + 1])


CONTENT_RANGES = [
    "-1-5", "5-2", f"{10**30}-{10**30 + 4}", f"0-{10**30}", "0", "a-b", "0-1-2", "0--4", "", "-", "0-4,5-9", "0x0-0x4", "+0-+4", "0_0-4",
    "bytes */5", f"{'9' * 6000}-{'9' * 6001}", "9223372036854775807-9223372036854775811", "18446744073709551615-18446744073709551619",
]  # fmt: skip


@pytest.mark.parametrize("value", CONTENT_RANGES, ids=range(len(CONTENT_RANGES)))
def test_odd_content_ranges_leave_the_upload_as_it_is(server: Server, value: str) -> None:
    with Client(server.port) as client:
        location = client.begin("hostile/app")
        for method, target in (("PATCH", location), ("PUT", with_digest(location, digest_of(b"hello")))):
            answer = send(server, request(target, method, b"Content-Range: " + value.encode() + b"\r\n", b"hello"))
            assert_refused(answer, 400, 416, 431, http=len(value) < 5000)
            assert client.received(location) == 0
        assert client.ask("DELETE", location).status == 204


@examples
@given(data=st.binary(max_size=3000), cuts=st.lists(st.integers(1, 700), max_size=12), segments=st.integers(1, 9))
def test_any_framing_of_a_streamed_body_gives_its_bytes(alive: Server, data: bytes, cuts: list[int], segments: int) -> None:
    """However the bytes are cut into chunks, and the chunks into TCP segments."""
    framed, start = b"", 0
    for size in [*cuts, 3000]:
        if chunk := data[start : start + size]:
            framed += b"%x\r\n%b\r\n" % (len(chunk), chunk)
        start += size
    framed += b"0\r\n\r\n"
    with Client(alive.port) as client:
        location = client.begin("hostile/stream")
        with Wire(alive.port, timeout=ANSWER_SECONDS) as wire:
            wire.sock.setsockopt(6, 1, 1)  # TCP_NODELAY
            wire.head("PATCH", location, "Transfer-Encoding: chunked")
            step = len(framed) // segments + 1
            for first in range(0, len(framed), step):
                wire.send(framed[first : first + step])
            answer = wire.answer()
        assert answer is not None
        assert answer.status == 202
        assert client.finish(location, digest_of(data)).status == 201
        assert client.blob("hostile/stream", digest_of(data)).body == data


# ------------------------------------------------------------------------------------------------------------------- manifests


def changed(**members: Any) -> bytes:
    return json.dumps(json.loads(MANIFEST) | members).encode()


BAD_MANIFESTS = {
    "empty": b"",
    "blank": b"   ",
    "cut": MANIFEST[:-1],
    "twice": MANIFEST * 2,
    "null": b"null",
    "list": b"[]",
    "string": b'"x"',
    "number": b"2",
    "binary": noise(5000, "binary"),
    "not utf-8": MANIFEST.replace(b"amd64", b"\xff") + b"\xff",
    "utf-16": MANIFEST.decode().encode("utf-16"),
    "nul after": MANIFEST + b"\x00",
    "single quotes": MANIFEST.replace(b'"', b"'"),
    "nested lists": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "nested inside": MANIFEST[:-1] + b', "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "duplicate members": MANIFEST[:-1] + b', "layers": []}',
    "duplicate digest": MANIFEST.replace(b'"digest":', b'"digest": "sha256:' + b"0" * 64 + b'", "digest":', 1),
    "NaN": MANIFEST[:-1] + b', "x": NaN}',
    "Infinity": MANIFEST[:-1] + b', "x": -Infinity}',
    "vast number": MANIFEST[:-1] + b', "x": ' + b"9" * 10_000 + b"}",
    "vast size": changed(config={"mediaType": "x/y", "digest": digest_of(CONFIG), "size": 1}).replace(
        b'"size": 1}', b'"size": ' + b"9" * 5000 + b"}"
    ),
    "comment": b"/* x */" + MANIFEST,
    "schema 1": changed(schemaVersion=1),
    "schema text": changed(schemaVersion="2"),
    "other media type": changed(mediaType="application/vnd.oci.image.index.v1+json"),
    "absent blob": changed(layers=[{"mediaType": "x/y", "digest": digest_of(b"absent"), "size": 6}]),
    "bad digest": changed(layers=[{"mediaType": "x/y", "digest": "sha256:../../x", "size": 6}]),
    "unicode digest": changed(layers=[{"mediaType": "x/y", "digest": "sha256:" + "\u0663" * 64, "size": 6}]),
    "negative size": changed(layers=[{"mediaType": "x/y", "digest": digest_of(LAYER), "size": -1}]),
    "with manifests": changed(manifests=[]),
    "too large": MANIFEST[:-1] + b" " * (4 * 1024 * 1024 + 2 - len(MANIFEST)) + b"}",
    "much too large": b" " * (9 * 1024 * 1024),
}


@pytest.mark.parametrize("kind", BAD_MANIFESTS)
def test_bad_manifests_are_refused(server: Server, kind: str) -> None:
    body = BAD_MANIFESTS[kind]
    for reference in ("v1", "new", digest_of(body)):
        answer = send(server, request(f"{APP}/manifests/{reference}", "PUT", f"Content-Type: {MANIFEST_TYPE}\r\n".encode(), body))
        assert_refused(answer, 413 if "too large" in kind else 400, 404)
    if "too large" in kind:
        head = f"PUT {APP}/manifests/v1 HTTP/1.1\r\nHost: x\r\nContent-Type: {MANIFEST_TYPE}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        answer = send(server, head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        assert_refused(answer, 413)


def test_a_manifest_under_another_digest_is_refused(server: Server) -> None:
    for reference in (digest_of(MANIFEST + b" "), digest_of(MANIFEST, "sha512")[:-1] + "x", "sha256:" + "0" * 64, "sha512:" + "0" * 128):
        answer = send(server, request(f"{APP}/manifests/{reference}", "PUT", f"Content-Type: {MANIFEST_TYPE}\r\n".encode(), MANIFEST))
        assert_refused(answer, 400, codes=frozenset({"DIGEST_INVALID", "MANIFEST_INVALID"}))


def test_a_manifest_under_an_odd_content_type(alive: Server) -> None:
    """Some are generous defaults, none may break anything, and what was there is still what it was."""
    for value in (
        b"",
        b"text/html",
        b"application/vnd.oci.image.index.v1+json",
        b";",
        b"a" * 3000,
        b"\xff",
        b"application/json; charset=utf-16",
        b"multipart/form-data",
    ):
        assert_survived(send(alive, request(f"{APP}/manifests/odd", "PUT", b"Content-Type: " + value + b"\r\n", MANIFEST)))
    with Client(alive.port) as client:
        assert client.manifest("hostile/app", "v1").body == MANIFEST


WRONG: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    10**30,
    "",
    "x",
    "\ud800",
    "\x00",
    [],
    {},
    [[]],
    [None],
    {"a": 1},
    [1, "x"],
    {"digest": 1},
    {"mediaType": [], "digest": {}, "size": "1"},
]
FIELDS = [
    "schemaVersion", "mediaType", "artifactType", "config", "layers", "subject", "annotations", "manifests", "blobs", "config.mediaType",
    "config.digest", "config.size", "config.annotations", "config.urls", "config.data", "config.platform", "layers.mediaType",
    "layers.digest", "layers.size", "layers.urls", "layers.annotations", "subject.mediaType", "subject.digest", "subject.size",
]  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_wrong_types_in_every_field(alive: Server, field: str) -> None:
    """Taken or refused; what is taken can be fetched and listed, byte by byte."""
    outer, _, inner = field.partition(".")
    for number, value in enumerate(WRONG):
        document = json.loads(MANIFEST)
        document["subject"] = dict(document["config"])
        if not inner:
            document[outer] = value
        elif outer == "layers":
            document[outer][0][inner] = value
        else:
            document[outer][inner] = value
        body = json.dumps(document).encode()
        answer = send(alive, request(f"{APP}/manifests/wrong{number}", "PUT", f"Content-Type: {MANIFEST_TYPE}\r\n".encode(), body))
        assert_survived(answer)
        if answer is not None and answer.status == 201:
            with Client(alive.port) as client:
                assert client.manifest("hostile/app", digest_of(body)).body == body
                assert client.ask("GET", f"{APP}/referrers/{document['config']['digest']}").status in (200, 400)
                client.ask("DELETE", f"{APP}/manifests/{digest_of(body)}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from([digest_of(CONFIG), MANIFEST_TYPE, 2]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["digest", "size", "mediaType", "config", "layers", "urls", "x"]), inner, max_size=5)
    ),
    max_leaves=20,
)


@examples
@given(
    members=st.dictionaries(
        st.sampled_from(["schemaVersion", "mediaType", "config", "layers", "manifests", "subject", "annotations", "artifactType", "blobs"]), JSON
    )
)
def test_any_json_as_a_manifest(alive: Server, members: dict[str, Any]) -> None:
    body = json.dumps(json.loads(MANIFEST) | members).encode()
    for content_type in (MANIFEST_TYPE, "application/vnd.oci.image.index.v1+json"):
        answer = send(alive, request(f"{APP}/manifests/any", "PUT", f"Content-Type: {content_type}\r\n".encode(), body))
        assert answer is not None
        assert_survived(answer)


@examples
@given(seed=st.integers(0, 10**9))
def test_a_request_with_flipped_bytes(alive: Server, seed: int) -> None:
    """A real request in which some bytes were changed, dropped or doubled."""
    dice = random.Random(seed)
    whole = bytearray(request(f"{APP}/manifests/flipped", "PUT", f"Content-Type: {MANIFEST_TYPE}\r\n".encode(), MANIFEST))
    for _ in range(dice.randrange(1, 6)):
        at = dice.randrange(len(whole))
        whole[at : at + 1] = dice.choice((b"", bytes([dice.randrange(256)]), bytes(whole[at : at + 1]) * 2))
    with Wire(alive.port, timeout=ANSWER_SECONDS) as wire:
        wire.send(bytes(whole))
        wire.sock.shutdown(1)
        answer = wire.answer("PUT")
    assert answer is None or answer.status < 500, (bytes(whole), answer)
