"""What logins lean on, whatever is configured about them: users, tokens, keys, the lockout, and what is noted of a login in log, audit and metrics.

Made once, shared by the authenticators of all states (authenticator.py).
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from noraflask.services.audit import Audit, Record
from noraflask.services.auth.credentials import is_secret
from noraflask.services.auth.lockout import Lockout
from noraflask.services.auth.principal import Principal, Source
from noraflask.services.auth.signing import Signer
from noraflask.services.auth.tokens import Tokens
from noraflask.services.auth.users import Users
from noraflask.services.bounded_memory import BoundedMemory, bytes_of
from noraflask.services.documents import Documents
from noraflask.services.metrics import catalogue
from noraflask.services.metrics.counting import NullMetrics

NAME_CHARACTERS = 255
TOLD_BYTES = 1024 * 1024
TOLD_SECONDS = 60.0
SEEN_BYTES = 4 * 1024 * 1024
NOTED_SECONDS = 900.0
"""A login that goes on is noted in the audit log so often."""

log = logging.getLogger("nora.auth")

Environ = Mapping[str, Any]


@dataclass(eq=False)
class Logins:
    users: Users
    tokens: Tokens
    signer: Signer
    lockout: Lockout
    audit: Audit
    client_of: Callable[[Environ], str]
    """The address that a request is from, by its environ."""
    clock: Callable[[], float] = time.time
    metrics: NullMetrics = field(default_factory=NullMetrics)
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    """Of the hashes under which credentials are remembered."""
    seen: BoundedMemory[tuple[bytes, str], float] = field(default_factory=lambda: BoundedMemory(SEEN_BYTES), repr=False)
    told: BoundedMemory[tuple[str, str], float] = field(default_factory=lambda: BoundedMemory(TOLD_BYTES), repr=False)
    issuer_keys: Documents | None = None
    """Where the keys of OIDC issuers are kept over a restart; None: nowhere."""

    def failed(self, reason: str, account: str, environ: Environ) -> None:
        """Note a login that failed."""
        client, request_id = self.client_of(environ), environ.get("nora.request_id", "")
        account = "(a token)" if is_secret(account) else account[:NAME_CHARACTERS]
        self.metrics.count(catalogue.LOGINS, method_of(reason), "locked_out" if reason == "locked_out" else "failed")
        if reason.startswith("oidc_"):
            known = reason.removeprefix("oidc_")
            self.metrics.count(catalogue.OIDC_REJECTED, known if known in OIDC_REASONS else "jwt_invalid" if known in INVALID else "other")
        if reason == "locked_out" and not self.is_news(client, account):
            return
        log.warning("login failed: reason=%s account=%s client=%s", reason, json.dumps(account), client)
        self.audit.record(Record("login_failed", account, detail=reason, outcome="failed", client=client, request_id=request_id))

    def is_news(self, client: str, account: str) -> bool:
        """Whoever waits and tries on is not told of each time: that would fill disks."""
        now, last = self.clock(), self.told.get((client, account))
        if last is not None and now - last < TOLD_SECONDS:
            return False
        self.told.put((client, account), now, bytes_of(client, account))
        return True

    def is_usual(self, principal: Principal, place: tuple[bytes, str], now: float) -> bool:
        """Has this credential come from this client lately? If not, it is a login: looked at as a whole, and noted."""
        return now - (self.seen.get(place) or 0.0) < NOTED_SECONDS or principal.source is Source.ANONYMOUS

    def note(self, principal: Principal, place: tuple[bytes, str] | None, environ: Environ) -> None:
        """A login in the audit log: not each request that carries the credential, and not each time that it is looked at again."""
        if principal.source is Source.ANONYMOUS or (place is not None and self.is_usual(principal, place, self.clock())):
            return
        if place is not None:
            self.seen.put(place, self.clock(), bytes_of(*place))
        client, request_id = self.client_of(environ), environ.get("nora.request_id", "")
        self.audit.record(Record("login", principal.name, source=principal.source.value, client=client, request_id=request_id))
        method = "bearer" if principal.bearer is not None else principal.source.value
        self.metrics.count(catalogue.LOGINS, method if method in METHODS else "other", "ok")


INVALID = ("audience", "expired")
"""What NORA counts as jwt_invalid."""
METHODS, OIDC_REASONS = (frozenset(values) for values in ((catalogue.LOGINS.values or ((),))[0], (catalogue.OIDC_REJECTED.values or ((),))[0]))


def method_of(reason: str) -> str:
    """The kind of credential that a login failed with, by the reason."""
    if reason in ("wrong_password", "no_users", "no_user", "locked_out"):
        return "password"
    if reason in ("unknown_token", "expired_token", "owner_gone"):
        return "token"
    if reason.startswith("oidc_"):
        return "oidc"
    return "bearer" if reason.startswith("bearer_") or reason in ("withdrawn", "refresh_token") else "other"
