"""The audit log: who did what to which artifact, from where and with what outcome; one line of JSON for each.

Actions of NORA: push delete mount token_mint; ours: login login_failed denied token_revoke token_rotate user_add user_remove user_passwd key_rotate
reload reload_request curation_block curation_would_block curation_bypass curation_freeze curation_lift.

All workers append to the same file, each record with one write, so lines never mix. To rotate, rename the file: within a second of its next record
each worker goes on in a new one.
"""

from __future__ import annotations

import json
import logging
import os
import select
import stat
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from noraflask.config import AuditConfig
from noraflask.services.metrics import catalogue
from noraflask.services.metrics.counting import NullMetrics

LONGEST_RECORD_BYTES = 65536
LONGEST_ON_STDOUT_BYTES = select.PIPE_BUF
"""Longer ones are no longer written to a pipe in one piece."""
ROTATION_SECONDS = 1.0
REPORT_SECONDS = 60.0
TAIL_LOOKS = 10
TAIL_PAUSE_SECONDS = 0.002
STDOUT = 1

log = logging.getLogger(__name__)


class Audit:
    """Made before the workers are forked or after, and safe to use from any thread of any of them."""

    def __init__(self, config: AuditConfig, default_path: Path, clock: Callable[[], float] = time.time, metrics: NullMetrics | None = None) -> None:
        self._clock = clock
        self._metrics = metrics or NullMetrics()
        self._outputs: list[_Output] = []
        if config.mode in ("file", "both"):
            self._outputs.append(_File(config.path or default_path))
        if config.mode in ("stdout", "both"):
            self._outputs.append(_Stdout())

    @property
    def lost(self) -> int:
        """How many records this process could not write, counted for each output."""
        return sum(output.lost for output in self._outputs)

    def record(
        self,
        action: str,
        actor: str,
        *,
        artifact: str = "",
        registry: str = "",
        detail: str = "",
        outcome: str = "ok",
        source: str = "",
        client: str = "",
        request_id: str = "",
    ) -> None:
        """Outcome: ok, denied or failed; source: how the actor was recognised. Never raises: what cannot be written is counted and logged."""
        if not self._outputs:
            return
        now = self._clock()
        fields = {"ts": timestamp(now), "action": action, "actor": actor, "artifact": artifact, "registry": registry, "detail": detail}
        ours = {"outcome": outcome, "source": source, "client": client, "request_id": request_id}
        fields |= {name: value for name, value in ours.items() if value}
        for output in self._outputs:
            if not output.write(fields, now):
                self._metrics.count(catalogue.AUDIT_LOST)


def timestamp(now: float) -> str:
    """RFC 3339, in UTC, with milliseconds."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def render(fields: dict[str, str], longest_bytes: int) -> bytes:
    """The record as a line. ASCII alone, so no character of it can end the line; where it is too long `detail` is cut first, then the longest."""
    kept = {name: value[:longest_bytes] for name, value in fields.items()}
    line = _json(kept)
    for name in sorted(kept, key=lambda name: (name != "detail", -len(kept[name]))):
        excess = len(line) + 1 - longest_bytes
        if excess <= 0:
            break
        kept[name] = _cut(kept[name], max(len(_json(kept[name])) - excess, longest_bytes // 16))
        line = _json(kept)
    return line.encode() + b"\n"


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _cut(text: str, room: int) -> str:
    """A beginning of the text that takes at most so many characters as JSON, with an ellipsis where it ends."""
    if len(_json(text)) <= room:
        return text
    fits, too_long = 0, room
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if len(_json(text[:middle] + "…")) <= room:
            fits = middle
        else:
            too_long = middle
    return text[:fits] + "…"


class _Output:
    """Where records go. A subclass says how; here is what happens when that fails."""

    longest_bytes: int
    name: str

    def __init__(self) -> None:
        self.lost = 0
        self._unreported = 0
        self._reported_at: float | None = None
        self._lock = threading.RLock()  # a signal handler may make a record while its thread makes another

    def write(self, fields: dict[str, str], now: float) -> bool:
        """False when the record is lost."""
        with self._lock:
            try:
                self._append(render(fields, self.longest_bytes), now)
            except Exception as error:  # whatever it is, the request that is recorded goes on
                self.lost += 1
                self._unreported += 1
                self._report(now, f"cannot be written: {getattr(error, 'strerror', None) or error}")
                return False
            else:
                if self._unreported:
                    self._report(now, "is written again")
            return True

    def _append(self, line: bytes, now: float) -> None:
        raise NotImplementedError

    def _report(self, now: float, what: str) -> None:
        if self._reported_at is None or abs(now - self._reported_at) >= REPORT_SECONDS:
            log.error("the audit log (%s) %s; %d records were lost since the last such message", self.name, what, self._unreported)
            self._reported_at = now
            self._unreported = 0


class _Stdout(_Output):
    longest_bytes = LONGEST_ON_STDOUT_BYTES
    name = "standard output"

    def _append(self, line: bytes, now: float) -> None:
        _write_all(STDOUT, line)


class _File(_Output):
    longest_bytes = LONGEST_RECORD_BYTES

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.name = str(path)
        self._path = path
        self._descriptor = -1
        self._opened_by = 0  # process id
        self._looked_at = 0.0
        self._failed = False

    def __del__(self) -> None:
        self._close()

    def _append(self, line: bytes, now: float) -> None:
        if self._opened_by != os.getpid() or self._was_rotated(now):
            self._close()
        looks = 1 if self._failed else 0
        if self._descriptor < 0:
            self._open(now)
            looks = TAIL_LOOKS
        if looks and not _ends_whole(self._descriptor, looks):
            line = b"\n" + line  # ends what a crash or a full disk cut off, so that it takes no other record with it
        self._failed = True
        _write_all(self._descriptor, line)
        self._failed = False

    def _open(self, now: float) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o640)
        self._opened_by = os.getpid()
        self._looked_at = now

    def _was_rotated(self, now: float) -> bool:
        if self._descriptor < 0 or abs(now - self._looked_at) < ROTATION_SECONDS:
            return False
        self._looked_at = now
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
        except FileNotFoundError:
            return True

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def _write_all(descriptor: int, line: bytes) -> None:
    while line:
        line = line[os.write(descriptor, line) :]


def _ends_whole(descriptor: int, looks: int) -> bool:
    """Whether a file is empty or ends with a newline. Another process may be in the middle of a long record, so there may be a second look."""
    for look in range(looks):
        if look:
            time.sleep(TAIL_PAUSE_SECONDS)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not status.st_size or os.pread(descriptor, 1, status.st_size - 1) == b"\n":
            return True
    return False
