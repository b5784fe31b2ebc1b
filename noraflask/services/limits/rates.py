"""May this client ask once more? The question for each request, by tier, and the answer, headers and log line of a refusal."""

from __future__ import annotations

import logging
import math
import mmap
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from noraflask.config import RateLimitConfig
from noraflask.errors import NoraError, RateLimited, RateLimiterAway
from noraflask.recording import Recording
from noraflask.services.client_network import network_of
from noraflask.services.limits.bucket import Bucket, Taken
from noraflask.services.limits.strategy import TokenBucket
from noraflask.services.metrics import catalogue
from noraflask.services.metrics.counting import NullMetrics

AUTH, UPLOAD, GENERAL, METRICS = "auth", "upload", "general", "metrics"
ALLOWED, REFUSED = "allowed", "refused"

_EACH_LINE = Bucket(1 / 60, 1, "line")
"""Of a client that is refused: a line of the log a minute,"""
_ALL_LINES = Bucket(1, 60, "lines")
"""and this many for all clients together, since a flood may have many addresses."""
_TRIES = Bucket(1 / 5, 1, "tries")
"""How often Redis is asked that did not answer the last time."""
_WARN_SECONDS = 60.0

_MEANWHILE = {
    "local": "this server counts by itself meanwhile",
    "open": "requests pass uncounted meanwhile",
    "closed": "requests are refused meanwhile",
}

log = logging.getLogger("nora.limits")


@dataclass(frozen=True)
class Limits:
    """What is configured; part of the live state. What clients have used outlives it."""

    enabled: bool
    on_failure: str
    wait_seconds: float
    buckets: dict[str, Bucket]

    @classmethod
    def of(cls, config: RateLimitConfig) -> Limits:
        pairs = {AUTH: (config.auth_rps, config.auth_burst), UPLOAD: (config.upload_rps, config.upload_burst)}
        pairs |= {GENERAL: (config.general_rps, config.general_burst), METRICS: (config.metrics_rps, config.metrics_burst)}
        buckets = {tier: Bucket(rps, burst, tier) for tier, (rps, burst) in pairs.items()}
        return cls(config.enabled, config.on_failure, config.wait_ms / 1000, buckets)

    def __str__(self) -> str:
        return "; ".join(f"{tier} {_limit(bucket)}" for tier, bucket in self.buckets.items()) if self.enabled else "off"


class RateLimits:
    def __init__(
        self,
        here: TokenBucket,
        redis: TokenBucket | None = None,
        metrics: NullMetrics | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        seats: int = 2,
    ) -> None:
        """Made in the master, before the workers are forked. `here` counts in memory of this server, `redis` for several of them.

        `seats`: how many requests of a worker may wait for their turn at a time; the others must find threads.
        """
        self._pause, self._seats = pause, threading.BoundedSemaphore(seats)
        self._here, self._redis, self._clock = here, redis, clock
        self._metrics = metrics or NullMetrics()
        shared = memoryview(mmap.mmap(-1, 16)).cast("d")
        self._away, self._warned = shared[:1], shared[1:]  # whether Redis did not answer the last time; when a failure was logged last
        self._warned[0] = -math.inf

    def describe(self, limits: Limits) -> str:
        """For the log of the start and of reloads."""
        if not limits.enabled:
            return "rate limits are off (rate_limit.enabled)"
        place = f"in Redis (on_failure {limits.on_failure})" if self._redis else "in memory of this server"
        return f"rate limits by client: {limits}; counted {place}"

    def check(self, limits: Limits, tiers: tuple[str, ...], client: str) -> tuple[tuple[str, str], ...]:
        """One request of the client, which is its address, in each of the tiers. Headers for its answer.

        Raises RateLimited; RateLimiterAway, where requests that cannot be counted are to be refused.
        """
        network = network_of(client)
        headers: tuple[tuple[str, str], ...] = ()
        for tier in tiers:
            bucket = limits.buckets[tier]
            taken = self._take(limits, bucket, network)
            if taken is not None and 0 < taken.wait <= limits.wait_seconds:
                taken = self._patiently(limits, bucket, network, taken)
            if taken is None:
                continue
            if taken.wait:
                raise self._refusal(bucket, taken.wait, network)
            self._metrics.count(catalogue.RATE_LIMITED, tier, ALLOWED)
            headers = (("x-ratelimit-limit", str(bucket.burst)), ("x-ratelimit-remaining", str(taken.remaining)))
        return headers

    def record(self, recording: Recording, limits: Limits, tiers: tuple[str, ...], client: str) -> None:
        """How the same request is counted again: at once, or by check()."""
        if self._redis is not None or len(tiers) != 1:
            recording.spoil("it is counted elsewhere, or twice")
            return
        recording.tier, recording.limit = tiers[0], partial(_once_more, self._here.take, limits.buckets[tiers[0]], network_of(client))

    def _patiently(self, limits: Limits, bucket: Bucket, network: str, taken: Taken | None) -> Taken | None:
        """Wait for the next token, where that is soon and a seat is free. So a client that asks one thing after another, however fast, is slowed
        down and not refused: some clients give up at their first 429. No more requests pass than without it.
        """
        if not self._seats.acquire(blocking=False):
            return taken
        self._metrics.count(catalogue.RATE_DELAYED, bucket.namespace)
        try:
            left = limits.wait_seconds
            while taken is not None and 0 < taken.wait <= left:
                left -= taken.wait
                self._pause(taken.wait)
                taken = self._take(limits, bucket, network)
            return taken
        finally:
            self._seats.release()

    def _take(self, limits: Limits, bucket: Bucket, network: str) -> Taken | None:
        """None: it could not be counted, and passes."""
        redis = None if bucket.namespace == METRICS else self._redis  # a monitor must see that Redis is away
        if redis is not None and self._may_try():
            try:
                taken = redis.take(bucket, network)
            except Exception as error:  # whatever it is: a limiter that fails must not take the registry down
                self._away[0] = 1
                self._here.take(_TRIES, "")
                self._failed(limits, "Redis, which counts requests for rate limits, does not answer", error)
            else:
                self._came_back()
                return taken
        if redis is None or limits.on_failure == "local":
            try:
                return self._here.take(bucket, network)
            except Exception as error:
                self._failed(limits, "requests cannot be counted for rate limits", error)
        if limits.on_failure == "closed":
            raise RateLimiterAway()
        return None

    def _may_try(self) -> bool:
        """One request after another waits for a Redis that is away, not all of them."""
        return not self._away[0] or not self._here.take(_TRIES, "").wait

    def _came_back(self) -> None:
        if self._away[0]:
            self._away[0] = 0
            log.info("Redis, which counts requests for rate limits, answers again")

    def _failed(self, limits: Limits, what: str, error: Exception) -> None:
        self._metrics.count(catalogue.RATE_LIMIT_FAILURES)
        now = self._clock()
        if now - self._warned[0] >= _WARN_SECONDS:
            self._warned[0] = now
            log.warning("%s: %s; %s (rate_limit.on_failure)", what, type(error).__name__, _MEANWHILE[limits.on_failure])

    def _refusal(self, bucket: Bucket, wait: float, network: str) -> NoraError:
        tier = bucket.namespace
        self._metrics.count(catalogue.RATE_LIMITED, tier, REFUSED)
        if not self._here.take(_EACH_LINE, network).wait and not self._here.take(_ALL_LINES, "").wait:
            log.info("refused by rate limit %s: client=%s; further refusals of it within a minute leave no such line", tier, network)
        seconds = max(1, math.ceil(wait))
        return RateLimited(
            f"too many requests from this address ({tier}: {_limit(bucket)}); try again in {seconds} second{'s' * (seconds > 1)}",
            {"tier": tier, "retry_after_seconds": seconds},
            {
                "Retry-After": str(seconds),
                "x-ratelimit-after": str(seconds),
                "x-ratelimit-limit": str(bucket.burst),
                "x-ratelimit-remaining": "0",
                "RateLimit-Limit": str(bucket.burst),
                "RateLimit-Remaining": "0",
                "RateLimit-Reset": str(seconds),
            },
        )


def _once_more(take: Callable[[Bucket, str], Taken], bucket: Bucket, network: str) -> int | None:
    try:
        taken = take(bucket, network)
    except Exception:  # check() says what is wrong
        return None
    return None if taken.wait else taken.remaining


def _limit(bucket: Bucket) -> str:
    return f"{bucket.amount} a second, {bucket.burst} at once"
