"""Requests as bytes and answers as bytes, over connections that are kept: what two servers say is compared as it stands on the wire."""

from __future__ import annotations

import re
import socket
import time
from dataclasses import dataclass

PIECE_SECONDS = 0.002
"""Between the two pieces of a head, so that they arrive as two."""
LONGEST_WAIT_SECONDS = 60.0
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_ID = re.compile(rb"\r\nx-request-id: *([^\r]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Request:
    data: bytes
    """Head and body."""
    method: str
    id: bytes = b""
    """The X-Request-Id that it has, and that its answer must have; empty: the server makes one."""
    cut: int = 0
    """Bytes of its first piece; 0: it is sent in one."""


@dataclass(frozen=True, slots=True)
class Answer:
    data: bytes
    """Head and body."""
    end: int
    """Where its body begins."""

    @property
    def status(self) -> int:
        return int(self.data[9:12])

    @property
    def body(self) -> bytes:
        return self.data[self.end :]

    @property
    def id(self) -> bytes:
        match = _ID.search(self.data, 0, self.end)
        return match[1] if match else b""

    @property
    def closes(self) -> bool:
        return _CLOSES.search(self.data, 0, self.end) is not None

    def header(self, name: str) -> str:
        match = re.search(rb"\r\n" + name.encode() + rb": *([^\r]*)", self.data[: self.end], re.IGNORECASE)
        return match[1].decode("latin-1") if match else ""


class Connection:
    """Opened when it is first needed, and again after an answer that ends it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self._rest = b""

    def send(self, data: bytes, cut: int = 0) -> None:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=LONGEST_WAIT_SECONDS)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if cut:
            self._socket.sendall(data[:cut])
            time.sleep(PIECE_SECONDS)
        self._socket.sendall(data[cut:])

    def read(self, method: str) -> Answer:
        """Raises ConnectionError when the server closes before the whole answer is here."""
        data, end = self._rest, -1
        while (end := data.find(b"\r\n\r\n", max(0, end))) < 0:
            data += self._more()
        end += 4
        length = 0
        if method != "HEAD" and data[9:12] not in (b"204", b"304"):
            match = _LENGTH.search(data, 0, end)
            if match is None:
                raise ConnectionError(f"an answer without a length: {data[:end]!r}")
            length = int(match[1])
        if len(data) < end + length:
            pieces, missing = [data], end + length - len(data)
            while missing > 0:
                pieces.append(self._more())
                missing -= len(pieces[-1])
            data = b"".join(pieces)
        self._rest = data[end + length :]
        answer = Answer(data[: end + length], end)
        if answer.closes:
            self.close()
        return answer

    def _more(self) -> bytes:
        assert self._socket is not None
        data = self._socket.recv(262144)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._rest = b""
