"""How many connections each worker has, in memory that they share, so that accepting spreads connections evenly; and which of them serve yet.

All workers wait on the same listening socket, and left to chance one of them may take all connections of a client while the others idle.
"""

from __future__ import annotations

import mmap

SLOTS = 256
ABSENT = 0xFFFFFFFF


class Board:
    def __init__(self) -> None:
        """Made in the master, before the workers are forked."""
        self._counts = memoryview(mmap.mmap(-1, 4 * SLOTS)).cast("I")
        for slot in range(SLOTS):
            self._counts[slot] = ABSENT
        self._serving = memoryview(mmap.mmap(-1, SLOTS))

    def note(self, slot: int, connections: int) -> None:
        self._counts[slot] = connections

    def serve(self, slot: int) -> None:
        """This worker takes requests from now on."""
        self._serving[slot] = 1

    def any_serves(self) -> bool:
        return any(self._serving)

    def leave(self, slot: int) -> None:
        """Take no account of this worker: it has stopped accepting, or ended."""
        self._counts[slot] = ABSENT
        self._serving[slot] = 0

    def connections(self) -> int:
        """Of all workers."""
        return sum(count for count in self._counts if count != ABSENT)

    def fewer_elsewhere(self, slot: int) -> bool:
        """Does another worker have fewer connections than this one?"""
        return min(self._counts) < self._counts[slot]
