"""The events of a record's range, as intervals, and these in the range language of a format."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cmp_to_key
from typing import Any, NamedTuple

from noraflask.services.curation import ecosystems
from noraflask.services.curation.osv.values import Malformed, list_in

_BRACKETS = frozenset({"maven", "nuget"})


class Span(NamedTuple):
    """From `start` (None: from the first version) up to `end` (None: for ever)."""

    start: str | None
    end: str | None
    inclusive: bool

    @property
    def is_one_version(self) -> bool:
        return self.inclusive and self.start == self.end


def events_of(each: Mapping[str, Any]) -> list[tuple[str, str]]:
    events: list[tuple[str, str]] = []
    for event in list_in(each, "events"):
        if not isinstance(event, dict) or not all(isinstance(value, str) for value in event.values()):
            raise Malformed("events: not a list of objects of strings")
        events += [(kind, version) for kind, version in event.items() if kind in ("introduced", "fixed", "last_affected", "limit")]
    return events


def intervals(format: str, events: list[tuple[str, str]]) -> list[Span]:
    """The schema's evaluation: events in the order of their versions, of one version in that of the file. A limit ends what nothing else ends."""

    def compare(a: str, b: str) -> int:
        return _compare(format, a, b)

    order = cmp_to_key(compare)
    limits = sorted((version for kind, version in events if kind == "limit"), key=order)
    end = None if not limits or "*" in limits else limits[-1]
    spans: list[Span] = []
    start: str | None = None
    is_open = False
    for kind, version in sorted((event for event in events if event[0] != "limit"), key=lambda event: order(event[1])):
        if kind == "introduced" and not is_open:
            start, is_open = None if _is_zero(version) else version_of(format, version), True
        elif kind != "introduced" and is_open:
            spans.append(Span(start, version_of(format, version), kind == "last_affected"))
            is_open = False
    if is_open:
        spans.append(Span(start, None if end is None else version_of(format, end), False))
    return [span for span in spans if span.start is None or span.start != span.end or span.inclusive]


def _compare(format: str, a: str, b: str) -> int:
    """What cannot be compared stays where it is; the file is in order, as the schema asks."""
    if a == b or _is_zero(a) or _is_zero(b):
        return _is_zero(b) - _is_zero(a)
    return ecosystems.compare(format, version_of(format, a), version_of(format, b)) or 0


def _is_zero(version: str) -> bool:
    """ "0" is before every version; RustSec says it in full."""
    return version in ("0", "0.0.0-0")


def render_span(format: str, span: Span) -> str:
    if format in _BRACKETS:
        return f"{'(' if span.start is None else '['}{span.start or ''},{span.end or ''}{']' if span.inclusive else ')'}"
    space = " " if format == "gems" else ""
    lower = "" if span.start is None else f">={space}{span.start}"
    upper = "" if span.end is None else f"{'<=' if span.inclusive else '<'}{space}{span.end}"
    joint = {"npm": " ", "pypi": ","}.get(format, ", ")
    return joint.join(part for part in (lower, upper) if part)


def version_of(format: str, version: str) -> str:
    """OSV writes Go's versions without their v."""
    return f"v{version}" if format == "go" and version[:1].isdigit() else version
