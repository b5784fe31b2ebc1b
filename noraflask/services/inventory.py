"""What is kept here, counted now and then by one worker for all: artifacts, bytes, tokens that are about to expire."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from noraflask.errors import NoraError
from noraflask.services.metrics import catalogue
from noraflask.services.metrics.counting import NullMetrics
from noraflask.storage import Storage

LEAST_SECONDS = 60.0
"""Between two rounds, and at least so many times as long as the last one took, whatever is kept:"""
REST = 20
BREATH = 500
"""After so many objects other threads have their turn."""
EXPIRING_SECONDS = 7 * 86400.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stock:
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
        names: Callable[[], dict[str, int]],
        expiries: Callable[[], Iterable[float]],
        metrics: NullMetrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`folder`: where the figures lie for the other workers. `names`: how many names each repository has. `expiries`: of tokens."""
        self._storage, self._names, self._expiries, self._metrics, self._clock = storage, names, expiries, metrics, clock
        self._path = folder / "stock.json"
        self._lock_path = folder / "stock.lock"
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Called once in each worker, after the fork."""
        self._thread = threading.Thread(target=self._run, name="inventory", daemon=True)
        self._thread.start()

    def current(self) -> Stock:
        try:
            return Stock(**json.loads(self._path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return Stock()

    def take(self) -> Stock:
        """Count, and write it down. Raises what storage raises."""
        began = time.monotonic()
        objects = total = 0
        for entry in self._storage.list("blobs/"):
            if entry.info is not None:
                objects, total = objects + 1, total + entry.info.size
            if not objects % BREATH:
                time.sleep(0.001)
        now = self._clock()
        ends = [end for end in self._expiries() if end > now]
        stock = Stock(total, objects, self._names(), len(ends), sum(end < now + EXPIRING_SECONDS for end in ends), now, time.monotonic() - began)
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(stock)))
        os.replace(fresh, self._path)
        return stock

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
