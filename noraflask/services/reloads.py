"""Which state each worker has, and how reloads went: in memory that all processes of a server share, so that any of them can say it of all."""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

SLOTS = 256
_HEAD = struct.Struct("=QQdd16s16s")  # reloads, failures, last success, last failure, fingerprints of policy and state
_SLOT = struct.Struct("=Qd16s16s")  # pid, since when, fingerprints of policy and state
_SUM = struct.Struct("=I")  # CRC-32 after each of them: who reads while another process writes looks again
_HEAD_BYTES, _SLOT_BYTES = _HEAD.size + _SUM.size, _SLOT.size + _SUM.size
_NOBODY = bytes(8)
_TRIES = 1000


@dataclass(frozen=True, slots=True)
class WorkerState:
    pid: int
    fingerprint: str
    """Of its policy."""
    state: str
    """Fingerprint of all that a reload brings."""
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
    state: str
    """Likewise of the state."""


class Reloads:
    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """Made in the master, before the workers are forked."""
        self._memory = mmap.mmap(-1, _HEAD_BYTES + SLOTS * _SLOT_BYTES)
        self.master = os.getpid()
        self._clock = clock
        self._lock = threading.Lock()

    # The master alone.

    def succeeded(self, fingerprint: str, state: str, at_start: bool = False) -> None:
        figures = self.figures()
        self._write(ReloadFigures(figures.succeeded + (not at_start), figures.failed, self._clock(), figures.last_failure, fingerprint, state))

    def failed(self) -> None:
        figures = self.figures()
        self._write(replace(figures, failed=figures.failed + 1, last_failure=self._clock()))

    def _write(self, figures: ReloadFigures) -> None:
        told = figures.succeeded, figures.failed, figures.last_success, figures.last_failure
        self._put(0, _HEAD.pack(*told, figures.fingerprint.encode(), figures.state.encode()))

    # Each worker.

    def adopted(self, fingerprint: str, state: str) -> None:
        """This process has that state, all of it, from now on."""
        with self._lock:
            pid = os.getpid()
            turn = [(pid + step) % SLOTS for step in range(SLOTS)]  # workers that start at once do not look at the same places
            own = next((slot for slot in turn if self._pid(slot) == pid), None)
            if own is None:
                own = next((slot for slot in turn if not self._is_ours(self._pid(slot))), turn[-1])
            self._put(_place(own), _SLOT.pack(pid, self._clock(), fingerprint.encode(), state.encode()))

    # Anybody.

    def figures(self) -> ReloadFigures:
        succeeded, failed, last_success, last_failure, fingerprint, state = self._get(0, _HEAD)
        return ReloadFigures(succeeded, failed, last_success, last_failure, _text(fingerprint), _text(state))

    def workers(self) -> list[WorkerState]:
        found = []
        for slot in range(SLOTS):
            at = _place(slot)
            if self._memory[at : at + 8] == _NOBODY:  # most are: /health asks this often
                continue
            pid, since, fingerprint, state = self._get(at, _SLOT)
            if self._is_ours(pid):
                found.append(WorkerState(pid, _text(fingerprint), _text(state), since))
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


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode()


def _place(slot: int) -> int:
    return _HEAD_BYTES + slot * _SLOT_BYTES
