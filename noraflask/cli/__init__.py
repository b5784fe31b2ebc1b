"""The command `nora`: thin, each sub-command imports what it needs and calls it.

Here is what serves and checks. users.py, tokens.py (with keys) and access.py (with whoami) are the sub-commands of the access system, curation/
those of curation; reload.py makes the server read again, repositories.py shows what it serves, doctor.py looks at the whole, healthcheck.py asks
whether it runs. subcommand.py is what they share.
"""

from __future__ import annotations

import argparse
import sys
from functools import cache
from pathlib import Path

from noraflask import __version__
from noraflask.cli.subcommand import BAD_CONFIGURATION, FAILED, Commands, add, carry_out, refuse, tell

__all__ = ["BAD_CONFIGURATION", "FAILED", "main"]

NOT_STARTED = "nothing was started"
HEALTHCHECK = "healthcheck"

DESCRIPTION = """\
A self-hosted artifact registry. Without a command it serves.

examples:
  nora serve                                   serve on http://127.0.0.1:4000, artifacts in ./data/storage
  NORA_HOST=0.0.0.0 NORA_PORT=80 nora serve    the same on every address of the machine
  NORA_CONFIG_PATH=/etc/nora/config.toml nora  serve with that file
  nora check-config /etc/nora/config.toml      try a file without starting anything
  nora user add alice                          a user with a password, asked for on the terminal
  nora token create ci --role write            a token for a machine
  nora access explain alice push team/app      may she, and by which rule
  nora curation explain FORMAT:NAME@VERSION   may it be had, and by which rule
  nora repo list                               which repositories there are, and where clients reach them
  nora reload                                  make the running server read its rules again
  nora doctor                                  is this machine well, and the proxy before it?
"""

EPILOG = """\
configuration, later wins over earlier:
  1. the defaults
  2. the file that NORA_CONFIG_PATH names, else config.toml of the working folder when it is there
  3. variables: NORA_* and RUST_LOG
  There are no options for settings. Every name is known or refused: `nora check-config` shows what is in force and why.

while it serves:
  reload   nora reload, or             [[repositories]], [curation] and its rule files, access rules, OIDC providers, auth.admin_users, anonymous
           kill -HUP $(pidof nora)     reading, the lives of bearer and refresh tokens, and rate limits; no request is lost, a file
                                       with a mistake changes nothing, other settings need a restart
  users    nothing to do               the htpasswd and the groups file are read again when they change; tokens and keys likewise
  stop     kill -TERM $(pidof nora)    running requests have NORA_SHUTDOWN_TIMEOUT seconds to finish

exit codes:
  0   done
  1   failed; healthcheck: the server did not answer with 2xx; access explain: not allowed; whoami: refused; curation explain: blocked;
      curation validate: the rules cannot be used; curation replay: something would be blocked; reload: not all workers have it;
      doctor: something is wrong
  2   the command line is wrong
  78  the configuration cannot be used; every problem is on stderr and nothing was started or changed
"""

CHECK_DESCRIPTION = """\
Reads the configuration as `nora serve` would and prints every setting that is in force, with where it came from.
The output is itself a valid config.toml. Problems and warnings go to stderr; with a problem nothing is printed and the exit code is 78.
"""

HEALTH_DESCRIPTION = """\
Asks GET /health of the server that this configuration describes (a wildcard host becomes a loopback address), past any proxy.
Exit code 0 when it answers 2xx, else 1. A problem in the configuration is told, but does not make a running server unhealthy:
the check then goes on with the settings that can be read.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns the exit code. Wrong usage, --help and --version leave by SystemExit, as argparse does."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments in ([], ["serve"]):
        return serve()  # without the sub-commands, which a server would keep in memory
    options = _parser(arguments[:1] != [HEALTHCHECK]).parse_args(arguments)
    command = options.command or "serve"
    if command == "version":
        print(f"nora {__version__}")
        return 0
    if command == "check-config":
        return check_config(options.path)
    if command == HEALTHCHECK:
        from noraflask.cli.healthcheck import healthcheck

        return healthcheck(options.timeout_secs)
    return serve() if command == "serve" else carry_out(options)


def serve() -> int:
    from noraflask.config import ConfigError, load

    try:
        config = load()
    except ConfigError as error:
        return refuse(error.problems, NOT_STARTED)
    from noraflask.serve import run

    try:
        run(config)
    except ConfigError as error:  # of the rule files that it names
        return refuse(error.problems, NOT_STARTED)
    return 0


def check_config(path: Path | None) -> int:
    from noraflask.config import ConfigError, load
    from noraflask.config.document import effective

    try:
        config = load(path)
    except ConfigError as error:
        return refuse(error.problems, NOT_STARTED)
    for warning in config.warnings:
        tell(f"warning: {warning}")
    print(effective(config), end="")
    return 0


@cache
def _parser(whole: bool = True) -> argparse.ArgumentParser:
    """`whole`: with all sub-commands; a container asks for one of them every few seconds, and need not import the others."""
    parser = argparse.ArgumentParser(
        prog="nora", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("-V", "--version", action="version", version=f"nora {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", title="commands")
    health = add(commands, HEALTHCHECK, "ask the running server whether it is well", HEALTH_DESCRIPTION)
    health.add_argument("--timeout-secs", type=_seconds, default=5.0, metavar="N", help="seconds to wait for the answer (default: 5)")
    if whole:
        _add_all_others(commands)
    return parser


def _add_all_others(commands: Commands) -> None:
    from noraflask.cli import access, curation, doctor, reload, repositories, tokens, users

    add(commands, "serve", "serve until a signal stops it (the default)", "Serves until a signal stops it.\n\n" + EPILOG)
    check = add(commands, "check-config", "show what is in force and every mistake", CHECK_DESCRIPTION)
    check.add_argument("path", nargs="?", type=Path, metavar="PATH", help="the file to check, instead of the one `nora serve` would take")
    add(commands, "version", "print the version", "Prints the version.")
    for part in (users, tokens, access, repositories, curation, reload, doctor):
        part.add_commands(commands)


def _seconds(text: str) -> float:
    """More than 0 and not more than a day; `nan` and `inf` are neither."""
    value = float(text)
    if not 0 < value <= 86400:
        raise ValueError(text)
    return value
