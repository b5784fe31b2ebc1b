"""What the master hands to its workers on a reload: the last good snapshot, in memory that they share, found by its fingerprint.

Two places in one nameless file take turns: a worker that reads while the master writes gets the old snapshot whole, or looks again. Nothing of it
is on any disk, and nothing stays behind.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import pickle
import struct
from dataclasses import dataclass
from typing import Any, cast

_HEAD = struct.Struct("=QQ32s")  # offset, length, SHA-256
_KEPT = 3  # files of large data: a worker that is late may still be opening the one before
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_TRIES = 100

Published = tuple[Any, str, tuple[int, int] | None, int]
"""The snapshot; of its large data the path to it through the master, the identity of the file, the length."""


@dataclass(frozen=True)
class Offer:
    """A snapshot that is ready to be published."""

    view: bytes | mmap.mmap
    """Of its large data."""
    descriptor: int | None
    head: bytes
    end: int


class Handover:
    def __init__(self) -> None:
        """Made in the master, before the workers are forked."""
        self._file = os.memfd_create("nora-handover")
        os.ftruncate(self._file, _HEAD.size)
        self._large: list[int] = []

    def prepare(self, snapshot: Any, large: bytes | memoryview = b"") -> Offer:
        """Only the master does. All that could fail is done; no worker sees it yet. `large` goes into a file of its own, whose pages all share."""
        if not large:
            return self._write(pickle.dumps((snapshot, "", None, 0)), b"", None)
        descriptor = os.memfd_create("nora-policy", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            written = 0
            while written < len(large):
                written += os.write(descriptor, large[written:])
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            view = mmap.mmap(descriptor, len(large), flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
            data = pickle.dumps((snapshot, f"/proc/{os.getpid()}/fd/{descriptor}", _identity(descriptor), len(large)))
            return self._write(data, view, descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def withdraw(self, offer: Offer) -> None:
        """It is not published; what was before stays."""
        if offer.descriptor is not None:
            os.close(offer.descriptor)

    def publish(self, offer: Offer) -> None:
        """From now on it is what workers find."""
        os.pwrite(self._file, offer.head, 0)
        os.ftruncate(self._file, offer.end)  # what lay behind it is the old one, or older
        if offer.descriptor is not None:
            self._large.append(offer.descriptor)
            while len(self._large) > _KEPT:
                os.close(self._large.pop(0))

    def leave_to_master(self) -> None:
        """In a new worker: what it has inherited of the master's files would keep old data in memory as long as it lives."""
        while self._large:
            os.close(self._large.pop())

    def _write(self, data: bytes, view: bytes | mmap.mmap, descriptor: int | None) -> Offer:
        """Into the place that no worker reads now."""
        before, length, _ = _HEAD.unpack(os.pread(self._file, _HEAD.size, 0))
        fits_in_front = length and before - _HEAD.size >= len(data)
        start = _HEAD.size if fits_in_front or not length else before + length
        written = 0
        while written < len(data):
            written += os.pwrite(self._file, data[written:], start + written)
        return Offer(view, descriptor, _HEAD.pack(start, len(data), hashlib.sha256(data).digest()), start + len(data))

    def current(self) -> tuple[Any, mmap.mmap | None] | None:
        """The last snapshot that was published, with a view of its large data; None when there was none."""
        for _ in range(_TRIES):
            found = self._read()
            if found is None:
                return None
            snapshot, path, identity, size = found
            if not path:
                return snapshot, None
            try:
                file = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue  # the master has published so often since that it is gone: there is a newer one
            try:
                if _identity(file) == identity:  # else the number stands for another file by now
                    return snapshot, mmap.mmap(file, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
            finally:
                os.close(file)
        raise RuntimeError("the snapshot changes faster than it can be read")

    def _read(self) -> Published | None:
        for _ in range(_TRIES):
            start, length, digest = _HEAD.unpack(os.pread(self._file, _HEAD.size, 0))
            if not length:
                return None
            data = os.pread(self._file, length, start)
            if hashlib.sha256(data).digest() == digest:
                return cast("Published", pickle.loads(data))  # noqa: S301 (the file has no name: only this server's processes can write to it)
        raise RuntimeError("the snapshot changes faster than it can be read")


def _identity(descriptor: int) -> tuple[int, int]:
    """Of the file itself: numbers of descriptors are used again."""
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino
