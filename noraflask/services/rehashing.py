"""Hashing content again, by other algorithms than the one that it is kept by: at once where it is small, else one at a time in each process.

So no client can make the server hash without end. Who asks while another large one is hashed is told to come again, and waits for nothing here.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterable, Iterator

from noraflask.digest import Digest
from noraflask.errors import Unavailable
from noraflask.services.content import Content

PIECE_BYTES = 1024 * 1024
AT_ONCE_BYTES = 4 * 1024 * 1024
"""Up to this size content is hashed by whoever asks: that takes no longer than a few requests."""
COME_AGAIN_SECONDS = 5


class Rehashing:
    def __init__(self, refusal: str) -> None:
        """`refusal`: what is said of another large one. Each user has turns of its own, so that one purpose does not keep back another."""
        self._refusal = f"{refusal}; try again in some seconds"
        self._large = threading.BoundedSemaphore(1)

    def hashes(self, content: Content, digest: Digest, size: int, algorithms: Iterable[str]) -> dict[str, str]:
        """In hex, all in one pass. Raises NotFound, and Unavailable while another large one is hashed."""
        running = {algorithm: hashlib.new(algorithm, usedforsecurity=False) for algorithm in algorithms}
        with self.turn(size), contextlib.closing(content.open(digest)) as reader:
            while piece := reader.read(PIECE_BYTES):
                for hash in running.values():
                    hash.update(piece)
        return {algorithm: hash.hexdigest() for algorithm, hash in running.items()}

    @contextlib.contextmanager
    def turn(self, size: int) -> Iterator[None]:
        if size <= AT_ONCE_BYTES:
            yield
            return
        if not self._large.acquire(blocking=False):
            raise Unavailable(self._refusal, retry_after_seconds=COME_AGAIN_SECONDS)
        try:
            yield
        finally:
            self._large.release()
