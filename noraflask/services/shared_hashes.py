"""Running hashes of uploads in memory that the workers share: whichever worker gets the next chunk goes on from where the last one came to.

A hash is a saved state and the offset that it stands for, under a seal over both and over the session. So what a killed process left half written, or
what was put in its place meanwhile, is not taken; the file is hashed from its beginning then. Nothing here is the truth, the truth is the file.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import time

from noraflask.services.hashing import RunningHash
from noraflask.services.resumable_sha256 import STATE_BYTES
from noraflask.services.shared_lock import SharedLock
from noraflask.services.shared_table import NOBODY, SharedTable, keyed_hash

SLOTS = 4096
"""152 bytes each: 0.6 MB, of which the kernel gives only the pages that are used. Of a full set, the hash goes that was saved longest ago."""
_OFFSET = struct.Struct("=Q")
_SEAL_BYTES = 16
_BODY_BYTES = _OFFSET.size + STATE_BYTES
_RECORD_BYTES = _BODY_BYTES + _SEAL_BYTES


class SharedHashes:
    """What is asked for a session is asked by who holds its upload's lock, but for forget()."""

    def __init__(self, slots: int = SLOTS) -> None:
        """Made in the master, before the workers are forked."""
        self._secret = os.urandom(16)
        self._lock = SharedLock()
        self._keys = memoryview(mmap.mmap(-1, 8 * slots)).cast("Q")
        self._table = SharedTable(self._keys)
        self._saved_at = memoryview(mmap.mmap(-1, 8 * slots)).cast("q")
        self._records = memoryview(mmap.mmap(-1, _RECORD_BYTES * slots))

    def take(self, session: str, size: int) -> RunningHash:
        """Of an upload that is so long. Without the lock, since the seal tells when somebody was writing."""
        slot = self._table.slot_of(keyed_hash(self._secret, session)) if size else None
        if slot is None:
            return RunningHash()
        record = bytes(self._record(slot))
        body = record[:_BODY_BYTES]
        (offset,) = _OFFSET.unpack_from(body)
        if record[_BODY_BYTES:] != self._seal(session, body) or offset > size:
            return RunningHash()
        return RunningHash(saved=(offset, body[_OFFSET.size :]))

    def put(self, session: str, running: RunningHash) -> None:
        """Save it, once so much was hashed that it is worth while."""
        if not running.is_worth_saving():
            return
        key, body = keyed_hash(self._secret, session), _OFFSET.pack(running.offset) + running.state()
        record = body + self._seal(session, body)
        with self._lock:
            slot = self._table.slot_of(key)
            if slot is None:
                slot = self._table.slot_for(key, self._saved_at.__getitem__)
            self._record(slot)[:] = record
            self._saved_at[slot] = time.monotonic_ns()
            self._keys[slot] = key
        running.saved = running.offset

    def forget(self, session: str, beyond: int = 0) -> None:
        key = keyed_hash(self._secret, session)
        if self._table.slot_of(key) is None:  # as of nearly all small uploads
            return
        with self._lock:
            slot = self._table.slot_of(key)
            if slot is not None and _OFFSET.unpack_from(self._record(slot))[0] > beyond:
                self._keys[slot], self._saved_at[slot] = NOBODY, 0

    def _record(self, slot: int) -> memoryview:
        return self._records[slot * _RECORD_BYTES : (slot + 1) * _RECORD_BYTES]

    def _seal(self, session: str, body: bytes) -> bytes:
        return hashlib.blake2b(session.encode() + body, key=self._secret, digest_size=_SEAL_BYTES).digest()
