"""A storage whose verbs are counted and timed. Everything else about it is the storage's own."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from noraflask.errors import AlreadyExists, NotFound
from noraflask.services.metrics.catalogue import STORAGE_GET_BYTES
from noraflask.services.metrics.counting import NullMetrics

OPERATIONS = {"create": "put", "replace": "put", "delete": "delete", "stat": "stat", "whole": "get"}
"""Verbs by the name of the operation that NORA counts; `open` is either of two."""


class CountedStorage:
    def __init__(self, storage: Any, metrics: NullMetrics) -> None:
        self._storage = storage
        self._metrics = metrics
        for verb, operation in OPERATIONS.items():
            if hasattr(storage, verb):
                timed = self._timed(getattr(storage, verb), operation)
                setattr(self, verb, self._sized(timed) if operation == "get" else timed)
        self._open_whole = self._timed(storage.open, "get_reader")
        self._open_range = self._timed(storage.open, "get_range")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def open(self, key: Any, start: int = 0, stop: int | None = None) -> Any:
        return (self._open_range if start or stop is not None else self._open_whole)(key, start, stop)

    def _sized(self, whole: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
        observe = self._metrics.observe

        def sized(key: Any) -> bytes:
            data = whole(key)
            observe(STORAGE_GET_BYTES, len(data), str(key).partition("/")[0])  # a repository's name, or what is counted as `other`
            return data

        return sized

    def _timed(self, verb: Callable[..., Any], operation: str) -> Callable[..., Any]:
        done, clock, may_be_absent = self._metrics.storage_timer(operation, self._storage.backend), time.perf_counter, operation == "stat"

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
    """An object that is not there, or is there already, is no error of the storage."""
    return "not_found" if isinstance(problem, NotFound) else "ok" if isinstance(problem, AlreadyExists) else "error"
