"""Rule files to a RuleSet: NORA's two JSON lists and our TOML, read whole; every problem has its file, line and rule.

nora_files.py reads the JSON and toml_rules.py the TOML; rule_values.py is what single values of both may be.
"""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from noraflask.config import ConfigError, CurationConfig
from noraflask.config.text_file import shown
from noraflask.services.curation import nora_files, patterns, toml_rules
from noraflask.services.curation.model import Bypass, Kind, Rule, RuleSet
from noraflask.services.curation.rule_values import Sink, namespaces_of, never_matches

CONFIGURATION = "configuration"
"""The place of what the settings say themselves, and the name of their bypass token."""

EXCEPT = Kind.EXCEPT
MOST_WARNINGS = 50
"""Of one sort; a file of a million lines may be wrong in all of them."""


def read_rules(config: CurationConfig, now: float) -> RuleSet:
    """All that the settings and the files they name say. Raises ConfigError with every problem of all of them."""
    with _without_collections():
        sink = Sink()
        _take_settings(config, sink)
        for path, read in ((config.blocklist_path, nora_files.read_blocklist), (config.allowlist_path, nora_files.read_allowlist)):
            if path is not None and _is_wanted(path, config):
                read(path, sink)
        if config.rules_path is not None and _is_wanted(config.rules_path, config):
            toml_rules.read(config.rules_path, sink)
        has_allowlist = config.allowlist_path is not None or sink.has_allow_table
        if config.require_integrity and not has_allowlist and not sink.notes.has_problems:
            sink.notes.problem(
                "curation.require_integrity", "is about the allowlist; set curation.allowlist_path, or add [[allow]] tables to the rules"
            )
        if sink.notes.has_problems:
            raise ConfigError(sink.notes.all_problems())
        return RuleSet(
            rules=tuple(sink.rules),
            namespaces=tuple(sink.namespaces),
            bypasses=tuple(sink.bypasses),
            expects=tuple(sink.expects),
            has_allowlist=has_allowlist,
            flip_until=sink.flip_until,
            warnings=(*sink.notes.all_warnings(), *_warnings(sink, now)),
        )


@contextmanager
def _without_collections() -> Iterator[None]:
    """Reading makes many objects that live and hardly any garbage; collections on the way would look at them over and over."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _is_wanted(path: Path, config: CurationConfig) -> bool:
    """With the mode off a file may be missing; the configuration warns of it."""
    return config.mode != "off" or os.path.lexists(path)


def _take_settings(config: CurationConfig, sink: Sink) -> None:
    for text in config.internal_namespaces:
        try:
            sink.namespaces += namespaces_of(text, "*", CONFIGURATION)
        except ValueError as error:
            sink.notes.problem("curation.internal_namespaces", str(error))
    if config.bypass_token is not None:
        digest = hashlib.sha256(config.bypass_token.encode()).hexdigest()
        sink.bypasses.append(Bypass(CONFIGURATION, digest, place=CONFIGURATION))


def _warnings(sink: Sink, now: float) -> Iterator[str]:
    yield from _bounded(_expired(sink, now), "that have expired")
    yield from _bounded(_duplicates(sink.rules), "that are there twice")
    yield from _bounded(_never_matching(sink.suspects), "that can match nothing")
    yield from _bounded(_careless(sink), "without owner or end")


def _bounded(lines: Iterable[str], what: str) -> Iterator[str]:
    number = 0
    for number, line in enumerate(lines, 1):
        if number <= MOST_WARNINGS:
            yield line
    if number > MOST_WARNINGS:
        yield f"and {number - MOST_WARNINGS} more {what}"


def _expired(sink: Sink, now: float) -> Iterator[str]:
    mortal: list[Rule | Bypass] = [rule for rule in sink.rules if rule.expires is not None]
    for one in mortal + sink.bypasses:
        if one.expires is not None and one.expires <= now:
            named = one.kind.value + " " + one.id if isinstance(one, Rule) else f"bypass {one.name}"
            yield f"{one.place}: {named}: has expired on {_day(one.expires)} and has no effect; remove it or set a later day"
    if sink.flip_until is not None and sink.flip_until <= now:
        yield f"flip_until = {_day(sink.flip_until)}: is over; remove it"


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _duplicates(rules: Iterable[Rule]) -> Iterator[str]:
    """Only the first of them decides; pins and entries with other hashes are no duplicates, they add up."""
    kinds = {id(kind): number for number, kind in enumerate(Kind)}  # an Enum is slow to hash
    seen: dict[tuple[object, ...], str] = {}
    for rule in rules:
        coordinate: tuple[object, ...] = (kinds[id(rule.kind)], rule.format, rule.name, rule.version)
        if rule.range or rule.integrity or rule.repository != "*":
            coordinate += (rule.range, rule.repository, rule.integrity)
        first = seen.setdefault(coordinate, rule.place)
        if first is not rule.place:
            yield f"{rule.place}: {rule.kind.value} {rule.id}: says the same as {first}, which comes first; remove one"


def _never_matching(suspects: Iterable[Rule]) -> Iterator[str]:
    for rule in suspects:
        why = never_matches(rule.format, rule.name) or f"version {shown(rule.version)}: {patterns.dead(rule.version)}"
        yield f"{rule.place}: {rule.kind.value} {rule.id}: can never match: {why}"


def _careless(sink: Sink) -> Iterator[str]:
    exceptions = [rule for rule in sink.rules if rule.kind is EXCEPT]
    for rule in exceptions:
        if not (rule.owner and rule.expires is not None):
            lacking = " and ".join(word for word, value in (("owner", rule.owner), ("expires", rule.expires)) if not value)
            yield f"{rule.place}: except {rule.id}: has no {lacking}; an exception that nobody answers for stays for good"
    for bypass in sink.bypasses:
        if bypass.expires is None and bypass.place != CONFIGURATION:
            yield f"{bypass.place}: bypass {bypass.name}: has no expires; a token that never ends is found one day"
