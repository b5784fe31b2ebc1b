"""Jobs for threads that all do the same, in order.

As queue.SimpleQueue, but only a few threads are being woken at a time; whoever has taken a job wakes the next one when there are more. So a job that
is done before the next thread is awake costs no thread switch, while one that takes long keeps nobody waiting. Of the threads that sleep the last one
is woken, since its memory is the warmest.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

Job = TypeVar("Job")
WAKING = 4
"""Threads being woken at a time. All at once fight for the interpreter lock; of one alone all depends on when the kernel lets it run."""


class Jobs(Generic[Job]):
    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._sleeping: list[threading.Lock] = []  # of each thread that waits the lock that it waits for
        self._waking: set[threading.Lock] = set()  # of each thread that was woken, and has not looked for a job yet
        self._own = threading.local()

    def put(self, *jobs: Job) -> None:
        self._jobs.extend(jobs)
        for _ in jobs:
            self._wake()

    def get(self) -> Job:
        """The next job; waits for one."""
        while True:
            try:
                job = self._jobs.popleft()
            except IndexError:
                self._sleep()
                continue
            if self._jobs:
                self._wake()
            return job

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
        self._waking.discard(lock)  # before it looks: who puts a job from now on does not count on it

    def _wake(self) -> None:
        """Unless so many are being woken that one of them will look for the new job."""
        if self._sleeping and len(self._waking) < WAKING:
            try:
                lock = self._sleeping.pop()
            except IndexError:
                return
            self._waking.add(lock)
            lock.release()
