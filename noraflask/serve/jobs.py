"""Jobs for threads that all do the same, in order.

As queue.SimpleQueue, but threads are woken one after another: each wakes the next one when it has taken a job and there are more. So a job that is
done before the next thread is awake costs no thread switch, while one that takes long keeps nobody waiting. Of the threads that sleep the last one is
woken, since its memory is the warmest.
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
        self._is_waking = False  # a thread was woken, and has not looked for a job yet
        self._own = threading.local()

    def put(self, *jobs: Job) -> None:
        self._jobs.extend(jobs)
        if not self._is_waking:
            self._wake()

    def get(self) -> Job:
        """The next job; waits for one."""
        while True:
            try:
                job = self._jobs.popleft()
            except IndexError:
                self._sleep()
                continue
            if self._jobs and not self._is_waking:
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
        self._is_waking = False  # before it looks: who puts a job from now on wakes another one

    def _wake(self) -> None:
        while True:
            self._is_waking = True
            try:
                self._sleeping.pop().release()
                return
            except IndexError:
                self._is_waking = False  # nobody sleeps
            if not (self._jobs and self._sleeping):  # else one fell asleep, and a job was put by somebody who took it for being woken
                return
