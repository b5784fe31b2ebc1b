"""The Redis that counts requests for several servers."""

from __future__ import annotations

import time
from collections.abc import Iterator

from noraflask.config import RateLimitConfig
from noraflask.services.doctor.findings import Finding, ok, warning, wrong
from noraflask.services.limits.bucket import Bucket

SLOW_SECONDS = 0.01
"""Each request waits so long for it."""


def redis(config: RateLimitConfig) -> Iterator[Finding]:
    """Runs the script of the token bucket, as each request does. The address is told nowhere: it may hold a password."""
    if config.storage_url is None or not config.enabled:
        return
    from redis.exceptions import RedisError  # takes memory, so only where it is wanted

    from noraflask.services.limits.redis import RedisBuckets

    try:
        buckets, bucket = RedisBuckets(f"nora+{config.storage_url}"), Bucket(1, 1, "doctor")
        buckets.look(bucket, "doctor")
        began = time.monotonic()
        buckets.look(bucket, "doctor")
        seconds = time.monotonic() - began
    except (RedisError, OSError) as problem:
        yield wrong(
            "redis",
            f"does not answer ({type(problem).__name__}); until it does, requests are treated by rate_limit.on_failure = {config.on_failure}",
            "rate_limit.storage_url (NORA_RATE_LIMIT_STORAGE_URL); redis-cli -u <that address> ping",
        )
        return
    text = f"counts requests, answers in {seconds * 1000:.1f} ms"
    if seconds > SLOW_SECONDS:
        yield warning("redis", f"{text}; each request waits for it", "put Redis next to the servers, or count on each by itself: no storage_url")
    else:
        yield ok("redis", text)
