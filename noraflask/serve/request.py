"""From the bytes of a request head to a WSGI environ.

gunicorn's parser decides what is a valid request, and `_refuse_ambiguous` refuses some of it. Plain requests, nearly all that a registry sees, take a
short cut that accepts a strict subset and yields the same environ and the same framing (tests/unit/test_serve_request.py compares the two): one
Content-Length of digits alone, or none, no transfer coding, no expectation. Everything else goes to the parser itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from gunicorn.http import errors as http_errors
from gunicorn.http.body import LengthReader
from gunicorn.http.message import Request as Parsed
from gunicorn.http.unreader import SocketUnreader

from noraflask.serve.body import ChunkedBody, LengthBody, NoBody
from noraflask.serve.limits import Receiver

MAX_HEAD = 64 * 1024  # request line and all header fields together
MAX_LINE = 8190  # request line; gunicorn's own maximum
MAX_LENGTH = 10**18  # Content-Length; no disk holds as much
_CACHED_HEAD = 4096  # a connection remembers its last header block up to this size

NO_BODY = NoBody()
Environ = dict[str, Any]

_LINE = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE) (/[\x21\x22\x24-\x7e]*) HTTP/1\.1")  # origin-form without a fragment
_BLOCK = re.compile(r"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n){1,100}")
_AUTHORITY = r"(?:[A-Za-z0-9._~\-]+|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._~%\-]+)?\])(?::[0-9]*)?"  # a host that can exist; no userinfo, no list
_HOST = re.compile(f"(?:{_AUTHORITY})?")
_ABSOLUTE = re.compile(f"(?i:https?)://(?P<host>{_AUTHORITY})(?:[/?].*)?")
_LENGTH = re.compile(r"[0-9]{1,18}")  # below MAX_LENGTH; `\d` would take the digits of other scripts too
_NOT_PLAIN = frozenset(("TRANSFER_ENCODING", "EXPECT"))
_WITHOUT_PREFIX = frozenset(("CONTENT_LENGTH", "CONTENT_TYPE"))  # RFC 3875 section 4.1

_REFUSALS: tuple[tuple[type[Exception], int, str], ...] = (
    (http_errors.LimitRequestLine, 414, "URI Too Long"),
    (http_errors.LimitRequestHeaders, 431, "Request Header Fields Too Large"),
    (http_errors.ExpectationFailed, 417, "Expectation Failed"),
    (http_errors.ParseException, 400, "Bad Request"),
    (http_errors.NoMoreData, 400, "Bad Request"),
)


class Refused(Exception):
    """The request is not valid HTTP/1.1; `status` and `reason` are the answer, the message is for the log."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


class Announced(NamedTuple):
    """What a head says about the body that follows it."""

    length: int | None
    """None: it comes in chunks."""
    start: bytes
    """What has come of it, and perhaps of what follows it."""
    expects_continue: bool


class Request:
    """One request: its environ, its body (None when it has none), and what its head says about the connection."""

    __slots__ = ("body", "environ", "http11", "keep_alive", "method", "parsed", "path")

    def __init__(self, environ: Environ, http11: bool, keep_alive: bool) -> None:
        self.environ = environ
        self.method: str = environ["REQUEST_METHOD"]
        self.path: str = environ["PATH_INFO"]
        self.http11 = http11
        self.keep_alive = keep_alive
        self.body: LengthBody | ChunkedBody | None = None  # set by open_body()
        self.parsed: Announced | None = None  # if there is a body, until it is opened


class ParserSettings:
    """The settings gunicorn's parser asks for, as plain attributes: looking one up in gunicorn's Config costs a microsecond."""

    is_ssl = False
    proxy_protocol = "off"
    limit_request_line = MAX_LINE
    limit_request_fields = 100
    limit_request_field_size = 32 * 1024
    forwarded_allow_ips: tuple[str, ...] = ()  # the application itself judges X-Forwarded-*, by server.trusted_proxies
    secure_scheme_headers: dict[str, str] = {}  # noqa: RUF012
    forwarder_headers: tuple[str, ...] = ()
    header_map = "drop"  # names with an underscore
    http_parser = "python"
    strip_header_spaces = permit_obsolete_folding = casefold_http_method = False
    permit_unconventional_http_method = permit_unconventional_http_version = False

    def forwarded_allow_networks(self) -> tuple[()]:
        return ()


_SETTINGS = ParserSettings()


class HeadParser:
    """Parses the requests of one connection. `base` holds what is the same in all of its environs."""

    __slots__ = ("_base", "_block", "_environ", "_keep_alive", "_length")

    def __init__(self, base: Environ) -> None:
        self._base = base
        self._block: bytes | None = None  # the last plain header block: clients repeat it on every request of a connection
        self._environ: Environ = base
        self._keep_alive = True
        self._length = 0

    def parse(self, data: bytes, end: int, peer: tuple[str, int]) -> tuple[Request, bytes]:
        """The request whose head ends at `end`, or can only be refused, and the bytes after its head. Raises Refused."""
        line_end = data.find(b"\r\n")
        line = _LINE.fullmatch(data, 0, line_end)
        if line and line_end <= MAX_LINE and data.endswith(b"\r\n\r\n", 0, end) and self._plain(data[line_end + 2 : end - 2]):
            request = Request(_fill(self._environ.copy(), *_decode(line)), True, self._keep_alive)
            if not self._length:
                return request, data[end:]
            request.parsed = Announced(self._length, data[end:], False)
            return request, b""
        return self._parse(data, end, peer)

    def _plain(self, block: bytes) -> bool:
        """Is this header block free of everything that needs a decision? Then its environ, and the length that it announces, are in place."""
        if block == self._block:
            return True
        text = block.decode("latin-1")
        if len(text) > 32 * 1024 or not _BLOCK.fullmatch(text):
            return False
        environ = self._base.copy()
        for field in text[:-2].split("\r\n"):
            name, _, value = field.partition(":")
            if "_" in name:
                continue
            key = name.upper().replace("-", "_")
            if key in _NOT_PLAIN:
                return False
            if key not in _WITHOUT_PREFIX:
                key = "HTTP_" + key
            if key in environ:
                return False
            environ[key] = value.strip(" \t")
        length = environ.get("CONTENT_LENGTH", "0")
        if not _HOST.fullmatch(environ.get("HTTP_HOST", "?")) or not _LENGTH.fullmatch(length):
            return False
        self._length = int(length)
        self._environ, self._keep_alive = environ, keeps_alive(environ, http11=True)
        self._block = block if len(block) <= _CACHED_HEAD else None
        return True

    def _parse(self, data: bytes, end: int, peer: tuple[str, int]) -> tuple[Request, bytes]:
        unreader = SocketUnreader(_Nothing)
        unreader.unread(data[:end])  # so that the head cannot end anywhere else
        try:
            parsed = Parsed(_SETTINGS, unreader, peer)
        except (http_errors.ParseException, http_errors.NoMoreData) as error:
            raise refusal(error) from error
        environ = _fill(self._base.copy(), parsed.method, parsed.uri, parsed.path or "/", parsed.query)
        _add_headers(environ, parsed.headers)
        http11 = parsed.version >= (1, 1)
        _refuse_ambiguous(parsed, environ, http11)
        if absolute := _ABSOLUTE.fullmatch(parsed.uri):
            environ["HTTP_HOST"] = absolute["host"]  # RFC 9112 section 3.2.2
        unreader.unread(data[end:])
        environ["SERVER_PROTOCOL"] = "HTTP/1.1" if http11 else "HTTP/1.0"
        request = Request(environ, http11, not parsed.must_close and parsed.method != "CONNECT" and keeps_alive(environ, http11))
        reader = parsed.body.reader
        if isinstance(reader, LengthReader) and not reader.length:
            return request, unreader.take_buffered()
        request.parsed = Announced(
            reader.length if isinstance(reader, LengthReader) else None, unreader.take_buffered(), parsed._expected_100_continue
        )
        return request, b""


def _refuse_ambiguous(parsed: Any, environ: Environ, http11: bool) -> None:
    """What gunicorn accepts, but what a proxy before us may understand otherwise, or what no client sends. Raises Refused."""
    if environ.get("HTTP_TRANSFER_ENCODING", "chunked").lower() != "chunked":
        raise Refused(400, "Bad Request", "a transfer coding that is not chunked alone")
    if isinstance(parsed.body.reader, LengthReader) and parsed.body.reader.length >= MAX_LENGTH:
        raise Refused(413, "Content Too Large", "Content-Length is beyond all bounds")
    if http11 and "HTTP_HOST" not in environ:
        raise Refused(400, "Bad Request", "no Host header")  # RFC 9112 section 3.2
    if not _HOST.fullmatch(environ.get("HTTP_HOST", "")):
        raise Refused(400, "Bad Request", "not a valid Host header")
    if "#" in parsed.uri or not (parsed.uri[0] in "/*" or parsed.method == "CONNECT" or _ABSOLUTE.fullmatch(parsed.uri)):
        raise Refused(400, "Bad Request", "not a valid request target")


class _Nothing:
    """What lies behind the bytes given to the parser: nothing, so it never waits."""

    @staticmethod
    def recv(size: int) -> bytes:
        return b""


def open_body(request: Request, receiver: Receiver, invite: Callable[[], None]) -> bytes:
    """Give the request its `wsgi.input`; the result is what follows the body in the bytes already read, as far as that is known."""
    announced, request.parsed = request.parsed, None
    assert announced is not None
    length, start, rest = announced.length, announced.start, b""
    expects = invite if announced.expects_continue else None
    if length is not None:
        start, rest = start[:length], start[length:]
        request.body = LengthBody(receiver, start, length, expects)
    else:
        request.body = ChunkedBody(receiver, start, expects)
    request.environ["wsgi.input"] = request.body
    return rest


def keeps_alive(environ: Environ, http11: bool) -> bool:
    """RFC 9112 section 9.3."""
    connection = environ.get("HTTP_CONNECTION")
    if connection is None:
        return http11
    options = {option.strip().lower() for option in connection.split(",")}
    return "close" not in options and (http11 or "keep-alive" in options)


def refusal(error: Exception) -> Refused:
    status, reason = next((status, reason) for kind, status, reason in _REFUSALS if isinstance(error, kind))
    return Refused(status, reason, str(error)[:200])


def _decode(line: re.Match[bytes]) -> tuple[str, str, str, str]:
    method, target = line[1].decode("ascii"), line[2].decode("ascii")
    path, _, query = target.partition("?")
    return method, target, path, query


def _fill(environ: Environ, method: str, target: str, path: str, query: str) -> Environ:
    environ["REQUEST_METHOD"] = method
    environ["RAW_URI"] = target
    environ["PATH_INFO"] = unquote_to_bytes(path).decode("latin-1") if "%" in path else path
    environ["QUERY_STRING"] = query
    return environ


def _add_headers(environ: Environ, headers: list[tuple[str, str]]) -> None:
    """Repeated fields are joined by commas (RFC 9110 section 5.3); the parser has refused those that may not repeat."""
    for name, value in headers:
        key = name.replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = "HTTP_" + key
        environ[key] = f"{environ[key]},{value}" if key in environ else value
