"""Scopes of API tokens, as clients and records write them in JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from noraflask.services.auth.principal import ROLES, Action, Scope

MAX_SCOPES = 100

_PATTERN = re.compile(r"[^\s\x00-\x1f\x7f{}]{1,255}\Z")


def render_scope(scope: Scope) -> dict[str, list[str]]:
    return {
        "actions": [action.value for action in Action if action in scope.actions],
        "repositories": list(scope.repositories),
        "names": list(scope.names),
    }


def parse_scopes(value: Any) -> tuple[Scope, ...] | None:
    """What a client asks for; None stands for no limit. Raises ValueError with what is wrong."""
    if value is None:
        return None
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_SCOPES:
        raise ValueError(f"scopes must be a list of 1 to {MAX_SCOPES} objects with actions, and optionally repositories and names")
    return tuple(parse_scope(scope) for scope in value)


def parse_scope(value: Any) -> Scope:
    """{"actions": ["pull"], "repositories": ["images"], "names": ["team/**"]}; roles count as the actions they stand for. Raises ValueError."""
    if not isinstance(value, dict) or set(value) - {"actions", "repositories", "names"}:
        raise ValueError("a scope has the members actions, repositories and names, and no others")
    words = _words(value.get("actions"), "actions")
    return Scope(parse_actions(words), _patterns(value.get("repositories", ["*"]), "repositories"), _patterns(value.get("names", ["**"]), "names"))


def parse_actions(words: Iterable[str]) -> frozenset[Action]:
    """Raises ValueError."""
    actions: set[Action] = set()
    for word in words:
        if word in ("read", "write", "admin"):
            actions |= ROLES[word]
        elif word in ("pull", "push", "delete"):
            actions.add(Action(word))
        else:
            raise ValueError(f"{word!r} is no action; there are pull, push, delete, admin, and read and write for several of them")
    return frozenset(actions)


def _words(value: Any, what: str) -> list[str]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_SCOPES or not all(isinstance(word, str) for word in value):
        raise ValueError(f"{what} must be a list of 1 to {MAX_SCOPES} strings")
    return value


def _patterns(value: Any, what: str) -> tuple[str, ...]:
    patterns = _words(value, what)
    for pattern in patterns:
        if not _PATTERN.match(pattern) or any("**" in segment and segment != "**" for segment in pattern.split("/")):
            raise ValueError(f"{pattern[:80]!r} is no pattern: no spaces and braces; * in one segment, ** alone between slashes")
    return tuple(patterns)
