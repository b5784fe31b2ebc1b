"""The one place that says how long a peer may be silent and how slow it may be, in both directions of a connection.

Only time spent waiting for the peer counts: an application that writes to a slow disk between two reads costs its client nothing.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import termios
import time
from collections.abc import Callable
from typing import TypeVar

from noraflask.config import ServerConfig
from noraflask.errors import BadRequest, ClientGone

Received = TypeVar("Received", bytes, int)


class BodyCut(ClientGone, ConnectionError):
    """The peer closed or reset the connection before the body was complete, or the server is stopping and its grace is over."""


class BodyTooSlow(ClientGone, TimeoutError):
    """The peer sent nothing for `idle_timeout`, or on average less than `min_transfer_rate`."""

    status = 408
    default_message = "the request body came too slowly; send it again over a better connection"


class BodyMalformed(BadRequest, OSError):
    """The chunked framing of the body is not RFC 9112 section 7.1."""

    default_message = "the chunked framing of the request body is not valid"


class PeerTooSlow(TimeoutError):
    """The peer did not take the response: nothing for `idle_timeout`, or on average less than `min_transfer_rate`."""


class Pace:
    """Judges one body in one direction: seconds waited for the peer against bytes moved."""

    __slots__ = ("_idle", "_rate", "_silent", "moved", "waited")

    def __init__(self, idle: float, rate: int) -> None:
        self._idle, self._rate = idle, rate
        self.waited = self._silent = 0.0
        self.moved = 0

    def too_slow(self, waited: float, moved: int) -> bool:
        """Count `waited` seconds in which the peer moved `moved` bytes; is it too slow now?"""
        self.waited += waited
        self.moved += moved
        self._silent = 0.0 if moved else self._silent + waited
        return self._silent >= self._idle or (self.waited > self._idle and self.moved < self.waited * self._rate)


class Receiver:
    """`recv` for request bodies on a blocking socket. Everything it raises is an OSError and renders as a 4xx.

    A connection on which it raised cannot be used again: where the next request starts is unknown.
    """

    def __init__(self, sock: socket.socket, limits: ServerConfig) -> None:
        self._sock = sock
        self._pace = Pace(limits.idle_timeout, limits.min_transfer_rate)
        self.failed = False
        self._patience = limits.idle_timeout
        self._too_slow = False  # told by the next call, so that what came in meanwhile is not lost
        self._patient = False  # has the kernel been told? A body that came with its head needs no such call

    def hurry(self, seconds: int) -> None:
        """From now on the whole rest must come within `seconds`."""
        self._pace = Pace(idle=seconds, rate=1 << 60)
        self._patience, self._patient = seconds, False

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Up to `size` bytes, at least one; b"" when the peer has closed its side. With MSG_WAITALL the kernel waits for all of `size`."""
        return self._judged(lambda: self._sock.recv(size, flags), len)

    def recv_into(self, buffer: memoryview) -> int:
        """As recv(), into memory that is there already."""
        return self._judged(lambda: self._sock.recv_into(buffer), int)

    def splice(self, pipe: int, size: int) -> int:
        """Let the kernel move up to `size` bytes into a pipe: splice(2). 0 when the peer has closed its side."""
        return self._judged(lambda: os.splice(self._sock.fileno(), pipe, size), int)

    def _judged(self, receive: Callable[[], Received], length: Callable[[Received], int]) -> Received:
        if not self._patient:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", self._patience, 0))
            self._patient = True
        if self._too_slow:
            self.failed = True
            raise BodyTooSlow
        started = time.monotonic()
        try:
            received = receive()
        except BlockingIOError:
            self.failed = True
            raise BodyTooSlow from None
        except OSError as error:
            self.failed = True
            raise BodyCut from error
        self._too_slow = self._pace.too_slow(time.monotonic() - started, length(received))
        self.failed = self.failed or not received
        return received


def wait_writable(fd: int, seconds: float) -> bool:
    """Can more be sent within `seconds`? True as well on an error, which the next send will raise."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(seconds * 1000))


def unsent(fd: int) -> int:
    """Bytes the kernel still holds for the peer, sent but not acknowledged included: tcp(7), SIOCOUTQ."""
    return struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0\0\0\0"))[0]
