"""Locks by name, in one process: who waits for one name takes few threads from all others."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from noraflask.errors import Unavailable
from noraflask.services.name_locks import NameLocks


def test_one_at_a_time_for_each_name():
    locks, inside, most = NameLocks(30, most_waiting=100), [], []

    def work(name: str) -> None:
        with locks.hold(name):
            inside.append(name)
            most.append(inside.count(name))
            inside.remove(name)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [f"{number % 3}" for number in range(200)], timeout=30))
    assert max(most) == 1
    assert len(locks) == 0


def test_a_crowd_does_not_wait_for_long():
    """Two threads wait as long as it takes; the others, for whatever name, are sent away, and their threads are free."""
    locks, leave = NameLocks(30, most_waiting=2, crowd_seconds=0.05), threading.Event()
    waited = []

    def wait(name: str) -> None:
        began = time.monotonic()
        try:
            with locks.hold(name):
                waited.append(None)
        except Unavailable as problem:
            waited.append(problem.headers["Retry-After"])
            assert time.monotonic() - began < 20

    with ThreadPoolExecutor(8) as pool:
        with locks.hold("a"), locks.hold("b"):
            those = [pool.submit(wait, name) for name in "abababab"]
            deadline = time.monotonic() + 20
            while len(waited) < 6 and time.monotonic() < deadline:
                leave.wait(0.01)
            assert waited == ["1"] * 6
        for one in those:
            one.result(30)
    assert waited == ["1"] * 6 + [None] * 2
    assert len(locks) == 0


def test_an_error_inside_frees_the_name():
    locks = NameLocks(0.01)
    with pytest.raises(RuntimeError), locks.hold("a"):
        raise RuntimeError
    with locks.hold("a"), pytest.raises(Unavailable), locks.hold("a"):
        pass
    assert len(locks) == 0
