"""Chunks and listings: the small parsers and renderers of the OCI protocol."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noraflask.errors import InvalidPage, RangeInvalid
from noraflask.formats.docker.protocol.listings import Page, next_link, page_size, take_page
from noraflask.formats.docker.protocol.ranges import check_chunk, content_range, upload_range


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (None, None),
        ("0-0", (0, 0)),
        ("0-9", (0, 9)),
        ("10-19", (10, 19)),
        ("7-9223372036854775807", (7, 9223372036854775807)),
        ("bytes 0-9", (0, 9)),
        ("bytes=0-9", (0, 9)),
        ("bytes 0-9/10", (0, 9)),
        ("0-9/*", (0, 9)),
    ],
)
def test_content_range(header, found):
    assert content_range(header) == found


@pytest.mark.parametrize(
    "header",
    [
        "",
        "-",
        "0",
        "0-",
        "-9",
        "9-0",
        "a-b",
        "0x0-0x9",
        "0--1",
        "-1-5",
        "0-9-10",
        " 0-9",
        "0-9 ",
        "0 - 9",
        "0-9\n",
        "+0-9",
        "1_0-2_0",
        "\u0660-\u0669",
        "0-9,10-19",
        "bytes */10",
        "bytes",
        "items 0-9",
        "0-" + "9" * 20,
        "9" * 5000 + "-" + "9" * 5000,
    ],
)
def test_what_is_no_content_range(header):
    with pytest.raises(RangeInvalid):
        content_range(header)


@given(st.one_of(st.text(), st.text("0123456789-/ =bytes", max_size=20), st.from_regex(r"\d{1,21}-\d{1,21}", fullmatch=True)))
def test_a_range_or_the_right_error_and_nothing_else(header):
    try:
        found = content_range(header)
    except RangeInvalid:
        return
    assert found is not None
    assert 0 <= found[0] <= found[1]


offsets = st.integers(0, 10**18)


@given(offsets, offsets)
def test_content_range_round_trip(first, length):
    assert content_range(f"{first}-{first + length}") == (first, first + length)


@pytest.mark.parametrize(
    ("header", "announced", "offset", "expected"),
    [
        (None, None, 0, None),  # a streamed body
        (None, 5, 0, 5),
        (None, 5, 7, 5),
        (None, 0, 7, 0),
        ("0-4", None, 0, 5),
        ("0-4", 5, 0, 5),
        ("7-7", 1, 7, 1),
    ],
)
def test_a_chunk_that_is_the_next_one(header, announced, offset, expected):
    assert check_chunk(header, announced, offset) == expected


@pytest.mark.parametrize(
    ("header", "announced", "offset"),
    [
        ("1-5", 5, 0),  # a gap
        ("0-4", 5, 5),  # again
        ("4-8", 5, 5),  # overlaps
        ("0-4", 4, 0),
        ("0-4", 6, 0),
        ("0-4", 0, 0),
        ("nonsense", 5, 0),
        ("", 5, 0),
    ],
)
def test_a_chunk_that_is_not(header, announced, offset):
    with pytest.raises(RangeInvalid):
        check_chunk(header, announced, offset)


@given(first=offsets, length=st.integers(1, 10**9), announced=st.none() | st.integers(0, 10**9), offset=offsets)
def test_a_chunk_is_taken_exactly_when_it_fits(first, length, announced, offset):
    fits = first == offset and announced in (None, length)
    try:
        assert check_chunk(f"{first}-{first + length - 1}", announced, offset) == length
        assert fits
    except RangeInvalid:
        assert not fits


@given(offset=st.integers(0, 10**12), length=st.integers(1, 10**9))
def test_the_next_chunk_begins_where_the_upload_range_ends(offset, length):
    _, last = content_range(upload_range(offset + length))
    assert check_chunk(f"{last + 1}-{last + 1}", 1, offset + length) == 1


@pytest.mark.parametrize(("size", "text"), [(0, "0-0"), (1, "0-0"), (2, "0-1"), (10, "0-9"), (2**40, "0-1099511627775")])
def test_upload_range(size, text):
    assert upload_range(size) == text


@pytest.mark.parametrize(("text", "size"), [(None, None), ("", None), ("0", 0), ("1", 1), ("100", 100), ("007", 7), ("9" * 30, int("9" * 30))])
def test_page_size(text, size):
    assert page_size(text) == size


@pytest.mark.parametrize("text", ["-1", "+1", "1.0", "1e3", "a", " 1", "1 ", "1\n", "\u0661", "0x1", "9" * 31, "9" * 5000, "\ud800"])
def test_what_is_no_page_size(text):
    with pytest.raises(InvalidPage):
        page_size(text)


@pytest.mark.parametrize(
    ("entries", "size", "page"),
    [
        ("", None, Page([], False)),
        ("abc", None, Page(["a", "b", "c"], False)),
        ("abc", 0, Page([], False)),
        ("abc", 1, Page(["a"], True)),
        ("abc", 2, Page(["a", "b"], True)),
        ("abc", 3, Page(["a", "b", "c"], False)),
        ("abc", 4, Page(["a", "b", "c"], False)),
        ("", 5, Page([], False)),
    ],
)
def test_take_page(entries, size, page):
    assert take_page(iter(entries), size) == page


def test_a_page_looks_no_further_than_one_entry_past_its_end():
    entries = iter("abcdef")
    take_page(entries, 2)
    assert list(entries) == ["d", "e", "f"]


@pytest.mark.parametrize(
    ("page", "size", "filters", "link"),
    [
        (Page(["a", "b"], True), 2, {}, '</v2/x?n=2&last=b>; rel="next"'),
        (Page(["a", "b"], False), 2, {}, None),
        (Page([], False), 0, {}, None),
        (Page(["sha256:0"], True), 1, {}, '</v2/x?n=1&last=sha256%3A0>; rel="next"'),
        (Page(["a/b"], True), 1, {}, '</v2/x?n=1&last=a%2Fb>; rel="next"'),
        (Page(["a"], True), 1, {"artifactType": 'x/y+z>;"&'}, '</v2/x?artifactType=x%2Fy%2Bz%3E%3B%22%26&n=1&last=a>; rel="next"'),
    ],
)
def test_next_link(page, size, filters, link):
    assert next_link("/v2/x", page, size, **filters) == ({"Link": link} if link else {})


@given(last=st.text(min_size=1).filter(lambda text: text.isprintable()), wanted=st.text())
def test_a_link_says_again_what_was_asked(last, wanted):
    try:
        wanted.encode()
    except UnicodeEncodeError:
        return
    link = next_link("/v2/x", Page([last], True), 1, artifactType=wanted)["Link"]
    assert link.isascii()
    url, _, relation = link.partition(">")
    assert relation == '; rel="next"'
    assert parse_qs(urlsplit(url[1:]).query, keep_blank_values=True) == {"artifactType": [wanted], "n": ["1"], "last": [last]}
