"""From what a request carries to a Principal. Whoever sends credentials is known by them or refused; whoever sends none is anonymous.

Accepted are `Basic` and `Bearer` in any letter case, a bare token, and the headers of formats whose clients have one of their own.
A secret is a password, an API token (`nra_…`),
a token that this registry signed, or a JWT of an OIDC issuer; all but the password may also stand where a Basic password stands, for clients that
know nothing else. A refresh token is taken where tokens are asked for, and nowhere else: as itself, or as a password, for readers of a client's
credentials that know no other field.

What was found out is remembered for a short time under a keyed hash, and asked again whether it still holds. Each state has an authenticator of its
own, so that nobody is known by the rules of another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from typing import Any, NoReturn

from noraflask.config import AuthConfig
from noraflask.ecosystems import ECOSYSTEMS
from noraflask.errors import TooManyLogins, Unauthenticated
from noraflask.recording import aside
from noraflask.services.auth import signing
from noraflask.services.auth.credentials import Malformed, Password, kid_of, parse_authorization, token_in
from noraflask.services.auth.logins import NAME_CHARACTERS, Environ, Logins
from noraflask.services.auth.oidc import Oidc, OidcRefused, looks_like_jwt
from noraflask.services.auth.principal import ANONYMOUS, Action, Principal, Scope, Source, bytes_of_principal
from noraflask.services.auth.signing import BadToken
from noraflask.services.auth.tokens import FORM, TokenRecord
from noraflask.services.bounded_memory import BoundedMemory

SECRET_HEADERS = tuple(name for ecosystem in ECOSYSTEMS.values() for name in ecosystem.credential_headers)
LOGIN_TYPES, REFRESH = ("bearer", "access"), "refresh"
"""Kinds of tokens that we sign: those that are credentials everywhere, and the one for new tokens."""
_FOR_TOKENS = b"token endpoint"
KNOWN_BYTES = 8 * 1024 * 1024
"""Of the credentials that a process remembers for one state."""
KNOWN_ENTRY_BYTES = 1500
"""One of them without what an issuer says of it, and without what it is cut to."""
KNOWN_SECONDS = 60.0
"""So long a credential is not looked at as a whole again; whether it was withdrawn is asked each time."""


@dataclass(frozen=True, slots=True)
class Known:
    principal: Principal
    until: float
    holds: Callable[[], bool]
    still: Callable[[], bool] | None = None
    """As holds(), for who may not wait for a disk: also False where a file or storage has to be asked. None: holds() asks neither."""

    def holds_at_once(self) -> bool:
        return (self.still or self.holds)()


class Authenticator:
    def __init__(self, config: AuthConfig, oidc: Oidc, logins: Logins) -> None:
        self.config, self.oidc, self.logins = config, oidc, logins
        self._known: BoundedMemory[bytes, Known] = BoundedMemory(KNOWN_BYTES)

    def authenticate(self, environ: Environ, takes_refresh: bool = False) -> Principal:
        """`takes_refresh`: a refresh token may be the password. Raises Unauthenticated, TooManyLogins, and what storage raises."""
        header = environ.get("HTTP_AUTHORIZATION")
        if header is None:
            header = next((environ[name] for name in SECRET_HEADERS if name in environ), None)
            if header is None:
                return ANONYMOUS
        mark = self._mark(header, _FOR_TOKENS if takes_refresh else b"")  # what is good there may be no good elsewhere, and is remembered apart
        with aside() as recording:
            now = self.logins.clock()
            place = (mark, self.logins.client_of(environ))
            known = self._known.get(mark)
            if known is None or not self._still_holds(known, place, now):
                known = self._recognise(header, environ, takes_refresh)
                self._known.put(mark, known, KNOWN_ENTRY_BYTES + bytes_of_principal(known.principal))
                self.logins.note(known.principal, place, environ)
            self._used(known, now)
        if recording is not None:
            recording.questions.append(partial(self._holds_at_once, known, place))
            recording.effects.append(partial(self._used, known))
        return known.principal

    def _still_holds(self, known: Known, place: tuple[bytes, str], now: float) -> bool:
        """`place`: the credential's mark, and the client that sends it."""
        return known.until > now and self.logins.is_usual(known.principal, place, now) and known.holds()

    def _holds_at_once(self, known: Known, place: tuple[bytes, str], now: float) -> bool:
        """As _still_holds(), for who may not wait for a disk. A request that is run finds out the rest, and so for all others."""
        return known.until > now and self.logins.is_usual(known.principal, place, now) and known.holds_at_once()

    def _used(self, known: Known, now: float) -> None:
        if known.principal.token_id:
            self.logins.tokens.used(known.principal.token_id, now)

    def knows(self, header: str) -> bool:
        """Is this Authorization header remembered, so that no password has to be checked?"""
        known = self._known.get(self._mark(header))
        return known is not None and known.until > self.logins.clock()

    def _mark(self, header: str, person: bytes = b"") -> bytes:
        return blake2b(header.encode("latin-1", "replace"), key=self.logins.secret, digest_size=16, person=person).digest()

    def login(self, name: str, password: str, environ: Environ, takes_refresh: bool = False) -> Principal:
        """A name and a password from elsewhere than a header, such as a form. The password may be a token, as in Basic."""
        principal = self._log_in(Password(name, password.encode(errors="surrogatepass")), environ, takes_refresh).principal
        self.logins.note(principal, None, environ)
        return principal

    # By kind.

    def _recognise(self, header: str, environ: Environ, takes_refresh: bool) -> Known:
        try:
            credential = parse_authorization(header)
        except Malformed as problem:
            self._refuse(problem.reason, str(problem), environ)
        if credential is None:
            return Known(ANONYMOUS, self.logins.clock() + KNOWN_SECONDS, lambda: True)
        return self._log_in(credential, environ, takes_refresh)

    def _log_in(self, credential: Password | str, environ: Environ, takes_refresh: bool) -> Known:
        secret = credential if isinstance(credential, str) else token_in(credential)
        if secret is None:
            assert isinstance(credential, Password)
            return self._by_password(credential, environ)
        if FORM.match(secret):
            return self._by_token(secret, environ)
        if not looks_like_jwt(secret):
            self._refuse("unknown_token", "the token is not known; check that it was copied whole", environ)
        return self._by_jwt(secret, environ, (*LOGIN_TYPES, REFRESH) if takes_refresh and secret is not credential else LOGIN_TYPES)

    def _by_password(self, given: Password, environ: Environ) -> Known:
        if not 0 < len(given.name) <= NAME_CHARACTERS:
            self._refuse("no_user", f"a user name of 1 to {NAME_CHARACTERS} characters is missing", environ)
        client, users, lockout = self.logins.client_of(environ), self.logins.users, self.logins.lockout
        directory = users.current()
        if not directory.hashes:
            self._refuse("no_users", "this registry has no users with passwords; use a token", environ, given.name)
        try:
            lockout.check(client, given.name)
            hashed = users.verify(given.name, given.password, lambda: lockout.check(client, given.name))
        except TooManyLogins:
            self.logins.failed("locked_out", given.name, environ)
            raise
        if hashed is None:
            lockout.failed(client, given.name, given.password.decode("latin-1"))
            self._refuse("wrong_password", "wrong user name or password", environ, given.name)
        lockout.succeeded(client, given.name)
        principal = Principal(given.name, Source.PASSWORD, directory.groups_of(given.name), password_mark=mark_of(hashed))
        return Known(
            principal,
            self.logins.clock() + KNOWN_SECONDS,
            lambda: not lockout.active and users.current() is directory,
            lambda: not lockout.active and users.still_current(directory),
        )

    def _by_token(self, token: str, environ: Environ) -> Known:
        record = self.logins.tokens.check(token)
        if record is None:
            self._refuse("unknown_token", "the API token is not known: it was revoked, or it is from another server", environ)
        if record.is_expired(self.logins.clock()):
            self._refuse("expired_token", f"the API token {record.id} has expired; make another one", environ, record.user)
        known = self._of_record(record)
        if known is None:
            self._refuse("owner_gone", f"the owner of the API token {record.id} is no user any more", environ, record.user)
        return known

    def _of_record(self, record: TokenRecord) -> Known | None:
        """None when the token's owner is gone."""
        directory = self.logins.users.current()
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
        until = min(self.logins.clock() + KNOWN_SECONDS, record.expires_at)
        users, tokens = self.logins.users, self.logins.tokens
        return Known(
            principal,
            until,
            lambda: tokens.find(record.id) is record and users.current() is directory,
            lambda: tokens.still_known(record) and users.still_current(directory),
        )

    def _by_jwt(self, token: str, environ: Environ, types: tuple[str, ...]) -> Known:
        kid = kid_of(token)
        if kid.startswith(signing.KID_START):
            claims = self._read(token, kid, types, environ)
            return self._of_claims(claims, kid, environ)
        try:
            principal = self.oidc.verify(token)
        except OidcRefused as problem:
            self.logins.failed(f"oidc_{problem.reason}", "", environ)
            raise
        return Known(principal, min(self.logins.clock() + KNOWN_SECONDS, principal.expires_at or 0), lambda: True)

    def _read(self, token: str, kid: str, types: tuple[str, ...], environ: Environ) -> dict[str, Any]:
        try:
            claims = self.logins.signer.read(token, kid)
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
            lifetime = max(1.0, min(lifetime, principal.expires_at - self.logins.clock()))
        if principal.source is Source.TOKEN:
            members["tid"] = principal.token_id
        elif principal.source is Source.PASSWORD:
            members["pw"] = principal.password_mark
        elif principal.source is Source.OIDC:
            members |= {"provider": principal.provider, "claims": [list(pair) for pair in principal.claims]}
        if scopes is not None:
            members["access"] = [[*scope.repositories, *scope.names, *sorted(action.value for action in scope.actions)] for scope in scopes]
        return self.logins.signer.sign(members, lifetime)

    def by_refresh_token(self, token: str, environ: Environ) -> Principal:
        """Raises Unauthenticated."""
        if not looks_like_jwt(token):
            self._refuse("refresh_token", "the refresh token is not valid; log in again", environ)
        kid = kid_of(token)
        principal = self._of_claims(self._read(token, kid, (REFRESH,), environ), kid, environ).principal
        self.logins.note(principal, None, environ)
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
        signer = self.logins.signer
        return Known(principal, until, lambda: signer.holds(kid) and basis.holds(), lambda: signer.still_holds(kid) and basis.holds_at_once())

    def _basis(self, claims: dict[str, Any]) -> Known | None:
        """Whom a token was issued for, as they are now; None when that no longer holds."""
        name, source, later = claims.get("sub", ""), claims.get("src"), self.logins.clock() + KNOWN_SECONDS
        if source == Source.PASSWORD.value:
            directory = self.logins.users.current()
            mark = mark_of(directory.hashes.get(name))
            if not mark or claims.get("pw") != mark:
                return None
            principal = Principal(name, Source.PASSWORD, directory.groups_of(name), password_mark=mark)
            users = self.logins.users
            return Known(principal, later, lambda: users.current() is directory, lambda: users.still_current(directory))
        if source == Source.TOKEN.value:
            record = self.logins.tokens.find(claims.get("tid", ""))
            return self._of_record(record) if record is not None and not record.is_expired(self.logins.clock()) else None
        if source == Source.OIDC.value:
            try:
                pairs = tuple((pair[0], pair[1]) for pair in claims["claims"])
                return Known(self.oidc.identity(claims["provider"], name, pairs, float(claims["exp"])), later, lambda: True)
            except OidcRefused:
                return None
        return Known(ANONYMOUS, later, lambda: True)

    def _refuse(self, reason: str, message: str, environ: Environ, account: str = "") -> NoReturn:
        self.logins.failed(reason, account, environ)
        raise Unauthenticated(message)


def mark_of(hashed: bytes | None) -> str:
    """Changes when the password does; says nothing about it. Empty when there is none."""
    return hashlib.sha256(b"nora" + hashed).hexdigest()[:16] if hashed else ""


def _scope_of(entry: list[str]) -> Scope:
    return Scope(frozenset(Action(word) for word in entry[2:]), (entry[0],), (entry[1],))
