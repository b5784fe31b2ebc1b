"""What a policy says of a package: decide() for a request, visible() for a list of versions, explain() for people."""

from __future__ import annotations

import hmac
import re
from bisect import bisect_right
from collections.abc import Sequence
from hashlib import sha256

from noraflask.services.curation.filters import FILTERS, NAMES, Ask, Match, Step, earliest, quarantine
from noraflask.services.curation.model import Bypass, Decision, Kind, Package, Rule
from noraflask.services.curation.policy import ANY, OWN, Policy

_PLAIN = Decision(True)
_DIGEST = re.compile(r"[a-z][a-z0-9]*:[0-9a-f]{32,}\Z")
"""A version that is the digest of its bytes."""


def decide(policy: Policy, package: Package, now: float, bypass_token: str | None = None) -> Decision:
    return _decide(policy, policy.named(package.format, package.name, package.repository), package, now, bypass_token)


def _decide(policy: Policy, rules: list[Rule], package: Package, now: float, bypass_token: str | None = None) -> Decision:
    first = _namespace(rules, package) if rules else None
    if first is not None:
        return _PLAIN if first.verdict == "allow" else Decision(False, first.filter, None, first.reason)
    is_off = policy.settings.mode == "off"
    filters = (quarantine,) if is_off else FILTERS  # quarantine has a mode of its own, as in NORA
    bypass = _bypass(policy, bypass_token, now) if bypass_token and not is_off else None
    ask = _ask(policy, rules, package, now, bypass)
    told: Step | None = None
    until = bypass.expires if bypass else None
    for check in filters:
        step = check(ask)
        if step.verdict == "block":
            return Decision(False, step.filter, step.rule, step.reason, step.until, bypassed_by=bypass.name if bypass else "")
        if step.verdict == "would-block" and told is None:
            told = step
        if step.until is not None:
            until = step.until if until is None else min(until, step.until)
    return _allowed(told, until, bypass)


def _allowed(told: Step | None, until: float | None, bypass: Bypass | None) -> Decision:
    by = bypass.name if bypass else ""
    if told is not None:
        return Decision(True, told.filter, told.rule, told.reason, until, would_block=True, bypassed_by=by)
    return Decision(True, until=until, bypassed_by=by) if until is not None or by else _PLAIN


def explain(policy: Policy, package: Package, now: float) -> list[Step]:
    """What every filter says, also those that a request does not get to."""
    rules = policy.named(package.format, package.name, package.repository)
    first = _namespace(rules, package) or Step(OWN, "skip")
    if first.verdict != "skip":
        return [first, *(Step(name, "skip", reason="the namespace has decided") for name in NAMES)]
    ask, is_off = _ask(policy, rules, package, now), policy.settings.mode == "off"
    off = (Step(name, "skip", reason="curation.mode is off") for name in NAMES if name != "quarantine")
    return [first, *off, quarantine(ask)] if is_off else [first, *(check(ask) for check in FILTERS)]


def _is_namespace(rule: Rule) -> bool:
    return not isinstance(rule.kind, Kind)


def _namespace(rules: list[Rule], package: Package) -> Step | None:
    own = rules[-1] if rules else None
    if own is None or not _is_namespace(own):
        return None
    place = f" ({own.place})" if own.place else ""
    if package.hosted:
        return Step(OWN, "allow", reason=f"{package.name} is an internal name, {own.name}{place}")
    return Step(OWN, "block", reason=f"{package.name} is an internal name, {own.name}{place}: it never comes from an upstream; publish it here")


def _ask(policy: Policy, rules: list[Rule], package: Package, now: float, bypass: Bypass | None = None) -> Ask:
    ask = Ask(policy.settings, package, now, bypass=bypass, has_allowlist=policy.has_allowlist)
    ask.min_age, ask.quarantine = policy.min_age_of(package.format), policy.quarantine_of(package.format)
    if rules:
        found: dict[str, list[Match]] = {}
        for rule in rules:
            if (rule.expires is None or rule.expires > now) and (known := covers(policy, rule, package)) is not False:
                found.setdefault(rule.kind._value_, []).append(Match(rule, known is not None))
        ask.blocks, ask.allows, ask.excepts = (found.get(kind, ()) for kind in ("block", "allow", "except"))
        ask.ages, ask.pins = found.get("age", ()), found.get("pin", ())
    return ask


def _bypass(policy: Policy, token: str, now: float) -> Bypass | None:
    """All are compared, so that the time tells nothing."""
    given = sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
    equal = [own for own in policy.bypasses if hmac.compare_digest(given, own.sha256)]
    return next((own for own in equal if own.expires is None or own.expires > now), None)


def concerns_versions(policy: Policy, format: str, name: str, repository: str = "") -> bool:
    """Whether the verdict can be another for another version, or for other bytes, of this name; rules count even if they have expired."""
    rules = policy.named(format, name, repository)
    if policy.settings.mode == "off" or (rules and _is_namespace(rules[-1])):
        return False
    if policy.has_allowlist or policy.min_age_of(format) or policy.quarantine_of(format)[0] in ("enforce", "observe"):
        return True
    return any(rule.kind is Kind.PIN or rule.min_age or rule.range or rule.version != ANY for rule in rules)


def names_digests(policy: Policy, format: str, name: str, repository: str, algorithm: str) -> bool:
    """Whether a rule on this name speaks of bytes by a digest of that algorithm, as a version or as integrity; also one that has expired."""
    start = f"{algorithm}:"
    return any(
        rule.version.lower().startswith(start) or any(digest.startswith(start) for digest in rule.integrity)
        for rule in policy.named(format, name, repository)
    )


def blocks_name(policy: Policy, format: str, name: str, repository: str, now: float, hosted: bool = True) -> Decision:
    """The verdict on a name as a whole."""
    return decide(policy, Package(format, name, None, repository, is_index=True, hosted=hosted), now)


def visible(policy: Policy, packages: Sequence[Package], now: float) -> tuple[list[bool], float | None]:
    """Which of these versions may be listed, and until when that holds."""
    known: dict[tuple[str, str, str], list[Rule]] = {}
    shown: list[bool] = []
    until: float | None = None
    for package in packages:
        about = (package.format, package.name, package.repository)
        rules = known.get(about)
        if rules is None:
            rules = known[about] = policy.named(*about)
        answer = _decide(policy, rules, package, now)
        shown.append(answer.allowed)
        until = earliest((until, answer.until))
    return shown, until


def next_change(policy: Policy, now: float) -> float | None:
    """When the next rule or bypass token expires."""
    position = bisect_right(policy.expiries, now)
    return policy.expiries[position] if position < len(policy.expiries) else None


def covers(policy: Policy, rule: Rule, package: Package) -> bool | None:
    """Whether the rule means this version; None: it cannot be told."""
    if not rule.range and rule.version == ANY:
        return True
    if package.is_index:
        return False
    if package.version is None:
        return None
    if rule.range:
        if _DIGEST.match(package.version):
            return False  # it is in no range; the versions that lead to it are asked for themselves
        known = policy.range(package.format, rule.range)
        return known.contains(package.version) if known else None
    if rule.version == package.version or policy.pattern(rule.version).matches(package.version):
        return True
    return rule.format == ANY and policy.pattern(policy.version_spelling(package.format, rule.version)).matches(package.version)
