"""A lock for each name, in one process; names that nobody holds or waits for cost nothing."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from noraflask.errors import Unavailable


class NameLocks:
    def __init__(self, wait_seconds: float) -> None:
        self._wait_seconds = wait_seconds
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
            if not lock.acquire(timeout=self._wait_seconds):
                raise Unavailable()
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
