"""Counting over workers that come and go: nothing is lost, nothing is left."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.server import Server, wait_until

from .conftest import Mounts, all_workers
from .test_reload import UnderGunicorn

WORKERS = 4
QUIET = {"NORA_WORKERS": str(WORKERS), "NORA_ACCESS_LOG": "false", "NORA_RATE_LIMIT_ENABLED": "false"}
PINGS = 'nora_http_requests_total{method="GET",registry="docker",status="200"}'


@pytest.fixture
def shared(folder: Path) -> Path:
    """Where the files lie: prometheus_client's own variable names it."""
    path = folder / "metrics"
    path.mkdir()
    return path


class PlainGunicorn(Server):
    launch = UnderGunicorn.launch


@pytest.fixture(params=[Server, PlainGunicorn], ids=["nora", "gunicorn"])
def server(request: pytest.FixtureRequest, folder: Path, shared: Path) -> Iterator[Server]:
    found = request.param(folder / "server", {**QUIET, "PROMETHEUS_MULTIPROC_DIR": str(shared)})
    with found:
        all_workers(found, WORKERS)
        yield found


def scrape(server: Server) -> dict[str, float]:
    """Samples by name and labels, as they stand in the text."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        text = answer.read().decode()
    assert answer.status == 200, text
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def ping(server: Server, times: int) -> int:
    """Each on a connection of its own, so that all workers have their share. How many were answered."""
    answered = 0
    for _ in range(times):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", "/v2/")
            answer = connection.getresponse()
            answer.read()
            answered += answer.status == 200
    return answered


def files(shared: Path) -> list[str]:
    return sorted(path.name for path in shared.rglob("cells-*"))


def taken_bytes(shared: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in shared.rglob("*") if path.is_file())


def test_every_worker_answers_for_all(server: Server) -> None:
    assert ping(server, 200) == 200
    totals = {scrape(server)[PINGS] for _ in range(12)}
    assert totals == {200.0}
    wait_until(lambda: scrape(server)["nora_workers"] == WORKERS, 10, "all workers to be told of")
    found = scrape(server)
    assert found["nora_workers"] == found["nora_workers_wanted"] == WORKERS
    assert found["nora_connections"] >= 1
    assert found["nora_http_requests_in_flight"] == 1, "the scrape itself"


def recycle(server: Server, number: int, count: int, workers: int) -> None:
    """End some workers at once, and wait for those in their places."""
    ended = server.worker_pids()[:count]
    for worker in ended:
        os.kill(worker, number)
    wait_until(lambda: not set(ended) & set(server.worker_pids()) and len(server.worker_pids()) == workers, 30, "workers in their places")


def check_recycled(server: Server, shared: Path, rounds: int, at_once: int, every: int, signals: tuple[int, ...], workers: int = WORKERS) -> None:
    ping(server, 40)
    expected = scrape(server)[PINGS]
    before, space = files(shared), taken_bytes(shared)
    for turn in range(rounds):
        recycle(server, signals[turn % len(signals)], at_once, workers)
        if turn % every == 0:
            expected += ping(server, 8)
    wait_until(lambda: scrape(server)["nora_workers"] == workers, 30, "all workers to have begun")
    found = scrape(server)
    assert found[PINGS] == expected
    assert found["nora_worker_exits_total"] == rounds * at_once
    assert found["nora_http_requests_in_flight"] == 1
    assert files(shared) == before
    assert taken_bytes(shared) <= space + 256 * 1024
    assert server.log_faults() == []


def test_workers_that_are_killed_or_stopped_take_no_count_with_them(server: Server, shared: Path) -> None:
    check_recycled(server, shared, rounds=8, at_once=2, every=1, signals=(signal.SIGKILL, signal.SIGTERM))


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [4, pytest.param(50, marks=pytest.mark.soak)])
def test_recycles_of_a_crowd(rounds: int, folder: Path, shared: Path) -> None:
    """Many at once: gunicorn lets a moment pass between two starts."""
    crowd = 20
    with Server(folder / "server", {**QUIET, "NORA_WORKERS": str(crowd), "PROMETHEUS_MULTIPROC_DIR": str(shared)}) as server:
        all_workers(server, crowd)
        signals = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)
        check_recycled(server, shared, rounds=rounds, at_once=crowd, every=2, signals=signals, workers=crowd)


def test_a_worker_that_dies_in_the_middle_of_a_request_leaves_none_in_flight(server: Server) -> None:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as upload:
        upload.putrequest("POST", f"/v2/a/b/blobs/uploads/?digest=sha256:{'0' * 64}")
        upload.putheader("Content-Length", "1000000")
        upload.endheaders()
        upload.send(b"x" * 1000)
        wait_until(lambda: scrape(server)["nora_http_requests_in_flight"] == 2, 10, "the upload to be seen")
        for worker in server.worker_pids():
            os.kill(worker, signal.SIGKILL)
        all_workers(server, WORKERS)
        wait_until(lambda: scrape(server)["nora_http_requests_in_flight"] == 1, 30, "nothing but the scrape to be in flight")


def test_the_files_go_with_the_server_and_those_of_a_killed_one_with_the_next(server: Server, shared: Path) -> None:
    server.kill()
    assert len(list(shared.iterdir())) == 1
    server.start()
    all_workers(server, WORKERS)
    assert len(list(shared.iterdir())) == 1
    server.stop()
    assert list(shared.iterdir()) == []


def test_a_reload_is_counted_and_every_worker_has_its_policy(server: Server) -> None:
    before = scrape(server)
    os.kill(server.pid, signal.SIGHUP)
    wait_until(lambda: scrape(server)['nora_reloads_total{result="ok"}'] == before['nora_reloads_total{result="ok"}'] + 1, 10, "the reload")
    wait_until(lambda: scrape(server)["nora_policy_workers_behind"] == 0, 10, "all workers to have the policy")
    assert scrape(server)["nora_reload_last_success_timestamp_seconds"] > time.time() - 60


def test_an_upload_and_its_bytes(server: Server) -> None:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as upload:
        size = 40 * 1024 * 1024
        upload.request("POST", "/v2/a/b/blobs/uploads/")
        answer = upload.getresponse()
        answer.read()
        location = answer.getheader("Location") or ""
        upload.request("PATCH", location, body=iter([b"x" * 1024 * 1024] * 40), headers={"Transfer-Encoding": "chunked"}, encode_chunked=True)
        assert upload.getresponse().status == 202
        name = 'nora_http_request_bytes_total{registry="docker"}'
        wait_until(lambda: scrape(server)[name] == size, 10, "the bytes to be counted, which is done after the answer")
        found = scrape(server)
        assert found["nora_staging_spills_total"] == 1
        assert found["nora_upload_sessions"] == 1


def test_the_inventory_counts_what_is_there(folder: Path, shared: Path) -> None:
    from .oci import Client, noise

    with Server(folder / "server", {**QUIET, "PROMETHEUS_MULTIPROC_DIR": str(shared)}) as server:
        with Client(server.port) as client:
            client.push_blob("a/b", noise(70_000, "stock"))
        server.restart()
        wait_until(lambda: scrape(server)["nora_storage_objects"] == 1, 20, "the inventory")
        found = scrape(server)
        assert found['nora_storage_bytes{registry="total"}'] == 70_000
        assert found["nora_inventory_timestamp_seconds"] > time.time() - 60


def test_a_full_tmpfs_ends_the_counting_and_no_worker(folder: Path, mount: Mounts) -> None:
    """New series want new pages there, and so does a worker in the place of another one."""
    small = mount("small", "-t", "tmpfs", "-o", "size=2m", "tmpfs")
    with Server(folder / "server", {"NORA_ACCESS_LOG": "false", "PROMETHEUS_MULTIPROC_DIR": str(small)}) as server:
        workers = all_workers(server)
        with contextlib.suppress(OSError), (small / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(b"x" * 4096)
        for number in range(300):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            with contextlib.closing(connection):
                connection.request("GET", "/v2/" if number % 2 else "/nowhere", headers={"Range": "bytes=9-1", "Accept": "none/none"})
                assert connection.getresponse().status in (200, 404)
        assert server.worker_pids() == workers
        os.kill(workers[0], signal.SIGKILL)
        all_workers(server)
        assert ping(server, 20) == 20
        wait_until(lambda: scrape(server)["nora_workers"] == 2, 10, "both workers to be told of")
        assert server.log_faults() == []


# A flood of scrapes.

FLOOD = b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n" * 1200


def test_pipelined_scrapes_hold_nobody_up_and_cost_little(folder: Path) -> None:
    """Rate limits off: what a scrape costs must not need them."""
    with Server(folder / "server", {"NORA_WORKERS": "1", "NORA_RATE_LIMIT_ENABLED": "false", "NORA_ACCESS_LOG": "false"}) as server:
        (worker,) = all_workers(server, 1)
        scrape(server)
        before = cpu_seconds(worker)
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as flood:
            sender = threading.Thread(target=flood.sendall, args=(FLOOD,))
            sender.start()
            answers, slowest = 0, 0.0
            tail = b""
            while answers < 1200:
                data = flood.recv(1 << 20)
                assert data, f"{answers} answers"
                answers += (tail + data).count(b"HTTP/1.1 200 OK\r\n") - tail.count(b"HTTP/1.1 200 OK\r\n")
                tail = data[-64:]
                if answers % 100 < 5:
                    began = time.monotonic()
                    assert status(server, "/health") == 200
                    slowest = max(slowest, time.monotonic() - began)
            sender.join()
        assert cpu_seconds(worker) - before < 1200 * 0.004, "each by itself takes three times as long"
        assert slowest < 5, "it took seven seconds"


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def status(server: Server, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status
