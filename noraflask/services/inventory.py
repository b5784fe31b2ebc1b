"""Totals of what is stored: names of each repository, bytes, tokens about to expire. One worker counts them now and then, for all workers."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from noraflask.errors import NoraError
from noraflask.services.metrics import catalogue
from noraflask.services.metrics.counting import NullMetrics
from noraflask.storage import Storage

LEAST_SECONDS = 60.0
"""Between two rounds,"""
REST = 20
"""and at least so many times as long as the last round took, however much is stored."""
BREATH = 500
"""After so many objects or names other threads have their turn."""
EXPIRING_SECONDS = 7 * 86400.0

Item = TypeVar("Item")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Totals:
    bytes: int = 0
    """Of all content, which repositories share."""
    objects: int = 0
    artifacts: dict[str, int] | None = None
    """By repository: names that hold something."""
    tokens: int = 0
    tokens_expiring: int = 0
    counted_at: float = 0.0
    """Seconds since the epoch; 0: not yet."""
    seconds: float = 0.0


class Inventory:
    def __init__(
        self,
        storage: Storage,
        folder: Path,
        names: Callable[[], Iterable[tuple[str, Iterable[str]]]],
        expiries: Callable[[], Iterable[float]],
        metrics: NullMetrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`folder`: where the totals lie for the other workers. `names`: each repository with the names that hold something, which are read one after
        another. `expiries`: of tokens."""
        self._storage, self._names, self._expiries, self._metrics, self._clock = storage, names, expiries, metrics, clock
        self._path = folder / "inventory.json"
        self._lock_path = folder / "inventory.lock"
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Called once in each worker, after the fork."""
        self._thread = threading.Thread(target=self._run, name="inventory", daemon=True)
        self._thread.start()

    def current(self) -> Totals:
        try:
            return Totals(**json.loads(self._path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return Totals()

    def take(self) -> Totals:
        """Count, and write it down. Raises what storage raises."""
        began = time.monotonic()
        objects = total = 0
        for size in _with_breaths(self._sizes()):
            objects, total = objects + 1, total + size
        artifacts = {repository: sum(1 for _ in _with_breaths(names)) for repository, names in self._names()}
        now = self._clock()
        ends = [end for end in self._expiries() if end > now]
        expiring = sum(end < now + EXPIRING_SECONDS for end in ends)
        totals = Totals(total, objects, artifacts, len(ends), expiring, now, time.monotonic() - began)
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(totals)))
        os.replace(fresh, self._path)
        return totals

    def _sizes(self) -> Iterator[int]:
        for entry in self._storage.list("blobs/"):
            if entry.info is not None:
                yield entry.info.size

    def _run(self) -> None:
        while True:
            pause = LEAST_SECONDS
            with contextlib.suppress(BlockingIOError):
                pause = max(pause, REST * self._in_turn())
            time.sleep(pause)

    def _in_turn(self) -> float:
        """Seconds it took; 0 when it was not the turn of this worker. Raises BlockingIOError while another one counts."""
        descriptor = -1
        try:
            descriptor = os.open(self._lock_path, os.O_CREAT | os.O_RDONLY, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            last = self.current()
            if self._clock() - last.counted_at < max(LEAST_SECONDS, REST * last.seconds) - 1:
                return 0.0
            seconds = self.take().seconds
            self._metrics.count(catalogue.JOB_RUNS, "inventory", "ok")
            return seconds
        except BlockingIOError:
            raise
        except Exception as problem:
            trace = None if isinstance(problem, OSError | NoraError) else problem
            log.error("what is kept could not be counted, it is tried again: %s", problem, exc_info=trace)
            self._metrics.count(catalogue.JOB_RUNS, "inventory", "failed")
            return 0.0
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _with_breaths(items: Iterable[Item]) -> Iterator[Item]:
    for number, item in enumerate(items):
        if number % BREATH == BREATH - 1:
            time.sleep(0.001)
        yield item
