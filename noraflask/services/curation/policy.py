"""The compiled policy: compiling.py makes its bytes in the master, Policy.from_buffer() reads them in the workers, deciding.py asks it.

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

import json
import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import blake2b
from typing import Any
from zlib import crc32

from noraflask.ecosystems import ECOSYSTEMS, Range, ecosystem_of
from noraflask.services.curation.model import Bypass, Kind, Rule
from noraflask.services.curation.patterns import Pattern

MAGIC = b"noracur1"
ANY = "*"
DAY = 86400.0
REMEMBERED = 1024
"""Rules, patterns and ranges that a policy keeps unpacked."""

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
    """Whether plain allows are written to the audit log as well."""

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


def hash_of(slot: str, name: bytes) -> int:
    return int.from_bytes(blake2b(b"%b\0%b" % (slot.encode(), name), digest_size=8).digest(), "little")


def seed_of(slot: str, side: bytes) -> int:
    """A checksum can be carried on along a name; that somebody makes two equal ones costs a comparison."""
    return crc32(slot.encode() + side)


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
    return _Slot(name, prefixes, suffixes, bare, seed_of(name, b"<"), seed_of(name, b">"))


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
        self._exact.find(hash_of(slot.name, raw), found)
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
