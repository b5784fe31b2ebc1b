"""The one guard a route carries: @access(PULL | PUSH | DELETE | ADMIN | LOGIN | PUBLIC). A test walks the URL map for views without it.

Without credentials a refusal is 401 with the challenge of the format; with them it is 403, and says which right is missing and whom to ask.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable
from typing import Any

from flask import request

from noraflask.errors import Denied, NotGated, Unauthenticated
from noraflask.services.auth.principal import Action, Principal, Source
from noraflask.services.auth.rules import Access, Decision, without_bearer
from noraflask.services.curation.gate import Permit
from noraflask.services.metrics import catalogue
from noraflask.web.context import NAME, STATE, note, principal, recognise, repository_name, services, state, surroundings, target
from noraflask.web.format import Format
from noraflask.web.gate import PERMIT
from noraflask.web.targets import OUTER_PATH, TARGET

PULL, PUSH, DELETE, ADMIN, LOGIN, PUBLIC = Action.PULL, Action.PUSH, Action.DELETE, Action.ADMIN, Action.LOGIN, Action.PUBLIC
LISTING = ":listing"
"""Stands for a name in a bearer token that was issued for the list of all names. No real name has a colon."""

log = logging.getLogger("nora.auth")


def access(action: Action, listing: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare what a view needs; it runs only for a principal who may do that to the name in the address.

    `listing`: the view lists names itself, those that the principal may pull; it needs a login, and a right to any name at all.
    """

    def declare(view: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(view)
        def guarded(**arguments: Any) -> Any:
            name = arguments.get("name")
            if name is not None:
                name = arguments["name"] = _canonical(name)
            if action is not PUBLIC:
                demand(action, LISTING if listing else name)
            answer = view(**arguments)
            return _gated(answer) if action is PULL else answer

        guarded.access = action  # type: ignore[attr-defined]
        return guarded

    return declare


def _canonical(name: str) -> str:
    """The one spelling of the name in the address: rights, gate, audit, log and view see no other. Raises InvalidName, and what else a format has."""
    environ = request.environ
    format: Format | None = environ[TARGET].format
    if format is not None:
        name = format.ecosystem.parse_name(name)
    environ[NAME] = name
    return name


def _gated(answer: Any) -> Any:
    """Nothing is served that the gate was not asked about: a view that forgot to ask, in whatever format, serves nothing."""
    if answer.status_code >= 400:
        return answer  # a redirect leads to bytes as well
    granted = request.environ.get(PERMIT)
    if not isinstance(granted, Permit):
        log.error("%s %s was to be served without asking the gate", request.method, json.dumps(request.environ[OUTER_PATH]))
        raise NotGated()
    if granted.package.format:
        answer.headers["X-Nora-Policy"] = granted.policy.fingerprint
        if "immutable" in answer.headers.get("Cache-Control", ""):
            answer.headers["Cache-Control"] = "private, no-cache"  # a cache in between must ask: the next policy may say no
    return answer


def demand(action: Action, name: str | None) -> None:
    """Raises Unauthenticated or Denied."""
    found, environ, repository = surroundings()
    try:
        who = recognise(environ)
    except Unauthenticated as problem:
        problem.headers["WWW-Authenticate"] = challenge(action, name, "invalid_token")
        raise
    here: Access = environ[STATE].access
    if not here.policy.enabled:
        return
    if action is LOGIN:
        if who.source is Source.ANONYMOUS and who.bearer is None:
            raise Unauthenticated(headers={"WWW-Authenticate": challenge(action, name, "")})
        return
    if name == LISTING:
        _demand_listing(action, who)
        return
    decision = here.decide(who, action, repository, name)
    if who.source is Source.OIDC and action in (PUSH, DELETE):
        outcome = "deny" if not decision.allowed else "would_deny" if here.leaves_watched(who, action, repository, name) else "allow"
        found.metrics.count(catalogue.NAMESPACE_SCOPE, who.provider, outcome)
    if not decision.allowed:
        _refuse(action, name, who, decision)
    if here.leaves_watched(who, action, repository, name):
        log.warning("outside of the namespaces that are watched: user=%s action=%s name=%s", json.dumps(who.name), action.value, json.dumps(name))
        note("denied", name or "", f"{action.value}: outside of namespace_scope, which is only watched", "ok")


def _demand_listing(action: Action, who: Principal) -> None:
    if who.source is Source.ANONYMOUS:
        raise Unauthenticated(headers={"WWW-Authenticate": challenge(action, LISTING, "")})
    if who.bearer is not None and not any(LISTING in scope.names for scope in who.bearer):
        raise Unauthenticated(headers={"WWW-Authenticate": challenge(action, LISTING, "insufficient_scope")})
    decision = state().access.decide(without_bearer(who), action, repository_name(), None)
    if not decision.allowed:
        _deny(action, None, who, decision)


def _refuse(action: Action, name: str | None, who: Principal, decision: Decision) -> None:
    if who.source is Source.ANONYMOUS:
        error = "" if who.bearer is None else "insufficient_scope"
        services().metrics.count(catalogue.DENIED, repository_name() or catalogue.OTHER, action.value, "401")
        raise Unauthenticated(headers={"WWW-Authenticate": challenge(action, name, error)})
    if who.bearer is not None:
        own = state().access.decide(without_bearer(who), action, repository_name(), name)
        if own.allowed:  # the client only has to ask for a token with that scope
            raise Unauthenticated(headers={"WWW-Authenticate": challenge(action, name, "insufficient_scope")})
        decision = own
    _deny(action, name, who, decision)


def _deny(action: Action, name: str | None, who: Principal, decision: Decision) -> None:
    what = name or ("this server" if action is ADMIN else "anything here")
    services().metrics.count(catalogue.DENIED, repository_name() or catalogue.OTHER, action.value, "403")
    log.info("denied: user=%s action=%s name=%s by=%s", json.dumps(who.name), action.value, json.dumps(what), decision.by or "no rule")
    note("denied", name or "", f"{action.value}: {decision.by or 'no rule grants it'}", "denied")
    raise Denied(
        f"{who.name} may not {action.value} {what}: {decision.by or f'no rule grants {action.value} there'}. {_whom_to_ask()}",
        detail={"action": action.value, "name": name, "user": who.name, "decided_by": decision.by},
    )


def _whom_to_ask() -> str:
    contact = state().access.policy.contact
    return f"To get the right, turn to {contact}." if contact else "To get the right, turn to the administrator of this registry."


def may(action: Action, name: str, repository: str | None = None) -> bool:
    """For what an address alone does not tell, such as the source of a mount. `repository`: the name of another one than the request's."""
    return state().access.allowed(principal(), action, repository or repository_name(), name)


def may_by_right(action: Action, name: str, repository: str | None = None) -> bool:
    """As may(), whatever the bearer token in hand was issued for: to fill a listing that it was issued for."""
    return state().access.allowed(without_bearer(principal()), action, repository or repository_name(), name)


def may_below(action: Action, folder: str) -> bool:
    """To any name below a folder, for a listing that shows folders; as may_by_right()."""
    return state().access.reaches(without_bearer(principal()), action, repository_name(), folder)


def may_everywhere(action: Action) -> bool:
    return state().access.everywhere(principal(), action, repository_name())


def challenge(action: Action, name: str | None, error: str) -> str:
    """The WWW-Authenticate header for the request at hand: its format's own, else Basic."""
    format = target().format
    own = format.login.challenge if format else None
    return own(action, name, error) if own else basic_challenge()


def basic_challenge() -> str:
    realm = state().config.server.public_url or "Nora"
    return f'Basic realm="{realm}", charset="UTF-8"'
