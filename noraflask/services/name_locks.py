"""A lock for each name, in one process; names that nobody holds or waits for cost nothing."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from noraflask.errors import Unavailable


class NameLocks:
    def __init__(self, wait_seconds: float, most_waiting: int = 4, crowd_seconds: float = 1) -> None:
        """`most_waiting`: threads that wait so long, for whatever name; further ones wait `crowd_seconds`, since others need threads as well."""
        self._wait_seconds, self._crowd_seconds = wait_seconds, crowd_seconds
        self._places = threading.Semaphore(most_waiting)
        self._locks: dict[Hashable, tuple[threading.Lock, int]] = {}
        """With how many hold it or wait for it."""
        self._guard = threading.Lock()

    def __len__(self) -> int:
        return len(self._locks)

    @contextmanager
    def hold(self, name: Hashable) -> Iterator[None]:
        """Raises Unavailable after the wait: one name that is slow to work out must not hold up the threads of all others."""
        with self._guard:
            lock, users = self._locks.get(name, (None, 0))
            lock = lock or threading.Lock()
            self._locks[name] = (lock, users + 1)
        try:
            if not lock.acquire(blocking=False) and not self._wait(lock):
                raise Unavailable(retry_after_seconds=1)
            try:
                yield
            finally:
                lock.release()
        finally:
            with self._guard:
                users = self._locks[name][1] - 1
                if users:
                    self._locks[name] = (lock, users)
                else:
                    del self._locks[name]

    def _wait(self, lock: threading.Lock) -> bool:
        has_place = self._places.acquire(blocking=False)
        try:
            return lock.acquire(timeout=self._wait_seconds if has_place else self._crowd_seconds)
        finally:
            if has_place:
                self._places.release()
