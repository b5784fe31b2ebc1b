"""The whole server under a service manager that only listens: what it hears, and when."""

from __future__ import annotations

import http.client
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import ROOT, Server


class UnderGunicorn(Server):
    def launch(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "gunicorn", "-c", "etc/gunicorn.conf.py", "wsgi:app"]
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=self.environment(), stdout=log, stderr=log, start_new_session=True)
        return self._process


class Manager:
    """Its socket; `wait_for("READY=1")` → that message, as a dictionary, and those before it are kept in `heard`."""

    def __init__(self, address: str) -> None:
        self.heard: list[dict[str, str]] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.senders: set[int] = set()

    def wait_for(self, first: str, seconds: float = 20) -> dict[str, str]:
        end = time.monotonic() + seconds
        while select.select([self.socket], [], [], max(0.0, end - time.monotonic()))[0]:
            data, ancillary, _, _ = self.socket.recvmsg(65536, 256)
            self.senders.add(int.from_bytes(ancillary[0][2][:4], sys.byteorder))
            message = dict(line.split("=", 1) for line in data.decode().split("\n"))
            self.heard.append(message)
            if data.decode().split("\n")[0] == first:
                return message
        raise AssertionError(f"after {seconds} s without {first}: {self.heard}")


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, folder: Path) -> str:
    return str(folder / "notify") if request.param == "path" else f"@nora-fault-{os.getpid()}"


@pytest.fixture
def manager(address: str) -> Iterator[Manager]:
    manager = Manager(address)
    yield manager
    manager.socket.close()


@pytest.fixture(params=[Server, UnderGunicorn], ids=["nora", "gunicorn"])
def server(request: pytest.FixtureRequest, folder: Path, address: str, manager: Manager) -> Iterator[Server]:
    # The interpreter may be a shell of pyenv that becomes the real one: the watchdog's PID is left out, as sd_watchdog_enabled(3) allows.
    env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}
    server = request.param(folder / "server", env, "[curation]\nmode = 'off'\n")
    server.launch()
    yield server
    server.kill()


def health(server: Server) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/health")
    try:
        return connection.getresponse().status
    finally:
        connection.close()


def test_the_life_of_a_server(server: Server, manager: Manager) -> None:
    ready = manager.wait_for("READY=1")
    assert [message for message in manager.heard if message != {"WATCHDOG": "1"}] == [ready], "no news comes before it"
    assert health(server) == 200, "ready is what serves"
    assert ready["STATUS"] == f"serving on http://127.0.0.1:{server.port} with 2 workers"

    for _ in range(2):
        manager.wait_for("WATCHDOG=1")

    server.process.send_signal(signal.SIGHUP)
    reloading = manager.wait_for("RELOADING=1")
    assert int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    assert manager.wait_for("READY=1")["STATUS"].endswith("with 2 workers; reloaded")

    (server.folder / "config.toml").write_text("[curation]\nmode = 'offf'\n")
    server.process.send_signal(signal.SIGHUP)
    manager.wait_for("RELOADING=1")
    status = manager.wait_for("READY=1")["STATUS"]
    assert "; the last reload was refused: " in status
    assert "config.toml:2: curation.mode" in status
    assert health(server) == 200

    server.process.send_signal(signal.SIGTERM)
    assert manager.wait_for("STOPPING=1")["STATUS"] == "running requests have 310 seconds to finish"
    assert server.process.wait(20) == 0
    assert manager.senders == {server.pid}, "the master alone speaks"
