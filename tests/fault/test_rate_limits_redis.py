"""Rate limits of several servers by a real Redis: one count for all of them, and what becomes of requests while it is away."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from noraflask.config import RateLimitConfig
from noraflask.services.doctor.findings import OK, WRONG
from noraflask.services.doctor.redis import redis as doctor
from noraflask.services.limits.bucket import Bucket
from noraflask.services.limits.redis import RedisBuckets
from tests.client.tools import tool
from tests.server import Server, free_port, wait_until

from .conftest import all_workers
from .hammer import Flood, allowed
from .oci import Client
from .test_rate_limits import CLOSE, limits, span

Start = Callable[..., Server]
PASSWORD = "hunter2"
HERE, THERE = "192.0.2.1", "198.51.100.7"


class Redis:
    """redis-server on a free port and on a socket, with a password, and nothing on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.socket = folder, free_port(), folder / "redis.sock"
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(exist_ok=True)

    @property
    def url(self) -> str:
        return f"redis://:{PASSWORD}@127.0.0.1:{self.port}/3"

    def start(self) -> None:
        options = {"port": self.port, "bind": "127.0.0.1", "unixsocket": self.socket, "requirepass": PASSWORD, "dir": self.folder, "save": ""}
        command = [tool("redis-server"), *(part for name, value in options.items() for part in (f"--{name}", str(value)))]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(lambda: "PONG" in self.cli("ping"), 20, "Redis to answer")

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def signal(self, number: int) -> None:
        assert self.process
        self.process.send_signal(number)

    def cli(self, *words: str) -> str:
        command = [tool("redis-cli"), "-p", str(self.port), "-a", PASSWORD, "--no-auth-warning", "-n", "3", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.fixture
def redis(folder: Path) -> Iterator[Redis]:
    server = Redis(folder / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def buckets(redis: Redis) -> RedisBuckets:
    return RedisBuckets(f"nora+{redis.url}")


# The script, by itself.


def test_a_burst_and_what_is_left(buckets):
    bucket = Bucket(1, 5, "auth")
    answers = [buckets.take(bucket, HERE) for _ in range(7)]
    assert [taken.remaining for taken in answers] == [4, 3, 2, 1, 0, 0, 0]
    assert [bool(taken.wait) for taken in answers] == [False] * 5 + [True] * 2
    assert 0.5 < answers[-1].wait <= 1
    assert buckets.take(bucket, THERE).remaining == 4
    assert buckets.take(Bucket(1, 5, "general"), HERE).remaining == 4
    seconds, remaining = buckets.look(bucket, HERE)
    assert (remaining, 3.5 < seconds <= 5) == (0, True)
    assert buckets.check()


def test_a_refusal_tells_the_truth_and_takes_nothing(buckets):
    bucket = Bucket(20, 2, "auth")
    for _ in range(20):
        wait = buckets.take(bucket, HERE).wait
        if wait:
            time.sleep(wait)
            assert not buckets.take(bucket, HERE).wait


@pytest.mark.parametrize(("rps", "burst"), [(1, 1), (3, 7), (300, 600), (1_000_000, 3), (1, 1_000_000)])
def test_any_limits(rps, burst, buckets):
    bucket = Bucket(rps, burst, "upload")
    taken = [buckets.take(bucket, HERE) for _ in range(3)]
    assert taken[0].remaining == burst - 1
    assert all(one.wait <= 1.0001 / rps for one in taken)


def test_what_is_kept_goes_by_itself(redis, buckets):
    buckets.take(Bucket(2, 5, "auth"), HERE)
    assert redis.cli("keys", "*").split() == ["nora:limit:auth:192.0.2.1"]
    assert 0 < int(redis.cli("pttl", "nora:limit:auth:192.0.2.1")) <= 1500
    wait_until(lambda: not redis.cli("keys", "*").split(), 10, "the key to expire")


@pytest.mark.parametrize("at", ["-1e300", "0", "1e300", "9007199254740993"])
def test_whatever_the_record_says_nobody_waits_longer_than_a_bucket_takes(at, redis, buckets):
    bucket = Bucket(1, 5, "auth")
    redis.cli("hset", "nora:limit:auth:192.0.2.1", "used", "1e9", "at", at)
    assert buckets.take(bucket, HERE).wait <= 1


def test_limits_that_became_smaller_keep_nobody_waiting_for_the_old_ones(buckets):
    for _ in range(500):
        buckets.take(Bucket(1, 500, "upload"), HERE)
    assert buckets.take(Bucket(10, 5, "upload"), HERE).wait <= 0.1


def test_by_its_socket(redis):
    buckets = RedisBuckets(f"nora+redis+unix://:{PASSWORD}@{redis.socket}?db=3")
    assert buckets.take(Bucket(1, 5, "auth"), HERE).remaining == 4


# Servers that share it.


def shared(redis: Redis, rps: int, burst: int, on_failure: str = "local") -> dict[str, str]:
    return limits(rps, burst) | {"NORA_WORKERS": "2", "NORA_RATE_LIMIT_STORAGE_URL": redis.url, "NORA_RATE_LIMIT_ON_FAILURE": on_failure}


def test_two_servers_share_one_count(redis, start: Start):
    servers = [start(shared(redis, 50, 100), name=f"server{number}") for number in range(2)]
    for server in servers:
        all_workers(server, 2)
    with Flood(servers[0].port) as first, Flood(servers[1].port) as second:
        time.sleep(6)
    asked = [*first.asked, *second.asked]
    assert allowed(asked) == pytest.approx(100 + 50 * span(asked), rel=CLOSE)
    assert min(allowed(first.asked), allowed(second.asked)) > 20, "one of them let nothing through"
    for server in servers:
        assert "counted in Redis (on_failure local)" in server.log_text()
        assert PASSWORD not in server.log_text()


OUTCOMES = {"local": {200, 429}, "open": {200}, "closed": {503}}


@pytest.mark.parametrize("on_failure", OUTCOMES)
def test_redis_goes_and_comes_back(on_failure, redis, start: Start):
    server = start(shared(redis, 1, 5, on_failure))
    with Client(server.port) as client:
        assert [client.ask("GET", "/v2/").status for _ in range(7)] == [200] * 5 + [429] * 2
        redis.stop()
        answers = [client.ask("GET", "/v2/") for _ in range(50)]
        assert {answer.status for answer in answers} == OUTCOMES[on_failure]
        if on_failure == "closed":
            assert (answers[-1].code, answers[-1].headers["Retry-After"]) == ("TOOMANYREQUESTS", "5")
        if on_failure == "open":
            assert "x-ratelimit-limit" not in answers[-1].headers
        assert client.ask("GET", "/health").status == 200
        redis.start()
        wait_until(lambda: client.ask("GET", "/v2/") and redis.cli("keys", "*").split(), 30, "the server to count in Redis again")
        assert server.log_text().count("does not answer") == 1
        assert server.log_text().count("answers again") == 1
        assert client.ask("GET", "/v2/").headers["x-ratelimit-limit"] == "5"
        assert PASSWORD not in server.log_text()
        assert "Traceback" not in server.log_text()


def test_a_redis_that_hangs_costs_a_moment_and_not_each_request(redis, start: Start):
    server = start(shared(redis, 1000, 1000))
    with Client(server.port) as client:
        assert client.ask("GET", "/v2/").status == 200
        redis.signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert {client.ask("GET", "/v2/").status for _ in range(200)} == {200}
            tries = server.log_text().count("does not answer")
            assert time.monotonic() - began < 200 * 0.25, "each of them has waited"
        finally:
            redis.signal(signal.SIGCONT)
        assert tries == 1


def test_a_server_starts_without_its_redis(redis, start: Start):
    redis.stop()
    server = start(shared(redis, 1, 5))
    with Client(server.port) as client:
        assert {client.ask("GET", "/v2/").status for _ in range(20)} == {200, 429}


def test_the_doctor_asks_it(redis):
    config = RateLimitConfig(storage_url=redis.url)
    (found,) = doctor(config)
    assert (found.check, found.verdict) == ("redis", OK), found
    redis.stop()
    (found,) = doctor(config)
    assert (found.verdict, "on_failure = local" in found.text) == (WRONG, True)
    assert redis.url not in "".join(found.lines())
    assert list(doctor(RateLimitConfig(enabled=False, storage_url=redis.url))) == list(doctor(RateLimitConfig())) == []
