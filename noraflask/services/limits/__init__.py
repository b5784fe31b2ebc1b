"""Rate limits: token buckets by client and tier, one count for all workers of a server, or of several servers by Redis.

bucket.py is the arithmetic, table.py the memory that workers share, redis.py the count of several servers, strategy.py what flask-limiter is given,
rates.py what is asked for each request. docs/decisions/0006-limits.md says why things are so.
"""

from noraflask.lazy_import import lazily

with lazily("asyncio", "limits.aio"):  # limits imports its half for asyncio, and wrapt, which it is decorated with, asyncio itself: 3 MB
    import limits  # noqa: F401
