"""Memory storage: the smallest reading of the contract. For tests; nothing survives the process."""

from __future__ import annotations

import contextlib
import io
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from noraflask.errors import AlreadyExists, Changed, NotFound
from noraflask.keys import Key
from noraflask.storage import GRACE_SECONDS, Abilities, Entry, ObjectInfo, Source

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Stored:
    data: bytes
    info: ObjectInfo


class MemoryReader(io.BytesIO):
    def __init__(self, stored: Stored, start: int, stop: int | None) -> None:
        super().__init__(stored.data[start:stop])
        self.size, self.version = stored.info.size, stored.info.version


class MemoryStorage:
    backend = "memory"

    def __init__(self) -> None:
        self._objects: dict[str, Stored] = {}
        self._lock = threading.Lock()
        self.abilities = Abilities(
            leases=MemoryLeases(lambda key: self.delete(key)),
            revisions=MemoryRevisions(),
            create_soon=lambda key, data: self.create(key, data),
            probe=lambda: self.probe(),
            watch=lambda key: lambda: self._objects.get(key),
        )

    def open(self, key: Key, start: int = 0, stop: int | None = None) -> MemoryReader:
        try:
            return MemoryReader(self._objects[key], start, stop)
        except KeyError:
            raise NotFound() from None

    def whole(self, key: Key) -> bytes:
        return self.open(key).read()

    def stat(self, key: Key) -> ObjectInfo | None:
        found = self._objects.get(key)
        return found.info if found else None

    def stat_many(self, keys: Iterable[Key]) -> Sequence[ObjectInfo | None]:
        return [self.stat(key) for key in keys]

    def create(self, key: Key, source: Source) -> str:
        stored = _stored(source)
        with self._lock:
            if self._objects.setdefault(key, stored) is not stored:
                raise AlreadyExists()
        return stored.info.version

    def replace(self, key: Key, source: Source) -> str:
        stored = _stored(source)
        with self._lock:
            self._objects[key] = stored
        return stored.info.version

    def swap(self, key: Key, data: bytes, expected: str | None) -> str:
        stored = _stored(data)
        with self._lock:
            self._expect(key, expected)
            self._objects[key] = stored
        return stored.info.version

    def delete(self, key: Key, expected: str | None = None) -> None:
        with self._lock:
            if expected is not None:
                self._expect(key, expected)
            self._objects.pop(key, None)

    def list(self, prefix: str, after: str = "", limit: int | None = None, delimiter: Literal["", "/"] = "") -> Iterator[Entry]:
        with self._lock:
            found: dict[str, Entry] = {}
            for key, stored in self._objects.items():
                if key.startswith(prefix):
                    name, slash, _ = key[len(prefix) :].partition("/") if delimiter else (key[len(prefix) :], "", "")
                    shown = f"{prefix}{name}{slash}"
                    found[shown] = Entry(shown, None if slash else stored.info)
        yield from [found[key] for key in sorted(found, key=str.encode) if key.encode() > after.encode()][:limit]

    def probe(self) -> None:
        pass

    def _expect(self, key: Key, version: str | None) -> None:
        """Raises Changed."""
        found = self._objects.get(key)
        if (found.info.version if found else None) != version:
            raise Changed()


class MemoryLeases:
    def __init__(self, delete: Callable[[Key], None], clock: Callable[[], float] = time.time) -> None:
        self._delete = delete
        self._clock = clock
        self._holders: Counter[str] = Counter()
        self._held: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def hold(self, *keys: str) -> Iterator[None]:
        with self._lock:
            self._holders.update(keys)
            self._held.update(dict.fromkeys(keys, self._clock()))
        try:
            yield
        finally:
            with self._lock:
                self._holders.subtract(keys)
                self._held.update(dict.fromkeys(keys, self._clock()))

    def touch(self, *keys: str) -> None:
        with self.hold(*keys):
            pass

    def mark(self) -> float:
        return self._clock()

    def reap(self, key: Key, mark: float, still_needed: Callable[[], bool]) -> bool:
        with self._lock:
            if self._holders[key] or self._held.get(key, float("-inf")) >= mark - GRACE_SECONDS or still_needed():
                return False
            self._delete(key)
            return True


class MemoryRevisions:
    def __init__(self) -> None:
        self._revisions: dict[str, int] = {}
        self._writers: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def changing(self, name: str) -> Iterator[None]:
        with self._lock:
            self._writers[name] += 1
            self._revisions[name] = next(_numbers)
        try:
            yield
        finally:
            with self._lock:
                self._writers[name] -= 1

    def revision(self, name: str) -> object | None:
        with self._lock:
            return None if self._writers[name] else (self, self._revisions.get(name, 0))


def _stored(source: Source) -> Stored:
    if not isinstance(source, bytes):
        source.seek(0)
        source = source.read()
    return Stored(source, ObjectInfo(len(source), time.time(), str(next(_numbers))))
