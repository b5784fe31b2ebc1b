"""The ledger asked: what a candidate policy would have changed and for whom, who got a package, how large a share of the coordinates flips.

All three read the entries once, as they come, in memory that does not grow with the ledger; only the answer of impact() is as long as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from noraflask.ecosystems import ECOSYSTEMS, ecosystem_of, find
from noraflask.services.curation.explaining import stamp
from noraflask.services.curation.ledger import Entry
from noraflask.services.curation.model import Decision, Package
from noraflask.services.curation.patterns import Pattern

MOST_NAMED = 20
"""So many consumers of a change are named; all are counted."""
MOST_CHANGES = 10_000
MOST_CONSUMERS = 200_000
"""Over all changes of a report."""
MOST_REMEMBERED = 32_768
"""Verdicts, twice: those that were asked for lately, and those before."""
MOST_COORDINATES = 131_072
"""flip_share() is exact up to here, and an estimate from a fair sample beyond."""
ANY = "*"

Decide = Callable[[Package, float], Decision]
Coordinate = tuple[str, str, str]
"""Format, name, version."""
Consumer = tuple[str, str]
"""Principal, CI identity."""
Verdict = tuple[str, Decision | None]

_ALLOWED = Decision(True)
BLOCKED, ALLOWED, AUDITED = "newly blocked", "newly allowed", "newly audited"


@dataclass(slots=True)
class Change:
    """A coordinate that the two policies judge differently."""

    kind: str
    """BLOCKED, ALLOWED, or AUDITED: still allowed, but the candidate's audit mode says that it would block."""
    format: str
    name: str
    version: str
    filter: str
    rule: str
    """The id of the rule that blocks: the candidate's, or of a newly allowed one the old policy's; empty when it was no rule."""
    place: str
    reason: str
    until: float | None
    count: int = 0
    last: int = 0
    consumers: dict[Consumer, int] = field(default_factory=dict)
    """Who, and how often."""
    more_consumers: bool = False
    """There were others, who are not counted: see MOST_CONSUMERS."""

    def named(self) -> list[Consumer]:
        """Those who had it most often."""
        return sorted(self.consumers, key=lambda consumer: (-self.consumers[consumer], consumer))[:MOST_NAMED]

    def as_dict(self) -> dict[str, Any]:
        return {
            "change": self.kind,
            "format": self.format,
            "name": self.name,
            "version": self.version or None,
            "filter": self.filter,
            "rule": self.rule,
            "place": self.place,
            "reason": self.reason,
            "until": stamp(self.until),
            "count": self.count,
            "last": stamp(self.last),
            "consumers": [{"principal": principal, "ci": ci, "count": self.consumers[principal, ci]} for principal, ci in self.named()],
            "consumers_count": len(self.consumers),
            "consumers_complete": not self.more_consumers,
        }


@dataclass(slots=True)
class Report:
    changes: list[Change]
    """The newly blocked first; in each kind those first that were served most often."""
    entries: int
    """How many were replayed."""
    omitted: int
    """How many of them belong to changes that are not listed: see MOST_CHANGES."""

    def of_kind(self, kind: str) -> list[Change]:
        return [change for change in self.changes if change.kind == kind]

    def as_dict(self) -> dict[str, Any]:
        totals = {kind.replace(" ", "_"): len(self.of_kind(kind)) for kind in (BLOCKED, ALLOWED, AUDITED)}
        return {"entries": self.entries, **totals, "omitted_entries": self.omitted, "changes": [change.as_dict() for change in self.changes]}


@dataclass(slots=True)
class Receipt:
    """A consumer who got an artifact."""

    format: str
    repository: str
    name: str
    version: str
    digest: str
    principal: str
    ci: str
    first: int
    last: int
    count: int = 0
    """Of what the ledger noted: the same within ten minutes is one."""
    certain: bool = True
    """False: a range or a version was asked for, and the version of this artifact is not known or cannot be compared."""

    @property
    def coordinate(self) -> Coordinate:
        return self.format, self.name, self.version

    def as_dict(self) -> dict[str, Any]:
        fields = {"version": self.version or None, "digest": self.digest or None, "first": stamp(self.first), "last": stamp(self.last)}
        return asdict(self) | fields


def replay(entries: Iterable[Entry], old_decide: Decide, new_decide: Decide, now: float | None = None) -> Report:
    """What the new policy would have blocked or allowed of what was served, other than the old one.

    Both judge each package as of now, not as of when it was served: the question is what a reload would break today, and a version that was too
    young last week may be ripe by now.
    """
    now = time.time() if now is None else now
    judge = _Judge(old_decide, new_decide, now)
    changes: dict[tuple[Coordinate, str, str], Change] = {}
    room = MOST_CONSUMERS
    total = omitted = 0
    for entry in entries:
        total += 1
        kind, decision = judge.verdict(entry)
        if not kind or decision is None:
            continue
        key = ((entry.format, entry.name, entry.version), kind, decision.rule.id if decision.rule else decision.filter)
        change = changes.get(key)
        if change is None and len(changes) < MOST_CHANGES:
            change = changes[key] = _change(entry, kind, decision)
        if change is None:
            omitted += 1
        else:
            room -= _count(change, entry, room)
    kinds = (BLOCKED, ALLOWED, AUDITED)
    ordered = sorted(changes.values(), key=lambda change: (kinds.index(change.kind), -change.count, change.format, change.name, change.version))
    return Report(ordered, total, omitted)


def flip_share(entries: Iterable[Entry], old_decide: Decide, new_decide: Decide, now: float | None = None) -> tuple[int, int]:
    """How many of the distinct coordinates that were served the new policy newly blocks, and how many there are; as of now. For the flip guard.

    A coordinate counts as blocked when it is in any repository; what artifacts are made of has none.
    Where there are too many, those are judged whose hash ends with enough zero bits.
    """
    judge = _Judge(old_decide, new_decide, time.time() if now is None else now)
    blocked: dict[int, bool] = {}
    every = 1
    for entry in entries:
        point = hash((entry.format, entry.name, entry.version))
        if entry.part or point % every or blocked.get(point):
            continue
        blocked[point] = judge.verdict(entry)[0] == BLOCKED
        while len(blocked) > MOST_COORDINATES:
            every *= 2
            blocked = {point: flips for point, flips in blocked.items() if not point % every}
    return sum(blocked.values()) * every, len(blocked) * every


def impact(entries: Iterable[Entry], format: str, name: str, version: str = "*", digests: Container[str] = ()) -> list[Receipt]:
    """Who got it, the latest first; at the end those of whom it is not certain. Version: a pattern, a range of the format, or a digest of the bytes.
    `digests`: of what the version is known to be made of, so that whoever read a part of it is named too.

    Names and versions may be spelled as the format allows. Raises ValueError for a format or a range that makes no sense.
    """
    ecosystem = find(format)
    wanted = ANY if format == ANY else ecosystem.id if ecosystem else None
    if wanted is None:
        raise ValueError(f"{format!r} is no format; say one of {', '.join(ECOSYSTEMS)}, or * for all")
    if wanted == ANY and is_range(version):
        raise ValueError(f"{version!r} is a range, and each format has a range language of its own: name the format instead of *")
    queries = {} if wanted == ANY else {wanted: _Query(wanted, name, version)}
    found: dict[tuple[str, ...], Receipt] = {}
    for entry in entries:
        if wanted == ANY and entry.format not in queries:
            queries[entry.format] = _Query(entry.format, name, version)
        query = queries.get(entry.format)
        if query is not None and query.names.matches(entry.name):
            means = entry.digest in digests or query.means(entry)
            if means is not False:
                _receive(found, entry, bool(means))
    return sorted(found.values(), key=lambda receipt: (not receipt.certain, -receipt.last, *receipt.coordinate, receipt.principal, receipt.ci))


def _receive(found: dict[tuple[str, ...], Receipt], entry: Entry, certain: bool) -> None:
    key = (entry.format, entry.repository, entry.name, entry.version, entry.digest, entry.principal, entry.ci)
    receipt = found.get(key)
    if receipt is None:
        receipt = found[key] = Receipt(*key, first=entry.time, last=entry.time, certain=certain)
    receipt.count += 1
    receipt.first, receipt.last = min(receipt.first, entry.time), max(receipt.last, entry.time)


class _Query:
    """What is looked for, in the words of one format."""

    def __init__(self, format: str, name: str, version: str) -> None:
        ecosystem = ecosystem_of(format)
        self.names = Pattern.parse(ecosystem.name_pattern(name))
        self._all = version in (ANY, "**")
        self._range = ecosystem.parse_range(version) if is_range(version) else None
        self._digest = version.lower() if version.lower().startswith(("sha256:", "sha512:")) else ""
        self._spelled = Pattern.parse(version)
        self._canonical = Pattern.parse(ecosystem.version_pattern(version))

    def means(self, entry: Entry) -> bool | None:
        """Whether this version is meant; None: it cannot be told, because the version is not known or cannot be compared."""
        if self._all:
            return True
        if self._digest:
            return self._digest in (entry.digest, entry.version)
        if not entry.version:
            return None
        if self._range is not None and entry.part:
            return False  # a range is about versions of artifacts
        if self._range is not None:
            return self._range.contains(entry.version)
        return self._spelled.matches(entry.version) or self._canonical.matches(entry.version)


def is_range(version: str) -> bool:
    """Whether it is a range rather than a pattern. In the middle of a version "~" and "^" are common; in front of it they make a range."""
    return version.startswith(("~", "^")) or any(character in version for character in "<>=!,|[]() ")


class _Judge:
    """Two policies at one moment. Verdicts are remembered, in bounded memory: the past is full of repetitions."""

    def __init__(self, old_decide: Decide, new_decide: Decide, now: float) -> None:
        self._old = old_decide
        self._new = new_decide
        self._now = now
        self._known: dict[tuple[object, ...], Verdict] = {}
        self._older: dict[tuple[object, ...], Verdict] = {}

    def verdict(self, entry: Entry) -> Verdict:
        """The kind of change, and the decision that blocks; nothing when both say the same."""
        key = (entry.format, entry.repository, entry.name, entry.version, entry.digest, entry.hosted, entry.published, entry.seen, entry.part)
        verdict = self._known.get(key)
        if verdict is not None:
            return verdict
        if len(self._known) >= MOST_REMEMBERED:
            self._older, self._known = self._known, {}
        verdict = self._older.get(key)
        if verdict is None:
            package = _package(entry)
            old, new = (_alone(entry, decide(package, self._now)) for decide in (self._old, self._new))
            verdict = _compare(old, new)
        self._known[key] = verdict
        return verdict


def _package(entry: Entry) -> Package:
    """As the gate would ask for it today. A moment that was not noted is when it was first served: by then it was published, and it was here."""
    return Package(
        entry.format,
        entry.name,
        entry.version or None,
        entry.repository,
        digests=(entry.digest,) if entry.digest else (),
        published=entry.time if entry.published is None else entry.published,
        seen=entry.time if entry.seen is None and not entry.hosted else entry.seen,
        hosted=entry.hosted,
    )


def _alone(entry: Entry, decision: Decision) -> Decision:
    """What an artifact is made of is on no allowlist itself: it is allowed with the artifact, and blocked where its own digest is named."""
    return _ALLOWED if entry.part and decision.filter == "allowlist" else decision


def _compare(old: Decision, new: Decision) -> Verdict:
    if old.allowed and not new.allowed:
        return BLOCKED, new
    if new.allowed and not old.allowed:
        return ALLOWED, old
    if new.allowed and new.would_block and not old.would_block:
        return AUDITED, new
    return "", None


def _change(entry: Entry, kind: str, decision: Decision) -> Change:
    rule, place = (decision.rule.id, decision.rule.place) if decision.rule else ("", "")
    return Change(kind, entry.format, entry.name, entry.version, decision.filter, rule, place, decision.reason, decision.until)


def _count(change: Change, entry: Entry, room: int) -> int:
    """How many consumers came to it: 0 or 1."""
    change.count += 1
    change.last = max(change.last, entry.time)
    consumer = (entry.principal, entry.ci)
    if consumer in change.consumers:
        change.consumers[consumer] += 1
        return 0
    if room <= 0:
        change.more_consumers = True
        return 0
    change.consumers[consumer] = 1
    return 1


def impact_as_dict(receipts: list[Receipt]) -> dict[str, Any]:
    """Ready for JSON."""
    consumers = len({(receipt.principal, receipt.ci) for receipt in receipts})
    return {"consumers_count": consumers, "receipts": [receipt.as_dict() for receipt in receipts]}
