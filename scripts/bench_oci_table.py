"""For scripts/bench oci: the rows, their targets, and the table in docs/performance.md."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path

from bench_client import MIB
from bench_common import CONNECTIONS, TIMES, figure, with_span
from bench_peers import Server

BEGIN, END = "<!-- scripts/bench oci writes from here -->", "<!-- to here -->"
VARIANTS = ("before", "off")
"""This registry again: as another checkout has it, and without plans."""


@dataclass(frozen=True)
class Found:
    """One figure of one round."""

    value: float
    cpu: float | None = None
    """What it cost the server of the processor, in the row's unit of cost."""


@dataclass(frozen=True)
class Row:
    name: str
    title: str
    unit: str
    ratio: float | None = None  # the least share of the other that we want to reach
    most: float | None = None  # the most that we allow ourselves
    beside: str = "peer"  # the better peer, or the variants that are there, the first of these: "before", "off"
    smaller_is_better: bool = False
    cost: str = ""  # unit of the processor time


@dataclass
class Results:
    values: dict[tuple[str, str], list[Found]] = field(default_factory=dict)  # (row, server) -> one figure per round
    failures: dict[tuple[str, str], str] = field(default_factory=dict)  # (group, server) -> why

    def of(self, row: str, server: str) -> list[float]:
        return [found.value for found in self.values.get((row, server), [])]

    def cost(self, row: str, server: str) -> float | None:
        costs = [found.cpu for found in self.values.get((row, server), []) if found.cpu is not None]
        return statistics.median(costs) if costs else None


def rows(blob_size: int) -> list[Row]:
    return [*_large(f"{blob_size // MIB} MiB"), *_small()]


def _large(size: str) -> list[Row]:
    found = [Row("start", "start-up: first answer", "s", most=1, smaller_is_better=True)]
    found.append(Row("idle", "memory, idle", "MB", most=50, smaller_is_better=True))
    found.append(Row("loaded", "memory, 4 pushes + 8 pulls", "MB", most=120, smaller_is_better=True))
    for name, title, ratio in (
        ("push", "POST + PUT", 1.3),
        ("stream", "streamed PATCH", 1.2),
        ("chunks", "PATCH of 16 MiB", 1.2),
    ):
        found += [Row(f"{name}-{count}", f"push {size}, {title}, {count} at once", "MB/s", ratio, cost="s/GB") for count in (1, 4)]
    apart = f"push {size}, PATCH of 16 MiB over a new connection each"
    found += [Row(f"apart-{count}", f"{apart}, {count} at once", "MB/s", 1.3, beside="before", cost="s/GB") for count in (1, 4)]
    found += [Row(f"pull-{count}", f"pull {size}, {count} at once", "MB/s", 1.2, cost="s/GB") for count in (1, 8)]
    return found


def _small() -> list[Row]:
    found = []
    for method in ("get", "head"):
        for by in ("tag", "digest"):
            title = f"manifest {method.upper()} by {by}"
            found += [Row(f"manifest-{method}-{by}-{count}", f"{title}, {count} connections", "/s", 4, cost="µs") for count in CONNECTIONS]
    for size in (2, 300):
        found += [Row(f"blob-{size}-{count}", f"blob of {size} bytes GET, {count} connections", "/s", 4, cost="µs") for count in CONNECTIONS]
    beside = "8 connections with tags/list beside 16 with a manifest"
    found.append(Row("mixed-slow", f"{beside}: listings", "/s", 1, beside="variant"))
    found.append(Row("mixed-wait", f"{beside}: 99 of 100 listings took at most", "ms", beside="variant", smaller_is_better=True))
    found.append(Row("mixed-hot", f"{beside}: manifests", "/s", beside="variant"))
    found.append(Row("alone-slow", "8 connections with tags/list: listings", "/s", 1, beside="variant", cost="µs"))
    found.append(Row("images", "small images pushed, 8 connections", "/s", 1.1, beside="before", cost="ms"))
    found.append(Row("plans", "memory, a worker's growth by 200,000 heads, each twice", "MB", most=16, beside="variant", smaller_is_better=True))
    return found


def render_table(results: Results, wanted: list[Row], servers: list[Server]) -> str:
    """Markdown: a row for each thing measured, medians with their span and the processor time, the ratio to the better peer or to ourselves."""
    lines = [
        f"| | {' | '.join(server.title for server in servers)} | ratio to the better peer | beside ourselves | target | |",
        f"|---|{'---:|' * len(servers)}---:|---:|---|---|",
    ]
    for row in wanted:
        if not any(results.of(row.name, server.name) for server in servers):
            continue
        cells = [_cell(results, row, server.name) for server in servers]
        peer = _ratio_to_peer(results, row, servers)
        name, own = _ratio_to_ourselves(results, row)
        beside = f"{_times(own)} {name}" if name else ""
        verdict = _verdict(results, row, peer, own)
        lines.append(f"| {row.title}, {row.unit} | {' | '.join(cells)} | {_times(peer)} | {beside} | {verdict} |")
    return "\n".join(lines)


def _cell(results: Results, row: Row, server: str) -> str:
    found = results.of(row.name, server)
    cost = results.cost(row.name, server)
    return (with_span(found) if found else "—") + (f"; {figure(cost)} {row.cost}" if cost is not None else "")


def _ratio_to_peer(results: Results, row: Row, servers: list[Server]) -> float | None:
    """To the better one, of medians."""
    mine = results.of(row.name, "ours")
    theirs = [
        statistics.median(found) for server in servers if server.name not in ("ours", *VARIANTS) and (found := results.of(row.name, server.name))
    ]
    if not mine or not theirs:
        return None
    best = min(theirs) if row.smaller_is_better else max(theirs)
    return statistics.median(mine) / best if best else None


def _ratio_to_ourselves(results: Results, row: Row) -> tuple[str, float | None]:
    """Whom we are compared with, and the median of the ratios in the same round."""
    mine = results.of(row.name, "ours")
    for name in VARIANTS:
        theirs = results.of(row.name, name)
        if mine and theirs:
            ratios = [one / other for one, other in zip(mine, theirs, strict=False) if other]
            return name, statistics.median(ratios) if ratios else None
    return "", None


def _verdict(results: Results, row: Row, peer: float | None, own: float | None) -> str:
    """The target, and whether it was reached."""
    mine = results.of(row.name, "ours")
    if row.most is not None:
        return f"≤ {row.most:g} {row.unit} | {_mark(statistics.median(mine) <= row.most) if mine else ''}"
    if row.ratio is None:
        return " | "
    ratio = peer if row.beside == "peer" else own
    if row.smaller_is_better:
        return f"≤ {row.ratio:g}{TIMES} | {_mark(ratio <= row.ratio) if ratio is not None else ''}"
    said = f"≥ {row.ratio:g}{TIMES}" + ("" if row.beside == "peer" else " ourselves")
    return f"{said} | {_mark(ratio >= row.ratio) if ratio is not None else ''}"


def _mark(is_reached: bool) -> str:
    return "reached" if is_reached else "**missed**"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}{TIMES}"


def write_page(page: Path, text: str) -> None:
    """Puts the text between the markers and leaves all other prose as it is."""
    old = page.read_text() if page.exists() else f"# Performance\n\n{BEGIN}\n{END}\n"
    if BEGIN not in old or END not in old:
        raise SystemExit(f"{page} has lost its markers {BEGIN!r} and {END!r}; nothing was written")
    before, _, rest = old.partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")
