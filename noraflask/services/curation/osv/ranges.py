"""The events of a record's range, as intervals of versions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cmp_to_key, partial
from typing import Any, NamedTuple

from noraflask.ecosystems import Ecosystem
from noraflask.services.curation.osv.values import Malformed, list_in


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


def intervals(ecosystem: Ecosystem, events: list[tuple[str, str]]) -> list[Span]:
    """The schema's evaluation: events in the order of their versions, of one version in that of the file. A limit ends what nothing else ends."""

    from_osv = ecosystem.versions.from_osv
    order = cmp_to_key(partial(_compare, ecosystem))
    limits = sorted((version for kind, version in events if kind == "limit"), key=order)
    end = None if not limits or "*" in limits else limits[-1]
    spans: list[Span] = []
    start: str | None = None
    is_open = False
    for kind, version in sorted((event for event in events if event[0] != "limit"), key=lambda event: order(event[1])):
        if kind == "introduced" and not is_open:
            start, is_open = None if _is_zero(version) else from_osv(version), True
        elif kind != "introduced" and is_open:
            spans.append(Span(start, from_osv(version), kind == "last_affected"))
            is_open = False
    if is_open:
        spans.append(Span(start, None if end is None else from_osv(end), False))
    return [span for span in spans if span.start is None or span.start != span.end or span.inclusive]


def _compare(ecosystem: Ecosystem, a: str, b: str) -> int:
    """What cannot be compared stays where it is; the file is in order, as the schema asks."""
    if a == b or _is_zero(a) or _is_zero(b):
        return _is_zero(b) - _is_zero(a)
    from_osv = ecosystem.versions.from_osv
    return ecosystem.compare(from_osv(a), from_osv(b)) or 0


def _is_zero(version: str) -> bool:
    """ "0" is before every version; RustSec says it in full."""
    return version in ("0", "0.0.0-0")
