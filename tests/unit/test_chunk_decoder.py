"""ChunkDecoder beside gunicorn's reader: what it accepts gunicorn accepts, with the same body and end; how the bytes are cut never matters."""

from __future__ import annotations

import itertools
import random
import sys

import pytest
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader
from hypothesis import example, given, settings
from hypothesis import strategies as st

from noraflask.serve import chunks
from noraflask.serve.chunks import MAX_EXTENSIONS, MAX_SIZE_LINE, MAX_TRAILER_FIELDS, MAX_TRAILERS, SMALL, ChunkDecoder
from noraflask.serve.limits import BodyMalformed
from noraflask.serve.request import ParserSettings

HEAD = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET / HTTP/1.1\r\n\r\n"
Outcome = tuple[str, bytes, bytes]


def ours(pieces: list[bytes]) -> Outcome:
    """ "whole" or "cut" with the body and the rest, or "refused" with neither: what came before a refusal in the same piece is not handed out."""
    decoder, body = ChunkDecoder(), b""
    try:
        for piece in pieces:
            body += b"".join(decoder.feed(memoryview(piece)))
    except BodyMalformed:
        with pytest.raises(BodyMalformed):
            decoder.feed(memoryview(b"0\r\n\r\n"))
        return "refused", b"", b""
    assert decoder.received == len(body)
    return "whole" if decoder.finished else "cut", body, decoder.rest


def theirs(raw: bytes) -> Outcome:
    unreader = IterUnreader(iter([HEAD + raw]))
    reader = Request(ParserSettings(), unreader, ("192.0.2.1", 5000)).body.reader
    body = b""
    try:
        for piece in reader.parser:
            body += piece
    except NoMoreData:
        return "cut", body, b""
    except ParseException as error:
        return "cut" if str(error.args) == "(b'',)" else "refused", body, b""
    return "whole", body, unreader.take_buffered()


def cut(raw: bytes, marks: list[int]) -> list[bytes]:
    return [raw[a:b] for a, b in itertools.pairwise(sorted({0, *(mark for mark in marks if mark < len(raw)), len(raw)}))]


def chunk(data: bytes, spelling: str = "%x", extension: bytes = b"") -> bytes:
    return (spelling % len(data)).encode() + extension + b"\r\n" + data + b"\r\n"


EXTENSIONS = [
    b"",
    b"",
    b"",
    b";a=b",
    b" ; a",
    b"\t;a =\tb;c",
    b';a="b;\\"\r"',
    b';a="q;\\"\xff"',
    b";",
    b";=",
    b";a=",
    b" ",
    b';a="',
    b";\xe9",
    b";a\n",
]
CHUNK = st.builds(chunk, st.binary(min_size=1, max_size=60), st.sampled_from(["%x", "%X", "0%x", "000%X"]), st.sampled_from(EXTENSIONS))
ODD = st.sampled_from([
    b"\r\n", b"-1\r\n", b"0x5\r\nhello\r\n", b"5 \r\nhello\r\n", b" 5\r\nhello\r\n", b"5\nhello\n", b"5\r\nhello\n", b"5\r\nhello\r", b"g\r\n",
    b"5\r\nhelloX\r\n", b"f" * 40 + b"\r\n", b"0" * 40 + b"5\r\nhello\r\n", b"+5\r\nhello\r\n", b"1_0\r\n", b"\xff\r\n", b"5\r\r\nhello\r\n",
    b"\x00\r\n", b"\xb2\r\nab\r\n", b"5;\r\nhello\r\n", b"5;a\r;b\r\nhello\r\n", b"5,5\r\nhello\r\n", b"5\x0b\r\nhello\r\n",
])  # fmt: skip
FIELDS = st.sampled_from([
    b"", b"A: b\r\n", b"A:\r\n", b"a_b: c\r\n", b"A : b\r\n", b": b\r\n", b"A: b\n", b"A: b\r", b"A\r\n", b" A: b\r\n", b"A: b\r\n c\r\n",
    b"A: \x00\r\n", b"A: \xff\t\r\n", b"Host: h\r\n", b"content-LENGTH: 5\r\n", b"TE: x\r\n", b"\r", b"\n", b"A\xe9: b\r\n",
    b"Transfer-Encoding: chunked\r\n",
])  # fmt: skip
END = st.builds(
    lambda size, fields, end, rest: size + b"".join(fields) + end + rest,
    st.sampled_from([b"0\r\n", b"0\r\n", b"0\r\n", b"00000\r\n", b"0;x\r\n", b"0\n", b"", b"0 \r\n"]),
    st.lists(FIELDS, max_size=3),
    st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b""]),
    st.sampled_from([b"", NEXT, b"\r\n", b"0\r\n\r\n"]),
)
BODIES = st.builds(lambda body, end: b"".join(body) + end, st.lists(st.one_of(CHUNK, CHUNK, CHUNK, CHUNK, ODD), max_size=6), END)
MARKS = st.lists(st.integers(0, 400), max_size=12)


@given(BODIES, MARKS)
@example(b"0\r\n\r\nGET", [])
@example(b"5\r\nhello\r\n0\r\n\r\n", [1, 2, 3, 8, 9, 10, 11])
@settings(max_examples=300)
def test_what_it_takes_gunicorn_takes_the_same_way(raw: bytes, marks: list[int]) -> None:
    verdict, body, rest = ours(cut(raw, marks))
    expected = theirs(raw)
    if verdict == "whole":
        assert (verdict, body, rest) == expected
    elif verdict == "cut":
        assert expected[0] != "whole"
    elif expected[0] == "whole":
        assert b"0" * 17 in raw, "only the number of digits is limited more narrowly"


@given(BODIES, MARKS)
@settings(max_examples=300)
def test_how_the_bytes_are_cut_does_not_matter(raw: bytes, marks: list[int]) -> None:
    assert ours(cut(raw, marks)) == ours([raw]) == ours([raw[at : at + 1] for at in range(len(raw))])


@pytest.mark.parametrize("seed", range(20))
def test_large_bodies_however_they_are_cut(seed: int) -> None:
    dice = random.Random(seed)
    sizes = [dice.choice([1, 2, 15, 16, SMALL, SMALL + 1, 8192, 65536, 300_000]) for _ in range(40)]
    data = [dice.randbytes(size) for size in sizes]
    raw = b"".join(map(chunk, data)) + b"0\r\nA: b\r\n\r\n" + NEXT
    marks = [dice.randrange(len(raw)) for _ in range(dice.choice([0, 5, 500]))]
    assert ours(cut(raw, marks)) == ("whole", b"".join(data), NEXT)


def test_large_chunks_are_views() -> None:
    raw = b"".join(chunk(bytes(65536)) for _ in range(4))
    pieces = ChunkDecoder().feed(memoryview(raw))
    assert [piece.obj is raw for piece in pieces] == [True] * 4


def test_tiny_chunks_cost_no_more_memory_than_they_have_bytes() -> None:
    raw = chunk(b"x") * 80_000
    pieces = ChunkDecoder().feed(memoryview(raw))
    assert (len(pieces), sum(map(len, pieces))) == (1, 80_000)


def test_the_caller_may_move_a_chunk_itself() -> None:
    decoder = ChunkDecoder()
    assert decoder.expects() == 0
    assert decoder.feed(memoryview(b"400\r\nab")) == [b"ab"]
    assert decoder.expects() == 1022
    decoder.skip(1000)
    assert decoder.feed(memoryview(b"c" * 22 + b"\r\n0\r\n\r\nGET")) == [b"c" * 22]
    assert (decoder.received, decoder.finished, decoder.rest) == (1024, True, b"GET")


# ---- limits


@pytest.mark.parametrize(
    ("accepted", "refused"),
    [
        (b"1;" + b"a" * (MAX_SIZE_LINE - 4) + b"\r\n", b"1;" + b"a" * (MAX_SIZE_LINE - 3) + b"\r\n"),
        (b"f" * 16 + b"\r\n", b"f" * 17 + b"\r\n"),
        (b"0" * 16 + b"\r\n", b"0" * 17 + b"\r\n"),
        (b"0\r\n" + b"A: b\r\n" * MAX_TRAILER_FIELDS, b"0\r\n" + b"A: b\r\n" * (MAX_TRAILER_FIELDS + 1)),
        (b"0\r\nA:" + b"b" * (MAX_TRAILERS - 6) + b"\r\n\r\n", b"0\r\nA:" + b"b" * (MAX_TRAILERS - 5) + b"\r\n\r\n"),
        (b"1;" + b"a" * (MAX_SIZE_LINE - 3), b"1;" + b"a" * (MAX_SIZE_LINE - 2)),
        (b"0\r\nA:" + b"b" * (MAX_TRAILERS - 3), b"0\r\nA:" + b"b" * (MAX_TRAILERS - 2)),
    ],
)
def test_each_part_of_the_framing_has_a_limit(accepted: bytes, refused: bytes) -> None:
    for pieces in (lambda raw: [raw], lambda raw: [raw[at : at + 1] for at in range(len(raw))]):
        assert ours(pieces(accepted))[0] != "refused"
        assert ours(pieces(refused))[0] == "refused"


def test_extensions_of_all_chunks_have_a_limit_in_proportion_to_the_data() -> None:
    signed = b";chunk-signature=" + b"5" * 64
    assert ours([chunk(bytes(8192), extension=signed) * 1000 + b"0\r\n\r\n"])[0] == "whole"
    tiny = chunk(b"x", extension=b";" + b"a" * 99)
    assert ours([tiny * (MAX_EXTENSIONS // 100)])[0] == "cut"
    assert ours([tiny * (MAX_EXTENSIONS // 99)])[0] == "refused"


@pytest.mark.parametrize("start", [b"", b"5;", b"5\r\nhello\r\n5;a=", b"0\r\nA: ", b"0\r\n" + b"A: b\r\n" * 50])
@pytest.mark.parametrize("step", [1, 7])
def test_a_trickle_is_looked_at_once(start: bytes, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0

    class Counting:
        """The end of a line, searched for; `looked` counts the bytes."""

        def search(self, data: memoryview, at: int, stop: int) -> object:
            nonlocal looked
            looked += stop - at
            return pattern.search(data, at, stop)

    pattern = chunks._LINE_END
    monkeypatch.setattr(chunks, "_LINE_END", Counting())
    decoder, fed = ChunkDecoder(), 0
    for piece in [start, *([b"a" * step] * 20_000)]:
        fed += len(piece)
        try:
            decoder.feed(memoryview(piece))
        except BodyMalformed:
            break
        assert len(decoder._line) <= max(MAX_SIZE_LINE, MAX_TRAILERS)
    assert fed < 20_000, "refused long before"
    assert looked <= 2 * fed


def test_what_is_kept_between_two_pieces_is_small() -> None:
    decoder = ChunkDecoder()
    decoder.feed(memoryview(chunk(bytes(100_000)) + b"5;" + b"a" * 4000))
    assert sys.getsizeof(decoder._line) < 2 * MAX_SIZE_LINE
