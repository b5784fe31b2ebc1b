"""How many connections each client has here, so that one alone cannot have them all."""

from __future__ import annotations

import threading


class Clients:
    def __init__(self, most: int) -> None:
        """`most`: connections of one client in this worker."""
        self.most = most
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def move(self, before: str, after: str) -> None:
        """A connection that worked for one client works for another now; "" is nobody: a proxy's own connection, or none."""
        if before == after:
            return
        with self._lock:
            if before:
                left = self._counts[before] - 1
                if left:
                    self._counts[before] = left
                else:
                    del self._counts[before]
            if after:
                self._counts[after] = self._counts.get(after, 0) + 1

    def count(self, client: str) -> int:
        return self._counts.get(client, 0)

    def is_over(self, client: str) -> bool:
        """Has the client more than its share?"""
        return self._counts.get(client, 0) > self.most

    def largest(self, more_than: int) -> str:
        """The client that has most connections, if it has more than so many; else ""."""
        with self._lock:
            client = max(self._counts, key=self._counts.__getitem__, default="")
        return client if self.count(client) > more_than else ""
