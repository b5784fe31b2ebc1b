"""Repositories come, change and go by SIGHUP under load: no request is lost, the last of 200 is like the first, a bad table changes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.server import Server, wait_until

from .oci import GONE, Client, noise

MANY = 200
READERS = 4
PAUSE = 0.01
"""Seconds after two reads, so that what else a test does has its turn on a small machine."""
TOLD, REFUSED = "SIGHUP: telling", "policy reload failed"
LOADED = 60.0
"""Seconds for what takes one on a machine with nothing else to do."""
READ = "/v2/app/one/manifests/v1"
BASE = '[metrics]\nenabled = true\n[[repositories]]\nname = "first"\nformat = "docker"\n'
COLLISION = '[[repositories]]\nname = "first"\nformat = "raw"\n'


def table(number: int, **own: str) -> str:
    """Every fourth holds files."""
    lines = "".join(f"{key} = {value}\n" for key, value in own.items())
    return f'[[repositories]]\nname = "r{number}"\nformat = "{"raw" if is_raw(number) else "docker"}"\n{lines}'


def is_raw(number: int) -> bool:
    return number % 4 == 0


def address(number: int) -> str:
    return f"/repository/r{number}/x" if is_raw(number) else f"/v2/r{number}/x/manifests/v1"


class Named(Server):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, {"NORA_ACCESS_LOG": "false"}, BASE)

    def write(self, text: str) -> None:
        self._config_text = text  # environment() writes it as well
        config = self.folder / "config.toml"
        fresh = config.with_suffix(".new")
        fresh.write_text(text)
        os.replace(fresh, config)

    def reload(self, text: str) -> None:
        """By one SIGHUP, and until each worker has it."""
        self.write(text)
        sent = self.log_text().count(TOLD)
        command = [sys.executable, "-m", "noraflask", "reload"]
        done = subprocess.run(command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert self.log_text().count(TOLD) == sent + 1

    def refuse(self, text: str) -> None:
        """SIGHUP, until the master has said that the file is bad."""
        self.write(text)
        before = self.log_text().count(REFUSED)
        os.kill(self.pid, signal.SIGHUP)
        wait_until(lambda: self.log_text().count(REFUSED) > before, LOADED, "the master to refuse the file")

    def names(self, client: Client) -> list[str]:
        return [one["name"] for one in client.ask("GET", "/api/v1/repositories").json()["repositories"]]


@pytest.fixture
def server(folder: Path) -> Iterator[Named]:
    with Named(folder / "server") as server:
        wait_until(lambda: len(server.worker_pids()) == 2, LOADED, "both workers to run")
        with Client(server.port) as client:
            client.push_image("app/one", "v1", noise(100, "one"))
            client.push_image("first/app", "v1", noise(100, "first"))
        yield server
        assert server.log_faults() == []


class Readers:
    """Clients that read until the end; each answer, and each request that had none, is counted."""

    def __init__(self, port: int) -> None:
        self.statuses: Counter[object] = Counter()
        self._port, self._stop = port, threading.Event()
        self._threads = [threading.Thread(target=self._read) for _ in range(READERS)]

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _read(self) -> None:
        own: Counter[object] = Counter()
        with Client(self._port) as client:
            while not self._stop.is_set():
                for path in (READ, "/v2/first/app/manifests/v1"):
                    try:
                        own[client.ask("GET", path).status] += 1
                    except GONE as problem:
                        own[repr(problem)] += 1
                time.sleep(PAUSE)
        self.statuses += own


def ask_all(server: Server, expected: int) -> None:
    with Client(server.port) as client:
        answers = {number: client.ask("GET", address(number)).status for number in range(MANY)}
    assert set(answers.values()) == {expected}, answers


def requests_of(server: Server) -> dict[str, float]:
    """By the label."""
    with Client(server.port) as client:
        families = text_string_to_metric_families(client.ask("GET", "/metrics").body.decode())
    found: Counter[str] = Counter()
    for family in families:
        for sample in family.samples:
            if sample.name == "nora_http_requests_total":
                found[sample.labels["registry"]] += sample.value  # type: ignore[assignment]
    return dict(found)


def push_all(server: Server) -> None:
    data = noise(100, "many")
    with Client(server.port) as client:
        for number in range(MANY):
            if is_raw(number):
                assert client.ask("PUT", address(number), data).status == 200
            else:
                client.push_image(f"r{number}/x", "v1", data)


def test_many_come_change_and_go_under_load(server: Named) -> None:
    many = "".join(map(table, range(MANY)))
    with Readers(server.port) as readers, Client(server.port) as client:
        time.sleep(0.2)
        server.reload(BASE + many)
        assert len(server.names(client)) == 3 + MANY
        push_all(server)
        ask_all(server, 200)
        counted = requests_of(server)
        assert {counted.get(f"r{number}", 0) > 0 for number in range(MANY)} == {True}
        changed = "".join(table(number, **({"max_file_size": "4"} if is_raw(number) else {})) for number in range(MANY))
        server.reload(BASE + changed)
        assert {client.ask("PUT", f"{address(number)}{time.monotonic_ns()}", b"12345").status for number in (0, MANY - 4) for _ in range(8)} == {413}
        ask_all(server, 200)
        server.reload(BASE)
        assert server.names(client) == ["docker", "raw", "first"]
        ask_all(server, 404)
        server.reload(BASE + many)
        ask_all(server, 200)
    assert set(readers.statuses) == {200}, readers.statuses
    assert readers.statuses[200] > 100


@pytest.mark.parametrize(
    "bad", [COLLISION, '[[repositories]]\nname = "v2"\nformat = "docker"\n', '[[repositories]]\nname = "x"\nformat = "npm"\n', "[["]
)
def test_a_bad_table_changes_nothing_anywhere(server: Named, bad: str) -> None:
    server.reload(BASE + table(1))
    with Readers(server.port) as readers, Client(server.port) as client:
        client.push_image("r1/x", "v1", noise(100, "r1"))
        server.refuse(BASE + table(2) + bad)
        for _ in range(16):
            with Client(server.port) as other:
                assert server.names(other) == ["docker", "raw", "first", "r1"]
                assert other.ask("GET", address(1)).status == 200
                assert other.ask("GET", "/repository/r2/v2/x/tags/list").status == 404
    assert set(readers.statuses) == {200}, readers.statuses
