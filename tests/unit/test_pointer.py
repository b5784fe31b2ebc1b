"""The pointer document: what is written is read again, and nothing else is taken for one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noraflask.digest import Digest
from noraflask.pointer import Pointer

POINTER = Pointer(Digest.of(b"x"), 1, "text/plain", 1764429313.123, {"name": "é"})
json_values = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.text(max_size=3), max_size=3)


@given(st.integers(0, 2**63), st.text(max_size=20), st.floats(0, 4e9), st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_round_trip(size, media_type, created, own):
    pointer = Pointer(Digest.of(b"", "sha512"), size, media_type, created, own)
    found = Pointer.parse(pointer.render())
    assert found == replace(pointer, created=round(created, 3))
    assert found.leads_to_the_same(pointer)


def test_half_of_a_pointer_is_none():
    """As a power cut may leave it."""
    document = POINTER.render()
    for stop in range(len(document)):
        for rest in (b"", b"\0" * (len(document) - stop)):
            with pytest.raises(ValueError, match="not a pointer"):
                Pointer.parse(document[:stop] + rest)


@pytest.mark.parametrize(
    "change",
    [{"digest": None}, {"digest": "md5:00"}, {"size": "1"}, {"size": True}, {"size": 1.5}, {"mediaType": None}, {"created": "now"}, {"own": []}],
    ids=str,
)
def test_members_of_another_type(change):
    members = json.loads(POINTER.render()) | change
    with pytest.raises(ValueError, match="not a pointer"):
        Pointer.parse(json.dumps(members).encode())


@pytest.mark.parametrize("name", ["digest", "size", "mediaType", "created"])
def test_missing_members(name):
    members = json.loads(POINTER.render())
    del members[name]
    with pytest.raises(ValueError, match="not a pointer"):
        Pointer.parse(json.dumps(members).encode())


@pytest.mark.parametrize("other", [{"digest": Digest.of(b"y")}, {"size": 2}, {"media_type": "a/b"}, {"own": {}}])
def test_what_leads_elsewhere(other):
    assert POINTER.leads_to_the_same(replace(POINTER, created=0.0))
    assert not POINTER.leads_to_the_same(replace(POINTER, **other))
