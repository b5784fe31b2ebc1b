"""Conditions on files (RFC 9110, 13): who may read, write and delete what, given what is there."""

from __future__ import annotations

import pytest

from noraflask.digest import Digest
from noraflask.errors import AlreadyExists, BadRequest, PreconditionFailed
from noraflask.formats.raw.conditions import (
    NONE,
    Conditions,
    Etags,
    File,
    Write,
    check_put,
    check_state,
    judge_put,
    parse_conditions,
    parse_date,
)

OLD, NEW = Digest.of(b"old"), Digest.of(b"new!")
FILE = File(OLD, 3, 1_000_000_000.7)
TAG, OTHER = f'"{OLD.hex}"', f'"{NEW.hex}"'
DATE, LATER, EARLIER = "Sun, 09 Sep 2001 01:46:40 GMT", "Sun, 09 Sep 2001 01:46:41 GMT", "Sun, 09 Sep 2001 01:46:39 GMT"


def conditions(**headers: str) -> Conditions:
    return parse_conditions({f"HTTP_{name.upper()}": value for name, value in headers.items()})


@pytest.mark.parametrize(
    ("header", "strong", "weak"),
    [
        ('"a"', {'"a"'}, set()),
        ('W/"a"', set(), {'"a"'}),
        (' "a" ,\t"b", W/"c" ', {'"a"', '"b"'}, {'"c"'}),
        ('"a",,"b",', {'"a"', '"b"'}, set()),
        ('"a,b"', {'"a,b"'}, set()),
        ('""', {'""'}, set()),
    ],
)
def test_a_list_of_etags(header, strong, weak):
    assert conditions(if_match=header).if_match == Etags(strong=frozenset(strong), weak=frozenset(weak))


def test_the_star_stands_for_any():
    assert conditions(if_match=" * ").if_match == Etags(is_any=True)


@pytest.mark.parametrize("header", ["", "a", '"a', 'a"', '"a" "b"', '*, "a"', 'w/"a"', '"a\n"', '"' + "a" * 9000 + '"', ",", '"a\x7f"'])
@pytest.mark.parametrize("name", ["if_match", "if_none_match"])
def test_other_etags_are_bad(name, header):
    with pytest.raises(BadRequest):
        conditions(**{name: header})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (DATE, 1_000_000_000.0),
        ("Sunday, 09-Sep-01 01:46:40 GMT", 1_000_000_000.0),
        (None, None),
        ("", None),
        ("yesterday", None),
        ("Sun, 99 Sep 2001 01:46:40 GMT", None),
        ("Sun, 09 Sep 99999999 01:46:40 GMT", None),
    ],
)
def test_dates(text, seconds):
    assert parse_date(text) == seconds


@pytest.mark.parametrize(
    ("headers", "current", "holds"),
    [
        ({}, FILE, True),
        ({}, None, True),
        ({"if_match": TAG}, FILE, True),
        ({"if_match": "*"}, FILE, True),
        ({"if_match": "*"}, None, False),
        ({"if_match": TAG}, None, False),
        ({"if_match": OTHER}, FILE, False),
        ({"if_none_match": "*"}, FILE, False),
        ({"if_none_match": "*"}, None, True),
        ({"if_none_match": TAG}, FILE, False),
        ({"if_none_match": f"W/{TAG}"}, FILE, False),
        ({"if_none_match": OTHER}, FILE, True),
        ({"if_unmodified_since": DATE}, FILE, True),
        ({"if_unmodified_since": EARLIER}, FILE, False),
        ({"if_unmodified_since": EARLIER}, None, True),
    ],
)
def test_changing(headers, current, holds):
    if holds:
        check_state(conditions(**headers), current)
    else:
        with pytest.raises(PreconditionFailed):
            check_state(conditions(**headers), current)


def test_a_put_creates_or_overwrites_what_it_knows():
    check_put(conditions(if_none_match="*"))
    check_put(conditions(if_match=TAG))
    with pytest.raises(BadRequest):
        check_put(conditions(if_none_match=TAG))


MATCH, CREATE = conditions(if_match=TAG), conditions(if_none_match="*")


@pytest.mark.parametrize(
    ("overwrite", "asked", "current", "digest", "size", "found"),
    [
        ("conditional", NONE, None, None, None, Write.CREATE),
        ("conditional", NONE, FILE, OLD, 3, Write.SAME),
        ("conditional", NONE, FILE, None, None, Write.OPEN),
        ("conditional", NONE, FILE, None, 3, Write.OPEN),
        ("conditional", NONE, FILE, None, 4, AlreadyExists),
        ("conditional", NONE, FILE, NEW, 4, AlreadyExists),
        ("conditional", MATCH, FILE, NEW, 4, Write.REPLACE),
        ("conditional", MATCH, FILE, None, None, Write.REPLACE),
        ("conditional", MATCH, FILE, OLD, 3, Write.SAME),
        ("conditional", MATCH, None, NEW, 4, PreconditionFailed),
        ("conditional", CREATE, None, NEW, 4, Write.CREATE),
        ("conditional", CREATE, FILE, OLD, 3, PreconditionFailed),
        ("conditional", conditions(if_unmodified_since=LATER), FILE, NEW, 4, AlreadyExists),
        ("always", NONE, FILE, NEW, 4, Write.REPLACE),
        ("always", NONE, FILE, None, None, Write.REPLACE),
        ("always", CREATE, FILE, NEW, 4, PreconditionFailed),
        ("always", conditions(if_match=OTHER), FILE, NEW, 4, PreconditionFailed),
        ("never", NONE, None, NEW, 4, Write.CREATE),
        ("never", NONE, FILE, OLD, 3, Write.SAME),
        ("never", NONE, FILE, None, 3, Write.OPEN),
        ("never", NONE, FILE, None, 4, AlreadyExists),
        ("never", MATCH, FILE, NEW, 4, AlreadyExists),
    ],
)
def test_what_a_put_comes_to(overwrite, asked, current, digest, size, found):
    if isinstance(found, Write):
        assert judge_put(asked, overwrite, current, digest, size) is found
    else:
        with pytest.raises(found):
            judge_put(asked, overwrite, current, digest, size)


def test_a_refused_put_says_how_to_overwrite():
    with pytest.raises(AlreadyExists, match=f"If-Match: {TAG}"):
        judge_put(NONE, "conditional", FILE, NEW, 4)
