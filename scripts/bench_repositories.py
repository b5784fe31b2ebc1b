"""scripts/bench repositories: what a read costs beside 200 repositories, against one.

Two servers run the same code; both hold a small manifest in a named repository that has claimed a host's name, and one has 199 repositories beside
it, half of which have claimed a host. The manifest is read by its tag, by wrk, on both by turns in each round; a ratio compares the two of one round.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from bench_client import PATH, Client, push_manifest
from bench_common import TIMES, Figure, Running, answers, figure, machine, ours, ratio, started, with_span, wrk

MANY = 200
CONNECTIONS = 16
TARGET = 0.95
OWN = PATH.split("/")[2]
"""The repository that is read: the first part of the image's name."""


def tables(count: int) -> str:
    names = [OWN, *(f"other{number}" for number in range(1, count))]
    hosts = (f'hosts = ["{name}.example.com"]\n' if number % 2 == 0 else "" for number, name in enumerate(names))
    return "".join(f'[[repositories]]\nname = "{name}"\nformat = "docker"\n{host}' for name, host in zip(names, hosts, strict=True))


def server(count: int, work: Path) -> AbstractContextManager[Running]:
    def command(folder: Path, port: int) -> tuple[list[str], Mapping[str, str]]:
        (folder / "config.toml").write_text(tables(count))
        return ours(folder, port)

    return started(f"repositories-{count}", work, command, answers("/health"))


def measure(rounds: int, seconds: float, work: Path) -> dict[int, list[Figure]]:
    found: dict[int, list[Figure]] = {1: [], MANY: []}
    with server(1, work) as one, server(MANY, work) as many:
        up = {1: one, MANY: many}
        for running in up.values():
            with Client(running.port) as client:
                push_manifest(client)
            wrk(running, "", CONNECTIONS, 1)  # warms what remembers
        for number in range(rounds):
            for count in sorted(up, reverse=number % 2 == 1):  # nobody is always the first
                found[count].append(wrk(up[count], "", CONNECTIONS, seconds))
            told = " ".join(f"{count}={figure(figures[-1].rate)}" for count, figures in found.items())
            print(f"round {number + 1}/{rounds} {told}", file=sys.stderr)
    return found


def render(found: dict[int, list[Figure]]) -> str:
    pairs = list(zip(found[MANY], found[1], strict=True))
    rates, costs = [many.rate / one.rate for many, one in pairs], [one.cpu / many.cpu for many, one in pairs]
    lines = ["| repositories | reads/s | processor, µs |", "|---:|---:|---:|"]
    lines += [
        f"| {count} | {with_span([one.rate for one in figures])} | {with_span([one.cpu for one in figures])} |" for count, figures in found.items()
    ]
    reached = "reached" if statistics.median(rates) >= TARGET else "**missed**"
    lines.append(f"| ratio | {ratio(rates)} | {ratio(costs)} |")
    return "\n".join([*lines, "", f"Target {TARGET}{TIMES} of the rate: {reached}."])


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench repositories", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=7, help="rounds (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=2, help="of each figure (default %(default)s)")
    parser.add_argument("--disk", default="/var/tmp", help="folder whose disk the servers write to (default %(default)s)")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        parser.error("wrk is missing (apt install wrk)")
    with tempfile.TemporaryDirectory(prefix="nora-bench-", dir=options.disk) as work:
        found = measure(options.reps, options.seconds, Path(work))
    print(f"\n{machine()}. Medians of {options.reps} rounds (lowest to highest).\n\n{render(found)}")


if __name__ == "__main__":
    main()
