"""Logins: the ping that asks for one, and bearer tokens (distribution, "Token Authentication Specification", "OAuth2 Token Authentication")."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from flask import Response, request

from noraflask.errors import BadRequest, InvalidName, NotFound, Unauthenticated
from noraflask.formats.docker.blueprint import JSON, bp, named
from noraflask.formats.docker.protocol import scopes as protocol
from noraflask.formats.docker.protocol.scopes import Wanted
from noraflask.services.auth.principal import Action, Principal, Scope, Source
from noraflask.suspension import Steps
from noraflask.web.access import DELETE, LISTING, LOGIN, PUBLIC, PULL, PUSH, access, may
from noraflask.web.addresses import absolute, own_host
from noraflask.web.context import PRINCIPAL, principal, repository, state, target
from noraflask.web.forms import read_form_lists
from noraflask.web.responses import Answer


@bp.get("/", strict_slashes=False)
@access(LOGIN)
def ping() -> Response:
    """Clients find out here how to log in, and whether a login is good. So it is closed to anonymous clients also where they may pull."""
    return Answer("{}", content_type=JSON)


@bp.get("/token")
@access(PUBLIC)
def get_token() -> Response:
    """Who asks is known by the Basic login of this request, where a refresh token may be the password; whoever has none gets a token for what is
    open to all.
    """
    logins = state().authenticator
    if logins is not None:
        request.environ[PRINCIPAL] = logins.authenticate(request.environ, takes_refresh=True)
    return issue_token(principal(), request.args.getlist("scope"), request.args.get("offline_token") == "true")


@bp.post("/token")
@access(PUBLIC)
def post_token() -> Steps[Response]:
    logins = state().authenticator
    if logins is None:
        raise NotFound("this registry has no logins")
    fields = yield from read_form_lists()
    form = {name: values[0] for name, values in fields.items()}
    grant = form.get("grant_type")
    if grant == "password":
        who = logins.login(form.get("username", ""), form.get("password", ""), request.environ, takes_refresh=True)
    elif grant == "refresh_token":
        who = logins.by_refresh_token(form.get("refresh_token", ""), request.environ)
    else:
        raise BadRequest("grant_type must be password or refresh_token")
    request.environ[PRINCIPAL] = who
    return issue_token(who, fields.get("scope", []), form.get("access_type") == "offline")


def issue_token(who: Principal, scopes: list[str], offline: bool) -> Response:
    """A token for what of the wanted scopes the principal may do. RFC 6749, 5.1: never cached."""
    logins = state().authenticator
    if logins is None:
        raise NotFound("this registry has no logins")
    if who.source is Source.ANONYMOUS and not state().access.allowed(who, PULL, repository().name, None):
        raise Unauthenticated()
    if who.bearer is not None:  # it would live for ever, and get a refresh token that is cut to nothing
        raise Unauthenticated("a bearer token is no login; ask with what it was issued for")
    granted = [(wanted, scope) for wanted in protocol.parse_scopes(scopes) if (scope := granted_scope(wanted)) and scope.actions]
    token, issued, lifetime = logins.issue(who, "bearer", logins.config.bearer_ttl_secs, tuple(scope for _, scope in granted))
    members: dict[str, object] = {
        "token": token,
        "access_token": token,
        "expires_in": lifetime,
        "issued_at": datetime.fromtimestamp(issued, UTC).isoformat().replace("+00:00", "Z"),
        "scope": " ".join(protocol.render_scope(wanted.name or LISTING, (action.value for action in scope.actions)) for wanted, scope in granted),
    }
    if offline and logins.config.refresh_tokens and who.source in (Source.PASSWORD, Source.TOKEN):
        members["refresh_token"] = logins.issue(who, "refresh", logins.config.refresh_ttl_days * 86400)[0]
    return Answer(json.dumps(members), content_type=JSON, headers={"Cache-Control": "no-store"})


def granted_scope(wanted: Wanted) -> Scope | None:
    """What of a wanted scope the principal may do, for the canonical name; None: no name of this registry."""
    if wanted.name is None:
        return Scope(frozenset((PULL,)), (repository().name,), (LISTING,))
    try:
        place, name = named(wanted.name)
    except (InvalidName, NotFound):
        return None
    actions = frozenset(action for action in (PULL, PUSH, DELETE) if action.value in wanted.actions and may(action, name, place.name))
    return Scope(actions, (place.name,), (name,))


def challenge(action: Action, name: str | None, error: str, source: str = "") -> str:
    """Scopes are for names as the client knows them. `source`: a name, so written, that must be pulled from as well."""
    at = target()
    scopes = [
        protocol.wanted_scope(None if name == LISTING else f"{at.prefix}{name}" if name else "", action.value),
        protocol.wanted_scope(source, PULL.value),
    ]
    return protocol.render_challenge(absolute(f"{at.mount}/token"), own_host(), " ".join(filter(None, scopes)), error)
