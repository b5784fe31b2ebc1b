"""Why: what every filter says of a package, and what could be had instead. The answers of `nora curation explain` and of its API are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cmp_to_key, partial
from typing import Any

from noraflask.ecosystems import ECOSYSTEMS, ecosystem_of, find
from noraflask.ecosystems.ecosystem import split_at_sign
from noraflask.services.curation import deciding
from noraflask.services.curation.filters import Step
from noraflask.services.curation.freeze import Frozen
from noraflask.services.curation.gate import ID_START, read_decision_id
from noraflask.services.curation.model import Decision, Package
from noraflask.services.curation.policy import Policy

MOST_INSTEAD = 50
"""Versions that are named."""
LONGEST_WORD = 1024

Judge = Callable[[Package], Decision]


@dataclass(frozen=True, slots=True)
class Stored:
    """What storage has of a package, told by its format."""

    name: str
    """As storage has it, which rights are about."""
    package: Package
    """With the digest and the date that are known here."""
    decision: Decision | None
    """The gate's whole answer, where the format works it out of several; None: what the filters say of the package is all."""
    allowed: tuple[str, ...]
    """Versions in storage that may be had."""
    digests: frozenset[str] = frozenset()
    """Of all that the version alone is made of, itself included: whoever read one of them read this version."""


Look = Callable[[Package, Judge], Stored | None]
"""Looks a package up in storage."""


@dataclass(frozen=True, slots=True)
class Question:
    package: Package
    at: float
    """The moment that is asked about, seconds since the epoch."""
    among: tuple[str, ...] = ()
    """Versions that could be taken instead."""
    decision: str = ""
    """The id of the decision that is to be explained."""
    decided_by: str = ""
    """The fingerprint of its policy."""


def parse_coordinate(text: str) -> tuple[str, str, str | None]:
    """Format, name and version of `FORMAT:NAME[@VERSION]`. Raises ValueError."""
    format, colon, rest = text.partition(":")
    if not colon:
        raise ValueError(f"{text!r} is no coordinate; write FORMAT:NAME[@VERSION], or a decision id (d-…)")
    return (format_of(format), *parse_name(format_of(format), rest))


def parse_name(format: str, text: str) -> tuple[str, str | None]:
    """Name and version of `NAME[@VERSION]`, or of what the format's people write; for "*" the former alone. Raises ValueError."""
    ecosystem = find(format)
    name, version = (ecosystem.split_reference if ecosystem else split_at_sign)(text)
    if not name or version == "":
        raise ValueError(f"{text!r} lacks a {'version after the @' if name else 'name'}")
    return name, version


def format_of(text: str) -> str:
    ecosystem = find(text)
    if ecosystem is None:
        raise ValueError(f"{text!r} is no format; say one of {', '.join(ECOSYSTEMS)}")
    return ecosystem.id


@dataclass(frozen=True, slots=True)
class Given:
    """What whoever asks says of the package, besides its name and version."""

    repository: str = ""
    """Empty: the default one of the format."""
    hosted: bool = True
    published: float | None = None
    """When; seconds since the epoch."""
    age: float | None = None
    """Or how long ago, in seconds."""
    digests: tuple[str, ...] = ()
    at: float | None = None
    """The moment that is asked about; None: now."""
    among: Sequence[str] = ()
    """Versions that could be taken instead."""


NOTHING = Given()


def question_of(words: Sequence[str], now: float, version: str | None = None, given: Given = NOTHING) -> Question:
    """From a decision id, `FORMAT:NAME[@VERSION]`, or a format and `NAME[@VERSION]`. Raises ValueError."""
    if any(len(word) > LONGEST_WORD for word in (*words, version or "", *given.among)):
        raise ValueError(f"a name or version has more than {LONGEST_WORD} characters")
    if len(words) == 1 and words[0].startswith(ID_START) and ":" not in words[0]:
        fingerprint, when, package = read_decision_id(words[0])
        question = Question(package, when if given.at is None else given.at, decision=words[0], decided_by=fingerprint)
    else:
        format, name, named = parse_coordinate(words[0]) if len(words) == 1 else (format_of(words[0]), *parse_name(format_of(words[0]), words[1]))
        version = version or named
        ecosystem = ecosystem_of(format)
        package = Package(format, ecosystem.same_name(name), ecosystem.same_version(version) if version else None, given.repository or format)
        question = Question(package, now if given.at is None else given.at)
    published = given.published if given.age is None else question.at - given.age
    package = replace(package, is_index=package.version is None, hosted=given.hosted, published=published, digests=given.digests)
    return replace(question, package=package, among=tuple(map(ecosystem_of(package.format).same_version, given.among)))


def digests_of_version(look: Look, repositories: Iterable[tuple[str, str]], format: str, name: str, version: str) -> frozenset[str]:
    """Of all that the version alone is made of, as storage has it now. `repositories`: format and name of each. Patterns and ranges have none."""
    ecosystem = find(format)
    if ecosystem is None or not version or "*" in version:
        return frozenset()
    name, version = ecosystem.same_name(name), ecosystem.same_version(version)
    asked = (Package(ecosystem.id, name, version, repository) for kind, repository in repositories if kind == ecosystem.id)
    stored = (look(package, lambda _: Decision(True)) for package in asked)
    return frozenset().union(*(one.digests for one in stored if one))


def explain(policy: Policy, question: Question, look: Look | None = None, frozen: Frozen | None = None) -> dict[str, Any]:
    """Ready for JSON."""
    judge = partial(_judge, policy, question.at)
    stored = look(question.package, judge) if look is not None and question.package.hosted else None
    package = _completed(question.package, stored.package) if stored else question.package
    steps = list(_steps(policy, package, question, stored, frozen))
    deciding = _deciding(steps)
    allowed = deciding is None or deciding.verdict != "block"
    return {
        "format": package.format,
        "name": package.name,
        "version": package.version,
        "repository": package.repository,
        "hosted": package.hosted,
        "digests": list(package.digests),
        "published": stamp(package.published),
        "at": stamp(question.at),
        "allowed": allowed,
        "would_block": deciding is not None and deciding.verdict == "would-block",
        "decided_by": step_members(deciding) if deciding else None,
        "filters": [step_members(step) for step in steps],
        "instead": None if allowed else _instead(policy, package, question, stored),
        "mode": policy.settings.mode,
        "policy": policy.fingerprint,
        "decision": _decision_members(policy, question),
    }


def _judge(policy: Policy, at: float, package: Package) -> Decision:
    return deciding.decide(policy, package, at)


def _completed(asked: Package, stored: Package) -> Package:
    """What the question says itself comes first."""
    published = stored.published if asked.published is None else asked.published
    return replace(asked, digests=asked.digests or stored.digests, published=published)


def _steps(policy: Policy, package: Package, question: Question, stored: Stored | None, frozen: Frozen | None) -> Iterator[Step]:
    if frozen is not None and not package.hosted and package.seen is None:
        yield Step("freeze", "block", reason=f"nothing new is fetched: {frozen.reason}", until=frozen.until)
    own = deciding.explain(policy, package, question.at)
    if question.decision and package.is_index and not any(step.verdict == "block" for step in own):
        own = deciding.explain(policy, replace(package, is_index=False), question.at)  # it was about an artifact whose version nobody knew
    yield from own
    whole = stored.decision if stored else None
    if whole is not None and _verdict(whole) != next((verdict for verdict in ("block", "would-block") if _first(own, verdict)), "allow"):
        yield _whole_step(whole)


def _verdict(decision: Decision) -> str:
    return "block" if not decision.allowed else "would-block" if decision.would_block else "allow"


def _whole_step(whole: Decision) -> Step:
    verdict = _verdict(whole)
    if verdict == "allow":
        return Step("image", verdict, whole.rule, "what it belongs to is allowed, by another version or an index", whole.until)
    return Step("image", verdict, whole.rule, f"it leads to, or belongs to, what is blocked ({whole.filter}): {whole.reason}", whole.until)


def _first(steps: Iterable[Step], verdict: str) -> Step | None:
    return next((step for step in steps if step.verdict == verdict), None)


def _deciding(steps: list[Step]) -> Step | None:
    """As the gate goes through them; what a format says of the whole comes last and has the last word."""
    if steps[-1].filter == "image":
        return steps[-1]
    step = _first(steps, "block") or _first(steps, "would-block")
    if step is not None:
        return step
    return steps[0] if steps[0].verdict == "allow" else None


def _instead(policy: Policy, package: Package, question: Question, stored: Stored | None) -> list[str] | None:
    """Versions that would be allowed, the newest first; None: nobody has told which there are."""
    if not question.among and stored is None:
        return None
    others = (replace(package, version=version, digests=(), is_index=False) for version in question.among)
    allowed = [other.version for other in others if other.version and deciding.decide(policy, other, question.at).allowed]
    allowed += [version for version in (stored.allowed if stored else ()) if version not in allowed]
    return sorted(allowed, key=cmp_to_key(partial(_order, package.format)), reverse=True)[:MOST_INSTEAD]


def _order(format: str, a: str, b: str) -> int:
    """What cannot be compared, such as the tag `latest`, stands at the end."""
    ecosystem = ecosystem_of(format)
    known = ecosystem.compare(a, b)
    if known is not None:
        return known or (a > b) - (a < b)
    ranks = [(ecosystem.compare(text, text) is not None, text) for text in (a, b)]
    return (ranks[0] > ranks[1]) - (ranks[0] < ranks[1])


def step_members(step: Step) -> dict[str, Any]:
    rule = step.rule
    return {
        "filter": step.filter,
        "verdict": step.verdict,
        "rule": rule.id if rule else None,
        "place": rule.place.rpartition("/")[2] if rule else None,
        "reason": step.reason or None,
        "until": stamp(step.until),
        "owner": (rule.owner or None) if rule else None,
        "ticket": (rule.ticket or None) if rule else None,
    }


def _decision_members(policy: Policy, question: Question) -> dict[str, Any] | None:
    if not question.decision:
        return None
    return {"id": question.decision, "policy": question.decided_by, "same_policy": question.decided_by == policy.fingerprint}


def stamp(moment: float | None) -> str | None:
    """RFC 3339, UTC, whole seconds; what lies beyond the calendar as the number it is."""
    if moment is None:
        return None
    try:
        return datetime.fromtimestamp(int(moment), UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return str(moment)
