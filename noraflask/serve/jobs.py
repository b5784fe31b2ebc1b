"""Jobs for threads that all do the same, in order.

As queue.SimpleQueue, whose `get()` wakes a second thread for each job that a thread waited for, which finds nothing and sleeps again; and the thread
that has slept for the shortest time is woken, since its memory is the warmest.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

Job = TypeVar("Job")


class Jobs(Generic[Job]):
    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._sleeping: list[threading.Lock] = []  # of each thread that waits the lock that it waits for
        self._own = threading.local()

    def put(self, job: Job) -> None:
        self._jobs.append(job)
        self._wake()

    def get(self) -> Job:
        """The next job; waits for one."""
        while True:
            try:
                return self._jobs.popleft()
            except IndexError:
                self._sleep()

    def _sleep(self) -> None:
        """Until there may be a job."""
        try:
            lock = self._own.lock
        except AttributeError:
            lock = self._own.lock = threading.Lock()
            lock.acquire()
        self._sleeping.append(lock)
        if self._jobs:  # it was put before anybody could know that this thread sleeps
            self._wake()
        lock.acquire()

    def _wake(self) -> None:
        try:
            self._sleeping.pop().release()
        except IndexError:
            pass  # nobody sleeps
