"""scripts/bench curation: what a decision costs with few and with very many rules, what a reload and its rules cost a server, and what reads cost.

Decisions are timed in batches that take turns with the packages they ask about; the table holds the median of the batches. Memory is what a process
that is forked after compiling has for itself (Private_*, and PSS, of smaps_rollup) beyond one without rules.

Reloads are those of a server with four workers: from SIGHUP until each of them answers by the new policy, while on each a client reads without a
pause; its longest wait stands beside the longest of as many quiet seconds. Reads are measured as by scripts/bench auth: a small manifest by its tag,
by wrk, all kinds by turns in each round; a ratio compares a kind with "off" of the same round. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import gc
import mmap
import os
import re
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from bench_auth import Results
from bench_client import MANIFEST_TYPE, PATH, Client, Failed, push_manifest
from bench_common import CONNECTIONS, ROOT, TIMES, Running, answers, machine, ours, ratio, started, with_span, wrk

sys.path.insert(0, str(ROOT))

from noraflask.services.curation.compiling import compile
from noraflask.services.curation.deciding import decide
from noraflask.services.curation.model import Kind, Package, Rule, RuleSet
from noraflask.services.curation.policy import Policy, Settings

NOW = 1_800_000_000.0
SIZES = (0, 1_000, 100_000, 1_000_000)
BATCHES, BATCH = 25, 2_000
TARGET_MICROSECONDS, TARGET_COMPILE = 20.0, 0.7
ASKED = {
    "no rule": "an-ordinary-package-name",
    "literal": "evil-package-{literal}",
    "prefix": "typo-{prefix}-squatted",
}


def rules(count: int) -> tuple[Rule, ...]:
    """As a feed of malicious packages is: one in ten a pattern, of as many lengths as the numbers have."""
    return tuple(rule(number) for number in range(count))


def rule(number: int) -> Rule:
    name = f"evil-package-{number}" if number % 10 else f"typo-{number}-*"
    return Rule(f"feed.toml#{number}", Kind.BLOCK, "npm", name, reason="malicious package", place=f"feed.toml:{4 * number}", ticket=f"MAL-{number}")


def compiled(count: int, rounds: int) -> tuple[bytes, float]:
    found, times = RuleSet(rules(count)), []
    for _ in range(rounds):
        gc.collect()
        start = time.perf_counter()
        buffer = compile(Settings(mode="enforce"), found)
        times.append(time.perf_counter() - start)
    return buffer, statistics.median(times)


def decision_microseconds(policy: Policy, count: int) -> dict[str, float]:
    names = {what: text.format(literal=count // 2 + 1, prefix=count // 20 * 10) for what, text in ASKED.items()}
    packages = {what: Package("npm", name, "1.0.0", "npm", hosted=False) for what, name in names.items()}
    for what, package in packages.items():
        assert decide(policy, package, NOW).allowed == (what == "no rule" or count == 0), f"{what} with {count} rules: a wrong decision"
    times: dict[str, list[float]] = {what: [] for what in packages}
    for _ in range(BATCHES):
        for what, package in packages.items():
            times[what].append(batch(lambda package=package: decide(policy, package, NOW)))  # type: ignore[misc]
    return {what: statistics.median(found) for what, found in times.items()}


def cold_microseconds(policy: Policy, count: int) -> float:
    """Of names that each have a rule which nobody has asked for yet."""
    step = max(1, count // BATCH) | 1
    packages = [Package("npm", f"evil-package-{number}", "1.0.0", "npm", hosted=False) for number in range(1, count, step) if number % 10]
    start = time.perf_counter()
    for package in packages:
        decide(policy, package, NOW)
    return (time.perf_counter() - start) / max(1, len(packages)) * 1e6


def batch(ask: Callable[[], object]) -> float:
    start = time.perf_counter()
    for _ in range(BATCH):
        ask()
    return (time.perf_counter() - start) / BATCH * 1e6


def used_kib() -> tuple[int, int]:
    """Private memory and PSS of this process."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    sizes = {name: int(text.split()[0]) for name, text in fields.items()}
    return sizes["Private_Clean"] + sizes["Private_Dirty"], sizes["Pss"]


def in_workers(buffer: bytes, count: int, workers: int) -> Iterator[tuple[int, int]]:
    """What each of some forked processes has after it has decided a lot; all hold the policy until the last one has counted."""
    with mmap.mmap(-1, max(1, len(buffer))) as shared:
        shared.write(buffer)
        del buffer
        ready, go = os.pipe(), os.pipe()
        for _ in range(workers):
            if os.fork() == 0:
                worker(shared, count, ready[1], go[0])
        with os.fdopen(ready[0]) as reports:
            for _ in range(workers):
                reports.readline()
            os.write(go[1], b"." * workers)
            for _ in range(workers):
                private, pss = reports.readline().split()
                yield int(private), int(pss)
        for _ in range(workers):
            os.wait()
        for end in (ready[1], *go):
            os.close(end)


def worker(shared: mmap.mmap, count: int, ready: int, go: int) -> NoReturn:
    policy = Policy.from_buffer(shared)
    cold_microseconds(policy, count)
    os.write(ready, b"ready\n")
    os.read(go, 1)
    os.write(ready, "{} {}\n".format(*used_kib()).encode())
    time.sleep(0.5)  # so that none is gone while another one still counts
    os._exit(0)


def memory_mib(count: int, workers: int) -> tuple[float, float]:
    """Private memory and PSS of a worker beyond those of a worker without rules, medians."""
    sizes = []
    for rules_count in (0, count):
        buffer, _ = compiled(rules_count, 1)
        gc.collect()
        sizes.append([statistics.median(column) for column in zip(*in_workers(buffer, rules_count, workers), strict=True)])
        del buffer
    return (sizes[1][0] - sizes[0][0]) / 1024, (sizes[1][1] - sizes[0][1]) / 1024


def measure_decisions(sizes: list[int], rounds: int = 3) -> list[str]:
    """Prints a table; says which targets it misses."""
    private, pss = memory_mib(MANY, WORKERS)
    print(f"{'rules':>9}  {'compile s':>9}  {'MiB':>6}  {'open ms':>7}  " + "  ".join(f"{what + ' µs':>10}" for what in (*ASKED, "cold hit")))
    missed = [line for count in sizes for line in row(count, rounds)]
    print(f"\n{MANY:,} rules in each of {WORKERS} workers: {private:.1f} MiB of its own, {pss:.1f} MiB PSS, beyond a worker without rules")
    return missed


def row(count: int, rounds: int) -> Iterator[str]:
    """Prints one; yields what is worse than it should be."""
    buffer, seconds = compiled(count, rounds)
    start = time.perf_counter()
    policy = Policy.from_buffer(buffer)
    opened = time.perf_counter() - start
    cold = cold_microseconds(policy, count)
    took = decision_microseconds(policy, count)
    figures = "  ".join(f"{value:>10.1f}" for value in (*took.values(), cold))
    print(f"{count:>9,}  {seconds:>9.3f}  {len(buffer) / 2**20:>6.1f}  {opened * 1000:>7.2f}  {figures}", flush=True)
    if took["no rule"] > TARGET_MICROSECONDS:
        yield f"MISSED: {took['no rule']:.1f} µs for a name without a rule, with {count:,} rules"
    if count == 100_000 and seconds > TARGET_COMPILE:
        yield f"MISSED: {seconds:.2f} s to compile {count:,} rules"


# -------------------------------------------------------------------------------------------------------------- a whole server

WORKERS, MANY = 4, 100_000
RELOADS = 5
TARGET_RATIO = 0.9
OF_THE_NAME = '[[block]]\nformat = "docker"\nname = "bench/app"\nversion = "v0.*"\nreason = "old"\n'
"""Another version of the very image that is read: so each read looks at the graph of the name."""


@dataclass(frozen=True)
class Setting:
    name: str
    title: str
    mode: str
    rules: int = 0
    more: str = ""


SETTINGS = (
    Setting("off", "off", "off"),
    Setting("empty", "enforce, no rules", "enforce"),
    Setting("audit", f"audit, {MANY:,} rules, ledger", "audit", MANY),
    Setting("enforce", f"enforce, {MANY:,} rules, ledger", "enforce", MANY),
    Setting("versions", f"enforce, {MANY:,} rules, ledger, rules on versions of the image", "enforce", MANY, OF_THE_NAME),
)


def rules_text(count: int, more: str) -> str:
    """A third of them is about images: those of the format that is read must be looked through, too."""
    return "# rules of a bench\n" + "".join(map(rule_text, range(count))) + more


def rule_text(number: int) -> str:
    name = f"evil/package-{number}" if number % 10 else f"typo-{number}-*"
    format = ("docker", "npm", "npm")[number % 3]
    return f'[[block]]\nid = "MAL-{number}"\nformat = "{format}"\nname = "{name}"\nversion = "*"\nreason = "malicious"\n'


@contextmanager
def running(kind: Setting, work: Path) -> Iterator[Running]:
    """A server that holds the manifest."""

    def command(folder: Path, port: int) -> tuple[list[str], Mapping[str, str]]:
        rules = rules_file(folder)
        rules.write_text(rules_text(kind.rules, kind.more))
        with_rules = f'rules_path = "{rules}"\n' if kind.mode != "off" else ""
        (folder / "config.toml").write_text(f'[server]\nworkers = {WORKERS}\n[curation]\nmode = "{kind.mode}"\n{with_rules}')
        return ours(folder, port)

    with started(kind.name, work, command, answers("/health"), seconds=60) as up:
        with Client(up.port) as client:
            push_manifest(client)
        yield up


def rules_file(folder: Path) -> Path:
    return folder / "rules.toml"


def one_to_each_worker(port: int) -> list[Client]:
    found: dict[bytes, Client] = {}
    spare: list[Client] = []
    end = time.monotonic() + 30
    while len(found) < WORKERS:
        if time.monotonic() > end:
            raise Failed(f"only {len(found)} workers accept connections")
        client = Client(port)
        worker = header(client.ask("GET", "/health").head, "X-Request-Id")[:16]
        if found.setdefault(worker, client) is not client:
            spare.append(client)
    for client in spare:
        client.sock.close()
    return list(found.values())


def header(head: bytes, name: str) -> bytes:
    found = re.search(rb"(?im)^" + name.encode() + rb":[ \t]*(\S+)", head)
    if not found:
        raise Failed(f"no {name} in {head!r}")
    return found[1]


class Reader(threading.Thread):
    """Reads from one worker without a pause; notes the longest wait, and by which policy it was answered when."""

    def __init__(self, client: Client) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.longest = 0.0
        self.policy = b""
        self.since = 0.0
        self.stopping = False

    def run(self) -> None:
        while not self.stopping:
            began = time.perf_counter()
            answer = self.client.ask("GET", PATH, headers=f"Accept: {MANIFEST_TYPE}\r\n", want=200)
            now = time.perf_counter()
            self.longest = max(self.longest, now - began)
            policy = header(answer.head, "X-Nora-Policy")
            if policy != self.policy:
                self.policy, self.since = policy, now
            time.sleep(0.001)  # four of them would otherwise keep this machine busy, and be what they measure


def measure_reloads(work: Path) -> None:
    """Prints: seconds until all workers had swapped, the longest wait of a read meanwhile and without a reload, memory before and after."""
    with running(SETTINGS[3], work) as server:
        seconds, waits, quiet = [], [], []
        clients = one_to_each_worker(server.port)
        before = server.memory_mb()
        readers = [Reader(client) for client in clients]
        for reader in readers:
            reader.start()
        wait_for(lambda: all(reader.policy for reader in readers))
        for number in range(RELOADS):
            old = {reader.policy for reader in readers}
            rules_file(server.folder).write_text(rules_text(MANY, OF_THE_NAME.replace("old", f"reason {number}")))
            took = [max_wait(readers, lambda: time.sleep(1))]
            quiet += took
            began = time.perf_counter()
            os.kill(server.process.pid, signal.SIGHUP)
            waits.append(max_wait(readers, lambda old=old: wait_for(lambda: not old & {reader.policy for reader in readers})))  # type: ignore[misc]
            seconds.append(max(reader.since for reader in readers) - began)
        for reader in readers:
            reader.stopping = True
            reader.join()
        after = server.memory_mb()
    with running(SETTINGS[1], work) as server:
        for client in one_to_each_worker(server.port):
            client.ask("GET", PATH, want=200)
        empty = server.memory_mb()
    print(f"\nreload of {MANY:,} rules, from SIGHUP until all of {WORKERS} workers have them: {with_span(seconds)} s")
    meanwhile, without = (with_span([wait * 1000 for wait in found]) for found in (waits, quiet))
    print(f"longest wait of a read meanwhile: {meanwhile} ms; in a second without a reload: {without} ms")
    print(f"PSS of master and {WORKERS} workers: {empty:.1f} MB without rules, {before:.1f} MB with {MANY:,}, {after:.1f} MB after {RELOADS} reloads")


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            raise Failed("the workers do not get the new policy")
        time.sleep(0.002)


def max_wait(readers: list[Reader], during: Callable[[], object]) -> float:
    for reader in readers:
        reader.longest = 0.0
    during()
    return max(reader.longest for reader in readers)


def measure_reads(rounds: int, seconds: float, work: Path) -> list[str]:
    """Prints a table; says which ratios are worse than they should be."""
    results = Results()
    with ExitStack() as stack:
        up = {kind.name: stack.enter_context(running(kind, work)) for kind in SETTINGS}
        for one in up.values():
            wrk(one, "", 16, 1)  # warms what remembers
        for number in range(rounds):
            for connections in CONNECTIONS:
                turn = number % len(SETTINGS)
                for kind in SETTINGS[turn:] + SETTINGS[:turn]:  # nobody is always the first
                    results.add(kind.name, connections, wrk(up[kind.name], "", connections, seconds))
            print(f"round {number + 1}/{rounds}", file=sys.stderr)
    columns = " | ".join(f"{count} connections, reads/s | ratio | processor, µs | ratio" for count in CONNECTIONS)
    print(f"\n| curation | {columns} |\n|---|{'---:|' * 4 * len(CONNECTIONS)}")
    missed = []
    for kind in SETTINGS:
        cells = []
        for count in CONNECTIONS:
            figures, (by_rate, by_cpu) = results.figures[kind.name, count], results.ratios(kind.name, count)
            cells += [with_span([one.rate for one in figures]), ratio(by_rate), with_span([one.cpu for one in figures]), ratio(by_cpu)]
            if statistics.median(by_rate) < TARGET_RATIO:
                missed.append(f"MISSED: {kind.title}: {statistics.median(by_rate):.2f}{TIMES} of off with {count} connections")
        print(f"| {kind.title} | {' | '.join(cells)} |")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench curation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("decisions", "reloads", "reads"), help="measure only these")
    parser.add_argument("--rules", type=int, nargs="*", default=list(SIZES), help="how many rules, for decisions; default: %(default)s")
    parser.add_argument("--reps", type=int, default=5, help="rounds of reads; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=3, help="of each figure of reads; default: %(default)s")
    parser.add_argument("--disk", default="/var/tmp", help="folder whose disk the servers write to; default: %(default)s")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        parser.error("wrk is missing (apt install wrk)")
    print(f"{machine()}.\n")
    missed: list[str] = []
    if options.only in (None, "decisions"):
        missed += measure_decisions(options.rules)
    with tempfile.TemporaryDirectory(prefix="nora-bench-", dir=options.disk) as work:
        if options.only in (None, "reloads"):
            measure_reloads(Path(work))
        if options.only in (None, "reads"):
            missed += measure_reads(options.reps, options.seconds, Path(work))
    print("\n" + ("\n".join(missed) or "all targets are met"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
