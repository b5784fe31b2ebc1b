"""Decoding `Transfer-Encoding: chunked` (RFC 9112 section 7.1): bytes in, bytes of the body out. Who reads them from where is the caller's business.

What is accepted is a subset of what gunicorn's ChunkedReader accepts (tests/unit/test_chunk_decoder.py compares the two). Trailers are checked and
dropped. No byte is looked at more than a few times, however the peer cuts what it sends.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from noraflask.serve.limits import BodyMalformed

MAX_SIZE_LINE = 4096
"""Bytes of a chunk's size with its extensions, line end included."""
MAX_EXTENSIONS = 16 * 1024
"""Bytes of all extensions of a body, and one for every DATA_PER_EXTENSION bytes of data: signed chunks of a large body have many."""
DATA_PER_EXTENSION = 8
MAX_TRAILERS = 16 * 1024
MAX_TRAILER_FIELDS = 100
SMALL = 512
"""Chunks up to this size are copied together: a view of each would take more memory than they do."""

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"  # RFC 9110 section 5.6.2
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'  # section 5.6.4
_EXTENSION = rb"[ \t]*+;[ \t]*+" + _TOKEN + rb"(?:[ \t]*+=[ \t]*+(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?"
_SIZE = rb"([0-9A-Fa-f]{1,16})((?:" + _EXTENSION + rb")*)\r\n"
_FIRST = re.compile(_SIZE)
_NEXT = re.compile(rb"\r\n" + _SIZE)  # with the end of the chunk before
_FIELD = re.compile(rb"(" + _TOKEN + rb"):[\t\x20-\x7e\x80-\xff]*+\r\n")
_NOT_IN_TRAILERS = frozenset((b"host", b"content-length", b"content-type", b"transfer-encoding", b"trailer", b"authorization", b"te"))
_LINE_END = re.compile(rb"\n")


class _Due(Enum):
    """What must come next, once the bytes of the present chunk are there."""

    SIZE = auto()
    CHUNK_END = auto()
    TRAILER = auto()
    NOTHING = auto()


class ChunkDecoder:
    """One body. `received` counts its bytes, without the framing."""

    __slots__ = ("_due", "_extensions", "_failed", "_left", "_line", "_room", "_trailers", "received", "rest")

    def __init__(self) -> None:
        self.received = 0
        self.rest = b""
        """What followed the body in the bytes fed: the next request, if the client did not wait."""
        self._due = _Due.SIZE
        self._left = 0  # bytes of the present chunk that are still to come
        self._line = bytearray()  # the beginning of an unfinished line
        self._room = MAX_SIZE_LINE  # bytes that the line may have
        self._extensions = self._trailers = 0
        self._failed = False

    @property
    def finished(self) -> bool:
        """The last chunk and its trailers have been seen whole."""
        return self._due is _Due.NOTHING

    def expects(self) -> int:
        """Bytes of the present chunk that are still missing: the caller may let the kernel move them and tell by `skip`."""
        return self._left

    def skip(self, size: int) -> None:
        """The caller took `size` bytes, at most `expects()`, from the connection itself."""
        assert size <= self._left
        self._left -= size
        self.received += size

    def feed(self, data: memoryview) -> list[memoryview]:
        """The bytes of the body in `data` (of format "B"): views into it, except where chunks are small. Raises BodyMalformed, and then always."""
        if self._failed:
            raise BodyMalformed
        try:
            return self._decode(data)
        except BodyMalformed:
            self._failed = True
            raise

    def _decode(self, data: memoryview) -> list[memoryview]:
        pieces: list[memoryview] = []
        small = bytearray()  # becomes the next of the pieces
        at, end = 0, len(data)
        while at < end and self._due is not _Due.NOTHING:
            if not self._left:
                at = self._take_framing(data, at)
                continue
            start, at = at, min(at + self._left, end)
            if at - start <= SMALL:
                small += data[start:at]
            else:
                if small:
                    pieces.append(memoryview(small))
                    small = bytearray()
                pieces.append(data[start:at])
            self._left -= at - start
            self.received += at - start
        if small:
            pieces.append(memoryview(small))
        if at < end:
            self.rest += bytes(data[at:])
        return pieces

    def _take_framing(self, data: memoryview, at: int) -> int:
        """What lies between the bytes of two chunks, in one step if all of it is there; else line by line. The result is where to go on."""
        found = None
        if not self._line:
            if self._due is _Due.CHUNK_END:
                found = _NEXT.match(data, at, at + 2 + MAX_SIZE_LINE)
            elif self._due is _Due.SIZE:
                found = _FIRST.match(data, at, at + MAX_SIZE_LINE)
        if not found:
            return self._take_line(data, at)
        self._begin_chunk(*found.groups())
        return found.end()

    def _take_line(self, data: memoryview, at: int) -> int:
        """Add to the unfinished line; judge it when it is whole. The result is where the next one begins."""
        stop = min(len(data), at + self._room - len(self._line))
        found = _LINE_END.search(data, at, stop)
        if found:
            stop = found.end()
        self._line += data[at:stop]
        if found:
            line = bytes(self._line)
            self._line.clear()
            self._judge(line)
        elif len(self._line) >= self._room:
            raise BodyMalformed
        return stop

    def _judge(self, line: bytes) -> None:
        if self._due is _Due.TRAILER:
            self._end_field(line)
        elif self._due is _Due.SIZE:
            found = _FIRST.fullmatch(line)
            if not found:
                raise BodyMalformed
            self._begin_chunk(*found.groups())
        elif line == b"\r\n":
            self._due, self._room = _Due.SIZE, MAX_SIZE_LINE
        else:
            raise BodyMalformed

    def _begin_chunk(self, size: bytes, extensions: bytes) -> None:
        if extensions:
            self._extensions += len(extensions)
            if self._extensions > MAX_EXTENSIONS + self.received // DATA_PER_EXTENSION:
                raise BodyMalformed
        self._left = int(size, 16)
        self._due, self._room = (_Due.CHUNK_END, 2) if self._left else (_Due.TRAILER, MAX_TRAILERS)

    def _end_field(self, line: bytes) -> None:
        if line == b"\r\n":
            self._due = _Due.NOTHING
            return
        self._trailers += 1
        self._room -= len(line)
        found = _FIELD.fullmatch(line)
        if not found or found[1].lower() in _NOT_IN_TRAILERS or self._trailers > MAX_TRAILER_FIELDS or self._room < 2:
            raise BodyMalformed
