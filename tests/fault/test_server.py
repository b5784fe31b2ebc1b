"""The server process itself, with real sockets: slow and hostile peers, signals, stopping, and what must never happen to a thread."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.server import ROOT, alive, children, free_port, wait_until, workers_of

MIB = 1024 * 1024
BIG = 64 * MIB
Start = Callable[..., "Bare"]


class Bare:
    """tests/fault/bare_server.py as a process of its own."""

    def __init__(self, folder: Path, command: list[str] | None = None, env: dict[str, str] | None = None, **server: Any) -> None:
        self.folder, self.port = folder, server.pop("port", None) or free_port()
        self.workers = server.setdefault("workers", 1)
        self.host = server.setdefault("host", "127.0.0.1")
        self.log = folder / f"log-{time.monotonic_ns()}"
        settings = json.dumps({**server, "port": self.port, "folder": str(folder)})
        command = command or [sys.executable, "-m", "tests.fault.bare_server", settings]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}, start_new_session=True
            )
        self.pid = self.process.pid
        self.sockets: list[socket.socket] = []  # all closed in the end

    def wait(self) -> Self:
        wait_until(lambda: self.process.poll() is not None or self.answers(), 10, "the server to answer")
        assert self.process.poll() is None, self.log.read_text()
        wait_until(lambda: len(self.worker_pids()) == self.workers, 10, "all workers to run")
        return self

    def answers(self) -> bool:
        try:
            return self.get("/health")[0] == 200
        except OSError:
            return False

    def worker_pids(self) -> list[int]:
        return sorted(workers_of(self.pid))

    def connect(self, timeout: float = 10) -> socket.socket:
        self.sockets.append(socket.create_connection((self.host, self.port), timeout))
        return self.sockets[-1]

    def send(self, data: bytes, timeout: float = 10) -> socket.socket:
        sock = self.connect(timeout)
        sock.sendall(data)
        return sock

    def get(self, path: str, timeout: float = 10, source: str = "") -> tuple[int, bytes]:
        own = (source, 0) if source else None
        with contextlib.closing(http.client.HTTPConnection(self.host, self.port, timeout=timeout, source_address=own)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()

    def signal_all(self, number: int) -> None:
        for pid in (self.pid, *self.worker_pids()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def end(self) -> None:
        for sock in self.sockets:
            sock.close()
        pids = [self.pid, *children(self.pid)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        wait_until(lambda: not any(map(alive, pids)), 10, "the server to be gone")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start(threads=2, …) → a running server; its files are big (64 MiB) and little."""
    servers: list[Bare] = []
    with (tmp_path / "big").open("wb") as big:
        big.truncate(BIG)
    (tmp_path / "little").write_bytes(b"0123456789")

    def begin(**server: Any) -> Bare:
        servers.append(Bare(tmp_path, **server))
        return servers[-1].wait()

    yield begin
    for server in servers:
        server.end()


def request(path: str, *fields: str, method: str = "GET", body: bytes = b"") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: x", *fields, "", "")).encode("latin-1") + body


def read_all(sock: socket.socket) -> bytes:
    """Until the server closes; a reset counts as the end."""
    pieces = []
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(MIB):
            pieces.append(data)
    return b"".join(pieces)


def read_head(sock: socket.socket) -> tuple[int, dict[str, str]]:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = sock.recv(1)
        assert data, f"the connection ended after {head!r}"
        head += data
    status, *fields = head.decode("latin-1").split("\r\n")[:-2]
    return int(status.split(" ")[1]), {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}


def read_exactly(sock: socket.socket, size: int) -> bytes:
    pieces, left = [], size
    while left:
        data = sock.recv(min(left, MIB))
        assert data, f"the connection ended {left} bytes early"
        pieces.append(data)
        left -= len(data)
    return b"".join(pieces)


def read_response(sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One response with Content-Length, and not a byte more."""
    status, headers = read_head(sock)
    return status, headers, read_exactly(sock, int(headers.get("content-length", 0)) if status >= 200 else 0)


def closed(sock: socket.socket) -> bool:
    """Has the server ended this connection, by FIN or reset, without another byte?"""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.fixture
def many() -> Iterator[Callable[[int, Callable[[], socket.socket]], list[socket.socket]]]:
    """many(300, server.connect) → that many sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(8192, hard)), hard))
    yield lambda count, make: [make() for _ in range(count)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Slow peers


def test_idle_half_sent_slow_and_stalled_peers_cost_others_nothing(start: Start, many: Any) -> None:
    server = start(workers=2, threads=2, transfer_threads=8)
    many(300, server.connect)
    many(300, lambda: server.send(b"GET /small HTTP/1.1\r\nHost: x\r\nX-Half: "))
    slow = many(64, lambda: server.send(request("/body", "Content-Length: 8", method="PUT", body=b"some")))
    stalled = many(200, lambda: server.send(request("/big")))
    for _ in range(20):
        assert server.get("/health", timeout=5) == (200, b"well")
        assert server.get("/small", timeout=5)[0] == 200
    status, headers = read_head(stalled[0])
    assert (status, len(read_exactly(stalled[0], int(headers["content-length"])))) == (200, BIG)  # stalled, not forgotten
    for sock in slow:
        sock.sendall(b"more")
    assert {read_response(sock)[2] for sock in slow} == {b"8"}


def test_ops_paths_answer_while_every_thread_is_busy(start: Start, many: Any, tmp_path: Path) -> None:
    server = start(threads=2, transfer_threads=2)
    waiting = many(10, lambda: server.send(request("/busy"))) + many(10, lambda: server.send(request("/busy", method="POST")))
    wait_until(lambda: len(list(tmp_path.glob("busy-*"))) == 3, 10, "two request threads and one transfer thread to be busy")
    for _ in range(5):
        assert server.get("/health", timeout=5) == (200, b"well")
    sock = server.send(request("/small"))
    sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        sock.recv(1)
    (tmp_path / "go").touch()
    assert [read_response(sock)[2] for sock in waiting] == [b"done"] * 20
    sock.settimeout(10)
    assert read_response(sock)[0] == 200


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_silent_body_is_cut(start: Start, tmp_path: Path, framing: str) -> None:
    server = start(idle_timeout=1)
    start_of_body = b"5\r\nabcde\r\n" if "chunked" in framing else b"abcde"
    status, headers, body = read_response(server.send(request("/body", framing, method="PUT", body=start_of_body)))
    assert (status, headers["connection"], body) == (408, "close", b"BodyTooSlow")


def test_a_silent_body_that_the_application_does_not_catch_is_a_408(start: Start) -> None:
    server = start(idle_timeout=1)
    assert read_response(server.send(request("/raw-body", "Content-Length: 10", method="PUT")))[0] == 408
    assert "Traceback" not in server.log.read_text()


def test_a_dripping_body_is_cut_by_its_average_rate(start: Start) -> None:
    server = start(idle_timeout=1, min_transfer_rate=1000)
    sock = server.send(request("/body", "Content-Length: 100000", method="PUT"))
    began = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while time.monotonic() - began < 10 and not readable(sock, 0.1):
            sock.sendall(b"x")
    assert read_response(sock)[::2] == (408, b"BodyTooSlow")


def readable(sock: socket.socket, seconds: float) -> bool:
    sock.settimeout(seconds)
    try:
        sock.recv(1, socket.MSG_PEEK)
        return True
    except TimeoutError:
        return False
    finally:
        sock.settimeout(10)


def test_a_slow_but_steady_body_is_taken(start: Start) -> None:
    server = start(idle_timeout=1, min_transfer_rate=10)
    sock = server.send(request("/body", "Content-Length: 300", method="PUT"))
    for _ in range(15):
        assert not readable(sock, 0.2)
        sock.sendall(b"x" * 20)
    assert read_response(sock)[::2] == (200, b"300")


@pytest.mark.parametrize("path", ["/big", "/endless"])
def test_a_reader_that_takes_nothing_is_cut(start: Start, path: str) -> None:
    server = start(idle_timeout=1)
    sock = server.send(request(path))
    wait_until(lambda: server.get("/closes")[1] != b"[]", 10, "the response to be given up")
    assert json.loads(server.get("/closes")[1]) == [f"{path} the client took the response too slowly"]
    assert len(read_all(sock)) < BIG


def test_answers_that_nobody_takes_are_not_kept_in_memory(start: Start, many: Any) -> None:
    """Each of these holds a MiB; whoever goes on taking what it asked for stays."""
    server = start(threads=4)
    steady, taken = server.send(request("/steady")), threading.Event()

    def take() -> None:
        while not taken.is_set() and steady.recv(4 * MIB):
            pass

    reader = threading.Thread(target=take)
    reader.start()
    many(60, lambda: server.send(request("/endless")))
    wait_until(lambda: len(json.loads(server.get("/closes")[1])) >= 60 - 16, 30, "readers to make room")
    assert set(json.loads(server.get("/closes")[1])) == {"/endless the server needed the connection for other clients"}
    assert server.get("/small")[0] == 200
    taken.set()
    reader.join()


def test_a_reader_below_the_least_rate_is_cut(start: Start) -> None:
    server = start(idle_timeout=1, min_transfer_rate=1 << 40)
    sock = server.send(request("/big"))
    began = time.monotonic()
    with contextlib.suppress(ConnectionResetError):
        while sock.recv(32 * 1024) and time.monotonic() - began < 10:
            time.sleep(0.01)  # the pace of a reader, not a wait for a condition
    assert "took the response too slowly" in server.get("/closes")[1].decode()


def test_a_slow_but_steady_reader_gets_it_all(start: Start) -> None:
    server = start(idle_timeout=1)
    sock = server.send(request("/big"))
    status, headers = read_head(sock)
    received, began = 0, time.monotonic()
    while time.monotonic() - began < 4:
        received += len(sock.recv(64 * 1024))
        time.sleep(0.05)  # as above
    assert received + len(read_exactly(sock, BIG - received)) == int(headers["content-length"]) == BIG
    assert status == 200


def test_a_head_that_is_not_complete_in_time_is_a_408(start: Start) -> None:
    server = start(header_read_timeout=1)
    half, silent = server.send(b"GET /small HTTP/1.1\r\nX-A: "), server.connect()
    end = time.monotonic() + 8
    while not readable(half, 0.1):
        assert time.monotonic() < end, "more bytes win more time"
        half.sendall(b"a")
    assert read_response(half)[::2] == (408, b"408 Request Timeout\n")
    assert closed(half)
    assert closed(silent)


def test_an_idle_connection_is_closed_after_its_time(start: Start) -> None:
    server = start(keep_alive_timeout=1)
    sock = server.send(request("/small"))
    assert read_response(sock)[0] == 200
    assert closed(sock)


# Connections


def test_one_connection_serves_many_requests(start: Start) -> None:
    server = start()
    with contextlib.closing(server.connect()) as sock:
        for method, path, body in [
            ("GET", "/small", b""),
            ("PUT", "/body", b"abc"),
            ("GET", "/part", b""),
            ("HEAD", "/small", b""),
            ("GET", "/nothing", b""),
        ] * 3:
            sock.sendall(request(path, f"Content-Length: {len(body)}", method=method, body=body))
            status, headers = read_head(sock)
            assert "connection" not in headers
            length = 0 if method == "HEAD" else int(headers.get("content-length", 0))
            expected = {"/small": b"x" * length, "/body": b"3", "/part": b"345", "/nothing": b""}
            assert (status, read_exactly(sock, length)) == (204 if path == "/nothing" else 200, expected[path])


def test_pipelined_requests_are_answered_in_order(start: Start) -> None:
    server = start()
    chunked = request("/body", "Transfer-Encoding: chunked", method="PUT", body=b"4\r\nabcd\r\n0\r\n\r\n")
    sized = request("/body", "Content-Length: 5", method="PUT", body=b"12345")
    last = request("/health", "Connection: close")
    answers = [request("/part"), chunked, request("/part"), sized, sized, chunked, request("/part"), last]
    sock = server.send(b"".join(answers))
    assert [read_response(sock)[2] for _ in answers] == [b"345", b"4", b"345", b"5", b"5", b"4", b"345", b"well"]
    assert closed(sock)


def test_a_head_in_single_bytes(start: Start) -> None:
    server = start()
    sock = server.connect()
    for byte in request("/part", "X-A: b") * 2:
        sock.sendall(bytes([byte]))
    assert [read_response(sock)[2] for _ in range(2)] == [b"345", b"345"]


def test_http_1_0_and_the_connection_header(start: Start) -> None:
    server = start()
    assert read_all(server.send(b"GET /part HTTP/1.0\r\n\r\n")).endswith(b"Connection: close\r\n\r\n345")
    sock = server.send(b"GET /part HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert read_response(sock)[1]["connection"] == "keep-alive"
    sock.sendall(request("/part", "Connection: TE, close"))
    assert read_response(sock)[1]["connection"] == "close"
    assert closed(sock)
    head, body = read_all(server.send(b"GET /stream HTTP/1.0\r\n\r\n")).split(b"\r\n\r\n", 1)
    assert b"chunked" not in head
    assert body == b"".join(b"chunk %d\n" % number for number in range(1000))


def test_a_stream_without_length_is_chunked(start: Start) -> None:
    server = start()
    assert server.get("/stream")[1] == b"".join(b"chunk %d\n" % number for number in range(1000))
    assert server.get("/long-list")[1] == b"abcd"  # never more than announced


def test_100_continue_is_sent_when_the_body_is_read_and_not_before(start: Start) -> None:
    server = start()
    sock = server.send(request("/body", "Content-Length: 4", "Expect: 100-continue", method="PUT"))
    assert read_response(sock)[0] == 100
    sock.sendall(b"body")
    assert read_response(sock)[::2] == (200, b"4")
    sock.sendall(request("/early", "Content-Length: 4", "Expect: 100-continue", method="PUT"))
    status, headers, _ = read_response(sock)
    assert (status, headers["connection"]) == (401, "close")
    assert closed(sock)


def test_an_early_answer_reaches_a_client_that_is_still_sending(start: Start) -> None:
    server = start()
    for _ in range(5):
        sock = server.send(request("/early", f"Content-Length: {8 * MIB}", method="PUT", body=b"x" * 8 * MIB))
        assert read_response(sock)[0] == 401
        assert closed(sock)


def test_a_small_unread_body_does_not_cost_the_connection(start: Start) -> None:
    server = start()
    sock = server.send(request("/early", "Content-Length: 1000", method="PUT", body=b"x" * 500))
    assert "connection" not in read_response(sock)[1]
    sock.sendall(b"x" * 500 + request("/part"))
    assert read_response(sock)[2] == b"345"


def test_bodies_that_do_not_come_hold_no_thread(start: Start, many: Any) -> None:
    """Neither small ones, nor such as came fast at first."""
    server = start(transfer_threads=2, threads=2)
    many(20, lambda: server.send(request("/body", "Content-Length: 100", method="PUT")))
    many(20, lambda: server.send(request("/body", "Content-Length: 100000000", method="PUT", body=b"x" * 200_000)))
    many(20, lambda: server.send(request("/body", "Transfer-Encoding: chunked", method="PUT", body=b"ffffff\r\n" + b"x" * 200_000)))
    sock = server.send(request("/body", "Content-Length: 3000000", method="PUT", body=b"y" * 100_000), timeout=5)
    for _ in range(29):
        sock.sendall(b"y" * 100_000)
    assert read_response(sock)[2] == b"3000000"


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_requests_without_a_body_that_wait_hold_no_thread(start: Start, many: Any, tmp_path: Path, method: str) -> None:
    """Such as those for an upload that another request is at work on."""
    server = start(threads=2, transfer_threads=4)
    waiting = many(30, lambda: server.send(request("/later", "Content-Length: 0", method=method)))
    assert server.get("/small")[0] == 200
    assert read_response(server.send(request("/small", "Content-Length: 0", method=method)))[0] == 200
    (tmp_path / "go").touch()
    for sock in waiting:
        assert read_response(sock)[::2] == (200, b"NoneType")
        sock.sendall(request("/small"))
        assert read_response(sock)[0] == 200


def test_a_request_that_waits_and_has_to_make_room_ends_its_connection(start: Start, many: Any) -> None:
    server = start(max_connections=20, max_connections_per_client=5)
    oldest = server.send(request("/later"))
    time.sleep(0.5)  # it waits now; those that have only just come are not ended
    many(9, lambda: server.send(request("/later")))
    status, headers, body = read_response(oldest)
    assert (status, headers["connection"], body) == (503, "close", b"BodyAbandoned")
    assert closed(oldest)


def test_tls_on_the_plain_port_is_called_that_in_the_log(start: Start) -> None:
    server = start()
    sock = server.send(bytes.fromhex("1603010200010001fc0303") + bytes(100))
    assert read_response(sock)[0] == 400
    assert "this is TLS, and the port speaks plain HTTP" in server.log.read_text()


def test_a_body_that_ends_early(start: Start, tmp_path: Path) -> None:
    server = start()
    for body in (
        request("/body", "Content-Length: 9", method="PUT", body=b"1234"),
        request("/body", "Transfer-Encoding: chunked", method="PUT", body=b"4\r\nabcd\r\n"),
    ):
        sock = server.send(body)
        sock.shutdown(socket.SHUT_WR)
        assert read_response(sock)[::2] == (400, b"BodyCut")
        assert (tmp_path / "error").read_text().startswith("BodyCut 400")
        assert closed(sock)


def test_old_and_unfinished_connections_make_room_for_new_ones(start: Start, many: Any) -> None:
    server = start(max_connections=20, max_connections_per_client=20)
    idle = many(20, lambda: ask(server))
    many(5, lambda: ask(server))
    ended = [sock for sock in idle if readable(sock, 0.1)]
    assert len(ended) == 5
    assert all(map(closed, ended))
    assert not set(ended) & set(idle[10:])  # the longest idle first
    many(40, lambda: server.send(b"GET /small HT"))
    assert server.get("/small", timeout=10)[0] == 200


def ask(server: Bare) -> socket.socket:
    """A connection that has been used once."""
    sock = server.send(request("/small"))
    assert read_response(sock)[0] == 200
    return sock


def test_connections_are_spread_over_the_workers(start: Start, many: Any) -> None:
    """One that has more than the other leaves a connection to it for a moment; on a busy machine the other may not wake up in time."""
    server = start(workers=2)

    def spread() -> bool:
        pids = []
        for sock in (socks := many(40, server.connect)):
            sock.sendall(request("/pid"))
            pids.append(read_response(sock)[2])
        for sock in socks:
            sock.close()
        return len(set(pids)) == 2 and min(pids.count(pid) for pid in set(pids)) >= 10

    wait_until(spread, 30, "both workers to have their part")


def test_connections_beyond_the_bound_are_for_the_servers_health(start: Start, many: Any, tmp_path: Path) -> None:
    server = start(max_connections=10, max_connections_per_client=10, threads=10)
    busy = many(10, lambda: hold(server, tmp_path))
    status, headers, _ = read_response(server.send(request("/small")))
    assert (status, headers["retry-after"], headers["connection"]) == (503, "2", "close")
    assert server.get("/health", timeout=5)[0] == 200
    (tmp_path / "go").touch()
    assert {read_response(sock)[2] for sock in busy} == {b"done"}


def hold(server: Bare, folder: Path) -> socket.socket:
    """A request that holds its thread. Connections that have just ended may still count, and one is refused then."""
    before = len(list(folder.glob("busy-*")))

    def is_taken_up(sock: socket.socket) -> bool:
        wait_until(lambda: len(list(folder.glob("busy-*"))) > before or select.select([sock], [], [], 0)[0], 10, "an answer or none")
        return len(list(folder.glob("busy-*"))) > before

    return next(filter(is_taken_up, (server.send(request("/busy", "Connection: close")) for _ in range(20))))


def is_refused(server: Bare) -> bool:
    sock = server.send(request("/small"), timeout=0.5)
    try:
        return read_response(sock)[0] == 503
    except TimeoutError:
        return False
    finally:
        sock.close()


def test_one_client_has_a_share_of_the_connections(start: Start, many: Any, tmp_path: Path) -> None:
    server = start(max_connections=40, max_connections_per_client=10, threads=10)
    busy = many(10, lambda: hold(server, tmp_path))
    wait_until(lambda: is_refused(server), 10, "one too many to be refused")  # connections that have just ended may still count
    assert server.get("/health", timeout=5)[0] == 200
    assert server.get("/health", timeout=5, source="127.0.0.2")[0] == 200
    (tmp_path / "go").touch()
    assert {read_response(sock)[2] for sock in busy} == {b"done"}
    assert all(map(closed, busy))
    idle = many(10, lambda: ask(server))
    many(5, lambda: ask(server))
    assert len([sock for sock in idle if readable(sock, 0.1)]) == 5


def test_2000_connections_of_all_sorts_leak_no_descriptor(start: Start, tmp_path: Path) -> None:
    server = start(header_read_timeout=1, threads=4)
    kinds = [
        lambda: read_all(server.send(request("/small", "Connection: close"))),
        lambda: server.connect().close(),
        lambda: server.send(b"GET /x HTTP/1.1\r\nHo").close(),
        lambda: server.send(request("/body", "Content-Length: 100", method="PUT", body=b"x")).close(),
        lambda: server.send(request("/big")).close(),
        lambda: server.send(request("/stream")).close(),
        lambda: server.send(b"\x16\x03\x01").close(),
        lambda: read_all(server.send(request("/crash"))),
        lambda: read_all(server.send(request("/crash-late"))),
        lambda: read_all(server.send(request("/short"), timeout=20)),
    ]
    before = int(server.get("/descriptors")[1])
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: kinds[number % len(kinds) if number % 50 else -1](), (n for n in range(2000) if n % 10 != 9 or n % 50 == 49)))
    wait_until(lambda: int(server.get("/descriptors")[1]) <= before, 20, "descriptors to be given back")
    assert server.get("/small")[0] == 200


# What the application does wrong


def test_a_file_shorter_than_announced_ends_the_connection(start: Start) -> None:
    server = start()
    body = read_all(server.send(request("/short"))).split(b"\r\n\r\n", 1)[1]
    assert len(body) <= BIG
    assert server.get("/short-small")[0] == 500
    wanted = ["/short the response broke off", "/short-small sent"]
    wait_until(lambda: json.loads(server.get("/closes")[1]) == wanted, 10, "both answers to be closed")


def test_crashes_cost_one_request_and_one_log_line(start: Start) -> None:
    server = start(threads=2)
    for _ in range(5):
        assert [server.get(path)[0] for path in ("/crash", "/exits", "/split")] == [500, 500, 500]
        assert b"Set-Cookie" not in read_all(server.send(request("/split")))
        late = read_all(server.send(request("/crash-late")))
        assert late.endswith(b"\r\n\r\nfirst")
    assert server.get("/nested")[1] == b"RecursionError"
    assert json.loads(server.get("/closes")[1]) == ["/crash-late the response broke off"] * 5
    assert len(re.findall("a request failed: GET /crash traceback=", server.log.read_text(), re.MULTILINE)) == 5
    assert server.get("/small")[0] == 200


def test_answers_are_closed_once_each(start: Start) -> None:
    server = start()
    for path in ("/big", "/part", "/stream"):
        server.get(path)
    server.send(request("/endless")).close()
    wait_until(lambda: "endless" in server.get("/closes")[1].decode(), 10, "the broken response to be closed")
    closes = json.loads(server.get("/closes")[1])
    assert closes[:3] == ["/big sent", "/part sent", "/stream sent"]
    assert len(closes) == 4
    assert closes[3].startswith("/endless the client is gone")


# Hostile HTTP

MALFORMED = {
    "tls hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "h2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "no version": (b"GET /\r\n\r\n", 400),
    "http 3": (b"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 400),
    "lower-case method": (b"get / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "space in target": (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "control in target": (b"GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "non-ascii target": (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "bare lf": (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    "bare lf in headers": (b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
    "obsolete folding": (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400),
    "space before colon": (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
    "empty header name": (b"GET / HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n", 400),
    "no colon": (b"GET / HTTP/1.1\r\nHost: x\r\nabc\r\n\r\n", 400),
    "nul in value": (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n", 400),
    "cr in value": (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", 400),
    "two lengths": (request("/body", "Content-Length: 1", "Content-Length: 1", method="PUT", body=b"x"), 400),
    "length list": (request("/body", "Content-Length: 1, 1", method="PUT", body=b"x"), 400),
    "negative length": (request("/body", "Content-Length: -1", method="PUT"), 400),
    "signed length": (request("/body", "Content-Length: +1", method="PUT", body=b"x"), 400),
    "odd digit": (request("/body", "Content-Length: \xb2", method="PUT", body=b"xx"), 400),
    "length and chunked": (request("/body", "Content-Length: 4", "Transfer-Encoding: chunked", method="PUT", body=b"0\r\n\r\n"), 400),
    "chunked twice": (request("/body", "Transfer-Encoding: chunked, chunked", method="PUT", body=b"0\r\n\r\n"), 400),
    "chunked not last": (request("/body", "Transfer-Encoding: chunked, gzip", method="PUT", body=b"0\r\n\r\n"), 400),
    "unknown coding": (request("/body", "Transfer-Encoding: xchunked", method="PUT", body=b"0\r\n\r\n"), 400),
    "chunked in 1.0": (b"PUT /body HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunk size": (request("/body", "Transfer-Encoding: chunked", method="PUT", body=b"0x4\r\nabcd\r\n0\r\n\r\n"), 400),
    "chunk end": (request("/body", "Transfer-Encoding: chunked", method="PUT", body=b"4\r\nabcdef\r\n0\r\n\r\n"), 400),
    "chunk size line without end": (request("/body", "Transfer-Encoding: chunked", method="PUT", body=b"4" * 70_000), 400),
    "trailer": (request("/body", "Transfer-Encoding: chunked", method="PUT", body=b"0\r\nContent-Length: 5\r\n\r\n"), 400),
    "uncaught chunk size": (request("/raw-body", "Transfer-Encoding: chunked", method="PUT", body=b"zz\r\n"), 400),
    "expectation": (request("/body", "Content-Length: 1", "Expect: 200-ok", method="PUT", body=b"x"), 417),
    "long line": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "long line without end": (b"GET /" + b"a" * 9000, 414),
    "long header": (request("/small", "A: " + "a" * 33_000), 431),
    "headers without end": (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 70_000, 431),
    "many headers": (request("/small", *["A: b"] * 150), 431),
}
FINE = {
    "one empty line first": b"\r\n" + request("/part"),
    "long token": request("/part", "Authorization: Bearer " + "a" * 20_000),
    "long target": request("/part?" + "a" * 8000),
    "percent and absolute": b"GET http://other/%70art HTTP/1.1\r\nHost: x\r\n\r\n",
    "header bytes": request("/part", "A: \xe9\t\xff"),
}


def test_malformed_requests_are_refused_in_one_line_and_kill_nobody(start: Start) -> None:
    server = start(threads=2, transfer_threads=2)
    workers = server.worker_pids()
    for name, (data, status) in MALFORMED.items():
        sock = server.connect()
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
        answer = read_all(sock)
        assert answer.startswith(b"HTTP/1.1 %d " % status) or (answer.startswith(b"HTTP/1.0 %d " % status) and "1.0" in name), (name, answer)
        assert answer.split(b"\r\n\r\n", 1)[1].count(b"\n") <= 1, (name, answer)
    for name, data in FINE.items():
        assert read_response(server.send(data))[2] == b"345", name
    assert server.worker_pids() == workers
    assert "Traceback" not in server.log.read_text()


def test_what_the_environ_holds(start: Start) -> None:
    server = start()
    fields = ("X-A: 1", "x-a: 2", "X_A: 3", "Script-Name: /evil", "SCRIPT_NAME: /evil", "X-Forwarded-Proto: https", "Proxy: p")
    environ = json.loads(read_response(server.send(request("/environ?q=%20", *fields)))[2])
    assert environ["HTTP_X_A"] == "1,2"
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"], environ["QUERY_STRING"]) == ("", "/environ", "q=%20")
    assert (environ["wsgi.url_scheme"], environ["REMOTE_ADDR"], environ["SERVER_PORT"]) == ("http", "127.0.0.1", str(server.port))
    absolute = b"GET http://other:1/environ HTTP/1.1\r\nHost: x\r\n\r\n"
    assert json.loads(read_response(server.send(absolute))[2])["HTTP_HOST"] == "other:1"


# Signals, starting, stopping


class Load:
    """Clients that ask without a pause; every answer must be a 200."""

    def __init__(self, server: Bare, clients: int = 8) -> None:
        self.server, self.answers, self.failures = server, 0, []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=10)
        while not self._over.is_set():
            try:
                connection.request("GET", "/small")
                answer = connection.getresponse()
                assert (answer.status, len(answer.read())) == (200, 700)
                self.answers += 1
            except Exception as error:
                self.failures.append(repr(error))
                return
        connection.close()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize("to_all", [False, True])
def test_200_hups_under_load_lose_nothing(start: Start, to_all: bool) -> None:
    server = start(workers=2)
    workers = server.worker_pids()
    with Load(server) as load:
        for _ in range(200):
            server.signal_all(signal.SIGHUP) if to_all else os.kill(server.pid, signal.SIGHUP)
            seen = load.answers
            wait_until(lambda seen=seen: load.answers > seen or load.failures, 10, "the load to go on")
    assert load.failures == []
    assert load.answers > 200
    assert server.worker_pids() == workers
    wait_until(lambda: server.log.read_text().count("reloaded") >= 2, 10, "the workers to tell of it")


def test_hup_does_not_kill_a_worker_that_is_still_starting(tmp_path: Path) -> None:
    server = Bare(tmp_path, workers=2)
    try:
        wait_until(server.answers, 10, "the first answer")
        for _ in range(6):
            for victim in server.worker_pids()[:1]:
                os.kill(victim, signal.SIGKILL)
                wait_until(lambda victim=victim: not alive(victim), 10, "the worker to die")
            before = set(server.worker_pids())
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                server.signal_all(signal.SIGHUP)
            wait_until(lambda before=before: set(server.worker_pids()) - before or len(before) == 2, 10, "its successor")
        wait_until(lambda: len(server.worker_pids()) == 2, 10, "two workers")
        assert "SIGHUP!" not in server.log.read_text()
    finally:
        server.end()


def test_sigterm_lets_running_requests_finish_and_ends_idle_connections(start: Start) -> None:
    server = start(workers=2)
    upload = server.send(request("/body", "Content-Length: 8", method="PUT", body=b"some"))
    idle = [server.send(request("/small")) for _ in range(4)]
    assert {read_response(sock)[0] for sock in idle} == {200}
    server.signal_all(signal.SIGTERM)  # as systemd does
    assert all(closed(sock) for sock in idle)
    wait_until(lambda: refused(server), 10, "the port to be closed")
    assert server.process.poll() is None
    upload.sendall(b"more")
    status, headers, body = read_response(upload)
    assert (status, headers["connection"], body) == (200, "close", b"8")
    assert server.process.wait(10) == 0


def refused(server: Bare) -> bool:
    try:
        server.connect()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_that_outlast_the_grace_are_cut(start: Start, tmp_path: Path, number: int) -> None:
    server = start(shutdown_timeout=1)
    upload = server.send(request("/body", "Content-Length: 8", method="PUT", body=b"some"))
    stalled = server.send(request("/big"))
    assert read_head(stalled)[0] == 200
    os.kill(server.pid, number)
    assert server.process.wait(10) == 0
    assert b"200 OK" not in read_all(upload)
    assert (tmp_path / "error").read_text().startswith("BodyAbandoned")
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_second_signal_stops_at_once(start: Start, number: int) -> None:
    server = start(workers=2, shutdown_timeout=100)
    server.send(request("/body", "Content-Length: 8", method="PUT", body=b"some"))
    os.kill(server.pid, signal.SIGTERM)
    wait_until(lambda: refused(server), 10, "the port to be closed")
    end = time.monotonic() + 10
    while server.process.poll() is None and time.monotonic() < end:
        os.kill(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(1)
    assert server.process.returncode == 0


def test_no_request_is_lost_when_a_worker_is_stopped(start: Start) -> None:
    """TTIN and TTOU add and take a worker: what its connections had sent is still answered."""
    server = start(workers=1)
    with Load(server, clients=4) as load:
        os.kill(server.pid, signal.SIGTTIN)
        wait_until(lambda: len(server.worker_pids()) == 2, 10, "a second worker")
    assert load.failures == []
    os.kill(server.pid, signal.SIGTTOU)
    wait_until(lambda: len(server.worker_pids()) == 1, 10, "the first worker to leave")
    assert server.get("/small")[0] == 200


def test_workers_of_a_killed_master_leave_and_a_new_one_can_listen(start: Start) -> None:
    server = start(workers=2)
    workers = server.worker_pids()
    os.kill(server.pid, signal.SIGKILL)
    server.process.wait()
    successor = start(workers=2, port=server.port)
    wait_until(lambda: not any(map(alive, workers)), 10, "the orphans to leave")
    assert successor.get("/small")[0] == 200


def test_a_killed_worker_is_replaced(start: Start) -> None:
    server = start()
    (worker,) = server.worker_pids()
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: server.worker_pids() not in ([worker], []), 10, "another worker")
    assert server.get("/small")[0] == 200


@pytest.mark.parametrize(
    ("host", "port", "says"),
    [("127.0.0.1", 0, "Address already in use"), ("192.0.2.1", 4999, "Cannot assign"), ("no.such.host.invalid", 4999, "cannot listen on")],
)
def test_an_address_that_cannot_be_had_is_one_line_and_exit_code_1(tmp_path: Path, host: str, port: int, says: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = Bare(tmp_path, host=host, port=port or taken.getsockname()[1])
        assert server.process.wait(20) == 1
    text = server.log.read_text()
    assert says in text
    assert text.count("\n") == 1


def test_ipv6_any_takes_ipv4_too(start: Start) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    server = start(host="::")
    server.host = "127.0.0.1"
    assert json.loads(server.get("/environ")[1])["REMOTE_ADDR"] == "127.0.0.1"
    server.host = "::1"
    assert json.loads(server.get("/environ")[1])["REMOTE_ADDR"] == "::1"


def test_plain_gunicorn_behaves_the_same(tmp_path: Path) -> None:
    port = free_port()
    env = {
        "NORA_PORT": str(port),
        "NORA_STORAGE_PATH": str(tmp_path / "storage"),
        "NORA_STATE_PATH": str(tmp_path / "state"),
        "NORA_STAGING_PATH": str(tmp_path / "staging"),
    }
    server = Bare(tmp_path, [sys.executable, "-m", "gunicorn", "-c", "etc/gunicorn.conf.py", "wsgi:app"], env, port=port, workers=2)
    try:
        server.wait()
        workers = server.worker_pids()
        for _ in range(20):
            server.signal_all(signal.SIGHUP)
        wait_until(lambda: server.log.read_text().count("reloaded") >= 2, 10, "the workers to tell of it")
        assert server.worker_pids() == workers
        assert set(map(int, subprocess.check_output(["pidof", "nora"]).split())) >= {server.pid, *workers}
        server.signal_all(signal.SIGTERM)
        assert server.process.wait(10) == 0
    finally:
        server.end()


def test_the_processes_are_named_nora(start: Start) -> None:
    server = start(workers=2)
    wait_until(lambda: len(server.worker_pids()) == 2, 10, "both workers to run")
    pids = [server.pid, *server.worker_pids()]

    def seen() -> list[tuple[str, str]]:
        told = [(Path(f"/proc/{pid}/comm").read_text(), Path(f"/proc/{pid}/cmdline").read_bytes()) for pid in pids]
        return [(comm.strip(), line.rstrip(b"\0").decode()) for comm, line in told]

    wanted = [("nora", f"nora: {role} [127.0.0.1:{server.port}]") for role in ("master", "worker", "worker")]
    wait_until(lambda: seen() == wanted, 10, f"{wanted}, gunicorn's own names come first: {seen()}")
