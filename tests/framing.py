"""Streams of pipelined requests, sound and odd, and how gunicorn's parser and ours understand them: for the fuzzers in fault/ and client/.

A stream is made from its number alone, so `stream(4711)` is again what a test failed with.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import itertools
import random
import re
import socket
import sys
import termios
from dataclasses import dataclass, field

from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import ChunkMissingTerminator, NoMoreData, ParseException
from gunicorn.http.message import Request as Parsed
from gunicorn.http.unreader import IterUnreader

from noraflask.config import ServerConfig
from noraflask.serve.body import ChunkedBody
from noraflask.serve.connection import Connection
from noraflask.serve.limits import BodyCut, BodyMalformed
from noraflask.serve.request import ParserSettings, Refused

LIMITS = ServerConfig()
PEER = ("192.0.2.1", 5000)
FUZZED = re.compile(r"\b[fs][0-9]+-[0-9]+\b")
"""The X-Request-Id of a request: f<stream>-<place>, or s… for one that lies in a body or behind an odd end."""


@dataclass(frozen=True)
class Stream:
    number: int
    raw: bytes
    marks: tuple[int, ...]
    """Where it is cut when it is sent."""

    @property
    def pause(self) -> float:
        """Seconds between the pieces."""
        return 0.003 if self.number % 4 == 0 else 0

    def pieces(self) -> list[bytes]:
        return [self.raw[a:b] for a, b in itertools.pairwise((0, *self.marks, len(self.raw)))]

    def __str__(self) -> str:
        return f"stream({self.number}), cut at {self.marks}: {self.raw!r}"


@dataclass(frozen=True)
class Seen:
    """A request as a parser took it from a stream."""

    method: str
    target: str
    identity: str
    body: bytes | None
    """None: it is cut off, or its framing is refused."""
    end: int
    """Where the next one begins."""


@dataclass
class Outcome:
    requests: list[Seen] = field(default_factory=list)
    end: str = "more"
    """What came then: "more" may come, "refused" or "cut" (within a request), or the connection "closes"."""
    reason: str = ""


# ---- making streams

TARGETS = ["/v2/", "/health", "/ready", "/v2/_catalog?n=3", "/v2/fuzz/app/tags/list", "/nothing", "/v2/fuzz/app/manifests/none", "/api/v1/whoami"]
ODD_TARGETS = [
    "/v2/%", "/v2/%2e%2e/health", "/%68ealth", "/%00", "/v2/%0d%0aX:y", "//v2//", "/v2/?", "/v2/?a=%zz&b", "/v2/a;b=c", "/v2/[x]", "/a\\b",
    "/\"<>^`{|}", "/a#b", "*", "http://{host}/v2/", "HTTP://{host}", "https://{host}/health?x", "http://u@{host}/", "http://", "http:///v2/",
    "ftp://{host}/", "{host}:443", "v2/", "", "/ ", "/a b", "/\x00", "/\xe9", "/\x7f", "/\t", "?x", "/v2/\x0b", "/" + "a" * 8170, "/" + "a" * 8200,
    "/?http://x/", "http://[::1]/", "http://[x/",
]  # fmt: skip
METHODS = ["GET", "GET", "GET", "HEAD", "OPTIONS", "DELETE"]
ODD_METHODS = [
    "TRACE", "CONNECT", "PROPFIND", "PATCH", "get", "Get", "G", "GET ", " GET", "", "GE\x00T", "GE\tT", "GET\r", "M-SEARCH", "A" * 21, "PRI", "G@T",
    "#ET",
]  # fmt: skip
ODD_VERSIONS = [
    "HTTP/1.0",
    "HTTP/1.0",
    "HTTP/1.2",
    "HTTP/2.0",
    "HTTP/0.9",
    "http/1.1",
    "HTTP/1.1 ",
    "HTTP/1.10",
    "HTTP/01.1",
    "",
    "HTTP /1.1",
    "HTTP/1.1\t",
]
ODD_FIELDS = [
    "A: b\r\n c", "A : b", " A: b", "\tA: b", "A\t: b", ": b", "A", "", "A: \x00", "A: b\rc", "A: b\nc", "A: \x0b", "A: \x7f", "A: \xe9\xff",
    "A\x00: b", "A\xe9: b", "A(b): c", "a_b: c", "HTTP_HOST: x", "A: " + "b" * 9000, "A: " + "b" * 33_000, "A:b" + "\r\nA:b" * 98,
    "A:b" + "\r\nA:b" * 120, "Cookie: a=b\r\nCookie: c", "Host: other", "Host: {host}", "host: {host}", "Host:", "Host : {host}", "Host: a, b",
    "Host: a b", "Host: a/b", "Host: a@b", "Host: [::1]:4000", "Host: a:b", "Host: \xe9", "Content-Type: a\r\nContent-Type: b",
    "Expect: 100-continue", "Expect: 100-Continue", "Expect: 200-ok", "Expect: 100-continue, x", "Expect:",
    "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", "Upgrade: websocket\r\nConnection: upgrade",
    "Connection: close", "Connection: keep-alive", "Connection: Close, TE", "Connection: \"close\"", "Connection: keep-alive, close", "Connection:",
    "TE: trailers", "Trailer: A", "Keep-Alive: timeout=1", "Proxy-Connection: close", "Max-Forwards: 0", "Forwarded: for=x;host=evil",
    "X-Forwarded-Host: evil", "Via: 1.0 x", "Transfer_Encoding: chunked", "Content_Length: 3", "Content-Length\x0b: 3",
    "Transfer-Encoding\xa0: chunked",
]  # fmt: skip
ODD_CODINGS = [
    "identity", "gzip", "gzip, chunked", "chunked, gzip", "chunked, chunked", "chunked, identity", "identity, chunked", "chunked,", ",chunked", "",
    "xchunked", "chunked;a=b", "\x0bchunked", "chunked\x00", "\"chunked\"", "chunked\r\nTransfer-Encoding: chunked",
    "identity\r\nTransfer-Encoding: chunked", "chun\xebked", "chunked\r\nTransfer-Encoding: identity", "gzip\r\nTransfer-Encoding: chunked",
    "CHUNKED", "\tchunked\t", "chunked \x0c", "chunked\r\n ", "\r\n chunked",
]  # fmt: skip
ODD_LENGTHS = [
    "+{n}", "-{n}", "{n}, {n}", "{n},{n}", "{n} {n}", "", "0{n}", "00000000000000000000{n}", "0x{n}", "{n}.0", "{n}e0", "{n}_0", "{n};", "\xb2",
    "\xb9\xb2", "{n}\x00", "{n}\x0b", "9" * 18, "1" + "0" * 18, "9" * 30, "9" * 4000, "9" * 5000, "{n}\r\nContent-Length: {n}",
    "{n}\r\nContent-Length: 0", "0\r\nContent-Length: {n}", "{n}\r\n 0", "five", "{n}\r\nTransfer-Encoding: chunked", "\t{n}\t", "{n}a", "''",
    "{less}", "{more}", "0", "٣",
]  # fmt: skip
SIZES = ["{n:x}", "{n:x}", "{n:X}", "0{n:x}", "{n:x};a", '{n:x} ; a = "b"']
ODD_SIZES = [
    "0x{n:x}", "+{n:x}", "-{n:x}", " {n:x}", "{n:x} ", "{n:x}\t", "{n:x}\r", "{n:x}_", "", "g", "{n:x};", "{n:x};;a", "{n:x};a=", "{n:x} ;a",
    "{n:x};\x00", "{n:x};a\rb", "{n:x};a\nb", "{n:x};a=\"b", "{n:x};a=\"b\\\"c\"", "{n:x};a=b c", "{n:016x}", "{n:017x}", "{n:0300x}", "{n:x},{n:x}",
    "{n:x}\x0b", "f" * 16, "{n:X}", "1{n:x}", "\xb2", "{n:x};" + "a" * 4000, "{n:x};" + "a" * 4100, "{n:x};" + "a" * 9000, "0", "00", "0;a", "{n}.0",
    "{n:x}:", "{n:x}#a", "\t{n:x}",
]  # fmt: skip
ODD_ENDS = ["", "\n", "\r", "\n\r", "\r\n\r\n", "x\r\n", "\r\n ", " \r\n", "\r\r\n", "\x00\r\n"]
TRAILERS = [
    "A: b\r\n", "A: b\r\nC: d\r\n", "A : b\r\n", "A\r\n", "A: b\n", "A: \x00\r\n", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n",
    "Host: x\r\n", " A: b\r\n", "A: b\r\n c\r\n", "a_b: c\r\n", "Content-Type: x\r\n", "Trailer: x\r\n", ": b\r\n", "\n", "\r",
    "A: " + "b" * 17_000 + "\r\n", "A:b\r\n" * 101, "X-Request-Id: s0-0\r\n",
]  # fmt: skip
SPECIAL = [b"\r", b"\n", b"\r\n", b"\x00", b" ", b"\t", b":", b";", b",", b"0", b"\xff", b"\x0b", b"\r\n\r\n", b"\x85", b"\xa0", b"#"]
PAYLOADS = [random.Random(size).randbytes(size) for size in (1, 2, 5, 15, 16, 17, 100, 255, 256, 1000, 4095, 20_000, 70_000)] + [
    b"",
    b"\r\n",
    b"0\r\n\r\n",
    b"{}",
]


class Maker:
    """One stream."""

    def __init__(self, number: int, host: str, login: str) -> None:
        self.dice = random.Random(number)
        self.number, self.host = number, host
        self.login = f"Authorization: Basic {base64.b64encode(login.encode()).decode()}\r\n" if login else ""
        self.place = 0

    def odd(self, chance: float) -> bool:
        return self.dice.random() < chance

    def stream(self) -> Stream:
        raw = b"".join(self.request() for _ in range(self.dice.choice((1, 2, 3, 3, 4, 5, 8))))
        if self.odd(0.1):
            raw = self.mutated(raw)
        if self.odd(0.05):
            raw = raw[: self.dice.randrange(len(raw) + 1)]
        cuts = self.dice.choice((0, 0, 1, 2, 5, 20))
        marks = {self.dice.randrange(1, max(2, len(raw))) for _ in range(cuts)}
        return Stream(self.number, raw, tuple(sorted(mark for mark in marks if mark < len(raw))))

    def mutated(self, raw: bytes) -> bytes:
        for _ in range(self.dice.choice((1, 1, 2))):
            at = self.dice.randrange(len(raw))
            if self.odd(0.5):  # where it matters more
                ends = [found.start() for found in re.finditer(rb"\r\n|[:;]", raw[:100_000])] or [at]
                at = min(len(raw), self.dice.choice(ends) + self.dice.choice((0, 1, 2)))
            raw = raw[:at] + self.dice.choice([b"", *SPECIAL]) + raw[at + self.dice.choice((0, 1)) :]
        return raw

    def request(self) -> bytes:
        self.place += 1
        identity = f"X-Request-Id: f{self.number}-{self.place}\r\n"
        version = self.dice.choice(ODD_VERSIONS) if self.odd(0.015) else "HTTP/1.1"
        method, target, fields, body = self.plain() if self.odd(0.45) else self.with_body()
        method = self.dice.choice(ODD_METHODS) if self.odd(0.015) else method
        target = self.dice.choice(ODD_TARGETS) if self.odd(0.03) else target
        lines = [f"Host: {self.host}\r\n"] * (not self.odd(0.005)) + [fields, identity] + [self.login] * self.odd(0.7)
        if self.odd(0.06):
            lines.append(self.dice.choice(ODD_FIELDS) + "\r\n")
        self.dice.shuffle(lines)
        end = self.dice.choice(ODD_ENDS) if self.odd(0.005) else "\r\n"
        head = f"{method} {target} {version}\r\n{''.join(lines)}{end}".replace("{host}", self.host)
        if self.odd(0.005):
            head = head.replace("\r\n", self.dice.choice(("\n", "\r", "\r\r\n", "\n\n")), self.dice.choice((1, 2, -1)))
        start = self.dice.choice((b"\r\n", b"\r\n\r\n", b"\n", b" ", b"\x16\x03\x01")) if self.odd(0.005) else b""
        return start + head.encode("utf-8" if "٣" in head else "latin-1") + body

    def plain(self) -> tuple[str, str, str, bytes]:
        return self.dice.choice(METHODS), self.dice.choice(TARGETS), "", b""

    def with_body(self) -> tuple[str, str, str, bytes]:
        data = self.payload()
        digest = hashlib.sha256(data).hexdigest()
        method, target = self.dice.choice(
            [
                ("POST", f"/v2/fuzz/app/blobs/uploads/?digest=sha256:{digest}"),
                ("PUT", "/v2/fuzz/app/manifests/one"),
                ("PUT", "/v2/fuzz/app/manifests/two"),
                ("POST", "/v2/token"),
                ("PUT", f"/raw/fuzz/{digest[:2]}"),
                ("DELETE", "/v2/fuzz/app/manifests/none"),
                ("PATCH", "/v2/fuzz/app/blobs/uploads/none"),
                ("GET", "/v2/"),
                ("POST", "/nothing"),
            ]
        )
        fields, body = self.sized(data) if self.odd(0.5) else self.chunked(data)
        expects = "Expect: 100-continue\r\n" if self.odd(0.05) else ""
        return method, target, fields + expects, body

    def payload(self) -> bytes:
        """Now and then one that holds a request, which nobody may take for one."""
        data = self.dice.choice(PAYLOADS[:-5]) if self.odd(0.1) else self.dice.choice(PAYLOADS[:8])
        if self.odd(0.4):
            smuggled = f"GET /v2/ HTTP/1.1\r\nHost: {self.host}\r\nX-Request-Id: s{self.number}-{self.place}\r\n\r\n".encode()
            data = self.dice.choice((smuggled, b"\r\n" + smuggled, b"0\r\n\r\n" + smuggled, data + smuggled))
        return data

    def sized(self, data: bytes) -> tuple[str, bytes]:
        text = self.dice.choice(ODD_LENGTHS) if self.odd(0.08) else "{n}"
        size = len(data)
        for name, value in (("{n}", size), ("{less}", size // 2), ("{more}", size + 7)):
            text = text.replace(name, str(value))
        return f"Content-Length: {text}\r\n", data

    def chunked(self, data: bytes) -> tuple[str, bytes]:
        coding = self.dice.choice(ODD_CODINGS) if self.odd(0.06) else "chunked"
        step = max(self.dice.choice((1, 3, 16, 1000, 100_000)), len(data) // 50)
        parts = [data[at : at + step] for at in range(0, len(data), step)]
        odd_size, odd_end = (self.dice.randrange(len(parts)) if parts and self.odd(0.04) else -1 for _ in range(2))
        pieces = []
        for number, part in enumerate(parts):
            size = self.dice.choice(ODD_SIZES if number == odd_size else SIZES)
            end = self.dice.choice(ODD_ENDS) if number == odd_end else "\r\n"
            pieces.append(size.format(n=len(part)).encode("latin-1") + b"\r\n" + part + end.encode())
        last = self.dice.choice(("00", "0;a", "0 ", "0000000000000000", "0x0", "")) if self.odd(0.05) else "0"
        trailers = "".join(self.dice.choice(TRAILERS) for _ in range(self.dice.choice((1, 1, 2)))) if self.odd(0.05) else ""
        end = self.dice.choice(ODD_ENDS) if self.odd(0.01) else "\r\n"
        return f"Transfer-Encoding: {coding}\r\n", b"".join(pieces) + f"{last}\r\n{trailers}{end}".encode()


def stream(number: int, host: str = "fuzz.example", login: str = "") -> Stream:
    return Maker(number, host, login).stream()


# ---- gunicorn's understanding


def by_gunicorn(raw: bytes) -> Outcome:
    outcome, unreader = Outcome(), IterUnreader(iter([raw]))
    while outcome.end == "more":
        try:
            parsed = Parsed(ParserSettings(), unreader, PEER)
        except StopIteration:
            break
        except NoMoreData:
            outcome.end = "cut"
            break
        except ParseException as error:
            outcome.end, outcome.reason = "refused", repr(error)
            break
        identity = ",".join(value for name, value in parsed.headers if name == "X-REQUEST-ID")
        body, outcome.end, outcome.reason = _body_by_gunicorn(parsed)
        left = unreader.take_buffered()
        unreader.unread(left)
        outcome.requests.append(Seen(parsed.method, parsed.uri, identity, body, len(raw) - len(left)))
        if outcome.end == "more" and parsed.should_close():
            outcome.end = "closes"
    return outcome


def _body_by_gunicorn(parsed: Parsed) -> tuple[bytes | None, str, str]:
    reader = parsed.body.reader
    try:
        if isinstance(reader, ChunkedReader):
            return b"".join(reader.parser), "more", ""
        body = b""
        while size := min(reader.length, 1 << 20):  # as one that asks for more than there is would wait for it
            piece = reader.read(size)
            body += piece
            if len(piece) < size:
                return None, "cut", ""
        return body, "more", ""
    except NoMoreData:
        return None, "cut", ""
    except ParseException as error:
        ended = isinstance(error, ChunkMissingTerminator) and error.term == b""
        return None, "cut" if ended else "refused", repr(error)


# ---- ours


def by_us(pieces: list[bytes]) -> Outcome:
    """By serve/, as the pieces come in."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        return _Reading(Connection(ours, PEER, PEER[0], {}, 0), theirs, pieces).outcome


class _Reading:
    def __init__(self, conn: Connection, client: socket.socket, pieces: list[bytes]) -> None:
        self.conn, self.client = conn, client
        self.coming = [piece for piece in reversed(pieces) if piece]
        self.outcome, self.sent = Outcome(), 0
        while self.outcome.end == "more" and self._next():
            pass

    def _send(self) -> None:
        """The next piece, or the end."""
        if self.coming:
            self.client.sendall(self.coming[-1])
            self.sent += len(self.coming.pop())
        else:
            self.client.shutdown(socket.SHUT_WR)

    def _next(self) -> bool:
        conn, outcome = self.conn, self.outcome
        try:
            while (request := conn.next_request() if conn.buffer else None) is None:
                try:
                    more = conn.read()
                except BlockingIOError:
                    self._send()
                    continue
                if not more:
                    outcome.end = "cut" if conn.buffer else "more"
                    return False
        except Refused as refused:
            outcome.end, outcome.reason = "refused", f"{refused.status} {refused} {'' if refused.__cause__ else '(ours)'}"
            return False
        conn.begin(request)
        body = self._body() if request.parsed is not None else b""
        waiting = int.from_bytes(fcntl.ioctl(conn.fd, termios.FIONREAD, b"\0\0\0\0"), sys.byteorder)
        end = self.sent - waiting - len(conn.buffer)
        outcome.requests.append(Seen(request.method, request.environ["RAW_URI"], request.environ.get("HTTP_X_REQUEST_ID", ""), body, end))
        if outcome.end == "more" and not request.keep_alive:
            outcome.end = "closes"
        return outcome.end == "more"

    def _body(self) -> bytes | None:
        conn, taken = self.conn, b""
        conn.open_body(LIMITS)
        body = conn.request.body
        assert body is not None
        while True:
            try:
                piece = body.read(100_000)
            except BlockingIOError:
                self._send()
                continue
            except BodyMalformed:
                self.outcome.end, self.outcome.reason = "refused", "framing (ours)"
                return None
            except BodyCut:
                self.outcome.end = "cut"
                return None
            if not piece:
                break
            taken += piece
        if isinstance(body, ChunkedBody):
            conn.buffer = body.rest()
        return taken


def compared(made: Stream) -> Outcome:
    """Ours, once it is shown to take nothing that gunicorn's parser does not take the same way."""
    ours, theirs = by_us(made.pieces()), by_gunicorn(made.raw)
    whole = [seen for seen in ours.requests if seen.body is not None]
    assert whole == theirs.requests[: len(whole)], f"{made}\nours: {ours}\ntheirs: {theirs}"
    if len(whole) < len(ours.requests):  # the last one's body is cut off or refused: at least its head is as theirs
        last, beside = ours.requests[-1], theirs.requests[len(whole)]
        assert (last.method, last.target, last.identity) == (beside.method, beside.target, beside.identity), f"{made}\nours: {ours}\ntheirs: {theirs}"
    if ours.end == "cut":
        assert (len(ours.requests), True) == (len(theirs.requests), theirs.end in ("cut", "refused")), f"{made}\nours: {ours}\ntheirs: {theirs}"
    if ours.end == "more":
        assert (ours.requests, ours.end) == (theirs.requests, theirs.end), f"{made}\nours: {ours}\ntheirs: {theirs}"
    if ours.end == "refused":
        stricter = theirs.end in ("more", "closes") or sum(seen.body is not None for seen in theirs.requests) > len(whole)
        assert not stricter or ours.reason.endswith("(ours)"), f"{made}\nours: {ours}\ntheirs: {theirs}"
        if stricter and ours.reason == "framing (ours)":
            assert any(re.search(limit, made.raw) for limit in STRICTER), f"{made}\nours: {ours}\ntheirs: {theirs}"
    return ours


STRICTER = (rb"0{14}[0-9A-Fa-f]{3,}", rb"[af;]{4090}", rb"b{4000}", rb"(A:b\r\n){101}", rb"Content-Type: x\r\n")
"""What our decoder of chunks does not take, other than gunicorn's: each is a limit, or in a trailer."""
