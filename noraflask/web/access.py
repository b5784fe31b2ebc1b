"""The one guard a route carries: @access(PULL | PUSH | DELETE | ADMIN | PUBLIC). A test walks the URL map for views without it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from noraflask.errors import Denied
from noraflask.services.auth import Action, allowed
from noraflask.web.context import principal, repository

PULL, PUSH, DELETE, ADMIN, PUBLIC = Action.PULL, Action.PUSH, Action.DELETE, Action.ADMIN, Action.PUBLIC


def access(action: Action) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare what a view needs; the view runs only for a principal who may do that to the name in the address, else Denied."""

    def declare(view: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(view)
        def guarded(**arguments: Any) -> Any:
            if action is not PUBLIC:
                demand(action, arguments.get("name"))
            return view(**arguments)

        guarded.access = action  # type: ignore[attr-defined]
        return guarded

    return declare


def demand(action: Action, name: str | None) -> None:
    """Raises Denied. For what an address alone does not tell, such as the source of a mount."""
    if not may(action, name):
        raise Denied(f"{principal().name} may not {action.value} {name or 'everything'}", detail={"action": action.value, "name": name})


def may(action: Action, name: str | None) -> bool:
    return allowed(principal(), action, repository().name, name)
