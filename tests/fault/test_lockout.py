"""Failed logins as several workers count them, and what is left when one of them is killed."""

from __future__ import annotations

import errno
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from noraflask.services.auth.lockout import ACCOUNT_LIMIT, LockedOut, Lockout
from noraflask.services.shared_lock import _try_lock

CLIENTS = [f"192.0.2.{number}" for number in range(40)]
HANG_SECONDS = 60


@pytest.fixture
def lockout() -> Lockout:
    return Lockout(lambda: 1000.0, b"secret")


def wait(lockout: Lockout, client: str, account: str) -> int:
    try:
        lockout.check(client, account)
    except LockedOut as error:
        return error.retry_after_seconds
    return 0


def fail_fourteen_times(lockout: Lockout, worker: int, threads: int = 1) -> None:
    """For each client, at an account of its own; the work of each client is one thread's."""
    with ThreadPoolExecutor(threads) as pool:
        for number in range(14):
            list(pool.map(lambda client, number=number: lockout.failed(client, f"of {client}", f"{worker} {number}"), CLIENTS))


@pytest.mark.parametrize("threads", [1, 4])
def test_what_four_processes_count_at_once_adds_up(threads, fork, lockout):
    children = [fork(fail_fourteen_times, lockout, worker, threads) for worker in range(4)]
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    assert lockout.counters() == {"failures": 4 * 14 * len(CLIENTS), "repeated": 0, "refused": 0}
    assert {wait(lockout, client, "another") for client in CLIENTS} == {64}  # 56 failures each: 2^(56-50) seconds


def test_a_lock_that_one_worker_made_holds_in_all(fork, lockout):
    child = fork(lambda: [lockout.failed("192.0.2.1", "joe", f"guess {number}") for number in range(6)])
    child.join()
    assert lockout.active
    assert wait(lockout, "192.0.2.1", "joe") == 2
    fork(lockout.succeeded, "192.0.2.1", "joe").join()
    assert wait(lockout, "192.0.2.1", "joe") == 0


def crowd(lockout: Lockout, worker: int) -> None:
    for number in range(ACCOUNT_LIMIT):
        lockout.failed(f"198.18.{worker}.{number}", "joe", "guess")


def test_under_a_crowd_of_all_workers_a_new_client_has_one_guess_and_nobody_else_waits(fork, lockout):
    lockout.succeeded("192.0.2.3", "joe")
    children = [fork(crowd, lockout, worker) for worker in range(2)]
    for child in children:
        child.join()
    assert [wait(lockout, client, "joe") for client in ("192.0.2.1", "192.0.2.2", "192.0.2.3")] == [0, 0, 0]
    for client in ("192.0.2.1", "192.0.2.3"):
        fork(lockout.failed, client, "joe", "guess").join()
    assert [wait(lockout, client, "joe") for client in ("192.0.2.1", "192.0.2.2", "192.0.2.3")] == [1, 0, 0]


def hold(lockout: Lockout, held: int) -> None:
    with lockout._lock:
        os.write(held, b"!")
        signal.pause()


def test_a_process_that_is_killed_with_the_lock_in_hand_blocks_nobody(fork, lockout):
    told, tell = os.pipe()
    try:
        holder = fork(hold, lockout, tell)
        assert os.read(told, 1) == b"!"
    finally:
        os.close(told)
        os.close(tell)
    assert _try_lock(lockout._lock._mutex) == errno.EBUSY
    waiting = fork(lockout.failed, "192.0.2.1", "joe", "guess")
    assert holder.pid
    os.kill(holder.pid, signal.SIGKILL)
    waiting.join(HANG_SECONDS)
    assert waiting.exitcode == 0
    lockout.failed("192.0.2.1", "joe", "another")
    assert lockout.counters()["failures"] == 2


def fail_forever(lockout: Lockout, started: int) -> None:
    os.write(started, b"!")
    for number in range(10**9):
        lockout.failed(CLIENTS[number % 40], "joe", str(number))


def test_processes_that_are_killed_while_they_count_leave_a_table_that_works(fork, lockout):
    told, tell = os.pipe()
    for _ in range(20):
        child = fork(fail_forever, lockout, tell)
        assert os.read(told, 1) == b"!"
        child.kill()
        child.join()
    os.close(told)
    os.close(tell)
    for number in range(6):
        lockout.failed("198.51.100.1", "ann", f"guess {number}")
    assert wait(lockout, "198.51.100.1", "ann") == 2
