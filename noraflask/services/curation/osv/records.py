"""What each record says, kept in as few words as the rules need."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from noraflask.ecosystems import ECOSYSTEMS, ecosystem_of, find
from noraflask.services.curation.osv.ranges import Span, events_of, intervals
from noraflask.services.curation.osv.values import Block, Import, Malformed, OsvProblem, clean, fits, is_literal, is_plain, list_in

MAX_ID = 100
MAX_VERSIONS = 1000
"""In one table of the rule file, which has a bound of its own; more make more tables."""
MAX_REASON = 200
MAX_NAMED = 10
"""Broken records that are named; all are counted."""
MAX_LISTED = 10_000
"""Undecided ones that are listed; all are counted."""

_ECOSYSTEMS = {name: ecosystem.id for ecosystem in ECOSYSTEMS.values() for name in ecosystem.osv}
"""OSV's ecosystem, without the suffix after ":", in lower case, to our format."""
_WORDS = {"LOW": 3.9, "MODERATE": 6.9, "MEDIUM": 6.9, "HIGH": 8.9, "CRITICAL": 10.0}


def _id_of(word: str) -> str | None:
    ecosystem = find(word)
    return ecosystem.id if ecosystem else None


def formats_named(names: Collection[str] | None) -> frozenset[str] | None:
    if names is None:
        return None
    formats = {name: _ECOSYSTEMS.get(name.casefold()) or _id_of(name) for name in names}
    unknown = sorted(name for name, format in formats.items() if format is None)
    if unknown:
        raise OsvProblem(f"no such ecosystem: {', '.join(unknown)}; known are our formats and {', '.join(sorted(_ECOSYSTEMS))}")
    return frozenset(format for format in formats.values() if format is not None)


class Record(NamedTuple):
    """What is kept of one record."""

    modified: str
    state: str
    """"rules", or why there are none: "withdrawn", "harmless", "no_severity", "excepted"."""
    blocks: tuple[Block, ...] = ()
    undecided: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(slots=True)
class Reader:
    only_malicious: bool
    min_severity: float | None
    formats: frozenset[str] | None
    exceptions: frozenset[str]
    records: dict[str, Record] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    broken: int = 0
    broken_named: list[str] = field(default_factory=list)
    ranges: dict[tuple[str, str], bool] = field(default_factory=dict)

    def note_broken(self, place: str, reason: str) -> None:
        self.broken += 1
        self.broken_named = sorted([*self.broken_named, clean(f"{place}: {reason}", MAX_REASON)])[:MAX_NAMED]

    def take(self, place: str, body: bytes) -> None:
        try:
            record = json.loads(body)
            if not isinstance(record, dict):
                raise Malformed("not an object")
            self._keep(record)
        except Malformed as error:
            self.note_broken(place, str(error))
        except (ValueError, RecursionError) as error:
            self.note_broken(place, f"not JSON: {error}")

    def _keep(self, record: Mapping[str, Any]) -> None:
        name, modified = record.get("id"), record.get("modified") or ""
        if not isinstance(name, str) or not is_plain(name, MAX_ID) or not name.isascii():
            raise Malformed("no id, or none of ASCII letters and digits")
        if not isinstance(modified, str) or not (modified == "" or is_plain(modified, 64)):
            raise Malformed("modified: not a date")
        judged = self._judge(name, modified, record)
        self.records[name] = max(judged, self.records.get(name, judged))

    def _judge(self, name: str, modified: str, record: Mapping[str, Any]) -> Record:
        if record.get("withdrawn"):
            return Record(modified, "withdrawn")
        affected = list_in(record, "affected")
        if not all(isinstance(each, dict) for each in affected):
            raise Malformed("affected: not a list of objects")
        names = {name, *(alias for alias in list_in(record, "aliases") if isinstance(alias, str))}
        excepted = self.exceptions & names
        self.used |= excepted
        malicious = _is_malicious(names, record, affected)
        state = "excepted" if excepted else self._wanted(malicious, record, affected)
        return self._blocks(name, modified, malicious, record, affected) if state == "rules" else Record(modified, state)

    def _wanted(self, malicious: bool, record: Mapping[str, Any], affected: list[Any]) -> str:
        if malicious:
            return "rules"
        if self.only_malicious:
            return "harmless"
        if self.min_severity is None:
            return "rules"
        severity = _severity(record, affected)
        return "no_severity" if severity is None else "rules" if severity >= self.min_severity else "harmless"

    def _blocks(self, name: str, modified: str, malicious: bool, record: Mapping[str, Any], affected: list[Any]) -> Record:
        reason = _reason(name, record)
        blocks: dict[tuple[str, ...], Block] = {}
        undecided: list[str] = []
        unknown: list[str] = []
        state = "harmless" if self.formats is not None else "rules"
        for each in affected:
            ecosystem, package = _package(each)
            format = _ECOSYSTEMS.get(ecosystem.partition(":")[0].casefold())
            if format is None:
                unknown.append(clean(ecosystem.partition(":")[0], 64) or "without a name")
                continue
            if self._is_excepted(format, package):
                state = "excepted"
                continue
            if self.formats is not None and format not in self.formats:
                continue
            rules, doubts = self._affected(format, package, malicious, each)
            undecided += [f"{name} {format}:{clean(package, MAX_REASON)} {doubt}" for doubt in doubts]
            key = (format, ecosystem_of(format).same_name(package))
            blocks |= {(*key, span, *versions): Block(*key, versions, span, name, reason) for versions, span in rules}
        return Record(modified, "rules" if blocks or undecided or unknown else state, tuple(blocks.values()), tuple(undecided), tuple(unknown))

    def _affected(self, format: str, package: str, malicious: bool, each: Mapping[str, Any]) -> tuple[list[tuple[tuple[str, ...], str]], list[str]]:
        """What is said of one package: (versions, range) of each rule, and what is undecided."""
        if not is_literal(package):
            return [], ["this name cannot stand in a rule"]
        listed, ranges = list_in(each, "versions"), list_in(each, "ranges")
        if not listed and not ranges:
            return ([(("*",), "")], []) if malicious else ([], ["neither versions nor ranges"])
        ecosystem = ecosystem_of(format)
        spans, doubts = self._spans(format, ranges)
        if (None, None) in [span[:2] for span in spans]:
            return [(("*",), "")], []
        exact = [*listed, *(span.start for span in spans if span.is_one_version)]
        versions = {ecosystem.versions.from_osv(version) for version in exact if fits(version) and is_literal(version)}
        doubts += [f"version {clean(str(version), 80)}" for version in exact if not (fits(version) and is_literal(version))]
        ordered = sorted(versions)
        rules = [(tuple(ordered[at : at + MAX_VERSIONS]), "") for at in range(0, len(ordered), MAX_VERSIONS)]
        for text in dict.fromkeys(ecosystem.render_interval(*span) for span in spans if not span.is_one_version):
            if self._is_range(format, text):
                rules.append(((), text))
            else:
                doubts.append(f"range {text}")
        if not rules and not doubts:
            doubts.append("only ranges of commits")
        return rules, doubts

    def _is_excepted(self, format: str, package: str) -> bool:
        if not self.exceptions:
            return False
        names = {f"{format}:{package}", f"{format}:{ecosystem_of(format).same_name(package)}"} & self.exceptions
        self.used |= names
        return bool(names)

    def _spans(self, format: str, ranges: list[Any]) -> tuple[list[Span], list[str]]:
        spans: list[Span] = []
        doubts: list[str] = []
        for each in ranges:
            if not isinstance(each, dict):
                raise Malformed("ranges: not a list of objects")
            if each.get("type") == "GIT":
                continue
            events = events_of(each)
            bad = [version for _, version in events if version != "*" and not fits(version)]
            if bad or not any(kind == "introduced" for kind, _ in events):
                doubts.append(f"range with {clean(bad[0], 80)!r}" if bad else "range without a begin")
            else:
                spans += intervals(ecosystem_of(format), events)
        return spans, doubts

    def _is_range(self, format: str, text: str) -> bool:
        key = (format, text)
        if key not in self.ranges:
            try:
                self.ranges[key] = not ecosystem_of(format).parse_range(text).is_empty
            except ValueError:
                self.ranges[key] = False
        return self.ranges[key]

    def result(self, source: str) -> Import:
        if not self.records:
            why = f"all of its {self.broken} records are broken, first {self.broken_named[0]}" if self.broken else "there is no record in it"
            raise OsvProblem(f"{source}: {why}; give a folder, .zip or .json of OSV records")
        digest = hashlib.sha256()
        for name in sorted(self.records):
            digest.update(f"{name}\t{self.records[name].modified}\n".encode())
        states = Counter(record.state for record in self.records.values())
        undecided = sorted(text for record in self.records.values() for text in record.undecided)
        return Import(
            source=source,
            digest=digest.hexdigest(),
            newest=max(record.modified for record in self.records.values()),
            blocks=_merged(self.records),
            records=len(self.records),
            withdrawn=states["withdrawn"],
            harmless=states["harmless"] + states["no_severity"],
            no_severity=states["no_severity"],
            excepted=states["excepted"],
            unused_exceptions=tuple(sorted(self.exceptions - self.used)),
            unknown_ecosystems=tuple(sorted(Counter(text for record in self.records.values() for text in record.unknown).items())),
            undecided=len(undecided),
            undecided_listed=tuple(undecided[:MAX_LISTED]),
            broken=self.broken,
            broken_named=tuple(self.broken_named),
        )


def _merged(records: Mapping[str, Record]) -> tuple[Block, ...]:
    """Sorted, each coordinate once (of several records the one with the smallest id), and nothing beside a rule that takes the whole package."""
    blocks = sorted(block for record in records.values() for block in record.blocks)
    whole = {block[:2] for block in blocks if block.versions == ("*",)}
    kept: list[Block] = []
    seen: set[tuple[str, ...]] = set()
    package: tuple[str, str] = ("", "")
    for block in blocks:
        if block[:2] != package:
            package = block[:2]
            seen.clear()
        if package in whole and block.versions != ("*",):
            continue
        versions = tuple(version for version in block.versions if ("", version) not in seen)
        if versions or (block.range and (block.range,) not in seen):
            seen.update(("", version) for version in versions)
            seen.add((block.range,))
            kept.append(block._replace(versions=versions))
    return tuple(kept)


def _is_malicious(names: set[str], record: Mapping[str, Any], affected: list[Any]) -> bool:
    if any(name.startswith("MAL-") for name in names):
        return True
    own = _table(record, "database_specific")
    return "malicious-packages-origins" in own or any(_has_cwe(table) for table in (own, *(_table(each, "database_specific") for each in affected)))


def _has_cwe(table: Mapping[str, Any]) -> bool:
    cwes = table.get("cwes")
    ids = table.get("cwe_ids")
    names = [cwe.get("cweId") for cwe in cwes if isinstance(cwe, dict)] if isinstance(cwes, list) else []
    return "CWE-506" in names or (isinstance(ids, list) and "CWE-506" in ids)


def _severity(record: Mapping[str, Any], affected: list[Any]) -> float | None:
    """The highest that is given as a number or a word."""
    said: list[Any] = []
    for each in (record, *affected):
        listed = each.get("severity")
        said += [score.get("score") for score in listed if isinstance(score, dict)] if isinstance(listed, list) else []
        for table in (_table(each, "database_specific"), _table(each, "ecosystem_specific")):
            said += [table.get("severity"), table.get("cvss"), _table(table, "cvss").get("score")]
    return max((score for score in map(_score, said) if score is not None), default=None)


def _score(said: Any) -> float | None:
    if isinstance(said, bool) or not isinstance(said, int | float | str):
        return None
    if isinstance(said, str) and said.strip().upper() in _WORDS:
        return _WORDS[said.strip().upper()]
    try:
        score = float(said)
    except (ValueError, OverflowError):
        return None
    return score if math.isfinite(score) and 0 <= score <= 10 else None


def _package(each: Mapping[str, Any]) -> tuple[str, str]:
    package = each.get("package")
    if package is None:
        return "", ""
    if not isinstance(package, dict) or not isinstance(package.get("ecosystem"), str) or not isinstance(package.get("name"), str):
        raise Malformed("affected.package: no ecosystem and name")
    return package["ecosystem"], package["name"]


def _table(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = table.get(key)
    return value if isinstance(value, dict) else {}


def _reason(name: str, record: Mapping[str, Any]) -> str:
    summary = record.get("summary")
    text = summary if isinstance(summary, str) else ""
    return clean(f"{name}: {text}", MAX_REASON).rstrip(":")
