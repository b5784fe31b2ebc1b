"""What is written down of logins: a log line and an audit record of those that fail, an audit record of those that succeed, and counts of both."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from noraflask.services.audit import Audit
from noraflask.services.auth.credentials import is_secret
from noraflask.services.auth.principal import Principal, Source
from noraflask.services.metrics import catalogue
from noraflask.services.metrics.counting import NullMetrics

NOTED_KEPT = 32768
LOGGED_KEPT = 8192
LOGGED_SECONDS = 60.0
"""Refusals of one account that is locked out, from one client, are logged so often."""
NAME_CHARACTERS = 255
NOTED_SECONDS = 900.0
"""A login that goes on is noted in the audit log so often."""

log = logging.getLogger("nora.auth")

Environ = Mapping[str, Any]


class LoginRecord:
    def __init__(
        self, audit: Audit, client_of: Callable[[Environ], str], clock: Callable[[], float] = time.time, metrics: NullMetrics | None = None
    ) -> None:
        """`client_of`: the address that a request is from, by its environ."""
        self.client_of = client_of
        self._clock = clock
        self._audit = audit
        self._metrics = metrics or NullMetrics()
        self._noted: dict[tuple[bytes, str], float] = {}
        self._logged: dict[tuple[str, str], float] = {}

    def failed(self, reason: str, account: str, environ: Environ) -> None:
        client, request_id = self.client_of(environ), environ.get("nora.request_id", "")
        account = "(a token)" if is_secret(account) else account[:NAME_CHARACTERS]
        self._metrics.count(catalogue.LOGINS, method_of(reason), "locked_out" if reason == "locked_out" else "failed")
        if reason.startswith("oidc_"):
            known = reason.removeprefix("oidc_")
            self._metrics.count(catalogue.OIDC_REJECTED, known if known in OIDC_REASONS else "jwt_invalid" if known in INVALID else "other")
        if reason == "locked_out" and not self._is_due(client, account):
            return
        log.warning("login failed: reason=%s account=%s client=%s request_id=%s", reason, json.dumps(account), client, request_id)
        self._audit.record("login_failed", account, detail=reason, outcome="failed", client=client, request_id=request_id)

    def _is_due(self, client: str, account: str) -> bool:
        """A client that is locked out and goes on trying must not fill the disk."""
        now, last = self._clock(), self._logged.get((client, account), 0.0)
        if now - last < LOGGED_SECONDS:
            return False
        if len(self._logged) >= LOGGED_KEPT:
            self._logged.clear()
        self._logged[client, account] = now
        return True

    def is_known(self, principal: Principal, origin: tuple[bytes, str], now: float) -> bool:
        """Whether this credential has come from this client lately. If not, it is a login: checked as a whole, and noted."""
        return now - self._noted.get(origin, 0.0) < NOTED_SECONDS or principal.source is Source.ANONYMOUS

    def succeeded(self, principal: Principal, origin: tuple[bytes, str] | None, environ: Environ) -> None:
        """Note a login in the audit log: not each request that carries the credential, and not each time that it is checked again.

        `origin`: the mark of the credential, and the client; None: it is a login in any case.
        """
        if principal.source is Source.ANONYMOUS or (origin is not None and self.is_known(principal, origin, self._clock())):
            return
        if origin is not None:
            if len(self._noted) >= NOTED_KEPT:
                self._noted.clear()
            self._noted[origin] = self._clock()
        client, request_id = self.client_of(environ), environ.get("nora.request_id", "")
        self._audit.record("login", principal.name, source=principal.source.value, client=client, request_id=request_id)
        method = "bearer" if principal.bearer is not None else principal.source.value
        self._metrics.count(catalogue.LOGINS, method if method in METHODS else "other", "ok")


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
