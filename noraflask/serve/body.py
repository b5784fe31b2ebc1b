"""`wsgi.input`: request bodies of known length, chunked ones, and none.

Every failure of `read()` and `readinto()` is an OSError *and* a NoraError with a 4xx status, so staging code may catch the one and an
uncaught one still becomes a clean answer: BodyCut 400 (peer gone), BodyTooSlow 408, BodyMalformed 400 (chunked framing).
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import socket
import threading
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.http.unreader import Unreader

from noraflask.serve.chunks import Chunks
from noraflask.serve.limits import BodyCut, BodyMalformed, BodyTooSlow, Receiver

MIB = 1024 * 1024
UNREADER_SIZE = 8192  # SocketUnreader's max_chunk
IOV_MAX = 1024  # pieces that one writev(2) takes


class NoBody(io.RawIOBase):
    """The body of a request that has none. It keeps no state, so one instance serves all requests."""

    received = 0

    def read(self, size: int | None = -1) -> bytes:
        return b""

    def readinto(self, buffer: Any) -> int:
        return 0

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        """Other requests share this instance."""


class RequestBody(io.RawIOBase):
    """What the two kinds of body share: the 100 (Continue) before the first byte is asked of the peer, and reading by lines."""

    def __init__(self, receiver: Receiver, invite: Callable[[], None] | None) -> None:
        self.receiver = receiver
        self.broken: OSError | None = None  # what ended the body early; told when all that came in before has been read
        self._invite = invite

    def readable(self) -> bool:
        return True

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(MIB), b""))

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1) -> bytes:
        """Exactly `size` bytes, fewer at the end of the body, and before an error: that one is raised by the next call."""
        if size is None or size < 0:
            return self.readall()
        data = self._take(size)
        if self.broken and not data:
            raise self.broken
        return data

    @abstractmethod
    def _take(self, size: int) -> bytes:
        """As read(); an error is left in `broken`."""

    @property
    def invited(self) -> bool:
        """False while a client that sent `Expect: 100-continue` has not been told to go on: it may never send the body."""
        return self._invite is None

    def invite(self) -> None:
        if self._invite is not None:
            invite, self._invite = self._invite, None
            invite()


class LengthBody(RequestBody):
    """A body with Content-Length. `start` holds what arrived together with the head."""

    def __init__(self, receiver: Receiver, start: bytes, length: int, invite: Callable[[], None] | None) -> None:
        super().__init__(receiver, None if len(start) == length else invite)
        self._start = start
        self.left = self._length = length

    @property
    def received(self) -> int:
        """Bytes of the body that have been read."""
        return self._length - self.left

    def _take(self, size: int) -> bytes:
        size = min(size, self.left)
        data, self._start = self._start[:size], self._start[size:]
        if len(data) < size:
            received = self._receive(size - len(data))
            data = data + received if data else received
        self.left -= len(data)
        return data

    def into_file(self, descriptor: int, size: int) -> int:
        """Append at most `size` bytes to a file at its position, moved by the kernel; 0 only at the end of the body.

        An OSError that is not a ClientGone is of the file; the body cannot be read any further then.
        """
        size = min(size, self.left)
        if not size:
            return 0
        if self._start:
            moved = os.write(descriptor, self._start[:size])
            self._start = self._start[moved:]
        else:
            self.invite()
            moved = _through_pipe(self.receiver, descriptor, size)
            if not moved:
                raise BodyCut(f"the request body ended {self.left} bytes early; ask for the upload's offset and go on there")
        self.left -= moved
        return moved

    def _receive(self, size: int) -> bytes:
        pieces: list[bytes] = []
        try:
            self.invite()
            while size and not self.broken:
                pieces.append(self.receiver.recv(size, socket.MSG_WAITALL))
                size -= len(pieces[-1])
                if not pieces[-1]:
                    raise BodyCut("the request body ended early; ask for the upload's offset and go on there")
        except OSError as error:
            self.broken = error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    @property
    def finished(self) -> bool:
        return not self.left

    def nearly_finished(self, bound: int) -> bool:
        return self.left <= bound


class ChunkSource:
    """What gunicorn's SocketUnreader reads from. It asks for more than `max_chunk` bytes only inside a chunk, where all of them must come."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def recv(self, size: int) -> bytes:
        return self._receiver.recv(size, socket.MSG_WAITALL if size > UNREADER_SIZE else 0)


class ChunkedBody(RequestBody):
    """A body with `Transfer-Encoding: chunked`."""

    def __init__(self, receiver: Receiver, reader: ChunkedReader, unreader: Unreader, invite: Callable[[], None] | None) -> None:
        super().__init__(receiver, invite)
        self._reader = reader
        self._unreader = unreader
        self._chunks: Chunks | None = None
        self._start = b""
        self.finished = False
        self.received = 0  # bytes of the body, without the framing of its chunks

    def _take(self, size: int) -> bytes:
        pieces, missing = [self._start[:size]], max(0, size - len(self._start))
        self._start = self._start[size:]
        while missing > 0 and not self.finished and not self.broken:
            arrived = b"".join(self._next())
            self._start = arrived[missing:]
            pieces.append(arrived[:missing])
            missing -= len(pieces[-1])
        return b"".join(pieces)

    def into_file(self, descriptor: int, size: int) -> int:
        """Append what has arrived to a file at its position; at most `size` bytes if that is BUFFER_BYTES or more. 0 only at the end of the body."""
        if self._start:
            moved = os.write(descriptor, self._start[:size])
            self._start = self._start[moved:]
            return moved
        pieces = self._next()
        if not pieces and self.broken:
            raise self.broken
        moved = 0
        while pieces:
            wrote = os.writev(descriptor, pieces[:IOV_MAX])
            moved += wrote
            pieces = _after(pieces, wrote)
        return moved

    def _next(self) -> list[memoryview]:
        """The next bytes as they arrived; none at the end of the body, and where it breaks off."""
        if self.finished or self.broken:
            return []
        try:
            self.invite()
            if self._chunks is None:
                self._chunks = Chunks(self.receiver, self._reader, self._unreader)
            pieces = self._chunks.next()
            self.finished = not pieces
            self.received += sum(map(len, pieces))
            return pieces
        except NoMoreData as error:
            self.broken = BodyCut("the request body ended early; ask for the upload's offset and go on there")
            self.broken.__cause__ = error
        except ParseException as error:
            self.receiver.failed = True
            self.broken = BodyMalformed()
            self.broken.__cause__ = error
        except OSError as error:
            self.broken = error
        return []

    def nearly_finished(self, bound: int) -> bool:
        return self.finished and not self._start

    def rest(self) -> bytes:
        """What followed the body in the bytes read so far: the next request, if the client did not wait."""
        return self._unreader.take_buffered()


def _after(pieces: list[memoryview], size: int) -> list[memoryview]:
    """What is left of the pieces behind their first `size` bytes."""
    for index, piece in enumerate(pieces):
        if size < len(piece):
            return [piece[size:], *pieces[index + 1 :]]
        size -= len(piece)
    return []


_pipes = threading.local()
"""Each thread's own pipe for splice(2): one end of it has to be a pipe."""


def _through_pipe(receiver: Receiver, descriptor: int, size: int) -> int:
    if not getattr(_pipes, "ends", None):
        _pipes.ends = os.pipe()
        with contextlib.suppress(OSError):  # many pipes of one user may not be large: pipe(7)
            fcntl.fcntl(_pipes.ends[1], fcntl.F_SETPIPE_SZ, MIB)
    reading, writing = _pipes.ends
    left = moved = receiver.splice(writing, size)
    try:
        while left:
            left -= os.splice(reading, descriptor, left)
    except OSError:
        receiver.failed = True
        _pipes.ends = None  # with what is in it
        os.close(reading)
        os.close(writing)
        raise
    return moved


def drain(body: LengthBody | ChunkedBody, seconds: int) -> bool:
    """Read the little that the application left unread. False when the connection cannot be used again."""
    if body.finished or body.receiver.failed or not body.invited:
        return body.finished
    body.receiver.hurry(seconds)
    try:
        while body.read(64 * 1024):
            pass
    except (BodyCut, BodyTooSlow, BodyMalformed):
        return False
    return True
