"""Which requests are taken for the same, which are kept, and what is sent for them (noraflask/serve/plans.py)."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noraflask.serve.plans import AGAIN_SECONDS, HEAD_BYTES, Plans, Sight
from noraflask.serve.response import Whole

HEAD = b"GET /v2/app/manifests/1 HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer x\r\n\r\n"
PLACE = b"192.0.2.1 127.0.0.1 4000"
MIB = 1 << 20


def plan_of(body: bytes = b"{}", varying: tuple[tuple[str, str], ...] = (("X-Request-Id", "one"),), size_bytes: int = 1000) -> Any:
    return SimpleNamespace(body=body, varying=varying, size_bytes=size_bytes)


def whole_of(fields: bytes = b"A: b\r\nX-Request-Id: one\r\nC: d\r\n\r\n", body: bytes = b"{}") -> Whole:
    return Whole(b"HTTP/1.1 200 OK\r\n", fields, body)


def seen(plans: Plans, head: bytes = HEAD, place: bytes = PLACE) -> Sight:
    sight = plans.see(head, place)
    assert sight is not None
    return sight


@pytest.fixture
def plans() -> Plans:
    return Plans(MIB)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        HEAD[:-1],
        HEAD + b"G",
        HEAD + HEAD,
        HEAD.replace(b"GET", b"PUT"),
        HEAD.replace(b"GET", b"get"),
        b"GET /" + b"x" * HEAD_BYTES + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_only_one_whole_head_of_a_read_is_looked_at(plans: Plans, head: bytes) -> None:
    assert plans.see(head, PLACE) is None


@given(st.integers(0, len(HEAD) - 5), st.binary(min_size=1, max_size=1))
def test_every_byte_counts(at: int, byte: bytes) -> None:
    plans = Plans(MIB)
    other = plans.see(HEAD[:at] + byte + HEAD[at + 1 :], PLACE)
    assert other is None or (other.key == seen(plans).key) == (HEAD[at : at + 1] == byte)


def test_so_does_where_it_comes_from_and_goes_to(plans: Plans) -> None:
    assert len({seen(plans, HEAD, place).key for place in (PLACE, b"192.0.2.2 127.0.0.1 4000", b"192.0.2.1 127.0.0.1 4001")}) == 3


def test_the_key_says_nothing_of_the_credentials(plans: Plans) -> None:
    assert seen(plans).key != seen(Plans(MIB)).key  # each worker has a secret of its own


@pytest.mark.parametrize("name", [b"X-Request-Id", b"x-request-id", b"X-REQUEST-ID"])
@pytest.mark.parametrize("space", [b"", b" ", b" \t "])
def test_the_id_is_no_part_of_it(plans: Plans, name: bytes, space: bytes) -> None:
    first, second = (seen(plans, HEAD.replace(b"\r\n\r\n", b"\r\n%b:%b%b%b\r\n\r\n" % (name, space, id, space))) for id in (b"one", b"two!"))
    assert first.key == second.key == seen(plans).key
    assert (first.given_id, second.given_id, seen(plans).given_id) == ("one", "two!", "")


@pytest.mark.parametrize("id", [b"", b"two words", b"x" * 129, b"\xe9"])
def test_an_id_that_is_not_taken_is_a_part_of_it(plans: Plans, id: bytes) -> None:
    sight = seen(plans, HEAD.replace(b"\r\n\r\n", b"\r\nX-Request-Id: " + id + b"\r\n\r\n"))
    assert (sight.key == seen(plans).key, sight.given_id) == (False, "")


def test_it_is_wanted_when_it_comes_again(plans: Plans, monkeypatch: pytest.MonkeyPatch) -> None:
    sight = seen(plans)
    assert not plans.wants(sight)
    assert plans.wants(sight)
    plans.keep(sight, None, None)
    assert not plans.wants(sight)
    later = time.monotonic() + AGAIN_SECONDS
    monkeypatch.setattr("noraflask.serve.plans.time.monotonic", lambda: later)
    assert plans.wants(sight)


def test_the_answer_has_what_varies(plans: Plans) -> None:
    sight = seen(plans)
    fields = b"A: 100%b\r\nX-Request-Id: one\r\nx-ratelimit-remaining: 7\r\nC: d\r\n\r\n"
    plans.keep(sight, plan_of(varying=(("X-Request-Id", "one"), ("x-ratelimit-remaining", "7"))), whole_of(fields))
    kept = plans.find(sight)
    assert kept is not None
    head, _, body = kept.answer(("two", "6")).partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Date: ")]
    assert lines == [b"HTTP/1.1 200 OK", b"Server: nora", b"A: 100%b", b"X-Request-Id: two", b"x-ratelimit-remaining: 6", b"C: d"]
    assert body == b"{}"


@pytest.mark.parametrize(
    ("plan", "whole", "given_id"),
    [
        (plan_of(), whole_of(body=b"other"), ""),
        (plan_of(), whole_of(b"A: b\r\n\r\n"), ""),
        (plan_of(varying=(("X-Request-Id", "one"), ("R", "1"))), whole_of(b"A: b\r\nR: 1\r\nX-Request-Id: one\r\n\r\n"), ""),
        (plan_of(varying=(("X-Request-Id", "one,two"),)), whole_of(b"A: b\r\nX-Request-Id: one,two\r\n\r\n"), "one"),
        (plan_of(varying=(("X-Request-Id", "one"),)), whole_of(b"A: one\r\nX-Request-Id: one\r\n\r\n"), "one"),
        (plan_of(varying=(("X-Request-Id", "12345678"),)), whole_of(b"A: b\r\nX-Request-Id: 12345678\r\nLink: </a?12345678>\r\n\r\n"), "12345678"),
        (plan_of(), None, ""),
        (plan_of(size_bytes=MIB), whole_of(), ""),
    ],
)
def test_what_is_not_as_the_plan_says_is_not_kept(plans: Plans, plan: Any, whole: Whole | None, given_id: str) -> None:
    sight = Sight(b"k" * 16, given_id)
    plans.keep(sight, plan, whole)
    assert plans.find(sight) is None


def test_a_short_id_may_be_in_the_answer_by_chance(plans: Plans) -> None:
    sight = Sight(b"k" * 16, "12")
    plans.keep(sight, plan_of(varying=(("X-Request-Id", "12"),)), whole_of(b"Content-Length: 127\r\nX-Request-Id: 12\r\n\r\n"))
    assert plans.find(sight) is not None


def test_there_is_no_second_copy_of_a_body(plans: Plans) -> None:
    """What a plan takes is counted once."""
    body = b"x" * 50_000
    plans.keep(seen(plans), plan_of(body), whole_of(body=body))
    kept = plans.find(seen(plans))
    assert kept is not None
    assert len(kept._head) < 1000
    assert kept.answer(("two",)).endswith(body)


def test_memory_is_bounded_and_what_is_used_stays(plans: Plans) -> None:
    hot = Sight(b"hot", "")
    plans.keep(hot, plan_of(), whole_of())
    for number in range(10_000):
        sight = Sight(b"%d" % number, "")
        plans.wants(sight)
        plans.keep(sight, plan_of(), whole_of())
        assert plans.find(hot) is not None
    assert plans._kept.bytes + plans._sights.bytes <= MIB
    plans.clear()
    assert plans.find(hot) is None
