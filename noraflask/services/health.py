"""Health: background work in each worker, every half minute, and a trial write on demand; whether either fails is the health of this server."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable

from noraflask.errors import NoraError
from noraflask.services.metrics import catalogue
from noraflask.services.metrics.counting import NullMetrics
from noraflask.services.staging import Staging

TICK_SECONDS = 30.0
PROBE_FRESH_SECONDS = 1.0

log = logging.getLogger(__name__)


class Health:
    def __init__(
        self,
        staging: Staging,
        probe_storage: Callable[[], object],
        lock_folder: str,
        stall_seconds: float,
        each_round: Callable[[], object] = lambda: None,
        in_sweep: Callable[[], object] = lambda: None,
        metrics: NullMetrics | None = None,
    ) -> None:
        """`each_round` is called in every worker, `in_sweep` in one of them at a time."""
        self._each_round, self._in_sweep = each_round, in_sweep
        self._metrics = metrics or NullMetrics()
        self._staging = staging
        self._probe_storage = probe_storage
        self._lock_path = os.path.join(lock_folder, ".sweep")
        self._period_seconds = min(TICK_SECONDS, max(1.0, staging.session_ttl_seconds / 2))
        self._stall_seconds = stall_seconds
        self._started = self._last_tick = time.monotonic()
        self._probed = -PROBE_FRESH_SECONDS
        self._parts: dict[str, str] = {}
        self.storage_reachable = True
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin the pulse; called once in each worker, after the fork."""
        self._last_tick = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    @property
    def is_started(self) -> bool:
        return self._thread is not None

    def uptime_seconds(self) -> int:
        return int(time.monotonic() - self._started)

    def failing_task(self) -> str | None:
        """The name of a background task that hangs; None when all is well."""
        stalled = self._thread is not None and time.monotonic() - self._last_tick > self._stall_seconds
        return "maintenance" if stalled else None

    def probe(self) -> dict[str, str]:
        """Write to storage and staging, for real: `ok` or what is wrong, by part. Asked often, it answers from the last second."""
        with self._lock:
            if time.monotonic() - self._probed > PROBE_FRESH_SECONDS:
                self._parts = {"storage": _outcome(self._probe_storage), "staging": _outcome(self._staging.probe)}
                self._probed = time.monotonic()
            return self._parts

    def _run(self) -> None:
        while True:
            try:
                self._each_round()
                self.sweep()
                self.storage_reachable = _outcome(self._probe_storage) == "ok"
                self._metrics.count(catalogue.JOB_RUNS, "maintenance", "ok")
            except Exception:
                log.exception("a round of background work failed; it is tried again")
                self._metrics.count(catalogue.JOB_RUNS, "maintenance", "failed")
                self._metrics.count(catalogue.TASK_PANICS, "maintenance")
            self._last_tick = time.monotonic()
            time.sleep(self._period_seconds)

    def sweep(self) -> None:
        """Remove abandoned uploads, unless another worker is doing that."""
        try:
            descriptor = os.open(self._lock_path, os.O_CREAT | os.O_RDONLY, 0o640)
        except OSError as problem:
            log.warning("abandoned uploads are not swept: %s", problem)
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            removed = self._staging.sweep()
            self._in_sweep()
        except BlockingIOError:
            return
        finally:
            os.close(descriptor)
        if removed:
            log.info("removed %d abandoned uploads", removed)


def _outcome(check: Callable[[], object]) -> str:
    try:
        check()
    except NoraError as problem:
        return problem.message
    except OSError as problem:
        log.error("probe: %s", problem)
        return "does not work; the server's log says why"
    return "ok"
