"""One client connection: its socket, the bytes read ahead, and what it is waiting for.

A connection has one owner at a time: a thread that works on it, or the worker's tables of waiting connections. Whoever takes it out of a table
(`dict.pop`, atomic) owns it; epoll only says which one to look at.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import Enum
from typing import Any

from noraflask.config import ServerConfig
from noraflask.serve.limits import Pace, Receiver, unsent
from noraflask.serve.plans import Sight
from noraflask.serve.request import MAX_HEAD, MAX_LINE, HeadParser, Refused, Request, open_body
from noraflask.serve.response import Response
from noraflask.suspension import Reception

READ_SIZE = 16 * 1024


class Phase(Enum):
    """What a waiting connection waits for."""

    HEAD = "the rest of a request head"
    IDLE = "the next request of a kept-alive connection"
    READY = "a request thread; the next request is in the buffer already"
    BODY = "the rest of a request body"
    SENDING = "room for more of the response"
    LINGERING = "the end of what the client still sends after the last response"


class Answered(Enum):
    """What the leading thread did about a request."""

    NOT = "nothing: another thread has to run it"
    WHOLE = "the whole answer is with the kernel, the buffer is empty, and the connection can have another request"
    ELSEWHERE = "the connection is not the leader's any more: it was parked or closed"


class Connection:
    __slots__ = (
        *("_acknowledged", "_checked", "_line_end", "_pace", "_parser", "_scanned", "buffer", "client", "deadline", "fd", "held", "is_armed"),
        *("lingered", "own", "peer", "phase", "place", "progress", "reception", "request", "response", "run", "sight", "sock"),
        *("then", "turn", "turns"),
    )
    request: Request  # the present or last exchange: begin() sets them
    response: Response

    def __init__(self, sock: socket.socket, peer: tuple[str, int], own: str, base: dict[str, Any], deadline: float) -> None:
        """`own`: the client that the connection counts for while it has no request: its peer, or "" for a proxy, which works for many."""
        self.sock = sock
        self.fd = sock.fileno()
        self.peer = peer
        self.own, self.client = own, ""  # it counts for somebody once room.py says so
        self.phase = Phase.HEAD
        self.deadline = deadline  # monotonic; the sweep ends the present phase then
        self.progress = time.monotonic()  # when the peer last did its part
        self.turn = ""  # who takes turns with others while the present request waits for a thread
        self.turns = 0  # times that the peer was heard in the present phase
        self.buffer = b""
        self.held = 0  # bytes of its unfinished head, or of the answer that its peer does not take: held.py
        self.is_armed = False  # epoll tells of it
        self.lingered = 0  # bytes thrown away in LINGERING
        self.reception: Reception | None = None  # where the body goes to
        self.then: Callable[[BaseException | None], None] | None = None  # what to do when it is there, or has ended with an error
        self.run: Callable[[], Iterable[bytes]] | None = None  # the next part of the application's work
        self._pace: Pace | None = None  # of the response
        self._acknowledged = 0
        self._checked = 0.0
        self.place = f"{peer[0]} {base.get('SERVER_NAME')} {base.get('SERVER_PORT')}".encode()  # from where it came to where
        self.sight: Sight | None = None  # of the request in the buffer, or the one that runs
        self._parser = HeadParser({**base, "REMOTE_ADDR": peer[0], "REMOTE_PORT": str(peer[1])})
        self._scanned = self._line_end = 0

    def read(self) -> bool:
        """Take what has arrived. False at the end of the stream; raises BlockingIOError when there is nothing, else OSError."""
        data = self.sock.recv(READ_SIZE, socket.MSG_DONTWAIT)
        self.buffer = self.buffer + data if self.buffer else data
        return bool(data)

    @property
    def is_readable(self) -> bool:
        """Has something arrived that was not taken yet?"""
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    def reset_at_close(self) -> None:
        """Closing shall tell the peer of an error, not of an end."""
        with suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def next_request(self) -> Request | None:
        """The next whole request head in the buffer, or None. Raises Refused, also for a head that can no longer become valid."""
        buffer = self.buffer
        end = buffer.find(b"\r\n\r\n", self._scanned) + 4
        if end < 4:
            if not self._is_hopeless(buffer):
                self._scanned = max(0, len(buffer) - 3)
                return None
            end = len(buffer)
        if end > MAX_HEAD:
            raise Refused(431, "Request Header Fields Too Large", "request head too large")
        self._scanned = self._line_end = 0
        if buffer[:2] == TLS_HANDSHAKE:
            raise Refused(400, "Bad Request", "this is TLS, and the port speaks plain HTTP: use http://, or the address of the proxy in front")
        request, self.buffer = self._parser.parse(buffer, end, self.peer)
        return request

    def forget_head(self) -> None:
        """What is in the buffer has been answered."""
        self.buffer, self.sight = b"", None
        self._scanned = self._line_end = 0

    def _is_hopeless(self, head: bytes) -> bool:
        """Can this unfinished head never become valid? TLS, bare LF (RFC 9112 section 2.2), or too long. Looks at each byte once."""
        if not self._line_end:
            self._line_end = head.find(b"\r\n", self._scanned) + 1
            if len(head) > MAX_LINE + 2 and not 0 < self._line_end <= MAX_LINE + 1:
                return True
        start = max(0, self._scanned - 1)
        return head[:1] not in _FIRST or len(head) > MAX_HEAD or _BARE_LF.search(head, start) is not None

    def begin(self, request: Request) -> None:
        self.request = request
        self.response = Response(request.method, request.http11, request.keep_alive)
        self._pace = None
        self.run = None

    def open_body(self, limits: ServerConfig) -> None:
        self.buffer = open_body(self.request, Receiver(self.sock, limits), self._invite)

    def _invite(self) -> None:
        """RFC 9110 section 10.1.1: tell a client that sent `Expect: 100-continue` to go on, unless the final answer has begun."""
        if not self.response.started:
            with suppress(OSError):  # no room, or gone: reading will tell
                self.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n", socket.MSG_DONTWAIT)

    @property
    def is_body_unfinished(self) -> bool:
        return self.request.body is not None and not self.request.body.finished

    def will_close(self, bound: int) -> bool:
        """Must the response say `Connection: close`, because more than `bound` bytes of the body are still to come?"""
        body = self.request.body
        return body is not None and (body.receiver.failed or not body.is_invited or not body.is_nearly_finished(bound))

    # Waiting for the rest of a body

    def await_body(self, reception: Reception, then: Callable[[BaseException | None], None], seconds: float) -> None:
        """From now on the body goes to `reception`; all of it must be there in so many seconds."""
        self.reception, self.then = reception, then
        self.turns = 0
        self.progress = self._checked = time.monotonic()
        self.deadline = self.progress + seconds

    def hear(self, moved: int) -> None:
        """The peer was looked at, and so many bytes had come."""
        self.turns += 1
        if moved:
            self.progress = time.monotonic()

    def is_body_too_slow(self, now: float) -> bool:
        """Counts the time since the last look as waited for the peer."""
        waited, self._checked = now - self._checked, now
        body = self.request.body
        return now >= self.deadline or (body is not None and body.receiver.is_too_slow(waited))

    def begin_body_wait(self) -> None:
        self._checked = time.monotonic()

    # Waiting for the peer to take the response

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
        if moved:
            self.progress = now
        return self._pace.too_slow(waited, moved)


_RESET = struct.pack("ii", 1, 0)
_BARE_LF = re.compile(rb"(?<!\r)\n")
TLS_HANDSHAKE = b"\x16\x03"
"""How a TLS client begins: RFC 8446, section 5.1."""
_FIRST = frozenset(bytes([byte]) for byte in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz\r")
