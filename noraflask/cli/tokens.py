"""nora token: API tokens in the server's storage. nora keys: the keys that sign bearer tokens."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from noraflask.cli.subcommand import FAILED, Commands, Failed, WrongUse, add, add_group, configuration, record, storage_of, table, tell, tell_json

if TYPE_CHECKING:
    from noraflask.services.auth.principal import Scope
    from noraflask.services.auth.tokens import TokenRecord

DAY = 86400
MAX_DAYS = 3650
MAX_OVERLAP_SECONDS = 30 * DAY
MAX_DESCRIPTION = 500
ROLES = ("read", "write", "admin")

DESCRIPTION = """\
API tokens. They are kept as hashes in the server's storage, so these commands run where the storage is, with the server running or not;
a running server sees a change within a second. An ID is 16 hex digits, not secret.
"""
CREATE_DESCRIPTION = """\
Makes a service token: its role is its right, and USER, the name it acts under, need not be a user. The token is printed once, alone on stdout.
Users make tokens of their own over POST /api/tokens.

  nora token create ci --role write --scope '*:team/**:pull,push'
"""
SCOPE_HELP = "what the token is cut to, repeatable: '*:team/**:pull,push'; each part may be a list with commas (default: whatever the role allows)"
ROTATE_DESCRIPTION = (
    "Makes a token with the rights of an old one, and ends the old one at once or after the overlap. The token is printed alone on stdout."
)
KEYS_DESCRIPTION = """\
The keys in storage that sign what the server issues after a login, bearer and refresh tokens. The newest signs; the older ones
verify what they have signed until that has ended. The first start makes one; a running server sees a new one within a second.
"""


def add_commands(commands: Commands) -> None:
    tokens = add_group(commands, "token", "API tokens", DESCRIPTION)
    _add_create(tokens)
    parser = add(tokens, "list", "show tokens, the newest first", "Shows the tokens of all or of one user, ended ones for 30 days.")
    parser.add_argument("user", nargs="?", metavar="USER")
    _add_json(parser, list_tokens)
    parser = add(tokens, "revoke", "end tokens", "Ends tokens at once. Exit code 1 when one of them is not known; the others have ended then.")
    parser.add_argument("ids", nargs="+", type=token_id, metavar="ID")
    parser.set_defaults(work=revoke_tokens)
    parser = add(tokens, "rotate", "make a token in place of another", ROTATE_DESCRIPTION)
    parser.add_argument("id", type=token_id, metavar="ID")
    overlap = _number(0, MAX_OVERLAP_SECONDS)
    parser.add_argument("--overlap-secs", type=overlap, default=0, metavar="N", help="so long the old token goes on (default: 0)")
    _add_json(parser, rotate_token)
    keys = add_group(commands, "keys", "keys that sign bearer tokens", KEYS_DESCRIPTION)
    _add_json(add(keys, "list", "show the keys, the one that signs first", KEYS_DESCRIPTION), list_keys)
    parser = add(keys, "rotate", "make a new key", "Makes a key, which signs from now on, and prints its ID.\n" + KEYS_DESCRIPTION)
    parser.add_argument("--drop-old", action="store_true", help="forget the older keys: whoever has a signed token logs in again")
    parser.set_defaults(work=rotate_keys)


def _add_create(tokens: Commands) -> None:
    parser = add(tokens, "create", "make a service token", CREATE_DESCRIPTION)
    parser.add_argument("user", type=_user, metavar="USER")
    parser.add_argument("--role", choices=ROLES, default="read", help="(default: read)")
    parser.add_argument("--ttl-days", type=_number(1, MAX_DAYS), default=30, metavar="N", help=f"1 to {MAX_DAYS} (default: 30)")
    parser.add_argument("--description", type=_description, metavar="TEXT", help="what it is for")
    parser.add_argument("--scope", type=_scope, action="append", metavar="REPOSITORY:NAMES:ACTIONS", help=SCOPE_HELP)
    _add_json(parser, create_token)


def _add_json(parser: argparse.ArgumentParser, work: Any) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(work=work)


# Arguments.


def token_id(text: str) -> str:
    from noraflask.services.auth.tokens import ID

    if text.startswith("nra_"):
        raise argparse.ArgumentTypeError("that is a token, and now in your shell's history; give its ID, and rotate it: `nora token list` shows IDs")
    if not ID.match(text):
        raise argparse.ArgumentTypeError("an ID is 16 lower-case hex digits; `nora token list` shows them")
    return text


def _user(text: str) -> str:
    if not 0 < len(text) <= 255 or not text.isprintable() or ":" in text:
        raise argparse.ArgumentTypeError("expected 1 to 255 printable characters without a colon")
    return text


def _description(text: str) -> str:
    if len(text) > MAX_DESCRIPTION:
        raise argparse.ArgumentTypeError(f"expected at most {MAX_DESCRIPTION} characters")
    return text


def _number(least: int, most: int) -> Any:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}")
        return int(text)

    return number


def _scope(text: str) -> Scope:
    from noraflask.services.auth.scopes import parse_scope

    parts = text.split(":")
    if len(parts) != 3:
        raise argparse.ArgumentTypeError("expected REPOSITORY:NAMES:ACTIONS, such as *:team/**:pull,push")
    repositories, names, actions = (part.split(",") for part in parts)
    try:
        return parse_scope({"repositories": repositories, "names": names, "actions": actions})
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def _check_scopes(role: str, scopes: tuple[Scope, ...]) -> None:
    """A scope that can never be used is a slip of the pen. Raises WrongUse."""
    from noraflask.assembly import repositories_of
    from noraflask.config import load
    from noraflask.config.dead_patterns import dead_scope, formats_of
    from noraflask.formats import FORMATS
    from noraflask.services.auth.principal import ROLES as RIGHTS
    from noraflask.settings.texts import glob

    config = load()
    known = sorted(repositories_of(config, FORMATS).names)
    for scope in scopes:
        beyond = sorted(action.value for action in scope.actions - RIGHTS[role])
        if beyond:
            raise WrongUse(f"role {role} does not include {', '.join(beyond)}; take a higher --role, or leave that out of --scope")
        for pattern in scope.repositories:
            if not any(glob(pattern, name) for name in known):
                raise WrongUse(f"there is no repository {pattern}, there is {', '.join(known)}")
        for key, why in dead_scope(scope.repositories, scope.names, formats_of(config)):
            raise WrongUse(f"--scope: {key}: {why}")


# Tokens.


def create_token(options: argparse.Namespace) -> int:
    from noraflask.assembly import make_tokens

    config = configuration()
    scopes = tuple(options.scope) if options.scope else None
    _check_scopes(options.role, scopes or ())
    with storage_of(config) as storage:
        lifetime = options.ttl_days * DAY
        token, made = make_tokens(config, storage).mint(options.user, options.role, lifetime, options.description, scopes, service=True)
    _show_token(token, made, options.json)
    record(config, "token_mint", made.id, f"for {made.user}, role {made.role}, {lifetime} s")
    tell(f"token {made.id} of {made.user}: role {made.role}, until {_time(made.expires_at)}; it is not shown again")
    return 0


def rotate_token(options: argparse.Namespace) -> int:
    from noraflask.assembly import make_tokens

    config = configuration()
    with storage_of(config) as storage:
        rotated = make_tokens(config, storage).rotate(options.id, options.overlap_secs)
    if rotated is None:
        raise Failed(f"there is no token {options.id} that could be rotated: it is not known, was revoked or has expired")
    token, made = rotated
    _show_token(token, made, options.json)
    record(config, "token_rotate", options.id, f"to {made.id}, overlap {options.overlap_secs} s")
    ended = f"{options.id} ends in {options.overlap_secs} s at the latest" if options.overlap_secs else f"{options.id} has ended"
    tell(f"token {made.id} of {made.user}: role {made.role}, until {_time(made.expires_at)}; it is not shown again; {ended}")
    return 0


def _show_token(token: str, made: TokenRecord, as_json: bool) -> None:
    if not as_json:
        print(token, flush=True)
        return
    seconds = made.expires_at - made.created_at
    tell_json({"token": token, "expires_in_days": seconds // DAY, "expires_in_secs": seconds, **_members(made)})


def _members(made: TokenRecord) -> dict[str, Any]:
    """In the words of the API."""
    from noraflask.services.auth.scopes import render_scope

    members: dict[str, Any] = {
        "hash_prefix": made.id,
        "user": made.user,
        "role": made.role,
        "service": made.service,
        "created_at": made.created_at,
        "expires_at": made.expires_at,
        "last_used": made.last_used,
        "description": made.description,
    }
    if made.scopes is not None:
        members["scopes"] = [render_scope(scope) for scope in made.scopes]
    return members


def list_tokens(options: argparse.Namespace) -> int:
    from noraflask.assembly import make_tokens

    config = configuration()
    with storage_of(config) as storage:
        tokens = make_tokens(config, storage)
        found, now = tokens.list(options.user), tokens.now()
    if options.json:
        tell_json({"tokens": [_members(made) for made in found]})
        return 0
    print(table([("ID", "USER", "ROLE", "CREATED", "EXPIRES", "LAST USED", "SCOPES", "DESCRIPTION"), *(_row(made, now) for made in found)]))
    return 0


def _row(made: TokenRecord, now: float) -> tuple[str, ...]:
    role = f"{made.role} (service)" if made.service else made.role
    expires = "expired" if made.is_expired(now) else _time(made.expires_at)
    used = "never" if made.last_used is None else _time(made.last_used)
    scopes = "all" if made.scopes is None else " ".join(map(_scope_text, made.scopes))
    return made.id, made.user, role, _time(made.created_at), expires, used, scopes, made.description or ""


def _scope_text(scope: Scope) -> str:
    return ":".join((",".join(scope.repositories), ",".join(scope.names), ",".join(sorted(action.value for action in scope.actions))))


def _time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%MZ")
    except (OverflowError, ValueError):  # a record of another program's
        return str(seconds)


def revoke_tokens(options: argparse.Namespace) -> int:
    from noraflask.assembly import make_tokens

    config, code = configuration(), 0
    with storage_of(config) as storage:
        tokens = make_tokens(config, storage)
        for id in dict.fromkeys(options.ids):
            if tokens.revoke(id):
                record(config, "token_revoke", id)
                tell(f"token {id} is revoked")
            else:
                tell(f"nora: there is no token {id}")
                code = FAILED
    return code


# Keys.


def list_keys(options: argparse.Namespace) -> int:
    from noraflask.assembly import make_signer

    config = configuration()
    with storage_of(config) as storage:
        keys = make_signer(config, storage).keys()
    if options.json:
        tell_json({"keys": [{"kid": kid, "created_at": int(made), "signs": number == 0} for number, (kid, made) in enumerate(keys)]})
        return 0
    rows = ((kid, _time(made), "signs" if number == 0 else "verifies") for number, (kid, made) in enumerate(keys))
    print(table([("ID", "CREATED", "USE"), *rows]))
    return 0


def rotate_keys(options: argparse.Namespace) -> int:
    from noraflask.assembly import make_signer

    config = configuration()
    with storage_of(config) as storage:
        kid = make_signer(config, storage).rotate(options.drop_old)
    print(kid, flush=True)
    record(config, "key_rotate", kid, "older keys dropped" if options.drop_old else "")
    rest = "what older keys have signed is refused" if options.drop_old else "what older keys have signed goes on until it ends"
    tell(f"key {kid} signs from now on; {rest}")
    return 0
