"""What the master hands to its workers on a reload: the last good snapshot, in memory that they share, found by its fingerprint.

Two places in one nameless file take turns: a worker that reads while the master writes gets the old snapshot whole, or looks again. Nothing of it
is on any disk, and nothing stays behind.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
from typing import Any

_HEAD = struct.Struct("=QQ32s")  # offset, length, SHA-256
_TRIES = 100


class Handover:
    def __init__(self) -> None:
        """Made in the master, before the workers are forked."""
        self._file = os.memfd_create("nora-handover")
        os.ftruncate(self._file, _HEAD.size)

    def publish(self, snapshot: Any) -> None:
        """Only the master does."""
        data = pickle.dumps(snapshot)
        before, length, _ = _HEAD.unpack(os.pread(self._file, _HEAD.size, 0))
        fits_in_front = length and before - _HEAD.size >= len(data)
        start = _HEAD.size if fits_in_front or not length else before + length
        written = 0
        while written < len(data):
            written += os.pwrite(self._file, data[written:], start + written)
        os.pwrite(self._file, _HEAD.pack(start, len(data), hashlib.sha256(data).digest()), 0)
        os.ftruncate(self._file, start + len(data))  # what lay behind it is the old one, or older

    def current(self) -> Any:
        """The last snapshot that was published; None when there was none."""
        for _ in range(_TRIES):
            start, length, digest = _HEAD.unpack(os.pread(self._file, _HEAD.size, 0))
            if not length:
                return None
            data = os.pread(self._file, length, start)
            if hashlib.sha256(data).digest() == digest:
                return pickle.loads(data)  # noqa: S301 (the file has no name: only this server's processes can write to it)
        raise RuntimeError("the snapshot changes faster than it can be read")
