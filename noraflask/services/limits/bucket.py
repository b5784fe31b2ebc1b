"""The token bucket: `burst` requests at once, then `rps` a second. Pure.

It is kept as one number, the moment at which the bucket will be full again (the "theoretical arrival time" of the generic cell rate algorithm,
ITU-T I.371). Time is counted in ticks, whole numbers, so that nothing is lost by rounding however long a bucket lives; only the time of one token is
rounded, by less than a hundredth of a millionth at a thousand requests a second.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from limits import RateLimitItemPerSecond

TICKS = 10_000_000_000
"""In a second. 64 bits hold 29 years of them."""


class Bucket(RateLimitItemPerSecond):
    """The limits of a tier, as flask-limiter and limits know one."""

    __slots__ = ("burst", "capacity", "interval")

    def __init__(self, rps: float, burst: int, namespace: str = "") -> None:
        """`rps`: tokens a second, more than 0; `burst`: how many it holds, 1 or more; `namespace`: the tier."""
        super().__init__(math.ceil(rps), 1, namespace)
        self.burst = burst
        self.interval = round(TICKS / rps) or 1
        """Ticks that one token takes to come."""
        self.capacity = burst * self.interval
        """Ticks that an empty bucket takes to be full."""

    @property
    def rps(self) -> float:
        return TICKS / self.interval


class Taken(NamedTuple):
    """What became of the wish to take one token."""

    wait: float
    """Seconds until there will be one; 0: it was taken."""
    remaining: int
    """Whole tokens that are left."""


def take(full_at: int, now: int, bucket: Bucket) -> tuple[int, Taken]:
    """The moment at which the bucket will be full afterwards, and what became of the wish. `full_at`, `now`: ticks.

    No bucket takes longer to fill than its capacity: what says so is of other limits, or a process was killed while it wrote it.
    """
    missing = min(max(0, full_at - now), bucket.capacity)
    after = missing + bucket.interval
    if after > bucket.capacity:
        return now + missing, Taken((after - bucket.capacity) / TICKS, 0)
    return now + after, Taken(0.0, (bucket.capacity - after) // bucket.interval)


def look(full_at: int, now: int, bucket: Bucket) -> tuple[float, int]:
    """Seconds until it is full, and its whole tokens, without taking any."""
    missing = min(max(0, full_at - now), bucket.capacity)
    return missing / TICKS, (bucket.capacity - missing) // bucket.interval
