"""Our decoder of chunked bodies beside gunicorn's own: the same bytes, the same refusals, the same rest for the next request, however they arrive."""

from __future__ import annotations

import itertools

import pytest
from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.http.unreader import IterUnreader
from hypothesis import example, given
from hypothesis import strategies as st

from noraflask.serve.chunks import Chunks


class Wire:
    """What a socket gives: one piece at a time, then its end."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = [piece for piece in pieces if piece]

    def recv_into(self, buffer: memoryview) -> int:
        if not self.pieces:
            return 0
        piece = self.pieces.pop(0)
        taken = piece[: len(buffer)]
        buffer[: len(taken)] = taken
        if piece[len(taken) :]:
            self.pieces.insert(0, piece[len(taken) :])
        return len(taken)

    def __iter__(self):
        while self.pieces:
            yield self.pieces.pop(0)


class Head:
    """What gunicorn's reader asks of the request."""

    limit_request_field_size = 8190
    max_buffer_headers = 65536
    trailers: list[tuple[str, str]] = []  # noqa: RUF012

    def parse_headers(self, data: bytes, from_trailer: bool = False) -> list[tuple[str, str]]:
        if b":" not in data:
            raise ParseException("no header")
        return []


def outcome_of(take) -> tuple[bytes, str]:
    got = b""
    try:
        while pieces := take():
            got += b"".join(pieces)
    except NoMoreData:
        return got, "cut"
    except ParseException:
        return got, "refused"
    return got, "whole"


def ours(start: bytes, pieces: list[bytes]) -> tuple[bytes, str, bytes]:
    wire = Wire(pieces)
    unreader = IterUnreader(iter(wire))
    unreader.unread(start)
    chunks = Chunks(wire, ChunkedReader(Head(), unreader), unreader)
    return *outcome_of(chunks.next), unreader.take_buffered() + b"".join(wire)


def theirs(start: bytes, pieces: list[bytes]) -> tuple[bytes, str, bytes]:
    wire = Wire(pieces)
    unreader = IterUnreader(iter(wire))
    unreader.unread(start)
    parser = ChunkedReader(Head(), unreader).parser
    return *outcome_of(lambda: [piece] if (piece := next((p for p in parser if p), b"")) else []), unreader.take_buffered() + b"".join(wire)


def chunk(data: bytes, spelling: str = "%x", extension: bytes = b"") -> bytes:
    return (spelling % len(data)).encode() + extension + b"\r\n" + data + b"\r\n"


CHUNK = st.builds(chunk, st.binary(min_size=1, max_size=60), st.sampled_from(["%x", "%X", "0%x", "000%X"]), st.sampled_from([b"", b"", b"", b";a=b"]))
ODD = st.sampled_from(
    [
        b"\r\n",
        b"-1\r\n",
        b"0x5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"5\nhello\n",
        b"g\r\n",
        b"5\r\nhelloX\r\n",
        b"f" * 40 + b"\r\n",
        b"+5\r\nhello\r\n",
        b"\xff\r\n",
    ]
)
END = st.sampled_from([b"0\r\n\r\n", b"00\r\n\r\n", b"0;x\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"0\r\n", b"", b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n"])


@given(
    st.lists(st.one_of(CHUNK, CHUNK, CHUNK, ODD), max_size=8).map(b"".join),
    END,
    st.lists(st.integers(0, 400), max_size=12),
    st.integers(0, 50),
)
@example(b"", b"0\r\n\r\nGET", [], 0)
@example(b"5\r\nhello\r\n", b"0\r\n\r\n", [1, 2, 3, 8, 9, 10, 11], 0)
def test_the_same_as_gunicorn_however_it_arrives(body, end, cuts, first):
    raw = body + end
    start, rest = raw[:first], raw[first:]
    marks = sorted({0, *(cut for cut in cuts if cut < len(rest)), len(rest)})
    pieces = [rest[a:b] for a, b in itertools.pairwise(marks)]
    got, verdict, left = ours(start, pieces)
    expected, their_verdict, their_left = theirs(start, pieces)
    assert verdict == their_verdict
    if verdict == "whole":
        assert (got, left) == (expected, their_left)
    else:
        assert got.startswith(expected) or expected.startswith(got), "never other bytes than gunicorn's"


@pytest.mark.parametrize("size", [1, 17, 65536, 524288, 524289, 2_000_000])
def test_chunks_of_all_sizes_in_one_byte_less_and_more_than_the_buffer(size):
    data = bytes(range(256)) * (size // 256 + 1)
    raw = chunk(data[:size]) * 3 + b"0\r\n\r\n"
    assert ours(b"", [raw]) == (data[:size] * 3, "whole", b"")
