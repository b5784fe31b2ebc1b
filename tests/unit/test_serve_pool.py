"""Lanes take turns between clients; clients are counted right."""

from __future__ import annotations

import threading

from noraflask.serve.clients import Clients
from noraflask.serve.pool import Lane, Pool


def test_a_lane_runs_so_many_at_once():
    lane: Lane[str] = Lane(2)
    assert [lane.enter(job) for job in "abcd"] == [True, True, False, False]
    assert [lane.leave() for _ in range(4)] == ["c", "d", None, None]
    assert lane.enter("e")


def test_clients_of_a_lane_take_turns_and_each_keeps_its_order():
    lane: Lane[str] = Lane(1)
    assert lane.enter("running", "greedy")
    for job in ("g1", "g2", "g3", "g4"):
        assert not lane.enter(job, "greedy")
    for job, client in (("m1", "modest"), ("o1", "other"), ("m2", "modest")):
        assert not lane.enter(job, client)
    assert [lane.leave() for _ in range(8)] == ["g1", "m1", "o1", "g2", "m2", "g3", "g4", None]
    assert not lane.is_full


def test_long_jobs_never_take_the_last_threads_of_a_pool():
    pool, go, done = Pool(8), threading.Event(), threading.Event()
    for _ in range(100):
        pool.submit_long(go.wait, "uploader")
    pool.submit_short(done.set)
    assert done.wait(10)
    assert pool.pressed
    go.set()


def test_connections_are_counted_for_whom_they_work():
    clients = Clients(2)
    for _ in range(3):
        clients.move("", "a")
    assert (clients.count("a"), clients.is_over("a")) == (3, True)
    clients.move("a", "b")
    assert (clients.is_over("a"), clients.count("b")) == (False, 1)
    clients.move("b", "b")
    clients.move("b", "")
    clients.move("a", "")
    clients.move("a", "")
    assert clients.count("a") == clients.count("b") == 0
    assert not clients._counts  # nobody is remembered who has none
