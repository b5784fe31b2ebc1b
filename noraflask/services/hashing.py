"""Hashing uploads from their files: while they grow, and on from wherever an earlier request of the same upload came to."""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Callable

from noraflask.digest import new_hash

PIECE_BYTES = 1024 * 1024
HASHES_KEPT = 1024
HASH_AHEAD_BYTES = 4 * 1024 * 1024
"""A body of which so much has come in is hashed in a second thread from then on."""
HASH_LAG_BYTES = 64 * 1024 * 1024


class RunningHash:
    """The hash of a file's first `offset` bytes. The file only grows, so that it can go on from there at any time."""

    def __init__(self, algorithm: str = "sha256") -> None:
        self.offset = 0
        self._hash = new_hash(algorithm)
        self._buffer = bytearray(0)

    def follow(self, descriptor: int, stop: int) -> None:
        """Hash what the file holds up to `stop`. Raises OSError, also when it holds less."""
        while self.offset < stop:
            if not self._buffer:
                self._buffer = bytearray(min(PIECE_BYTES, stop - self.offset))
            size = os.preadv(descriptor, [memoryview(self._buffer)[: stop - self.offset]], self.offset)
            if not size:
                raise OSError(errno.EIO, "the upload's file is shorter than what was received")
            self._hash.update(memoryview(self._buffer)[:size])
            self.offset += size

    def hexdigest(self) -> str:
        return str(self._hash.hexdigest())

    def rest(self) -> None:
        """Give back the memory that only following needs."""
        self._buffer = bytearray(0)


class HashAhead:
    """Hashes a large body in a second thread while it comes in; a small one is left for later, as its bytes are at hand then.

    It reads the file that the body goes to, so what is hashed is what was kept, and it needs no copy of its own of what is under way.
    """

    def __init__(self, running: RunningHash, descriptor: Callable[[], int]) -> None:
        """`descriptor` tells the file's, which changes when the upload moves."""
        self._running = running
        self._descriptor = descriptor
        self._goal = running.offset
        self._ended = False
        self._problem: OSError | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> HashAhead:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._thread:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            self._thread.join()
        self._running.rest()
        if self._problem and not any(raised):
            raise self._problem

    def advance(self, offset: int) -> None:
        """There are bytes up to `offset` now. Waits when the hash is far behind, so that what it reads is still in memory."""
        if not self._thread:
            if offset - self._running.offset < HASH_AHEAD_BYTES:
                return
            self._thread = threading.Thread(target=self._run, name="hash", daemon=True)
            self._thread.start()
        with self._changed:
            self._goal = offset
            self._changed.notify_all()
            while self._goal - self._running.offset > HASH_LAG_BYTES and not self._problem:
                self._changed.wait()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._goal <= self._running.offset and not self._ended:
                    self._changed.wait()
                goal = self._goal
                if goal <= self._running.offset:
                    return
            try:
                self._running.follow(self._descriptor(), goal)
            except OSError as problem:
                self._problem = problem
            with self._changed:
                self._changed.notify_all()
                if self._problem:
                    return


class HashCache:
    """Running hashes by session, so that the request that ends an upload need not read all of it again.

    A cache of this process: when it is cold or behind, the hash follows the file from where it is.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[str, RunningHash] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, session: str) -> RunningHash:
        """It is the caller's then, who holds the upload's lock."""
        with self._lock:
            return self._entries.pop(session, None) or RunningHash()

    def put(self, session: str, running: RunningHash) -> None:
        if not running.offset:
            return
        with self._lock:
            self._entries[session] = running
            if len(self._entries) > HASHES_KEPT:
                self._entries.popitem(last=False)

    def forget(self, session: str) -> None:
        with self._lock:
            self._entries.pop(session, None)
