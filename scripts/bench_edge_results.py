"""For scripts/bench edge: figures by row and way, and the table that tells them."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from bench_common import CONNECTIONS, TIMES, figure, ratio, with_span
from bench_peers import PEERS

TARGETS = {"pull": 0.9, "push": 0.8, "all off": 0.75, "rate": 4.0, "behind": 2.0}
PUSHES = ("POST + PUT", "streamed PATCH", "PATCH of 16 MiB")
OBJECTS = ("manifest by tag", "manifest by digest", "blob of 300 bytes")
PARTS = ("client", "nginx", "registry")


@dataclass
class Results:
    """Figures by row and way, one for each round."""

    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, row: str, way: str, value: float) -> None:
        self.values.setdefault((row, way), []).append(value)

    def ratios(self, row: str, way: str, other: str) -> list[float]:
        return [mine / theirs for mine, theirs in zip(self.values[row, way], self.values[row, other], strict=True)]


def in_turn(rounds: int, ways: Mapping[str, Callable[[], float]], results: Results, row: str) -> None:
    names = list(ways)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:  # nobody is always the first
            results.add(row, name, ways[name]())
        told = " ".join(f"{name}={figure(results.values[row, name][-1])}" for name in names)
        print(f"round {number + 1}/{rounds} {row}: {told}", file=sys.stderr)


@dataclass(frozen=True)
class Row:
    name: str
    way: str
    other: str
    unit: str
    target: float | None = None


def rows() -> Iterator[Row]:
    """Those with a target first, then what they cost."""
    found = []
    for protocol in ("1.1", "2"):
        for way, target in (("nginx sends", TARGETS["pull"]), ("registry sends", None)):
            found.append(Row(f"pull, HTTP/{protocol}", way, "static file", "MB/s", target))
    for push in PUSHES:
        found.append(Row(f"push, {push}", "nginx", "direct", "MB/s", TARGETS["push"]))
        found += [Row(f"push, {push}", f"{peer.title}, nginx", f"{peer.title}, direct", "MB/s") for peer in PEERS]
    found += [Row("push by curl, POST + PUT", f"nginx, HTTP/{protocol}", "direct", "MB/s") for protocol in ("1.1", "2")]
    for count in CONNECTIONS:
        found.append(Row(f"rate, {count} connections", "all on", "all off", "reads/s", TARGETS["all off"]))
        found += [Row(f"rate, {count} connections", "all on", peer.title, "reads/s", TARGETS["rate"]) for peer in PEERS]
    for what in OBJECTS:
        for count in CONNECTIONS:
            row = f"behind nginx, {what}, {count} connections"
            found += [Row(row, "noraflask", peer.title, "reads/s", TARGETS["behind"]) for peer in PEERS]
    yield from found
    for each in found:
        yield Row(f"processor, {each.name}", each.way, each.other, "s/GB" if each.unit == "MB/s" else "µs a read")


def render(results: Results) -> tuple[str, list[str]]:
    """A table in Markdown, and what misses its target."""
    lines, missed = ["| | | | beside | | ratio | target | |", "|---|---|---:|---|---:|---:|---:|---|"], []
    for row in rows():
        mine, theirs = results.values.get((row.name, row.way)), results.values.get((row.name, row.other))
        if not mine or not theirs:
            continue
        found = results.ratios(row.name, row.way, row.other)
        reached = row.target is None or statistics.median(found) >= row.target
        mark = "" if row.target is None else "reached" if reached else "**missed**"
        target = "" if row.target is None else f"≥ {row.target:g}{TIMES}"
        what = f"{row.name}, {row.unit} | {row.way} | {with_span(mine)} | {row.other} | {with_span(theirs)}"
        lines.append(f"| {what} | {ratio(found)} | {target} | {mark} |")
        if not reached:
            missed.append(f"MISSED: {row.name}: {row.way} is {statistics.median(found):.2f}{TIMES} of {row.other}, wanted {row.target:g}{TIMES}")
    return "\n".join([*lines, *_by_process(results)]), missed


def part_of(row: str, part: str) -> str:
    """The row that holds what one of the processes used."""
    return f"processor of {part}, {row}"


def _by_process(results: Results) -> list[str]:
    """Whose processor time a push takes, where that was measured."""
    ways = dict.fromkeys((row.removeprefix(part_of("", PARTS[0])), way) for row, way in results.values if row.startswith(part_of("", PARTS[0])))
    if not ways:
        return []
    lines = ["", f"| processor, s/GB | | {' | '.join(PARTS)} | all |", f"|---|---|{'---:|' * (len(PARTS) + 1)}"]
    for row, way in ways:
        parts = [statistics.median(results.values[part_of(row, part), way]) for part in PARTS]
        lines.append(f"| {row} | {way} | {' | '.join(f'{part:.2f}' for part in parts)} | {sum(parts):.2f} |")
    return lines
