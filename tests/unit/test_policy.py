"""The policy as tables: what each filter says, who comes first, until when, and that the index finds what a plain search finds."""

from __future__ import annotations

import mmap
from dataclasses import replace
from hashlib import sha256
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noraflask.services.curation.compiling import compile
from noraflask.services.curation.deciding import blocks_name, concerns_versions, decide, explain, names_digests, next_change, visible
from noraflask.services.curation.filters import FILTERS, Ask, Match, Step, allowlist, blocklist, min_release_age, pin, quarantine, span
from noraflask.services.curation.model import Bypass, Decision, Kind, Namespace, Package, Rule, RuleSet
from noraflask.services.curation.patterns import Pattern
from noraflask.services.curation.policy import DAY, Policy, Settings

NOW = 1_800_000_000.0
SOON, LATER, PAST = NOW + 100, NOW + 200, NOW - 1
ENFORCE, AUDIT, OFF = Settings(mode="enforce"), Settings(mode="audit"), Settings()
ONE, TWO, THREE = "sha256:" + "1" * 64, "sha256:" + "2" * 64, "sha512:" + "3" * 128
PROXIED = Package("npm", "left-pad", "1.3.0", hosted=False)
INDEX = replace(PROXIED, version=None, is_index=True)
UNKNOWN = replace(PROXIED, version=None)


def rule(kind: Kind, name: str = "left-pad", version: str = "*", **more: Any) -> Rule:
    return Rule(**{"id": f"{kind.value}-{name}-{version}", "kind": kind, "format": "npm", "name": name, "version": version, **more})


def block(name: str = "left-pad", version: str = "*", **more: Any) -> Rule:
    return rule(Kind.BLOCK, name, version, **more)


def allow(name: str = "left-pad", version: str = "1.3.0", **more: Any) -> Rule:
    return rule(Kind.ALLOW, name, version, **more)


def policy(*rules: Rule, settings: Settings = ENFORCE, **more: Any) -> Policy:
    more.setdefault("has_allowlist", any(one.kind is Kind.ALLOW for one in rules))
    return Policy.from_buffer(compile(settings, RuleSet(rules, **more)))


def ask(package: Package = PROXIED, settings: Settings = ENFORCE, **more: Any) -> Ask:
    lists = {key: [one if isinstance(one, Match) else Match(one) for one in value] for key, value in more.items() if isinstance(value, list)}
    return Ask(settings, package, NOW, **{**more, **lists})


def verdict(step: Step) -> tuple[str, str | None, float | None]:
    return step.verdict, step.rule.id if step.rule else None, step.until


def answer(decision: Decision) -> str:
    if decision.allowed:
        return f"would block: {decision.filter}" if decision.would_block else "allow"
    return decision.filter


# ---------------------------------------------------------------------------------------------------------------- one table per filter

FIRST, SECOND = block(id="first"), block(id="second")
TRIAL, ENDING = block(id="trial", audit_only=True), block(id="ending", expires=SOON)
SPARED = rule(Kind.EXCEPT, id="spared", expires=LATER)
TOKEN = Bypass("ops", sha256(b"secret").hexdigest())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("skip", None, None)),
        ({"blocks": [FIRST, SECOND]}, ("block", "first", None)),
        ({"blocks": [ENDING, SECOND]}, ("block", "ending", SOON)),
        ({"blocks": [TRIAL]}, ("would-block", "trial", None)),
        ({"blocks": [TRIAL, SECOND]}, ("block", "second", None)),
        ({"blocks": [FIRST], "settings": AUDIT}, ("would-block", "first", None)),
        ({"blocks": [Match(FIRST, False)], "package": UNKNOWN}, ("block", "first", None)),
        ({"blocks": [FIRST], "excepts": [SPARED]}, ("allow", "spared", LATER)),
        ({"blocks": [FIRST], "excepts": [Match(SPARED, False)]}, ("block", "first", None)),
        ({"blocks": [FIRST], "excepts": [replace(SPARED, audit_only=True)]}, ("block", "first", None)),
        ({"blocks": [FIRST], "excepts": [SPARED, replace(SPARED, expires=None)]}, ("allow", "spared", None)),
        ({"blocks": [FIRST], "bypass": TOKEN}, ("skip", None, None)),
    ],
)
def test_blocklist(given: dict[str, Any], expected: tuple[str, str | None, float | None]) -> None:
    assert verdict(blocklist(ask(**given))) == expected


NAMED, HASHED, OTHER = allow(id="named"), allow(id="hashed", integrity=(ONE,), expires=SOON), allow(id="other", integrity=(TWO,), expires=LATER)
BYTES = replace(PROXIED, digests=(ONE,))
STRICT = Settings(mode="enforce", require_integrity=True)


@pytest.mark.parametrize(
    ("given", "filter", "expected"),
    [
        ({"has_allowlist": False}, "allowlist", ("skip", None, None)),
        ({}, "allowlist", ("block", None, None)),
        ({"settings": AUDIT}, "allowlist", ("would-block", None, None)),
        ({"package": INDEX}, "allowlist", ("skip", None, None)),
        ({"package": UNKNOWN}, "allowlist", ("block", None, None)),
        ({"package": UNKNOWN, "allows": [Match(NAMED, False)]}, "allowlist", ("block", None, None)),
        ({"allows": [NAMED]}, "allowlist", ("allow", "named", None)),
        ({"allows": [replace(NAMED, audit_only=True)]}, "allowlist", ("block", None, None)),
        ({"bypass": TOKEN}, "allowlist", ("skip", None, None)),
        ({"excepts": [SPARED]}, "allowlist", ("block", None, None)),
        ({"allows": [HASHED]}, "allowlist", ("allow", "hashed", SOON)),
        ({"allows": [HASHED], "package": BYTES}, "allowlist", ("allow", "hashed", SOON)),
        ({"allows": [HASHED, OTHER], "package": replace(BYTES, digests=(THREE, TWO))}, "allowlist", ("allow", "other", LATER)),
        ({"allows": [OTHER], "package": BYTES}, "allowlist:integrity", ("block", "other", LATER)),
        ({"allows": [OTHER, NAMED], "package": BYTES}, "allowlist:integrity", ("block", "other", LATER)),
        ({"allows": [OTHER], "package": BYTES, "bypass": TOKEN}, "allowlist:integrity", ("block", "other", LATER)),
        ({"allows": [OTHER], "package": BYTES, "settings": AUDIT}, "allowlist:integrity", ("would-block", "other", LATER)),
        ({"allows": [NAMED], "package": BYTES}, "allowlist", ("allow", "named", None)),
        ({"allows": [NAMED], "settings": STRICT}, "allowlist:integrity", ("block", "named", None)),
        ({"allows": [HASHED], "settings": STRICT}, "allowlist", ("allow", "hashed", SOON)),
    ],
)
def test_allowlist(given: dict[str, Any], filter: str, expected: tuple[str, str | None, float | None]) -> None:
    step = allowlist(ask(**{"has_allowlist": True, **given}))
    assert (step.filter, verdict(step)) == (filter, expected)


def age(days: float, **more: Any) -> Rule:
    return rule(Kind.AGE, id=f"age{days:g}", min_age=days * DAY, **more)


def aged(days: float, **more: Any) -> Package:
    return replace(PROXIED, published=NOW - days * DAY, **more)


WEEK = {"min_age": 7 * DAY}
UNDATED = "the publish date of the package is not known (minimum age: 1w)"


@pytest.mark.parametrize(
    ("given", "expected", "reason"),
    [
        ({"package": aged(1)}, ("skip", None, None), ""),
        ({"package": aged(2), **WEEK}, ("block", None, NOW + 5 * DAY), "package is 2d old (minimum: 1w)"),
        ({"package": aged(7), **WEEK}, ("allow", None, None), "package is 1w old (minimum: 1w)"),
        ({"package": aged(-3), **WEEK}, ("block", None, NOW + 10 * DAY), "package is 0h old (minimum: 1w)"),
        ({"package": aged(2), **WEEK, "settings": AUDIT}, ("would-block", None, NOW + 5 * DAY), "package is 2d old (minimum: 1w)"),
        ({"package": aged(2, hosted=True), **WEEK}, ("skip", None, None), ""),
        ({"package": aged(2, hosted=True), **WEEK, "settings": Settings("enforce", hosted=True)}, ("block", None, NOW + 5 * DAY), None),
        ({"package": aged(2), **WEEK, "bypass": TOKEN}, ("skip", None, None), "bypassed by ops"),
        ({"package": INDEX, **WEEK}, ("skip", None, None), ""),
        ({"package": UNKNOWN, **WEEK}, ("block", None, None), UNDATED),
        ({**WEEK}, ("block", None, None), UNDATED),
        ({**WEEK, "settings": Settings("enforce", unknown_age="allow")}, ("allow", None, None), None),
        ({"package": aged(2), **WEEK, "ages": [age(1)]}, ("allow", "age1", None), None),
        ({"package": aged(2), **WEEK, "ages": [age(0, expires=SOON)]}, ("allow", "age0", SOON), "rule age0 asks for no age"),
        ({**WEEK, "ages": [age(0)]}, ("allow", "age0", None), None),
        ({"package": aged(2), **WEEK, "ages": [age(3), age(1)]}, ("block", "age3", NOW + DAY), None),
        ({"package": aged(2), "ages": [age(30, expires=SOON)]}, ("block", "age30", SOON), "package is 2d old (minimum: 4w2d)"),
        ({"package": aged(2), **WEEK, "ages": [Match(age(0), False)]}, ("block", None, NOW + 5 * DAY), None),
        ({"package": aged(2), "ages": [Match(age(9), False), age(1), age(30)]}, ("block", "age9", NOW + 7 * DAY), None),
        ({"package": aged(2), "ages": [age(9, audit_only=True), age(1)]}, ("would-block", "age9", NOW + 7 * DAY), None),
        ({"package": aged(2), "ages": [age(1, audit_only=True)]}, ("skip", None, None), None),
        ({"package": aged(2), **WEEK, "ages": [age(1, audit_only=True)]}, ("block", None, NOW + 5 * DAY), None),
        ({"package": aged(2), **WEEK, "excepts": [SPARED]}, ("allow", "spared", LATER), None),
        ({**WEEK, "excepts": [SPARED]}, ("allow", "spared", LATER), f"excepted by rule spared from: {UNDATED}"),
    ],
)
def test_min_release_age(given: dict[str, Any], expected: tuple[str, str | None, float | None], reason: str | None) -> None:
    step = min_release_age(ask(**given))
    assert verdict(step) == expected
    assert reason in (None, step.reason)


def pinned(*integrity: str, **more: Any) -> Rule:
    return rule(Kind.PIN, integrity=integrity, **{"version": "1.3.0", "id": "+".join(one[7] for one in integrity), **more})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"package": BYTES}, ("skip", None, None)),
        ({"pins": [pinned(ONE)], "package": PROXIED}, ("skip", None, None)),
        ({"pins": [pinned(ONE)], "package": replace(BYTES, is_index=True)}, ("skip", None, None)),
        ({"pins": [pinned(ONE)], "package": BYTES}, ("allow", "1", None)),
        ({"pins": [pinned(TWO)], "package": BYTES}, ("block", "2", None)),
        ({"pins": [pinned(TWO)], "package": BYTES, "settings": AUDIT}, ("would-block", "2", None)),
        ({"pins": [pinned(TWO, audit_only=True)], "package": BYTES}, ("would-block", "2", None)),
        ({"pins": [pinned(TWO)], "package": BYTES, "bypass": TOKEN}, ("block", "2", None)),
        ({"pins": [pinned(TWO)], "package": BYTES, "excepts": [SPARED]}, ("block", "2", None)),
        ({"pins": [pinned(TWO, ONE)], "package": BYTES}, ("allow", "2+1", None)),
        ({"pins": [pinned(TWO), pinned(ONE)], "package": BYTES}, ("allow", "1", None)),
        ({"pins": [pinned(TWO), pinned(ONE, expires=SOON)], "package": BYTES}, ("allow", "1", SOON)),
        ({"pins": [pinned(TWO, expires=SOON), pinned(TWO, expires=LATER)], "package": BYTES}, ("block", "2", LATER)),
        ({"pins": [pinned(ONE), pinned(TWO, name="left-*")], "package": BYTES}, ("block", "2", None)),
        ({"pins": [pinned(THREE)], "package": replace(BYTES, digests=(ONE, THREE))}, ("allow", "3", None)),
        ({"pins": [Match(pinned(ONE), False), Match(pinned(TWO, version="2"), False)], "package": BYTES}, ("allow", "1", None)),
        ({"pins": [Match(pinned(TWO), False)], "package": BYTES}, ("block", "2", None)),
    ],
)
def test_pin(given: dict[str, Any], expected: tuple[str, str | None, float | None]) -> None:
    assert verdict(pin(ask(**given))) == expected


HELD = {"quarantine": ("enforce", 14 * DAY)}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("skip", None, None)),
        ({**HELD}, ("block", None, NOW + 14 * DAY)),
        ({**HELD, "package": replace(PROXIED, seen=NOW - DAY)}, ("block", None, NOW + 13 * DAY)),
        ({**HELD, "package": replace(PROXIED, seen=NOW - 14 * DAY)}, ("allow", None, None)),
        ({**HELD, "package": replace(PROXIED, hosted=True)}, ("skip", None, None)),
        ({**HELD, "package": INDEX}, ("skip", None, None)),
        ({**HELD, "settings": AUDIT}, ("block", None, NOW + 14 * DAY)),
        ({**HELD, "bypass": TOKEN}, ("block", None, NOW + 14 * DAY)),
        ({**HELD, "excepts": [SPARED]}, ("allow", "spared", LATER)),
        ({"quarantine": ("observe", DAY)}, ("would-block", None, NOW + DAY)),
        ({"quarantine": ("off", DAY)}, ("skip", None, None)),
    ],
)
def test_quarantine(given: dict[str, Any], expected: tuple[str, str | None, float | None]) -> None:
    assert verdict(quarantine(ask(**given))) == expected


@pytest.mark.parametrize(("seconds", "text"), [(0, "0h"), (5 * 3600 + 59, "5h"), (3.5 * DAY, "3d"), (14 * DAY, "2w"), (9 * DAY, "1w2d")])
def test_span(seconds: float, text: str) -> None:
    assert span(seconds) == text


# ---------------------------------------------------------------------------------------------------------------- which rules match

RANGE = block(version="*", range="<2.0.0")


@pytest.mark.parametrize(
    ("own", "package", "blocked"),
    [
        (block(), PROXIED, True),
        (block(), INDEX, True),
        (block(), UNKNOWN, True),
        (block(name="left"), PROXIED, False),
        (block(name="left-*"), PROXIED, True),
        (block(name="*-pad"), PROXIED, True),
        (block(name="l*t*d"), PROXIED, True),
        (block(name="*ft-p*"), PROXIED, True),
        (block(name="*"), PROXIED, True),
        (block(name="@corp/**"), replace(PROXIED, name="@corp/x"), True),
        (block(name="@corp/**"), replace(PROXIED, name="@corporate/x"), False),
        (block(name="ünï*"), replace(PROXIED, name="ünïcode"), True),
        (block(name="*ïcode"), replace(PROXIED, name="ünïcode"), True),
        (block(format="*"), PROXIED, True),
        (block(format="pypi"), PROXIED, False),
        (block(format="*", name="left-*"), PROXIED, True),
        (block(format="*", name="Left_Pad"), PROXIED, False),
        (block(format="*", name="Left_Pad"), replace(PROXIED, format="pypi"), True),
        (block(format="*", name="Left_*"), replace(PROXIED, format="pypi"), True),
        (block(format="*", version="v1.3.0"), PROXIED, True),
        (block(version="1.3.0"), PROXIED, True),
        (block(version="1.*"), PROXIED, True),
        (block(version="2.*"), PROXIED, False),
        (block(version="1.3.0"), INDEX, False),
        (block(version="1.3.0"), UNKNOWN, True),
        (RANGE, PROXIED, True),
        (RANGE, replace(PROXIED, version="2.0.0"), False),
        (RANGE, INDEX, False),
        (RANGE, replace(INDEX, version="1.0.0"), False),
        (RANGE, UNKNOWN, True),
        (RANGE, replace(PROXIED, version="not a version"), True),
        (replace(RANGE, format="*"), replace(PROXIED, format="raw"), True),
        (block(repository="npm-*"), replace(PROXIED, repository="npm-main"), True),
        (block(repository="npm-*"), replace(PROXIED, repository="other"), False),
        (block(repository="npm-main"), PROXIED, False),
        (block(expires=SOON), PROXIED, True),
        (block(expires=NOW), PROXIED, False),
        (block(name="nopad\udcff"), replace(PROXIED, name="nopad\udcff"), True),
    ],
)
def test_which_rules_match(own: Rule, package: Package, blocked: bool) -> None:
    assert answer(decide(policy(own), package, NOW)) == ("blocklist" if blocked else "allow")


@pytest.mark.parametrize("package", [UNKNOWN, replace(PROXIED, version="not a version")])
def test_a_version_that_cannot_be_told_never_passes_and_never_profits(package: Package) -> None:
    blocked = decide(policy(replace(RANGE, reason="CVE-1")), package, NOW)
    assert not blocked.allowed
    assert "CVE-1" in blocked.reason
    assert "version" in blocked.reason
    assert not decide(policy(block(), rule(Kind.EXCEPT, range="<2.0.0")), package, NOW).allowed
    assert not decide(policy(allow(version="*", range="<2.0.0")), package, NOW).allowed
    assert decide(policy(allow(version="*")), package, NOW).allowed


NAMES = [block(name, id=name) for name in ("*", "left-*", "left-pad", "*-pad")]


@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("format", ["npm", "*"])
def test_the_first_rule_of_the_file_wins_however_it_is_written(first: int, format: str) -> None:
    rules = [replace(NAMES[first], format=format), *(one for one in NAMES if one is not NAMES[first])]
    found = decide(policy(*rules), PROXIED, NOW).rule
    assert found == rules[0]


# ---------------------------------------------------------------------------------------------------------------- their order

HELD_NPM = Settings("enforce", formats=(("npm", 7 * DAY, "enforce", None),))
ALL = (block(), allow(), pinned(TWO), allow("other", "1"))
MINE = (Namespace("left-pad", "npm", "config.toml:3"),)


@pytest.mark.parametrize(
    ("settings", "rules", "namespaces", "token", "package", "expected"),
    [
        (OFF, ALL, (), None, BYTES, "allow"),
        (OFF, ALL, MINE, None, BYTES, "namespace"),
        (AUDIT, ALL, MINE, "secret", BYTES, "namespace"),
        (HELD_NPM, ALL, MINE, None, replace(BYTES, hosted=True), "allow"),
        (HELD_NPM, ALL, (Namespace("left-*"),), "secret", BYTES, "namespace"),
        (HELD_NPM, ALL, (Namespace("left-*", "pypi"),), None, BYTES, "blocklist"),
        (HELD_NPM, ALL, (), None, BYTES, "blocklist"),
        (HELD_NPM, (allow("other"), pinned(TWO)), (), None, BYTES, "allowlist"),
        (HELD_NPM, (pinned(TWO),), (), None, BYTES, "min-release-age"),
        (HELD_NPM, (pinned(TWO),), (), None, replace(BYTES, published=0.0), "pin"),
        (HELD_NPM, (pinned(ONE),), (), None, replace(BYTES, published=0.0), "quarantine"),
        (HELD_NPM, (), (), None, replace(BYTES, published=0.0, seen=0.0), "allow"),
        (HELD_NPM, ALL, (), "secret", BYTES, "pin"),
        (HELD_NPM, (block(),), (), "secret", BYTES, "quarantine"),
        (ENFORCE, (block(), allow("other")), (), "secret", BYTES, "allow"),
        (AUDIT, ALL, (), None, BYTES, "would block: blocklist"),
        (AUDIT, ALL, (), "secret", BYTES, "would block: pin"),
        (replace(HELD_NPM, mode="audit"), ALL, (), None, BYTES, "quarantine"),
        (ENFORCE, (block(audit_only=True), pinned(TWO)), (), None, BYTES, "pin"),
        (ENFORCE, (block(audit_only=True), pinned(TWO, audit_only=True)), (), None, BYTES, "would block: blocklist"),
        (HELD_NPM, (block(), SPARED), (), None, BYTES, "allow"),
        (ENFORCE, (block(), SPARED, allow("other")), (), None, BYTES, "allowlist"),
        (ENFORCE, (block(), replace(SPARED, expires=PAST)), (), None, BYTES, "blocklist"),
    ],
)
def test_order(
    settings: Settings, rules: tuple[Rule, ...], namespaces: tuple[Namespace, ...], token: str | None, package: Package, expected: str
) -> None:
    found = policy(*rules, settings=settings, namespaces=namespaces, bypasses=(TOKEN,))
    decision = decide(found, package, NOW, token)
    assert answer(decision) == expected
    if token is None:
        verdicts = [step.filter for step in explain(found, package, NOW) if step.verdict == "block"]
        assert verdicts[:1] == ([] if decision.allowed else [expected])


@pytest.mark.parametrize(
    ("tokens", "given", "by"),
    [
        ((TOKEN,), "secret", "ops"),
        ((TOKEN,), "Secret", ""),
        ((TOKEN,), "", ""),
        ((TOKEN,), None, ""),
        ((TOKEN,), "gehäim", ""),
        ((), "secret", ""),
        ((Bypass("empty", sha256(b"").hexdigest()),), "", ""),
        ((replace(TOKEN, expires=NOW),), "secret", ""),
        ((replace(TOKEN, expires=SOON),), "secret", "ops"),
        ((replace(TOKEN, expires=PAST), replace(TOKEN, name="new")), "secret", "new"),
        ((replace(TOKEN, sha256=TOKEN.sha256.upper()),), "secret", "ops"),
    ],
)
def test_bypass(tokens: tuple[Bypass, ...], given: str | None, by: str) -> None:
    decision = decide(policy(block(), bypasses=tokens), PROXIED, NOW, given)
    assert (decision.allowed, decision.bypassed_by) == (bool(by), by)
    assert not decide(policy(bypasses=tokens, settings=OFF), PROXIED, NOW, given).bypassed_by


UNTIL = {
    "nothing": (policy(), PROXIED, None),
    "blocked by a rule that ends": (policy(block(expires=SOON)), PROXIED, SOON),
    "allowed by an entry that ends": (policy(allow(expires=SOON)), PROXIED, SOON),
    "excepted for a while": (policy(block(), SPARED), PROXIED, LATER),
    "the earliest of several": (policy(block(), SPARED, allow(expires=SOON)), PROXIED, SOON),
    "would be blocked for a while": (policy(block(expires=SOON), settings=AUDIT), PROXIED, SOON),
    "ripens": (policy(settings=Settings("enforce", min_release_age=7 * DAY)), aged(2), NOW + 5 * DAY),
    "an exception that nobody needs": (policy(SPARED), PROXIED, None),
}


@pytest.mark.parametrize("case", UNTIL)
def test_until(case: str) -> None:
    found, package, until = UNTIL[case]
    before = decide(found, package, NOW)
    assert before.until == until
    if until is not None:
        assert answer(decide(found, package, until)) != answer(before)
        assert answer(decide(found, package, until - 0.5)) == answer(before)


# ---------------------------------------------------------------------------------------------------------------- lists


def test_explain_tells_every_filter_in_order() -> None:
    steps = explain(policy(block(), pinned(TWO), settings=HELD_NPM), BYTES, NOW)
    assert [(step.filter, step.verdict) for step in steps] == [
        ("namespace", "skip"),
        ("blocklist", "block"),
        ("allowlist", "skip"),
        ("min-release-age", "block"),
        ("pin", "block"),
        ("quarantine", "block"),
    ]
    assert len(steps) == 1 + len(FILTERS)


def test_explain_tells_why_filters_were_not_asked() -> None:
    own = explain(policy(block(), namespaces=MINE), BYTES, NOW)
    assert [step.verdict for step in own] == ["block", *["skip"] * 5]
    assert "config.toml:3" in own[0].reason
    off = explain(policy(block(), settings=OFF), BYTES, NOW)
    assert {step.reason for step in off[1:-1]} == {"curation.mode is off"}
    assert [step.filter for step in off] == [step.filter for step in explain(policy(block()), BYTES, NOW)]


@pytest.mark.parametrize(("own", "allowed"), [("enforce", False), ("observe", True), ("off", True)])
def test_quarantine_has_a_mode_of_its_own(own: str, allowed: bool) -> None:
    """As in NORA: also when curation is off."""
    found = policy(block(), settings=replace(OFF, quarantine=own))
    decision = decide(found, replace(PROXIED, seen=NOW - 60), NOW)
    assert (decision.allowed, decision.would_block) == (allowed, own == "observe")
    assert explain(found, replace(PROXIED, seen=NOW - 60), NOW)[-1].verdict == {"enforce": "block", "observe": "would-block", "off": "skip"}[own]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (policy(), False),
        (policy(block()), False),
        (policy(block(version="1.*")), True),
        (policy(RANGE), True),
        (policy(block("other", "1.*")), False),
        (policy(block(version="1.*", repository="elsewhere")), False),
        (policy(allow("other")), True),
        (policy(rule(Kind.PIN, integrity=(ONE,))), True),
        (policy(age(7)), True),
        (policy(age(0)), False),
        (policy(settings=Settings("enforce", min_release_age=DAY)), True),
        (policy(settings=Settings("enforce", formats=(("pypi", DAY, "enforce", None),))), False),
        (policy(settings=Settings("enforce", quarantine="observe")), True),
        (policy(block(version="1.*"), settings=OFF), False),
        (policy(block(version="1.*"), namespaces=MINE), False),
    ],
)
def test_concerns_versions(found: Policy, expected: bool) -> None:
    assert concerns_versions(found, "npm", "left-pad", "here") is expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (policy(block(version=THREE)), True),
        (policy(block(version="sha512:3*")), True),
        (policy(block(version="SHA512:3*", format="*")), True),
        (policy(rule(Kind.PIN, integrity=(THREE,))), True),
        (policy(rule(Kind.ALLOW, integrity=(ONE, THREE))), True),
        (policy(block(version=ONE), rule(Kind.PIN, integrity=(TWO,))), False),
        (policy(block(), block(version="*3"), block(version="512")), False),
        (policy(block("other", THREE)), False),
        (policy(), False),
    ],
)
def test_names_digests(found: Policy, expected: bool) -> None:
    assert names_digests(found, "npm", "left-pad", "here", "sha512") is expected


def test_blocks_name() -> None:
    found = policy(block("gone"), block("left-pad", "1.*"), allow(), namespaces=(Namespace("mine"),))
    assert [answer(blocks_name(found, "npm", name, "", NOW)) for name in ("gone", "left-pad", "mine")] == ["blocklist", "allow", "allow"]
    assert answer(blocks_name(found, "npm", "mine", "", NOW, hosted=False)) == "namespace"


def test_visible() -> None:
    found = policy(block(version="2", expires=LATER), block("x"), settings=Settings("enforce", min_release_age=7 * DAY))
    versions = [replace(PROXIED, version=str(number), published=NOW - number * 3 * DAY) for number in range(1, 5)]
    assert visible(found, versions, NOW) == ([False, False, True, True], LATER)
    assert visible(found, versions[2:], NOW) == ([True, True], None)
    assert visible(found, versions[:1], NOW) == ([False], NOW + 4 * DAY)
    assert visible(policy(block(), settings=AUDIT), versions, NOW) == ([True] * 4, None)
    assert visible(found, [], NOW) == ([], None)


def test_next_change() -> None:
    found = policy(block(expires=LATER), SPARED, block(expires=PAST), bypasses=(replace(TOKEN, expires=SOON),))
    assert [next_change(found, now) for now in (NOW - 10, NOW, SOON, LATER)] == [PAST, SOON, LATER, None]
    assert next_change(policy(), NOW) is None


# ---------------------------------------------------------------------------------------------------------------- the buffer

EVERYTHING = Rule(
    *("one", Kind.PIN, "npm", "näme\n],[\x00\udcff", "1", "<2.0.0", "here*", "be\ncause", "a.toml:3"), True, NOW, "me", "T-1", (ONE, THREE), 0.5
)


def test_rules_come_back_as_they_were() -> None:
    rules = (EVERYTHING, block(), replace(EVERYTHING, integrity=(), min_age=None), block("a*", reason='"],\n["'))
    found = policy(*rules, namespaces=MINE, bypasses=(TOKEN,), warnings=("a.toml:3: dead",))
    assert tuple(found.rules()) == rules
    assert len(found) == 4
    assert found.settings == ENFORCE
    assert found.bypasses == (TOKEN,)
    assert found.warnings == ("a.toml:3: dead",)
    assert found.counts == {"block": 2, "allow": 0, "except": 0, "age": 0, "pin": 2, "namespace": 1, "bypass": 1}


def test_the_fingerprint_is_that_of_the_content() -> None:
    buffer = compile(HELD_NPM, RuleSet((EVERYTHING,)))
    assert buffer == compile(HELD_NPM, RuleSet((EVERYTHING,)))
    found = Policy.from_buffer(buffer)
    assert found.fingerprint == sha256(buffer[40:]).hexdigest()[:16]
    assert found.settings == HELD_NPM
    assert found.fingerprint != policy(EVERYTHING).fingerprint


def test_a_policy_lives_in_shared_memory() -> None:
    buffer = compile(ENFORCE, RuleSet((block(), block("a*"))))
    with mmap.mmap(-1, len(buffer) + 4096) as shared:
        shared.write(buffer)
        found = Policy.from_buffer(shared)
        assert answer(decide(found, PROXIED, NOW)) == "blocklist"
        del found


def test_other_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="compile the rule files again"):
        Policy.from_buffer(bytes(100))


def test_settings_of_a_configuration() -> None:
    own = SimpleNamespace(min_release_age=DAY, quarantine=None, quarantine_ttl=None)
    config = SimpleNamespace(mode="audit", require_integrity=True, min_release_age=None, quarantine="observe", quarantine_ttl=9.0, hosted=True)
    config.unknown_age, config.formats, config.docs_url = "allow", (("npm", own),), None
    found = Settings.of(config)
    assert found == Settings("audit", True, None, "observe", 9.0, True, "allow", (("npm", DAY, None, None),), "")
    assert [found.min_age_of(format) for format in ("npm", "pypi")] == [DAY, None]
    assert found.quarantine_of("npm") == ("observe", 9.0)


# ---------------------------------------------------------------------------------------------------------------- many rules

PARTS = ("a", "b", "ab", "-", "ba", "x")
NAMES_DRAWN = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map("".join)
PATTERNS = st.one_of(
    NAMES_DRAWN,
    NAMES_DRAWN.map("{}*".format),
    NAMES_DRAWN.map("*{}".format),
    NAMES_DRAWN.map("{}/**".format),
    st.tuples(NAMES_DRAWN, NAMES_DRAWN).map("*".join),
    NAMES_DRAWN.map("*{}*".format),
    st.just("*"),
)
RULES = st.builds(
    block,
    name=PATTERNS,
    version=st.sampled_from(["*", "*", "1", "1*"]),
    format=st.sampled_from(["npm", "npm", "maven", "*"]),
    repository=st.sampled_from(["*", "*", "one", "t*"]),
    expires=st.sampled_from([None, None, PAST, SOON]),
)
ASKED = st.builds(
    Package, st.sampled_from(["npm", "maven"]), NAMES_DRAWN, st.sampled_from([None, "1", "12", "2"]), st.sampled_from(["one", "two"]), st.booleans()
)


def plainly(rules: list[Rule], package: Package) -> Rule | None:
    """The first rule that blocks, by looking at all of them."""

    def is_meant(one: Rule) -> bool:
        if package.is_index or one.version == "*":
            return one.version == "*"
        return package.version is None or Pattern.parse(one.version).matches(package.version)

    return next(
        (
            one
            for one in rules
            if one.format in ("*", package.format)
            and Pattern.parse(one.name).matches(package.name)
            and Pattern.parse(one.repository).matches(package.repository)
            and (one.expires is None or one.expires > NOW)
            and is_meant(one)
        ),
        None,
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(RULES, max_size=30), st.lists(ASKED, min_size=1, max_size=20))
def test_the_index_finds_what_a_plain_search_finds(rules: list[Rule], packages: list[Package]) -> None:
    found = policy(*rules)
    for package in packages:
        assert decide(found, package, NOW).rule == plainly(rules, package)


@pytest.mark.parametrize("seed", range(3))
def test_five_thousand_rules(seed: int) -> None:
    random = Random(seed)

    def word() -> str:
        return "".join(random.choice("abcd-") for _ in range(random.randint(1, 6)))

    shapes = ("{}", "{}", "{}", "{}", "{}*", "*{}", "{}-**", "{}*a", "{}/**")
    rules = [block(random.choice(shapes).format(word()), random.choice("*12"), id=str(number)) for number in range(5000)]
    found = policy(*rules)
    for _ in range(50):
        package = replace(PROXIED, name=word() + random.choice(("", "/x")), version=random.choice("12"))
        assert decide(found, package, NOW).rule == plainly(rules, package)
