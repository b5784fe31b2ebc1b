"""From the Authorization header to a credential: a name with a password, or a token. Pure functions."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field

from noraflask.services.auth.oidc import looks_like_jwt
from noraflask.services.auth.tokens import FORM


@dataclass(frozen=True, slots=True)
class Password:
    name: str
    password: bytes = field(repr=False)


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


def kid_of(token: str) -> str:
    """The key id that a JWT's header claims, unverified; empty when there is none."""
    head = token.partition(".")[0]
    try:
        members = json.loads(base64.urlsafe_b64decode(head[:4096] + "=" * (-len(head[:4096]) % 4)))
    except (ValueError, RecursionError):
        return ""
    kid = members.get("kid") if isinstance(members, dict) else None
    return kid if isinstance(kid, str) else ""
