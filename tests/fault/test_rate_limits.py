"""Rate limits as four workers count them together: what passes is what a token bucket lets through, whoever asks, and whoever dies meanwhile."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from noraflask.services.limits.bucket import Bucket
from noraflask.services.limits.table import BucketTable
from noraflask.services.shared_lock import SharedLock
from tests.server import Server, wait_until

from .conftest import all_workers
from .hammer import Asked, Flood, allowed, hammer
from .oci import Client

WORKERS = 4
CLOSE = 0.05
"""Of the arithmetic."""
LIMITED = {"NORA_WORKERS": str(WORKERS), "NORA_RATE_LIMIT_ENABLED": "true", "NORA_ACCESS_LOG": "false"}
Start = Callable[..., Server]


def limits(rps: int, burst: int) -> dict[str, str]:
    return LIMITED | {"NORA_RATE_LIMIT_UPLOAD_RPS": str(rps), "NORA_RATE_LIMIT_UPLOAD_BURST": str(burst)}


def span(asked: list[Asked]) -> float:
    return max(one.received for one in asked) - min(one.sent for one in asked)


@pytest.mark.alone
@pytest.mark.parametrize("seconds", [6, pytest.param(30, marks=pytest.mark.soak)])
def test_a_flood_from_one_client(seconds, start):
    server = start(limits(100, 200))
    all_workers(server, WORKERS)
    with Flood(server.port) as flood:
        time.sleep(seconds)
    expected = 200 + 100 * span(flood.asked)
    assert len(flood.asked) > 1.5 * expected, "it was no flood"
    assert allowed(flood.asked) == pytest.approx(expected, rel=CLOSE)


@pytest.mark.alone
@pytest.mark.parametrize("seconds", [8, pytest.param(30, marks=pytest.mark.soak)])
def test_a_flood_from_a_thousand_clients(seconds, start):
    """Each asks as long as the others, and its last answer is a refusal: then its bucket is empty, and all that was in it has passed."""
    server = start(limits(1, 12))
    all_workers(server, WORKERS)
    clients = [f"10.1.{number // 250}.{number % 250}" for number in range(900)] + [f"2001:db8:0:{number:x}::1" for number in range(100)]
    began = time.monotonic()
    asked = hammer(server.port, clients, lambda found: time.monotonic() - began > seconds)
    by_client: dict[str, list[Asked]] = {client: [] for client in clients}
    for one in asked:
        by_client[one.client].append(one)
    counts, expected = 0, 0.0
    for client, own in by_client.items():
        refusals = [one for one in own if one.status == 429]
        assert refusals, f"{client} was never refused"
        until = refusals[-1]
        passed = allowed(one for one in own if one.sent <= until.sent)
        most = 12 + 1 * (until.received - own[0].sent)
        assert most - 2 <= passed <= most, client
        counts, expected = counts + passed, expected + most
    assert counts == pytest.approx(expected, rel=CLOSE)


def test_a_worker_that_is_killed_takes_no_count_along(start):
    server = start(limits(100, 200))
    workers = all_workers(server, WORKERS)
    with Flood(server.port) as flood:
        for pid in workers[:3]:
            time.sleep(1)
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(set(server.worker_pids()) - set(workers)) == 3, 30, "workers in their place")
        time.sleep(1)
    expected = 200 + 100 * span(flood.asked)
    assert allowed(flood.asked) == pytest.approx(expected, rel=CLOSE)
    assert "Traceback" not in server.log_text()


class Totals:
    """Counts of all processes together, by name."""

    def __init__(self, names: list[str]) -> None:
        self._names, self._lock = names, SharedLock()
        self._counts = memoryview(mmap.mmap(-1, 8 * len(names))).cast("Q")

    def add(self, name: str) -> None:
        with self._lock:
            self._counts[self._names.index(name)] += 1

    def of(self, name: str) -> int:
        return self._counts[self._names.index(name)]


def take_all(table: BucketTable, passed: Totals, started: int) -> None:
    os.read(started, 1)
    bucket = Bucket(1, BURST, "upload")
    for number in range(3 * BURST):
        client = f"client {number % 3}"
        if not table.take(bucket, client).wait:
            passed.add(client)


BURST = 3000


def test_what_four_processes_take_at_once_is_what_there_is(fork):
    """The clock stands still, so not one token may be taken twice."""
    table, clients = BucketTable(clock=lambda: 10**12), [f"client {number}" for number in range(3)]
    passed = Totals(clients)
    wait, go = os.pipe()
    try:
        children = [fork(take_all, table, passed, wait) for _ in range(2 * WORKERS)]
        os.write(go, b"!" * len(children))
        for child in children:
            child.join()
    finally:
        os.close(wait)
        os.close(go)
    assert [child.exitcode for child in children] == [0] * len(children)
    assert [passed.of(client) for client in clients] == [BURST] * 3


CONFIG = """
[rate_limit]
upload_rps = {rps}
upload_burst = {burst}
"""


def test_a_reload_changes_the_limits_under_a_flood(folder):
    env = LIMITED | {"NORA_ACCESS_LOG": "false"}
    with Server(folder / "server", env, CONFIG.format(rps=50, burst=100)) as server:
        all_workers(server, WORKERS)
        with Flood(server.port) as flood:
            time.sleep(2)
            before = list(flood.asked)
            (server.folder / "config.toml").write_text(CONFIG.format(rps=300, burst=30))
            os.kill(server.pid, signal.SIGHUP)
            wait_until(lambda: server.log_text().count('"reloaded"') == WORKERS, 30, "all workers to have read it")
            mark = time.monotonic()
            time.sleep(3)
        assert allowed(before) == pytest.approx(100 + 50 * span(before), rel=CLOSE)
        after = [one for one in flood.asked if one.sent >= mark]
        assert allowed(after) == pytest.approx(300 * span(after), rel=2 * CLOSE)
        assert len(flood.asked) == len([one for one in flood.asked if one.status in (200, 429)])
        lines = [line for line in server.log_text().splitlines() if "rate limits by client" in line]
        assert len(lines) == 2
        assert "upload 300 a second, 30 at once" in lines[1]


def test_what_an_untrusted_peer_claims_changes_nothing(start):
    server = start(limits(1, 5) | {"NORA_AUTH_TRUSTED_PROXIES": "192.0.2.77"})
    names = [f"10.0.0.{number}" for number in range(60)]
    asked = hammer(server.port, names, lambda found: len(found) >= 60)
    assert allowed(asked) <= 5 + span(asked) + 1
    assert server.log_text().count("refused by rate limit upload: client=127.0.0.1") == 1


@pytest.fixture
def spent(start: Start) -> Iterator[Server]:
    """A server that has refused this machine just now, and will for some time."""
    server = start(limits(1, 1) | {"NORA_WORKERS": "1"})
    with Client(server.port) as client:
        while client.ask("GET", "/v2/").status != 429:
            pass
        yield server


@pytest.mark.parametrize("expect", ["", "Expect: 100-continue\r\n"])
def test_the_body_of_a_refused_upload_is_not_wanted(expect, spent):
    """Told at once, while a terabyte is still to come, and the connection closed instead of drained."""
    with socket.create_connection(("127.0.0.1", spent.port), timeout=20) as peer:
        peer.sendall(f"PATCH /v2/a/blobs/uploads/x HTTP/1.1\r\nHost: r\r\nContent-Length: {1 << 40}\r\n{expect}\r\n".encode())
        answer = b""
        while piece := peer.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"TOOMANYREQUESTS" in answer


def test_who_waits_as_long_as_it_was_told_passes(spent):
    with Client(spent.port) as client:
        answer = client.ask("GET", "/v2/")
        assert answer.status == 429
        time.sleep(int(answer.headers["Retry-After"]))
        assert client.ask("GET", "/v2/").status == 200


def test_who_watches_the_server_is_never_refused(spent):
    with Client(spent.port) as client:
        assert {client.ask("GET", path).status for path in ("/health", "/ready") * 300} == {200}


def test_the_limits_in_force_are_told_at_the_start(start, folder: Path):
    server = start(LIMITED, name="on")
    assert (
        "rate limits by client: auth 1 a second, 5 at once; upload 200 a second, 500 at once; general 100 a second, 200 at once" in server.log_text()
    )
    assert "rate limits are off (rate_limit.enabled)" in start(name="off").log_text()
