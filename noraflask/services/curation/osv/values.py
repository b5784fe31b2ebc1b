"""What the parts of the import share: what a feed says, its rules, and what may stand in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

from noraflask.ecosystems import FLAT
from noraflask.services.curation import patterns

MAX_NAME = 512
MAX_VERSION = 256
MADE_BY = "nora curation import-osv"

_TAKEN = frozenset("*,|[]()<>=!\"'`\\")
"""Not in a version or a bound: they mean something in a pattern or in a range language."""
_OSV_PAGES = ("MAL-", "GHSA-", "PYSEC-", "RUSTSEC-", "GO-", "CVE-", "OSV-", "DSA-", "DLA-", "USN-", "RHSA-", "RLSA-", "ALSA-")


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


class Malformed(Exception):
    """This record cannot be read; the message says which part."""


def list_in(table: Mapping[str, Any], key: str) -> list[Any]:
    value = table.get(key)
    if value is not None and not isinstance(value, list):
        raise Malformed(f"{key}: not a list")
    return value or []


def fits(version: Any) -> bool:
    return isinstance(version, str) and is_plain(version, MAX_VERSION) and _TAKEN.isdisjoint(version)


def is_literal(text: str) -> bool:
    """A rule file may name it, and means just this by it."""
    return is_plain(text, MAX_NAME) and "*" not in text and not text.startswith(FLAT) and patterns.problem(text) is None


def is_plain(text: str, most: int) -> bool:
    return 0 < len(text) <= most and text.isprintable() and " " not in text


def clean(text: str, most: int) -> str:
    """One printable line: controls, line ends, direction marks and lone surrogates become spaces."""
    text = text[: 4 * most]
    if not text.isprintable():
        text = "".join(each if each.isprintable() else " " for each in text)
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
