"""What is known of tokens, users and keys is looked at again twice a second.

A leading thread may not wait for a disk, so it cannot do that itself: the first request that comes then is run by others; those that follow go on
with what is known until that is done, for a moment at most.
"""

from __future__ import annotations

from collections.abc import Hashable

OVERDUE_SECONDS = 0.1
MOST_KEPT = 4096


class Overdue:
    """For the threads of one worker. A race of two costs a second look."""

    def __init__(self) -> None:
        self._told: dict[Hashable, float] = {}

    def may_go_on(self, what: Hashable, due: float, now: float) -> bool:
        """`due`: when it was to be looked at again, by the same clock as `now`."""
        if not 0 <= now - due < OVERDUE_SECONDS:
            return False
        if self._told.get(what) == due:
            return True
        if len(self._told) >= MOST_KEPT:
            self._told.clear()
        self._told[what] = due
        return False
