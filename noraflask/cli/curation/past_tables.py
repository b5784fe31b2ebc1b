"""What the ledger says, as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noraflask.cli.subcommand import printable
from noraflask.services.curation.explaining import stamp
from noraflask.services.curation.replay import ALLOWED, AUDITED, BLOCKED, Change, Receipt, Report

if TYPE_CHECKING:
    pass

LONGEST_CELL = 60
ANYONE = "(anonymous)"


def render_report(report: Report) -> str:
    """For people: a summary, and a table for each kind of change."""
    if not report.entries:
        return "The ledger has nothing for this time, so there is nothing to replay. Choose an earlier --since, or look whether the ledger is on.\n"
    parts = [f"{report.entries} replayed: " + ", ".join(f"{len(report.of_kind(kind))} {kind}" for kind in (BLOCKED, ALLOWED, AUDITED)) + "\n"]
    head = ("coordinate", "times", "last", "rule", "reason", "for whom")
    for kind in (BLOCKED, ALLOWED, AUDITED):
        rows = [_change_row(change) for change in report.of_kind(kind)]
        if rows:
            parts.append(f"{kind.capitalize()}:\n" + _table(head, rows))
    if report.omitted:
        parts.append(f"Only {len(report.changes)} changes are listed; {report.omitted} of those replayed belong to others. Choose a later --since.\n")
    return "\n".join(parts)


def _change_row(change: Change) -> tuple[str, ...]:
    rule = " ".join(filter(None, (change.rule or change.filter, change.place and f"({change.place})")))
    reason = change.reason + (f" (until {stamp(change.until)})" if change.until is not None else "")
    named = change.named()
    others = len(change.consumers) - len(named)
    more = "and others" if change.more_consumers else f"and {others} more" if others else ""
    whom = ", ".join(_who(*consumer) for consumer in named)
    coordinate = _coordinate(change.format, change.name, change.version)
    return coordinate, str(change.count), stamp(change.last) or "", rule, reason, " ".join(filter(None, (whom, more)))


def render_impact(receipts: list[Receipt]) -> str:
    """For people: a table."""
    if not receipts:
        return "Nobody got it in this time, as far as the ledger knows. Choose an earlier --since to look further back.\n"
    head = ("who", "coordinate", "repository", "times", "first", "last", "digest")
    return _table(head, [_receipt_row(receipt) for receipt in receipts])


def _receipt_row(receipt: Receipt) -> tuple[str, ...]:
    coordinate = _coordinate(receipt.format, receipt.name, receipt.version)
    coordinate += "" if receipt.certain else " (perhaps)"
    times = (str(receipt.count), stamp(receipt.first) or "", stamp(receipt.last) or "")
    return _who(receipt.principal, receipt.ci), coordinate, receipt.repository, *times, receipt.digest


def _coordinate(format: str, name: str, version: str) -> str:
    """As people write it."""
    return f"{format}:{name}" + (f"@{version}" if version else "")


def _who(principal: str, ci: str) -> str:
    return (principal or ANYONE) + (f" [{ci}]" if ci else "")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Columns as wide as their contents, up to LONGEST_CELL; longer cells push the rest to the right rather than lose their ends."""
    cells = [head, *(tuple(printable(cell) for cell in row) for row in rows)]
    widths = [min(max(len(row[column]) for row in cells), LONGEST_CELL) for column in range(len(head))]
    return "".join(_joined(row, widths) for row in cells)


def _joined(row: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n"
