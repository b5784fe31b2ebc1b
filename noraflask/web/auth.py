"""Tokens and rights over HTTP: NORA's token API, its admin API, the exchange of OIDC tokens, whoami and explain. All JSON."""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, Response, request

from noraflask import json_document
from noraflask.config.dead_patterns import dead_scope
from noraflask.ecosystems import ecosystem_of
from noraflask.errors import BadRequest, Denied, NoraError, NotFound, Unauthenticated, Unprocessable, UnsupportedMediaType
from noraflask.services.auth.authenticator import Authenticator
from noraflask.services.auth.credentials import is_secret
from noraflask.services.auth.principal import Action, Principal, Source
from noraflask.services.auth.rules import describe, describe_limits
from noraflask.services.auth.scopes import parse_scopes, render_scope
from noraflask.services.auth.tokens import ID, MAX_SECONDS, TokenRecord
from noraflask.suspension import Steps
from noraflask.web.access import ADMIN, PUBLIC, access
from noraflask.web.addresses import as_seen
from noraflask.web.bodies import read_body
from noraflask.web.context import PRINCIPAL, note, principal, repositories, services, state
from noraflask.web.forms import read_form
from noraflask.web.responses import Answer

bp = Blueprint("auth", __name__)

DAY = 86400
BODY_BYTES = 64 * 1024
MOST_VALUES = 4096
TEXT_CHARACTERS = 4096
EXCHANGED_SECONDS = 900
ROLES = ("read", "write", "admin")
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 (RFC 8693, 2.1)


class NoLogins(NoraError):
    """NORA's answer where authentication is off: the service is not there."""

    status = 503
    default_message = "this registry has no logins: authentication is switched off (auth.enabled)"


# Tokens of one's own. The login stands in the body, as in NORA, or in the Authorization header.


@bp.post("/api/tokens")
@access(PUBLIC)
def mint_token() -> Steps[Response]:
    """With a password. A token cannot make another one: what was stolen would live on after it was revoked."""
    members = yield from read_json()
    who = caller(members)
    if who.source is not Source.PASSWORD or who.bearer is not None:
        raise Denied("log in with a password to make a token; a token can be rotated, and OIDC identities use /api/v1/token/exchange")
    role, lifetime = wanted_role(members), wanted_lifetime(members, least=0)
    if role == "admin" and not may_mint_admin(who):
        raise Denied(f"{who.name} may not make admin tokens; an administrator can, or add the user to auth.admin_users")
    return minted(who, who.name, role, lifetime, members, service=False)


@bp.post("/api/tokens/list")
@access(PUBLIC)
def list_tokens() -> Steps[Response]:
    who = caller((yield from read_json()))
    return _json({"tokens": [token_members(record) for record in services().tokens.list(who.name) if is_own(who, record)]})


@bp.post("/api/tokens/revoke")
@access(PUBLIC)
def revoke_token() -> Steps[Response]:
    members = yield from read_json()
    who, record = own_token(members)
    services().tokens.revoke(record.id)
    note("token_revoke", record.user, f"id={record.id}", actor=who, registry="api")
    return Answer("Token revoked", content_type="text/plain; charset=utf-8", headers=NO_STORE)


@bp.post("/api/tokens/rotate")
@access(PUBLIC)
def rotate_token() -> Steps[Response]:
    """A new token in place of an old one, which goes on for `overlap_secs` (default 0). One that rotates itself gets no longer life by it."""
    members = yield from read_json()
    who, record = own_token(members)
    overlap = wanted_number(members, "overlap_secs", 0, 0, 30 * DAY)
    keep_end = record.id == who.token_id and not state().access.allowed(who, Action.ADMIN, "", None)
    made = services().tokens.rotate(record.id, overlap, keep_end)
    if made is None:
        raise NotFound(f"the token {record.id} can no longer be rotated: it has expired, or it was revoked or rotated just now")
    note("token_rotate", record.user, f"id={record.id} to={made[1].id}", actor=who, registry="api")
    return token_answer(*made)


def own_token(members: dict[str, Any]) -> tuple[Principal, TokenRecord]:
    """Whoever asks, and the token of theirs that `hash_prefix` names."""
    who = caller(members)
    id = members.get("hash_prefix")
    if not isinstance(id, str):
        raise Unprocessable("hash_prefix is missing: 16 lower-case hex digits, as /api/tokens/list tells them")
    record = services().tokens.find(id) if ID.match(id) else None
    if record is None or not is_own(who, record):
        raise NotFound(f"{who.name} has no such token")  # not which: it may be a secret that was mistaken for the prefix
    return who, record


def is_own(who: Principal, record: TokenRecord) -> bool:
    """A password reaches what its user made, a token itself alone, an administrator everything.

    Not what another one made in a user's name, nor an OIDC identity whose name may look like a user's.
    """
    if who.bearer is None and state().access.allowed(who, Action.ADMIN, "", None):
        return True
    if who.source is Source.PASSWORD and who.bearer is None:
        return record.user == who.name and not record.service
    return who.source is Source.TOKEN and who.bearer is None and record.id == who.token_id


# Administration.


@bp.post("/api/v1/admin/tokens")
@access(ADMIN)
def mint_for_another() -> Steps[Response]:
    """A token whose role is its right; the named user need not exist."""
    logins_or_503()
    members = yield from read_json()
    who = principal()
    if who.scopes is not None or any("*" not in patterns for patterns in (*who.namespace_scopes, *who.watched_scopes)):
        raise Denied("a credential that is limited to some names cannot make tokens for others")
    user = members.get("username")
    if not isinstance(user, str):
        raise Unprocessable("username is missing: the name that the token acts under")
    if not user or len(user) > 255 or not user.isprintable() or ":" in user:
        raise BadRequest("username must be 1 to 255 printable characters without a colon")
    role, lifetime = wanted_role(members), wanted_lifetime(members, least=1)
    if who.source is Source.OIDC and who.expires_at is not None:  # a job of a minute must not leave an account of ten years
        lifetime = max(1, min(lifetime, int(who.expires_at - services().tokens.now())))
    return minted(who, user, role, lifetime, members, service=True)


def minted(who: Principal, user: str, role: str, lifetime: int, members: dict[str, Any], *, service: bool) -> Response:
    token, record = services().tokens.mint(user, role, lifetime, wanted_description(members), wanted_scopes(members), service)
    note("token_mint", user, f"role={role} ttl_secs={lifetime} id={record.id}", actor=who, registry="admin" if service else "api")
    return token_answer(token, record)


@bp.get("/api/v1/admin/logins")
@access(ADMIN)
def login_figures() -> Response:
    """Failed logins since the start, of all workers together."""
    return _json({"failed_logins": logins_or_503().logins.lockout.counters(), "audit_records_lost": services().audit.lost})


@bp.get("/api/v1/access/explain")
@access(ADMIN)
def explain() -> Response:
    """What one may do, and by which rule: ?user=alice&action=push&name=team/app, also &repository=… and &group=…"""
    query = request.args
    words = {action.value: action for action in (Action.PULL, Action.PUSH, Action.DELETE, Action.ADMIN)}
    if query.get("action") not in words or not query.get("user"):
        raise BadRequest("ask with user=NAME and action=pull, push, delete or admin; for the first three also with name=NAME")
    user = query["user"]
    groups = frozenset(query.getlist("group")) or logins_or_503().logins.users.current().groups_of(user)
    who = Principal("anonymous") if user == "anonymous" else Principal(user, Source.PASSWORD, groups)
    repository = query.get("repository") or repositories()[0].name
    return _json(decision_members(who, words[query["action"]], repository, query.get("name")))


def decision_members(who: Principal, action: Action, repository: str, name: str | None) -> dict[str, Any]:
    rights = state().access
    decision = rights.decide(who, action, "" if action is Action.ADMIN else repository, rights.same_name(repository, name))
    return {
        "user": who.name,
        "groups": sorted(who.groups),
        "action": action.value,
        "repository": repository,
        "name": name,
        "allowed": decision.allowed,
        "decided_by": decision.by or "no rule grants it",
        "policy": state().access.policy.fingerprint,
    }


# Who am I, and tokens for those who are known elsewhere.


@bp.get("/api/v1/whoami")
@access(PUBLIC)
def whoami() -> Response:
    who = principal()
    rights = state().access.rights(who)
    token = {"id": who.token_id, "service": who.service} if who.token_id else None
    members = {
        "name": who.name,
        "source": who.source.value,
        "groups": sorted(who.groups),
        "role": who.role,
        "provider": who.provider or None,
        "token": token,
        "expires_at": None if who.expires_at is None else int(who.expires_at),
        "rights": describe(rights),
        "limits": describe_limits(rights),
        "policy": state().access.policy.fingerprint,
        "request": as_seen(),
    }
    return _json(members)


@bp.post("/api/v1/token/exchange")
@access(PUBLIC)
def exchange() -> Steps[Response]:
    """A JWT of an OIDC issuer for a token of this registry that lives a little longer and is good in all places.

    RFC 8693: grant_type, subject_token, as a form; or JSON with `token`; or the JWT in the Authorization header.
    """
    logins = logins_or_503()
    who = principal()
    if who.source is Source.ANONYMOUS:
        who = logins.login("", (yield from _subject_token()), request.environ)
    if who.source is not Source.OIDC or who.exchanged:
        raise Unauthenticated("send the JWT of a configured OIDC issuer; other credentials need no exchange")
    token, _, lifetime = logins.issue(who, "access", EXCHANGED_SECONDS)
    note("token_mint", who.name, f"exchange ttl_secs={lifetime}", actor=who, registry="api")
    kind = "urn:ietf:params:oauth:token-type:access_token"
    return _json({"access_token": token, "token": token, "issued_token_type": kind, "token_type": "Bearer", "expires_in": lifetime})


def _subject_token() -> Steps[str]:
    if request.is_json:
        token = (yield from read_json()).get("token")
    else:
        form = yield from read_form()
        if form.get("grant_type", TOKEN_EXCHANGE) != TOKEN_EXCHANGE:
            raise BadRequest(f"grant_type must be {TOKEN_EXCHANGE}")
        token = form.get("subject_token")
    if not isinstance(token, str) or not token:
        raise Unprocessable("the JWT is missing: subject_token of a form, token of a JSON body, or an Authorization header")
    return token


# What requests say.


def logins_or_503() -> Authenticator:
    authenticator = state().authenticator
    if authenticator is None:
        raise NoLogins()
    return authenticator


def caller(members: dict[str, Any]) -> Principal:
    """Who asks: by user name and password in the body, else by the Authorization header."""
    logins = logins_or_503()
    if "username" in members or "password" in members:
        name, password = members.get("username"), members.get("password")
        if not isinstance(name, str) or not isinstance(password, str):
            raise Unprocessable("username and password must both be there, as strings")
        if not logins.logins.users.current().hashes and not is_secret(password):
            raise NoLogins("this registry has no users with passwords; send a token in the Authorization header")
        who = logins.login(name, password, request.environ)
        request.environ[PRINCIPAL] = who
    else:
        who = principal()
    if who.source is Source.ANONYMOUS:
        if "HTTP_AUTHORIZATION" in request.environ:
            raise Unauthenticated()
        raise Unprocessable("username and password are missing in the body; or send an Authorization header")
    return who


def may_mint_admin(who: Principal) -> bool:
    return who.name in logins_or_503().config.admin_users or state().access.allowed(who, Action.ADMIN, "", None)


def read_json() -> Steps[dict[str, Any]]:
    if request.mimetype != "application/json" and not request.mimetype.endswith("+json"):
        raise UnsupportedMediaType()
    data = yield from read_body(BODY_BYTES)
    try:
        members = json_document.parse(data, MOST_VALUES)
    except ValueError as problem:
        raise BadRequest(f"the request body is not valid JSON: {str(problem)[:200]}") from None
    if not isinstance(members, dict):
        raise Unprocessable("the request body must be a JSON object")
    return members


def wanted_role(members: dict[str, Any]) -> str:
    role = members.get("role", "read")
    if not isinstance(role, str):
        raise Unprocessable("role must be a string: read, write or admin")
    if role not in ROLES:
        raise BadRequest("role must be read, write or admin")
    return role


def wanted_lifetime(members: dict[str, Any], least: int) -> int:
    """Seconds; 0 makes a token that has expired, as NORA does. More than ten years are cut to that."""
    days = wanted_number(members, "ttl_days", 30, least, 1 << 53, "a whole number of days, at most 3650 are given")
    return min(days * DAY, MAX_SECONDS)


def wanted_number(members: dict[str, Any], name: str, usual: int, least: int, most: int, what: str = "") -> int:
    value = members.get(name, usual)
    if type(value) is not int or value < 0:
        raise Unprocessable(f"{name} must be {what or 'a whole number'}, not less than {least}")
    if not least <= value <= most:
        raise BadRequest(f"{name} must be {what or f'{least} to {most}'}, not less than {least}")
    return value


def wanted_description(members: dict[str, Any]) -> str | None:
    text = members.get("description")
    if text is not None and not isinstance(text, str):
        raise Unprocessable("description must be a string")
    if text is not None and len(text) > TEXT_CHARACTERS:
        raise BadRequest(f"description must be at most {TEXT_CHARACTERS} characters long")
    return text


def wanted_scopes(members: dict[str, Any]) -> Any:
    try:
        scopes = parse_scopes(members.get("scopes"))
    except ValueError as problem:
        raise BadRequest(str(problem)) from None
    formats = {one.name: ecosystem_of(one.format) for one in state().repositories}
    for scope in scopes or ():
        for key, why in dead_scope(scope.repositories, scope.names, formats):
            raise BadRequest(f"scopes: {key}: {why}")
    return scopes


# What answers say.

NO_STORE = {"Cache-Control": "no-store"}


def token_answer(token: str, record: TokenRecord) -> Response:
    seconds = record.expires_at - record.created_at
    return _json({"token": token, "expires_in_days": seconds // DAY, "expires_in_secs": seconds, "hash_prefix": record.id})


def token_members(record: TokenRecord) -> dict[str, Any]:
    members: dict[str, Any] = {
        "hash_prefix": record.id,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "last_used": record.last_used,
        "description": record.description,
        "role": record.role,
    }
    if record.scopes is not None:
        members["scopes"] = [render_scope(scope) for scope in record.scopes]
    return members


def _json(members: dict[str, Any]) -> Response:
    return Answer(json.dumps(members), content_type="application/json", headers=NO_STORE)
