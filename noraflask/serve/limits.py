"""The one place that says how long a peer may be silent and how slow it may be, in both directions of a connection.

Only time spent waiting for the peer counts: an application that writes to a slow disk between two reads costs its client nothing.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import sys
import termios

from noraflask.config import ServerConfig
from noraflask.errors import BadRequest, ClientGone


class BodyCut(ClientGone, ConnectionError):
    """The peer closed or reset the connection before the body was complete, or the server is stopping and its grace is over."""


class BodyAbandoned(BodyCut):
    """The server needed the connection for other clients, or stops."""

    status = 503


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
    """Takes what the peer of a request body has sent. It never waits: BlockingIOError says that there is nothing. Its other errors are ClientGone.

    A connection on which it failed cannot be used again: where the next request starts is unknown.
    """

    __slots__ = ("_has_spliced", "_pace", "_sock", "_told", "failed", "moved")

    def __init__(self, sock: socket.socket, limits: ServerConfig) -> None:
        self._sock = sock
        self._pace = Pace(limits.idle_timeout, limits.min_transfer_rate)
        self._told = 0
        self.moved = 0  # bytes that came in
        self.failed = False
        self._has_spliced = False

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes, at least one; b"" when the peer has closed its side."""
        try:
            data = self._sock.recv(size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            raise
        except OSError as error:
            raise self._broken() from error
        self._count(len(data))
        return data

    def recv_into(self, buffer: memoryview) -> int:
        """As recv(), into memory that is there already."""
        try:
            return self._count(self._sock.recv_into(buffer, 0, socket.MSG_DONTWAIT))
        except BlockingIOError:
            raise
        except OSError as error:
            raise self._broken() from error

    def splice(self, pipe: int, size: int) -> int:
        """Let the kernel move up to `size` bytes into a pipe: splice(2). 0 when the peer has closed its side."""
        if not self._has_spliced:
            self._has_spliced = True
            self._sock.setblocking(False)  # no flag of splice says so for a socket
        try:
            return self._count(os.splice(self._sock.fileno(), pipe, size))
        except BlockingIOError:
            raise
        except OSError as error:
            raise self._broken() from error

    def release(self) -> None:
        """The body is there, or lost: others use the socket now."""
        if self._has_spliced:
            self._has_spliced = False
            self._sock.setblocking(True)

    def is_too_slow(self, waited: float) -> bool:
        """The peer was waited for so many seconds more, in which came what was received since the last look: is that too little?"""
        moved, self._told = self.moved - self._told, self.moved
        return self._pace.too_slow(waited, moved)

    def _count(self, size: int) -> int:
        self.moved += size
        self.failed = self.failed or not size
        return size

    def _broken(self) -> BodyCut:
        self.failed = True
        return BodyCut("the connection broke before the request body was complete; ask for the upload's offset and go on there")


def wait_readable(fd: int, seconds: float) -> bool:
    """Has something come within `seconds`? True as well at the end and on an error, which the next read will tell."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def wait_writable(fd: int, seconds: float) -> bool:
    """Can more be sent within `seconds`? True as well on an error, which the next send will raise."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(seconds * 1000))


def unsent(fd: int) -> int:
    """Bytes the kernel still holds for the peer, sent but not acknowledged included: tcp(7), SIOCOUTQ."""
    return int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0\0\0\0"), sys.byteorder, signed=True)
