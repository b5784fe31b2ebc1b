"""Malicious-package feeds in the OSV format (ossf.github.io/osv-schema, 1.x), offline, to a block list: import_osv(), then write_blocklist().

What a record says, and the rule that it becomes:

  introduced "0", never fixed   the whole package: one rule with version "*", whatever `versions` lists beside it (the schema's evaluation: a version
                                is affected when it is listed OR in a range)
  versions [...]                these versions, exactly
  a range with bounds           one rule for each interval, in the format's own range language; type GIT is not read
  neither, and malicious        the whole package; not malicious: undecided

Undecided are also names, versions and bounds that no rule can say (stars, spaces, brackets) and ranges that Ecosystem.parse_range() refuses: one
of them in the file would make the server refuse the file. They are counted and listed, never dropped in silence.

Malicious is a record with an id or alias `MAL-…`, with `database_specific.malicious-packages-origins`, or with CWE-506 (embedded malicious code) in
its or its packages' `database_specific`, where GitHub's advisories and OpenSSF's records have it.

A severity is a number (`severity[].score`, `database_specific.severity`, `.cvss` or `.cvss.score`) or a word, LOW, MODERATE, MEDIUM, HIGH, CRITICAL,
which counts as the top of its CVSS band, so that doubt blocks. CVSS vectors are not computed: a record with nothing else is counted as `no_severity`
and left out when `min_severity` is asked for. Malicious records need no severity.

Distributions' records name source packages; a rule for deb or rpm matches packages of that name only.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cmp_to_key
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from noraflask.ecosystems import ECOSYSTEMS, FLAT, ecosystem_of, find
from noraflask.services.curation import patterns
from noraflask.services.replacing import replace_file

MAX_RECORD_BYTES = 8 << 20
MAX_TOTAL_BYTES = 32 << 30
MAX_RECORDS = 2_000_000
MAX_ID = 100
MAX_NAME = 512
MAX_VERSION = 256
MAX_VERSIONS = 1000
"""In one table of the rule file, which has a bound of its own; more make more tables."""
MAX_REASON = 200
MAX_NAMED = 10
"""Broken records that are named; all are counted."""
MAX_LISTED = 10_000
"""Undecided ones that are listed; all are counted."""
MAX_COMMENTED = 100
"""Of these, in the comment of a TOML file."""

_ECOSYSTEMS = {name: ecosystem.id for ecosystem in ECOSYSTEMS.values() for name in ecosystem.osv}
"""OSV's ecosystem, without the suffix after ":", in lower case, to our format."""

_WORDS = {"LOW": 3.9, "MODERATE": 6.9, "MEDIUM": 6.9, "HIGH": 8.9, "CRITICAL": 10.0}
_BRACKETS = frozenset({"maven", "nuget"})
_TAKEN = frozenset("*,|[]()<>=!\"'`\\")
"""Not in a version or a bound: they mean something in a pattern or in a range language."""
_OSV_PAGES = ("MAL-", "GHSA-", "PYSEC-", "RUSTSEC-", "GO-", "CVE-", "OSV-", "DSA-", "DLA-", "USN-", "RHSA-", "RLSA-", "ALSA-")
_MADE_BY = "nora curation import-osv"
_HEADER = f"# Block list made by `{_MADE_BY}`: do not edit, import again."
_quote = json.JSONEncoder(ensure_ascii=False).encode
"""Also a TOML basic string, as long as every character is printable: JSON leaves U+007F as it is, TOML does not."""


class OsvProblem(Exception):
    """The import cannot be trusted, and nothing was written. The message says what to do next."""


class Block(NamedTuple):
    """One rule of the list. Of `versions` and `range` one is used; versions ("*",) is the whole package."""

    format: str
    name: str
    versions: tuple[str, ...]
    range: str
    record: str
    reason: str

    @property
    def ticket(self) -> str:
        return f"https://osv.dev/vulnerability/{quote(self.record)}" if self.record.startswith(_OSV_PAGES) else self.record


@dataclass(frozen=True, slots=True)
class Import:
    """What a feed says. Equal sources give equal imports, whatever the order of their files."""

    source: str
    """The name of the folder or file, without its path."""
    digest: str
    """SHA-256 of the sorted lines "<id>\\t<modified>\\n" of all records."""
    newest: str
    """`modified` of the newest record."""
    blocks: tuple[Block, ...]
    records: int
    """Distinct ids; of those that occur more than once the newest counts."""
    withdrawn: int
    harmless: int
    """Not of the kind, the severity or the ecosystems that were asked for."""
    no_severity: int
    """Of `harmless`: those whose severity is not known."""
    excepted: int
    unused_exceptions: tuple[str, ...]
    unknown_ecosystems: tuple[tuple[str, int], ...]
    """Affected packages of ecosystems that are no format of ours."""
    undecided: int
    undecided_listed: tuple[str, ...]
    broken: int
    broken_named: tuple[str, ...]

    def summary(self) -> list[str]:
        """Lines for the terminal and for the header of the file; the same import gives the same lines."""
        left_out = f"{self.withdrawn} withdrawn, {self.harmless} not asked for ({self.no_severity} of unknown severity), {self.excepted} excepted"
        lines = [
            f"source {self.source}, sha256 of its (id, modified) list {self.digest}",
            f"{self.records} records, newest {self.newest or 'undated'}: {len(self.blocks)} rules; {left_out}",
            f"{self.undecided} undecided, {self.broken} broken",
        ]
        if self.unknown_ecosystems:
            lines.append("not a format here: " + ", ".join(f"{name} {count}" for name, count in self.unknown_ecosystems))
        lines += [f"broken: {name}" for name in self.broken_named]
        return lines + [f"exception {name} matched nothing: remove it" for name in self.unused_exceptions]


def import_osv(
    source: Path,
    *,
    only_malicious: bool = True,
    min_severity: float | None = None,
    ecosystems: Collection[str] | None = None,
    exceptions: Collection[str] = (),
) -> Import:
    """Read a folder of records, one record (.json) or an archive of them (.zip; nothing is extracted, its paths are not used).

    `min_severity` counts for records that are not malicious, so only with only_malicious=False. `ecosystems` are OSV's names or our formats.
    `exceptions` are ids or aliases of records ("GHSA-…"), or packages as "format:name".
    Raises OsvProblem when the source cannot be read, holds no record or none that is whole.
    """
    reading = _Reading(only_malicious, min_severity, _formats(ecosystems), frozenset(exceptions))
    try:
        for place, body in _bodies(source, reading):
            reading.take(place, body)
    except (OSError, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OsvProblem(f"{source} cannot be read ({reason}): nothing was imported; get the feed again") from error
    return reading.result(_clean(source.name, MAX_NAME) or "-")


def write_blocklist(found: Import, path: Path, *, force: bool = False) -> int:
    """Write the rules, all or nothing, and return how many: NORA's JSON when the name ends in .json (ranges stay undecided there), else our TOML.

    Raises OsvProblem, and leaves the old file, when it has more than twice as many rules (a feed cut short), or was not made by an import; with
    `force` neither matters.
    """
    path = Path(os.path.realpath(path))
    as_json = path.suffix.lower() == ".json"
    count = sum(len(block.versions) for block in found.blocks) if as_json else len(found.blocks)
    try:
        if not force:
            _guard(path, _old_count(path, as_json), count)
        parts = _render_json(found) if as_json else _render_toml(found)
        replace_file(path, (part.encode() for part in parts), new_mode=0o644)  # the server, which may be another user, reads it
    except OSError as error:
        raise OsvProblem(f"{path} cannot be written ({error.strerror}): the old file, if any, is as it was") from error
    return count


# Where records come from


def _bodies(source: Path, reading: _Reading) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each record that fits the bounds; the others are noted as broken."""
    total = 0
    for count, (place, size, body) in enumerate(_zipped(source, reading) if zipfile.is_zipfile(source) else _files(source, reading), 1):
        total += len(body)
        if count > MAX_RECORDS or total > MAX_TOTAL_BYTES:
            raise OsvProblem(f"{source} is larger than {MAX_RECORDS} records or {MAX_TOTAL_BYTES >> 30} GB: import it ecosystem by ecosystem")
        if size > MAX_RECORD_BYTES or len(body) > MAX_RECORD_BYTES:
            reading.note_broken(place, f"larger than {MAX_RECORD_BYTES >> 20} MB")
        else:
            yield place, body


def _files(source: Path, reading: _Reading) -> Iterator[tuple[str, int, bytes]]:
    if not source.is_dir():
        if source.suffix.lower() == ".zip":
            raise zipfile.BadZipFile("not a zip archive")
        with source.open("rb") as file:
            yield source.name, 0, file.read(MAX_RECORD_BYTES + 1)
        return
    for folder, folders, names in os.walk(source, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.endswith(".json") and not name.startswith("."):
                yield from _file(Path(folder, name), str(Path(folder, name).relative_to(source)), reading)


def _file(path: Path, place: str, reading: _Reading) -> Iterator[tuple[str, int, bytes]]:
    """A link or a pipe in a feed is no record: it could lead anywhere, or never end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(0, "not a regular file")
            body = file.read(MAX_RECORD_BYTES + 1)
    except OSError as error:
        reading.note_broken(place, error.strerror or "cannot be read")
        return
    yield place, 0, body


def _raise(error: OSError) -> None:
    raise error


def _zipped(source: Path, reading: _Reading) -> Iterator[tuple[str, int, bytes]]:
    """What a member claims about its size is not believed: no more than the bound is inflated."""
    with zipfile.ZipFile(source) as archive:
        members = archive.infolist()
        if len(members) > MAX_RECORDS:
            raise OsvProblem(f"{source} has {len(members)} members, more than {MAX_RECORDS}: import it ecosystem by ecosystem")
        for member in members:
            if not member.filename.lower().endswith(".json"):
                continue
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                reading.note_broken(member.filename, "compressed in a way other than deflate")
                continue
            try:
                with archive.open(member) as file:
                    body = file.read(MAX_RECORD_BYTES + 1)
            except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
                reading.note_broken(member.filename, str(error) or "cut short")
                continue
            yield member.filename, member.file_size, body


def _id_of(word: str) -> str | None:
    ecosystem = find(word)
    return ecosystem.id if ecosystem else None


def _formats(names: Collection[str] | None) -> frozenset[str] | None:
    if names is None:
        return None
    found = {name: _ECOSYSTEMS.get(name.casefold()) or _id_of(name) for name in names}
    unknown = sorted(name for name, format in found.items() if format is None)
    if unknown:
        raise OsvProblem(f"no such ecosystem: {', '.join(unknown)}; known are our formats and {', '.join(sorted(_ECOSYSTEMS))}")
    return frozenset(format for format in found.values() if format is not None)


# What records say


class _Malformed(Exception):
    """This record cannot be read; the message says which part."""


class _Found(NamedTuple):
    """What is kept of one record."""

    modified: str
    state: str
    """"rules", or why there are none: "withdrawn", "harmless", "no_severity", "excepted"."""
    blocks: tuple[Block, ...] = ()
    undecided: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(slots=True)
class _Reading:
    only_malicious: bool
    min_severity: float | None
    formats: frozenset[str] | None
    exceptions: frozenset[str]
    found: dict[str, _Found] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    broken: int = 0
    broken_named: list[str] = field(default_factory=list)
    ranges: dict[tuple[str, str], bool] = field(default_factory=dict)

    def note_broken(self, place: str, reason: str) -> None:
        self.broken += 1
        self.broken_named = sorted([*self.broken_named, _clean(f"{place}: {reason}", MAX_REASON)])[:MAX_NAMED]

    def take(self, place: str, body: bytes) -> None:
        try:
            record = json.loads(body)
            if not isinstance(record, dict):
                raise _Malformed("not an object")
            self._keep(record)
        except _Malformed as error:
            self.note_broken(place, str(error))
        except (ValueError, RecursionError) as error:
            self.note_broken(place, f"not JSON: {error}")

    def _keep(self, record: Mapping[str, Any]) -> None:
        name, modified = record.get("id"), record.get("modified") or ""
        if not isinstance(name, str) or not _plain(name, MAX_ID) or not name.isascii():
            raise _Malformed("no id, or none of ASCII letters and digits")
        if not isinstance(modified, str) or not (modified == "" or _plain(modified, 64)):
            raise _Malformed("modified: not a date")
        judged = self._judge(name, modified, record)
        self.found[name] = max(judged, self.found.get(name, judged))

    def _judge(self, name: str, modified: str, record: Mapping[str, Any]) -> _Found:
        if record.get("withdrawn"):
            return _Found(modified, "withdrawn")
        affected = _list(record, "affected")
        if not all(isinstance(each, dict) for each in affected):
            raise _Malformed("affected: not a list of objects")
        names = {name, *(alias for alias in _list(record, "aliases") if isinstance(alias, str))}
        excepted = self.exceptions & names
        self.used |= excepted
        malicious = _is_malicious(names, record, affected)
        state = "excepted" if excepted else self._wanted(malicious, record, affected)
        return self._blocks(name, modified, malicious, record, affected) if state == "rules" else _Found(modified, state)

    def _wanted(self, malicious: bool, record: Mapping[str, Any], affected: list[Any]) -> str:
        if malicious:
            return "rules"
        if self.only_malicious:
            return "harmless"
        if self.min_severity is None:
            return "rules"
        severity = _severity(record, affected)
        return "no_severity" if severity is None else "rules" if severity >= self.min_severity else "harmless"

    def _blocks(self, name: str, modified: str, malicious: bool, record: Mapping[str, Any], affected: list[Any]) -> _Found:
        reason = _reason(name, record)
        blocks: dict[tuple[str, ...], Block] = {}
        undecided: list[str] = []
        unknown: list[str] = []
        state = "harmless" if self.formats is not None else "rules"
        for each in affected:
            ecosystem, package = _package(each)
            format = _ECOSYSTEMS.get(ecosystem.partition(":")[0].casefold())
            if format is None:
                unknown.append(_clean(ecosystem.partition(":")[0], 64) or "without a name")
            elif self._is_excepted(format, package):
                state = "excepted"
            elif self.formats is None or format in self.formats:
                told, doubts = self._affected(format, package, malicious, each)
                undecided += [f"{name} {format}:{_clean(package, MAX_REASON)} {doubt}" for doubt in doubts]
                for versions, span in told:
                    key = (format, ecosystem_of(format).same_name(package))
                    blocks[(*key, span, *versions)] = Block(*key, versions, span, name, reason)
        return _Found(modified, "rules" if blocks or undecided or unknown else state, tuple(blocks.values()), tuple(undecided), tuple(unknown))

    def _affected(self, format: str, package: str, malicious: bool, each: Mapping[str, Any]) -> tuple[list[tuple[tuple[str, ...], str]], list[str]]:
        """What is said of one package: (versions, range) of each rule, and what could not be told."""
        if not _is_literal(package):
            return [], ["this name cannot stand in a rule"]
        listed, ranges = _list(each, "versions"), _list(each, "ranges")
        if not listed and not ranges:
            return ([(("*",), "")], []) if malicious else ([], ["neither versions nor ranges"])
        spans, doubts = self._spans(format, ranges)
        if (None, None) in [span[:2] for span in spans]:
            return [(("*",), "")], []
        exact = [*listed, *(span.start for span in spans if span.is_one_version)]
        versions = {_version(format, version) for version in exact if _fits(version) and _is_literal(version)}
        doubts += [f"version {_clean(str(version), 80)}" for version in exact if not (_fits(version) and _is_literal(version))]
        ordered = sorted(versions)
        told = [(tuple(ordered[at : at + MAX_VERSIONS]), "") for at in range(0, len(ordered), MAX_VERSIONS)]
        for text in dict.fromkeys(_render_span(format, span) for span in spans if not span.is_one_version):
            if self._is_range(format, text):
                told.append(((), text))
            else:
                doubts.append(f"range {text}")
        if not told and not doubts:
            doubts.append("only ranges of commits")
        return told, doubts

    def _is_excepted(self, format: str, package: str) -> bool:
        if not self.exceptions:
            return False
        names = {f"{format}:{package}", f"{format}:{ecosystem_of(format).same_name(package)}"} & self.exceptions
        self.used |= names
        return bool(names)

    def _spans(self, format: str, ranges: list[Any]) -> tuple[list[_Span], list[str]]:
        spans: list[_Span] = []
        doubts: list[str] = []
        for each in ranges:
            if not isinstance(each, dict):
                raise _Malformed("ranges: not a list of objects")
            if each.get("type") == "GIT":
                continue
            events = _events(each)
            bad = [version for _, version in events if version != "*" and not _fits(version)]
            if bad or not any(kind == "introduced" for kind, _ in events):
                doubts.append(f"range with {_clean(bad[0], 80)!r}" if bad else "range without a begin")
            else:
                spans += _intervals(format, events)
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
        if not self.found:
            why = f"all of its {self.broken} records are broken, first {self.broken_named[0]}" if self.broken else "there is no record in it"
            raise OsvProblem(f"{source}: {why}; give a folder, .zip or .json of OSV records")
        digest = hashlib.sha256()
        for name in sorted(self.found):
            digest.update(f"{name}\t{self.found[name].modified}\n".encode())
        states = Counter(found.state for found in self.found.values())
        undecided = sorted(text for found in self.found.values() for text in found.undecided)
        return Import(
            source=source,
            digest=digest.hexdigest(),
            newest=max(found.modified for found in self.found.values()),
            blocks=_merged(self.found),
            records=len(self.found),
            withdrawn=states["withdrawn"],
            harmless=states["harmless"] + states["no_severity"],
            no_severity=states["no_severity"],
            excepted=states["excepted"],
            unused_exceptions=tuple(sorted(self.exceptions - self.used)),
            unknown_ecosystems=tuple(sorted(Counter(text for found in self.found.values() for text in found.unknown).items())),
            undecided=len(undecided),
            undecided_listed=tuple(undecided[:MAX_LISTED]),
            broken=self.broken,
            broken_named=tuple(self.broken_named),
        )


def _merged(found: Mapping[str, _Found]) -> tuple[Block, ...]:
    """Sorted, each coordinate once (of several records the one with the smallest id), and nothing beside a rule that takes the whole package."""
    blocks = sorted(block for each in found.values() for block in each.blocks)
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
    found = [cwe.get("cweId") for cwe in cwes if isinstance(cwe, dict)] if isinstance(cwes, list) else []
    return "CWE-506" in found or (isinstance(ids, list) and "CWE-506" in ids)


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
        raise _Malformed("affected.package: no ecosystem and name")
    return package["ecosystem"], package["name"]


def _list(table: Mapping[str, Any], key: str) -> list[Any]:
    value = table.get(key)
    if value is not None and not isinstance(value, list):
        raise _Malformed(f"{key}: not a list")
    return value or []


def _table(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = table.get(key)
    return value if isinstance(value, dict) else {}


# Ranges


class _Span(NamedTuple):
    """From `start` (None: from the first version) up to `end` (None: for ever)."""

    start: str | None
    end: str | None
    inclusive: bool

    @property
    def is_one_version(self) -> bool:
        return self.inclusive and self.start == self.end


def _events(each: Mapping[str, Any]) -> list[tuple[str, str]]:
    events: list[tuple[str, str]] = []
    for event in _list(each, "events"):
        if not isinstance(event, dict) or not all(isinstance(value, str) for value in event.values()):
            raise _Malformed("events: not a list of objects of strings")
        events += [(kind, version) for kind, version in event.items() if kind in ("introduced", "fixed", "last_affected", "limit")]
    return events


def _intervals(format: str, events: list[tuple[str, str]]) -> list[_Span]:
    """The schema's evaluation: events in the order of their versions, of one version in that of the file. A limit ends what nothing else ends."""

    def compare(a: str, b: str) -> int:
        return _compare(format, a, b)

    order = cmp_to_key(compare)
    limits = sorted((version for kind, version in events if kind == "limit"), key=order)
    end = None if not limits or "*" in limits else limits[-1]
    spans: list[_Span] = []
    start: str | None = None
    is_open = False
    for kind, version in sorted((event for event in events if event[0] != "limit"), key=lambda event: order(event[1])):
        if kind == "introduced" and not is_open:
            start, is_open = None if _is_zero(version) else _version(format, version), True
        elif kind != "introduced" and is_open:
            spans.append(_Span(start, _version(format, version), kind == "last_affected"))
            is_open = False
    if is_open:
        spans.append(_Span(start, None if end is None else _version(format, end), False))
    return [span for span in spans if span.start is None or span.start != span.end or span.inclusive]


def _compare(format: str, a: str, b: str) -> int:
    """What cannot be compared stays where it is; the file is in order, as the schema asks."""
    if a == b or _is_zero(a) or _is_zero(b):
        return _is_zero(b) - _is_zero(a)
    return ecosystem_of(format).compare(_version(format, a), _version(format, b)) or 0


def _is_zero(version: str) -> bool:
    """ "0" is before every version; RustSec says it in full."""
    return version in ("0", "0.0.0-0")


def _render_span(format: str, span: _Span) -> str:
    if format in _BRACKETS:
        return f"{'(' if span.start is None else '['}{span.start or ''},{span.end or ''}{']' if span.inclusive else ')'}"
    space = " " if format == "gems" else ""
    lower = "" if span.start is None else f">={space}{span.start}"
    upper = "" if span.end is None else f"{'<=' if span.inclusive else '<'}{space}{span.end}"
    joint = {"npm": " ", "pypi": ","}.get(format, ", ")
    return joint.join(part for part in (lower, upper) if part)


def _version(format: str, version: str) -> str:
    """OSV writes Go's versions without their v."""
    return f"v{version}" if format == "go" and version[:1].isdigit() else version


# Text


def _fits(version: Any) -> bool:
    return isinstance(version, str) and _plain(version, MAX_VERSION) and _TAKEN.isdisjoint(version)


def _is_literal(text: str) -> bool:
    """A rule file may name it, and means just this by it."""
    return _plain(text, MAX_NAME) and "*" not in text and not text.startswith(FLAT) and patterns.problem(text) is None


def _plain(text: str, most: int) -> bool:
    return 0 < len(text) <= most and text.isprintable() and " " not in text


def _clean(text: str, most: int) -> str:
    """One printable line: controls, line ends, direction marks and lone surrogates become spaces."""
    text = text[: 4 * most]
    if not text.isprintable():
        text = "".join(each if each.isprintable() else " " for each in text)
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _reason(name: str, record: Mapping[str, Any]) -> str:
    summary = record.get("summary")
    text = summary if isinstance(summary, str) else ""
    return _clean(f"{name}: {text}", MAX_REASON).rstrip(":")


# The file


def _render_toml(found: Import) -> Iterator[str]:
    yield f"{_HEADER}\n"
    for line in found.summary():
        yield f"# {line}\n"
    for line in found.undecided_listed[:MAX_COMMENTED]:
        yield f"# undecided: {line}\n"
    numbers: Counter[str] = Counter()
    for block in found.blocks:
        numbers[block.record] += 1
        number = numbers[block.record]
        name = block.record if number == 1 else f"{block.record}/{number}"
        yield f"\n[[block]]\nid = {_quote(name)}\nformat = {_quote(block.format)}\nname = {_quote(block.name)}\n{_toml_versions(block)}\n"
        yield f"reason = {_quote(block.reason)}\nticket = {_quote(block.ticket)}\n"


def _toml_versions(block: Block) -> str:
    if block.range:
        return f"range = {_quote(block.range)}"
    if len(block.versions) == 1:
        return f"version = {_quote(block.versions[0])}"
    return f"versions = [{', '.join(map(_quote, block.versions))}]"


def _render_json(found: Import) -> Iterator[str]:
    """NORA's form; members that it does not know, it ignores."""
    ranges = [f"{block.record} {block.format}:{block.name} range {block.range}" for block in found.blocks if block.range]
    undecided = sorted([*ranges[:MAX_LISTED], *found.undecided_listed])
    count = found.undecided + len(ranges)
    about = {"source": found.source, "digest": found.digest, "newest": found.newest, "records": found.records, "undecided": count}
    yield f'{{\n"version": 1,\n"made_by": {_quote(_MADE_BY)},\n"feed": {_quote(about)},\n"summary": {_quote(found.summary())},\n"rules": ['
    comma = ""
    for block in found.blocks:
        for version in block.versions:
            rule = {"registry": block.format, "name": block.name, "version": version, "reason": block.reason}
            yield f"{comma}\n{_quote(rule)}"
            comma = ","
    yield f'\n],\n"undecided": {_quote(undecided[:MAX_LISTED])}\n}}\n'


def _old_count(path: Path, as_json: bool) -> int | None:
    """Rules in the file that is there; None when an import did not make it. 0 when there is no file."""
    try:
        if not as_json:
            with path.open(encoding="utf-8", errors="replace") as file:
                return sum(line == "[[block]]\n" for line in file) if file.readline() == f"{_HEADER}\n" else None
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return 0
    except (ValueError, RecursionError):
        return None
    ours = isinstance(document, dict) and document.get("made_by") == _MADE_BY and isinstance(document.get("rules"), list)
    return len(document["rules"]) if ours else None


def _guard(path: Path, old: int | None, new: int) -> None:
    if old is None:
        raise OsvProblem(f"{path.name} was not made by an import and was left as it is: name another file, or force it to be replaced")
    if 2 * new < old:
        raise OsvProblem(f"{path.name} has {old} rules and this import only {new}: it was left as it is; look whether the feed is whole, or force it")
