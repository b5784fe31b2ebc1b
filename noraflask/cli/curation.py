"""nora curation: rules tried before they are in force, decisions explained, the past asked, everything new stopped. None needs a running server."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noraflask.cli.subcommand import (
    FAILED,
    Commands,
    Failed,
    WrongUse,
    add,
    add_group,
    owner_of,
    record,
    storage_of,
    table,
    tell,
    tell_json,
)

if TYPE_CHECKING:
    from noraflask.config import Config, CurationConfig
    from noraflask.services.curation.explaining import Look, Question
    from noraflask.services.curation.freeze import Freeze, Frozen
    from noraflask.services.curation.ledger import Entry
    from noraflask.services.curation.model import Decision, Package
    from noraflask.services.curation.policy import Policy

HEAD_BYTES = 65536
BLOCKLIST, ALLOWLIST, RULES = "blocklist_path", "allowlist_path", "rules_path"
NAMES = {BLOCKLIST: "a block list", ALLOWLIST: "an allow list", RULES: "a rules file"}

_LIST_KEY = re.compile(rb'"(rules|entries|integrity)"\s*:')

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

  nora curation explain npm:@scope/name@1.2.3
  nora curation explain docker library/nginx:1.25
  nora curation explain npm:left-pad@1.3.0 --upstream --age 2d --among '1.2.0 1.2.1'
  nora curation explain d-eJyrVspT…             the id that a refusal tells; as of that moment, unless --at is given

An image is looked up in storage for its digest, its date and its other tags; of other packages only what the options say is known.
"""
REPLAY_DESCRIPTION = """\
Judges by a candidate what the ledger says was served, and tells what it would newly block or allow, and for whom. The candidate is a whole
configuration file, or a rule file, which is put in place of the configured one of its kind; without one, the configuration as it is now is
compared with no rules at all. Exit code 0: nothing would be blocked; 1: something would, or it failed; 78: the candidate cannot be used.
"""
IMPACT_DESCRIPTION = """\
Says who got a package, and when, as far as the ledger goes back. The name may be a pattern, the version a pattern, a digest or a range.

  nora curation impact npm:left-pad@1.3.0
  nora curation impact 'npm:left-pad@>=1.2.0 <1.3.1' --since 30d
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
    from noraflask.config.kinds import read_duration

    try:
        return read_duration(text)
    except ValueError:
        raise argparse.ArgumentTypeError("expected a duration of weeks, days and hours such as 7d, 1w2d or 36h") from None


def _time(text: str) -> float:
    from noraflask.services.curation.rule_words import seconds_of

    return _argument(seconds_of, text)


def _digest(text: str) -> tuple[str, ...]:
    from noraflask.services.curation.rule_words import digests_of

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


# validate


def validate(options: argparse.Namespace) -> int:
    from noraflask.config import ConfigError
    from noraflask.services.curation.loading import load_policy
    from noraflask.services.curation.policy import Policy

    curation, warnings = (_alone(options.file), []) if options.file else _configured()
    members: dict[str, Any] = {"valid": False, "fingerprint": None, "counts": {}, "warnings": warnings, "problems": []}
    try:
        data, rules = load_policy(curation, time.time())
    except ConfigError as error:
        members["problems"] = error.problems
    else:
        policy = Policy.from_buffer(data)
        members |= {"valid": True, "fingerprint": policy.fingerprint, "warnings": [*warnings, *rules.warnings]}
        members["counts"] = {**policy.counts, "expect": len(rules.expects)}
    good = members["valid"] and not (options.strict and members["warnings"])
    if options.json:
        tell_json({**members, "good": good})
    else:
        _show_validation(options, members)
    return 0 if good else FAILED


def _configuration() -> Config:
    """Raises ConfigError. Whether there are logins is no matter here."""
    from noraflask.config import load

    return load()


def _configured() -> tuple[CurationConfig, list[str]]:
    config = _configuration()
    return config.curation, [warning for warning in config.warnings if warning.startswith("curation.")]


def _alone(path: Path) -> CurationConfig:
    """As if the file were all there is."""
    from noraflask.config import CurationConfig

    kind = kind_of(path)
    if kind is None:
        raise Failed(f"{path} is a whole configuration and no rule file; try it with NORA_CONFIG_PATH={path} nora curation validate")
    tell(f"remark: {path} is read as {NAMES[kind]}, by itself")
    files: dict[str, Any] = {kind: path}
    return CurationConfig(mode="enforce", **files)


def _show_validation(options: argparse.Namespace, members: dict[str, Any]) -> None:
    for problem in members["problems"]:
        tell(problem)
    for warning in members["warnings"]:
        tell(f"warning: {warning}")
    what = options.file or "the configuration"
    if not members["valid"]:
        count = len(members["problems"])
        tell(f"nora: {what} cannot be used: {count} problem{'s' * (count != 1)}; a server that has other rules would keep them")
        return
    told = ", ".join(f"{count} {kind}" for kind, count in members["counts"].items() if count)
    print(f"{what} is good: {told or 'no rules'}; policy {members['fingerprint']}")
    if options.strict and members["warnings"]:
        tell(f"nora: {len(members['warnings'])} warnings, and --strict is given")


def kind_of(path: Path) -> str | None:
    """What a file is: the setting that it would stand under, None for a whole configuration. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if path.suffix.lower() == ".json" or (path.suffix.lower() != ".toml" and head.lstrip()[:1] == b"{"):
        found = _LIST_KEY.search(head)
        return ALLOWLIST if found and found[1] != b"rules" else BLOCKLIST
    return None if _is_configuration(path) else RULES


def _is_configuration(path: Path) -> bool:
    import tomllib

    from noraflask.config.settings import SECTIONS

    try:
        return not SECTIONS.isdisjoint(tomllib.loads(path.read_text()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return False  # the reader of rules says what is wrong with it, with the line


# explain


def explain(options: argparse.Namespace) -> int:
    from noraflask.services.curation import explaining

    question = _question(options)
    config = _configuration()
    policy = _policy(config.curation)
    with _storage_parts(config) as (look, freeze):
        members = explaining.explain(policy, question, look, freeze.current() if freeze else None)
    if options.json:
        tell_json(members)
    else:
        _show(members)
    return 0 if members["allowed"] else FAILED


def _question(options: argparse.Namespace) -> Question:
    """Raises WrongUse."""
    from noraflask.services.curation.explaining import question_of

    if len(options.words) > 2:
        raise WrongUse("ask for one package: FORMAT:NAME[@VERSION], FORMAT NAME[@VERSION], or a decision id")
    try:
        return question_of(
            options.words,
            time.time(),
            repository=options.repository,
            hosted=not options.upstream,
            published=options.published,
            age=options.age,
            digests=tuple(digest for digests in options.digest or () for digest in digests),
            at=options.at,
            among=options.among or (),
        )
    except ValueError as problem:
        raise WrongUse(str(problem)) from None


def _policy(curation: CurationConfig) -> Policy:
    """Raises ConfigError."""
    from noraflask.services.curation.loading import load_policy
    from noraflask.services.curation.policy import Policy

    return Policy.from_buffer(load_policy(curation, time.time())[0])


@contextmanager
def _storage_parts(config: Config) -> Iterator[tuple[Look | None, Freeze | None]]:
    """What looks up images, and the freeze; nothing of them where there is no storage yet."""
    if not config.storage.path.is_dir():
        yield None, None
        return
    from noraflask.formats.docker.stock import STOCK
    from noraflask.services.content import Content

    with storage_of(config) as storage:
        content = Content(storage)
        yield partial(_look, partial(STOCK.look, content)), _freeze_of(storage)


def _look(images: Look, package: Package, judge: Callable[[Package], Decision]) -> Any:
    return images(package, judge) if package.format == "docker" else None


def _freeze_of(storage: Any) -> Freeze:
    from noraflask.assembly import CURATION
    from noraflask.services.auth.documents import Documents
    from noraflask.services.curation.freeze import Freeze

    return Freeze(Documents(storage, f"{CURATION}/"))


def _show(members: dict[str, Any]) -> None:
    version = f"@{members['version']}" if members["version"] else ""
    verdict = "allowed, and would be blocked" if members["would_block"] else "allowed" if members["allowed"] else "blocked"
    _print(f"{verdict}: {members['format']}:{members['name']}{version} (repository {members['repository']}, {_origin(members)}) at {members['at']}")
    by = members["decided_by"]
    _print(f"decided by: {_step_text(by) if by else 'no filter has anything against it'}")
    if by and by["until"]:
        _print(f"until: {by['until']}")
    for name in ("owner", "ticket"):
        if by and by[name]:
            _print(f"{name}: {by[name]}")
    rows = [tuple(step[name] or "" for name in ("filter", "verdict", "rule", "place", "until", "reason")) for step in members["filters"]]
    print(table([("FILTER", "VERDICT", "RULE", "PLACE", "UNTIL", "REASON"), *rows]))
    if members["instead"] is not None:
        _print(f"allowed instead: {', '.join(members['instead']) or 'none of those that are known'}")
    print(f"policy: {members['policy']}, mode {members['mode']}")
    decision = members["decision"]
    if decision and not decision["same_policy"]:
        _print(f"remark: the decision was made by policy {decision['policy']}; the rules have changed since, and this is what they say now")


def _origin(members: dict[str, Any]) -> str:
    published = f", published {members['published']}" if members["published"] else ""
    return ("hosted" if members["hosted"] else "from an upstream") + published


def _step_text(step: dict[str, Any]) -> str:
    rule = f" rule {step['rule']} ({step['place']})" if step["rule"] else ""
    return f"{step['filter']}{rule}: {step['reason'] or step['verdict']}"


def _print(text: str) -> None:
    """Names and reasons come from outside: nothing in them may steer a terminal."""
    print("".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text))


# replay and impact


def replay(options: argparse.Namespace) -> int:
    from noraflask.services.curation import deciding
    from noraflask.services.curation import replay as replays
    from noraflask.services.curation.model import Decision

    config, now = _configuration(), time.time()
    candidate = _candidate(options.file, config) if options.file else config.curation
    new = _policy(replace(candidate, mode="enforce") if options.enforce else candidate)
    old: Callable[[Package, float], Decision] = lambda package, now: Decision(True)  # noqa: E731
    if options.file:
        old = partial(deciding.decide, _policy(config.curation))
    if new.settings.mode != "enforce":
        tell(f"remark: the candidate's mode is {new.settings.mode}, in which little or nothing is blocked; --enforce judges as if it were enforce")
    with owner_of(config.state.path):
        report = replays.replay(_ledger(config, options.since, now), old, partial(deciding.decide, new), now)
    if options.json:
        tell_json(report.as_dict())
    else:
        print(replays.render_report(report), end="")
    return FAILED if report.of_kind(replays.BLOCKED) else 0


def _candidate(path: Path, config: Config) -> CurationConfig:
    """Raises ConfigError and OSError."""
    from noraflask.config import load

    kind = kind_of(path)
    if kind is None:
        return load(path).curation
    tell(f"remark: {path} is taken as {NAMES[kind]}, in place of {getattr(config.curation, kind) or 'none'}")
    files: dict[str, Any] = {kind: path}
    return replace(config.curation, **files)


def _ledger(config: Config, since: float, now: float) -> Iterator[Entry]:
    from noraflask.services.curation.ledger import read
    from noraflask.services.state_folder import ledger_folder

    if config.curation.ledger_days * 86400 < since:
        tell(f"remark: the ledger is kept for {config.curation.ledger_days} days (curation.ledger_days)")
    return read(ledger_folder(config), now - since)


def impact(options: argparse.Namespace) -> int:
    from noraflask.services.curation import replay as replays
    from noraflask.services.curation.ecosystems import canonical_format
    from noraflask.services.curation.explaining import parse_name

    format, colon, rest = options.coordinate.partition(":")
    try:
        if not colon:
            raise ValueError("write FORMAT:NAME[@VERSION], such as npm:left-pad@1.3.0")
        name, version = parse_name(canonical_format(format) or format, rest)
    except ValueError as problem:
        raise WrongUse(str(problem)) from None
    config = _configuration()
    with owner_of(config.state.path):
        receipts = replays.impact(_ledger(config, options.since, time.time()), format, name, version or "*")
    if options.json:
        tell_json(replays.impact_as_dict(receipts))
    else:
        print(replays.render_impact(receipts), end="")
    return 0


# import-osv


def import_osv(options: argparse.Namespace) -> int:
    from noraflask.services.curation.osv.blocklist import write_blocklist
    from noraflask.services.curation.osv.feed import import_osv as read_feed
    from noraflask.services.curation.osv.values import OsvProblem

    if options.min_severity is not None and not options.all:
        raise WrongUse("--min-severity is about what is vulnerable and not malicious; add --all")
    try:
        found = read_feed(
            options.path,
            only_malicious=not options.all,
            min_severity=options.min_severity,
            ecosystems=options.ecosystem,
            exceptions=options.exception,
        )
        count = write_blocklist(found, options.output, force=options.force)
    except OsvProblem as problem:
        raise Failed(str(problem)) from None
    for line in found.summary():
        tell(line)
    print(f"{count} rules are in {options.output}; `nora curation validate` tries them, `nora reload` puts them in force")
    return 0


# freeze


def freeze(options: argparse.Namespace) -> int:
    if (options.lift or options.status) and (options.reason or options.seconds is not None):
        raise WrongUse("--reason and --for belong to a freeze that begins")
    if options.seconds == 0:
        raise WrongUse("--for must be longer than 0; leave it out to freeze until --lift")
    config = _configuration()
    with storage_of(config) as storage:
        here = _freeze_of(storage)
        before = here.current()
        if options.lift:
            here.lift()
        elif not options.status:
            here.begin("cli", options.reason or "no reason is given", options.seconds)
        frozen = here.current()
    if options.lift and before:
        record(config, "curation_lift", "", f"frozen by {before.by}: {before.reason}")
    elif frozen and not options.status:
        record(config, "curation_freeze", "", f"{frozen.reason}; {_until(frozen)}")
    _show_freeze(options, frozen)
    return 0


def _show_freeze(options: argparse.Namespace, frozen: Frozen | None) -> None:
    from noraflask.services.curation.explaining import stamp

    if options.json:
        times = {"since": stamp(frozen.since), "until": stamp(frozen.until)} if frozen else {}
        tell_json({"freeze": {"by": frozen.by, "reason": frozen.reason, **times} if frozen else None})
    elif frozen is None:
        print("there is no freeze: upstreams are asked as usual")
    else:
        _print(f"frozen since {stamp(frozen.since)} by {frozen.by}, {_until(frozen)}: {frozen.reason}")


def _until(frozen: Frozen) -> str:
    from noraflask.services.curation.explaining import stamp

    return "until it is lifted" if frozen.until is None else f"until {stamp(frozen.until)}"
