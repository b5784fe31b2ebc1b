"""What a reload reads is read in a child: its outcome, and what becomes of one that breaks, dies or takes too long."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from noraflask.config import ConfigError
from noraflask.serve.reading import Outcome, Reading


def outcome_of(read: Callable[[], Any], seconds: float = 60) -> Outcome:
    reading = Reading(read, seconds)
    while (outcome := reading.outcome()) is None:
        time.sleep(0.002)
    is_gone(reading)
    return outcome


def is_gone(reading: Reading) -> None:
    """One that was killed ends by and by; the master looks after its children. Not for any child: other tests' servers are some."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(reading._pid, 0)


def fail(error: BaseException) -> Callable[[], Any]:
    def read() -> Any:
        raise error

    return read


def test_what_it_read_comes_whole():
    large = os.urandom(3_000_000)
    found = outcome_of(lambda: ({"who": "reads", "pid": os.getpid()}, large))
    assert (found.kind, found.large, found.snapshot["who"]) == ("read", large, "reads")
    assert found.snapshot["pid"] != os.getpid()


def test_nothing_to_reload():
    assert outcome_of(lambda: None) == Outcome("nothing")


def test_every_problem_comes():
    assert outcome_of(fail(ConfigError(["a.toml:1: x", "a.toml:2: y"]))) == Outcome("refused", problems=("a.toml:1: x", "a.toml:2: y"))


def test_an_error_that_nobody_expected():
    found = outcome_of(fail(ZeroDivisionError("surprise")))
    assert (found.kind, found.problems) == ("broken", ("surprise",))
    assert found.trace.startswith("Traceback")


@pytest.mark.parametrize("end", [lambda: os._exit(0), lambda: os._exit(3), lambda: os.kill(os.getpid(), signal.SIGKILL), fail(SystemExit(0))])
def test_a_reader_that_dies(end):
    found = outcome_of(end)
    assert (found.kind, found.problems) == ("broken", ("the process that read the configuration was ended",))


def test_a_reader_that_takes_too_long_is_ended():
    found = outcome_of(lambda: time.sleep(600), seconds=0.1)
    assert found.kind == "refused"
    assert found.problems == ("reading takes longer than 0.1 seconds (server.reload_timeout_secs); nothing has changed",)


def test_a_reading_that_is_cancelled_leaves_nothing():
    before = sorted(os.listdir("/proc/self/fd"))
    reading = Reading(lambda: time.sleep(600), 60)
    reading.cancel()
    assert sorted(os.listdir("/proc/self/fd")) == before
    is_gone(reading)


def test_signals_for_the_master_do_not_end_it():
    def read() -> tuple[str, bytes]:
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGTTIN, signal.SIGTTOU):
            os.kill(os.getpid(), number)
        return "still here", b""

    assert outcome_of(read).snapshot == "still here"
