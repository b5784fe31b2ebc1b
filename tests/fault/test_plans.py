"""Answers by plans, over HTTP: to peers that do not take them, that send more than one thing at a time, and to each of whom a line is due."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import Server, wait_until

from .oci import Answer, Client, digest_of, noise

IMAGE = "/v2/hot/app/manifests/v1"
ASKED = 100
ONE_WORKER = {"NORA_WORKERS": "1", "NORA_ACCESS_LOG": "true", "NORA_LOG_FORMAT": "json", "NORA_METRICS_ENABLED": "true"}


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with Server(folder, ONE_WORKER) as server:
        with Client(server.port) as client:
            client.push_image("hot/app", "v1", noise(3000, "layer"))
        yield server
        assert server.log_faults() == []


def repeated(server: Server) -> int:
    """For a scrape now and then: many in a row are given figures of a second ago."""
    with Client(server.port) as client:
        return int(float(re.findall(rb"^nora_http_repeated_total (\S+)", client.ask("GET", "/metrics").body, re.MULTILINE)[0]))


def lines(server: Server) -> list[dict[str, object]]:
    return [json.loads(line) for line in server.log_text().splitlines() if '"message": "request"' in line]


def answers_in(data: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each response in what came over one connection; the last one may be cut off, and is left out."""
    found: list[tuple[int, bytes]] = []
    start = 0
    while (end := data.find(b"\r\n\r\n", start) + 4) >= 4:
        size = int(re.findall(rb"(?i)content-length: (\d+)", data[start:end])[0])
        if len(data) < end + size:
            break
        found.append((int(data[start + 9 : start + 12]), data[end : end + size]))
        start = end + size
    return found


def head_of(path: str, *fields: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: registry", *fields, "", "")).encode()


def test_every_answer_leaves_its_line(server: Server) -> None:
    with Client(server.port) as client:
        answers = [client.ask("GET", IMAGE, headers={"X-Request-Id": f"mine-{number}"}) for number in range(500)]
        others = [client.ask("GET", IMAGE) for _ in range(500)]
    assert {answer.status for answer in (*answers, *others)} == {200}
    assert [answer.headers["X-Request-Id"] for answer in answers] == [f"mine-{number}" for number in range(500)]
    assert len({answer.headers["X-Request-Id"] for answer in others}) == 500
    assert repeated(server) >= 990

    def lines_of_image() -> list[dict[str, object]]:
        return [line for line in lines(server) if line["path"] == IMAGE and line["method"] == "GET"]

    wait_until(lambda: len(lines_of_image()) >= len(answers) + len(others), 20, "a line for each")
    told = lines_of_image()
    assert sorted(str(line["request_id"]) for line in told) == sorted(answer.headers["X-Request-Id"] for answer in (*answers, *others))
    plain = [{name: value for name, value in line.items() if name not in ("time", "ms", "request_id")} for line in told]
    assert all(line == plain[0] for line in plain)


def test_a_server_that_is_told_to_stop_has_written_the_lines_of_all_it_answered(folder: Path) -> None:
    server = Server(folder, {**ONE_WORKER, "NORA_WORKERS": "2"}).start()
    with Client(server.port) as client:
        client.push_image("hot/app", "v1", noise(3000, "layer"))
    answered: list[str] = []

    def ask(number: int) -> None:
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            for turn in range(1_000_000):
                id = f"c{number}-{turn}"
                try:
                    sock.sendall(head_of(IMAGE, f"X-Request-Id: {id}"))
                    data = b""
                    while not answers_in(data):
                        piece = sock.recv(65536)
                        if not piece:
                            return
                        data += piece
                except OSError:
                    return
                answered.append(id)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(answered) > 500, 60, "answers")
    server.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    server.process.wait(30)
    told = {str(line["request_id"]) for line in lines(server)}
    server.stop()
    assert set(answered) <= told


def test_a_peer_that_does_not_read_gets_all_of_it_later(server: Server) -> None:
    """Others are answered meanwhile."""
    with Client(server.port) as client:
        data = noise(60_000, "blob")
        path = f"/v2/hot/app/blobs/{client.push_blob('hot/app', data)}"
        for _ in range(3):
            assert client.ask("GET", path, headers={"Host": "registry"}).body == data
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(("127.0.0.1", server.port))
    with slow, Client(server.port) as client:
        for asked in range(1, ASKED + 1):  # the server takes up one after the other
            slow.sendall(head_of(path))
            if asked % 10 == 0:
                assert client.ask("GET", IMAGE).status == 200
            time.sleep(0.002)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        with slow.makefile("rb") as received:
            for _ in range(ASKED):
                head = b"".join(iter(received.readline, b"\r\n"))
                assert head.startswith(b"HTTP/1.1 200 "), head
                assert received.read(len(data)) == data
    wait_until(lambda: sum(line["path"] == path and line["bytes"] == len(data) for line in lines(server)) >= ASKED + 3, 10, "a line for each")
    assert not any("cut" in line for line in lines(server))


def test_a_peer_that_goes_away_in_the_middle_is_told_of(server: Server) -> None:
    with Client(server.port) as client:
        data = noise(65_000, "blob")
        path = f"/v2/hot/app/blobs/{client.push_blob('hot/app', data)}"

    def leave() -> bool:
        """Does a line of the log say so?"""
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.connect(("127.0.0.1", server.port))
            for _ in range(60):  # one at a time, so that plans answer; together they are more than the kernel holds
                sock.sendall(head_of(path))
                time.sleep(0.002)
        return any("cut" in line for line in lines(server))

    wait_until(leave, 60, "a line that says so")
    with Client(server.port) as client:
        assert client.ask("GET", path).body == data
        wait_until(lambda: b"nora_http_requests_in_flight 1.0" in client.ask("GET", "/metrics").body, 20, "nothing to be in flight but this")


def test_heads_in_a_row_are_answered_in_a_row(server: Server) -> None:
    with Client(server.port) as client:
        digest = client.ask("HEAD", IMAGE).headers["Docker-Content-Digest"]
        for _ in range(3):
            client.ask("GET", IMAGE)
    hot, cold = head_of(IMAGE), head_of("/v2/hot/app/tags/list")
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        for pattern in ([hot], [hot], [hot], [hot, cold, hot], [cold, hot], [hot] * 50, [hot, hot[:20]], [hot[20:]]):
            sock.sendall(b"".join(pattern))
            time.sleep(0.05)
        expected, received = 3 + 3 + 2 + 50 + 1 + 1, b""
        while len(answers_in(received)) < expected:
            received += sock.recv(65536)
    found = answers_in(received)
    assert {status for status, _ in found} == {200}
    kinds = ["hot" if digest_of(body) == digest else "cold" for _, body in found]
    assert kinds == ["hot"] * 3 + ["hot", "cold", "hot"] + ["cold", "hot"] + ["hot"] * 50 + ["hot"] * 2


def test_a_head_in_two_pieces_leaves_nothing_behind(server: Server) -> None:
    """What was looked through of one head says nothing of the next, which may be shorter."""
    long, short = head_of(IMAGE, "X-Long: " + "x" * 1000), head_of("/v2/")
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        for pieces in ((long,), (long,), (long,), (long[:900], long[900:]), (short,), (long[:-2], long[-2:]), (short[:5], short[5:]), (short,)):
            for piece in pieces:
                sock.sendall(piece)
                time.sleep(0.02)
            received = b""
            while not answers_in(received):
                received += sock.recv(65536)
            assert answers_in(received)[0][0] == 200


def test_a_read_that_brings_a_body_is_never_taken_for_one_that_does_not(server: Server) -> None:
    plain, with_none, with_five = (head_of(IMAGE, *fields) for fields in ((), ("Content-Length: 0",), ("Content-Length: 5",)))
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        received = b""
        for sent, head in enumerate((plain, plain, plain, with_none, with_none, with_none, with_five, with_five, with_five, plain), 1):
            sock.sendall(head)
            if head is with_five:
                time.sleep(0.02)
                sock.sendall(b"GET /")
            while len(answers_in(received)) < sent:
                received += sock.recv(65536)
    assert {status for status, _ in answers_in(received)} == {200}


@pytest.mark.parametrize("fields", [("Connection: close",), ("X-Request-Id: a", "X-Request-Id: b"), ("Range: bytes=0-9",), ("If-None-Match: *",)])
def test_the_same_again_is_the_same(server: Server, fields: tuple[str, ...]) -> None:
    def once() -> bytes:
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(head_of(IMAGE, *fields))
            data = sock.recv(65536)
            return re.sub(rb"(Date|X-Request-Id): [^,\r]*\r\n", b"", data)

    assert len({once() for _ in range(5)}) == 1


def test_none_are_kept_where_there_is_no_memory_for_them(folder: Path) -> None:
    with Server(folder, {**ONE_WORKER, "NORA_PLAN_MEMORY_MB": "0"}) as server, Client(server.port) as client:
        client.push_image("hot/app", "v1", noise(3000, "layer"))
        assert {client.ask("GET", IMAGE).status for _ in range(10)} == {200}
        assert repeated(server) == 0


def test_new_rules_are_in_force_while_nothing_but_hot_answers_is_given(folder: Path) -> None:
    rules = folder / "rules.toml"
    rules.write_text('[[block]]\nformat = "docker"\nname = "other"\n')
    environment = {**ONE_WORKER, "NORA_WORKERS": "2", "NORA_CURATION_MODE": "enforce", "NORA_CURATION_RULES_PATH": str(rules)}
    with Server(folder / "server", environment) as server, Client(server.port) as client:
        client.push_image("hot/app", "v1", noise(3000, "layer"))
        assert {client.ask("GET", IMAGE).status for _ in range(10)} == {200}
        rules.write_text('[[block]]\nformat = "docker"\nname = "hot/app"\n')
        server.process.send_signal(signal.SIGHUP)
        asked = time.monotonic()
        refused: list[Answer] = []
        while not refused and time.monotonic() - asked < 20:
            answer = client.ask("GET", IMAGE)
            refused += [answer] if answer.status == 403 else []
        assert refused
        wait_until(lambda: {client.ask("GET", IMAGE).status for _ in range(50)} == {403}, 10, "all workers to refuse")
