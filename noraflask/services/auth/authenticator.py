"""From what a request carries to a Principal. Whoever sends credentials is known by them or refused; whoever sends none is anonymous.

Accepted are `Basic` and `Bearer` in any letter case, a bare token (cargo, gem) and `X-NuGet-ApiKey`. A secret is a password, an API token (`nra_…`),
a token that this registry signed, or a JWT of an OIDC issuer; all but the password may also stand where a Basic password stands, for clients that
know nothing else. What was found out is remembered for a short time under a keyed hash, and asked again whether it still holds.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, NoReturn

from noraflask.config import AuthConfig
from noraflask.errors import TooManyLogins, Unauthenticated
from noraflask.services.audit import Audit, Record
from noraflask.services.auth import signing
from noraflask.services.auth.lockout import Lockout
from noraflask.services.auth.oidc import Oidc, OidcRefused, looks_like_jwt
from noraflask.services.auth.principal import ANONYMOUS, Action, Principal, Scope, Source
from noraflask.services.auth.signing import BadToken, Signer
from noraflask.services.auth.tokens import FORM, TokenRecord, Tokens
from noraflask.services.auth.users import Users
from noraflask.services.metrics import catalogue
from noraflask.services.metrics.counting import NullMetrics

KNOWN_KEPT = 8192
KNOWN_SECONDS = 60.0
"""So long a credential is not looked at as a whole again; whether it was withdrawn is asked each time."""
SEEN_KEPT = 32768
TOLD_SECONDS = 60.0
NAME_CHARACTERS = 255
NOTED_SECONDS = 900.0
"""A login that goes on is noted in the audit log so often."""

log = logging.getLogger("nora.auth")

Environ = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Known:
    principal: Principal
    until: float
    holds: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Password:
    name: str
    password: bytes = field(repr=False)


class Authenticator:
    def __init__(
        self,
        config: AuthConfig,
        users: Users,
        tokens: Tokens,
        signer: Signer,
        oidc: Oidc,
        lockout: Lockout,
        audit: Audit,
        client_of: Callable[[Environ], str],
        clock: Callable[[], float] = time.time,
        metrics: NullMetrics | None = None,
    ) -> None:
        """`client_of`: the address that a request is from, by its environ."""
        self.config = config
        self.users, self.tokens, self.signer, self.oidc, self.lockout = users, tokens, signer, oidc, lockout
        self._audit = audit
        self._client_of = client_of
        self._metrics = metrics or NullMetrics()
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._known: dict[bytes, Known] = {}
        self._seen: dict[tuple[bytes, str], float] = {}
        self._told: dict[tuple[str, str], float] = {}

    def adopt(self, config: AuthConfig, oidc: Oidc) -> None:
        """A reload: other providers, other roles."""
        self.config, self.oidc = config, oidc
        self._known = {}

    def authenticate(self, environ: Environ) -> Principal:
        """Raises Unauthenticated, TooManyLogins, and what storage raises when tokens cannot be read."""
        header = environ.get("HTTP_AUTHORIZATION")
        if header is None:
            header = environ.get("HTTP_X_NUGET_APIKEY")
            if header is None:
                return ANONYMOUS
        mark, now = blake2b(header.encode("latin-1", "replace"), key=self._secret, digest_size=16).digest(), self._clock()
        place = (mark, self._client_of(environ))
        remembered = self._known  # a reload in between begins another one, and what was recognised by the old rules must not get into it
        known = remembered.get(mark)
        if known is None or known.until <= now or not self._is_usual(known.principal, place, now) or not known.holds():
            known = self._recognise(header, environ)
            if len(remembered) >= KNOWN_KEPT:
                remembered.clear()
            remembered[mark] = known
            self._note(known.principal, place, environ)
        if known.principal.token_id:
            self.tokens.used(known.principal.token_id, now)
        return known.principal

    def login(self, name: str, password: str, environ: Environ) -> Principal:
        """A name and a password from elsewhere than a header, such as a form. The password may be a token, as in Basic."""
        principal = self._log_in(Password(name, password.encode(errors="surrogatepass")), environ).principal
        self._note(principal, None, environ)
        return principal

    # By kind.

    def _recognise(self, header: str, environ: Environ) -> Known:
        try:
            credential = parse_authorization(header)
        except Malformed as problem:
            self._refuse(problem.reason, str(problem), environ)
        if credential is None:
            return Known(ANONYMOUS, self._clock() + KNOWN_SECONDS, lambda: True)
        return self._log_in(credential, environ)

    def _log_in(self, credential: Password | str, environ: Environ) -> Known:
        secret = credential if isinstance(credential, str) else token_in(credential)
        if secret is None:
            assert isinstance(credential, Password)
            return self._by_password(credential, environ)
        if FORM.match(secret):
            return self._by_token(secret, environ)
        if not looks_like_jwt(secret):
            self._refuse("unknown_token", "the token is not known; check that it was copied whole", environ)
        return self._by_jwt(secret, environ)

    def _by_password(self, given: Password, environ: Environ) -> Known:
        if not 0 < len(given.name) <= NAME_CHARACTERS:
            self._refuse("no_user", f"a user name of 1 to {NAME_CHARACTERS} characters is missing", environ)
        client, directory = self._client_of(environ), self.users.current()
        if not directory.hashes:
            self._refuse("no_users", "this registry has no users with passwords; use a token", environ, given.name)
        try:
            self.lockout.check(client, given.name)
            hashed = self.users.verify(given.name, given.password, lambda: self.lockout.check(client, given.name))
        except TooManyLogins:
            self._fail("locked_out", given.name, environ)
            raise
        if hashed is None:
            self.lockout.failed(client, given.name, given.password.decode("latin-1"))
            self._refuse("wrong_password", "wrong user name or password", environ, given.name)
        self.lockout.succeeded(client, given.name)
        principal = Principal(given.name, Source.PASSWORD, directory.groups_of(given.name), password_mark=mark_of(hashed))
        return Known(principal, self._clock() + KNOWN_SECONDS, lambda: not self.lockout.active and self.users.current() is directory)

    def _by_token(self, token: str, environ: Environ) -> Known:
        record = self.tokens.check(token)
        if record is None:
            self._refuse("unknown_token", "the API token is not known: it was revoked, or it is from another server", environ)
        if record.is_expired(self._clock()):
            self._refuse("expired_token", f"the API token {record.id} has expired; make another one", environ, record.user)
        known = self._of_record(record)
        if known is None:
            self._refuse("owner_gone", f"the owner of the API token {record.id} is no user any more", environ, record.user)
        return known

    def _of_record(self, record: TokenRecord) -> Known | None:
        """None when the token's owner is gone."""
        directory = self.users.current()
        is_user = record.user in directory.hashes
        service = not is_user if record.service is None else record.service  # None: NORA made it; there it stood for itself
        if not service and not is_user:
            return None
        principal = Principal(
            record.user,
            Source.TOKEN,
            directory.groups_of(record.user),
            role=record.role,
            token_id=record.id,
            service=service,
            expires_at=float(record.expires_at),
            scopes=record.scopes,
        )
        until = min(self._clock() + KNOWN_SECONDS, record.expires_at)
        return Known(principal, until, lambda: self.tokens.find(record.id) is record and self.users.current() is directory)

    def _by_jwt(self, token: str, environ: Environ) -> Known:
        kid = kid_of(token)
        if kid.startswith(signing.KID_START):
            claims = self._read(token, kid, ("bearer", "access"), environ)
            return self._of_claims(claims, kid, environ)
        try:
            principal = self.oidc.verify(token)
        except OidcRefused as problem:
            self._fail(f"oidc_{problem.reason}", "", environ)
            raise
        return Known(principal, min(self._clock() + KNOWN_SECONDS, principal.expires_at or 0), lambda: True)

    def _read(self, token: str, kid: str, types: tuple[str, ...], environ: Environ) -> dict[str, Any]:
        try:
            claims = self.signer.read(token, kid)
        except BadToken as problem:
            expired = problem.reason == "expired"
            message = "the bearer token has expired; ask for another one" if expired else "the bearer token is not valid; log in again"
            self._refuse(f"bearer_{problem.reason.replace(' ', '_')}", message, environ)
        if claims.get("typ") not in types:
            self._refuse("bearer_type", "this token is for another purpose", environ, str(claims.get("sub", "")))
        return claims

    # Tokens that we sign: whom they are for, and whether that still holds.

    def issue(self, principal: Principal, kind: str, lifetime: float, scopes: tuple[Scope, ...] | None = None) -> tuple[str, int, int]:
        """A signed token for the principal, when it was issued and how many seconds it lives. `kind`: bearer, access or refresh.

        It never outlives what it is issued for. An exchange alone makes something that lives a little longer, once.
        """
        members: dict[str, Any] = {"typ": kind, "sub": principal.name, "src": principal.source.value}
        if principal.expires_at is not None and (kind != "access" or principal.exchanged):
            lifetime = max(1.0, min(lifetime, principal.expires_at - self._clock()))
        if principal.source is Source.TOKEN:
            members["tid"] = principal.token_id
        elif principal.source is Source.PASSWORD:
            members["pw"] = principal.password_mark
        elif principal.source is Source.OIDC:
            members |= {"provider": principal.provider, "claims": [list(pair) for pair in principal.claims]}
        if scopes is not None:
            members["access"] = [[*scope.repositories, *scope.names, *sorted(action.value for action in scope.actions)] for scope in scopes]
        return self.signer.sign(members, lifetime)

    def by_refresh_token(self, token: str, environ: Environ) -> Principal:
        """Raises Unauthenticated."""
        if not looks_like_jwt(token):
            self._refuse("refresh_token", "the refresh token is not valid; log in again", environ)
        kid = kid_of(token)
        principal = self._of_claims(self._read(token, kid, ("refresh",), environ), kid, environ).principal
        self._note(principal, None, environ)
        return principal

    def _of_claims(self, claims: dict[str, Any], kid: str, environ: Environ) -> Known:
        basis = self._basis(claims)
        if basis is None:
            self._refuse("withdrawn", "what this token was issued for was withdrawn; log in again", environ, str(claims.get("sub", "")))
        principal = basis.principal
        if "access" in claims:
            principal = replace(principal, bearer=tuple(_scope_of(entry) for entry in claims["access"]))
        until = min(basis.until, float(claims["exp"]))
        principal = replace(principal, expires_at=float(claims["exp"]), exchanged=principal.source is Source.OIDC)
        return Known(principal, until, lambda: self.signer.holds(kid) and basis.holds())

    def _basis(self, claims: dict[str, Any]) -> Known | None:
        """Whom a token was issued for, as they are now; None when that no longer holds."""
        name, source, later = claims.get("sub", ""), claims.get("src"), self._clock() + KNOWN_SECONDS
        if source == Source.PASSWORD.value:
            directory = self.users.current()
            mark = mark_of(directory.hashes.get(name))
            if not mark or claims.get("pw") != mark:
                return None
            principal = Principal(name, Source.PASSWORD, directory.groups_of(name), password_mark=mark)
            return Known(principal, later, lambda: self.users.current() is directory)
        if source == Source.TOKEN.value:
            record = self.tokens.find(claims.get("tid", ""))
            return self._of_record(record) if record is not None and not record.is_expired(self._clock()) else None
        if source == Source.OIDC.value:
            try:
                pairs = tuple((pair[0], pair[1]) for pair in claims["claims"])
                return Known(self.oidc.identity(claims["provider"], name, pairs, float(claims["exp"])), later, lambda: True)
            except OidcRefused:
                return None
        return Known(ANONYMOUS, later, lambda: True)

    # Notes.

    def _refuse(self, reason: str, message: str, environ: Environ, account: str = "") -> NoReturn:
        self._fail(reason, account, environ)
        raise Unauthenticated(message)

    def _fail(self, reason: str, account: str, environ: Environ) -> None:
        client, request_id = self._client_of(environ), environ.get("nora.request_id", "")
        account = "(a token)" if is_secret(account) else account[:NAME_CHARACTERS]
        self._metrics.count(catalogue.LOGINS, method_of(reason), "locked_out" if reason == "locked_out" else "failed")
        if reason.startswith("oidc_"):
            known = reason.removeprefix("oidc_")
            self._metrics.count(catalogue.OIDC_REJECTED, known if known in OIDC_REASONS else "jwt_invalid" if known in INVALID else "other")
        if reason == "locked_out" and not self._is_news(client, account):
            return
        log.warning("login failed: reason=%s account=%s client=%s request_id=%s", reason, json.dumps(account), client, request_id)
        self._audit.record(Record("login_failed", account, detail=reason, outcome="failed", client=client, request_id=request_id))

    def _is_news(self, client: str, account: str) -> bool:
        """Whoever waits and tries on is not told of each time: that would fill disks."""
        now, last = self._clock(), self._told.get((client, account), 0.0)
        if now - last < TOLD_SECONDS:
            return False
        if len(self._told) >= KNOWN_KEPT:
            self._told.clear()
        self._told[client, account] = now
        return True

    def _is_usual(self, principal: Principal, place: tuple[bytes, str], now: float) -> bool:
        """Has this credential come from this client lately? If not, it is a login: looked at as a whole, and noted."""
        return now - self._seen.get(place, 0.0) < NOTED_SECONDS or principal.source is Source.ANONYMOUS

    def _note(self, principal: Principal, place: tuple[bytes, str] | None, environ: Environ) -> None:
        """A login in the audit log: not each request that carries the credential, and not each time that it is looked at again."""
        if principal.source is Source.ANONYMOUS or (place is not None and self._is_usual(principal, place, self._clock())):
            return
        if place is not None:
            if len(self._seen) >= SEEN_KEPT:
                self._seen.clear()
            self._seen[place] = self._clock()
        client, request_id = self._client_of(environ), environ.get("nora.request_id", "")
        self._audit.record(Record("login", principal.name, source=principal.source.value, client=client, request_id=request_id))
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


class Malformed(Exception):
    """An Authorization header that cannot be read; `reason` for the log, the text for the client."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def parse_authorization(header: str) -> Password | str | None:
    """A name with a password, or a token; None for an empty Basic login, which skopeo and buildah send where they have no credentials.

    RFC 9110, 11.4 (schemes in any letter case); RFC 7617 (Basic). Raises Malformed.
    """
    scheme, _, rest = header.strip().partition(" ")
    rest = rest.strip()
    word = scheme.lower()
    if word == "basic":
        return _parse_basic(rest)
    if word == "bearer" and not rest:
        raise Malformed("malformed", "the Bearer token is missing")
    if word != "bearer" and (rest or not scheme):
        raise Malformed("scheme", "use Basic or Bearer authentication")
    return rest or scheme


def _parse_basic(text: str) -> Password | None:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("malformed", "the Basic credentials are not valid base64") from None
    raw, colon, password = data.partition(b":")
    if not data or data == b":":
        return None
    if not colon:
        raise Malformed("malformed", "the Basic credentials have no colon between user name and password")
    try:
        return Password(raw.decode(), password)
    except UnicodeDecodeError:
        raise Malformed("malformed", "the user name is not UTF-8") from None


def token_in(given: Password) -> str | None:
    """The token that stands in place of a password, or, as some write it, of the user name."""
    for data in (given.password, given.name.encode(errors="replace")):
        if data.isascii() and is_secret(data.decode()):
            return data.decode()
    return None


def is_secret(text: str) -> bool:
    return FORM.match(text) is not None or looks_like_jwt(text)


def mark_of(hashed: bytes | None) -> str:
    """Changes when the password does; says nothing about it. Empty when there is none."""
    return hashlib.sha256(b"nora" + hashed).hexdigest()[:16] if hashed else ""


def kid_of(token: str) -> str:
    """The key id that a JWT's header claims, unverified; empty when there is none."""
    head = token.partition(".")[0]
    try:
        members = json.loads(base64.urlsafe_b64decode(head[:4096] + "=" * (-len(head[:4096]) % 4)))
    except (ValueError, RecursionError):
        return ""
    kid = members.get("kid") if isinstance(members, dict) else None
    return kid if isinstance(kid, str) else ""


def _scope_of(entry: list[str]) -> Scope:
    return Scope(frozenset(Action(word) for word in entry[2:]), (entry[0],), (entry[1],))
