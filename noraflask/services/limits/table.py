"""Buckets in memory that the workers of one server share, of a fixed size. A bucket that is full needs no place: it is like a new one.

Where a set of places is used up, the bucket that is nearest to being full is forgotten: its client gains least by it.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn

from limits.errors import ConfigurationError
from limits.storage import Storage

from noraflask.services.limits.bucket import TICKS, Bucket, Taken, look, take
from noraflask.services.shared_lock import SharedLock
from noraflask.services.shared_table import SharedTable, keyed_hash

SCHEME = "nora+shared"
"""Of the address by which flask-limiter finds it."""
SLOTS = 1 << 19
"""16 bytes each: 8 MB, of which the kernel gives only the pages that are used."""
KEYS_REMEMBERED = 8192
"""By each process: the keys of its last clients."""


def ticks() -> int:
    """The same for all processes of the machine, and never set back."""
    return time.monotonic_ns() * (TICKS // 1_000_000_000)


class _Place:
    """A client's key, and the slot where this process saw it last; others may have it by now."""

    __slots__ = ("key", "slot")

    def __init__(self, key: int, slot: int) -> None:
        self.key, self.slot = key, slot


class BucketTable(Storage):
    """A storage of token buckets alone, for the strategy of strategy.py; it does not count otherwise."""

    STORAGE_SCHEME = [SCHEME]  # noqa: RUF012 (so limits has it)
    base_exceptions = OSError

    def __init__(
        self,
        uri: str | None = None,
        wrap_exceptions: bool = False,
        *,
        clock: Callable[[], int] = ticks,
        secret: bytes | None = None,
        slots: int = SLOTS,
    ) -> None:
        """Made in the master, before the workers are forked. `clock`: ticks."""
        super().__init__(uri, wrap_exceptions)
        self._clock = clock
        self._secret = secret or os.urandom(16)
        self._lock = SharedLock()
        self._keys = memoryview(mmap.mmap(-1, 8 * slots)).cast("Q")
        self._table = SharedTable(self._keys)
        self._full_at = memoryview(mmap.mmap(-1, 8 * slots)).cast("q")
        self._place = lru_cache(KEYS_REMEMBERED)(self._find)

    def take(self, bucket: Bucket, client: str) -> Taken:
        """One token of the client's bucket of that tier."""
        place = self._place(bucket.namespace, client)
        with self._lock:
            slot, known = place.slot, True
            if self._keys[slot] != place.key:
                slot, known = self._slot(place.key)
                place.slot = slot
            full_at, taken = take(self._full_at[slot] if known else 0, self._clock(), bucket)
            self._full_at[slot] = full_at
            if not known:  # last: a process that is killed before leaves the slot to whoever had it
                self._keys[slot] = place.key
        return taken

    def look(self, bucket: Bucket, client: str) -> tuple[float, int]:
        """Seconds until it is full, and its whole tokens."""
        key = self._place(bucket.namespace, client).key
        with self._lock:
            slot, known = self._slot(key)
            return look(self._full_at[slot] if known else 0, self._clock(), bucket)

    def reset(self) -> int | None:
        with self._lock:
            self._full_at[:] = memoryview(bytes(8 * len(self._full_at))).cast("q")
        return None

    def check(self) -> bool:
        return True

    def _count_otherwise(self, *_: Any, **__: Any) -> NoReturn:
        raise ConfigurationError(f"{SCHEME} keeps token buckets alone, for the strategy token-bucket")

    incr = get = get_expiry = clear = _count_otherwise
    """What the other strategies of limits ask of a storage."""

    def _slot(self, key: int) -> tuple[int, bool]:
        """The place of this key; else one to put it, that of the bucket which will be full first."""
        slot = self._table.slot_of(key)
        return (self._table.slot_for(key, self._full_at.__getitem__), False) if slot is None else (slot, True)

    def _find(self, tier: str, client: str) -> _Place:
        key = self.key(tier, client)
        return _Place(key, self._table.first_slot(key))

    def key(self, tier: str, client: str) -> int:
        return keyed_hash(self._secret, tier, client)
