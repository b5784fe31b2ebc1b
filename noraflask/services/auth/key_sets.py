"""JSON Web Key Sets and what else comes from an issuer or a token, read as bytes that may be hostile.

joserfc computes; what it is given is chosen here. Its own KeySet refuses a whole set for one key that it does not understand, and its reader of
tokens takes JSON with members that are there twice and base64url with bits left over.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ALGORITHMS = {
    "RS256": ("RSA", None),
    "RS384": ("RSA", None),
    "RS512": ("RSA", None),
    "PS256": ("RSA", None),
    "PS384": ("RSA", None),
    "PS512": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
    "Ed25519": ("OKP", "Ed25519"),
}
"""Signature algorithms and the key each one wants, type and curve. None of them has a secret in common with the issuer: `HS…` is not here."""
MEMBERS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
"""What makes a public key (RFC 7518 §6, RFC 8037 §2). Nothing else of a JWK reaches the library, private parts least of all."""
RSA_BITS = range(2048, 16384 + 1)
MAX_KEYS = 200

_BASE64URL = re.compile(r"[A-Za-z0-9_-]*\Z")


def decode_base64url(text: str) -> bytes:
    """RFC 7515 §2: no padding, no white space. Raises ValueError, also for a second spelling of the same bytes."""
    if not _BASE64URL.match(text):
        raise ValueError("not base64url")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if base64.urlsafe_b64encode(data).rstrip(b"=") != text.encode():
        raise ValueError("base64url with bits left over")
    return data


@dataclass(frozen=True, slots=True)
class PublicKey:
    kid: str | None
    kty: str
    curve: str | None
    alg: str | None
    key: Any
    """joserfc's."""

    def fits(self, alg: str) -> bool:
        return ALGORITHMS.get(alg) == (self.kty, self.curve) and self.alg in (None, alg)

    def verifies(self, alg: str, signed: bytes, signature: bytes) -> bool:
        from joserfc.jws import JWSRegistry

        try:
            return self.fits(alg) and JWSRegistry.algorithms[alg].verify(signed, signature, self.key)
        except Exception:  # whatever a library makes of hostile bytes, it is no good signature
            return False


@dataclass(frozen=True, slots=True)
class KeySet:
    keys: tuple[PublicKey, ...]

    @classmethod
    def parse(cls, jwks: Any) -> KeySet:
        """RFC 7517 §5. Keys that are not for signatures or not understood are left out. Raises ValueError when it is no key set at all."""
        members = jwks.get("keys") if isinstance(jwks, dict) else None
        if not isinstance(members, list) or len(members) > MAX_KEYS:
            raise ValueError(f"not a JSON Web Key Set of at most {MAX_KEYS} keys")
        return cls(tuple(key for key in map(_public_key, members) if key))

    def find(self, kid: str | None, alg: str) -> tuple[PublicKey, ...]:
        """Keys that may have signed. Without a `kid` there must be no choice."""
        fitting = tuple(key for key in self.keys if key.fits(alg))
        if kid is not None:
            return tuple(key for key in fitting if key.kid == kid)
        return fitting if len(fitting) == 1 else ()


def _public_key(jwk: Any) -> PublicKey | None:
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    kty = jwk.get("kty") if isinstance(jwk, dict) else None
    if not isinstance(kty, str) or kty not in MEMBERS or not _is_for_signatures(jwk):
        return None
    public = {"kty": kty} | {name: jwk.get(name) for name in MEMBERS[kty]}
    if not all(isinstance(value, str) for value in public.values()):
        return None
    try:
        if kty == "RSA" and not _is_sound_rsa(public):
            return None
        importers: dict[str, Callable[[Any], Any]] = {"RSA": RSAKey.import_key, "EC": ECKey.import_key, "OKP": OKPKey.import_key}
        key = importers[kty](public)
    except Exception:  # such as a point that is not on its curve; the other keys may be good
        return None
    return PublicKey(jwk.get("kid"), kty, public.get("crv"), jwk.get("alg"), key)


def _is_for_signatures(jwk: dict[str, Any]) -> bool:
    operations = jwk.get("key_ops", ["verify"])
    texts = all(jwk.get(name) is None or isinstance(jwk[name], str) for name in ("kid", "alg"))
    return texts and jwk.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations


def _is_sound_rsa(jwk: dict[str, Any]) -> bool:
    """Large enough to trust, small enough to compute with."""
    return int.from_bytes(decode_base64url(jwk["n"])).bit_length() in RSA_BITS and len(decode_base64url(jwk["e"])) <= 8
