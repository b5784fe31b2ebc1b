"""Who asks, and what there is to ask."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from noraflask.services.bounded_memory import bytes_of

SCOPE_BYTES = 400
"""A scope in memory without its texts."""
PAIR_BYTES = 64
"""Likewise a claim, or a pattern."""


class Action(enum.Enum):
    PULL = "pull"
    PUSH = "push"
    DELETE = "delete"
    ADMIN = "admin"
    LOGIN = "login"
    """Open to whoever has valid credentials, whatever their rights; with anonymous bearer tokens counted in."""
    PUBLIC = "public"
    """Open to all by its nature, such as /health, or a route that checks the credentials itself."""


ROLES = {
    "read": frozenset((Action.PULL,)),
    "write": frozenset((Action.PULL, Action.PUSH, Action.DELETE)),
    "admin": frozenset((Action.PULL, Action.PUSH, Action.DELETE, Action.ADMIN)),
    "none": frozenset[Action](),
}
"""The short forms of rights."""


class Source(enum.Enum):
    """By what a principal was recognised."""

    ANONYMOUS = "anonymous"
    PASSWORD = "password"  # noqa: S105 (a word, not a secret)
    TOKEN = "token"  # noqa: S105
    OIDC = "oidc"


@dataclass(frozen=True, slots=True)
class Scope:
    """A piece of rights: these actions on these names of these repositories. Patterns as in rules.py."""

    actions: frozenset[Action]
    repositories: tuple[str, ...] = ("*",)
    names: tuple[str, ...] = ("**",)


@dataclass(frozen=True, slots=True)
class Principal:
    name: str
    """User name, owner of the token, or `sub` of the identity. What the audit log says."""
    source: Source = Source.ANONYMOUS
    groups: frozenset[str] = frozenset()
    password_mark: str = ""
    """Of a user who was recognised by a password: says which one, and nothing about it."""
    role: str | None = None
    """Of a token or an OIDC identity."""
    token_id: str = ""
    """Of an API token, also when a bearer token was issued for it."""
    service: bool = False
    """A token that an administrator made: its role is its right. Other tokens never exceed their owner."""
    expires_at: float | None = None
    """When the credential ends, seconds since the epoch; None: it does not, or that is not known."""
    scopes: tuple[Scope, ...] | None = None
    """What an API token is cut to; None: nothing is cut."""
    bearer: tuple[Scope, ...] | None = None
    """What a bearer token of our own is cut to; None for other credentials."""
    exchanged: bool = False
    """An OIDC identity by a token that this registry gave for the issuer's."""
    provider: str = ""
    """Of an OIDC identity: the configured name of its issuer."""
    claims: tuple[tuple[str, str], ...] = ()
    """Of an OIDC identity: its claims as text, nested names joined by dots; one with several values is there several times."""
    namespace_scopes: tuple[tuple[str, ...], ...] = ()
    """Of an OIDC identity: lists of patterns; a name that is written must match one of each list."""
    watched_scopes: tuple[tuple[str, ...], ...] = ()
    """The same of a provider that is only watched (namespace_scope_enforcement = "audit"): what they would refuse is logged and let pass."""

    def __hash__(self) -> int:
        """Of what mostly differs; asked for each request, and all fields would take microseconds."""
        return hash((self.name, self.token_id, self.expires_at))


ANONYMOUS = Principal("anonymous")


def bytes_of_scopes(scopes: Iterable[Scope]) -> int:
    """What they take in memory, about."""
    return sum(SCOPE_BYTES + bytes_of(*scope.repositories, *scope.names) for scope in scopes)


def bytes_of_principal(principal: Principal) -> int:
    """Likewise, of all in it that somebody else has made as long as he likes."""
    pieces = (*principal.claims, *principal.namespace_scopes, *principal.watched_scopes)
    texts = sum(PAIR_BYTES * len(piece) + bytes_of(*piece) for piece in pieces)
    return texts + bytes_of_scopes((*(principal.scopes or ()), *(principal.bearer or ())))
