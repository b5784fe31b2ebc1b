"""OIDC workload identity: the token that a CI system or a cluster gave to its job is the credential.

A token is a signed JWT (RFC 7519, 7515; advice of RFC 8725). What it says of itself decides only which configured issuer is asked; algorithms, keys
and limits come from the configuration and the issuer. Keys: issuer_keys.py.
"""

from __future__ import annotations

import copy
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from noraflask.config import OidcProvider
from noraflask.errors import Unauthenticated
from noraflask.json_document import parse_object
from noraflask.services.auth.issuer_keys import IssuerKeys, KeysUnavailable
from noraflask.services.auth.key_sets import ALGORITHMS, decode_base64url
from noraflask.services.auth.principal import Principal, Source
from noraflask.services.documents import Documents
from noraflask.settings.texts import glob

MAX_TOKEN_BYTES = 16 * 1024
MAX_KID, MAX_SUBJECT = 255, 1024
"""Characters."""
MAX_CLAIMS, MAX_CLAIM_DEPTH = 500, 8
MAX_TIME = 253402300800
"""The year 10000: what is later is no time, and may be no float either."""

_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\Z")

REFUSALS = {
    "disabled": "the token's issuer is disabled in this registry's configuration; ask its operator",
    "no_provider": "the token's issuer is not one that this registry accepts; ask its operator, or use another credential",
    "algorithm": "the token is signed by an algorithm that is not accepted from its issuer; ask the operator of this registry",
    "jwt_invalid": "the token is not a sound JWT of its issuer; get a new one",
    "expired": "the token has expired; get a new one",
    "audience": "the token is for another audience; get one for the audience that this registry expects",
    "lifetime_exceeded": "the token is valid for longer than this registry accepts; get one with a shorter lifetime, and with the claim iat",
    "no_role_rule": "the token is good, but no rule of this registry gives its subject a role; ask the operator for one",
    "claims": "the token has more claims, or deeper ones, than this registry can judge; get one with fewer",
    "jwks": "the keys of the token's issuer cannot be had now; try again later",
    "other": "the token cannot be accepted; use another credential",
}
"""Reasons, in NORA's words where it has one, and what the client reads."""


class OidcRefused(Unauthenticated):
    """The token is not accepted. `reason` is one of REFUSALS; `provider` and `subject` are facts for the log, the latter only when it is proven."""

    def __init__(self, reason: str, message: str | None = None, provider: str = "", subject: str = "") -> None:
        super().__init__(message or REFUSALS[reason])
        self.reason = reason
        self.provider = provider
        self.subject = subject


def looks_like_jwt(text: str) -> bool:
    """Whether a secret is a JWT rather than a password or an API token: three parts, the first of which begins as base64url of `{` does."""
    return text.startswith("e") and _JWT.match(text) is not None


class Oidc:
    """The configured issuers. `accepts` says whether an access rule names the claims of an identity that no role rule matches."""

    def __init__(
        self,
        providers: tuple[OidcProvider, ...],
        leeway_secs: float,
        jwks_cache_secs: float,
        documents: Documents | None,
        clock: Callable[[], float] = time.time,
        accepts: Callable[[Principal], bool] = lambda principal: False,
    ) -> None:
        self._providers: dict[str, OidcProvider] = {}
        for provider in sorted(providers, key=lambda provider: not provider.enabled):
            self._providers.setdefault(provider.issuer, provider)  # the first enabled one, as NORA
        self.documents = documents
        self._keys = {issuer: IssuerKeys(p, jwks_cache_secs, documents, clock) for issuer, p in self._providers.items() if p.enabled}
        self._leeway_secs = leeway_secs
        self._clock = clock
        self._accepts = accepts

    def by(self, accepts: Callable[[Principal], bool]) -> Oidc:
        """The same issuers, with the keys that they have been asked for, by other access rules."""
        other = copy.copy(self)
        other._accepts = accepts
        return other

    def shares_keys(self, other: Oidc) -> bool:
        return self._keys is other._keys

    def start(self) -> None:
        """Fetch all issuers' keys in the background; called once in each worker, after the fork. Failures are logged and tried again at need."""
        for keys in self._keys.values():
            keys.start()

    def knows(self, issuer: str) -> bool:
        return issuer in self._keys

    def verify(self, token: str) -> Principal:
        """Who the token's bearer is. Raises OidcRefused. May wait some seconds for the issuer's keys."""
        header, claims, signed, signature = _parse(token)
        alg, kid = _algorithm(header), _kid(header)
        provider = self._provider(claims.get("iss"))
        try:
            self._check_signature(provider, alg, kid, signed, signature)
            return self._principal(provider, claims)
        except OidcRefused as refusal:
            refusal.provider = provider.name
            raise

    def identity(self, provider: str, subject: str, claims: tuple[tuple[str, str], ...], expires_at: float) -> Principal:
        """An identity that was verified before, by the rules of now: for what was issued on its strength. Raises OidcRefused."""
        issuer = next((known.issuer for known in self._providers.values() if known.name == provider), None)
        known = self._provider(issuer)
        return self._with_role(known, Principal(subject, Source.OIDC, provider=provider, claims=claims, expires_at=expires_at))

    def _provider(self, issuer: Any) -> OidcProvider:
        provider = self._providers.get(issuer) if isinstance(issuer, str) else None
        if provider is None:
            raise OidcRefused("no_provider")
        if not provider.enabled:
            raise OidcRefused("disabled", provider=provider.name)
        return provider

    def _check_signature(self, provider: OidcProvider, alg: str, kid: str | None, signed: bytes, signature: bytes) -> None:
        if alg not in provider.algorithms:
            raise OidcRefused("algorithm")
        try:
            keys = self._keys[provider.issuer].find(kid, alg)
        except KeysUnavailable as error:
            raise OidcRefused("jwks", str(error)) from None
        if not any(key.verifies(alg, signed, signature) for key in keys):
            raise OidcRefused("jwt_invalid")

    def _principal(self, provider: OidcProvider, claims: dict[str, Any]) -> Principal:
        expires_at = self._check_times(provider, claims)
        if (provider.audience or not provider.any_audience) and not _audiences(claims) & set(provider.audience):
            raise OidcRefused("audience")
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT or not subject.isprintable():
            raise OidcRefused("jwt_invalid", f"the token has no claim sub of 1 to {MAX_SUBJECT} printable characters; it cannot be used here")
        return self._with_role(provider, Principal(subject, Source.OIDC, provider=provider.name, claims=flatten(claims), expires_at=expires_at))

    def _with_role(self, provider: OidcProvider, principal: Principal) -> Principal:
        rule = next((rule for rule in provider.role_rules if glob(rule.pattern, principal.name)), None)
        scopes: tuple[tuple[str, ...], ...] = (provider.namespace_scope,)
        if rule and rule.namespace_scope is not None:
            scopes += (rule.namespace_scope,)
        enforced = provider.namespace_scope_enforcement != "audit"
        enforce, watch = (scopes, ()) if enforced else ((), scopes)
        principal = replace(principal, role=rule.role if rule else None, namespace_scopes=enforce, watched_scopes=watch)
        if rule is None and not self._accepts(principal):
            raise OidcRefused("no_role_rule", subject=principal.name)
        return principal

    def _check_times(self, provider: OidcProvider, claims: dict[str, Any]) -> float:
        """When the token expires. RFC 7519 §4.1.4-6; without `iat` and `nbf` nobody could say how long a stolen one may be of use."""
        now, leeway = self._clock(), self._leeway_secs
        expires, not_before, issued = (_time(claims, name) for name in ("exp", "nbf", "iat"))
        if expires is None:
            raise OidcRefused("jwt_invalid", "the token has no claim exp; get one that expires")
        if expires <= now - leeway:
            raise OidcRefused("expired")
        if any(begin is not None and begin > now + leeway for begin in (not_before, issued)):
            raise OidcRefused("jwt_invalid", "the token is not valid yet; check the clocks of its issuer and of this registry")
        begin = issued if issued is not None else not_before
        if begin is None or expires - begin > provider.max_token_lifetime_secs:
            raise OidcRefused("lifetime_exceeded")
        return expires


def _parse(token: str) -> tuple[dict[str, Any], dict[str, Any], bytes, bytes]:
    """Header, claims, what is signed, signature. JWS compact serialization, RFC 7515 §7.1."""
    if not isinstance(token, str) or len(token) > MAX_TOKEN_BYTES:
        raise OidcRefused("jwt_invalid", f"the token is no JWT of at most {MAX_TOKEN_BYTES} bytes")
    if not _JWT.match(token):
        raise OidcRefused("jwt_invalid")
    signed, _, signature = token.rpartition(".")
    header, _, payload = signed.partition(".")
    try:
        decoded = parse_object(decode_base64url(header))
        _algorithm(decoded)  # before anything else is looked at
        return decoded, parse_object(decode_base64url(payload)), signed.encode(), decode_base64url(signature)
    except ValueError:
        raise OidcRefused("jwt_invalid") from None


def _algorithm(header: dict[str, Any]) -> str:
    alg = header.get("alg")
    if not isinstance(alg, str) or alg not in ALGORITHMS:  # neither `none` nor HS…, whatever is configured
        raise OidcRefused("algorithm")
    return alg


def _kid(header: dict[str, Any]) -> str | None:
    """Which key; where it is to be found (jku, x5u) or what it is (jwk, x5c) is nothing that a token may say."""
    kid = header.get("kid")
    if "crit" in header or not (kid is None or (isinstance(kid, str) and len(kid) <= MAX_KID)):
        raise OidcRefused("jwt_invalid")
    return kid


def _time(claims: dict[str, Any], name: str) -> float | None:
    """NumericDate, RFC 7519 §2; None when the claim is absent."""
    if name not in claims:
        return None
    value = claims[name]
    if type(value) not in (int, float) or not 0 <= value <= MAX_TIME:  # bool is an int to isinstance; NaN and infinities fail the comparison
        raise OidcRefused("jwt_invalid", f"the token's claim {name} is no time; it cannot be used here")
    return float(value)


def _audiences(claims: dict[str, Any]) -> set[str]:
    audience = claims.get("aud")
    return {item for item in (audience if isinstance(audience, list) else [audience]) if isinstance(item, str)}


def flatten(claims: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Claims as pairs of text: nested names joined by dots, each item of a list a pair of its own.

    Raises OidcRefused when there are more than can be kept: a rule that denies by a claim which was left out would let pass.
    """
    pairs = tuple(islice(_pairs("", claims, MAX_CLAIM_DEPTH), MAX_CLAIMS + 1))
    if len(pairs) > MAX_CLAIMS:
        raise OidcRefused("claims")
    return pairs


def _pairs(name: str, value: Any, depth: int) -> Iterator[tuple[str, str]]:
    if not isinstance(value, dict | list):
        text = _text(value)
        if text is not None:
            yield name.encode(errors="replace").decode(), text
    elif not depth:
        raise OidcRefused("claims")
    elif isinstance(value, list):
        for item in value:
            yield from _pairs(name, item, depth - 1)
    else:
        for key, item in value.items():
            yield from _pairs(f"{name}.{key}" if name else key, item, depth - 1)


def _text(value: Any) -> str | None:
    """JSON may spell half of a surrogate pair, which neither a log nor a file can hold: it becomes a question mark."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return str(value).encode(errors="replace").decode()
