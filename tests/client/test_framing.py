"""The streams of tests/framing.py through nginx, Caddy and Traefik: what a proxy takes for one request is one for the registry behind it."""

from __future__ import annotations

import base64
import contextlib
import itertools
import re
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.client.fronts import ADDRESS, HOST, LOGS, WORDS, Front, Machine, front_on
from tests.client.guarded import password_of
from tests.fault.test_framing import Answer, answers, tried
from tests.framing import FUZZED, Outcome, Stream, compared, stream
from tests.server import Server, wait_until

pytestmark = pytest.mark.slow

CLIENTS = 3
SILENCE_SECONDS = 0.3
"""A proxy that says nothing for so long waits for more."""
LOGIN = f"writer:{password_of('writer')}"
PROBE = "GET /v2/ HTTP/1.1\r\nHost: {host}\r\nAuthorization: Basic {login}\r\nX-Request-Id: p{number}\r\n\r\n"


@pytest.fixture(scope="module", params=WORDS)
def front(machine: Machine, machine_registry: Server, request: pytest.FixtureRequest) -> Iterator[Front]:
    with front_on(machine, machine_registry, request.param) as started:
        yield started


def connect() -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context.wrap_socket(socket.create_connection((ADDRESS, 443), timeout=20), server_hostname=HOST)


def ask(made: Stream, ours: Outcome) -> list[Answer]:
    """What comes back until nothing more is to be expected."""
    data, given = b"", list[Answer]()
    with connect() as sock, contextlib.suppress(TimeoutError, OSError):
        with contextlib.suppress(OSError):
            for piece in made.pieces():
                sock.sendall(piece)
                time.sleep(made.pause)
        sock.settimeout(SILENCE_SECONDS)
        while len(given) < len(ours.requests) + (ours.end != "more") and (piece := sock.recv(1 << 20)):
            data += piece
            with contextlib.suppress(AssertionError):  # not whole yet
                given = list(answers(data, ours.requests))
    return given


class Prober:
    """A client that does nothing odd, on a connection of its own: what the registry or a proxy had left over would come to it."""

    def __init__(self) -> None:
        self._sock: ssl.SSLSocket | None = None

    def probe(self, number: int) -> None:
        made = PROBE.format(host=HOST, login=base64.b64encode(LOGIN.encode()).decode(), number=number).encode()
        for _ in range(2):  # a proxy closes connections now and then
            self._sock = self._sock or connect()
            data = b""
            with contextlib.suppress(ConnectionError):
                self._sock.sendall(made)
                while not data.endswith(b"\r\n\r\n{}") and (piece := self._sock.recv(65536)):
                    data += piece
            if data:
                break
            self._sock.close()
            self._sock = None
        assert data.startswith(b"HTTP/1.1 200 "), data
        assert f"x-request-id: p{number}\r\n".encode() in data.lower(), data

    def close(self) -> None:
        if self._sock:
            self._sock.close()


def check(made: Stream, given: list[Answer]) -> None:
    places = [made.raw.find(answer.identity.encode()) for answer in given if FUZZED.fullmatch(answer.identity)]
    assert places == sorted(set(places) - {-1}), "an answer to another request, or two to one"


@pytest.mark.parametrize("requests", [3_334, pytest.param(33_334, marks=pytest.mark.soak)])
def test_a_request_ends_where_the_proxy_says(front: Front, requests: int) -> None:
    first = list(WORDS).index(front.name) * 1_000_000 + requests
    numbers = itertools.count(first)

    def some(count: int) -> int:
        tries, prober = 0, Prober()
        with front.machine.network(), contextlib.closing(prober):
            while tries < count:
                number = next(numbers)
                made = stream(number, HOST, LOGIN)
                ours = compared(made)
                given = ask(made, ours)
                try:
                    check(made, given)
                    prober.probe(number)
                except AssertionError as error:
                    raise AssertionError(f"{front.name}: {error}\n{made}\nours: {ours}\nanswered: {given}") from error
                tries += tried(ours)
        return tries

    with ThreadPoolExecutor(CLIENTS) as pool:
        assert sum(pool.map(some, [-(-requests // CLIENTS)] * CLIENTS)) >= requests
    assert len(seen_by(front.server, first)) > requests / 4, "most of them are sound, and reach the registry"
    wait_until(lambda: not unknown_to_the_proxy(front, first), 10, f"{front.name} to have logged {unknown_to_the_proxy(front, first)}")
    assert not front.server.log_faults()


def unknown_to_the_proxy(front: Front, first: int) -> list[str]:
    """Requests that the registry saw and the proxy did not: it took a part of one for another."""
    log = front.machine.sh(f"LC_ALL=C tr -d '\\200-\\377' <{LOGS[front.name]}")  # not all of it is UTF-8
    return sorted(seen_by(front.server, first) - set(FUZZED.findall(log)))


def seen_by(server: Server, first: int) -> set[str]:
    """What the registry has logged of the streams from `first` on."""
    identities = re.findall(r'"request_id": ?"([fs]([0-9]+)-[0-9]+)"', server.log_text())
    return {identity for identity, number in identities if int(number) >= first}
