"""Memory storage: the smallest reading of the contract. For tests; nothing survives the process."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator

from noraflask.errors import AlreadyExists, NotFound
from noraflask.keys import Key
from noraflask.storage import ObjectInfo, Source


class MemoryReader(io.BytesIO):
    def __init__(self, data: bytes, start: int, stop: int | None) -> None:
        super().__init__(data[start:stop])
        self.size = len(data)


class MemoryStorage:
    backend = "memory"

    def __init__(self) -> None:
        self._objects: dict[str, tuple[bytes, float]] = {}
        self._lock = threading.Lock()

    def open(self, key: Key, start: int = 0, stop: int | None = None) -> MemoryReader:
        try:
            return MemoryReader(self._objects[key][0], start, stop)
        except KeyError:
            raise NotFound() from None

    def whole(self, key: Key) -> bytes:
        return self.open(key).read()

    def stat(self, key: Key) -> ObjectInfo | None:
        found = self._objects.get(key)
        return ObjectInfo(len(found[0]), found[1]) if found else None

    def create(self, key: Key, source: Source) -> None:
        entry = (_bytes_of(source), time.time())
        with self._lock:
            if self._objects.setdefault(key, entry) is not entry:
                raise AlreadyExists()

    def replace(self, key: Key, source: Source) -> None:
        entry = (_bytes_of(source), time.time())
        with self._lock:
            self._objects[key] = entry

    def delete(self, key: Key) -> None:
        with self._lock:
            self._objects.pop(key, None)

    def list(self, prefix: str, after: str = "") -> Iterator[str]:
        with self._lock:
            keys = [key for key in self._objects if key.startswith(prefix) and key.encode() > after.encode()]
        yield from sorted(keys, key=str.encode)

    def probe(self) -> None:
        pass


def _bytes_of(source: Source) -> bytes:
    if isinstance(source, bytes):
        return source
    source.seek(0)
    return source.read()
