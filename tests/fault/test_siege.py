"""Under siege: hostile clients of all kinds by the thousand may lose their own connections, and nobody else notices.

The attackers are one process (siege/hostile.py) that does what siege/kinds.py says, the honest clients another one (siege/honest.py).
"""

from __future__ import annotations

import contextlib
import http.client
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server import wait_until

from .oci import noise
from .siege.castle import MIB, Besiegers, Castle, Condition, MemoryWatch, Pusher, Seen, nginx_before, stock, visit
from .siege.kinds import MIX, SLOW_RATE

pytestmark = [pytest.mark.slow, pytest.mark.alone]

SAME = ["127.0.0.1"]
"""The address of the honest clients."""
STRANGERS = [f"127.0.0.{number}" for number in range(2, 22)]
SLACK = 0.2
"""Seconds that a p99 may grow by, where that is more than twofold. The attackers arrive and act on the same two processors; on a quiet machine of two
the figures that are printed are 10 to 20 ms for health, 15 to 60 for pulls and 70 to 180 for pushes, which come back from the disk many times."""
SOON = 3.0
"""Seconds for what takes milliseconds on a quiet server, where it would take "as long as they like" without defence."""
PEAK_BYTES = 200 * MIB
KEPT_BY_NGINX = 64 * (os.cpu_count() or 1)
"""`keepalive` in etc/nginx/nginx.conf is for each of its processes."""
Build = Callable[..., Castle]
Gate = Callable[[Castle, str], int]


@pytest.fixture
def build(folder: Path) -> Iterator[Build]:
    """build(NORA_…="…") → a running registry with all its workers."""
    with contextlib.ExitStack() as built:

        def begin(**env: str) -> Castle:
            castle = built.enter_context(Castle(folder / "castle", env))
            return castle.all_up(int(env.get("NORA_WORKERS", "2")))

        yield begin


@pytest.fixture
def gate(folder: Path) -> Iterator[Gate]:
    """gate(castle, way) → the port by which clients come: the registry's own, or nginx's."""
    with contextlib.ExitStack() as gates:

        def port(castle: Castle, way: str) -> int:
            return castle.port if way == "direct" else gates.enter_context(nginx_before(castle, folder / "nginx"))

        yield port


def push(port: int, seed: str) -> float:
    """A small image, pushed and pulled; seconds. Raises when something is not right or takes long."""
    started = time.monotonic()
    with Pusher(port, timeout=SOON) as client:
        layer = noise(50_000, seed)
        digest = client.push_image("team/row", "v1", layer)
        pulled = client.manifest("team/row", "v1")
        assert pulled.headers["Docker-Content-Digest"] == digest, pulled
        assert client.blob("team/row", client.push_blob("team/row", layer)).body == layer
    return time.monotonic() - started


def assert_healthy(port: int, seconds: float = SOON) -> None:
    for path in ("/health", "/ready"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
        with contextlib.closing(connection):
            connection.request("GET", path)
            assert connection.getresponse().status == 200, path


def noticed(quiet: Seen, siege: Seen) -> list[str]:
    """What honest clients have seen of the others."""
    p99s = [(quiet.p99(kind), siege.p99(kind)) for kind in quiet.seconds]
    slower = any(after > max(2 * before, before + SLACK) for before, after in p99s)
    return siege.wrong[:10] + [f"slower: {told(quiet, siege)}"] * slower


def told(quiet: Seen, siege: Seen) -> str:
    p99s = [f"{kind} {quiet.p99(kind) * 1000:.0f} → {siege.p99(kind) * 1000:.0f} ms" for kind in quiet.seconds]
    return f"p99: {', '.join(p99s)}"


def too_large(peak: int) -> list[str]:
    return [f"{peak / MIB:.0f} MiB of memory"] if peak > PEAK_BYTES else []


def not_as_before(castle: Castle, before: Condition, kept: int) -> list[str]:
    """A worker died; connections or descriptors are not given back; or there are more threads than the configuration says.

    `kept`: connections that a proxy keeps for its next requests.
    """
    most = before.connections + 4 + kept
    with contextlib.suppress(AssertionError):
        wait_until(lambda: castle.condition().connections <= most, 10, "connections to be given back")
    after = castle.condition()
    checks = {
        f"workers {before.workers} → {after.workers}": after.workers == before.workers,
        f"connections {before.connections} → {after.connections}": after.connections <= most,
        f"descriptors {before.descriptors} → {after.descriptors}": after.descriptors <= before.descriptors + 16 + kept,
        f"threads {before.threads} → {after.threads}": after.threads <= before.threads + 8 + 32,
        castle.log_text().partition("Traceback (most recent call last)")[2][:2000]: "Traceback (most recent call last)" not in castle.log_text(),
    }
    return [what for what, well in checks.items() if not well]


# ---- all together


QUIET_SECONDS, SIEGE_SECONDS = 3, 5
ARRIVING = 600
"""Attackers a second, until all are there: the honest are not behind a queue of two thousand first requests."""
LONGER = 12
SWEPT_SECONDS = 20


@pytest.mark.parametrize(
    ("way", "sources", "times"),
    [
        pytest.param("direct", SAME, 1, id="direct, from the address of the honest"),
        pytest.param("nginx", STRANGERS, 1, id="nginx, from twenty addresses"),
        *(
            pytest.param(way, sources, LONGER, id=f"{way}, from {len(sources)} addresses, for long", marks=pytest.mark.soak)
            for way in ("direct", "nginx")
            for sources in (SAME, STRANGERS)
        ),
    ],
)
def test_a_siege_by_two_thousand_of_all_kinds(build: Build, gate: Gate, way: str, sources: list[str], times: int) -> None:
    castle = build(NORA_STAGING_SESSION_TTL_SECONDS=str(SWEPT_SECONDS if times > 1 else 3600))
    goods, port = stock(castle), gate(castle, way)
    visit(port, goods, 0.5, "warm")
    quiet = visit(port, goods, QUIET_SECONDS * times, "quiet")
    assert not quiet.wrong, quiet.wrong[:10]
    before = castle.condition()
    with MemoryWatch(castle) as memory, Besiegers(port, goods.target, MIX, sources, ARRIVING) as hostile:
        siege = visit(port, goods, SIEGE_SECONDS * times, "siege")
    problems = noticed(quiet, siege) + too_large(memory.peak) + not_as_before(castle, before, KEPT_BY_NGINX if way == "nginx" else 0)
    print(f"{told(quiet, siege)}, peak {memory.peak / MIB:.0f} MiB; attackers: {hostile.processor_seconds:.1f} s of processor")
    assert not problems, f"{problems}\nattackers: {hostile.outcomes}, {hostile.open} open, {hostile.processor_seconds:.1f} s of processor"
    assert push(port, "after") < SOON
    assert_healthy(port)
    if times > 1:
        wait_until(lambda: castle.condition().unfinished == 0, 3 * SWEPT_SECONDS, "the attackers' sessions to be swept")


# ---- the rows of the table


@pytest.mark.parametrize("way", ["direct", "nginx"])
@pytest.mark.parametrize("kind", ["silent token body", "silent manifest body"])
def test_seventy_bodies_that_do_not_come_stop_no_push(build: Build, gate: Gate, way: str, kind: str) -> None:
    castle = build()
    goods, port = stock(castle, small=True), gate(castle, way)
    with Besiegers(port, goods.target, {kind: 70}):
        push(port, kind)
        assert_healthy(port)


@pytest.mark.parametrize("sources", [SAME, STRANGERS], ids=["one address", "twenty addresses"])
def test_more_bodies_that_do_not_come_than_there_are_connections(build: Build, sources: list[str]) -> None:
    """4,300, where max_connections is 4096."""
    castle = build()
    goods = stock(castle, small=True)
    with Besiegers(castle.port, goods.target, {"silent token body": 4300}, sources):
        for number in range(5):
            assert_healthy(castle.port)
            push(castle.port, f"many {number}")
    assert castle.all_up().running


@pytest.mark.parametrize("way", ["direct", "nginx"])
def test_uploads_that_trickle_hold_no_thread(build: Build, gate: Gate, way: str) -> None:
    """More of each kind than one worker has threads for transfers, which are 32."""
    castle = build(NORA_WORKERS="1")
    goods, port = stock(castle, small=True), gate(castle, way)
    with Besiegers(port, goods.target, {"slow upload": 40, "slow patch": 40, "burst upload": 40, "trailer": 40}):
        for number in range(3):
            push(port, f"trickle {number}")
        assert_healthy(port)


@pytest.mark.parametrize(
    ("way", "sources", "seconds"),
    [
        ("direct", STRANGERS, 4),
        *(pytest.param(way, sources, 60, marks=pytest.mark.soak) for way in ("direct", "nginx") for sources in (SAME, STRANGERS)),
    ],
)
def test_permitted_slow_uploads_beside_fast_ones(build: Build, gate: Gate, way: str, sources: list[str], seconds: int) -> None:
    """2,000 at 2 KiB/s: the fast ones do not notice, and all the slow ones are stored in the end."""
    castle = build()
    goods, port = stock(castle, small=True), gate(castle, way)
    goods.target.slow_bytes = SLOW_RATE * (seconds + 4)
    visit(port, goods, 0.5, "warm")
    quiet = visit(port, goods, seconds, "quiet")
    with MemoryWatch(castle) as memory, Besiegers(port, goods.target, {"allowed upload": 2000}, sources, ARRIVING) as hostile:
        beside = visit(port, goods, seconds, "beside")
        wait_until(lambda: hostile.finished, 60 + seconds, "the slow uploads to end")
    assert hostile.outcomes["allowed upload"].get("whole") == 2000, hostile.outcomes
    print(f"{told(quiet, beside)}, peak {memory.peak / MIB:.0f} MiB; slow clients: {hostile.processor_seconds:.1f} s of processor")
    problems = noticed(quiet, beside) + too_large(memory.peak)
    assert not problems, f"{problems}, {hostile.processor_seconds:.1f} s of processor for the slow clients"


def test_two_hundred_pushes_at_once_from_one_address_meet_no_limit(build: Build) -> None:
    """CI behind a NAT: each push with five layers, so 1,000 connections and sessions of one user are open together. The address is no proxy's."""
    castle = build()
    goods = stock(castle, small=True)
    goods.target.slow_bytes = 4 * SLOW_RATE
    with Besiegers(castle.port, goods.target, {"allowed upload": 1000}, STRANGERS[:1]) as hostile:
        wait_until(lambda: hostile.finished, 60, "the pushes to end")
    assert hostile.outcomes["allowed upload"] == {"connected": 1000, "202": 1000, "201": 1000, "whole": 1000}


@pytest.mark.parametrize("sources", [SAME, STRANGERS], ids=["one address", "twenty addresses"])
def test_readers_that_do_not_read(build: Build, sources: list[str]) -> None:
    """220, where 200 connections are allowed."""
    castle = build(NORA_MAX_CONNECTIONS="200")
    goods = stock(castle)
    with Besiegers(castle.port, goods.target, {"deaf reader": 220}, sources):
        for number in range(3):
            assert_healthy(castle.port)
            push(castle.port, f"deaf {number}")


@pytest.mark.parametrize("kind", ["large trailer", "trailer lines", "chunk extension"])
def test_single_bytes_cost_little_whatever_came_before(build: Build, kind: str) -> None:
    """A trailer of 3 MB and then single bytes: not scanned anew for each of them."""
    castle = build()
    goods = stock(castle, small=True)
    seconds, count = 2.0, 4
    before, started = castle.processor_seconds(), time.monotonic()
    with Besiegers(castle.port, goods.target, {kind: count}):
        time.sleep(seconds)
        used, lasted = castle.processor_seconds() - before, time.monotonic() - started
    assert used < 0.15 * lasted, f"{used:.2f} s of processor in {lasted:.1f} s"


def test_patches_to_a_busy_session_delay_nobody_else(build: Build) -> None:
    castle = build()
    goods = stock(castle, small=True)
    with Besiegers(castle.port, goods.target, {"busy holder": 1, "busy session": 60}):
        for number in range(4):
            push(castle.port, f"busy {number}")


@pytest.mark.parametrize(("kind", "connections"), [("1200 metrics", 1), ("12 metrics", 100), ("12 healths", 100)])
def test_pipelined_questions_wait_for_themselves_alone(build: Build, kind: str, connections: int) -> None:
    """1,200 /metrics, or /health, in all: others are not made to wait for their answers."""
    castle = build()
    goods = stock(castle, small=True)
    stopped = threading.Event()
    waited: list[float] = []

    def ask() -> None:
        while not stopped.is_set():
            started = time.monotonic()
            assert_healthy(castle.port, 20)
            waited.append(time.monotonic() - started)
            time.sleep(0.02)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        with Besiegers(castle.port, goods.target, {kind: connections}):
            for number in range(3):
                push(castle.port, f"pipelined {number}")
            wait_until(lambda: len(waited) > 20, 20, "/health and /ready to be asked some times")
    finally:
        stopped.set()
        asking.join()
    assert max(waited) < 0.5, f"/health and /ready took {max(waited):.2f} s"
