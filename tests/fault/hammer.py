"""Many requests in little time, from as many clients as one likes: each says by X-Forwarded-For, as a trusted proxy does, for whom it asks."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

CONNECTIONS = 8
BATCH = 20


@dataclass(frozen=True)
class Asked:
    client: str
    sent: float
    """Monotonic seconds."""
    received: float
    status: int


class Line:
    """One connection, which sends requests in a row before it reads their answers. It is opened again when a worker dies under it."""

    def __init__(self, port: int, path: str) -> None:
        self._port, self._path = port, path
        self._socket: socket.socket | None = None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ask(self, clients: list[str]) -> list[Asked]:
        """Those that were answered."""
        sent = time.monotonic()
        found: list[Asked] = []
        with contextlib.suppress(OSError):
            if self._socket is None:
                self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=30)
            requests = (f"GET {self._path} HTTP/1.1\r\nHost: r\r\nX-Forwarded-For: {client}\r\n\r\n" for client in clients)
            self._socket.sendall("".join(requests).encode())
            for client, status in zip(clients, answers(self._socket), strict=False):
                found.append(Asked(client, sent, time.monotonic(), status))
        if len(found) < len(clients):
            self.close()
        return found


def answers(connection: socket.socket) -> Iterator[int]:
    """The status of each, once it is there as a whole; all bodies here have a length. Ends with the connection."""
    data = b""
    while True:
        head, end, rest = data.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0) if end else 0
        if end and len(rest) >= length:
            yield int(head[9:12])
            data = rest[length:]
            continue
        more = connection.recv(65536)
        if not more:
            return
        data += more


def hammer(port: int, clients: Iterable[str], done: Callable[[list[Asked]], bool], path: str = "/v2/") -> list[Asked]:
    """Rounds in which each client asks once on some connection, until `done(all so far)`; then it is asked once a round."""
    everybody, found, shuffle = list(clients), list[Asked](), random.Random(5)
    lines = [Line(port, path) for _ in range(CONNECTIONS)]
    try:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            while not done(found):
                shuffle.shuffle(everybody)
                shares = [everybody[number::CONNECTIONS] for number in range(CONNECTIONS)]
                for answered in pool.map(lambda pair: in_batches(*pair), zip(lines, shares, strict=True)):
                    found += answered
    finally:
        for line in lines:
            line.close()
    return found


def in_batches(line: Line, clients: list[str]) -> list[Asked]:
    return [asked for at in range(0, len(clients), BATCH) for asked in line.ask(clients[at : at + BATCH])]


class Flood:
    """One client that asks on several connections at once, until it is told to stop."""

    def __init__(self, port: int, client: str = "192.0.2.1", path: str = "/v2/") -> None:
        self.asked: list[Asked] = []
        self._client, self._stop = client, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(Line(port, path),)) for _ in range(CONNECTIONS)]

    def __enter__(self) -> Flood:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, line: Line) -> None:
        while not self._stop.is_set():
            self.asked += line.ask([self._client])
        line.close()


def allowed(asked: Iterable[Asked]) -> int:
    return sum(one.status != 429 for one in asked)
