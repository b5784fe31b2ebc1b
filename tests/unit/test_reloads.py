"""Which policy each worker has, as any process of the server can tell, while others write and die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from noraflask.serve.application import PlainApplication
from noraflask.serve.master import Arbiter
from noraflask.services import reloads as module
from noraflask.services.reloads import ReloadFigures, Reloads, WorkerState
from tests.clock import Clock

ONE, TWO = "1" * 16, "2" * 16


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def reloads(clock: Clock) -> Reloads:
    return Reloads(clock)


@contextmanager
def worker(reloads: Reloads, fingerprint: str) -> Iterator[int]:
    """A child that has adopted a policy and lives."""
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        reloads.adopted(fingerprint, fingerprint)
        os.write(ready[1], b".")
        os.close(go[1])
        os.read(go[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        yield pid
    finally:
        for end in (*ready, *go):
            os.close(end)
        os.waitpid(pid, 0)


def test_before_anything_was_read(reloads: Reloads) -> None:
    assert reloads.figures() == ReloadFigures(0, 0, 0.0, 0.0, "", "")
    assert reloads.workers() == []


def test_the_start_is_a_success_and_no_reload(reloads: Reloads) -> None:
    reloads.succeeded(ONE, ONE, at_start=True)
    assert reloads.figures() == ReloadFigures(0, 0, 1000.0, 0.0, ONE, ONE)


def test_successes_and_failures_are_counted_apart(reloads: Reloads, clock: Clock) -> None:
    reloads.succeeded(ONE, ONE, at_start=True)
    for clock.now, told in (
        (1001.0, reloads.failed),
        (1002.0, lambda: reloads.succeeded(TWO, TWO)),
        (1003.0, reloads.failed),
        (1004.0, reloads.failed),
    ):
        told()
    assert reloads.figures() == ReloadFigures(1, 3, 1002.0, 1004.0, TWO, TWO)


def test_a_worker_sees_what_the_master_wrote_after_the_fork(reloads: Reloads) -> None:
    reloads.succeeded(ONE, ONE)
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(told, 1)
        os._exit(int(reloads.figures().fingerprint != TWO))
    reloads.succeeded(TWO, TWO)
    os.write(tell, b".")
    assert os.waitpid(pid, 0)[1] == 0
    os.close(told)
    os.close(tell)


def test_each_worker_has_one_line(reloads: Reloads, clock: Clock) -> None:
    with worker(reloads, ONE) as first, worker(reloads, TWO) as second:
        assert sorted(reloads.workers(), key=lambda found: found.fingerprint) == [
            WorkerState(first, ONE, ONE, 1000.0),
            WorkerState(second, TWO, TWO, 1000.0),
        ]
    reloads.adopted(ONE, ONE)
    clock.now = 1001.0
    reloads.adopted(TWO, TWO)
    assert reloads.workers() == [WorkerState(os.getpid(), TWO, TWO, 1001.0)]


def test_a_killed_worker_is_gone_before_anybody_reaps_it(reloads: Reloads) -> None:
    with worker(reloads, ONE) as pid:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert reloads.workers() == []


def test_a_number_that_is_some_other_process_by_now_is_no_worker(reloads: Reloads) -> None:
    reloads._put(module._place(3), module._SLOT.pack(1, 1000.0, ONE.encode(), ONE.encode()))
    assert reloads.workers() == []


def test_more_workers_in_a_life_than_there_are_places(reloads: Reloads) -> None:
    for place in range(module.SLOTS):  # of workers that are gone
        reloads._put(module._place(place), module._SLOT.pack(2**40 + place, 1000.0, ONE.encode(), ONE.encode()))
    reloads.adopted(TWO, TWO)
    assert [found.fingerprint for found in reloads.workers()] == [TWO]


def test_what_a_process_left_half_written_counts_as_nothing(reloads: Reloads) -> None:
    reloads.succeeded(ONE, ONE)
    reloads.adopted(ONE, ONE)
    for place in (0, module._place(os.getpid() % module.SLOTS)):
        reloads._memory[place + 20] ^= 1
    assert reloads.figures() == ReloadFigures(0, 0, 0.0, 0.0, "", "")
    assert reloads.workers() == []
    reloads.adopted(ONE, ONE)
    reloads.succeeded(TWO, TWO)
    assert [found.fingerprint for found in reloads.workers()] == [ONE]
    assert reloads.figures().fingerprint == TWO


def test_many_workers_that_start_at_the_same_moment(reloads: Reloads) -> None:
    told, tell = os.pipe()
    ended, end = os.pipe()
    pids = []
    for _ in range(12):
        pids.append(os.fork())
        if pids[-1] == 0:
            os.close(end)
            os.read(told, 1)
            reloads.adopted(ONE, ONE)
            os.read(ended, 1)
            os._exit(0)
    os.write(tell, b"." * 12)
    try:
        wanted = set(pids)
        for _ in range(100_000):
            if {found.pid for found in reloads.workers()} == wanted:
                break
        assert {found.pid for found in reloads.workers()} == wanted
    finally:
        os.close(end)
        for pid in pids:
            os.waitpid(pid, 0)
        for file in (told, tell, ended):
            os.close(file)


def test_figures_are_never_half_of_one_and_half_of_another(reloads: Reloads) -> None:
    """A child looks while its master writes."""
    reloads.succeeded(ONE, ONE)

    def look() -> None:
        fingerprints = {reloads.figures().fingerprint for _ in range(5000)}
        os._exit(0 if fingerprints <= {ONE, TWO} else 1)

    pid = os.fork()
    if pid == 0:
        look()
    number = 0
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
        number += 1
        reloads.succeeded((ONE, TWO)[number % 2], "state")
    assert ended[1] == 0


class Broken(PlainApplication):
    """An application whose reload meets what nobody expected."""

    broke = 0

    def read_again(self):
        raise RuntimeError("nobody expected this")

    def reload_broke(self):
        self.broke += 1


def test_a_master_whose_reload_breaks_says_so_and_goes_on():
    application = Broken(lambda environ, start_response: [])
    told: list[str] = []
    master: Any = object.__new__(Arbiter)
    master.app, master.LISTENERS, master._num_workers = SimpleNamespace(wsgi=lambda: application), [], 2
    master.cfg = SimpleNamespace(proc_name="test")
    master.service_manager = SimpleNamespace(reloading=lambda: None, ready=told.append)
    master.handle_hup()
    while master.reading is not None:
        time.sleep(0.005)
        master.go_on_reading()
    assert [line.partition("; ")[2] for line in told] == ["the last reload was refused: nobody expected this"]
    assert application.broke == 1
