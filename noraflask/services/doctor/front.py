"""Connections to the front (a proxy, or the registry itself), raw enough to send half a body and look.

Nothing is followed and no proxy of the environment is used: a credential goes to the address that the operator named and nowhere else.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

from noraflask import __version__

TIMEOUT_SECONDS = 30.0
BODY_BYTES = 4 * 1024 * 1024
"""What is kept of an answer; manifests and errors are smaller."""
PIECE_BYTES = 64 * 1024
AGENT = f"nora/{__version__} doctor"
OWN_LOOPBACK = "127.99.0.1"
"""Of a front on this machine the doctor is a client by this address, so that the front's own can be told from it."""


class NoAnswer(Exception):
    """The connection could not be made, or it broke before an answer came; the text says which."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where clients reach the registry, by its parts."""

    scheme: str
    host: str
    port: int
    prefix: str
    """Path in front of all others, beginning with a slash; empty when there is none."""

    @classmethod
    def parse(cls, url: str) -> Target:
        """Raises ValueError for what is no http(s) address with a host, or has a user, a query or a fragment."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("expected http://HOST or https://HOST, without a user, a password and a query")
        if not url.isprintable() or " " in url:
            raise ValueError("expected an address without spaces and control characters")
        return cls(parts.scheme, parts.hostname, parts.port or _usual_port(parts.scheme), parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _usual_port(self.scheme) else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def base(self) -> str:
        return self.origin + self.prefix


def _usual_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    """Asked without regard to letter case."""
    body: bytes = b""
    size: int = 0
    """Bytes of the body that came, also where they were not kept."""
    digest: str = ""
    """sha256:… of them."""
    cut: str = ""
    """Why the body ended early; empty when it is whole."""
    own_address: str = field(default="", compare=False)

    def json(self) -> Any:
        """None for what is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    @property
    def is_ours(self) -> bool:
        """Did the registry say that, and not a proxy before it? Our errors are JSON with `errors` or `error`."""
        members = self.json()
        return isinstance(members, dict) and ("errors" in members or "error" in members)

    def told(self) -> str:
        """For people: the status, who spoke, and the error's text."""
        by = "" if self.is_ours else f" ({self.headers.get('Server') or self.headers.get('Via') or 'not the registry'})"
        members = self.json()
        message = ""
        if isinstance(members, dict):
            errors = members.get("errors")
            first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
            message = str(first.get("message") or members.get("error") or "")[:200]
        return f"{self.status}{by}{f': {message}' if message else ''}"


class Front:
    def __init__(
        self, target: Target, context: ssl.SSLContext | None = None, authorization: str | None = None, timeout: float = TIMEOUT_SECONDS
    ) -> None:
        """`context`: for https. `authorization`: the header of that name, for the registry."""
        self.target = target
        self.authorization = authorization
        self._context = context
        self._timeout = timeout

    def resolve(self, location: str, asked: str) -> str:
        """A Location as a client makes it absolute that has asked that path."""
        return urljoin(self.target.origin + asked, location)

    def begin(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, length: int | None = 0, with_login: bool = True, timeout: float = 0
    ) -> Exchange:
        """Send a request's head. `path` with the prefix; `length` None: the body comes in chunks of Transfer-Encoding. Raises NoAnswer."""
        sock = self._connect(timeout or self._timeout)
        connection = http.client.HTTPConnection(self.target.host, self.target.port)
        connection.sock = sock
        exchange = Exchange(connection, sock.getsockname()[0], chunked=length is None)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in self._headers(headers or {}, length, with_login).items():
                connection.putheader(name, value)
            connection.endheaders()
        except (OSError, http.client.HTTPException, ValueError) as problem:
            exchange.close()
            raise NoAnswer(_said(problem)) from None
        return exchange

    def ask(
        self,
        method: str,
        path: str,
        body: Iterable[bytes] | bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        length: int | None = None,
        with_login: bool = True,
    ) -> Answer:
        """A whole request; `length` is of a body that comes in pieces. Raises NoAnswer."""
        pieces = [body] if isinstance(body, bytes) else body
        exchange = self.begin(method, path, headers, len(body) if isinstance(body, bytes) else length, with_login)
        for piece in pieces:
            if piece and not exchange.send(piece):
                break  # whoever refuses a body early has said why
        return exchange.finish()

    def offered_protocol(self) -> tuple[str, str]:
        """What TLS settles on: its version, and the protocol by ALPN, empty where none is. Raises NoAnswer."""
        assert self._context is not None
        self._context.set_alpn_protocols(["h2", "http/1.1"])
        try:
            with contextlib.closing(self._connect(self._timeout)) as sock:
                assert isinstance(sock, ssl.SSLSocket)
                return sock.version() or "", sock.selected_alpn_protocol() or ""
        finally:
            self._context.set_alpn_protocols(["http/1.1"])

    def _headers(self, given: Mapping[str, str], length: int | None, with_login: bool) -> dict[str, str]:
        framing = {"Transfer-Encoding": "chunked"} if length is None else {"Content-Length": str(length)}
        login = {"Authorization": self.authorization} if self.authorization and with_login else {}
        return {"Host": self.target.authority, "User-Agent": AGENT, "Connection": "close", **framing, **login, **given}

    def _connect(self, timeout: float) -> socket.socket:
        try:
            sock = dial(self.target.host, self.target.port, timeout, OWN_LOOPBACK)
        except OSError as problem:
            raise NoAnswer(_said(problem)) from None
        if self._context is None:
            return sock
        try:
            return self._context.wrap_socket(sock, server_hostname=self.target.host)
        except (OSError, ValueError) as problem:
            sock.close()
            raise NoAnswer(f"TLS: {_said(problem)}") from None


def dial(host: str, port: int, timeout: float, source: str = "") -> socket.socket:
    """A connection. `source`: the own address towards loopback, so that a proxy there has another one than its client. Raises OSError."""
    problem: OSError = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(timeout)
            if source and family == socket.AF_INET and str(address[0]).startswith("127."):
                with contextlib.suppress(OSError):  # only Linux has the whole network on its loopback
                    sock.bind((source, 0))
            sock.connect(address)
            return sock
        except OSError as found:
            sock.close()
            problem = found
    raise problem


class Exchange:
    """One request on a connection of its own whose body is sent as the caller likes."""

    def __init__(self, connection: http.client.HTTPConnection, own_address: str, chunked: bool) -> None:
        self._connection = connection
        self._own_address = own_address
        self._chunked = chunked
        self._broken = ""

    def send(self, data: bytes) -> bool:
        """False once the other side takes no more; finish() tells what it said."""
        if not self._broken:
            try:
                self._connection.send(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
            except (OSError, http.client.HTTPException) as problem:
                self._broken = _said(problem)
        return not self._broken

    def early_answer(self) -> Answer | None:
        """What is said before the body is complete; None when nothing comes within the connection's time limit, or it is closed without a word."""
        try:
            return self._read()
        except NoAnswer:
            return None

    def finish(self) -> Answer:
        """End the body and wait for the answer. Raises NoAnswer."""
        if self._chunked and not self._broken:
            try:
                self._connection.send(b"0\r\n\r\n")
            except OSError as problem:
                self._broken = _said(problem)
        try:
            return self._read()
        except NoAnswer as problem:
            raise NoAnswer(self._broken or str(problem)) from None

    def close(self) -> None:
        self._connection.close()

    def _read(self) -> Answer:
        try:
            response = self._connection.getresponse()
            return self._answer(response)
        except (OSError, http.client.HTTPException) as problem:
            raise NoAnswer(_said(problem)) from None
        finally:
            self.close()

    def _answer(self, response: http.client.HTTPResponse) -> Answer:
        hashed, kept, size, cut = hashlib.sha256(), b"", 0, ""
        try:
            while piece := response.read(PIECE_BYTES):
                hashed.update(piece)
                size += len(piece)
                if size <= BODY_BYTES:
                    kept += piece
            if response.length:
                cut = f"{response.length} bytes are missing"
        except (OSError, http.client.HTTPException) as problem:
            cut = _said(problem)
        return Answer(response.status, response.headers, kept, size, f"sha256:{hashed.hexdigest()}", cut, self._own_address)


def _said(problem: BaseException) -> str:
    if isinstance(problem, TimeoutError):
        return "nothing came within the time limit"
    if isinstance(problem, ssl.SSLCertVerificationError):
        return problem.verify_message or "the certificate is not trusted"
    return getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
