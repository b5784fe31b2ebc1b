"""One client connection: its socket, the bytes read ahead, and what it is waiting for.

A connection has one owner at a time: a thread that works on it, or the worker's tables of waiting connections. Whoever takes it out of a table
(`dict.pop`, atomic) owns it; epoll only says which one to look at.
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from enum import Enum
from typing import Any

from noraflask.config import ServerConfig
from noraflask.serve.body import ChunkedBody, drain
from noraflask.serve.limits import Pace, Receiver, unsent
from noraflask.serve.request import MAX_HEAD, MAX_LINE, HeadParser, Refused, Request, open_body
from noraflask.serve.response import Response

READ_SIZE = 16 * 1024


class Phase(Enum):
    """What a waiting connection waits for."""

    HEAD = "the rest of a request head"
    IDLE = "the next request of a kept-alive connection"
    READY = "a request thread; the next request is in the buffer already"
    SENDING = "room for more of the response"
    LINGERING = "the end of what the client still sends after the last response"


class Connection:
    __slots__ = (
        "_acknowledged",
        "_checked",
        "_pace",
        "_parser",
        "_scanned",
        "buffer",
        "deadline",
        "fd",
        "lingered",
        "peer",
        "phase",
        "request",
        "response",
        "sock",
    )
    request: Request  # the present or last exchange: begin() sets them
    response: Response

    def __init__(self, sock: socket.socket, peer: tuple[str, int], base: dict[str, Any], deadline: float) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.peer = peer
        self.phase = Phase.HEAD
        self.deadline = deadline  # monotonic; the sweep ends the present phase then
        self.buffer = b""
        self._pace: Pace | None = None  # of the response
        self._acknowledged = 0
        self._checked = 0.0
        self.lingered = 0  # bytes thrown away in LINGERING
        self._parser = HeadParser({**base, "REMOTE_ADDR": peer[0], "REMOTE_PORT": str(peer[1])})
        self._scanned = 0

    def read(self) -> bool:
        """Take what has arrived. False at the end of the stream; raises BlockingIOError when there is nothing, else OSError."""
        data = self.sock.recv(READ_SIZE, socket.MSG_DONTWAIT)
        self.buffer = self.buffer + data if self.buffer else data
        return bool(data)

    def next_request(self) -> Request | None:
        """The next whole request head in the buffer, or None. Raises Refused, also for a head that can no longer become valid."""
        buffer = self.buffer
        end = buffer.find(b"\r\n\r\n", self._scanned) + 4
        if end < 4:
            if not _hopeless(buffer, self._scanned):
                self._scanned = max(0, len(buffer) - 3)
                return None
            end = len(buffer)
        if end > MAX_HEAD:
            raise Refused(431, "Request Header Fields Too Large", "request head too large")
        self._scanned = 0
        request, self.buffer = self._parser.parse(buffer, end, self.peer)
        return request

    def begin(self, request: Request) -> None:
        self.request = request
        self.response = Response(request.method, request.http11, request.keep_alive)
        self._pace = None

    def open_body(self, limits: ServerConfig) -> None:
        """Called on the thread that will run the request: reading a body waits for the peer."""
        self.buffer = open_body(self.request, Receiver(self.sock, limits), self._invite)

    def _invite(self) -> None:
        """RFC 9110 section 10.1.1: tell a client that sent `Expect: 100-continue` to go on, unless the final answer has begun."""
        if not self.response.started:
            with suppress(OSError):  # no room, or gone: reading will tell
                self.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n", socket.MSG_DONTWAIT)

    @property
    def body_unfinished(self) -> bool:
        return self.request.body is not None and not self.request.body.finished

    def will_close(self, bound: int) -> bool:
        """Must the response say `Connection: close`, because more than `bound` bytes of the body are still to come?"""
        body = self.request.body
        return body is not None and (body.receiver.failed or not body.invited or not body.nearly_finished(bound))

    def finish_body(self, seconds: int) -> bool:
        """After the response: throw away the rest of the body. False when the connection cannot be used for another request."""
        body = self.request.body
        if body is None:
            return True
        reusable = drain(body, seconds)
        if isinstance(body, ChunkedBody):
            self.buffer = body.rest()
        return reusable

    def begin_waiting(self, limits: ServerConfig) -> None:
        """The peer takes no more of the response: its pace counts from here, until `too_slow()` is asked."""
        self._checked = time.monotonic()
        if self._pace is None:
            self._pace = Pace(limits.idle_timeout, limits.min_transfer_rate)
            self._acknowledged = 0

    def too_slow(self, now: float) -> bool:
        """Has the peer acknowledged too little of the response since the last look?"""
        assert self._pace is not None
        acknowledged = self.response.sent - unsent(self.fd)
        moved, self._acknowledged = max(0, acknowledged - self._acknowledged), acknowledged
        waited, self._checked = now - self._checked, now
        return self._pace.too_slow(waited, moved)


def _hopeless(head: bytes, scanned: int) -> bool:
    """Can this unfinished head never become valid? TLS on the plain port, bare LF (RFC 9112 section 2.2), or too long.

    The first `scanned` bytes have been found well before, and are not looked at again, however small the pieces are that a peer sends.
    """
    if head[:1] not in _FIRST or head.count(b"\n", scanned) != head.count(b"\r\n", max(0, scanned - 1)) or len(head) > MAX_HEAD:
        return True
    return scanned <= MAX_LINE + 2 < len(head) and b"\r\n" not in head[: MAX_LINE + 2]


_FIRST = frozenset(bytes([byte]) for byte in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz\r")
