"""Scopes of bearer tokens, and the challenge that asks for one (distribution, "Token Authentication Specification", "Token Scope Documentation")."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from noraflask.formats.docker.protocol.names import is_name


@dataclass(frozen=True, slots=True)
class Wanted:
    """A scope that a client asks a token for. `name` None: the list of all names."""

    name: str | None
    actions: frozenset[str]


MAX_SCOPES = 100
ACTIONS = ("pull", "push", "delete")
_SCOPE = re.compile(r"([a-z0-9]+(?:\([a-z0-9]+\))?):(.+):([a-z*,]*)\Z")


def parse_scopes(texts: Iterable[str]) -> list[Wanted]:
    """`repository:team/app:pull,push registry:catalog:*`, several in one text or in several. What is of no known kind is left out: nobody gets it."""
    found: list[Wanted] = []
    for scope in " ".join(texts).split()[:MAX_SCOPES]:
        parts = _SCOPE.match(scope)
        if parts is None:
            continue
        kind, name, words = parts[1].partition("(")[0], parts[2], set(parts[3].split(","))
        if kind == "registry" and name == "catalog" and words & {"*", "pull"}:
            found.append(Wanted(None, frozenset(("pull",))))
        elif kind == "repository" and is_name(name):
            found.append(Wanted(name, frozenset(action for action in ACTIONS if action in words or "*" in words)))
    return found


def render_scope(name: str, actions: Iterable[str]) -> str:
    """`name` that is no image name: the list of all names."""
    return f"repository:{name}:{','.join(sorted(actions))}" if is_name(name) else "registry:catalog:*"


def wanted_scope(name: str | None, action: str) -> str:
    """The scope that a client shall ask for; None is the list of all names. Empty for what is no image name: it must not get into a header."""
    if name is None:
        return "registry:catalog:*"
    if not is_name(name):
        return ""
    return f"repository:{name}:{'pull,push' if action == 'push' else action}"


def render_challenge(realm: str, service: str, scope: str, error: str) -> str:
    """The WWW-Authenticate header; `scope` is empty for a login."""
    parts = [f'realm="{realm}"', f'service="{service}"']
    if scope:
        parts.append(f'scope="{scope}"')
    if error:
        parts.append(f'error="{error}"')
    return f"Bearer {','.join(parts)}"
