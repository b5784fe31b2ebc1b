"""The short cut for plain requests and gunicorn's parser must agree on every head."""

from __future__ import annotations

import itertools
import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noraflask.serve import connection
from noraflask.serve.request import Announced, HeadParser, Refused

PEER = ("192.0.2.1", 5000)
BASE = {"wsgi.url_scheme": "http", "SCRIPT_NAME": "", "SERVER_PROTOCOL": "HTTP/1.1"}

NAMES = ["Accept", "User-Agent", "X-A", "x-a", "X.A", "Cookie", "Range", "Authorization", "Proxy", "Upgrade", "TE", "Script-Name", "Connection"]
SPECIAL = ["Host", "host", "x_a", "SCRIPT_NAME", "Content-Length", "Content-Type", "Transfer-Encoding", "Expect", "Trailer", "", " X", "X ", "X\x00"]
VALUES = ["x", "", "close", "keep-alive", "a, b", " padded\t", "\xe9\xff", "a\tb", ":", "0", "5"]
ODD_VALUES = ["chunked", "gzip, chunked", "100-continue", "a\r\n b", "a\nb", "a\rb", "\x00", "\x1f", "\x7f", "1, 1", "+1", "\xb2"]
TARGETS = ["/", "/v2/", "/a%20b?c=d", "//a//b?c?d", "/%C3%A9", "/a;b=c", "/[::1]", "/a:b", "/?", "/%", "/%zz", "/a?b#", "/\"<>\\^`{|}~'()"]
ODD_TARGETS = ["/a#b", "*", "http://h/x", "HTTP://u@h:1/x?y", "x", "", "/ ", "/\x00", "/\xe9", "/\x7f", "h:1", "//h/x", "http:///", "http://[x/"]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
ODD_METHODS = ["OPTIONS", "get", "G", "CONNECT", "GET ", "", "PUTS", "post"]
VERSIONS = ["HTTP/1.1"]
ODD_VERSIONS = ["HTTP/1.0", "HTTP/2.0", "HTTP/1.2", "http/1.1", "", "HTTP/1.1 "]


LENGTHS = [
    "0",
    "00",
    "1",
    "4",
    "007",
    " 5\t",
    "9" * 18,
    "1" + "0" * 18,
    "9" * 40,
    "",
    "+1",
    "-1",
    "1_0",
    "0x1",
    "1,1",
    "1, 1",
    "1 1",
    "1;a",
    "\xb2",
    "1.0",
    "1\x00",
]
FRAMING = [
    *(f"Content-Length: {length}\r\n" for length in LENGTHS),
    *(
        "content-length: 4\r\n",
        "Content-length:4\r\n",
        "Content_Length: 4\r\n",
        "Content-Length : 4\r\n",
        "\tContent-Length: 4\r\n",
        "Content-Length:\r\n 4\r\n",
    ),
    *("Content-Type: a/b\r\n", "content-type:\r\n", "Content_Type: a/b\r\n", "Content-Type: a/b, c\r\n"),
    *("Transfer-Encoding: chunked\r\n", "transfer-encoding:chunked\r\n", "Transfer-Encoding: identity\r\n", "Transfer_Encoding: chunked\r\n"),
    *("Expect: 100-continue\r\n", "expect: x\r\n", "Trailer: a\r\n", "Connection: content-length\r\n", "X: Content-Length: 4\r\n"),
]
"""All that a head can say about the body that follows it, and what looks like it."""


@st.composite
def heads(draw: Any) -> bytes:
    """Mostly valid requests, each part of which may be an odd one."""

    def part(usual: list[str], odd: list[str]) -> str:
        return draw(st.sampled_from(odd if draw(st.integers(0, 11)) == 7 else usual))

    def end() -> str:
        return part(["\r\n"], ["\r\n"] * 5 + ["\n", "\r"])

    line = f"{part(METHODS, ODD_METHODS)} {part(TARGETS, ODD_TARGETS)} {part(VERSIONS, ODD_VERSIONS)}{end()}"
    fields = [f"{part(NAMES, SPECIAL)}{part([': ', ':'], [' : ', ' '])}{part(VALUES, ODD_VALUES)}{end()}" for _ in range(draw(st.integers(0, 5)))]
    fields.insert(draw(st.integers(0, len(fields))), part(["Host: h\r\n"], ["", "Host: h\r\nHost: h\r\n"]))
    if draw(st.booleans()):
        fields.insert(draw(st.integers(0, len(fields))), draw(st.sampled_from(FRAMING)))
    return f"{line}{''.join(fields)}\r\n".encode("latin-1")


def _end(data: bytes) -> int:
    found = data.find(b"\r\n\r\n")
    return len(data) if found < 0 else found + 4


def outcome(parser: HeadParser, data: bytes, short_cut: bool) -> Any:
    """Everything that a parse decides, or the status it refuses with."""
    end = _end(data)
    try:
        request, rest = parser.parse(data, end, PEER) if short_cut else parser._parse(data, end, PEER)
    except Refused as refused:
        return refused.status
    return request.environ, request.http11, request.keep_alive, request.parsed, rest


@settings(max_examples=150, deadline=None)
@given(heads())
def test_both_ways_agree(head: bytes) -> None:
    data = head + b"rest"
    assert outcome(HeadParser(BASE), data, short_cut=True) == outcome(HeadParser(BASE), data, short_cut=False)


@pytest.mark.parametrize("method", [*METHODS, "OPTIONS"])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_both_ways_agree_where_a_body_ends(method: str, count: int) -> None:
    """For each order of so many fields that tell it; what follows on the connection could be a request."""
    for fields in itertools.product(FRAMING, repeat=count):
        data = f"{method} /a HTTP/1.1\r\nHost: h\r\n{''.join(fields)}\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n".encode("latin-1")
        assert outcome(HeadParser(BASE), data, short_cut=True) == outcome(HeadParser(BASE), data, short_cut=False), data


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE"])
def test_a_usual_body_takes_the_short_cut(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeadParser, "_parse", None)
    request, rest = parse(f"{method} /a?b=c HTTP/1.1\r\nHost: h\r\nContent-Type: a/b\r\nContent-Length: 4\r\n\r\nbody and more".encode())
    assert (request.parsed, rest) == (Announced(4, b"body and more", False), b"")
    assert (request.environ["CONTENT_TYPE"], request.environ["CONTENT_LENGTH"]) == ("a/b", "4")
    assert not any("HTTP_CONTENT" in name for name in request.environ)


@settings(max_examples=30, deadline=None)
@given(st.lists(heads(), min_size=2, max_size=4))
def test_a_connection_remembers_nothing_but_what_is_the_same(requests: list[bytes]) -> None:
    used = HeadParser(BASE)
    for data in [*requests, *requests]:
        assert outcome(used, data, short_cut=True) == outcome(HeadParser(BASE), data, short_cut=False)


def parse(data: bytes) -> Any:
    return HeadParser(BASE).parse(data, data.find(b"\r\n\r\n") + 4, PEER)


def test_a_plain_request() -> None:
    request, rest = parse(b"GET /v2/a%20b?n=1 HTTP/1.1\r\nHost: h\r\nAccept:  a \r\nX-B:\r\n\r\nGET")
    assert rest == b"GET"
    assert request.environ == {
        **BASE,
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/v2/a b",
        "RAW_URI": "/v2/a%20b?n=1",
        "QUERY_STRING": "n=1",
        "HTTP_HOST": "h",
        "HTTP_ACCEPT": "a",
        "HTTP_X_B": "",
    }


def test_an_environ_of_one_request_does_not_reach_the_next() -> None:
    parser = HeadParser(BASE)
    data = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    first, _ = parser.parse(data, len(data), PEER)
    first.environ["spoiled"] = True
    second, _ = parser.parse(data, len(data), PEER)
    assert "spoiled" not in second.environ
    assert "spoiled" not in BASE


@pytest.mark.parametrize(
    ("fields", "version", "kept"),
    [
        ("", "1.1", True),
        ("Connection: close\r\n", "1.1", False),
        ("Connection: TE, Close\r\n", "1.1", False),
        ("Connection: keep-alive\r\n", "1.1", True),
        ("", "1.0", False),
        ("Connection: Keep-Alive\r\n", "1.0", True),
        ("Connection: keep-alive\r\nConnection: close\r\n", "1.1", False),
    ],
)
def test_whether_the_connection_stays(fields: str, version: str, kept: bool) -> None:
    request, _ = parse(f"GET / HTTP/{version}\r\nHost: h\r\n{fields}\r\n".encode())
    assert request.keep_alive is kept


# ---- stricter than gunicorn

HEAD = "PUT /v2/ HTTP/1.1\r\nHost: h\r\n"
REFUSED = {
    "identity": f"{HEAD}Transfer-Encoding: identity\r\n",
    "a coding before": f"{HEAD}Transfer-Encoding: gzip, chunked\r\n",
    "identity before": f"{HEAD}Transfer-Encoding: identity, chunked\r\n",
    "identity before, in a field of its own": f"{HEAD}Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
    "a coding before, in a field of its own": f"{HEAD}Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
    "an empty member": f"{HEAD}Transfer-Encoding: chunked,\r\n",
    "an empty coding": f"{HEAD}Transfer-Encoding:\r\n",
    "a parameter": f"{HEAD}Transfer-Encoding: chunked;a=b\r\n",
    "chunked twice": f"{HEAD}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "chunked in HTTP/1.0": "PUT /v2/ HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n",
    "identity in HTTP/1.0": "PUT /v2/ HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: identity\r\n",
    "chunked and a length": f"{HEAD}Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
    "two hosts in one": "GET / HTTP/1.1\r\nHost: a, b\r\n",
    "a path in the host": "GET / HTTP/1.1\r\nHost: a/b\r\n",
    "a user in the host": "GET / HTTP/1.1\r\nHost: a@b\r\n",
    "a blank in the host": "GET / HTTP/1.1\r\nHost: a b\r\n",
    "letters for a port": "GET / HTTP/1.1\r\nHost: a:b\r\n",
    "a quote in the host": 'GET / HTTP/1.1\r\nHost: a"b\r\n',
    "a fragment": "GET /v2/#a HTTP/1.1\r\nHost: h\r\n",
    "a user in the target": "GET http://u@h/ HTTP/1.1\r\nHost: h\r\n",
    "another scheme": "GET ftp://h/ HTTP/1.1\r\nHost: h\r\n",
    "no host in the target": "GET http:///v2/ HTTP/1.1\r\nHost: h\r\n",
    "a scheme behind a query": "GET v2?a=http://h/ HTTP/1.1\r\nHost: h\r\n",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_proxy_may_understand_otherwise_is_refused(kind: str) -> None:
    with pytest.raises(Refused) as refused:
        parse(f"{REFUSED[kind]}\r\n0\r\n\r\n".encode())
    assert refused.value.status == 400


def test_a_length_beyond_all_bounds_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        parse(f"{HEAD}Content-Length: {10**18}\r\n\r\n".encode())
    assert refused.value.status == 413


@pytest.mark.parametrize("host", ["", "registry.example.com:5000", "my_registry", "192.0.2.1:80", "[::1]:4000", "[fe80::1%25eth0]", "h:"])
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_hosts_that_clients_send(host: str, method: str) -> None:
    request, _ = parse(f"{method} / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert request.environ["HTTP_HOST"] == host


@pytest.mark.parametrize(
    ("target", "host", "path", "query"),
    [
        ("http://other:80/v2/?a=b", "other:80", "/v2/", "a=b"),
        ("HTTPS://other", "other", "/", ""),
        ("http://other?a=/b", "other", "/", "a=/b"),
        ("http://[::1]:1//x", "[::1]:1", "//x", ""),
    ],
)
def test_the_absolute_form_names_the_host(target: str, host: str, path: str, query: str) -> None:
    environ = parse(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())[0].environ
    assert (environ["HTTP_HOST"], environ["PATH_INFO"], environ["QUERY_STRING"]) == (host, path, query)


@pytest.mark.parametrize("step", [1, 2, 3, 1000])
@pytest.mark.parametrize("bad", [b"", b"\n", b"\r\n\n"])
def test_a_head_that_grows_is_looked_at_once(step: int, bad: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been found well is not looked at again, and a bare LF is found wherever a piece ends."""
    pattern, looked = connection._BARE_LF, 0

    class Counting:
        def search(self, head: bytes, start: int) -> object:
            nonlocal looked
            looked += len(head) - start
            return pattern.search(head, start)

    monkeypatch.setattr(connection, "_BARE_LF", Counting())
    start = b"GET / HTTP/1.1\r\n" + b"Aa: b\r\n" * 2000 + b"A" + bad
    head = start + b"B: c\r\n" * 100
    end, refused = 0, False
    with socket.socket() as sock:
        conn = connection.Connection(sock, PEER, PEER[0], BASE, 0)
        while end < len(head) and not refused:
            end = min(end + step, len(head))
            conn.buffer = head[:end]
            try:
                assert conn.next_request() is None
            except Refused:
                refused = True
    assert refused == bool(bad)
    assert end - step < len(start) <= end if bad else end == len(head)
    assert looked <= 10 * len(head) + 10 * step


@pytest.mark.parametrize("end", [b" \n", b"\n\r", b"\n\n", b"xy", b"A:"])
def test_a_head_without_its_end_is_refused(end: bytes) -> None:
    """A connection gives up on a head that can no longer become valid, and asks for the refusal: the short cut once took it for a whole one."""
    data = b"GET / HTTP/1.1\r\nHost: h\r\n" + end
    with pytest.raises(Refused):
        HeadParser(BASE).parse(data, len(data), PEER)
