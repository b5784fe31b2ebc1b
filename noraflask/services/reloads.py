"""Which policy each worker has, and how reloads went: in memory that all processes of a server share, so that any of them can say it of all."""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

SLOTS = 256
_HEAD = struct.Struct("=QQdd16s")  # reloads, failures, last success, last failure, fingerprint
_SLOT = struct.Struct("=Qd16s")  # pid, since when, fingerprint
_SUM = struct.Struct("=I")  # CRC-32 after each of them: who reads while another process writes looks again
_HEAD_BYTES, _SLOT_BYTES = _HEAD.size + _SUM.size, _SLOT.size + _SUM.size
_TRIES = 1000


@dataclass(frozen=True, slots=True)
class WorkerPolicy:
    pid: int
    fingerprint: str
    since: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class ReloadFigures:
    succeeded: int
    failed: int
    last_success: float
    """Seconds since the epoch; the start counts as one."""
    last_failure: float
    """0: there was none."""
    fingerprint: str
    """Of the policy that all workers should have."""


class Reloads:
    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """Made in the master, before the workers are forked."""
        self._memory = mmap.mmap(-1, _HEAD_BYTES + SLOTS * _SLOT_BYTES)
        self.master = os.getpid()
        self._clock = clock
        self._lock = threading.Lock()

    # The master alone.

    def succeeded(self, fingerprint: str, at_start: bool = False) -> None:
        figures = self.figures()
        self._write(figures.succeeded + (not at_start), figures.failed, self._clock(), figures.last_failure, fingerprint)

    def failed(self) -> None:
        figures = self.figures()
        self._write(figures.succeeded, figures.failed + 1, figures.last_success, self._clock(), figures.fingerprint)

    def _write(self, succeeded: int, failed: int, last_success: float, last_failure: float, fingerprint: str) -> None:
        self._put(0, _HEAD.pack(succeeded, failed, last_success, last_failure, fingerprint.encode()))

    # Each worker.

    def adopted(self, fingerprint: str) -> None:
        """This process has that policy from now on."""
        with self._lock:
            pid = os.getpid()
            turn = [(pid + step) % SLOTS for step in range(SLOTS)]  # workers that start at once do not look at the same places
            own = next((slot for slot in turn if self._pid(slot) == pid), None)
            if own is None:
                own = next((slot for slot in turn if not self._is_ours(self._pid(slot))), turn[-1])
            self._put(_place(own), _SLOT.pack(pid, self._clock(), fingerprint.encode()))

    # Anybody.

    def figures(self) -> ReloadFigures:
        succeeded, failed, last_success, last_failure, fingerprint = self._get(0, _HEAD)
        return ReloadFigures(succeeded, failed, last_success, last_failure, fingerprint.rstrip(b"\0").decode())

    def workers(self) -> list[WorkerPolicy]:
        found = []
        for slot in range(SLOTS):
            pid, since, fingerprint = self._get(_place(slot), _SLOT)
            if self._is_ours(pid):
                found.append(WorkerPolicy(pid, fingerprint.rstrip(b"\0").decode(), since))
        return found

    def _pid(self, slot: int) -> int:
        pid: int = self._get(_place(slot), _SLOT)[0]
        return pid

    def _put(self, at: int, record: bytes) -> None:
        self._memory[at : at + len(record) + _SUM.size] = record + _SUM.pack(crc32(record))

    def _get(self, at: int, shape: struct.Struct) -> tuple[Any, ...]:
        """What was written last, whole. Zeros where nothing was, or where a process was killed while it wrote."""
        for _ in range(_TRIES):
            record = self._memory[at : at + shape.size + _SUM.size]
            if record[shape.size :] == _SUM.pack(crc32(record[: shape.size])):
                return shape.unpack(record[: shape.size])
            if not any(record):
                break
        return shape.unpack(bytes(shape.size))

    def _is_ours(self, pid: int) -> bool:
        """A process of this server that lives; its number may be another's by now."""
        if pid in (0, self.master, os.getpid()):
            return pid != 0
        try:
            state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            return False
        return state not in "ZX" and int(parent) == self.master


def _place(slot: int) -> int:
    return _HEAD_BYTES + slot * _SLOT_BYTES
