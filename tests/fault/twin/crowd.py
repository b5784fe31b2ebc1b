"""Many clients on one thread, each on its own connection, that ask the same few things without pause, and a check of each answer:

no answer is older than the last change that was acknowledged before the request was sent. What is asked for is a Target. It knows all states that it
was in, in order; who changes it says so before the change is begun and after it was acknowledged.
"""

from __future__ import annotations

import random
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from .wire import Answer

State = Callable[[Answer], object]


class Stale(AssertionError):
    """An answer shows what was no more when the request was sent, or what never was."""


@dataclass(eq=False)
class Target:
    name: str
    requests: tuple[bytes, ...]
    """Heads, any of which asks for it."""
    state_in: State
    """What an answer shows."""
    slack: float = 0.0
    """Seconds after which a change must be seen that was acknowledged."""
    states: list[object] = field(default_factory=list)
    """That it was in, the last one perhaps still on its way."""
    acknowledged: list[tuple[float, int]] = field(default_factory=list)
    """When, and which state."""
    latest: float = 0.0
    """Seconds by which an answer's request came after a change that it does not show yet; 0 where there is no slack."""
    answers: int = 0

    def change(self, state: object, carry_out: Callable[[], object]) -> None:
        """Returns once it is acknowledged."""
        self.states.append(state)
        carry_out()
        self.acknowledged.append((time.monotonic(), len(self.states) - 1))

    def floor(self, moment: float) -> int:
        """The oldest state that a request may still be shown that is sent now."""
        for when, number in reversed(self.acknowledged):
            if when <= moment - self.slack:
                return number
        return 0

    def check(self, answer: Answer, sent: float, floor: int, until: int) -> None:
        """`until`: how many states had been begun when the answer was here."""
        self.answers += 1
        shown = self.state_in(answer)
        number = max((number for number in range(until) if self.states[number] == shown), default=-1)
        if number < floor:
            known = [f"{one}: {self.states[one]!r}" for one in range(floor, until)]
            ages = [f"{one}: {sent - when:.4f}" for when, one in self.acknowledged[-6:]]
            raise Stale(
                f"{self.name}: a request shows {shown!r} (state {number}), expected one of {known}; "
                f"seconds from acknowledgements to the request: {ages}, from there to here: {time.monotonic() - sent:.4f}; {answer.data[:1000]!r}"
            )
        if self.slack:
            missed = [when for when, one in self.acknowledged if one > number and when < sent]
            self.latest = max(self.latest, sent - min(missed, default=sent))


class _Client:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = b""
        self.target: Target | None = None
        self.ids: dict[str, str] = {}
        self.method = ""
        self.sent, self.floor = 0.0, 0

    def ask(self, target: Target, request: bytes) -> None:
        self.target, self.method, self.data = target, request[: request.index(b" ")].decode(), b""
        self.sent = time.monotonic()
        self.floor = target.floor(self.sent)
        self.socket.sendall(request)

    def take(self) -> Answer | None:
        """The answer, once it is here as a whole."""
        more = self.socket.recv(262144)
        if not more:
            raise ConnectionError(f"the server closed the connection of a request for {self.target and self.target.name}: {self.data!r}")
        self.data += more
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return None
        answer = Answer(self.data, end + 4)
        has_body = self.method != "HEAD" and answer.status not in (204, 304)
        missing = answer.end + (int(answer.header("content-length")) if has_body else 0) - len(self.data)
        if missing < 0:
            raise Stale(f"{self.target and self.target.name}: {-missing} bytes more than the answer: {self.data[:2000]!r}")
        return answer if not missing else None


class Crowd:
    """Runs from `with` on; the end of it raises what a client has noticed."""

    def __init__(self, port: int, targets: list[Target], clients: int, seed: int) -> None:
        self.targets = targets
        """May be added to, and taken from, meanwhile; never empty."""
        self.answers = 0
        self._chance = random.Random(seed)
        self._clients = [_Client(port) for _ in range(clients)]
        self._thread = threading.Thread(target=self._run, name="crowd")
        self._stop = False
        self._ids: dict[str, str] = {}
        """The latest that each worker has made: they tell whether an answer was begun before its request was sent, and so is of another one."""
        self._problem: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join()
        for client in self._clients:
            client.socket.close()
        self.look()

    def look(self) -> None:
        """Raises what a client has noticed."""
        if self._problem is not None:
            raise self._problem

    def _run(self) -> None:
        try:
            with select.epoll() as ready:
                clients = {client.socket.fileno(): client for client in self._clients}
                for number, client in clients.items():
                    ready.register(number, select.EPOLLIN)
                    self._ask(client)
                while not self._stop:
                    for number, _ in ready.poll(1):
                        self._go_on(clients[number])
        except BaseException as problem:
            self._problem = problem

    def _go_on(self, client: _Client) -> None:
        answer = client.take()
        if answer is None:
            return
        target = client.target
        assert target is not None
        try:
            target.check(answer, client.sent, client.floor, len(target.states))
        except Stale as stale:
            raise Stale(f"{stale}\nthe latest ids when it was sent: {client.ids}, now {self._ids}") from None
        id = answer.id.decode()
        self._ids[id[:16]] = max(self._ids.get(id[:16], ""), id[16:])
        self.answers += 1
        self._ask(client)

    def _ask(self, client: _Client) -> None:
        target = self._chance.choice(self.targets)
        client.ids = dict(self._ids)
        client.ask(target, self._chance.choice(target.requests))
