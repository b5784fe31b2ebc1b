"""A reload that takes long: the master goes on with its duties, and one that takes too long changes nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import alive, children, wait_until

from .guarded import LOADED, WORKERS, Curated

RULES = 60_000


@pytest.fixture
def server(folder: Path) -> Iterator[Curated]:
    with Curated(folder / "server", "# none") as server:
        yield server.all_up()


def reader_of(server: Curated) -> int | None:
    """The child that reads."""
    for pid in children(server.pid):
        with contextlib.suppress(OSError):
            if b"nora: reload" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return None


def begin_to_read(server: Curated, number: int = RULES) -> int:
    """A reload that stands still in the midst of its files."""
    rules = [{"registry": "docker", "name": f"bad-{n}", "version": "*"} for n in range(number)]
    server.write(server.blocklist, json.dumps({"version": 1, "rules": rules}))
    server.hup()
    wait_until(lambda: reader_of(server), LOADED, "a child that reads")
    reader = reader_of(server)
    assert reader is not None
    os.kill(reader, signal.SIGSTOP)
    return reader


def workers_of(server: Curated) -> list[int]:
    return [pid for pid in server.worker_pids() if pid != reader_of(server)]


def test_the_master_goes_on_with_its_duties(server: Curated) -> None:
    reader = begin_to_read(server)
    first = workers_of(server)
    os.kill(first[0], signal.SIGKILL)
    wait_until(lambda: len(now := workers_of(server)) == WORKERS and first[0] not in now, LOADED, "a worker in its place")
    assert "telling" not in server.log_text()
    server.hup()  # it comes in the midst of that, and is carried out afterwards
    os.kill(reader, signal.SIGCONT)
    wait_until(lambda: server.log_text().count("SIGHUP: telling") == 2, LOADED, "both reloads")
    assert server.refusals() == []
    assert server.log_faults() == []


def test_one_that_takes_too_long_changes_nothing(folder: Path) -> None:
    with Curated(folder / "server", "# none", NORA_RELOAD_TIMEOUT_SECS="1") as server:
        server.all_up()
        reader = begin_to_read(server)
        wait_until(server.refusals, LOADED, "the reload to be refused")
        (line,) = server.refusals()
        assert json.loads(line)["level"] == "warning"
        assert "reading takes longer than 1 seconds (server.reload_timeout_secs); nothing has changed" in line
        assert not alive(reader)
        assert "telling" not in server.log_text()
        server.write(server.blocklist, '{"version": 1, "rules": []}')
        server.hup()
        wait_until(lambda: "SIGHUP: telling" in server.log_text(), LOADED, "the next reload")


def test_a_reader_goes_with_its_master(server: Curated) -> None:
    reader = begin_to_read(server)
    server.stop()
    assert not alive(reader)


def test_a_reader_goes_with_a_master_that_is_killed(server: Curated) -> None:
    reader = begin_to_read(server)
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not alive(reader), LOADED, "the reader to go")


def test_a_reader_that_is_killed_is_a_reload_that_broke(server: Curated) -> None:
    reader = begin_to_read(server)
    os.kill(reader, signal.SIGKILL)
    wait_until(server.refusals, LOADED, "the reload to end")
    assert "the process that read the configuration was ended" in server.refusals()[0]
    server.hup()
    wait_until(lambda: "SIGHUP: telling" in server.log_text(), LOADED, "the next reload")
