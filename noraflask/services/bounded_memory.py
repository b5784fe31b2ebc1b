"""What a process remembers, bounded by bytes: what was not asked for longest goes first."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

ENTRY_BYTES = 300
"""What remembering costs beside the value: the key, the tuple, the slot."""

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def bytes_of(*texts: str | bytes | None) -> int:
    """What texts take in memory."""
    return sum(map(sys.getsizeof, texts))


class BoundedMemory(Generic[Key, Value]):
    def __init__(self, limit_bytes: int, share_bytes: int | None = None) -> None:
        """`share_bytes`: what is larger is not remembered at all, so that one large thing does not drive out all others."""
        self._limit_bytes = limit_bytes
        self._share_bytes = limit_bytes if share_bytes is None else share_bytes
        self._values: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Key) -> Value | None:
        with self._lock:
            known = self._values.get(key)
            if known is None:
                return None
            self._values.move_to_end(key)
            return known[0]

    def clear(self) -> None:
        with self._lock:
            self._values.clear()
            self.bytes = 0

    def forget(self, key: Key) -> None:
        with self._lock:
            known = self._values.pop(key, None)
            if known is not None:
                self.bytes -= known[1]

    def put(self, key: Key, value: Value, size_bytes: int) -> None:
        size_bytes += ENTRY_BYTES
        with self._lock:
            replaced = self._values.pop(key, None)
            if replaced is not None:
                self.bytes -= replaced[1]
            if size_bytes > self._share_bytes:
                return
            self._values[key] = (value, size_bytes)
            self.bytes += size_bytes
            while self.bytes > self._limit_bytes:
                self.bytes -= self._values.popitem(last=False)[1][1]
