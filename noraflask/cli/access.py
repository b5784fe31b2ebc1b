"""nora access explain: what one may do, by the configuration file. nora whoami: who the running server takes one for."""

from __future__ import annotations

import argparse
import base64
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from noraflask import __version__
from noraflask.cli.subcommand import (
    FAILED,
    Commands,
    Failed,
    WrongUse,
    add,
    add_group,
    add_password_stdin,
    configuration,
    local_url,
    password_from_stdin,
    password_from_terminal,
    storage_of,
    table,
    tell,
    tell_json,
)
from noraflask.cli.tokens import token_id

if TYPE_CHECKING:
    from noraflask import http_client
    from noraflask.config import Config
    from noraflask.services.auth.principal import Principal
    from noraflask.services.auth.rules import Access, Policy

TOKEN_VARIABLE = "NORAFLASK_TOKEN"  # noqa: S105 (a name). Not NORA_TOKEN: each variable that begins so is a setting
TIMEOUT_SECONDS = 10.0
ACTIONS = ("pull", "push", "delete", "admin")
NO_NAME = "-"

DESCRIPTION = "Rights: who may do what to which names, by roles and by [[access.rules]]."
EXPLAIN_DESCRIPTION = """\
Says whether USER may do ACTION to NAME, which rule, role or limit decides, and all else that bears on USER. It reads the files that
`nora serve` would read and asks no server, so a rule can be tried before `kill -HUP`. Exit code 0: allowed; 1: not allowed, or it failed.

  nora access explain alice push team/app
  nora access explain anonymous pull team/app
  nora access explain alice admin -
  nora access explain ci push team/app --token 0123456789abcdef
  nora access explain repo:team/app:ref:refs/heads/main push team/app --provider github --claim repository=team/app

USER is a name with a password; with --token the token's owner, with --provider the claim `sub`. `anonymous` is whoever is not logged in.
"""
WHOAMI_DESCRIPTION = f"""\
Asks a running server for whom it takes the credential, and shows name, groups and rights. The credential is the variable {TOKEN_VARIABLE}
(an API token, a bearer token or a JWT), or a password: --user, and asked for on the terminal or by --password-stdin. With neither: anonymous.
Exit code 1 when the server refuses the credential; its message is on stderr.
"""


def add_commands(commands: Commands) -> None:
    parser = add(
        add_group(commands, "access", "rights, explained", DESCRIPTION), "explain", "who may do what, and by which rule", EXPLAIN_DESCRIPTION
    )
    parser.add_argument("user", metavar="USER")
    parser.add_argument("action", choices=ACTIONS, metavar="ACTION", help=", ".join(ACTIONS))
    parser.add_argument("name", metavar="NAME", help="such as team/app; - for admin")
    parser.add_argument("--repository", metavar="REPOSITORY", help="(default: the first one that this server has)")
    parser.add_argument("--group", action="append", metavar="G", help="instead of the groups in auth.groups_file, repeatable")
    by = parser.add_mutually_exclusive_group()
    by.add_argument("--token", type=token_id, metavar="ID", help="by that API token of USER")
    by.add_argument("--provider", metavar="P", help="as an identity of that OIDC provider")
    parser.add_argument("--claim", type=_claim, action="append", metavar="K=V", help="of the identity, repeatable; nested names with dots")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(work=explain)
    _add_whoami(commands)


def _add_whoami(commands: Commands) -> None:
    parser = add(commands, "whoami", "ask the server for whom it takes a credential", WHOAMI_DESCRIPTION)
    parser.add_argument("--url", type=_url, metavar="URL", help="of the server (default: what the configuration says it listens on)")
    parser.add_argument("--user", metavar="NAME", help="log in with a password")
    add_password_stdin(parser)
    parser.add_argument("--json", action="store_true", help="the server's answer as it is")
    parser.set_defaults(work=whoami)


def _claim(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError("expected NAME=VALUE")
    return name, value


def _url(text: str) -> str:
    problem = argparse.ArgumentTypeError("expected http://HOST or https://HOST, without a user, a password and a query")
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises ValueError
    except ValueError:
        raise problem from None
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment or not text.isprintable():
        raise problem
    return text.rstrip("/")


# explain


def explain(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from noraflask.assembly import repositories_of
    from noraflask.errors import Unauthenticated
    from noraflask.formats import FORMATS
    from noraflask.services.auth.rules import Access, Policy

    config = configuration()
    repositories = repositories_of(config, FORMATS)
    options.repository = options.repository or next(iter(repositories)).name
    _check_use(options, sorted(one.name for one in repositories))
    if not config.auth.enabled:
        tell("remark: what follows is for when authentication is switched on")
    policy = replace(Policy.of(config, repositories), enabled=True)
    access = Access(policy, repositories)
    try:
        who = _principal(options, config, policy)
    except Unauthenticated as refusal:
        members = _members_of_refusal(options, str(refusal), policy)
    else:
        members = _members(options, who, access)
    if options.json:
        tell_json(members)
    else:
        _show_decision(members)
    return 0 if members["allowed"] else FAILED


def _check_use(options: argparse.Namespace, repositories: list[str]) -> None:
    """Raises WrongUse."""
    if options.repository not in repositories:
        raise WrongUse(f"there is no repository {options.repository}, there is {', '.join(repositories)}")
    if (options.name == NO_NAME) != (options.action == "admin"):
        raise WrongUse("admin is about the whole server: its NAME is -; the other actions need a name")
    if options.claim and not options.provider:
        raise WrongUse("--claim needs --provider")
    if options.group and (options.provider or options.user == "anonymous"):
        raise WrongUse("--group is for users of this server; identities of OIDC providers and anonymous clients have no groups")


def _principal(options: argparse.Namespace, config: Config, policy: Policy) -> Principal:
    """Raises Unauthenticated when such a credential is refused before anybody asks for rights."""
    from noraflask.assembly import make_users
    from noraflask.services.auth.principal import ANONYMOUS, Principal, Source

    if options.provider:
        return _identity(options, config, policy)
    if options.user == ANONYMOUS.name and not options.token:
        return ANONYMOUS
    directory = make_users(config).current()
    groups = frozenset(options.group) if options.group else directory.groups_of(options.user)
    if options.token:
        return _of_token(options, config, options.user in directory.hashes, groups)
    if options.user not in directory.hashes:
        tell(f"remark: {options.user} is not in {config.auth.htpasswd_file}; such a user would have these rights")
    return Principal(options.user, Source.PASSWORD, groups)


def _of_token(options: argparse.Namespace, config: Config, has_owner: bool, groups: frozenset[str]) -> Principal:
    from noraflask.assembly import make_tokens
    from noraflask.errors import Unauthenticated
    from noraflask.services.auth.principal import Principal, Source

    with storage_of(config) as storage:
        tokens = make_tokens(config, storage)
        made = tokens.find(options.token)
    if made is None:
        raise Failed(f"there is no token {options.token}")
    if made.user != options.user:
        raise WrongUse(f"the token {options.token} is of {made.user}, not of {options.user}")
    if made.is_expired(tokens.now()):
        raise Unauthenticated(f"the API token {made.id} has expired")
    service = not has_owner if made.service is None else made.service
    if not service and not has_owner:
        raise Unauthenticated(f"the owner of the API token {made.id} is no user any more")
    name, role, ends = made.user, made.role, float(made.expires_at)
    return Principal(name, Source.TOKEN, groups, role=role, token_id=made.id, service=service, expires_at=ends, scopes=made.scopes)


def _identity(options: argparse.Namespace, config: Config, policy: Policy) -> Principal:
    import time

    from noraflask.services.auth.oidc import Oidc
    from noraflask.services.auth.rules import accepts_claims

    auth = config.auth
    if options.provider not in [provider.name for provider in auth.oidc_providers]:
        raise WrongUse(f"there is no provider {options.provider}; the configuration has {', '.join(p.name for p in auth.oidc_providers) or 'none'}")
    if not auth.oidc_enabled:
        tell("remark: auth.oidc.enabled is false: such identities are refused at present")
    oidc = Oidc(auth.oidc_providers, auth.oidc_leeway_secs, auth.oidc_jwks_cache_secs, None, accepts=lambda who: accepts_claims(policy, who))
    claims = tuple(pair for pair in options.claim or () if pair[0] != "sub")
    return oidc.identity(options.provider, options.user, (("sub", options.user), *claims), time.time() + 60)


def _members(options: argparse.Namespace, who: Principal, access: Access) -> dict[str, Any]:
    """In the words of the API, with all that bears on the principal."""
    from noraflask.services.auth.principal import Action
    from noraflask.services.auth.rules import describe, describe_limits

    rights, repository = access.rights(who), "" if options.action == "admin" else options.repository
    decision = access.decide(who, Action(options.action), repository, access.same_name(repository, options.name) if repository else None)
    return {
        **_question(options),
        "groups": sorted(who.groups),
        "role": who.role,
        "allowed": decision.allowed,
        "decided_by": decision.by or "no rule grants it",
        "rights": describe(rights),
        "limits": describe_limits(rights),
        "policy": access.policy.fingerprint,
    }


def _members_of_refusal(options: argparse.Namespace, reason: str, policy: Policy) -> dict[str, Any]:
    rest: dict[str, Any] = {"groups": [], "role": None, "allowed": False, "decided_by": f"login refused: {reason}", "rights": [], "limits": []}
    return {**_question(options), **rest, "policy": policy.fingerprint}


def _question(options: argparse.Namespace) -> dict[str, Any]:
    is_admin = options.action == "admin"
    name = None if is_admin else options.name
    return {"user": options.user, "action": options.action, "repository": None if is_admin else options.repository, "name": name}


def _show_decision(members: dict[str, Any]) -> None:
    what = "this server" if members["name"] is None else f"{members['name']} (repository {members['repository']})"
    print(f"{'yes' if members['allowed'] else 'no'}: {members['user']} {'may' if members['allowed'] else 'may not'} {members['action']} {what}")
    print(f"decided by: {members['decided_by']}")
    if members["groups"]:
        print(f"groups: {', '.join(members['groups'])}")
    _show_rights(members)


def _show_rights(members: dict[str, Any]) -> None:
    rows = list(_rows(members))
    print(table([("RIGHT", "ACTIONS", "REPOSITORIES", "NAMES", "BY"), *rows]) if rows else "rights: none")


def _rows(members: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for grant in members["rights"]:
        yield grant["effect"], *_scope_texts(grant), grant["by"]
    for limit in members["limits"]:
        for scope in limit["scopes"]:
            yield "only", *_scope_texts(scope), f"else: {limit['by']}"


def _scope_texts(scope: dict[str, Any]) -> Iterator[str]:
    return (" ".join(scope[name]) for name in ("actions", "repositories", "names"))


# whoami


def whoami(options: argparse.Namespace) -> int:
    if options.password_stdin and not options.user:
        raise WrongUse("--password-stdin needs --user")
    url = options.url or local_url(configuration().server)
    answer = _ask(url, _authorization(options))
    members = _parsed(answer.body)
    if answer.status != 200:
        # What a server sends must not move the cursor of a terminal.
        message = str(members.get("error", "") if members else "")
        raise Failed(f"{url} answered {answer.status}: {message if message.isprintable() else json.dumps(message)}".rstrip(": "))
    if members is None or not isinstance(members.get("name"), str):
        raise Failed(f"{url} answered with something else than who one is; is it this registry's address?")
    if options.json:
        tell_json(members)
    else:
        _show_self(members)
    return 0


def _authorization(options: argparse.Namespace) -> str | None:
    if options.user:
        if ":" in options.user:
            raise WrongUse("a user name has no colon")
        password = password_from_stdin() if options.password_stdin else password_from_terminal(f"Password for {options.user}: ")
        return f"Basic {base64.b64encode(f'{options.user}:{password}'.encode()).decode()}"
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if not token:
        return None
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise Failed(f"{TOKEN_VARIABLE} holds something that is no token")
    return f"Bearer {token}"


def _ask(url: str, authorization: str | None) -> http_client.Answer:
    """Past any proxy: the credential is for that address alone."""
    from noraflask import http_client

    headers = {"User-Agent": f"nora/{__version__} whoami", "Accept": "application/json"}
    if authorization:
        headers["Authorization"] = authorization
    try:
        return http_client.get(f"{url}/api/v1/whoami", headers, http_client.Bounds(TIMEOUT_SECONDS, TIMEOUT_SECONDS))
    except http_client.NoAnswer as problem:
        raise Failed(f"no answer from {url}: {problem}") from None


def _parsed(answer: bytes) -> dict[str, Any] | None:
    try:
        members = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    return members if isinstance(members, dict) else None


def _show_self(members: dict[str, Any]) -> None:
    shown = {name: members.get(name) for name in ("name", "source", "groups", "role", "provider")}
    for name, value in shown.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value or "")
        if text:
            print(f"{name}: {text if text.isprintable() else json.dumps(text)}")
    try:
        _show_rights(members)
    except (KeyError, TypeError, AttributeError):
        raise Failed("the server tells rights in a form that is not known here; see them with --json") from None
