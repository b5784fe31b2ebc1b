"""Decoding `Transfer-Encoding: chunked` (RFC 9112 section 7.1) in large steps.

What nearly all clients send, a size in hex digits and the bytes, is decoded here, many chunks for one system call. From the first chunk on that
has anything else (an extension, the last chunk with its trailers, a mistake) gunicorn's reader takes over and judges.
"""

from __future__ import annotations

import re

from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import ChunkMissingTerminator, NoMoreData
from gunicorn.http.unreader import Unreader

from noraflask.serve.limits import Receiver

BUFFER_BYTES = 512 * 1024
LONGEST_LINE = 18
_SIZE = re.compile(rb"0*[1-9A-Fa-f][0-9A-Fa-f]{0,14}\r\n")


class Chunks:
    def __init__(self, receiver: Receiver, reader: ChunkedReader, unreader: Unreader) -> None:
        """`unreader` holds what arrived together with the head."""
        self._receiver = receiver
        self._reader = reader
        self._unreader = unreader
        start = unreader.take_buffered()
        self._buffer = bytearray(max(BUFFER_BYTES, 2 * len(start)))
        self._view = memoryview(self._buffer)
        self._view[: len(start)] = start
        self._position, self._end = 0, len(start)
        self._left = 0  # bytes of the present chunk that are still to come
        self._closing = False  # the line end after a chunk's bytes is due
        self._handed_over = False

    def next(self) -> list[memoryview]:
        """The next bytes of the body as they lie in the buffer, valid until the next call; none at the end.

        Raises what gunicorn's reader raises, and the receiver's errors.
        """
        while not self._handed_over:
            pieces = self._decode()
            if pieces:
                return pieces
            if not self._handed_over:
                self._receive()
        for piece in self._reader.parser:
            if piece:
                return [memoryview(piece)]
        return []

    def _decode(self) -> list[memoryview]:
        """All bytes of the body that the buffer holds. Stops where more must arrive first, or where gunicorn's reader must go on."""
        pieces = []
        while self._position < self._end:
            if self._left:
                stop = min(self._position + self._left, self._end)
                pieces.append(self._view[self._position : stop])
                self._left -= stop - self._position
                self._closing = not self._left
                self._position = stop
            elif self._closing:
                if self._end - self._position < 2:
                    break
                if self._buffer[self._position : self._position + 2] != b"\r\n":
                    raise ChunkMissingTerminator(bytes(self._view[self._position : self._position + 2]))
                self._position += 2
                self._closing = False
            elif not self._begin_chunk():
                break
        return pieces

    def _begin_chunk(self) -> bool:
        found = _SIZE.match(self._buffer, self._position, self._end)
        if found:
            self._left = int(found[0], 16)
            self._position = found.end()
            return True
        line = bytes(self._view[self._position : min(self._end, self._position + LONGEST_LINE)])
        if b"\n" in line or len(line) == LONGEST_LINE or not re.fullmatch(rb"[0-9A-Fa-f]*\r?", line) or not line.strip(b"0\r"):
            self._unreader.unread(bytes(self._view[self._position : self._end]))
            self._position = self._end
            self._handed_over = True
        return False

    def _receive(self) -> None:
        kept = self._end - self._position
        self._view[:kept] = bytes(self._view[self._position : self._end])
        self._position = 0
        received = self._receiver.recv_into(self._view[kept:])
        self._end = kept + received
        if not received:
            raise NoMoreData
