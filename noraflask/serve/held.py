"""Memory that connections take while their peers are waited for: unfinished heads, and what is left of answers that nobody takes."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from noraflask.serve.connection import Connection, Phase

MOST_BYTES = 16 * 1024 * 1024
"""In each worker. Of a large answer that a peer does not take there are two copies."""
LEAST_BYTES = 4096
"""What is smaller is bounded by the number of connections."""


class Held:
    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        return self._bytes

    def put(self, conn: Connection, size: int) -> bool:
        """So much it is now, of an owned connection. Is it too much in sum?"""
        size = size if size > LEAST_BYTES else 0
        if size == conn.held:
            return bool(size) and self._bytes > self._most_bytes
        with self._lock:
            self._bytes += size - conn.held
            conn.held = size
            return bool(size) and self._bytes > self._most_bytes

    @staticmethod
    def first_to_go(those: Iterable[Connection]) -> Connection | None:
        """Who was not heard for longest: honest peers take what they have asked for, and send what they have begun."""
        return min((conn for conn in those if conn.held), key=lambda conn: conn.progress, default=None)


def held_by(conn: Connection) -> int:
    """Bytes in memory that a connection waits to be rid of, or to have more of."""
    if conn.phase is Phase.SENDING:
        return conn.response.held
    return len(conn.buffer) if conn.phase is Phase.HEAD else 0
