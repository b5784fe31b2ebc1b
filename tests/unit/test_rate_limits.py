"""Rate limits as arithmetic and as stories: who may ask, who waits and for how long, and what becomes of it when counting fails."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask_limiter import Limiter
from hypothesis import given
from hypothesis import strategies as st
from limits import parse
from limits.errors import ConfigurationError
from limits.storage import MemoryStorage

from noraflask.config import RateLimitConfig
from noraflask.errors import RateLimited, RateLimiterAway
from noraflask.services.limits.bucket import TICKS, Bucket, Taken, look, take
from noraflask.services.limits.rates import AUTH, GENERAL, UPLOAD, Limits, RateLimits
from noraflask.services.limits.strategy import NAME, TokenBucket, register
from noraflask.services.limits.table import SCHEME, SLOTS, BucketTable
from noraflask.services.metrics import catalogue
from noraflask.services.metrics.catalogue import Family
from noraflask.services.metrics.counting import NullMetrics
from noraflask.services.shared_table import SET_SLOTS

HERE, THERE = "192.0.2.1", "198.51.100.7"


class Ticks:
    """A clock that stands still until a test says so."""

    def __init__(self, seconds: float = 1000.0) -> None:
        self.now = round(seconds * TICKS)

    def __call__(self) -> int:
        return self.now

    def go(self, seconds: float) -> None:
        self.now += round(seconds * TICKS)


@pytest.fixture
def clock() -> Ticks:
    return Ticks()


@pytest.fixture
def table(clock: Ticks) -> BucketTable:
    return BucketTable(clock=clock, secret=b"secret")


# The arithmetic.


@pytest.mark.parametrize(
    ("rps", "burst", "after", "passed"),
    [
        (1, 5, 0, 5),
        (1, 5, 0.999, 5),
        (1, 5, 1, 6),
        (1, 5, 4.5, 9),
        (1, 5, 5, 10),
        (1, 5, 1e9, 10),
        (200, 500, 0, 500),
        (200, 500, 0.005, 501),
        (200, 500, 2, 900),
        (300, 1, 1, 2),
        (3, 7, 2, 13),
        (1_000_000, 1, 1, 2),
        (1, 1_000, 999.9, 1999),
    ],
)
def test_a_burst_at_once_and_then_what_has_come_meanwhile(rps, burst, after, passed):
    bucket, full_at, now, count = Bucket(rps, burst), 0, 5 * TICKS, 0
    for moment in (now, now + round(after * TICKS)):
        while True:
            full_at, taken = take(full_at, moment, bucket)
            if taken.wait:
                break
            count += 1
    assert count == passed


def test_what_is_left_and_the_wait_are_told():
    bucket, full_at = Bucket(4, 3), 0
    answers = []
    for _ in range(4):
        full_at, taken = take(full_at, 0, bucket)
        answers.append(taken)
    assert answers == [Taken(0, 2), Taken(0, 1), Taken(0, 0), Taken(0.25, 0)]
    assert look(full_at, 0, bucket) == (0.75, 0)
    assert look(full_at, TICKS // 2, bucket) == (0.25, 2)
    assert look(full_at, TICKS * 9, bucket) == (0.0, 3)


def test_a_refusal_takes_nothing():
    bucket, full_at = Bucket(1, 2), 0
    for _ in range(50):
        full_at, _ = take(full_at, 0, bucket)
    assert take(full_at, TICKS, bucket)[1] == Taken(0, 0)


@pytest.mark.parametrize("full_at", [10**12, 1 << 62, -1, -(1 << 62)])
def test_no_record_whatever_it_says_keeps_a_client_waiting_for_longer_than_its_bucket_takes(full_at):
    bucket = Bucket(1, 5)
    assert take(full_at, 0, bucket)[1].wait in (0, 1)


class Model:
    """A bucket as a child would draw it: tokens that come in, up to the brim."""

    def __init__(self, rps: int, burst: int) -> None:
        self.rps, self.burst, self.tokens, self.last = rps, burst, Fraction(burst), Fraction(0)

    def take(self, now: Fraction) -> tuple[bool, int]:
        self.tokens = min(Fraction(self.burst), self.tokens + (now - self.last) * self.rps)
        self.last = now
        if self.tokens < 1:
            return False, 0
        self.tokens -= 1
        return True, math.floor(self.tokens)


RATES = st.sampled_from([1, 2, 4, 5, 8, 10, 100, 200, 1000])
"""Those whose token takes a whole number of ticks, so that model and bucket must agree to the last one."""


@given(rps=RATES, burst=st.integers(1, 50), pauses=st.lists(st.integers(0, 3 * 10**9), max_size=120), began=st.integers(0, 10**17))
def test_as_a_bucket_that_is_drawn(rps, burst, pauses, began):
    model, bucket, full_at, now = Model(rps, burst), Bucket(rps, burst), 0, 0
    for pause in pauses:
        now += pause
        full_at, taken = take(full_at, began + now, bucket)
        passed, left = model.take(Fraction(now, TICKS))
        assert (not taken.wait, taken.remaining) == (passed, left)
        if taken.wait:
            wait = math.ceil(taken.wait * TICKS)
            assert not take(full_at, began + now + wait, bucket)[1].wait, "the wait was too short"
            assert take(full_at, began + now + wait - 2, bucket)[1].wait, "the wait was too long"


@given(rps=st.integers(1, 1_000_000), burst=st.integers(1, 1_000_000))
def test_the_rate_of_any_limits_is_right_to_a_ten_thousandth(rps, burst):
    bucket = Bucket(rps, burst)
    assert abs(bucket.rps / rps - 1) <= 1e-4
    assert bucket.capacity == burst * bucket.interval < 1 << 63


# The table that workers share.


def hits(table: BucketTable, bucket: Bucket, client: str, tries: int) -> int:
    return sum(not table.take(bucket, client).wait for _ in range(tries))


def test_each_client_and_each_tier_has_a_bucket_of_its_own(table, clock):
    auth, general = Bucket(1, 5, AUTH), Bucket(100, 200, GENERAL)
    assert [hits(table, auth, client, 20) for client in (HERE, THERE)] == [5, 5]
    assert hits(table, general, HERE, 300) == 200
    clock.go(2)
    assert hits(table, auth, HERE, 20) == 2


@pytest.mark.slow
def test_a_hundred_thousand_clients_have_room():
    table = BucketTable(clock=Ticks(), secret=b"secret")
    bucket = Bucket(1, 2, UPLOAD)
    clients = [f"2001:db8:0:{number:x}::/64" for number in range(100_000)]
    for client in clients:
        table.take(bucket, client)
    assert sum(table.take(bucket, client).remaining for client in clients) == 0, "somebody has a fresh bucket"
    assert len(table._keys.obj) + len(table._full_at.obj) == 16 * SLOTS == 8 << 20


def test_where_a_set_is_full_the_bucket_nearest_to_full_is_forgotten(clock):
    table = BucketTable(clock=clock, secret=b"secret", slots=SET_SLOTS)
    bucket = Bucket(1, 100, UPLOAD)
    for number in range(SET_SLOTS):
        hits(table, bucket, f"10.0.0.{number}", number + 2)
    table.take(bucket, THERE)
    assert [table.look(bucket, f"10.0.0.{number}")[1] for number in range(SET_SLOTS)] == [100, *range(97, 82, -1)]
    assert table.look(bucket, THERE)[1] == 99


def test_full_buckets_make_room_first(clock):
    table = BucketTable(clock=clock, secret=b"secret", slots=SET_SLOTS)
    bucket = Bucket(1, 100, UPLOAD)
    hits(table, bucket, HERE, 50)
    for number in range(1000):
        clock.go(0.01)
        for _ in range(2):
            table.take(Bucket(200, 500, UPLOAD), f"10.0.{number // 250}.{number % 250}")
    assert table.look(bucket, HERE)[1] == 60


def test_nobody_can_choose_a_set():
    tables = [BucketTable(clock=Ticks()) for _ in range(2)]
    assert tables[0].key(UPLOAD, HERE) != tables[1].key(UPLOAD, HERE)


@pytest.mark.parametrize("client", ["", "unix", "\ud800", "x" * 9999, "a\0b"])
def test_any_text_is_a_client(client, table):
    assert hits(table, Bucket(1, 5, AUTH), client, 9) == 5


def test_a_process_that_was_killed_while_it_wrote_harms_nobody_for_long(table, clock):
    bucket = Bucket(1, 5, UPLOAD)
    hits(table, bucket, HERE, 5)
    for slot in range(SLOTS):
        if table._keys[slot]:
            table._full_at[slot] = (1 << 63) - 1
    assert table.take(bucket, HERE).wait == 1
    clock.go(5)
    assert hits(table, bucket, HERE, 9) == 5


def test_all_can_be_forgotten(table):
    bucket = Bucket(1, 5, UPLOAD)
    assert hits(table, bucket, HERE, 9) == 5
    table.reset()
    assert hits(table, bucket, HERE, 9) == 5


# flask-limiter, which is given the strategy and the storage by name.


def test_the_strategy_and_the_storage_are_found_by_flask_limiter():
    register()
    limiter = Limiter(lambda: HERE, storage_uri=f"{SCHEME}://", strategy=NAME)
    limiter.init_app(Flask("test"))
    bucket = Bucket(1, 3, AUTH)
    assert isinstance(limiter.limiter, TokenBucket)
    assert limiter.limiter.test(bucket, HERE, cost=3)
    assert [limiter.limiter.hit(bucket, HERE) for _ in range(4)] == [True, True, True, False]
    assert not limiter.limiter.test(bucket, HERE)
    assert limiter.limiter.get_window_stats(bucket, HERE).remaining == 0
    assert limiter.storage.check()


def test_limits_in_the_words_of_flask_limiter_are_buckets_too(table):
    strategy = TokenBucket(table)
    assert [strategy.hit(parse("2 per minute"), HERE, "route") for _ in range(3)] == [True, True, False]
    assert not strategy.hit(parse("2 per minute"), THERE, cost=3)


def test_the_strategy_wants_a_storage_of_buckets(table):
    with pytest.raises(ConfigurationError, match="MemoryStorage keeps no token buckets"):
        TokenBucket(MemoryStorage())
    for ask in (lambda: table.incr("key", 1), lambda: table.get("key"), lambda: table.get_expiry("key"), lambda: table.clear("key")):
        with pytest.raises(ConfigurationError, match="token buckets"):
            ask()


# May this client ask once more?


class Counts(NullMetrics):
    def __init__(self) -> None:
        self.found: Counter[tuple[Any, ...]] = Counter()

    def count(self, family: Family, *labels: str, by: float = 1.0) -> None:
        self.found[family, *labels] += 1


class Asked:
    """Rate limits, asked by settings that are always the same."""

    def __init__(self, counts: RateLimits, settings: Limits) -> None:
        self.counts, self.settings = counts, settings

    def check(self, tiers: tuple[str, ...], client: str) -> tuple[tuple[str, str], ...]:
        return self.counts.check(self.settings, tiers, client)

    def describe(self) -> str:
        return self.counts.describe(self.settings)


def counted(limits: Asked) -> Counter[tuple[Any, ...]]:
    return limits.counts._metrics.found  # type: ignore[attr-defined]


def failures(limits: Asked) -> int:
    return counted(limits)[catalogue.RATE_LIMIT_FAILURES,]


def rates(table: BucketTable, redis: object = None, pause: Callable[[float], None] = pytest.fail, seats: int = 2, **settings: object) -> Asked:
    """Without patience, unless it is asked for."""
    limits = RateLimits(TokenBucket(table), redis, Counts(), lambda: table._clock() / TICKS, pause, seats)  # type: ignore[arg-type]
    return Asked(limits, Limits.of(RateLimitConfig(**{"wait_ms": 0, **settings})))  # type: ignore[arg-type]


def allowed(limits: Asked, tries: int, tiers: tuple[str, ...] = (AUTH,), client: str = HERE) -> int:
    count = 0
    for _ in range(tries):
        try:
            limits.check(tiers, client)
        except RateLimited:
            continue
        count += 1
    return count


@pytest.mark.parametrize(("tiers", "count"), [((AUTH,), 5), ((UPLOAD,), 500), ((GENERAL,), 200), ((GENERAL, AUTH), 5)])
def test_the_defaults_are_those_of_nora(tiers, count, table):
    assert allowed(rates(table), 700, tiers) == count


def test_the_headers_are_those_of_the_last_tier(table):
    assert rates(table).check((GENERAL, AUTH), HERE) == (("x-ratelimit-limit", "5"), ("x-ratelimit-remaining", "4"))


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:0:0:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", HERE, True),
        (HERE, THERE, False),
    ],
)
def test_addresses_of_one_client(first, second, same, table):
    limits = rates(table)
    assert allowed(limits, 9, client=first) == 5
    assert allowed(limits, 9, client=second) == (0 if same else 5)


@pytest.mark.parametrize(("rps", "burst", "seconds"), [(1, 1, 1), (2, 1, 1), (1000, 1, 1), (1, 5, 1)])
def test_a_refusal_says_how_long_and_that_is_true(rps, burst, seconds, table, clock):
    limits = rates(table, auth_rps=rps, auth_burst=burst)
    allowed(limits, burst)
    with pytest.raises(RateLimited) as caught:
        limits.check((AUTH,), HERE)
    names = (
        "Retry-After",
        "x-ratelimit-after",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "RateLimit-Limit",
        "RateLimit-Remaining",
        "RateLimit-Reset",
    )
    values = (seconds, seconds, burst, 0, burst, 0, seconds)
    assert caught.value.headers == dict(zip(names, map(str, values), strict=True))
    assert caught.value.detail == {"tier": "auth", "retry_after_seconds": seconds}
    assert caught.value.message == f"too many requests from this address (auth: {rps} a second, {burst} at once); try again in 1 second"
    clock.go(seconds)
    limits.check((AUTH,), HERE)


def test_half_a_second_to_go_is_a_second(table, clock):
    limits = rates(table)
    allowed(limits, 5)
    clock.go(0.5)
    with pytest.raises(RateLimited) as caught:
        limits.check((AUTH,), HERE)
    assert caught.value.headers["Retry-After"] == "1"


def test_new_limits_hold_at_once_and_what_was_used_stays_used(table, clock):
    limits = rates(table)
    assert allowed(limits, 5) == 5
    limits.settings = Limits.of(RateLimitConfig(auth_rps=10, auth_burst=20))
    assert allowed(limits, 99) == 0, "its bucket was empty"
    clock.go(0.1)
    assert allowed(limits, 99) == 1
    clock.go(2)
    assert allowed(limits, 99) == 20
    assert str(Limits.of(RateLimitConfig(enabled=False))) == "off"


# A request that is a little early.


def test_one_request_after_another_is_slowed_down_and_not_refused(table, clock):
    waited = []
    limits = rates(table, pause=lambda seconds: (waited.append(seconds), clock.go(seconds)), wait_ms=50, upload_rps=200, upload_burst=500)
    began = clock.now
    assert allowed(limits, 1500, (UPLOAD,)) == 1500
    assert (clock.now - began) / TICKS == pytest.approx(1000 / 200)
    assert max(waited) <= 0.05
    assert counted(limits)[catalogue.RATE_DELAYED, "upload"] == len(waited) == 1000
    assert counted(limits)[catalogue.RATE_LIMITED, "upload", "refused"] == 0


@pytest.mark.parametrize(("wait_ms", "rps", "waits"), [(50, 20, True), (49, 20, False), (0, 1000, False), (1000, 1, True)])
def test_only_so_long(table, clock, wait_ms, rps, waits):
    limits = rates(table, pause=clock.go, wait_ms=wait_ms, upload_rps=rps, upload_burst=3)
    assert allowed(limits, 4, (UPLOAD,)) == (4 if waits else 3)


def test_when_others_take_the_token_first_the_patience_ends(table, clock):
    """Another worker does, each time."""
    others = rates(table, upload_rps=20, upload_burst=3)
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        clock.go(seconds)
        others.check((UPLOAD,), HERE)

    limits = rates(table, pause=pause, wait_ms=100, upload_rps=20, upload_burst=3)
    assert allowed(limits, 4, (UPLOAD,)) == 3
    assert pauses == [0.05, 0.05]


def test_few_wait_at_a_time(table, clock):
    """Threads are for those who may go on."""
    inner = []

    def pause(seconds: float) -> None:
        inner.append(allowed(limits, 1, (UPLOAD,)))
        clock.go(seconds)

    limits = rates(table, pause=pause, seats=1, wait_ms=50, upload_rps=20, upload_burst=3)
    assert allowed(limits, 5, (UPLOAD,)) == 5
    assert inner == [0, 0], "refused, while another one waited"


def test_a_seat_is_given_back_whatever_happens(table, clock):
    def pause(seconds: float) -> None:
        raise KeyboardInterrupt

    limits = rates(table, pause=pause, seats=1, wait_ms=50, upload_rps=20, upload_burst=1)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            allowed(limits, 2, (UPLOAD,))


def test_counters(table):
    limits = rates(table)
    allowed(limits, 9, (GENERAL, AUTH))
    allowed(limits, 3, (UPLOAD,), THERE)
    assert counted(limits) == {
        (catalogue.RATE_LIMITED, "general", "allowed"): 9,
        (catalogue.RATE_LIMITED, "auth", "allowed"): 5,
        (catalogue.RATE_LIMITED, "auth", "refused"): 4,
        (catalogue.RATE_LIMITED, "upload", "allowed"): 3,
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"enabled": False}, "rate limits are off (rate_limit.enabled)"),
        (
            {"auth_rps": 2},
            "rate limits by client: auth 2 a second, 5 at once; upload 200 a second, 500 at once; general 100 a second, 200 at once; "
            "metrics 50 a second, 100 at once; counted in memory of this server",
        ),
    ],
)
def test_the_line_of_the_start(settings, words, table):
    assert rates(table, **settings).describe() == words


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "nora.limits"]


def test_a_refused_client_leaves_a_line_a_minute(table, clock, caplog):
    caplog.set_level(logging.INFO)
    limits = rates(table)
    for _ in range(30):
        allowed(limits, 10)
        clock.go(4)
    assert lines(caplog) == ["refused by rate limit auth: client=192.0.2.1; further refusals of it within a minute leave no such line"] * 2


def test_a_flood_from_many_addresses_leaves_few_lines(table, caplog):
    caplog.set_level(logging.INFO)
    limits = rates(table, auth_burst=1)
    for number in range(1000):
        allowed(limits, 3, client=f"2001:db8:0:{number:x}::1")
    assert len(lines(caplog)) == 60


def test_the_guide_has_the_defaults():
    guide = (Path(__file__).parents[2] / "docs" / "limits.md").read_text(encoding="utf-8")
    defaults = RateLimitConfig()
    for tier in (AUTH, UPLOAD, GENERAL):
        (row,) = [line for line in guide.splitlines() if line.startswith(f"| `{tier}` |")]
        rps, burst = (getattr(defaults, f"{tier}_{key}") for key in ("rps", "burst"))
        assert f"| {rps} | {burst} | `NORA_RATE_LIMIT_{tier.upper()}_RPS`" in row


def test_the_client_of_redis_is_not_loaded_where_no_redis_is_set():
    """It takes some megabytes in each process."""
    code = """
import sys
from noraflask import assembly, config
from noraflask.services.metrics.counting import NullMetrics
assembly.make_limits(config.RateLimitConfig({}), NullMetrics())
print("redis" in sys.modules)
"""
    for url, loaded in (("", "False"), ("storage_url='redis://127.0.0.1:1'", "True")):
        command = [sys.executable, "-W", "error", "-c", code.format(url)]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.strip() == loaded


# Redis that fails. Real ones are in tests/fault/test_limits_redis.py.


class Flaky:
    """The strategy of several servers, with a Redis that comes and goes."""

    def __init__(self) -> None:
        self.away, self.asked, self.error = True, 0, OSError("redis://:hunter2@redis: no route")

    def take(self, bucket: Bucket, client: str) -> Taken:
        self.asked += 1
        if self.away:
            raise self.error
        return Taken(0, 77)


def after_hundred(limits: RateLimits, ask: Callable[[], object]) -> list[str]:
    found = []
    for _ in range(100):
        try:
            ask()
            found.append("passed")
        except (RateLimited, RateLimiterAway) as error:
            found.append(type(error).__name__)
    return sorted(set(found))


@pytest.mark.parametrize(("on_failure", "outcomes"), [("local", ["RateLimited", "passed"]), ("open", ["passed"]), ("closed", ["RateLimiterAway"])])
def test_while_redis_is_away(on_failure, outcomes, table, clock, caplog):
    caplog.set_level(logging.INFO)
    redis = Flaky()
    limits = rates(table, redis, on_failure=on_failure)
    assert after_hundred(limits, lambda: limits.check((AUTH,), HERE)) == outcomes
    assert redis.asked == failures(limits) == 1, "it was not left alone"
    for _ in range(9):
        clock.go(5)
        after_hundred(limits, lambda: limits.check((AUTH,), THERE))
    assert redis.asked == failures(limits) == 10
    warnings = [line for line in lines(caplog) if "does not answer" in line]
    assert len(warnings) == 1, "a WARN a minute"
    assert "hunter2" not in caplog.text
    redis.away = False
    clock.go(5)
    assert limits.check((AUTH,), HERE)[1] == ("x-ratelimit-remaining", "77")
    assert limits.check((AUTH,), HERE)[1] == ("x-ratelimit-remaining", "77")
    assert redis.asked == 12
    assert lines(caplog)[-1] == "Redis, which counts requests for rate limits, answers again"
    clock.go(60)
    redis.away = True
    after_hundred(limits, lambda: limits.check((AUTH,), HERE))
    assert len([line for line in lines(caplog) if "does not answer" in line]) == 2


@pytest.mark.parametrize(("on_failure", "outcomes"), [("local", ["passed"]), ("open", ["passed"]), ("closed", ["RateLimiterAway"])])
def test_when_nothing_can_be_counted_the_registry_goes_on(on_failure, outcomes, table, caplog):
    limits = rates(table, on_failure=on_failure)
    limits.counts._here.take = lambda bucket, client: 1 / 0  # type: ignore[assignment]
    assert after_hundred(limits, lambda: limits.check((UPLOAD,), HERE)) == outcomes
    assert failures(limits) == 100
    assert len(lines(caplog)) == 1


def test_who_waits_for_redis_is_told_for_how_long():
    assert RateLimiterAway().headers == {"Retry-After": "5"}
