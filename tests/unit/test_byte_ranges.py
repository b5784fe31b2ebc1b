"""Ranges of bytes, and bodies of several (RFC 9110, 14)."""

from __future__ import annotations

import io
import itertools
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noraflask.digest import Digest
from noraflask.web.byte_ranges import MOST_RANGES, PIECE_BYTES, Pieces, Unsatisfiable, multipart, parse
from tests.multipart import read_parts

DATA = bytes(range(256)) * 400
DIGEST = str(Digest.of(DATA))


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-", [(0, 100)]),
        ("bytes=99-99", [(99, 100)]),
        ("bytes=50-1000", [(50, 100)]),
        ("bytes=-1", [(99, 100)]),
        ("bytes=-100", [(0, 100)]),
        ("bytes=-101", [(0, 100)]),
        ("bytes=-9999999999999999999999999", [(0, 100)]),
        ("Bytes = 0-0 ,\t5-6 , ,", [(0, 1), (5, 7)]),
        ("bytes=5-6,0-0", [(5, 7), (0, 1)]),
        ("bytes=5-6,0-0,-3", [(5, 7), (0, 1), (97, 100)]),
        ("bytes=0-4,5-9", [(0, 10)]),
        ("bytes=5-9,0-4", [(0, 10)]),
        ("bytes=0-4,6-9", [(0, 5), (6, 10)]),
        ("bytes=20-29,0-4,25-40,3-7", [(20, 41), (0, 8)]),
        ("bytes=0-,5-6,-1", [(0, 100)]),
        ("bytes=100-,3-4", [(3, 5)]),
        ("bytes=-0,3-4", [(3, 5)]),
        ("bytes=" + ",".join(["0-"] * 200), [(0, 100)]),
        ("bytes=" + ",".join(f"{at}-" for at in range(200)), [(0, 100)]),
    ],
)
def test_what_is_asked_for(header, found):
    assert parse(header, 100) == found


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=5-3", "bytes=200-100", "bytes=100-,-0", f"bytes={'9' * 40}-"])
def test_what_lies_outside(header):
    with pytest.raises(Unsatisfiable):
        parse(header, 100)


@pytest.mark.parametrize(
    "header",
    [
        *("", "bytes", "bytes=", "bytes=,", "bytes=a-b", "bytes=-", "bytes=--1", "bytes=1--2", "bytes=0-1-2", "bytes=0 -1", "bytes=+1-2"),
        *("items=0-1", "0-1", "bytes 0-1", "bytes=0-1,x", "bytes=0-1;2-3", "bytes=0-1,5-3", "bytes=-0", "\xff", "bytes=\u0661-2", "bytes=0-1\n"),
        f"bytes={'9' * 5000}-",
        f"bytes=-{'9' * 5000}",
    ],
)
def test_what_is_ignored(header):
    assert parse(header, 100) is None


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=7-", "bytes=5-3", "bytes=0-1,4-5"])
def test_of_nothing_there_is_no_part(header):
    assert parse(header, 0) is None


def test_their_number_is_bounded():
    def apart(count):
        return "bytes=" + ",".join(f"{2 * at}-{2 * at}" for at in range(count))

    found = parse(apart(MOST_RANGES), 10_000)
    assert found is not None
    assert len(found) == MOST_RANGES
    assert parse(apart(MOST_RANGES + 1), 10_000) is None
    assert parse("bytes=" + ",".join(["0-0"] * (MOST_RANGES + 1)), 10_000) is None


SPANS = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 60)), min_size=1, max_size=40)


@given(SPANS, st.integers(1, 300))
def test_they_are_the_bytes_that_were_asked_for_once_each(spans, size):
    header = "bytes=" + ",".join(f"{start}-{start + length}" for start, length in spans)
    wanted = {at for start, length in spans for at in range(start, start + length + 1) if at < size}
    try:
        found = parse(header, size)
    except Unsatisfiable:
        assert not wanted
        return
    assert found is not None
    assert sorted(at for start, stop in found for at in range(start, stop)) == sorted(wanted)
    assert all(start < stop for start, stop in found)
    starts = sorted(found)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(starts))


@given(st.text())
def test_any_header(text):
    for header in (text, f"bytes={text}"):
        try:
            found = parse(header, 100)
        except Unsatisfiable:
            continue
        assert found is None or all(0 <= start < stop <= 100 for start, stop in found)


class Opened(io.BytesIO):
    """A reader of storage; counts those that are open."""

    size = len(DATA)
    version = ""
    most = now = 0

    def __init__(self, start: int, stop: int) -> None:
        super().__init__(DATA[start:stop])
        Opened.now += 1
        Opened.most = max(Opened.most, Opened.now)

    def close(self) -> None:
        if not self.closed:
            Opened.now -= 1
        super().close()


@pytest.fixture(autouse=True)
def _none_is_open():
    Opened.most = Opened.now = 0
    yield
    assert Opened.now == 0


@pytest.mark.parametrize("ranges", [[(0, 1), (5, 7)], [(9, 20), (0, 3), (50, 51)], [(0, PIECE_BYTES + 5), (PIECE_BYTES + 9, len(DATA))]])
def test_a_body_of_several(ranges):
    body = multipart(ranges, len(DATA), "text/plain; charset=utf-8", DIGEST)
    whole = body.of(DATA)
    assert len(whole) == body.size
    assert read_parts(body.content_type, whole) == [
        ("text/plain; charset=utf-8", f"bytes {start}-{stop - 1}/{len(DATA)}", DATA[start:stop]) for start, stop in ranges
    ]
    pieces = Pieces(body, Opened)
    found = list(pieces)
    pieces.close()
    assert b"".join(found) == whole
    assert max(map(len, found)) <= PIECE_BYTES + 300
    assert Opened.most == 1


@pytest.mark.parametrize("taken", [0, 1, 2, 3])
def test_a_body_that_is_given_up_is_closed(taken):
    pieces = Pieces(multipart([(0, 5), (10, 15), (20, 25)], len(DATA), "a/b", DIGEST), Opened)
    iterator = iter(pieces)
    for _ in range(taken):
        next(iterator)
    pieces.close()


def test_the_boundary_is_that_of_the_question():
    def boundary(ranges, digest):
        return multipart(ranges, 9, "a/b", digest).content_type

    ranges, other = [(0, 1), (2, 3)], [(0, 1), (2, 4)]
    assert boundary(ranges, DIGEST) == boundary(ranges, DIGEST)
    assert len({boundary(*one) for one in ((ranges, DIGEST), (other, DIGEST), (ranges, str(Digest.of(b""))))}) == 3


def test_a_part_that_cannot_be_opened():
    def missing(start: int, stop: int) -> Opened:
        raise LookupError

    with pytest.raises(LookupError):
        Pieces(multipart([(0, 1), (2, 3)], 9, "a/b", DIGEST), partial(missing))
