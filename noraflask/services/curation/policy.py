"""The compiled policy: compile() in the master, Policy.from_buffer() in the workers, decide() and its relatives on every request.

The buffer is read-only memory that all workers share. A worker unpacks its head and, of the rules, only those that somebody asks for:

    magic, sha256 of what follows | length of the head | head: JSON | sections, each at a multiple of 8
    records   every rule as JSON, in file order, then the namespaces in the same shape
    offsets   where the records begin
    exact     names without a star: hash of (format, name) -> numbers of records
    affixes   names with a star: checksum of (format, the literal text at the beginning, else at the end) -> numbers of records
    expiries  sorted
    warnings  JSON

What a look-up finds is compared with the record itself, so that equal hashes cost time and nothing else. Only names such as `*` and `*x*` are in
neither index: their numbers stand in the head, and each of them is looked at for every package of its format.
"""

from __future__ import annotations

import hmac
import json
import mmap
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from hashlib import blake2b, sha256
from itertools import accumulate
from typing import Any, NamedTuple
from zlib import crc32

from noraflask.ecosystems import ECOSYSTEMS, FLAT, Range, ecosystem_of
from noraflask.services.curation.model import Bypass, Decision, Kind, Package, Rule, RuleSet
from noraflask.services.curation.patterns import Pattern

MAGIC = b"noracur1"
ANY = "*"
HOUR, DAY = 3600.0, 86400.0
REMEMBERED = 1024
"""Rules, patterns and ranges that a policy keeps unpacked."""

AT_ONCE = 10_000
"""Rules that are encoded by one call."""

OWN = "namespace"
"""The kind of the records that hold namespaces."""


@dataclass(frozen=True)
class Settings:
    """What the configuration says, as far as decisions need it. Ages and times to live in seconds."""

    mode: str = "off"
    require_integrity: bool = False
    min_release_age: float | None = None
    quarantine: str = "off"
    quarantine_ttl: float = 14 * DAY
    hosted: bool = False
    unknown_age: str = "block"
    formats: tuple[tuple[str, float | None, str | None, float | None], ...] = ()
    """(format, min_release_age, quarantine, quarantine_ttl); None: as for all formats."""
    docs_url: str = ""
    audit_allows: bool = False
    """Whether the audit log is told of plain allows as well."""

    @classmethod
    def of(cls, config: Any) -> Settings:
        """From the section [curation], or whatever has these attributes."""
        return cls(
            mode=config.mode or "off",
            require_integrity=bool(config.require_integrity),
            min_release_age=config.min_release_age,
            quarantine=config.quarantine or "off",
            quarantine_ttl=14 * DAY if config.quarantine_ttl is None else config.quarantine_ttl,
            hosted=bool(config.hosted),
            unknown_age=config.unknown_age or "block",
            formats=tuple((format, own.min_release_age, own.quarantine, own.quarantine_ttl) for format, own in config.formats),
            docs_url=config.docs_url or "",
            audit_allows=bool(getattr(config, "audit_allows", False)),
        )

    def own(self, format: str) -> tuple[str, float | None, str | None, float | None]:
        return next((own for own in self.formats if own[0] == format), (format, None, None, None))

    def min_age_of(self, format: str) -> float | None:
        age = self.own(format)[1]
        return self.min_release_age if age is None else age

    def quarantine_of(self, format: str) -> tuple[str, float]:
        _, _, mode, ttl = self.own(format)
        return mode or self.quarantine, self.quarantine_ttl if ttl is None else ttl


# ---------------------------------------------------------------------------------------------------------------- compiling


def compile(settings: Settings, ruleset: RuleSet) -> bytes:
    """The bytes of the policy; the same input gives the same bytes in every process."""
    names = _Names()
    for number, rule in enumerate(ruleset.rules):
        names.add(number, rule.format, rule.name)
    for number, own in enumerate(ruleset.namespaces, len(ruleset.rules)):
        names.add(number, own.format, own.pattern)
    records = _records(ruleset)
    sections = {
        "records": b"".join(records),
        "offsets": array("Q", accumulate(map(len, records), initial=0)).tobytes(),
        **_index("exact", *names.exact, 64),
        **_index("affix", *names.affixes, 32),
        "expiries": array("d", sorted({rule.expires for rule in ruleset.rules if rule.expires is not None} | _bypass_ends(ruleset))).tobytes(),
        "warnings": json.dumps(ruleset.warnings).encode(),
    }
    head = {
        "settings": asdict(settings),
        "bypasses": [[own.name, own.sha256.lower(), own.expires, own.place] for own in ruleset.bypasses],
        "has_allowlist": ruleset.has_allowlist,
        "counts": _counts(ruleset),
        "slots": names.slots(),
        "sections": _places(sections),
    }
    packed = json.dumps(head).encode()
    body = len(packed).to_bytes(8, "little") + packed + bytes(-len(packed) % 8) + b"".join(part + bytes(-len(part) % 8) for part in sections.values())
    return MAGIC + sha256(body).digest() + body


def _records(ruleset: RuleSet) -> list[bytes]:
    found: list[bytes] = []
    for start in range(0, len(ruleset.rules), AT_ONCE):
        found += _encoded([_row(rule) for rule in ruleset.rules[start : start + AT_ONCE]])
    return found + _encoded([[own.pattern, OWN, own.format, own.pattern, ANY, "", ANY, "", own.place] for own in ruleset.namespaces])


def _encoded(rows: list[list[Any]]) -> list[bytes]:
    """By one call of the encoder, as calls are the greater part of the time. No string of JSON has a line end in it, so none looks like a border."""
    text = json.dumps(rows, separators=(",\n", ":"))
    return [b"[%b]" % row for row in text[2:-2].encode().split(b"],\n[")] if rows else []


def _row(rule: Rule) -> list[Any]:
    row: list[Any] = [rule.id, rule.kind._value_, rule.format, rule.name, rule.version, rule.range, rule.repository, rule.reason, rule.place]
    rest = (rule.audit_only, rule.expires, rule.owner, rule.ticket, " ".join(rule.integrity), rule.min_age)
    return row if rest == (False, None, "", "", "", None) else [*row, *rest]


def _bypass_ends(ruleset: RuleSet) -> set[float]:
    return {own.expires for own in ruleset.bypasses if own.expires is not None}


def _counts(ruleset: RuleSet) -> dict[str, int]:
    counts = {kind.value: 0 for kind in Kind}
    for rule in ruleset.rules:
        counts[rule.kind._value_] += 1
    return {**counts, "namespace": len(ruleset.namespaces), "bypass": len(ruleset.bypasses)}


class _Names:
    """Sorts the names of rules by how they are found again."""

    def __init__(self) -> None:
        self.exact: tuple[list[int], list[int]] = [], []
        """Keys, and the number of the rule of each."""
        self.affixes: tuple[list[int], list[int]] = [], []
        self._slots: dict[str, tuple[set[int], set[int], list[int]]] = {}

    def add(self, number: int, format: str, name: str) -> None:
        for slot, text in ((format, name),) if format != ANY else _spread(name):
            prefixes, suffixes, bare = self._slots.setdefault(slot, (set(), set(), []))
            if ANY not in text and not text.startswith(FLAT):
                _put(self.exact, _hash(slot, text.encode("utf-8", "surrogatepass")), number)
            elif prefix := Pattern.parse(text).prefix.encode("utf-8", "surrogatepass"):
                prefixes.add(len(prefix))
                _put(self.affixes, crc32(prefix, _seed(slot, b"<")), number)
            elif suffix := text.rpartition(ANY)[2].encode("utf-8", "surrogatepass")[::-1]:
                suffixes.add(len(suffix))
                _put(self.affixes, crc32(suffix, _seed(slot, b">")), number)
            else:
                bare.append(number)

    def slots(self) -> dict[str, list[list[int]]]:
        return {slot: [sorted(prefixes), sorted(suffixes), bare] for slot, (prefixes, suffixes, bare) in sorted(self._slots.items())}


def _put(index: tuple[list[int], list[int]], key: int, number: int) -> None:
    index[0].append(key)
    index[1].append(number)


def _spread(name: str) -> Sequence[tuple[str, str]]:
    """A name for all formats, as written: in the form of each of them, or in one place when they agree."""
    if name == ANY:
        return ((ANY, name),)
    forms = [(format, ecosystem.name_pattern(name)) for format, ecosystem in ECOSYSTEMS.items()]
    return ((ANY, name),) if all(form == name for _, form in forms) else forms


def _hash(slot: str, name: bytes) -> int:
    return int.from_bytes(blake2b(b"%b\0%b" % (slot.encode(), name), digest_size=8).digest(), "little")


def _seed(slot: str, side: bytes) -> int:
    """A checksum can be carried on along a name; that somebody makes two equal ones costs a comparison."""
    return crc32(slot.encode() + side)


def _index(name: str, keys: list[int], numbers: list[int], width: int) -> dict[str, bytes]:
    """Sorted keys, equal ones in file order, and where those begin that share their first bits; there are at least as many beginnings as keys."""
    order = sorted(range(len(keys)), key=keys.__getitem__)
    shift = width - max(1, len(keys).bit_length())
    sizes = [0] * (1 << (width - shift))
    for key in keys:
        sizes[key >> shift] += 1
    code = "Q" if width == 64 else "I"
    return {
        f"{name}-keys": array(code, map(keys.__getitem__, order)).tobytes(),
        f"{name}-starts": array("I", accumulate(sizes, initial=0)).tobytes(),
        f"{name}-numbers": array("I", map(numbers.__getitem__, order)).tobytes(),
    }


def _places(sections: dict[str, bytes]) -> dict[str, tuple[int, int]]:
    ends = accumulate((len(part) + -len(part) % 8 for part in sections.values()), initial=0)
    return {name: (start, len(part)) for (name, part), start in zip(sections.items(), ends, strict=False)}


# ---------------------------------------------------------------------------------------------------------------- looking up


@dataclass(frozen=True, slots=True)
class _Slot:
    """What there is for one format, or for all ("*")."""

    name: str
    prefixes: list[int]
    suffixes: list[int]
    bare: list[int]
    before: int
    after: int


def _slot(name: str, prefixes: list[int], suffixes: list[int], bare: list[int]) -> _Slot:
    return _Slot(name, prefixes, suffixes, bare, _seed(name, b"<"), _seed(name, b">"))


class _Index:
    __slots__ = ("_keys", "_numbers", "_shift", "_starts")

    def __init__(self, keys: memoryview, starts: memoryview, numbers: memoryview, width: int) -> None:
        self._keys, self._starts, self._numbers = keys, starts, numbers
        self._shift = width - (len(starts) - 1).bit_length() + 1

    def find(self, key: int, found: list[int]) -> None:
        bucket = key >> self._shift
        start, end = self._starts[bucket], self._starts[bucket + 1]
        while start < end:
            if self._keys[start] == key:
                found.append(self._numbers[start])
            start += 1


class Policy:
    """Frozen; replaced as a whole."""

    def __init__(self, buffer: memoryview) -> None:
        if bytes(buffer[:8]) != MAGIC:
            raise ValueError("these bytes are no compiled policy of this version: compile the rule files again")
        self.fingerprint = bytes(buffer[8:16]).hex()
        length = int.from_bytes(buffer[40:48], "little")
        head = json.loads(bytes(buffer[48 : 48 + length]))
        base = 48 + length + -length % 8
        parts = {name: buffer[base + start : base + start + size] for name, (start, size) in head["sections"].items()}
        self.settings = _settings(head["settings"])
        self.has_allowlist: bool = head["has_allowlist"]
        self.counts: dict[str, int] = head["counts"]
        self.bypasses = tuple(Bypass(*row) for row in head["bypasses"])
        self._slots = {name: _slot(name, *lists) for name, lists in head["slots"].items()}
        self._exact = _Index(parts["exact-keys"].cast("Q"), parts["exact-starts"].cast("I"), parts["exact-numbers"].cast("I"), 64)
        self._affixes = _Index(parts["affix-keys"].cast("I"), parts["affix-starts"].cast("I"), parts["affix-numbers"].cast("I"), 32)
        self.expiries = parts["expiries"].cast("d")
        self._warnings = parts["warnings"]
        self.rule = lru_cache(REMEMBERED)(partial(_record, parts["records"], parts["offsets"].cast("Q")))
        """The rule of a number from 0; the namespaces follow the rules."""
        self.pattern = lru_cache(REMEMBERED)(Pattern.parse)
        self.name_spelling = lru_cache(REMEMBERED)(lambda format, text: ecosystem_of(format).name_pattern(text))
        self.version_spelling = lru_cache(REMEMBERED)(lambda format, text: ecosystem_of(format).version_pattern(text))
        self.range = lru_cache(REMEMBERED)(_range)
        self._length = len(parts["offsets"]) // 8 - 1 - self.counts["namespace"]
        self._own_age = {format: self.settings.min_age_of(format) for format in ECOSYSTEMS}
        self._own_quarantine = {format: self.settings.quarantine_of(format) for format in ECOSYSTEMS}

    @classmethod
    def from_buffer(cls, buffer: bytes | memoryview | mmap.mmap) -> Policy:
        return cls(memoryview(buffer).toreadonly())

    def __len__(self) -> int:
        return self._length

    def rules(self) -> Iterator[Rule]:
        """All, in file order."""
        return (self.rule.__wrapped__(number) for number in range(self._length))

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(json.loads(bytes(self._warnings)))

    def min_age_of(self, format: str) -> float | None:
        return self._own_age.get(format, self.settings.min_release_age)

    def quarantine_of(self, format: str) -> tuple[str, float]:
        return self._own_quarantine.get(format) or self.settings.quarantine_of(format)

    def named(self, format: str, name: str, repository: str) -> list[Rule]:
        """The rules that concern this name in this repository, in file order, expired ones too; the namespaces (kind OWN) come last."""
        found: list[int] = []
        raw = name.encode("utf-8", "surrogatepass")
        for slot in (self._slots.get(format), self._slots.get(ANY)):
            if slot is not None:
                self._collect(slot, raw, found)
        if not found:
            return []
        found.sort()
        return [rule for rule in map(self.rule, found) if self._is_about(rule, format, name, repository)]

    def _collect(self, slot: _Slot, raw: bytes, found: list[int]) -> None:
        self._exact.find(_hash(slot.name, raw), found)
        if slot.prefixes:
            self._along(slot.prefixes, slot.before, raw, found)
        if slot.suffixes:
            self._along(slot.suffixes, slot.after, raw[::-1], found)
        found.extend(slot.bare)

    def _along(self, lengths: Iterable[int], checksum: int, raw: bytes, found: list[int]) -> None:
        done, size, find = 0, len(raw), self._affixes.find
        for length in lengths:
            if length > size:
                return
            checksum = crc32(raw[done:length], checksum)
            find(checksum, found)
            done = length

    def _is_about(self, rule: Rule, format: str, name: str, repository: str) -> bool:
        if rule.format != format and rule.format != ANY:
            return False
        own = rule.name if rule.format != ANY else self.name_spelling(format, rule.name)
        if own != ANY and own != name and not self.pattern(own).matches(name):
            return False
        return rule.repository == ANY or self.pattern(rule.repository).matches(repository)


def _settings(fields: dict[str, Any]) -> Settings:
    return Settings(**{**fields, "formats": tuple(tuple(own) for own in fields["formats"])})


_KINDS: dict[str, Any] = {kind.value: kind for kind in Kind} | {OWN: OWN}


def _record(records: memoryview, offsets: memoryview, number: int) -> Rule:
    row = json.loads(bytes(records[offsets[number] : offsets[number + 1]]))
    row[1] = _KINDS[row[1]]
    if len(row) > 9:
        row[13] = tuple(row[13].split())
    return Rule(*row)


def _range(format: str, text: str) -> Range | None:
    """None when this ecosystem cannot read it: a rule for all formats reaches some that have no ranges."""
    try:
        return ecosystem_of(format).parse_range(text)
    except ValueError:
        return None


# ---------------------------------------------------------------------------------------------------------------- the filters


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


def covers(policy: Policy, rule: Rule, package: Package) -> bool | None:
    """Whether the rule means this version; None: it cannot be told."""
    if not rule.range and rule.version == ANY:
        return True
    if package.is_index:
        return False
    if package.version is None:
        return None
    if rule.range:
        if package.format == "docker" and ":" in package.version:
            return False  # a digest is in no range; the tags that lead to it are asked for themselves
        known = policy.range(package.format, rule.range)
        return known.contains(package.version) if known else None
    if rule.version == package.version or policy.pattern(rule.version).matches(package.version):
        return True
    return rule.format == ANY and policy.pattern(policy.version_spelling(package.format, rule.version)).matches(package.version)


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
    return _refused(ask, "allowlist:integrity", hashed[0], reason, _earliest(rule.expires for rule in hashed))


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
    return _unless_excepted(ask, _refused(ask, "min-release-age", rule, reason, _earliest((published + seconds, until))))


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
    return worst or replace(steps[0], until=_earliest(step.until for step in steps))


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

_NAMES = ("blocklist", "allowlist", "min-release-age", "pin", "quarantine")
_SKIPPED = {name: Step(name, "skip") for name in _NAMES}


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


def _earliest(times: Iterable[float | None]) -> float | None:
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


# ---------------------------------------------------------------------------------------------------------------- the answers

_PLAIN = Decision(True)


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
        return [first, *(Step(name, "skip", reason="the namespace has decided") for name in _NAMES)]
    ask, is_off = _ask(policy, rules, package, now), policy.settings.mode == "off"
    off = (Step(name, "skip", reason="curation.mode is off") for name in _NAMES if name != "quarantine")
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
        until = _earliest((until, answer.until))
    return shown, until


def next_change(policy: Policy, now: float) -> float | None:
    """When the next rule or bypass token expires."""
    position = bisect_right(policy.expiries, now)
    return policy.expiries[position] if position < len(policy.expiries) else None
