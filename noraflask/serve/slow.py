"""Peers that send little at a time: one thread looks after all of them, each at most once in a while.

Whatever such a peer does, it costs a look in that time. While epoll told of each of its bytes, a few thousand of them would keep all threads busy.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

from noraflask.serve.connection import Connection

log = logging.getLogger("nora.server")

LEAST_SECONDS = 0.02
MOST_SECONDS = 2.0
LOOKS_A_SECOND = 500  # in sum, until each has to wait for MOST_SECONDS


class SlowPeers:
    def __init__(self, look: Callable[[Connection], None]) -> None:
        """`look` is called with a connection that is due; it may be gone by then. It never waits."""
        self._look = look
        self._due: list[tuple[float, int, Connection]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, conn: Connection) -> None:
        """Look at `conn` in a while."""
        with self._changed:
            rest = min(MOST_SECONDS, max(LEAST_SECONDS, len(self._due) / LOOKS_A_SECOND))
            heapq.heappush(self._due, (time.monotonic() + rest, next(self._numbers), conn))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="slow", daemon=True)
                self._thread.start()
            elif len(self._due) == 1:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            conn = self._next()
            try:
                self._look(conn)
            except BaseException:
                log.exception("the thread that looks after slow peers met an error it did not expect")

    def _next(self) -> Connection:
        """The next one that is due."""
        with self._changed:
            while True:
                if not self._due:
                    self._changed.wait()
                    continue
                left = self._due[0][0] - time.monotonic()
                if left <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(left)
