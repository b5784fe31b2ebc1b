"""How many uploads are unfinished, and what they take: of each owner and of all, in memory that the workers of a server share.

The truth are the files. Somebody looks at all of them once a second or less often, and in between is counted what begins and ends. What was counted
while a look was on its way is kept apart, so that it is not lost when the look's result is put in place: a count is never too low for long.
"""

from __future__ import annotations

import mmap
import time
from array import array
from collections.abc import Iterable

from noraflask.services.shared_lock import SharedLock

OWNERS = 1 << 14
"""Owners whose hashes agree in so many values are counted as one. 0 stands for nobody, whose uploads are bounded with all others alone."""
NOBODY = 0
REST = 20
"""Between two looks there is so many times as long as the last one took, however many uploads there are."""
_ALL = OWNERS
_Change = tuple[memoryview, memoryview]
_LOOKED_AT, _PAUSE, _LOOKS, _FINISHED, _FREE = range(5)


Found = tuple[int, int]
"""Owner and size of an upload, as a look finds it."""


class Counts:
    def __init__(self) -> None:
        """Made in the master, before the workers are forked."""
        self._lock = SharedLock()
        self._head = _cells(5)
        self._sessions, self._volume_bytes, self._tmpfs_bytes = _cells(OWNERS + 1), _cells(OWNERS + 1), _cells(1)
        self._changes = [(_cells(OWNERS + 1), _cells(1)) for _ in range(2)]
        """Sessions and bytes on the tmpfs: since the last look began, and between the beginnings of the last two. The two take turns."""

    def begin(self, owner: int, most_of_owner: int, most: int) -> str | None:
        """Count one that begins; `owner` or `all` when the owner, or all together, have as many as they may: then it is not counted."""
        with self._lock:
            if owner != NOBODY and self.sessions(owner) >= most_of_owner:
                return "owner"
            if self.sessions() >= most:
                return "all"
            self._count(owner, +1)
        return None

    def ended(self, owner: int, tmpfs_bytes: int = 0) -> None:
        with self._lock:
            self._count(owner, -1)
            self._since()[0][1][0] -= tmpfs_bytes

    def grown(self, tmpfs_bytes: int) -> None:
        with self._lock:
            self._since()[0][1][0] += tmpfs_bytes

    def sessions(self, owner: int = _ALL) -> int:
        return max(0, self._sessions[owner] + self._changes[0][0][owner] + self._changes[1][0][owner])

    def volume_bytes(self, owner: int = _ALL) -> int:
        """On the data volume, as of the last look."""
        return self._volume_bytes[owner]

    def tmpfs_bytes(self) -> int:
        return max(0, self._tmpfs_bytes[0] + self._changes[0][1][0] + self._changes[1][1][0])

    def free_bytes(self) -> int:
        """Of the data volume, as of the last look."""
        return self._head[_FREE]

    def most_sessions_of_one(self) -> int:
        """As of the last look."""
        return max(self._sessions[NOBODY + 1 : OWNERS])

    def begin_look(self, fresh_seconds: float) -> int | None:
        """A number for finish_look(), when it is time to look and nobody else does; else None."""
        if not self._is_time(fresh_seconds):
            return None
        with self._lock:
            if not self._is_time(fresh_seconds):
                return None  # somebody else began meanwhile
            head = self._head
            if head[_FINISHED] != head[_LOOKS]:  # by a process that was killed: what happened since is not in any result
                for last, before in zip(*self._since(), strict=True):
                    for cell in range(len(last)):
                        last[cell] += before[cell]
                        before[cell] = 0
            head[_LOOKED_AT] = time.monotonic_ns()
            head[_LOOKS] += 1
            return head[_LOOKS]

    def _is_time(self, fresh_seconds: float) -> bool:
        head = self._head
        pause = max(int(fresh_seconds * 1e9), head[_PAUSE]) if fresh_seconds >= 0 else 0
        return not head[_LOOKS] or time.monotonic_ns() - head[_LOOKED_AT] >= pause

    def finish_look(self, number: int, on_tmpfs: Iterable[Found], on_volume: Iterable[Found], free_bytes: int) -> None:
        """Put in place what was found since begin_look() gave the number. A look that another one has overtaken is of no use."""
        sessions, sizes = array("q", bytes(8 * (OWNERS + 1))), array("q", bytes(8 * (OWNERS + 1)))
        tmpfs_bytes = 0
        for owner, size in on_tmpfs:
            sessions[owner] += 1
            tmpfs_bytes += size
        for owner, size in on_volume:
            sessions[owner] += 1
            sizes[owner] += size
        sessions[_ALL], sizes[_ALL] = sum(sessions), sum(sizes)
        zeros = memoryview(bytes(8 * (OWNERS + 1))).cast("q")
        with self._lock:
            head = self._head
            if head[_LOOKS] != number:
                return
            head[_PAUSE] = REST * (time.monotonic_ns() - head[_LOOKED_AT])
            head[_FREE], head[_FINISHED] = free_bytes, number
            _, before = self._since()
            self._sessions[:], self._volume_bytes[:] = memoryview(sessions), memoryview(sizes)
            self._tmpfs_bytes[0] = tmpfs_bytes
            for cells in before:
                cells[:] = zeros[: len(cells)]

    def _count(self, owner: int, by: int) -> None:
        sessions = self._since()[0][0]
        sessions[owner] += by
        sessions[_ALL] += by

    def _since(self) -> tuple[_Change, _Change]:
        """Of the changes, those since the last look began, and those before."""
        turn = self._head[_LOOKS] % 2
        return self._changes[turn], self._changes[1 - turn]


def _cells(count: int) -> memoryview[int]:
    return memoryview(mmap.mmap(-1, 8 * count)).cast("q")
