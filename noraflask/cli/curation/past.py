"""nora curation replay and impact: the ledger asked, and its answers as tables."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noraflask.cli.curation.explain import storage_parts
from noraflask.cli.curation.sources import NAMES, kind_of, policy_of, read_configuration
from noraflask.cli.subcommand import (
    FAILED,
    WrongUse,
    owner_of,
    tell,
    tell_json,
)
from noraflask.ecosystems import ECOSYSTEMS

if TYPE_CHECKING:
    from noraflask.config import Config, CurationConfig
    from noraflask.services.curation.ledger import Entry
    from noraflask.services.curation.model import Decision, Package


def replay(options: argparse.Namespace) -> int:
    from noraflask.cli.curation.past_tables import render_report
    from noraflask.services.curation import deciding
    from noraflask.services.curation import replay as replays
    from noraflask.services.curation.model import Decision

    config, now = read_configuration(), time.time()
    candidate = _candidate(options.file, config) if options.file else config.curation
    new = policy_of(replace(candidate, mode="enforce") if options.enforce else candidate)
    old: Callable[[Package, float], Decision] = lambda package, now: Decision(True)  # noqa: E731
    if options.file:
        old = partial(deciding.decide, policy_of(config.curation))
    if new.settings.mode != "enforce":
        tell(f"remark: the candidate's mode is {new.settings.mode}, in which little or nothing is blocked; --enforce judges as if it were enforce")
    with owner_of(config.state.path):
        report = replays.replay(_ledger(config, options.since, now), old, partial(deciding.decide, new), now)
    if options.json:
        tell_json(report.as_dict())
    else:
        print(render_report(report), end="")
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


def _digests_of(config: Config, format: str, name: str, version: str) -> frozenset[str]:
    """Of what the version is made of, as far as there is a storage to ask."""
    from noraflask.services.curation.explaining import digests_of_version

    repositories = [*((id, id) for id in ECOSYSTEMS), *((one.format, one.name) for one in config.repositories)]
    with storage_parts(config) as (look, _):
        return digests_of_version(look, repositories, format, name, version) if look else frozenset()


def impact(options: argparse.Namespace) -> int:
    from noraflask.cli.curation.past_tables import render_impact
    from noraflask.services.curation import replay as replays
    from noraflask.services.curation.explaining import parse_name

    format, colon, rest = options.coordinate.partition(":")
    try:
        if not colon:
            raise ValueError("write FORMAT:NAME[@VERSION]")
        name, version = parse_name(format, rest)
    except ValueError as problem:
        raise WrongUse(str(problem)) from None
    config = read_configuration()
    digests = _digests_of(config, format, name, version or "*")
    with owner_of(config.state.path):
        receipts = replays.impact(_ledger(config, options.since, time.time()), format, name, version or "*", digests)
    if options.json:
        tell_json(replays.impact_as_dict(receipts))
    else:
        print(render_impact(receipts), end="")
    return 0
