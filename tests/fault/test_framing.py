"""A differential fuzzer: where requests begin and end, by gunicorn's parser, by ours, and by the running server. tests/framing.py makes streams."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.framing import FUZZED, Outcome, Seen, Stream, compared, stream
from tests.server import Server

COUNTS = [10_000, pytest.param(100_000, marks=pytest.mark.soak)]
CLIENTS = 4
BODY_IS_NOTHING = ("GET", "HEAD", "OPTIONS")
"""These are answered whatever becomes of their body, and the connection ends then."""
BLOB = re.compile(r"/v2/fuzz/app/blobs/uploads/\?digest=sha256:([0-9a-f]{64})")


@pytest.mark.slow
@pytest.mark.parametrize("requests", COUNTS)
def test_what_our_parser_takes_gunicorn_takes_the_same_way(requests: int) -> None:
    ends: dict[str, int] = {}
    for number in itertools.count():
        outcome = compared(stream(number))
        ends[outcome.end] = ends.get(outcome.end, 0) + 1
        requests -= tried(outcome)
        if requests <= 0:
            break
    assert all(ends.get(end, 0) > number / 200 for end in ("more", "refused", "cut", "closes")), ends


def tried(outcome: Outcome) -> int:
    return len(outcome.requests) + (outcome.end == "refused")


# ---- the running server


@dataclass(frozen=True)
class Answer:
    status: int
    identity: str
    closes: bool


def ask(port: int, made: Stream) -> bytes:
    """All that the server answers until it closes; the client has closed its side before."""
    answered = []
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # it may have refused already
            for piece in made.pieces():
                sock.sendall(piece)
                time.sleep(made.pause)
            sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while data := sock.recv(1 << 20):
                answered.append(data)
    return b"".join(answered)


def answers(data: bytes, asked: list[Seen]) -> Iterator[Answer]:
    """The final ones. Raises AssertionError for bytes that are no whole answer."""
    number = 0
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert (end, head[:7]) == (b"\r\n\r\n", b"HTTP/1."), head[:200]
        lines = head.decode("latin-1").split("\r\n")
        status, fields = int(lines[0][9:12]), {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
        if status < 200:
            continue
        bodiless = status in (204, 304) or (number < len(asked) and asked[number].method == "HEAD")
        if "transfer-encoding" in fields and not bodiless:
            data = data.partition(b"\r\n0\r\n\r\n")[2]
        else:
            size = 0 if bodiless else int(fields.get("content-length", len(data)))  # a proxy's refusals end with the connection
            assert len(data) >= size, head
            data = data[size:]
        number += 1
        yield Answer(status, fields.get("x-request-id", ""), fields.get("connection", "").lower() == "close")


def check(made: Stream, ours: Outcome, given: list[Answer]) -> None:
    """One answer for each request that we see in the stream, with its X-Request-Id, and none more."""
    for number, (seen, answer) in enumerate(zip(ours.requests, given, strict=False)):
        assert answer.identity == seen.identity or not FUZZED.fullmatch(seen.identity), f"answer {number} is for another request"
        blob = BLOB.fullmatch(seen.target)
        if blob and seen.method == "POST":
            right = seen.body is not None and hashlib.sha256(seen.body).hexdigest() == blob[1]
            assert answer.status == 201 if right else answer.status >= 400, f"answer {number}: another body"
        if seen.body is None:
            assert answer.status >= 400 or seen.method in BODY_IS_NOTHING, f"answer {number}: a request that is not whole was obeyed"
    closing = next((number for number, answer in enumerate(given) if answer.closes), len(given))
    assert len(given) <= closing + 1, "an answer behind Connection: close"
    refused = ours.end == "refused" and all(seen.body is not None for seen in ours.requests)
    expected = len(ours.requests) + refused
    if len(given) > len(ours.requests):
        assert len(given) == expected, "more answers than requests"
        assert given[-1].status in (400, 413, 414, 417, 431), given[-1]
        assert not FUZZED.search(given[-1].identity), "a request that must be refused came to the application"
    elif len(given) < expected and not (ours.end == "closes" and ours.requests[-1].end < len(made.raw)):  # who sends on behind that may be reset
        assert given, "no answer"
        cut = ours.end == "cut" and ours.requests[-1].body is None and len(given) == expected - 1
        assert given[-1].closes or cut, "fewer answers than requests"


@pytest.fixture
def server(start: Callable[..., Server]) -> Server:
    return start()


@pytest.mark.slow
@pytest.mark.parametrize("requests", COUNTS)
def test_the_server_answers_what_the_parser_sees(server: Server, requests: int) -> None:
    kept = answered = 0

    def one(number: int) -> tuple[int, int, int]:
        made = stream(number)
        ours = compared(made)
        data = b""
        try:
            data = ask(server.port, made)
            given = list(answers(data, ours.requests))
            check(made, ours, given)
        except (AssertionError, OSError) as error:
            raise AssertionError(f"{error!r}\n{made}\nours: {ours}\nanswered: {data!r}") from error
        return tried(ours), len(given), sum(not answer.closes for answer in given)

    with ThreadPoolExecutor(CLIENTS) as pool:
        for numbers in (range(at, at + 200) for at in itertools.count(0, 200)):
            for seen, given, open_still in pool.map(one, numbers):
                requests -= seen
                answered += given
                kept += open_still
            if requests <= 0:
                break
    assert kept > answered / 2, "most requests leave the connection open: else nothing is seen of where they end"
    assert not server.log_faults()
