"""nora doctor: is everything as it must be, on this machine and through the real front? The checks are in services/doctor/."""

from __future__ import annotations

import argparse
import base64
import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from noraflask.cli.subcommand import FAILED, Commands, Failed, WrongUse, add, local_address, storage_of, tell_json

if TYPE_CHECKING:
    from noraflask.config import Config
    from noraflask.services.doctor.examination import FrontOptions
    from noraflask.services.doctor.findings import Finding
    from noraflask.services.doctor.format_checks import FormatChecks
    from noraflask.services.doctor.front import Target
    from noraflask.storage import Storage

SECRET_BYTES = 64 * 1024
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
PLAIN_SIGNS = str.maketrans({"✓": "ok", "✗": "WRONG", "…": "..."})
LEAST_SIZE, MOST_SIZE = 1 << 20, 100 << 30

DESCRIPTION = """\
Looks at all that must be right and says of each whether it is: ✓, or ✗ with what is wrong and the one line to change; ! is a remark.
First this machine: configuration, storage with a round trip to the disk, staging, disk, clock, open files, memory, rule files, users, the running
server. Then, with a public URL, the front that clients use: certificate, forwarded headers, and a canary that is pushed and pulled through it
and removed again. Run it as the server's user or root, in its folder and with its variables.

  nora doctor
  nora doctor --public-url https://registry.example.com --ca-file ca.crt --token-file canary.token
  nora doctor --public-url https://registry.example.com --pause 90 --size 2G     slow and large uploads as well

The login needs the right to push to and delete from nora-doctor/**, and is read from a file:

  nora token create canary --role write --scope '*:nora-doctor/**:pull,push,delete'

Exit code 0: nothing is ✗; 1: something is.
"""


def add_commands(commands: Commands) -> None:
    parser = add(commands, "doctor", "check this machine, the server and the proxy before it", DESCRIPTION)
    parser.add_argument("--public-url", type=_target, metavar="URL", help="what clients use (default: server.public_url; without: no canary)")
    parser.add_argument("--local", action="store_true", help="look at this machine alone, although server.public_url is set")
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="CA certificates to trust, in PEM, instead of the system's")
    parser.add_argument("--user", metavar="NAME", help="log in with a password, from --password-file")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="of --user, one line")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="log in with an API token or a JWT, one line")
    parser.add_argument("--size", type=_size, default=8 << 20, metavar="N", help="of the canary's layer, such as 8M or 2G (default: 8M)")
    parser.add_argument("--pause", type=_seconds, default=5.0, metavar="SECONDS", help="silence within a layer that must be survived (default: 5)")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(work=doctor)


def _target(text: str) -> Target:
    from noraflask.services.doctor.front import Target

    try:
        return Target.parse(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,12})([KMG]?)", text)
    size = int(match[1]) * UNITS[match[2]] if match else 0
    if not LEAST_SIZE <= size <= MOST_SIZE:
        raise argparse.ArgumentTypeError("expected 1M to 100G, such as 8M")
    return size


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 3600:
        raise ValueError(text)
    return value


def doctor(options: argparse.Namespace) -> int:
    from noraflask.services.doctor.findings import WRONG

    login = _authorization(options)  # before anything else: a mistake on the command line is no finding
    findings = []
    for finding in _findings(options, login):
        findings.append(finding)
        if not options.json:
            for line in finding.lines():
                print(_writable(line, sys.stdout.encoding or "ascii"), flush=True)
    well = all(finding.verdict != WRONG for finding in findings)
    if options.json:
        members = [{"check": f.check, "verdict": f.verdict, "text": f.text, "remedy": list(f.remedy)} for f in findings]
        tell_json({"well": well, "findings": members})
    return 0 if well else FAILED


def _writable(line: str, encoding: str) -> str:
    """For terminals and logs that know no ✓."""
    try:
        line.encode(encoding)
    except UnicodeEncodeError:
        return line.translate(PLAIN_SIGNS).encode(encoding, "replace").decode(encoding)
    return line


def _findings(options: argparse.Namespace, login: str | None) -> Iterator[Finding]:
    from noraflask.config import load
    from noraflask.services.doctor.examination import this_machine, through_front
    from noraflask.services.doctor.files import configuration
    from noraflask.services.doctor.findings import run
    from noraflask.services.doctor.format_checks import OwnStorage

    config, findings = configuration(load)
    yield from findings
    yield from this_machine(config, local_address(config.server.host), lambda: storage_of(config))
    front = _front(options, config, login)
    if front is not None:
        own = OwnStorage(config.storage.path, lambda: _own_storage(config))
        yield from run([("front", lambda: through_front(front, _format_checks(config), own))])


def _front(options: argparse.Namespace, config: Config, login: str | None) -> FrontOptions | None:
    from noraflask.services.doctor.examination import FrontOptions
    from noraflask.services.doctor.front import Target

    target = options.public_url or (Target.parse(config.server.public_url) if config.server.public_url else None)
    if target is None or options.local:
        return None
    return FrontOptions(target, options.ca_file, login, options.size, options.pause)


def _authorization(options: argparse.Namespace) -> str | None:
    """Raises WrongUse and Failed."""
    if bool(options.user) != bool(options.password_file):
        raise WrongUse("--user and --password-file go together")
    if options.user and options.token_file:
        raise WrongUse("--user or --token-file, not both")
    if options.user:
        if ":" in options.user:
            raise WrongUse("a user name has no colon")
        return f"Basic {base64.b64encode(f'{options.user}:{_secret(options.password_file)}'.encode()).decode()}"
    if options.token_file is None:
        return None
    token = _secret(options.token_file)
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise Failed(f"{options.token_file} holds something that is no token")
    return f"Bearer {token}"


def _secret(path: Path) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(SECRET_BYTES).decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise Failed(f"{path} is not UTF-8") from None
    if not text or not text.isprintable():
        raise Failed(f"{path} does not hold one line")
    return text


@contextlib.contextmanager
def _own_storage(config: Config) -> Iterator[Storage]:
    """Raises OSError."""
    try:
        with storage_of(config) as storage:
            yield storage
    except Failed as problem:
        raise OSError(str(problem)) from None


def _format_checks(config: Config) -> list[FormatChecks]:
    """Of the formats that are served."""
    from noraflask.formats import FORMATS

    return [format.checks() for format in FORMATS if format.checks and config.formats[format.id].enabled]
