"""nora user: names and passwords of the htpasswd file."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from noraflask.cli.subcommand import (
    Commands,
    Failed,
    add,
    add_group,
    add_password_stdin,
    configuration,
    owner_of,
    password_from_stdin,
    password_from_terminal,
    record,
    storage_of,
    table,
    tell,
    tell_json,
)

if TYPE_CHECKING:
    from noraflask.config import Config

GENERATED_BYTES = 24
NOBODY = "anonymous"

DESCRIPTION = """\
Users with a password, in the htpasswd file that auth.htpasswd_file names (bcrypt; other tools may write it as well).
A running server sees a change within a second, without a reload. Groups are lines `group: user user` of auth.groups_file, made with an editor.
"""
ADD_DESCRIPTION = """\
Adds a user; the htpasswd file is made when it is not there. Without an option the password is asked for twice on the terminal.
"""
CHANGE_DESCRIPTION = """\
Gives a user another password. What was issued for the old one, bearer and refresh tokens, ends by itself. API tokens stay:
`nora token list NAME` shows them, `nora token revoke ID` ends them.
"""
REMOVE_DESCRIPTION = """\
Removes a user and revokes the API tokens that are in the user's name, service tokens included.
With --keep-tokens they stay: service tokens go on working, the user's own ones are refused as long as there is no such user.
"""


def add_commands(commands: Commands) -> None:
    users = add_group(commands, "user", "users and their passwords", DESCRIPTION)
    _add_setter(users, "add", "add a user", ADD_DESCRIPTION, must_exist=False)
    _add_setter(users, "passwd", "give a user another password", CHANGE_DESCRIPTION, must_exist=True)
    parser = add(users, "remove", "remove a user and the user's API tokens", REMOVE_DESCRIPTION)
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--keep-tokens", action="store_true", help="leave the user's API tokens")
    parser.set_defaults(work=remove_user)
    parser = add(users, "list", "show users and groups", "Shows each user with the groups. Lines that cannot be used are told on stderr.")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(work=list_users)


def _add_setter(users: Commands, name: str, short: str, long: str, must_exist: bool) -> None:
    parser = add(users, name, short, long)
    parser.add_argument("name", metavar="NAME")
    source = parser.add_mutually_exclusive_group()
    add_password_stdin(source)
    source.add_argument("--generate", action="store_true", help="make a strong password and print it, this once")
    parser.add_argument("--cost", type=_cost, default=12, metavar="N", help="of bcrypt, 4 to 17; each step doubles the time of a login (default: 12)")
    parser.set_defaults(work=set_password, must_exist=must_exist)


def _cost(text: str) -> int:
    from noraflask.services.auth.users import COSTS

    if not text.isascii() or not text.isdigit() or int(text) not in COSTS:
        raise argparse.ArgumentTypeError(f"expected {COSTS.start} to {COSTS.stop - 1}")
    return int(text)


def set_password(options: argparse.Namespace) -> int:
    from noraflask.services.auth.users import check_name, hash_password, set_user

    config, name = configuration(), options.name
    path = config.auth.htpasswd_file
    check_name(name)
    if name == NOBODY:
        raise Failed(f"{NOBODY} stands for whoever is not logged in; take another name")
    password = _wanted_password(options)
    set_user(path, name, hash_password(password, options.cost), must_exist=options.must_exist)
    if options.generate:
        print(password, flush=True)
    record(config, "user_passwd" if options.must_exist else "user_add", name)
    if options.must_exist:
        tell(f"{name} has another password in {path}; bearer and refresh tokens of the old one have ended")
        tell(f"API tokens stay: `nora token list {name}` shows them, `nora token revoke ID` ends them")
    else:
        tell(f"{name} is in {path}")
    _check_readable(config)
    return 0


def _wanted_password(options: argparse.Namespace) -> str:
    if options.generate:
        import secrets

        return secrets.token_urlsafe(GENERATED_BYTES)
    if options.password_stdin:
        return password_from_stdin()
    password = password_from_terminal(f"Password for {options.name}: ")
    if password_from_terminal("The same again: ") != password:
        raise Failed("the passwords differ; nothing was changed")
    return password


def _check_readable(config: Config) -> None:
    """Root may have made a file that the server must not read."""
    path = config.auth.htpasswd_file
    with owner_of(config.storage.path):
        if not os.access(path, os.R_OK, effective_ids=True):
            tell(f"warning: {path} cannot be read by the owner of the storage folder, user {os.geteuid()}, as whom the server seems to run")


def remove_user(options: argparse.Namespace) -> int:
    from noraflask.services.auth.users import remove_user

    config, name = configuration(), options.name
    remove_user(config.auth.htpasswd_file, name)
    if options.keep_tokens:
        tell(f"{name} is removed from {config.auth.htpasswd_file}; API tokens stay")
        record(config, "user_remove", name, "API tokens kept")
    else:
        _revoke_all(config, name)
    _tell_mentions(config, name)
    return 0


def _revoke_all(config: Config, name: str) -> None:
    try:
        count = _count_revoked(config, name)
    except Exception:
        record(config, "user_remove", name, "API tokens not revoked: that failed")
        tell(f"{name} is removed from {config.auth.htpasswd_file}, but the API tokens are not all revoked; see: nora token list {name}")
        raise
    record(config, "user_remove", name, f"{count} API tokens revoked")
    tell(f"{name} is removed from {config.auth.htpasswd_file}; API tokens revoked: {count}")


def _count_revoked(config: Config, name: str) -> int:
    if not config.storage.path.exists():
        return 0
    from noraflask.assembly import make_tokens

    with storage_of(config) as storage:
        return make_tokens(config, storage).revoke_all(name)


def _tell_mentions(config: Config, name: str) -> None:
    """Rights that would come to the next user of that name."""
    from noraflask.assembly import make_users

    groups = sorted(make_users(config).current().groups_of(name))
    if groups:
        tell(f"remark: {config.auth.groups_file} still names {name} in {', '.join(groups)}")
    if name in config.auth.admin_users or any(name in rule.users for rule in config.access.rules):
        tell(f"remark: the configuration still names {name}, in auth.admin_users or access.rules")


def list_users(options: argparse.Namespace) -> int:
    from noraflask.assembly import make_users

    config = configuration()
    if config.auth.htpasswd_file.exists():
        config.auth.htpasswd_file.open("rb").close()  # raises OSError; users that cannot be read are not the same as none
    directory = make_users(config).current()  # logs lines that cannot be used
    users = [(name, sorted(directory.groups_of(name))) for name in sorted(directory.hashes)]
    if options.json:
        tell_json({"users": [{"name": name, "groups": groups} for name, groups in users], "problems": list(directory.problems)})
    else:
        print(table([("NAME", "GROUPS"), *((name, ", ".join(groups)) for name, groups in users)]))
    return 0
