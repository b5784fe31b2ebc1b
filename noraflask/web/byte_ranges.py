"""Ranges of bytes that clients ask for, and the body that holds several of them (RFC 9110: 14.1.2, 14.2, 14.6). Pure.

Lazy pullers ask for several ranges of a layer at once (stargz-snapshotter, zchunk, zsync). Answered with the whole, they read all of it; refused,
they ask for the one range that spans them all. So they get what they ask for, as long as that is less than the whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from noraflask.storage import Reader

MOST_RANGES = 256
"""As many as zchunk asks for. Each part of an answer is looked up in storage; who asks for more ranges gets the whole."""
PIECE_BYTES = 16 * 1024
"""What an answer of several parts keeps in memory for a client that does not read."""

_UNIT = re.compile(r"[ \t]*bytes[ \t]*=", re.IGNORECASE)
_RANGE = re.compile(r"[ \t]*(?:([0-9]{1,40})-([0-9]{0,40})|-([0-9]{1,40}))[ \t]*\Z")


class Unsatisfiable(Exception):
    """416: no range that was asked for lies in the content."""


def parse(header: str, size: int) -> list[tuple[int, int]] | None:
    """Start and stop of each range, in the order in which they were asked for; those that overlap or touch are one, those outside are left out.

    None: the header is to be ignored: another unit, nonsense, too many, or nothing to take a part of. Raises Unsatisfiable. A single range that ends
    before it begins counts as one that lies outside: the RFC leaves that open, and a conformance suite asks for it.
    """
    unit = _UNIT.match(header)
    if unit is None or not size:
        return None
    texts = [text for text in header[unit.end() :].split(",") if text.strip(" \t")]
    if not 0 < len(texts) <= MOST_RANGES:
        return None
    asked: list[tuple[int, int]] = []
    for text in texts:
        found = _RANGE.match(text)
        if found is None:
            return None
        first, last, suffix = found.groups()
        start = max(size - int(suffix), 0) if suffix else int(first)
        stop = min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            if len(texts) > 1:
                return None
            raise Unsatisfiable()
        if suffix and not int(suffix) and len(texts) == 1:
            return None
        if start < stop:
            asked.append((start, stop))
    if not asked:
        raise Unsatisfiable()
    return _merged(asked)


def _merged(asked: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Each where the first of those that it is made of was asked for."""
    merged: list[tuple[int, int, int]] = []
    for start, stop, place in sorted((start, stop, place) for place, (start, stop) in enumerate(asked)):
        if merged and start <= merged[-1][1]:
            before = merged[-1]
            merged[-1] = (before[0], max(before[1], stop), min(before[2], place))
        else:
            merged.append((start, stop, place))
    return [(start, stop) for start, stop, _ in sorted(merged, key=lambda one: one[2])]


@dataclass(frozen=True, slots=True)
class Multipart:
    """The body of an answer with several ranges (14.6, multipart/byteranges)."""

    parts: tuple[tuple[bytes, int, int], ...]
    """Of each: what stands before its bytes; start and stop of these."""
    end: bytes
    content_type: str

    @property
    def size(self) -> int:
        return sum(len(head) + stop - start for head, start, stop in self.parts) + len(self.end)

    def of(self, data: bytes) -> bytes:
        """The whole body, of content that is in memory."""
        return b"".join(piece for head, start, stop in self.parts for piece in (head, data[start:stop])) + self.end


class Pieces:
    """The body bit by bit. Of its parts one is open at a time, the first of them from the beginning on. Raises what `open_part` raises."""

    def __init__(self, body: Multipart, open_part: Callable[[int, int], Reader]) -> None:
        self._body, self._open = body, open_part
        self._reader = open_part(*body.parts[0][1:])

    def __iter__(self) -> Iterator[bytes]:
        for place, (head, start, stop) in enumerate(self._body.parts):
            if place:
                self._reader.close()
                self._reader = self._open(start, stop)
            while piece := self._reader.read(PIECE_BYTES):
                yield head + piece  # one packet, not two
                head = b""
        yield self._body.end

    def close(self) -> None:
        self._reader.close()


def multipart(ranges: list[tuple[int, int]], size: int, media_type: str, digest: str) -> Multipart:
    """The same for the same question. Its boundary is made from the digest of the content, so that no content can hold it."""
    boundary = hashlib.sha256(f"{digest} {ranges}".encode()).hexdigest()[:32]
    parts = []
    for place, (start, stop) in enumerate(ranges):
        lines = (f"--{boundary}", f"Content-Type: {media_type}", f"Content-Range: bytes {start}-{stop - 1}/{size}", "", "")
        parts.append((("\r\n" if place else "").encode() + "\r\n".join(lines).encode("latin-1"), start, stop))
    return Multipart(tuple(parts), f"\r\n--{boundary}--\r\n".encode(), f"multipart/byteranges; boundary={boundary}")
