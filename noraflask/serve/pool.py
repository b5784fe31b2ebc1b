"""Threads and queues of a worker: lanes that bound how much runs at once, and the pool for everything that may take long."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

log = logging.getLogger("nora.server")

Job = TypeVar("Job")
IDLE_SECONDS = 30  # a pool thread without work ends after this time


class Lane(Generic[Job]):
    """At most `size` jobs run at once. The others wait, in order for each client, and the clients take turns: one with a thousand jobs delays
    another one by a job."""

    def __init__(self, size: int) -> None:
        self._lock = threading.Lock()
        self._free = size
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()

    def enter(self, job: Job, client: str = "") -> bool:
        """May `job` run now? If not it waits, and one `leave()` will return it."""
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            self._waiting.setdefault(client, deque()).append(job)
            return False

    def leave(self) -> Job | None:
        """One job has ended: the next one, which the caller must run, or None."""
        with self._lock:
            if not self._waiting:
                self._free += 1
                return None
            client, jobs = self._waiting.popitem(last=False)
            job = jobs.popleft()
            if jobs:
                self._waiting[client] = jobs
            return job

    @property
    def is_full(self) -> bool:
        return bool(self._waiting)


class Pool:
    """Threads started when there is work for them, at most `size`.

    Long jobs take in bodies or run the application, and may wait for the disk; short ones only hand bytes to the kernel. Long ones never take the
    last threads, so that uploads cannot stop downloads.
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

    def submit_long(self, job: Callable[[], None], client: str = "") -> None:
        if self._long.enter(job, client):
            self.submit_short(lambda: self._run_long(job))

    @property
    def pressed(self) -> bool:
        """Are there jobs that no thread has taken up yet? Then a job that could wait for its peer should rather make room."""
        return not self._jobs.empty() or self._long.is_full

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
