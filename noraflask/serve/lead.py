"""The lead of a worker: one request thread has it, and passes it on. One that is stuck with it, since a disk hangs, loses it to another thread."""

from __future__ import annotations

import time
from typing import Generic, TypeVar

STUCK_SECONDS = 1.0
Job = TypeVar("Job")


class Lead(Generic[Job]):
    """A token. Whoever takes it out of the queue of jobs leads."""

    def __init__(self) -> None:
        self.is_lost = False
        self.has_answered = False
        """In the present turn."""
        self.slow: list[Job] = []
        """What was found that cannot be done at once."""
        self._since = 0.0  # monotonic, when the present turn began; 0: its thread waits for something to happen, or nobody has it

    def begin_turn(self) -> None:
        self._since, self.has_answered = time.monotonic(), False

    def rest(self) -> None:
        self._since = 0.0

    def take_slow(self) -> list[Job]:
        """Each of these is given to one caller alone."""
        taken: list[Job] = []
        while self.slow:
            try:
                taken.append(self.slow.pop(0))
            except IndexError:  # another thread was quicker
                break
        return taken

    def is_stuck(self, now: float) -> bool:
        since = self._since
        return bool(since) and now - since > STUCK_SECONDS
