"""Buckets in Redis, for several servers. Imported only where one is configured."""

from __future__ import annotations

from limits.storage import RedisStorage
from redis.backoff import NoBackoff
from redis.retry import Retry

from noraflask.services.limits.bucket import Bucket, Taken

TIMEOUT_SECONDS = 0.25
"""For a connection and for an answer. Redis is near, or it is of no use here: each request waits for it."""
PREFIX = "nora:limit"

_BUCKET = """
local now = redis.call('TIME')
now = now[1] * 1000000 + now[2]
local rps, burst, take = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local used, at = 0, now
local kept = redis.call('HMGET', KEYS[1], 'used', 'at')
if kept[1] and kept[2] then
    used, at = math.min(tonumber(kept[1]), burst), math.min(tonumber(kept[2]), now)
end
used = math.max(0, used - (now - at) * rps / 1000000)
if take == 0 then
    return {math.ceil(used / rps * 1000000), math.floor(burst - used + 0.000001)}
end
if used + 1 > burst + 0.000001 then
    return {math.max(1, math.ceil((used + 1 - burst) / rps * 1000000)), 0}
end
used = used + 1
redis.call('HSET', KEYS[1], 'used', string.format('%.17g', used), 'at', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(used / rps * 1000) + 1000)
return {0, math.floor(burst - used + 0.000001)}
"""
"""As bucket.take, by Redis' own clock, in microseconds. Kept are the tokens that are used and the moment of that, since the numbers of Lua hold no
ticks; a millionth of a token is left to their rounding. A clock that was set back lets a bucket wait, and no longer than it takes to fill.
"""


class RedisBuckets(RedisStorage):
    """limits' own storage, which can do more than is asked of it here, with the script of the bucket."""

    STORAGE_SCHEME = ["nora+redis", "nora+rediss", "nora+redis+unix"]  # noqa: RUF012 (so limits has it)

    def __init__(self, uri: str) -> None:
        retry = Retry(NoBackoff(), 1)  # of a connection that Redis has closed meanwhile
        super().__init__(
            uri.removeprefix("nora+"),
            key_prefix=PREFIX,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=retry,  # type: ignore[arg-type]
        )
        self._bucket = self.get_connection().register_script(_BUCKET.encode())

    def take(self, bucket: Bucket, client: str) -> Taken:
        """One token of the client's bucket of that tier. Raises redis.RedisError."""
        wait, remaining = self._ask(bucket, client, True)
        return Taken(wait / 1_000_000, remaining)

    def look(self, bucket: Bucket, client: str) -> tuple[float, int]:
        seconds, remaining = self._ask(bucket, client, False)
        return seconds / 1_000_000, remaining

    def _ask(self, bucket: Bucket, client: str, take: bool) -> tuple[int, int]:
        key = self.prefixed_key(f"{bucket.namespace}:{client}")
        found, remaining = self._bucket(keys=[key], args=[repr(bucket.rps), bucket.burst, int(take)])
        return int(found), int(remaining)
