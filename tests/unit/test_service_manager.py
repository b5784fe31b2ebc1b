"""What is said to the service manager, over real datagram sockets."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from noraflask.serve.board import Board
from noraflask.serve.master import Arbiter
from noraflask.serve.service_manager import ServiceManager
from tests.clock import Clock


class Listener:
    """Hears what systemd would hear."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.socket.setblocking(False)

    def heard(self) -> list[list[str]]:
        found = []
        while True:
            try:
                found.append(self.socket.recv(65536).decode().split("\n"))
            except BlockingIOError:
                return found


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    listener = Listener(str(tmp_path / "notify") if request.param == "path" else f"@nora-test-{os.getpid()}")
    yield listener
    listener.socket.close()


def test_ready_with_a_status_of_one_line(listener):
    manager = ServiceManager(listener.address)
    assert manager.is_waiting
    manager.ready("serving\non  4000 \udcff")
    assert not manager.is_waiting
    assert listener.heard() == [["READY=1", "STATUS=serving on 4000 ?"]]


def test_a_reload_has_its_time(listener):
    before = time.monotonic_ns() // 1000
    ServiceManager(listener.address).reloading()
    ((kind, when, status),) = listener.heard()
    assert (kind, status) == ("RELOADING=1", "STATUS=reading the configuration")
    name, _, microseconds = when.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(microseconds) <= time.monotonic_ns() // 1000


def test_stopping_and_being_replaced(listener):
    manager = ServiceManager(listener.address)
    manager.stopping(310.0)
    manager.replaced_by(77)
    assert listener.heard() == [["STOPPING=1", "STATUS=running requests have 310 seconds to finish"], ["MAINPID=77"]]


def test_signs_of_life_come_twice_in_each_period(listener):
    clock = Clock(100.0)
    manager = ServiceManager(listener.address, watchdog_seconds=60, clock=clock)
    heard = []
    for clock.now in (100.0, 129.0, 130.0, 131.0, 159.9, 160.0):
        manager.beat()
        heard.append(listener.heard())
    assert heard == [[], [], [["WATCHDOG=1"]], [], [], [["WATCHDOG=1"]]]


def test_without_a_watchdog_there_are_none(listener):
    clock = Clock(100.0)
    manager = ServiceManager(listener.address, clock=clock)
    clock.now = 1e6
    manager.beat()
    assert listener.heard() == []


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 60),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "own"}, 60),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, 0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1", "GUNICORN_PID": "1"}, 60),
        ({"WATCHDOG_USEC": "soon"}, 0),
        ({"WATCHDOG_USEC": "-1"}, 0),
        ({}, 0),
    ],
)
def test_whom_the_watchdog_is_for(listener, variables, seconds):
    own = {name: value.replace("own", str(os.getpid())) for name, value in variables.items()}
    environ = {"NOTIFY_SOCKET": listener.address, "PATH": "/bin", **own}
    manager = ServiceManager.from_environment(environ)
    assert manager._beat_seconds == seconds / 2
    assert manager.is_waiting
    assert set(environ) - {"GUNICORN_PID"} == {"PATH"}, "children must not inherit the others"


def test_nobody_listens_who_was_not_named():
    manager = ServiceManager.from_environment({})
    assert not manager.is_waiting
    manager.ready("serving")
    manager.stopping(1)
    manager.beat()


@pytest.mark.parametrize("address", ["/nonexistent/notify", "@nora-nobody", "/" + 200 * "x", "/zero\0byte", "relative"])
def test_who_cannot_be_told_is_named_once(address, caplog):
    clock = Clock(0.0)
    manager = ServiceManager(address, watchdog_seconds=2, clock=clock)
    with caplog.at_level(logging.WARNING):
        manager.ready("serving")
        for clock.now in (10.0, 20.0, 30.0):
            manager.beat()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "NOTIFY_SOCKET" in caplog.text


def test_who_does_not_read_holds_nothing_up(listener, monkeypatch, caplog):
    monkeypatch.setattr("noraflask.serve.service_manager.SEND_SECONDS", 0.01)
    manager = ServiceManager(listener.address)
    for _ in range(2000):  # more than the kernel keeps for a socket
        manager.stopping(1)
        if caplog.records:
            break
    assert "timed out" in caplog.text


def test_ready_is_who_has_a_worker_that_takes_requests(listener):
    class Two(Arbiter):
        num_workers = 2

    arbiter, board = Two.__new__(Two), Board()
    arbiter.worker_class = SimpleNamespace(board=board)
    arbiter.LISTENERS = ["http://127.0.0.1:4000"]
    arbiter.service_manager = ServiceManager(listener.address)
    arbiter._tell_of_life()
    board.note(3, 0)  # forked
    arbiter._tell_of_life()
    board.serve(3)
    board.leave(3)  # and gone again
    arbiter._tell_of_life()
    assert listener.heard() == []
    board.serve(4)
    arbiter._tell_of_life()
    arbiter._tell_of_life()
    assert listener.heard() == [["READY=1", "STATUS=serving on http://127.0.0.1:4000 with 2 workers"]]
