"""nora curation: rules tried before they are in force, decisions explained, the past asked, everything new stopped. None needs a running server."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from noraflask.cli.curation.explain import explain
from noraflask.cli.curation.feed import import_osv
from noraflask.cli.curation.freeze import freeze
from noraflask.cli.curation.past import impact, replay
from noraflask.cli.curation.validate import validate
from noraflask.cli.subcommand import Commands, add, add_group

DESCRIPTION = """\
Curation: which packages may be had. These commands read the configuration that `nora serve` would read, and its storage and ledger; none of them
needs a running server, and only freeze and import-osv change anything. After a change of the rules: `nora reload`.
"""
VALIDATE_DESCRIPTION = """\
Says whether a server would take the rules: without FILE those of the whole configuration, with their own tests ([[expect]] tables), with FILE that
one alone: NORA's JSON (block or allow list) or rules in TOML. Every problem is told with its file and line.
Exit code 0: it would; 1: it would not, or --strict and there are warnings; 78: the configuration itself cannot be used.
"""
EXPLAIN_DESCRIPTION = """\
Says of a package what every filter says, by which rule of which file, and until when. Exit code 0: allowed; 1: blocked, or it failed.

  nora curation explain FORMAT:NAME@1.2.3
  nora curation explain FORMAT NAME@1.2.3
  nora curation explain FORMAT:NAME@1.3.0 --upstream --age 2d --among '1.2.0 1.2.1'
  nora curation explain d-eJyrVspT…             the id that a refusal tells; as of that moment, unless --at is given

What this server keeps is looked up for its digest, its date and its other versions; of all else only what the options say is known.
"""
REPLAY_DESCRIPTION = """\
Judges by a candidate what the ledger says was served, and tells what it would newly block or allow, and for whom. The candidate is a whole
configuration file, or a rule file, which is put in place of the configured one of its kind; without one, the configuration as it is now is
compared with no rules at all. Exit code 0: nothing would be blocked; 1: something would, or it failed; 78: the candidate cannot be used.
"""
IMPACT_DESCRIPTION = """\
Says who got a package, and when, as far as the ledger goes back. The name may be a pattern, the version a pattern, a digest or a range.

  nora curation impact FORMAT:NAME@1.3.0
  nora curation impact 'FORMAT:NAME@>=1.2.0 <1.3.1' --since 30d
"""
OSV_DESCRIPTION = """\
Turns a feed of malicious packages in the OSV format (a folder, an archive or one record; nothing is fetched) into a block list: NORA's JSON when
FILE ends in .json, else rules in TOML. FILE is replaced as a whole; a list that has shrunk to less than half is refused unless --force is given.
"""
FREEZE_DESCRIPTION = """\
From now on nothing new comes from any upstream, in no format and on no node; what is here is served as before. A running server sees it within
a second, without a reload. Without an option it freezes until --lift.
"""


def add_commands(commands: Commands) -> None:
    group = add_group(commands, "curation", "which packages may be had", DESCRIPTION)
    parser = _add(group, "validate", "try the rules as the server would", VALIDATE_DESCRIPTION, validate)
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="one rule file, by itself")
    parser.add_argument("--strict", action="store_true", help="warnings are failures")
    _add_explain(_add(group, "explain", "why something is blocked or allowed", EXPLAIN_DESCRIPTION, explain))
    parser = _add(group, "replay", "what other rules would have changed", REPLAY_DESCRIPTION, replay)
    parser.add_argument("file", nargs="?", type=Path, metavar="CONFIG|RULES", help="the candidate")
    parser.add_argument("--since", type=_duration, default="30d", metavar="DURATION", help="how far back (default: 30d)")
    parser.add_argument("--enforce", action="store_true", help="judge as if the candidate's mode were enforce")
    parser = _add(group, "impact", "who got a package, and when", IMPACT_DESCRIPTION, impact)
    parser.add_argument("coordinate", metavar="FORMAT:NAME[@VERSION]")
    parser.add_argument("--since", type=_duration, default="90d", metavar="DURATION", help="how far back (default: 90d)")
    _add_import(group)
    _add_freeze(_add(group, "freeze", "stop everything new", FREEZE_DESCRIPTION, freeze))


def _add(group: Commands, name: str, short: str, long: str, work: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    parser = add(group, name, short, long)
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(work=work)
    return parser


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="+", metavar="WHAT", help="FORMAT:NAME[@VERSION], FORMAT NAME[@VERSION], or a decision id")
    age = parser.add_mutually_exclusive_group()
    age.add_argument("--age", type=_duration, metavar="DURATION", help="how long ago it was published, such as 3d")
    age.add_argument("--published", type=_time, metavar="TIME", help="when it was published")
    parser.add_argument("--upstream", action="store_true", help="it would come from an upstream, and was not published here")
    parser.add_argument("--repository", default="", metavar="NAME", help="(default: the one of the format)")
    parser.add_argument("--digest", type=_digest, action="append", metavar="DIGEST", help="of its bytes, repeatable")
    parser.add_argument("--at", type=_time, metavar="TIME", help="as of then, by the rules of now (default: now)")
    parser.add_argument("--among", type=str.split, action="extend", metavar="VERSIONS", help="say which of these, parted by spaces, would be allowed")


def _add_import(group: Commands) -> None:
    parser = add(group, "import-osv", "a feed of malicious packages into a block list", OSV_DESCRIPTION)
    parser.add_argument("path", type=Path, metavar="PATH", help="folder, .zip or .json")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the block list")
    parser.add_argument("--all", action="store_true", help="also what is vulnerable and not malicious")
    parser.add_argument("--min-severity", type=_severity, metavar="N", help="with --all: of what is vulnerable only this CVSS score or more, 0 to 10")
    parser.add_argument("--ecosystem", action="append", metavar="E", help="only these, repeatable; OSV's names or our formats")
    parser.add_argument("--exception", action="append", default=[], metavar="ID", help="leave out a record, or a package as format:name; repeatable")
    parser.add_argument("--force", action="store_true", help="replace FILE whatever it holds")
    parser.set_defaults(work=import_osv)


def _add_freeze(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--lift", action="store_true", help="end it")
    what.add_argument("--status", action="store_true", help="only say whether there is one; exit code 0 either way")
    parser.add_argument("--reason", type=_line, metavar="TEXT", help="who is refused something reads it")
    parser.add_argument("--for", dest="seconds", type=_duration, metavar="DURATION", help="end by itself after that, such as 12h")


# Arguments.


def _duration(text: str) -> float:
    from noraflask.settings.texts import read_duration

    try:
        return read_duration(text)
    except ValueError:
        raise argparse.ArgumentTypeError("expected a duration of weeks, days and hours such as 7d, 1w2d or 36h") from None


def _time(text: str) -> float:
    from noraflask.services.curation.rule_values import seconds_of

    return _argument(seconds_of, text)


def _digest(text: str) -> tuple[str, ...]:
    from noraflask.services.curation.rule_values import digests_of

    return _argument(digests_of, text)


def _argument(read: Callable[[str], Any], text: str) -> Any:
    try:
        return read(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def _severity(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 10:
        raise ValueError(text)
    return value


def _line(text: str) -> str:
    if not 0 < len(text.strip()) <= 500 or not text.isprintable():
        raise argparse.ArgumentTypeError("expected one line of 1 to 500 printable characters")
    return text
