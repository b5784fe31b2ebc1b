"""The filters of curation: what each of them says of a package, from the rules that concern it. All are pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from noraflask.services.curation.model import Bypass, Package, Rule
from noraflask.services.curation.policy import DAY, Settings

HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Step:
    """What one filter says of a package."""

    filter: str
    verdict: str
    """allow, block, would-block, or skip: it has nothing to say."""
    rule: Rule | None = None
    reason: str = ""
    until: float | None = None
    """The verdict holds at least until then."""


class Match(NamedTuple):
    """A rule that matches; not `certain`: nobody can tell whether the version is one that it means."""

    rule: Rule
    certain: bool = True


@dataclass(slots=True)
class Ask:
    """All that the filters know. Rules that have expired, or that mean other versions, are not in the lists."""

    settings: Settings
    package: Package
    now: float
    blocks: Sequence[Match] = ()
    allows: Sequence[Match] = ()
    excepts: Sequence[Match] = ()
    ages: Sequence[Match] = ()
    pins: Sequence[Match] = ()
    has_allowlist: bool = False
    min_age: float | None = None
    """Of the format."""
    quarantine: tuple[str, float] = ("off", 14 * DAY)
    """Of the format: mode and time to live."""
    bypass: Bypass | None = None


def blocklist(ask: Ask) -> Step:
    """The first rule that is in force; one in audit only tells when there is none."""
    if not ask.blocks or ask.bypass:
        return _passed(ask, "blocklist")
    rule, certain = next((match for match in ask.blocks if not match.rule.audit_only), ask.blocks[0])
    reason = rule.reason or f"blocked by rule {rule.id}"
    if not certain:
        reason = f"{_unknown_version(ask.package)}, and the rule means {rule.range or rule.version}: {reason}"
    return _unless_excepted(ask, _refused(ask, "blocklist", rule, reason, rule.expires))


def allowlist(ask: Ask) -> Step:
    """The presence of an entry can be bypassed, what entries say of the bytes cannot."""
    if not ask.has_allowlist or ask.package.is_index:
        return _SKIPPED["allowlist"]
    entries = [match.rule for match in ask.allows if match.certain and not match.rule.audit_only]
    if entries:
        return _integrity(ask, entries)
    if ask.bypass:
        return _passed(ask, "allowlist")
    about = "" if ask.package.version is not None else f": {_unknown_version(ask.package)}"
    return _refused(ask, "allowlist", None, f"no allowlist entry names {coordinate(ask.package)}{about}")


def _integrity(ask: Ask, entries: list[Rule]) -> Step:
    hashed = [rule for rule in entries if rule.integrity]
    if not hashed and ask.settings.require_integrity:
        reason = f"the allowlist entry of {coordinate(ask.package)} has no integrity hash, and require_integrity is set"
        return _refused(ask, "allowlist:integrity", entries[0], reason)
    digests = ask.package.digests
    if not hashed or not digests:
        return Step("allowlist", "allow", entries[0], until=_latest(hashed or entries))
    equal = [rule for rule in hashed if any(digest in rule.integrity for digest in digests)]
    if equal:
        return Step("allowlist", "allow", equal[0], until=_latest(equal))
    reason = f"the bytes have {' '.join(digests)}, which no allowlist entry of {coordinate(ask.package)} names"
    return _refused(ask, "allowlist:integrity", hashed[0], reason, earliest(rule.expires for rule in hashed))


def min_release_age(ask: Ask) -> Step:
    if ask.package.is_index or ask.bypass or (ask.package.hosted and not ask.settings.hosted):
        return _passed(ask, "min-release-age")
    if not ask.ages:
        return _aged(ask, None, ask.min_age or 0.0)
    told, in_force = _ages(ask)
    step = _aged(ask, *max(in_force, key=lambda one: one[1]))
    trials = (_aged(ask, rule, seconds) for rule, seconds in told) if step.verdict not in ("block", "would-block") else ()
    return next((trial for trial in trials if trial.verdict == "would-block"), step)


def _ages(ask: Ask) -> tuple[list[tuple[Rule, float]], list[tuple[Rule | None, float]]]:
    """Rules in audit, and what is in force: the first rule that surely means this version, and those before it that may mean it."""
    told: list[tuple[Rule, float]] = []
    in_force: list[tuple[Rule | None, float]] = []
    for rule, certain in ask.ages:
        if rule.audit_only:
            told.append((rule, rule.min_age or 0.0))
            continue
        in_force.append((rule, rule.min_age or 0.0))
        if certain:
            return told, in_force
    return told, [*in_force, (None, ask.min_age or 0.0)]


def _aged(ask: Ask, rule: Rule | None, seconds: float) -> Step:
    until = rule.expires if rule else None
    if not seconds:
        return Step("min-release-age", "allow", rule, f"rule {rule.id} asks for no age", until) if rule else _SKIPPED["min-release-age"]
    published = ask.package.published
    if published is None:
        if ask.settings.unknown_age == "allow":
            return Step("min-release-age", "allow", rule, "its publish date is not known, which unknown_age allows", until)
        reason = f"the publish date of the package is not known (minimum age: {span(seconds)})"
        return _unless_excepted(ask, _refused(ask, "min-release-age", rule, reason, until))
    age = max(0.0, ask.now - published)
    reason = f"package is {span(age)} old (minimum: {span(seconds)})"
    if published + seconds <= ask.now:
        return Step("min-release-age", "allow", rule, reason, until)
    return _unless_excepted(ask, _refused(ask, "min-release-age", rule, reason, earliest((published + seconds, until))))


def pin(ask: Ask) -> Step:
    """The rules of one coordinate add up; bytes must do for every coordinate. Those that may mean the version, and may not, add up too."""
    if not ask.pins or not ask.package.digests or ask.package.is_index:
        return _SKIPPED["pin"]
    groups: dict[object, list[Rule]] = {}
    for rule, certain in ask.pins:
        about = (rule.format, rule.name, rule.version, rule.range, rule.repository) if certain else None
        groups.setdefault((about, rule.audit_only), []).append(rule)
    steps = [_pinned(ask, rules) for rules in groups.values()]
    worst = next((step for step in steps if step.verdict == "block"), None) or next((step for step in steps if step.verdict != "allow"), None)
    return worst or replace(steps[0], until=earliest(step.until for step in steps))


def _pinned(ask: Ask, rules: list[Rule]) -> Step:
    equal = [rule for rule in rules if any(digest in rule.integrity for digest in ask.package.digests)]
    if equal:
        return Step("pin", "allow", equal[0], until=_latest(equal) if len(rules) > len(equal) else None)
    wanted = [digest for rule in rules for digest in rule.integrity]
    named = ", ".join(wanted[:3]) + (f" and {len(wanted) - 3} more" if len(wanted) > 3 else "")
    reason = rules[0].reason or f"the bytes have {' '.join(ask.package.digests)}, and {coordinate(ask.package)} is pinned to {named}"
    return _refused(ask, "pin", rules[0], reason, _latest(rules))


def quarantine(ask: Ask) -> Step:
    """By its own mode, whatever the mode of curation is."""
    mode, ttl = ask.quarantine
    if ask.package.hosted or ask.package.is_index or mode not in ("enforce", "observe"):
        return _SKIPPED["quarantine"]
    seen = ask.package.seen
    until = (ask.now if seen is None else seen) + ttl
    if until <= ask.now:
        return Step("quarantine", "allow", reason=f"first fetched {span(ask.now - (seen or 0.0))} ago")
    when = "just now" if seen is None else f"{span(max(0.0, ask.now - seen))} ago"
    reason = f"first fetched {when}; new bytes from an upstream are held for {span(ttl)}"
    return _unless_excepted(ask, Step("quarantine", "block" if mode == "enforce" else "would-block", None, reason, until))


FILTERS: tuple[Callable[[Ask], Step], ...] = (blocklist, allowlist, min_release_age, pin, quarantine)
"""In order. The namespaces come before them, in every mode."""

NAMES = ("blocklist", "allowlist", "min-release-age", "pin", "quarantine")
_SKIPPED = {name: Step(name, "skip") for name in NAMES}


def _passed(ask: Ask, filter: str) -> Step:
    return Step(filter, "skip", reason=f"bypassed by {ask.bypass.name}") if ask.bypass else _SKIPPED[filter]


def _refused(ask: Ask, filter: str, rule: Rule | None, reason: str, until: float | None = None) -> Step:
    audit = ask.settings.mode == "audit" or (rule is not None and rule.audit_only)
    return Step(filter, "would-block" if audit else "block", rule, reason, until)


def _unless_excepted(ask: Ask, step: Step) -> Step:
    rules = [match.rule for match in ask.excepts if match.certain and not match.rule.audit_only]
    if not rules:
        return step
    cause = f"rule {step.rule.id}" if step.rule else step.reason
    return Step(step.filter, "allow", rules[0], f"excepted by rule {rules[0].id} from: {cause}", _latest(rules))


def _unknown_version(package: Package) -> str:
    return "the version of the package is not known" if package.version is None else f"version {package.version} cannot be compared"


def earliest(times: Iterable[float | None]) -> float | None:
    return min((time for time in times if time is not None), default=None)


def _latest(rules: Iterable[Rule]) -> float | None:
    """When the last of them is gone; None: one of them stays."""
    ends = [rule.expires for rule in rules]
    return None if None in ends else max(end for end in ends if end is not None)


def span(seconds: float) -> str:
    """As NORA writes ages: 5h, 3d, 1w2d."""
    days, hours = divmod(int(seconds // HOUR), 24)
    weeks, rest = divmod(days, 7)
    if weeks:
        return f"{weeks}w{rest}d" if rest else f"{weeks}w"
    return f"{days}d" if days else f"{hours}h"


def coordinate(package: Package) -> str:
    return f"{package.format}:{package.name}" + (f"@{package.version}" if package.version is not None else "")
