"""Failed logins, counted for all workers of a server, and who has to wait before another password is checked.

pair     client and account: from the 5th different wrong password on it waits 2^(n-5) seconds
client   whatever the account: from the 50th within half an hour on it waits 2^(n-50) seconds
account  whatever the client: after more than 100 in a quarter of an hour, clients that are new to it wait from the first on

Nothing else is keyed by the account alone: who logged in before is never kept out by somebody else's failures at another address.

The counts lie in memory that the workers share, of a fixed size. Where it is full the least recent count is forgotten, and one that locks somebody
last of all.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from noraflask.errors import TooManyLogins
from noraflask.services.client_network import network_of
from noraflask.services.shared_lock import SharedLock
from noraflask.services.shared_table import NOBODY, SharedTable, keyed_hash

PAIR_LIMIT = 5
FIRST_LIMIT = 1
CLIENT_LIMIT = 50
CLIENT_WINDOW_SECONDS = 1800.0
ACCOUNT_LIMIT = 100
ACCOUNT_WINDOW_SECONDS = 900.0
LONGEST_LOCK_SECONDS = 900.0
FORGET_SECONDS = 1800.0
KNOWN_SECONDS = 30 * 86400.0
KNOWN_REFRESH_SECONDS = 3600.0

SLOTS = 16384
KNOWN_SLOTS = 8192
MARKS = 8


class LockedOut(TooManyLogins):
    """No password of this client may be tried now, for this account or for any."""

    def __init__(self, message: str | None = None, detail: object = None, retry_after_seconds: float = 1) -> None:
        self.retry_after_seconds = max(1, math.ceil(retry_after_seconds))
        when = f"try again in {self.retry_after_seconds} second{'s' * (self.retry_after_seconds > 1)}, or log in with an API token"
        super().__init__(f"{message or 'too many failed logins from this address'}; {when}", detail, self.retry_after_seconds)


class Lockout:
    def __init__(self, clock: Callable[[], float] = time.monotonic, secret: bytes | None = None, slots: int = SLOTS) -> None:
        """Made in the master, before the workers are forked. The clock must be the same in all of them; on Linux the monotonic one is."""
        self._clock = clock
        self._secret = secret or os.urandom(16)
        self._lock = SharedLock()
        self._wrong = _Table(slots, FORGET_SECONDS)
        self._known = _Table(KNOWN_SLOTS, KNOWN_SECONDS)
        shared = memoryview(mmap.mmap(-1, 32))
        self._active_until = shared[:8].cast("d")
        self._totals = shared[8:].cast("Q")  # failures, repeated, refused

    @property
    def active(self) -> bool:
        """Whether anybody at all may have to wait. Almost free: it takes no lock."""
        return self._clock() < self._active_until[0]

    def counters(self) -> dict[str, int]:
        """Totals of all workers: wrong passwords, how many of them were the same one again, and attempts that were refused unseen."""
        failures, repeated, refused = self._totals
        return {"failures": failures, "repeated": repeated, "refused": refused}

    def check(self, client: str, account: str) -> None:
        """Raises LockedOut when no password of this client for this account may be checked now."""
        if not self.active:
            return
        keys = self._keys(client, account)
        with self._lock:
            now = self._clock()
            wait = max(self._wrong.find(key, now).wait_seconds(now) for key in (keys.pair, keys.client))
            self._totals[2] += bool(wait)
        if wait:
            raise LockedOut(retry_after_seconds=wait)

    def failed(self, client: str, account: str, password: str) -> None:
        """A wrong password. The same one again from the same client is not counted again: it is a machine with an old password, no guess."""
        keys = self._keys(client, account)
        mark = self._hash("password", str(keys.pair), password)
        with self._lock:
            now = self._clock()
            self._totals[0] += 1
            pair = self._wrong.find(keys.pair, now)
            repeated = mark in pair.marks
            pair.last = now
            if not repeated:
                pair.marks[pair.count % MARKS] = mark
                pair.count += 1
                self._count_alone(keys, now)
                self._hold(pair, FIRST_LIMIT if self._is_pressed(keys, now) else PAIR_LIMIT, now)
            self._totals[1] += repeated
            self._wrong.keep(pair, now)

    def succeeded(self, client: str, account: str) -> None:
        """The right password: the pair starts afresh, and is known from now on. What the client did to other accounts stays counted."""
        keys = self._keys(client, account)
        if self._nothing_to_note(keys):
            return
        with self._lock:
            now = self._clock()
            self._wrong.drop(keys.pair)
            known = self._known.find(keys.pair, now)
            known.last = now
            self._known.keep(known, now)

    def _nothing_to_note(self, keys: _Keys) -> bool:
        """Read without the lock, since this is asked for every request with a password; a torn record reads as an absent one."""
        now = self._clock()
        return now - self._known.find(keys.pair, now).last < KNOWN_REFRESH_SECONDS and not self._wrong.find(keys.pair, now).count

    def _count_alone(self, keys: _Keys, now: float) -> None:
        client = self._wrong.find(keys.client, now)
        client.count_in(CLIENT_WINDOW_SECONDS, now)
        self._hold(client, CLIENT_LIMIT, now)
        self._wrong.keep(client, now)
        account = self._wrong.find(keys.account, now)
        account.count_in(ACCOUNT_WINDOW_SECONDS, now)
        self._wrong.keep(account, now)

    def _hold(self, entry: _Entry, limit: int, now: float) -> None:
        if entry.count >= limit:
            entry.until = now + min(LONGEST_LOCK_SECONDS, 2.0 ** min(entry.count - limit, 10))
            self._activate(entry.until)

    def _activate(self, until: float) -> None:
        self._active_until[0] = max(self._active_until[0], until)

    def _is_pressed(self, keys: _Keys, now: float) -> bool:
        """Do many clients guess at the account, and is this one new to it? It gets one guess, then waits; so nobody takes the turn of a user."""
        account = self._wrong.find(keys.account, now)
        return sum(account.bins(ACCOUNT_WINDOW_SECONDS, now)) > ACCOUNT_LIMIT and not self._known.find(keys.pair, now).remembered

    def _keys(self, client: str, account: str) -> _Keys:
        place = network_of(client)
        return _Keys(self._hash("pair", place, account), self._hash("client", place), self._hash("account", account))

    def _hash(self, purpose: str, *parts: str) -> int:
        return keyed_hash(self._secret, purpose, *parts)


@dataclass(frozen=True, slots=True)
class _Keys:
    pair: int
    client: int
    account: int


@dataclass(slots=True)
class _Entry:
    key: int
    last: float = -math.inf
    """Time of the last failure, or, of a known pair, of the last success."""
    until: float = 0.0
    """Locked until then."""
    count: int = 0
    marks: list[int] = field(default_factory=lambda: [0] * MARKS)
    """Of a pair: the last wrong passwords, hashed. Of a client or an account: counts of the latest eighths of its window, newest first."""
    slot: int | None = None

    @property
    def remembered(self) -> bool:
        return self.slot is not None

    def wait_seconds(self, now: float) -> float:
        """0 when it is not locked. Later than any lock can be is no lock: the record was torn."""
        return self.until - now if now < self.until <= now + LONGEST_LOCK_SECONDS else 0.0

    def bins(self, window_seconds: float, now: float) -> list[int]:
        if not self.remembered:
            return [0] * MARKS
        width = window_seconds / MARKS
        passed = min(MARKS, max(0, int(now // width) - int(self.last // width)))
        return [0] * passed + self.marks[: MARKS - passed]

    def count_in(self, window_seconds: float, now: float) -> None:
        """One more; `count` is then that of the window, which is short by up to an eighth."""
        self.marks = self.bins(window_seconds, now)
        self.marks[0] += 1
        self.count = sum(self.marks)
        self.last = now


class _Table:
    """Entries by key in shared memory. All but `find` need the lock."""

    RECORD = struct.Struct(f"=QddQ{MARKS}Q")
    WORDS = RECORD.size // 8

    def __init__(self, slots: int, forget_seconds: float) -> None:
        self._forget_seconds = forget_seconds
        self._memory = mmap.mmap(-1, slots * self.RECORD.size)
        self._table = SharedTable(memoryview(self._memory).cast("Q")[:: self.WORDS])

    def find(self, key: int, now: float) -> _Entry:
        """The entry of this key; a blank one when there is none, or none that is to be remembered."""
        slot = self._table.slot_of(key)
        entry = _Entry(key) if slot is None else self._read(slot)
        return entry if self._lives(entry, now) else _Entry(key)

    def keep(self, entry: _Entry, now: float) -> None:
        """Absent while it is written, so that a process which is killed here leaves an entry of nobody rather than one with another's counts."""
        slot = self._table.slot_of(entry.key)
        if slot is None:
            slot = self._table.slot_for(entry.key, lambda slot: self._worth(self._read(slot), now))
        self.RECORD.pack_into(self._memory, slot * self.RECORD.size, NOBODY, entry.last, entry.until, entry.count, *entry.marks)
        self._table.keys[slot] = entry.key

    def drop(self, key: int) -> None:
        slot = self._table.slot_of(key)
        if slot is not None:
            self._table.keys[slot] = NOBODY

    def _worth(self, entry: _Entry, now: float) -> tuple[bool, float]:
        """The entry of a full set that sorts first is the one that is missed least."""
        lives = bool(entry.key) and self._lives(entry, now)
        return lives and entry.wait_seconds(now) > 0, entry.last if lives else -math.inf

    def _lives(self, entry: _Entry, now: float) -> bool:
        return 0 <= now - entry.last <= self._forget_seconds

    def _read(self, slot: int) -> _Entry:
        key, last, until, count, *marks = self.RECORD.unpack_from(self._memory, slot * self.RECORD.size)
        return _Entry(key, last, until, count, marks, slot)
