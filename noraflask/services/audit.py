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
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from noraflask.config import AuditConfig
from noraflask.recording import spoil
from noraflask.services.append_file import AppendFile
from noraflask.services.metrics import catalogue
from noraflask.services.metrics.counting import NullMetrics

LONGEST_RECORD_BYTES = 65536
LONGEST_ON_STDOUT_BYTES = select.PIPE_BUF
"""Longer ones are no longer written to a pipe in one piece."""
REPORT_SECONDS = 60.0
STDOUT = 1

_json = json.JSONEncoder(separators=(",", ":")).encode

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """Fields in the order of the line."""

    action: str
    actor: str
    artifact: str = ""
    registry: str = ""
    """The repository's name."""
    detail: str = ""
    outcome: str = "ok"
    """ok, denied or failed."""
    source: str = ""
    """How the actor was recognised."""
    client: str = ""
    request_id: str = ""


OF_NORA = ("action", "actor", "artifact", "registry", "detail")
"""Fields that stand in each line, empty or not."""


class Audit:
    """Made before the workers are forked or after, and safe to use from any thread of any of them."""

    def __init__(self, config: AuditConfig, default_path: Path, clock: Callable[[], float] = time.time, metrics: NullMetrics | None = None) -> None:
        self._clock = clock
        self._metrics = metrics or NullMetrics()
        self._outputs: list[_Output] = []
        if config.mode in ("file", "both"):
            self._outputs.append(_to_file(config.path or default_path))
        if config.mode in ("stdout", "both"):
            self._outputs.append(_to_stdout())

    @property
    def lost(self) -> int:
        """How many records this process could not write, counted for each output."""
        return sum(output.lost for output in self._outputs)

    def record(self, record: Record) -> None:
        """Never raises: what cannot be written is counted and logged."""
        spoil("a record of the audit log")
        if not self._outputs:
            return
        now = self._clock()
        fields = {"ts": timestamp(now)}
        for name in record.__slots__:
            value = getattr(record, name)
            if value or name in OF_NORA:
                fields[name] = value
        for output in self._outputs:
            if not output.write(fields, now):
                self._metrics.count(catalogue.AUDIT_LOST)


def timestamp(now: float) -> str:
    """RFC 3339, in UTC, with milliseconds."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def render(fields: dict[str, str], longest_bytes: int) -> bytes:
    """The record as a line. ASCII alone, so no character of it can end the line; where it is too long `detail` is cut first, then the longest."""
    line = _json(fields)
    if len(line) < longest_bytes:
        return line.encode() + b"\n"
    kept = {name: value[:longest_bytes] for name, value in fields.items()}
    line = _json(kept)
    for name in sorted(kept, key=lambda name: (name != "detail", -len(kept[name]))):
        excess = len(line) + 1 - longest_bytes
        if excess <= 0:
            break
        kept[name] = _cut(kept[name], max(len(_json(kept[name])) - excess, longest_bytes // 16))
        line = _json(kept)
    return line.encode() + b"\n"


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
    """Where records go, and what happens when that fails."""

    def __init__(self, name: str, longest_bytes: int, append: Callable[[bytes, float], None]) -> None:
        """`append`: writes a line, at this time. Raises OSError."""
        self.lost = 0
        self._name, self._longest_bytes, self._append = name, longest_bytes, append
        self._unreported = 0
        self._reported_at: float | None = None
        self._lock = threading.RLock()  # a signal handler may make a record while its thread makes another

    def write(self, fields: dict[str, str], now: float) -> bool:
        """False when the record is lost."""
        with self._lock:
            try:
                self._append(render(fields, self._longest_bytes), now)
            except Exception as error:  # whatever it is, the request that is recorded goes on
                self.lost += 1
                self._unreported += 1
                self._report(now, f"cannot be written: {getattr(error, 'strerror', None) or error}")
                return False
            if self._unreported:
                self._report(now, "is written again")
            return True

    def _report(self, now: float, what: str) -> None:
        if self._reported_at is None or abs(now - self._reported_at) >= REPORT_SECONDS:
            log.error("the audit log (%s) %s; %d records were lost since the last such message", self._name, what, self._unreported)
            self._reported_at = now
            self._unreported = 0


def _to_file(path: Path) -> _Output:
    file = AppendFile()
    return _Output(str(path), LONGEST_RECORD_BYTES, lambda line, now: file.append(path, line, now))


def _to_stdout() -> _Output:
    return _Output("standard output", LONGEST_ON_STDOUT_BYTES, lambda line, now: _write_all(STDOUT, line))


def _write_all(descriptor: int, line: bytes) -> None:
    while line:
        line = line[os.write(descriptor, line) :]
