"""A clock that stands still until a test says so."""

from __future__ import annotations


class Clock:
    """Seconds since the epoch."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
