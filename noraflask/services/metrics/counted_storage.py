"""A storage whose verbs are counted and timed."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from noraflask.errors import AlreadyExists, Changed, NotFound
from noraflask.keys import Key
from noraflask.services.metrics.catalogue import STORAGE_GET_BYTES
from noraflask.services.metrics.counting import NullMetrics
from noraflask.storage import Reader, Storage


class CountedStorage:
    """Verbs go by the names of the operations that NORA counts; `open` is either of two, listings are none."""

    def __init__(self, storage: Storage, metrics: NullMetrics) -> None:
        self.backend = storage.backend
        self._metrics = metrics
        put, stat = functools.partial(self._timed, operation="put"), functools.partial(self._timed, operation="stat")
        self.abilities = replace(storage.abilities, create_soon=put(storage.abilities.create_soon))
        self.create, self.replace, self.swap = put(storage.create), put(storage.replace), put(storage.swap)
        self.stat, self.stat_many = stat(storage.stat), stat(storage.stat_many)
        self.delete = self._timed(storage.delete, "delete")
        self.whole = self._sized(self._timed(storage.whole, "get"))
        self.list = storage.list
        self._open_whole = self._timed(storage.open, "get_reader")
        self._open_range = self._timed(storage.open, "get_range")

    def open(self, key: Key, start: int = 0, stop: int | None = None) -> Reader:
        opened: Reader = (self._open_range if start or stop is not None else self._open_whole)(key, start, stop)
        return opened

    def _sized(self, whole: Callable[[Key], bytes]) -> Callable[[Key], bytes]:
        observe = self._metrics.observe

        def sized(key: Key) -> bytes:
            data = whole(key)
            observe(STORAGE_GET_BYTES, len(data), str(key).partition("/")[0])  # a repository's name, or what is counted as `other`
            return data

        return sized

    def _timed(self, verb: Callable[..., Any], operation: str) -> Callable[..., Any]:
        done, clock, may_be_absent = self._metrics.storage_timer(operation, self.backend), time.perf_counter, operation == "stat"

        @functools.wraps(verb)
        def timed(*arguments: Any) -> Any:
            began = clock()
            try:
                answer = verb(*arguments)
            except BaseException as problem:
                done(outcome_of(problem), clock() - began)
                raise
            done("not_found" if answer is None and may_be_absent else "ok", clock() - began)
            return answer

        return timed


def outcome_of(problem: BaseException) -> str:
    """An object that is not there, is there already, or is another one by now, is no error of the storage."""
    return "not_found" if isinstance(problem, NotFound) else "ok" if isinstance(problem, AlreadyExists | Changed) else "error"
