"""The token bucket as a strategy of limits, so that flask-limiter can find it by name."""

from __future__ import annotations

import time
from typing import Protocol, cast

from limits import RateLimitItem, WindowStats
from limits.errors import ConfigurationError
from limits.storage import Storage
from limits.strategies import STRATEGIES, RateLimiter

from noraflask.services.limits.bucket import Bucket, Taken

NAME = "token-bucket"


class Buckets(Protocol):
    """What a storage needs for it."""

    def take(self, bucket: Bucket, client: str) -> Taken: ...

    def look(self, bucket: Bucket, client: str) -> tuple[float, int]: ...


class TokenBucket(RateLimiter):
    """With a storage that has what Buckets says."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)
        if not hasattr(storage, "take"):
            raise ConfigurationError(f"{type(storage).__name__} keeps no token buckets")
        self.buckets = cast(Buckets, storage)
        self.take = self.buckets.take
        """As hit(), with what the answer's headers need: one look instead of two."""

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Each unit of `cost` is taken by itself: what was taken before one was refused stays taken."""
        return all(not self.take(_bucket(item), _client(identifiers)).wait for _ in range(cost))

    def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        return self.buckets.look(_bucket(item), _client(identifiers))[1] >= cost

    def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        seconds, remaining = self.buckets.look(_bucket(item), _client(identifiers))
        return WindowStats(time.time() + seconds, remaining)


def _bucket(item: RateLimitItem) -> Bucket:
    return item if isinstance(item, Bucket) else Bucket(item.amount / item.get_expiry(), item.amount, item.namespace)


def _client(identifiers: tuple[str, ...]) -> str:
    return "/".join(identifiers)


def register() -> None:
    """Beside limits' own strategies, which it keeps in a dictionary for that."""
    STRATEGIES[NAME] = TokenBucket  # type: ignore[assignment]
