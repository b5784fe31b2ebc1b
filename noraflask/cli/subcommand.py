"""What the sub-commands share: words on stderr, the configuration, whose files they write, and the audit log."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import pwd
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from noraflask.config import Config, ServerConfig
    from noraflask.storage.disk import DiskStorage

FAILED = 1
WRONG_USE = 2
BAD_CONFIGURATION = 78  # EX_CONFIG of sysexits.h; a service manager can be told not to try again
INTERRUPTED = 130  # what a shell makes of SIGINT

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class Failed(Exception):
    """The command cannot do it; the text is its line on stderr."""


class WrongUse(Exception):
    """Options that are fine alone and not together."""


def add(commands: Commands, name: str, short: str, long: str) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=short, description=long, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)


def add_group(commands: Commands, name: str, short: str, long: str) -> Commands:
    return add(commands, name, short, long).add_subparsers(metavar="command", title="commands", required=True)


def tell(line: str) -> None:
    print(line, file=sys.stderr)


def tell_json(members: Any) -> None:
    print(json.dumps(members, indent=2))


def refuse(problems: list[str], outcome: str = "nothing was done") -> int:
    for problem in problems:
        tell(problem)
    tell(f"nora: the configuration has {len(problems)} problem{'s' * (len(problems) != 1)}; {outcome}")
    return BAD_CONFIGURATION


def carry_out(options: argparse.Namespace) -> int:
    """Do options.work; what goes wrong is one line and an exit code."""
    from noraflask.config import ConfigError
    from noraflask.errors import NoraError
    from noraflask.services.auth.users import UserFileProblem

    try:
        with _logs_on_stderr():
            code: int = options.work(options)
            return code
    except ConfigError as error:
        return refuse(error.problems)
    except WrongUse as problem:
        tell(f"nora: {problem}")
        return WRONG_USE
    except KeyboardInterrupt:
        tell("nora: interrupted")
        return INTERRUPTED
    except OSError as problem:
        tell(f"nora: {f'{problem.filename}: ' if problem.filename else ''}{problem.strerror or problem}")
    except (Failed, NoraError, UserFileProblem, ValueError) as problem:
        tell(f"nora: {problem}")
    except Exception as problem:  # such as a file in storage that another program has written
        tell(f"nora: something unexpected: {type(problem).__name__}: {problem}")
    return FAILED


@contextlib.contextmanager
def _logs_on_stderr() -> Iterator[None]:
    handler, root = logging.StreamHandler(sys.stderr), logging.getLogger()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.setLevel(logging.WARNING)
    # That a server works on the same storage is as it should be.
    handler.addFilter(lambda record: record.levelno >= logging.ERROR or not record.name.startswith("noraflask.storage"))
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def configuration() -> Config:
    """Raises ConfigError."""
    from noraflask.config import load

    config = load()
    if not config.auth.enabled:
        tell("remark: authentication is switched off (auth.enabled = false): everybody may do everything")
    return config


def local_url(server: ServerConfig) -> str:
    """Of the server that the configuration describes, on this machine."""
    return f"http://{bracketed(local_address(server.host))}:{server.port}"


def local_address(host: str) -> str:
    """Where a server that listens there is reached from this machine, as a rule."""
    return local_addresses(host)[-1]


def local_addresses(host: str) -> tuple[str, ...]:
    """All of them. `::` is IPv4 as well, unless the machine says otherwise (net.ipv6.bindv6only)."""
    import ipaddress

    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return (host,)
    if not address.is_unspecified:
        return (host,)
    return ("127.0.0.1",) if address.version == 4 else ("::1", "127.0.0.1")


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


# Whose files.


@contextlib.contextmanager
def storage_of(config: Config) -> Iterator[DiskStorage]:
    """The storage, as its owner."""
    path = config.storage.path
    if not path.is_dir():  # not made here: a token in a folder of no server is good for nothing
        raise Failed(f"there is no storage folder {path}; is this the server's configuration and folder? Its first start makes it")
    from noraflask.storage.disk import DiskStorage

    with owner_of(path):
        yield DiskStorage(path)


@contextlib.contextmanager
def owner_of(folder: Path) -> Iterator[None]:
    """For root: be the folder's owner meanwhile, so that the server can read, change and remove what is written."""
    place = os.path.abspath(folder)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    owner = os.stat(place)
    if os.geteuid() != 0 or owner.st_uid == 0:
        yield
        return
    groups, gid = os.getgroups(), os.getegid()
    try:
        os.setgroups([])
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
    except OSError as problem:
        raise Failed(f"cannot become user {owner.st_uid}, the owner of {place} ({problem.strerror}); run this as that user") from None
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


def record(config: Config, action: str, artifact: str, detail: str = "") -> None:
    """A line in the server's audit log."""
    from dataclasses import replace

    from noraflask.services.audit import Audit, Record
    from noraflask.services.state_folder import audit_file

    detail = "; ".join(part for part in (detail, f"by {_os_user()}") if part)
    if config.audit.mode == "stdout":
        tell(
            f"remark: the audit log is the server's standard output, which cannot be reached from here, so not in it is: {action} {artifact} {detail}"
        )
    elif config.audit.mode != "off":
        with owner_of(config.state.path):
            Audit(replace(config.audit, mode="file"), audit_file(config)).record(Record(action, "cli", artifact=artifact, detail=detail))


def _os_user() -> str:
    """SUDO_USER is believed of root alone: all others can write into it what they like."""
    uid = os.getuid()
    if uid == 0 and os.environ.get("SUDO_USER"):
        return os.environ["SUDO_USER"]
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


# Passwords.


def add_password_stdin(parser: Any) -> None:
    parser.add_argument("--password-stdin", action="store_true", help="read the password from standard input, one line")


def password_from_stdin() -> str:
    data = sys.stdin.buffer.read(65536)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Failed("the password on standard input is not UTF-8") from None
    return _checked(text.removesuffix("\n").removesuffix("\r"))


def password_from_terminal(prompt: str) -> str:
    """Never echoed: without a terminal that can hide it nothing is read."""
    import getpass
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return _checked(getpass.getpass(prompt))
        except (getpass.GetPassWarning, EOFError):
            raise Failed("there is no terminal to ask for the password; use --password-stdin") from None


def _checked(password: str) -> str:
    try:
        password.encode()
    except UnicodeEncodeError:
        raise Failed("the password is not UTF-8") from None
    if any(character in password for character in "\r\n\0"):
        raise Failed("the password must be one line without zero bytes")
    return password


# What others wrote, for people.


def print_line(text: str) -> None:
    print(printable(text))


def printable(text: str) -> str:
    """Names and reasons come from outside: nothing in them may steer a terminal."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def table(rows: list[tuple[str, ...]]) -> str:
    """Columns under their titles, the first row; the last one is as wide as it is."""
    plain = [[text if text.isprintable() else json.dumps(text) for text in row] for row in rows]  # what others wrote must not move the cursor
    widths = [max(map(len, column)) for column in zip(*plain, strict=True)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in plain)
