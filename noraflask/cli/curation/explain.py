"""nora curation explain."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from noraflask.cli.curation.sources import freeze_of, policy_of, read_configuration
from noraflask.cli.subcommand import (
    FAILED,
    WrongUse,
    print_line,
    storage_of,
    table,
    tell_json,
)

if TYPE_CHECKING:
    from noraflask.config import Config
    from noraflask.services.content import Content
    from noraflask.services.curation.explaining import Judge, Look, Question, Stored
    from noraflask.services.curation.freeze import Freeze
    from noraflask.services.curation.model import Package
    from noraflask.services.stock import Stock


def explain(options: argparse.Namespace) -> int:
    from noraflask.services.curation import explaining

    question = _question(options)
    config = read_configuration()
    policy = policy_of(config.curation)
    with storage_parts(config) as (look, freeze):
        members = explaining.explain(policy, question, look, freeze.current() if freeze else None)
    if options.json:
        tell_json(members)
    else:
        _show(members)
    return 0 if members["allowed"] else FAILED


def _question(options: argparse.Namespace) -> Question:
    """Raises WrongUse."""
    from noraflask.services.curation.explaining import Given, question_of

    if len(options.words) > 2:
        raise WrongUse("ask for one package: FORMAT:NAME[@VERSION], FORMAT NAME[@VERSION], or a decision id")
    given = Given(
        repository=options.repository,
        hosted=not options.upstream,
        published=options.published,
        age=options.age,
        digests=tuple(digest for digests in options.digest or () for digest in digests),
        at=options.at,
        among=options.among or (),
    )
    try:
        return question_of(options.words, time.time(), given=given)
    except ValueError as problem:
        raise WrongUse(str(problem)) from None


@contextmanager
def storage_parts(config: Config) -> Iterator[tuple[Look | None, Freeze | None]]:
    """What looks a package up in storage, and the freeze; nothing of them where there is no storage yet."""
    if not config.storage.path.is_dir():
        yield None, None
        return
    from noraflask.formats import FORMATS
    from noraflask.services.content import Content

    with storage_of(config) as storage:
        stocks = {format.id: format.stock for format in FORMATS}
        yield partial(_look, stocks, Content(storage)), freeze_of(storage)


def _look(stocks: Mapping[str, Stock], content: Content, package: Package, judge: Judge) -> Stored | None:
    stock = stocks.get(package.format)
    return stock.look(content, package, judge) if stock else None


def _show(members: dict[str, Any]) -> None:
    version = f"@{members['version']}" if members["version"] else ""
    where = f"repository {members['repository']}, {_origin(members)}"
    verdict = "allowed, and would be blocked" if members["would_block"] else "allowed" if members["allowed"] else "blocked"
    print_line(f"{verdict}: {members['format']}:{members['name']}{version} ({where}) at {members['at']}")
    by = members["decided_by"]
    print_line(f"decided by: {_step_text(by) if by else 'no filter has anything against it'}")
    if by and by["until"]:
        print_line(f"until: {by['until']}")
    for name in ("owner", "ticket"):
        if by and by[name]:
            print_line(f"{name}: {by[name]}")
    rows = [tuple(step[name] or "" for name in ("filter", "verdict", "rule", "place", "until", "reason")) for step in members["filters"]]
    print(table([("FILTER", "VERDICT", "RULE", "PLACE", "UNTIL", "REASON"), *rows]))
    if members["instead"] is not None:
        print_line(f"allowed instead: {', '.join(members['instead']) or 'none of those that are known'}")
    print(f"policy: {members['policy']}, mode {members['mode']}")
    decision = members["decision"]
    if decision and not decision["same_policy"]:
        print_line(f"remark: the decision was made by policy {decision['policy']}; the rules have changed since, and this is what they say now")


def _origin(members: dict[str, Any]) -> str:
    published = f", published {members['published']}" if members["published"] else ""
    return ("hosted" if members["hosted"] else "from an upstream") + published


def _step_text(step: dict[str, Any]) -> str:
    rule = f" rule {step['rule']} ({step['place']})" if step["rule"] else ""
    return f"{step['filter']}{rule}: {step['reason'] or step['verdict']}"
