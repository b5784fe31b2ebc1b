"""For scripts/bench oci and edge: small reads, beside slow ones as well, and what they leave in memory."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bench_client import MANIFEST_TYPE, PATH, Client, Failed, NewClient, push_bytes, push_manifest
from bench_common import CONNECTIONS, Running, load, wrk
from bench_oci_table import Found
from bench_peers import Registry

TAGS = 100
LISTING = "/v2/bench/app/tags/list"
HOT, SLOW = 16, 8  # connections
HEADS = 200_000


def manifests(registry: Registry, seconds: float) -> dict[str, Found]:
    found = {}
    with registry.client() as client:
        digest = push_manifest(client)
    for by, reference in (("tag", "v1"), ("digest", digest)):
        path = f"/v2/bench/app/manifests/{reference}"
        wrk(registry.up, registry.login, HOT, 2, path)  # warms what remembers
        for count in CONNECTIONS:
            read = wrk(registry.up, registry.login, count, seconds, path)
            found[f"manifest-get-{by}-{count}"] = Found(read.rate, read.cpu)
            found[f"manifest-head-{by}-{count}"] = heads(registry.up, registry.client, path, count, seconds)
    return found


def blobs(registry: Registry, seconds: float) -> dict[str, Found]:
    found = {}
    for size, data in ((2, b"{}"), (300, os.urandom(300))):
        with registry.client() as client:
            path = f"/v2/bench/app/blobs/{push_bytes(client, 'bench/app', data)}"
        wrk(registry.up, registry.login, HOT, 2, path)
        for count in CONNECTIONS:
            read = wrk(registry.up, registry.login, count, seconds, path)
            found[f"blob-{size}-{count}"] = Found(read.rate, read.cpu)
    return found


def mixed(registry: Registry, seconds: float) -> dict[str, Found]:
    """Listings alone, then beside hot reads."""
    with registry.client() as client:
        push_manifest(client, TAGS)
    base = f"http://127.0.0.1:{registry.up.port}"
    wrk(registry.up, registry.login, HOT, 2)
    alone = wrk(registry.up, registry.login, SLOW, seconds, LISTING)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(load, base + path, registry.login, count, seconds) for path, count in ((PATH, HOT), (LISTING, SLOW))]
        hot, slow = [call.result() for call in calls]
    return {
        "alone-slow": Found(alone.rate, alone.cpu),
        "mixed-hot": Found(hot.rate),
        "mixed-slow": Found(slow.rate),
        "mixed-wait": Found(slow.slow_ms),
    }


def heads(up: Running, new_client: NewClient, path: str, connections: int, seconds: float) -> Found:
    """HEAD by an epoll loop, because wrk waits for the body that a HEAD promises."""
    end = time.perf_counter() + seconds
    before, begin = up.cpu_seconds(), time.perf_counter()
    done = ask_side_by_side(new_client, lambda number, turn: ("HEAD", path, ""), connections, lambda sent: time.perf_counter() < end)
    took = time.perf_counter() - begin
    return Found(done / took, (up.cpu_seconds() - before) / done * 1e6)


def plans(registry: Registry, count: int) -> dict[str, Found]:
    """How much more memory the larger worker has after so many heads that differ, each sent twice in a row: what is seen again may be kept."""
    up = registry.up
    with registry.client() as client:
        push_manifest(client)
    wrk(up, registry.login, HOT, 2)
    before = up.memory_by_process()
    ask_side_by_side(registry.client, lambda number, turn: ("HEAD", PATH, f"X-Number: {number}-{turn // 2}\r\n"), HOT, lambda sent: sent < 2 * count)
    wrk(up, registry.login, HOT, 2)
    after = up.memory_by_process()
    return {"plans": Found(max(size - before[number] for number, size in after.items() if number in before))}


def ask_side_by_side(
    new_client: NewClient, request: Callable[[int, int], tuple[str, str, str]], connections: int, goes_on: Callable[[int], bool]
) -> int:
    """Requests without a body, of which each connection has one under way: `request(connection, turn)` tells method, path and more headers.

    That goes on as long as `goes_on(requests sent)`. Returns how many were answered.
    """
    asking = [_Asking(new_client(), number, request) for number in range(connections)]
    by_descriptor = {one.descriptor: one for one in asking}
    with contextlib.closing(select.epoll()) as poll:
        for one in asking:
            poll.register(one.descriptor, select.EPOLLIN)
            one.send()
        sent, done = connections, 0
        while goes_on(sent):
            for descriptor, _ in poll.poll(10):
                answer = os.read(descriptor, 4096)
                if not (answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"\r\n\r\n")):
                    raise Failed(f"HEAD gave {answer[:300]!r}")
                by_descriptor[descriptor].send()
                done += 1
                sent += 1
    for one in asking:
        one.client.sock.close()
    return done


class _Asking:
    """A connection that asks again and again."""

    def __init__(self, client: Client, number: int, request: Callable[[int, int], tuple[str, str, str]]) -> None:
        self.client = client
        self.descriptor = client.sock.fileno()
        self._number, self._request = number, request
        self._turn = 0
        self._last: tuple[str, str, str] | None = None
        self._raw = b""

    def send(self) -> None:
        what = self._request(self._number, self._turn)
        if what != self._last:
            self._last = what
            self._raw = self.client.head_of(what[0], what[1], f"Accept: {MANIFEST_TYPE}\r\n{what[2]}")
        os.write(self.descriptor, self._raw)
        self._turn += 1
