"""A storage that notes, while a request is recorded (recording.py), what is read of it. What is no reading of single objects spoils the recording."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Literal, TypeVar

from noraflask.keys import Key
from noraflask.recording import CURRENT, Look, aside, spoil
from noraflask.storage import Entry, Leases, ObjectInfo, Reader, Revisions, Source, Storage

Result = TypeVar("Result")
CHANGE = "a change of storage"


class WatchedStorage:
    def __init__(self, storage: Storage) -> None:
        self.backend = storage.backend
        self._storage, self._watch = storage, storage.abilities.watch
        abilities = storage.abilities
        self.abilities = replace(
            abilities,
            leases=_Leases(abilities.leases),
            revisions=_Revisions(abilities.revisions),
            create_soon=_spoiling(abilities.create_soon),
            probe=_spoiling(abilities.probe),
        )

    def whole(self, key: Key) -> bytes:
        return self._read(self._storage.whole, key) if CURRENT.get() is not None else self._storage.whole(key)

    def stat(self, key: Key) -> ObjectInfo | None:
        return self._read(self._storage.stat, key) if CURRENT.get() is not None else self._storage.stat(key)

    def stat_many(self, keys: Iterable[Key]) -> Sequence[ObjectInfo | None]:
        return [self.stat(key) for key in keys] if CURRENT.get() is not None else self._storage.stat_many(keys)

    def open(self, key: Key, start: int = 0, stop: int | None = None) -> Reader:
        spoil("a file is sent")
        return self._storage.open(key, start, stop)

    def list(self, prefix: str, after: str = "", limit: int | None = None, delimiter: Literal["", "/"] = "") -> Iterator[Entry]:
        spoil("a listing")
        return self._storage.list(prefix, after, limit, delimiter)

    def create(self, key: Key, source: Source) -> str:
        spoil(CHANGE)
        return self._storage.create(key, source)

    def replace(self, key: Key, source: Source) -> str:
        spoil(CHANGE)
        return self._storage.replace(key, source)

    def swap(self, key: Key, data: bytes, expected: str | None) -> str:
        spoil(CHANGE)
        return self._storage.swap(key, data, expected)

    def delete(self, key: Key, expected: str | None = None) -> None:
        spoil(CHANGE)
        self._storage.delete(key, expected)

    def _read(self, verb: Callable[[Key], Result], key: Key) -> Result:
        with aside() as recording:  # what the storage counts, it counts for what it is asked
            if recording is not None and self._watch is not None:
                recording.read(key, self._watch(key))
            elif recording is not None:
                recording.spoil("this storage cannot be watched")
            found = verb(key)
            if recording is not None and found is not None and recording.was_absent(key):
                recording.spoil("it came while it was read")  # an absence, unlike a version, comes again
            return found


class _Leases:
    def __init__(self, leases: Leases) -> None:
        self._leases, self.mark = leases, leases.mark
        self.touch, self.reap = _spoiling(leases.touch), _spoiling(leases.reap)

    def hold(self, *keys: str) -> AbstractContextManager[None]:
        spoil("a lease")
        return self._leases.hold(*keys)


class _Revisions:
    def __init__(self, revisions: Revisions) -> None:
        self._revisions = revisions

    def changing(self, name: str) -> AbstractContextManager[None]:
        spoil(CHANGE)
        return self._revisions.changing(name)

    def revision(self, name: str) -> object | None:
        recording = CURRENT.get()
        if recording is None:
            return self._revisions.revision(name)
        look: Look = functools.partial(self._revisions.revision, name)
        recording.read(("revision", name), look)
        found = look()
        if found is None:
            recording.spoil("somebody is changing this name")
        return found


def _spoiling(verb: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(verb)
    def spoiling(*arguments: Any) -> Any:
        spoil(CHANGE)
        return verb(*arguments)

    return spoiling
