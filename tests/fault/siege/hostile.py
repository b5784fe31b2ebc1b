"""Hostile clients, thousands of them for little: one process, one epoll, a generator for each connection, and bytes that are made beforehand.

    python -m tests.fault.siege.hostile '{"port": 4000, "sources": ["127.0.0.2"], "peers": {"silent token body": 70}, "target": {…}}'

It prints "ready" once each client has done its first step or was turned away, goes on until its stdin ends, and prints what became of its clients.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import json
import os
import resource
import select
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.fault.siege.kinds import KINDS, NARROW, ONCE
from tests.fault.siege.steps import Answers, Pause, Script, Target, Write

CONNECT_EVERY = 0.005
"""Seconds from one round of new connections to the next."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 16.0
"""Seconds until a client that lost its connection comes back; each time twice as long."""
PIECE = 256 * 1024


@dataclass(eq=False)
class Peer:
    """One client, over all its connections."""

    kind: str
    source: str
    wait: float = FIRST_WAIT
    settled: bool = False


@dataclass(eq=False)
class Line:
    """One connection: its script, and what it has of the answers."""

    peer: Peer
    sock: socket.socket
    script: Script | None = None
    """None until it is connected."""
    unsent: memoryview | None = None
    unread: bytearray = field(default_factory=bytearray)
    """The beginning of an answer."""
    body_left: int = 0
    answered: deque[tuple[int, bytes]] = field(default_factory=deque)
    wanted: int = 0
    """Answers that the script waits for."""
    watched: int = select.EPOLLOUT
    closed: bool = False

    @property
    def complete(self) -> bool:
        """Whether all that the script waits for is there, and nothing of it is to come."""
        return len(self.answered) >= self.wanted and not (len(self.answered) == self.wanted and self.body_left)

    def take(self) -> tuple[int, bytes]:
        """The last of those that the script waited for."""
        answers = [self.answered.popleft() for _ in range(self.wanted)]
        self.wanted = 0
        return answers[-1]

    def parse(self, data: bytes) -> Iterator[int]:
        """The status of each answer whose head is whole now."""
        if self.body_left >= len(data):
            self.body_left -= len(data)
            return
        self.unread += memoryview(data)[self.body_left :]
        self.body_left = 0
        while (end := self.unread.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.unread[:end])
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            rest = len(self.unread) - end - 4
            del self.unread[: end + 4 + min(rest, length)]
            self.body_left = max(0, length - rest)
            self.answered.append((int(head[9:12]), head))
            yield int(head[9:12])


class Camp:
    def __init__(self, port: int, sources: list[str], peers: dict[str, int], target: Target, rate: int) -> None:
        """`rate`: connections a second that are begun at most."""
        self._port, self._target, self._rate = port, target, rate
        self._epoll = select.epoll()
        self._lines: dict[int, Line] = {}
        self._timers: list[tuple[float, int, Line | Peer]] = []
        self._ticket = itertools.count()
        self.outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in peers}
        everybody = mixed([kind for kind, count in peers.items() for _ in range(count)])
        self._to_connect = deque(Peer(kind, sources[number % len(sources)]) for number, kind in enumerate(everybody))
        self._unsettled = len(self._to_connect)

    def run(self) -> None:
        """Until stdin ends."""
        self._epoll.register(0, select.EPOLLIN)
        said, allowed, last = False, 0.0, time.monotonic()
        while True:
            now = time.monotonic()
            allowed, last = min(self._rate * 0.05, allowed + (now - last) * self._rate), now
            while self._to_connect and allowed >= 1:
                allowed -= 1
                self._connect(self._to_connect.popleft())
            until = self._timers[0][0] - time.monotonic() if self._timers else 1.0
            for descriptor, events in self._epoll.poll(CONNECT_EVERY if self._to_connect else max(0.0, min(1.0, until))):
                if descriptor == 0:
                    return
                if line := self._lines.get(descriptor):
                    self._serve(line, events)
            self._ring()
            if not said and not self._unsettled:
                print("ready", flush=True)
                said = True

    def open_connections(self) -> Counter[str]:
        return Counter(line.peer.kind for line in self._lines.values())

    def _later(self, seconds: float, whom: Line | Peer) -> None:
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._ticket), whom))

    def _ring(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            whom = heapq.heappop(self._timers)[2]
            if isinstance(whom, Peer):
                self._to_connect.append(whom)
            elif not whom.closed:
                if not whom.watched:  # it was deaf, and takes one look
                    self._read(whom)
                if not whom.closed:
                    self._step(whom, None)

    # ---- connections

    def _connect(self, peer: Peer) -> None:
        line = Line(peer, socket.socket())
        line.sock.setblocking(False)
        if peer.kind in NARROW:
            line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            line.sock.bind((peer.source, 0))
            line.sock.connect(("127.0.0.1", self._port))
        except BlockingIOError:
            pass
        except OSError as error:
            self._lost(line, errno.errorcode.get(error.errno or 0, str(error)))
            return
        self._epoll.register(line.sock.fileno(), line.watched)
        self._lines[line.sock.fileno()] = line

    def _lost(self, line: Line, why: str) -> None:
        peer = line.peer
        self.outcomes[peer.kind][why] += 1
        self._close(line)
        if peer.kind not in ONCE:
            self._later(peer.wait, peer)
            peer.wait = min(LONGEST_WAIT, peer.wait * 2)

    def _close(self, line: Line) -> None:
        self._settle(line)
        self._lines.pop(line.sock.fileno(), None)
        line.sock.close()
        line.closed = True

    def _settle(self, line: Line) -> None:
        if not line.peer.settled:
            line.peer.settled = True
            self._unsettled -= 1

    def _watch(self, line: Line, events: int) -> None:
        if events != line.watched:
            line.watched = events
            self._epoll.modify(line.sock.fileno(), events)

    # ---- one of them

    def _serve(self, line: Line, events: int) -> None:
        if line.script is None:
            if code := line.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._lost(line, errno.errorcode.get(code, str(code)))
                return
            self.outcomes[line.peer.kind]["connected"] += 1
            line.script = KINDS[line.peer.kind](self._target)
            self._watch(line, select.EPOLLIN)
            self._step(line, None)
        elif events & select.EPOLLOUT and line.unsent:
            if self._send(line):
                self._step(line, None)
        elif events & select.EPOLLIN:
            self._read(line)
        elif events & (select.EPOLLHUP | select.EPOLLERR):
            self._lost(line, "closed")

    def _step(self, line: Line, value: tuple[int, bytes] | None) -> None:
        """Let the script go on until it waits for something."""
        assert line.script
        try:
            while True:
                command = line.script.send(value)  # type: ignore[arg-type]
                value = None
                if isinstance(command, Write):
                    line.unsent = memoryview(command.data)
                    if not self._send(line):
                        return
                elif isinstance(command, Answers):
                    line.wanted = command.count
                    if not line.complete:
                        break
                    value = line.take()
                elif isinstance(command, Pause):
                    self._later(command.seconds, line)
                    break
                else:
                    self._watch(line, 0)
                    self._later(command.seconds, line)
                    break
            self._settle(line)
        except StopIteration as end:
            self.outcomes[line.peer.kind][str(end.value)] += 1
            self._close(line)
            if line.peer.kind not in ONCE:
                self._later(0, line.peer)

    def _send(self, line: Line) -> bool:
        """Whether all is sent; if not, it goes on when there is room, or the connection is lost."""
        while line.unsent:
            try:
                line.unsent = line.unsent[line.sock.send(line.unsent[:PIECE]) :]
            except BlockingIOError:
                self._settle(line)
                self._watch(line, select.EPOLLIN | select.EPOLLOUT)
                return False
            except OSError:
                self._lost(line, "closed")
                return False
        self._watch(line, select.EPOLLIN)
        return True

    def _read(self, line: Line) -> None:
        try:
            data = line.sock.recv(PIECE if line.watched else 1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost(line, "closed")
            return
        for status in line.parse(data):
            self.outcomes[line.peer.kind][str(status)] += 1
        if line.wanted and line.complete:
            self._step(line, line.take())


def mixed(everybody: list[str]) -> list[str]:
    """All kinds spread evenly, so that none of them is served before the others come."""
    counts, seen = Counter(everybody), Counter[str]()
    places: list[tuple[float, str]] = []
    for kind in everybody:
        seen[kind] += 1
        places.append((seen[kind] / (counts[kind] + 1), kind))
    return [kind for _, kind in sorted(places)]


def main(order: dict[str, Any]) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.nice(10)
    camp = Camp(order["port"], order["sources"], order["peers"], Target(**order["target"]), order["rate"])
    with contextlib.suppress(KeyboardInterrupt):
        camp.run()
    print(json.dumps({"outcomes": camp.outcomes, "open": camp.open_connections(), "processor": time.process_time()}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
