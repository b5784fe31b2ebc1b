"""JSON that a peer hands in: bounded before it is parsed."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noraflask.errors import Unavailable
from noraflask.json_document import DEEPEST, LARGE_BYTES, Turns, check_size, parse, parse_object

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(alphabet='[]{},:"\\a\u20ac\U0001f600', max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='[]{},"\\b', max_size=3), inner, max_size=4),
    max_leaves=30,
)


def counted(value: object) -> int:
    """Members and entries, and one for each object and list."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return sum(map(counted, inner)) + (max(1, len(inner)) if isinstance(value, dict | list) else 0)


def depth(value: object) -> int:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return (1 + max(map(depth, inner), default=0)) if isinstance(value, dict | list) else 0


@given(values, st.booleans())
def test_what_is_within_the_bounds_is_read_as_it_is(value, is_ascii):
    data = json.dumps(value, ensure_ascii=is_ascii).encode()
    assert parse(data, counted(value)) == value
    if counted(value):
        with pytest.raises(ValueError, match="members and entries"):
            check_size(data, counted(value) - 1)


@pytest.mark.parametrize("levels", [1, 8, 9, DEEPEST - 1, DEEPEST, DEEPEST + 1, 1000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('["[[",', "]"), ('{"]}":', "}")])
def test_depth(levels, opening, closing):
    data = (opening * levels + "1" + closing * levels).encode()
    if levels > DEEPEST:
        with pytest.raises(ValueError, match=r"too deeply|members and entries"):
            parse(data)
    else:
        assert depth(parse(data)) == levels


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    try:
        parse(data)
    except ValueError:
        return
    json.loads(data)


@pytest.mark.parametrize("text", ["[]", "1", "null", '"{}"'])
def test_what_is_no_object(text):
    with pytest.raises(ValueError, match="not a JSON object"):
        parse_object(text.encode())


def test_large_documents_come_one_at_a_time_and_small_ones_at_once():
    turns, inside, most = Turns(), [], []

    def unfold(size: int) -> None:
        with turns.take(size):
            inside.append(size)
            most.append(len(inside))
            inside.remove(size)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(unfold, [LARGE_BYTES] * 64, timeout=30))
    assert max(most) == 1
    with turns.take(LARGE_BYTES), turns.take(LARGE_BYTES - 1):
        pass


def test_no_more_than_some_wait_for_their_turn_and_none_for_ever():
    turns, entered, leave = Turns(wait_seconds=0.05, most_waiting=1), threading.Event(), threading.Event()

    def hold() -> None:
        with turns.take(LARGE_BYTES):
            entered.set()
            leave.wait(30)

    with ThreadPoolExecutor(2) as pool:
        holder = pool.submit(hold)
        assert entered.wait(30)
        with pytest.raises(Unavailable) as late, turns.take(LARGE_BYTES):
            pass
        waiting = Turns(wait_seconds=30, most_waiting=0)
        with waiting.take(LARGE_BYTES), pytest.raises(Unavailable) as refused, waiting.take(LARGE_BYTES):
            pass
        leave.set()
        holder.result(30)
    assert late.value.headers["Retry-After"] == refused.value.headers["Retry-After"] == "2"
    with turns.take(LARGE_BYTES):
        pass
