"""API tokens: `nra_` and 32 hex digits, kept as hashes, in NORA's form.

    <id>.json       JSON: what the token may and until when; the id is the first 16 hex digits of the token's SHA-256
    revoked/<id>    text: when the token was revoked, seconds since the epoch; it is, whatever else is there
    used/<id>       text: when it was last used, seconds since the epoch

A token has 128 random bits, so its plain SHA-256 gives nothing away; records that NORA made hold an Argon2id hash and work as well.
Revoking creates the mark before the record goes. So a rotation that writes the record at the same moment, on another node, cannot bring a token back.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from noraflask.errors import AlreadyExists, NoraError
from noraflask.services.auth.overdue import Overdue
from noraflask.services.auth.principal import Scope
from noraflask.services.auth.scopes import parse_scopes, render_scope
from noraflask.services.bounded_memory import BoundedMemory
from noraflask.services.documents import Documents

FORM = re.compile(r"nra_[0-9a-f]{32}\Z")
ID = re.compile(r"[0-9a-f]{16}\Z")
FRESH_SECONDS = 0.5
"""A revocation takes effect within this time in every worker of every node."""
USED_SECONDS = 60
"""A use is not noted again within this time."""
KEPT_SECONDS = 30 * 86400
"""How long after its end a token is still listed."""
MARK_SECONDS = 86400
"""How long a mark must outlive its record: longer than any rotation that may be under way."""
RECORDS_KEPT = 8192
READ_BYTES = 4 * 1024 * 1024
"""Of the records that a process remembers."""
RECORD_BYTES = 600
"""One of them without its texts."""
MAX_SECONDS = 3650 * 86400

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TokenRecord:
    id: str
    hash: str
    user: str
    role: str
    created_at: int
    expires_at: int
    description: str | None = None
    scopes: tuple[Scope, ...] | None = None
    service: bool | None = False
    """Made by an administrator: its role is its right. Else it never exceeds its owner. None: NORA made it, which does not say."""
    lifetime: int = 0
    """Seconds that it was made for; a rotation takes them over."""
    last_used: int | None = None

    def is_expired(self, now: float) -> bool:
        return self.expires_at <= now


def _is_fresh(read: tuple[TokenRecord | None, float], now: float) -> bool:
    return 0 <= now - read[1] < FRESH_SECONDS


class Tokens:
    def __init__(self, documents: Documents, remember_seconds: float = 300, clock: Callable[[], float] = time.time) -> None:
        """`remember_seconds`: how long an Argon2 hash that was right is not computed again."""
        self._documents = documents
        self._remember_seconds = remember_seconds
        self._clock = clock
        self._read: BoundedMemory[str, tuple[TokenRecord | None, float]] = BoundedMemory(READ_BYTES)
        self._right: dict[str, tuple[str, float]] = {}  # SHA-256 of a token -> the Argon2 hash that it fits
        self._used: dict[str, int] = {}
        self._noted: dict[str, int] = {}
        self._lock = threading.Lock()
        self._overdue = Overdue()

    def now(self) -> float:
        return self._clock()

    # Making and ending.

    def mint(
        self,
        user: str,
        role: str,
        lifetime: int,
        description: str | None = None,
        scopes: tuple[Scope, ...] | None = None,
        service: bool | None = False,
        made_for: int = 0,
    ) -> tuple[str, TokenRecord]:
        """A new token and its record. The token is not kept anywhere. `lifetime` in seconds; `made_for`: what a rotation gives, if another."""
        now = int(self._clock())
        while True:
            token = f"nra_{secrets.token_hex(16)}"
            hashed = hashlib.sha256(token.encode()).hexdigest()
            record = TokenRecord(hashed[:16], hashed, user, role, now, now + lifetime, description, scopes, service, made_for or lifetime)
            try:
                self._documents.create(f"{record.id}.json", render_record(record))
            except AlreadyExists:
                continue
            self._read.forget(record.id)
            return token, record

    def revoke(self, id: str) -> bool:
        """False when there is no such token. Effective at once here, within FRESH_SECONDS elsewhere."""
        if self._load(id) is None:
            return False
        self._mark(id)
        self._end(id)
        return True

    def rotate(self, id: str, overlap: int = 0, keep_end: bool = False) -> tuple[str, TokenRecord] | None:
        """A new token with the rights of an old one, which ends after `overlap` seconds; None when there is no such token, or no longer.

        `keep_end`: the new one ends when the old one would have; else it lives as long as the old one was made for.
        """
        old, now = self._load(id), int(self._clock())  # as it is now: a revocation in another worker must not be outrun
        if old is None or old.is_expired(now):
            return None
        made_for = old.lifetime or old.expires_at - old.created_at
        lifetime = old.expires_at - now if keep_end else made_for
        token, record = self.mint(old.user, old.role, lifetime, old.description, old.scopes, old.service, made_for)
        if overlap <= 0 and not self._mark(id):  # somebody else was first
            self.revoke(record.id)
            return None
        if overlap <= 0:
            self._end(id)
        elif now + overlap < old.expires_at:
            self._documents.update(f"{id}.json", lambda data: data and render_record(replace(parse_record(id, data), expires_at=now + overlap)))
            self._read.forget(id)
        return token, record

    def _mark(self, id: str) -> bool:
        """False when it is there already."""
        try:
            self._documents.create(f"revoked/{id}", str(int(self._clock())).encode())
        except AlreadyExists:
            return False
        return True

    def _end(self, id: str) -> None:
        self._documents.delete(f"{id}.json")
        self._documents.delete(f"used/{id}")
        self._read.forget(id)

    # Asking.

    def check(self, token: str) -> TokenRecord | None:
        """The record of a token that is right and not revoked; it may be expired. Raises what storage raises when it cannot be read."""
        if not FORM.match(token):
            return None
        hashed = hashlib.sha256(token.encode()).hexdigest()
        record = self.find(hashed[:16])
        if record is None:
            return None
        if record.hash.startswith("$argon2"):
            return record if self._fits_argon2(token, hashed, record.hash) else None
        return record if hmac.compare_digest(record.hash, hashed) else None

    def still_known(self, record: TokenRecord) -> bool:
        """Would find() give it? Without asking storage: False where that has to be asked (overdue.py)."""
        known, now = self._read.get(record.id), self._clock()
        if known is None or known[0] is not record:
            return False
        return _is_fresh(known, now) or self._overdue.may_go_on(record.id, known[1] + FRESH_SECONDS, now)

    def find(self, id: str) -> TokenRecord | None:
        """By id, as it was at most FRESH_SECONDS ago; the same object as long as nothing has changed."""
        known = self._read.get(id)
        now = self._clock()
        if known is not None and _is_fresh(known, now):
            return known[0]
        record = self._load(id)
        if known is not None and known[0] == record:
            record = known[0]
        self._read.put(id, (record, now), RECORD_BYTES + 3 * len(render_record(record)) if record else 0)
        return record

    def _load(self, id: str) -> TokenRecord | None:
        data = self._documents.read(f"{id}.json")
        if data is None or self._documents.stat(f"revoked/{id}") is not None:
            return None
        try:
            return parse_record(id, data)
        except ValueError as problem:
            log.error("the record of API token %s cannot be read, it is refused: %s", id, problem)
            return None

    def _fits_argon2(self, token: str, hashed: str, argon2: str) -> bool:
        known = self._right.get(hashed)
        if known is not None and known[0] == argon2 and known[1] > self._clock():
            return True
        from argon2 import PasswordHasher
        from argon2.exceptions import Argon2Error, InvalidHashError

        try:
            PasswordHasher().verify(argon2, token)
        except (Argon2Error, InvalidHashError):
            return False
        if len(self._right) >= RECORDS_KEPT:
            self._right.clear()
        self._right[hashed] = (argon2, self._clock() + self._remember_seconds)
        return True

    def list(self, user: str | None = None) -> list[TokenRecord]:
        """Newest first; `user` None: of all."""
        records = []
        for name in self._documents.names():
            id = name.removesuffix(".json")
            record = self._readable(id) if ID.match(id) and name != id else None
            if record is not None and user in (None, record.user):
                records.append(replace(record, last_used=self._last_used(record)))
        return sorted(records, key=lambda record: (-record.created_at, record.id))

    def _readable(self, id: str) -> TokenRecord | None:
        """For lists: one record that cannot be read must not hide the others."""
        try:
            return self._load(id)
        except NoraError as problem:
            log.error("the record of API token %s cannot be read, it is left out: %s", id, problem)
            return None

    def _last_used(self, record: TokenRecord) -> int | None:
        times = [self._time_in(f"used/{record.id}"), record.last_used, self._used.get(record.id)]
        return max((time for time in times if time is not None), default=None)

    def _time_in(self, name: str) -> int | None:
        data = self._documents.read(name) or b""
        return int(data) if data.isdigit() else None

    def revoke_all(self, user: str) -> int:
        """Those that the user made or that an administrator made in the user's name; how many there were."""
        return sum(self.revoke(record.id) for record in self.list(user))

    # Uses, written now and then.

    def used(self, id: str, now: float | None = None) -> None:
        now = self._clock() if now is None else now
        if now - self._used.get(id, 0) >= USED_SECONDS:
            if len(self._used) >= RECORDS_KEPT:
                self._used, self._noted = {}, {}  # uses of the last half minute are not noted then
            self._used[id] = int(now)

    def flush(self) -> None:
        """Write down uses that are not yet: called every half minute and at the end of a worker."""
        with self._lock:
            for id, used in list(self._used.items()):
                if self._noted.get(id) == used:
                    continue
                try:
                    if self.find(id) is not None:
                        self._documents.replace(f"used/{id}", str(used).encode())
                    self._noted[id] = used
                except NoraError as problem:
                    log.warning("the last use of API tokens could not be noted: %s", problem)
                    return

    def sweep(self) -> None:
        """Forget tokens that ended long ago, and marks that nothing needs any more."""
        now = self._clock()
        for name in list(self._documents.names()):
            folder, _, last = name.rpartition("/")
            if folder:
                since = self._time_in(name) if folder in ("revoked", "used") else None
                self._sweep_mark(folder, last, is_old=since is not None and now - since > MARK_SECONDS)
            elif ID.match(last.removesuffix(".json")):
                self._sweep_record(last.removesuffix(".json"), now)

    def _sweep_mark(self, folder: str, id: str, is_old: bool) -> None:
        """`folder`: what the mark says of the token, revoked or used."""
        if not is_old:
            return
        if folder == "revoked":
            self._documents.delete(f"{id}.json")
            self._documents.delete(f"{folder}/{id}")
        elif folder == "used" and self._documents.stat(f"{id}.json") is None:
            self._documents.delete(f"{folder}/{id}")

    def _sweep_record(self, id: str, now: float) -> None:
        record = self._readable(id)
        if record is not None and record.expires_at + KEPT_SECONDS < now:
            self.revoke(record.id)


# Records as JSON.


CUT = "scoped"
"""The role that a record with scopes has for NORA, which knows none such: it refuses the token rather than forget what it is cut to."""


def render_record(record: TokenRecord) -> bytes:
    members: dict[str, Any] = {
        "token_hash": record.hash,
        "user": record.user,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "last_used": record.last_used,
        "description": record.description,
        "role": record.role,
    }
    if record.scopes is not None:
        members |= {"role": CUT, "cut_role": record.role, "scopes": [render_scope(scope) for scope in record.scopes]}
    members["service"] = record.service
    if record.lifetime:
        members["lifetime"] = record.lifetime
    return json.dumps(members).encode()


def parse_record(id: str, data: bytes) -> TokenRecord:
    """Raises ValueError."""
    members = json.loads(data)
    if not isinstance(members, dict):
        raise ValueError("not a JSON object")
    scopes = members.get("scopes")
    role = members.get("role", "read") if scopes is None else members.get("cut_role")
    if role not in ("read", "write", "admin"):
        raise ValueError("unknown role")
    return TokenRecord(
        id,
        _member(members, "token_hash", str),
        _member(members, "user", str),
        role,
        _member(members, "created_at", int),
        _member(members, "expires_at", int),
        _member(members, "description", str, None),
        parse_scopes(scopes),
        _member(members, "service", bool, None),
        _member(members, "lifetime", int, 0),
        _member(members, "last_used", int, None),
    )


_REQUIRED = object()


def _member(members: dict[str, Any], name: str, kind: type, usual: Any = _REQUIRED) -> Any:
    """A member of the type, or what is usual where it is absent or null. Raises ValueError."""
    value = members.get(name)
    if value is None and usual is not _REQUIRED:
        return usual
    if type(value) is not kind:
        raise ValueError(f"{name} is missing or of another type")
    return value
