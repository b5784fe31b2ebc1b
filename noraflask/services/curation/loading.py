"""From the configuration to the bytes of a policy: read, compiled, and put to its own tests before anything else sees it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from noraflask.config import ConfigError, CurationConfig
from noraflask.ecosystems import ecosystem_of
from noraflask.services.curation import compiling, deciding
from noraflask.services.curation.files import read_rules
from noraflask.services.curation.ledger import Entry
from noraflask.services.curation.model import Expect, Package, RuleSet
from noraflask.services.curation.policy import Policy, Settings
from noraflask.services.curation.replay import flip_share

FLIP_DAYS = 7
FLIP_LEAST = 20
"""Fewer coordinates say nothing about a share."""
MOST_FAILED = 20


def load_policy(config: CurationConfig, now: float) -> tuple[bytes, RuleSet]:
    """The compiled policy, whose own tests (`expect`) hold. Raises ConfigError with every problem."""
    rules = read_rules(config, now)
    data = compiling.compile(Settings.of(config), rules)
    tested = Policy.from_buffer(data)
    if tested.settings.mode == "off":
        tested.settings = replace(tested.settings, mode="enforce")
    problems = list(failed_expectations(tested, rules.expects, now))
    if problems:
        raise ConfigError(problems[:MOST_FAILED])
    return data, rules


def failed_expectations(policy: Policy, expects: Iterable[Expect], now: float) -> Iterable[str]:
    """A line for each test of a rule file that its policy does not pass. Tests ask what the rules say, whatever the mode."""
    for expect in expects:
        package = package_of(expect, now)
        steps = deciding.explain(policy, package, now)
        blocked = next((step for step in steps if step.verdict in ("block", "would-block")), None)
        if (blocked is None) is expect.allowed:
            continue
        wanted = "allowed" if expect.allowed else "blocked"
        if blocked is None:
            why = "nothing blocks it"
        else:
            rule = f" {blocked.rule.id} ({blocked.rule.place})" if blocked.rule else ""
            why = f"{blocked.filter}{rule} blocks it: {blocked.reason}"
        version = f"@{package.version}" if package.version else ""
        yield f"{expect.place}: expect: {package.format}:{package.name}{version} was to be {wanted}, and {why}"


def package_of(expect: Expect, now: float) -> Package:
    ecosystem = ecosystem_of(expect.format)
    version = ecosystem.same_version(expect.version) if expect.version else None
    published = None if expect.age is None else now - expect.age
    return Package(expect.format, ecosystem.same_name(expect.name), version, published=published, hosted=expect.hosted)


def check_flips(config: CurationConfig, rules: RuleSet, old: Policy, new: Policy, served: Iterable[Entry], now: float) -> None:
    """Raises ConfigError when the new policy would block too much of what was served in the last days, unless its file says that this is meant."""
    if not config.flip_guard_percent or new.settings.mode != "enforce" or (rules.flip_until or 0) > now:
        return
    try:
        blocked, total = flip_share(served, partial(deciding.decide, old), partial(deciding.decide, new), now)
    except OSError as problem:
        raise ConfigError([f"curation.flip_guard_percent: the ledger, which it asks, cannot be read: {problem.strerror}"]) from None
    if total >= FLIP_LEAST and blocked * 100 > config.flip_guard_percent * total:
        raise ConfigError(
            [
                f"curation.flip_guard_percent: the new policy blocks {blocked} of the {total} coordinates served in the last {FLIP_DAYS} days, "
                f"more than {config.flip_guard_percent} %; see `nora curation replay`. If that is meant, put flip_until = <a time> into the rules"
            ]
        )
