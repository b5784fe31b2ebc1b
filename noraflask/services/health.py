"""Health: a slow pulse in each worker that sweeps, and what it and a probe on demand say of this server."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable

from noraflask.errors import NoraError
from noraflask.services.staging import Staging

TICK_SECONDS = 30.0
SWEEP_SECONDS = 60.0
PROBE_FRESH_SECONDS = 1.0

log = logging.getLogger(__name__)


class Health:
    def __init__(self, staging: Staging, probe_storage: Callable[[], None], lock_folder: str, stall_seconds: float) -> None:
        self._staging = staging
        self._probe_storage = probe_storage
        self._lock_path = os.path.join(lock_folder, ".sweep")
        self._stall_seconds = stall_seconds
        self._started = self._last_tick = time.monotonic()
        self._probed = -PROBE_FRESH_SECONDS
        self._parts: dict[str, str] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin the pulse; called once in each worker, after the fork."""
        self._last_tick = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    def uptime_seconds(self) -> int:
        return int(time.monotonic() - self._started)

    def failing_task(self) -> str | None:
        """The name of a background task that stands still; None when all is well."""
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
                self.sweep()
            except Exception:
                log.exception("the sweep of abandoned uploads failed; it is tried again")
            self._last_tick = time.monotonic()
            time.sleep(TICK_SECONDS)

    def sweep(self) -> None:
        """Remove abandoned uploads, if no other worker has done so in the last minute."""
        with open(self._lock_path, "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            if time.time() - os.fstat(file.fileno()).st_mtime < SWEEP_SECONDS and os.fstat(file.fileno()).st_size:
                return
            removed = self._staging.sweep()
            file.truncate(0)
            file.write(f"{removed}\n")
        if removed:
            log.info("removed %d abandoned uploads", removed)


def _outcome(check: Callable[[], None]) -> str:
    try:
        check()
    except NoraError as problem:
        return problem.message
    except OSError as problem:
        log.error("probe: %s", problem)
        return "does not work; the server's log says why"
    return "ok"
