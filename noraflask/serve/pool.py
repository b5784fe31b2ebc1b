"""Threads and queues of a worker: lanes that bound how much runs at once, and the pool for everything that may take long."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

log = logging.getLogger("nora.server")

Job = TypeVar("Job")
IDLE_SECONDS = 30  # a pool thread without work ends after this time


class Lane(Generic[Job]):
    """At most `size` jobs run at once, the others wait in order."""

    def __init__(self, size: int) -> None:
        self._lock = threading.Lock()
        self._free = size
        self._waiting: deque[Job] = deque()

    def enter(self, job: Job) -> bool:
        """May `job` run now? If not it waits, and one `leave()` will return it."""
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            self._waiting.append(job)
            return False

    def leave(self) -> Job | None:
        """One job has ended: the next one, which the caller must run, or None."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._free += 1
            return None


class Pool:
    """Threads started when there is work for them, at most `size`.

    Long jobs wait for a slow peer or run the application; short ones only hand bytes to the kernel. Long ones never take the last threads,
    so that slow uploads cannot stop downloads.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._long: Lane[Callable[[], None]] = Lane(max(1, size - max(1, size // 8)))
        self._lock = threading.Lock()
        self._threads = self._idle = 0

    def submit_short(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)
        with self._lock:
            if self._idle >= self._jobs.qsize() or self._threads == self._size:
                return
            self._threads += 1
        threading.Thread(target=self._work, name="transfer", daemon=True).start()

    def submit_long(self, job: Callable[[], None]) -> None:
        if self._long.enter(job):
            self.submit_short(lambda: self._run_long(job))

    @property
    def pressed(self) -> bool:
        """Are there jobs that no thread has taken up yet? Then a job that could wait for its peer should rather make room."""
        return not self._jobs.empty()

    def _run_long(self, job: Callable[[], None] | None) -> None:
        while job:
            self._run(job)
            job = self._long.leave()

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException:
            log.exception("a transfer thread met an error it did not expect")

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            try:
                job = self._jobs.get(timeout=IDLE_SECONDS)
            except Empty:
                job = None
            with self._lock:
                self._idle -= 1
                if job is None:
                    if not self._jobs.empty():
                        continue
                    self._threads -= 1
                    return
            self._run(job)
