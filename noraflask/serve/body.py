"""`wsgi.input`: request bodies of known length, chunked ones, and none. Reading never waits for the peer.

`read()` and `into_file()` raise BlockingIOError when the peer has sent no more yet: the server goes on when there is more (suspension.py). Every
other failure is an OSError *and* a NoraError with a 4xx status: BodyCut 400 (peer gone), BodyTooSlow 408, BodyMalformed 400 (chunked framing).
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import mmap
import os
import threading
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, cast

from noraflask.serve.chunks import ChunkDecoder
from noraflask.serve.limits import BodyCut, BodyMalformed, Receiver

MIB = 1024 * 1024
BUFFER_BYTES, LEAST_BYTES = 256 * 1024, 64 * 1024
IOV_MAX = 1024  # pieces that one writev(2) takes


class NoBody(io.RawIOBase):
    """The body of a request that has none. It keeps no state, so one instance serves all requests."""

    received = 0
    is_whole = True

    def read(self, size: int | None = -1) -> bytes:
        return b""

    def readinto(self, buffer: Any) -> int:
        return 0

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        """Other requests share this instance."""


class RequestBody(io.RawIOBase):
    """What the two kinds of body share: the 100 (Continue) before the first byte is asked of the peer, and how a body ends early."""

    def __init__(self, receiver: Receiver, invite: Callable[[], None] | None) -> None:
        self.receiver = receiver
        self.broken: Exception | None = None  # what ended the body early; told when all that came in before has been read
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
        """At least one byte and at most `size`, b"" at the end of the body. Raises BlockingIOError when there is none yet."""
        if size is None or size < 0:
            return self.readall()
        return self._take(size)

    @abstractmethod
    def _take(self, size: int) -> bytes:
        """As read()."""

    @property
    def is_invited(self) -> bool:
        """False while a client that sent `Expect: 100-continue` has not been told to go on: it may never send the body."""
        return self._invite is None

    def end(self, problem: Exception) -> None:
        """Nothing more is to come."""
        self.broken = self.broken or problem
        self.receiver.failed = True

    def _receive(self, most: int) -> bytes:
        self._await_peer()
        return self._or_cut(self.receiver.recv(most))

    def _await_peer(self) -> None:
        """Before anything is asked of the peer."""
        if self.broken:
            raise self.broken
        if self._invite is not None:
            invite, self._invite = self._invite, None
            invite()

    def _or_cut(self, received: Any) -> Any:
        if not received:
            self.end(BodyCut("the request body ended early; ask for the upload's offset and go on there"))
            raise cast("Exception", self.broken)
        return received


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

    @property
    def is_whole(self) -> bool:
        """Is all that is left of it in memory?"""
        return len(self._start) == self.left

    @property
    def finished(self) -> bool:
        return not self.left

    def fetch(self) -> bool:
        """Take what has come into memory; is it whole now? For small bodies."""
        self._start += self._receive(self.left - len(self._start))
        return self.is_whole

    def _take(self, size: int) -> bytes:
        size = min(size, self.left)
        if not size:
            return b""
        if self._start:
            data, self._start = self._start[:size], self._start[size:]
        else:
            data = self._receive(size)
        self.left -= len(data)
        return data

    def into_file(self, descriptor: int, size: int) -> int:
        """Append at most `size` bytes to a file at its position, moved by the kernel; 0 only at the end of the body.

        An OSError that is neither a ClientGone nor a BlockingIOError is of the file; the body cannot be read any further then.
        """
        size = min(size, self.left)
        if not size:
            return 0
        if self._start:
            moved = os.write(descriptor, self._start[:size])
            self._start = self._start[moved:]
        else:
            self._await_peer()
            moved = self._or_cut(_through_pipe(self.receiver, descriptor, size))
        self.left -= moved
        return moved

    def is_nearly_finished(self, bound: int) -> bool:
        return self.left <= bound

    def rest(self) -> bytes:
        """What followed the body in the bytes read so far; open_body() has given it to the connection already."""
        return b""


class ChunkedBody(RequestBody):
    """A body with `Transfer-Encoding: chunked`."""

    def __init__(self, receiver: Receiver, start: bytes, invite: Callable[[], None] | None) -> None:
        super().__init__(receiver, invite)
        self._decoder = ChunkDecoder()
        self._start = b""  # bytes of the body that are in memory
        self._most = LEAST_BYTES  # that are read at a time: tiny chunks cost as much as large ones
        if start:
            self._invite = None  # it does not wait
            try:
                self._start = b"".join(self._decoder.feed(memoryview(start)))
            except BodyMalformed as error:
                self.end(error)

    @property
    def received(self) -> int:
        """Bytes of the body that have been read, without the framing of its chunks."""
        return self._decoder.received - len(self._start)

    @property
    def is_whole(self) -> bool:
        return self._decoder.finished

    @property
    def finished(self) -> bool:
        return self._decoder.finished and not self._start

    def _take(self, size: int) -> bytes:
        if not self._start:
            self._start = b"".join(self._next(min(size, BUFFER_BYTES)))
        data, self._start = self._start[:size], self._start[size:]
        return data

    def into_file(self, descriptor: int, size: int) -> int:
        """Append what has arrived to a file at its position; at most `size` bytes if that is BUFFER_BYTES or more. 0 only at the end of the body."""
        if self._start:
            moved = os.write(descriptor, self._start[:size])
            self._start = self._start[moved:]
            return moved
        pieces, moved = self._next(BUFFER_BYTES), 0
        while pieces:
            wrote = os.writev(descriptor, pieces[:IOV_MAX])
            moved += wrote
            pieces = _after(pieces, wrote)
        return moved

    def _next(self, most: int) -> list[memoryview]:
        """The next bytes, valid until this thread reads another body; none at the end."""
        while not self._decoder.finished:
            self._await_peer()
            view = _buffer()
            size, before = self._or_cut(self.receiver.recv_into(view[: min(most, self._most)])), self._decoder.received
            try:
                pieces = self._decoder.feed(view[:size])
            except BodyMalformed as error:
                self.end(error)
                raise
            is_mostly_data = self._decoder.received - before > size // 2
            self._most = min(2 * self._most, BUFFER_BYTES) if is_mostly_data else LEAST_BYTES
            if pieces:
                return pieces
        return []

    def is_nearly_finished(self, bound: int) -> bool:
        return self.finished

    def rest(self) -> bytes:
        """What followed the body in the bytes read so far: the next request, if the client did not wait."""
        return self._decoder.rest


def _after(pieces: list[memoryview], size: int) -> list[memoryview]:
    """What is left of the pieces behind their first `size` bytes."""
    for index, piece in enumerate(pieces):
        if size < len(piece):
            return [piece[size:], *pieces[index + 1 :]]
        size -= len(piece)
    return []


_threads = threading.local()
"""What each thread has of its own: a buffer for chunks, and a pipe for splice(2), one end of which has to be a pipe."""


def _buffer() -> memoryview:
    found: memoryview | None = getattr(_threads, "buffer", None)
    if found is None:
        found = _threads.buffer = memoryview(mmap.mmap(-1, BUFFER_BYTES))  # a page is memory once it was used
    return found


def _through_pipe(receiver: Receiver, descriptor: int, size: int) -> int:
    pipe: Pipe | None = getattr(_threads, "pipe", None)
    if pipe is None:
        pipe = _threads.pipe = Pipe()
    left = moved = receiver.splice(pipe.writing, size)
    try:
        while left:
            left -= os.splice(pipe.reading, descriptor, left)
    except OSError:
        receiver.failed = True
        _threads.pipe = None  # with what is in it
        raise
    return moved


class Pipe:
    """Closed when its thread ends."""

    _ends: tuple[int, ...] = ()

    def __init__(self) -> None:
        self._ends = self.reading, self.writing = os.pipe()
        with contextlib.suppress(OSError):  # many pipes of one user may not be large: pipe(7)
            fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, MIB)

    def __del__(self) -> None:
        for end in self._ends:
            os.close(end)


class Leftover:
    """What the application left unread of a body, thrown away so that the connection can be used again."""

    def take(self, body: Any, /) -> bool:
        return not body.read(64 * 1024)
