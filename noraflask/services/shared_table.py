"""Tables in memory that the workers share: a key has its place in one of 16 slots that the key itself names, so looking it up costs the same always.

What is kept beside a key, and which key of a full set is missed least, is the business of who has the table (auth/lockout.py, limits/table.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

SET_SLOTS = 16
NOBODY = 0
"""The key of a slot that is free."""


class SharedTable:
    """All but `slot_of` needs a lock that its owner holds."""

    def __init__(self, keys: memoryview[int]) -> None:
        """`keys`: one for each slot, a multiple of 16, in shared memory."""
        self.keys = keys
        self._sets = len(keys) // SET_SLOTS

    def first_slot(self, key: int) -> int:
        return key % self._sets * SET_SLOTS

    def slot_of(self, key: int) -> int | None:
        first = self.first_slot(key)
        keys = self.keys[first : first + SET_SLOTS].tolist()
        return first + keys.index(key) if key in keys else None

    def slot_for(self, key: int, worth: Callable[[int], Any]) -> int:
        """The slot of a key that has none yet: of its set the one with the least worth, whose key is to be forgotten."""
        first = self.first_slot(key)
        return min(range(first, first + SET_SLOTS), key=worth)


def keyed_hash(secret: bytes, *parts: str) -> int:
    """64 bits, never 0. Keyed, so that nobody can choose names that crowd one set, nor guess from a hash what was hashed."""
    hashed = hashlib.blake2b(digest_size=8, key=secret)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hashed.update(len(data).to_bytes(8, "big") + data)
    return int.from_bytes(hashed.digest(), "big") or 1
