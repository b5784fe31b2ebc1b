"""scripts/bench edge: what the front costs, and what the hooks of each request cost, beside peers that are measured in the same run.

    pull      a large blob through nginx with TLS of an own CA, sent by nginx (X-Accel-Redirect) and by the registry, beside the same file as
              nginx serves it statically over the same TLS
    push      a large blob, new each time, through that nginx, beside the registry's own port
    rate      a small manifest by its tag, by wrk at the registry's own port: limiter, metrics, log line and an API token all on, beside all off, and
              beside NORA with its defaults and no limiter

All take turns in each round, another one first each time; a ratio compares two figures of the same round, and the table holds medians with their
span. nginx is configured by etc/nginx/nginx.conf with other ports and paths. What this version cannot switch is left as it is, and named.
--profile times the application in process instead, called by one thread: microseconds of processor time of a request with each hook alone, and all.
Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from bench_common import (
    CONNECTIONS,
    MIB,
    ROOT,
    TIMES,
    Client,
    Failed,
    Running,
    answers,
    figure,
    find_binary,
    machine,
    nora,
    ours,
    push_manifest,
    ratio,
    started,
    with_digest,
    with_span,
    wrk,
)
from bench_front import Front, front, make_certificates
from bench_hooks import ALL_OFF, ALL_ON, HOOKS, login_settings, password, profile

BLOB_REPOSITORY = "bench/large"
TARGETS = {"pull": 0.9, "push": 0.8, "all off": 0.75, "NORA 1.4.3": 1.0}


# ------------------------------------------------------------------------------------------------------------ what is measured


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


def with_cost(transfer: Callable[[], float], servers: Front, size: int, results: Results, row: str, way: str) -> float:
    """The transfer's rate; what it costs nginx and the registry is noted as well, in seconds of the processor for a GB."""
    before = servers.cpu_seconds()
    rate = transfer()
    results.add(f"processor, {row}", way, (servers.cpu_seconds() - before) / size * 1e9)
    return rate


def curl(*arguments: str, want: int) -> tuple[float, int]:
    """Seconds of the transfer, and bytes that came."""
    said = subprocess.run(["curl", "-sS", "-w", "%{stderr}%{json}", *arguments], capture_output=True, text=True, check=True).stderr
    told = json.loads(said)
    if told["http_code"] != want:
        raise Failed(f"curl {arguments[-1]} gave {told['http_code']}, not {want}")
    return told["time_total"], told["size_download"]


class Large:
    """A blob in memory that can be made new: other bytes, another digest."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size, self._number = path, size, 0
        noise = os.urandom(MIB)
        with open(path, "wb") as file:
            for part in range(size // MIB):
                file.write(struct.pack(">QQ", 0, part) + noise[16:])

    def renew(self) -> str:
        """The new digest."""
        self._number += 1
        with open(self.path, "r+b") as file:
            file.write(struct.pack(">Q", self._number))
        with open(self.path, "rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def content_path(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    return f"{algorithm}/{value[:2]}/{value}"


def begin_upload(registry: Running) -> str:
    with Client(registry.port) as client:
        return client.ask("POST", f"/v2/{BLOB_REPOSITORY}/blobs/uploads/", want=202).location()


def put(large: Large, digest: str, base: str, registry: Running, *options: str) -> float:
    """MB/s of the PUT with all the bytes."""
    url = base + with_digest(begin_upload(registry), digest)
    head = ("-H", "Content-Type: application/octet-stream", "-H", "Expect:")
    seconds, _ = curl(*options, *head, "-o", os.devnull, "-T", str(large.path), url, want=201)
    return large.size / seconds / 1e6


def pulled(url: str, size: int, *options: str) -> float:
    seconds, came = curl(*options, "-o", os.devnull, url, want=200)
    if came != size:
        raise Failed(f"{url} gave {came} bytes, not {size}")
    return size / seconds / 1e6


def check_bytes(url: str, digest: str, *options: str) -> None:
    """Once for each way: what comes is what was pushed."""
    with subprocess.Popen(["curl", "-sS", *options, url], stdout=subprocess.PIPE) as process:
        assert process.stdout
        found = hashlib.sha256()
        while data := process.stdout.read(MIB):
            found.update(data)
    if f"sha256:{found.hexdigest()}" != digest:
        raise Failed(f"{url} gave other bytes than were pushed")


def measure_pull(handing: Front, plain: Front, large: Large, rounds: int, results: Results) -> None:
    digest = large.renew()
    for each in (handing, plain):
        put(large, digest, f"http://127.0.0.1:{each.registry.port}", each.registry)
    path = f"/v2/{BLOB_REPOSITORY}/blobs/{digest}"
    ways = {
        "nginx sends": (handing, path),
        "registry sends": (plain, path),
        "static file": (handing, f"/static/{content_path(digest)}"),
    }
    for name, (each, where) in ways.items():
        check_bytes(each.url(where), digest, *each.options())
        told = "accel" in [key for line in lines_of(each.registry, path) for key in line]
        if name != "static file" and told != (name == "nginx sends"):
            raise Failed(f"{name}: the registry's log says otherwise")
    for protocol in ("1.1", "2"):
        calls, row = {}, f"pull, HTTP/{protocol}"
        for name, (each, where) in ways.items():
            transfer = partial(pulled, each.url(where), large.size, f"--http{protocol}", *each.options())
            calls[name] = partial(with_cost, transfer, each, large.size, results, row, name)
        in_turn(rounds, calls, results, row)


def lines_of(registry: Running, path: str) -> list[dict[str, object]]:
    """Of the registry's log, those of GETs of that path."""
    lines = (registry.folder / "log").read_text(errors="replace").splitlines()
    return [json.loads(line) for line in lines if f'"{path}"' in line and '"GET"' in line]


def measure_push(plain: Front, large: Large, rounds: int, results: Results) -> None:
    def push(way: str, base: str, *options: str) -> float:
        digest = large.renew()
        os.sync()
        rate = with_cost(partial(put, large, digest, base, plain.registry, *options), plain, large.size, results, "push", way)
        stored = plain.registry.storage / "blobs" / content_path(digest)
        if stored.stat().st_size != large.size:
            raise Failed("a pushed blob has another size")
        stored.unlink()  # so that the disk need not hold them all
        return rate

    calls = {"direct": partial(push, "direct", f"http://127.0.0.1:{plain.registry.port}")}
    for protocol in ("1.1", "2"):
        way = f"nginx, HTTP/{protocol}"
        calls[way] = partial(push, way, plain.url(""), f"--http{protocol}", *plain.options())
    in_turn(rounds, calls, results, "push")


def measure_rate(work: Path, rounds: int, seconds: float, results: Results) -> None:
    def command_of(settings: Mapping[str, str]) -> Callable[[Path, int], tuple[list[str], Mapping[str, str]]]:
        def command(folder: Path, port: int) -> tuple[list[str], Mapping[str, str]]:
            arguments, own = ours(folder, port)
            return arguments, own | dict(settings) | login_settings(folder, settings)

        return command

    servers = {"all on": command_of(ALL_ON), "all off": command_of(ALL_OFF)}
    if find_binary("NORAFLASK_BENCH_NORA", "nora"):
        servers["NORA 1.4.3"] = nora
    with ExitStack() as stack:
        up = {name: stack.enter_context(started(name.replace(" ", "-"), work, command, answers("/health"))) for name, command in servers.items()}
        headers = dict.fromkeys(up, "")
        headers["all on"] = api_token(up["all on"].port)
        for name, each in up.items():
            push_manifest(each.port, password() if name == "all on" else "")
            wrk(each, headers[name], 16, 1)  # warms what remembers
        for connections in CONNECTIONS:
            reads = {name: partial(read, server, headers[name], connections, seconds, results, name) for name, server in up.items()}
            in_turn(rounds, reads, results, f"rate, {connections} connections")


def read(server: Running, header: str, connections: int, seconds: float, results: Results, way: str) -> float:
    """Reads a second; what they cost the server is noted as well."""
    found = wrk(server, header, connections, seconds)
    results.add(f"processor, rate, {connections} connections", way, found.cpu)
    return found.rate


def api_token(port: int) -> str:
    with Client(port) as client:
        answer = client.ask("POST", "/api/tokens", b"{}", f"Authorization: {password()}\r\nContent-Type: application/json\r\n", 200)
    return f"Bearer {json.loads(answer.body)['token']}"


# ------------------------------------------------------------------------------------------------------------------- the tables


@dataclass(frozen=True)
class Row:
    name: str
    way: str
    other: str
    target: float | None = None


def rows(results: Results) -> Iterator[Row]:
    """Those with a target first, then what they cost."""
    pulls = [Row(f"pull, HTTP/{protocol}", way, "static file") for protocol in ("1.1", "2") for way in ("nginx sends", "registry sends")]
    pushes = [Row("push", f"nginx, HTTP/{protocol}", "direct", TARGETS["push"]) for protocol in ("1.1", "2")]
    rates = [Row(f"rate, {count} connections", "all on", other, TARGETS[other]) for count in CONNECTIONS for other in ("all off", "NORA 1.4.3")]
    found = [replace(row, target=TARGETS["pull"]) if row.way == "nginx sends" else row for row in pulls] + pushes + rates
    yield from found
    for row in found:
        yield Row(f"processor, {row.name}", row.way, row.other)


def unit(row: str) -> str:
    is_rate = "rate" in row
    return ("µs a read" if is_rate else "s/GB") if row.startswith("processor") else "reads/s" if is_rate else "MB/s"


def render(results: Results) -> tuple[str, list[str]]:
    """A table in Markdown, and what misses its target."""
    lines, missed = ["| | | | beside | | ratio | target | |", "|---|---|---:|---|---:|---:|---:|---|"], []
    for row in rows(results):
        mine, theirs = results.values.get((row.name, row.way)), results.values.get((row.name, row.other))
        if not mine or not theirs:
            continue
        found = results.ratios(row.name, row.way, row.other)
        reached = row.target is None or statistics.median(found) >= row.target
        mark = "" if row.target is None else "reached" if reached else "**missed**"
        target = "" if row.target is None else f"≥ {row.target:g}{TIMES}"
        what = f"{row.name}, {unit(row.name)} | {row.way} | {with_span(mine)} | {row.other} | {with_span(theirs)}"
        lines.append(f"| {what} | {ratio(found)} | {target} | {mark} |")
        if not reached:
            missed.append(f"MISSED: {row.name}: {row.way} is {statistics.median(found):.2f}{TIMES} of {row.other}, wanted {row.target:g}{TIMES}")
    return "\n".join(lines), missed


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench edge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a blob of 128 MiB, 2 rounds, rates of 1 s: to see that it works, not to compare")
    parser.add_argument("--only", action="append", choices=("pull", "push", "rate"), help="measure only this; may be given again")
    parser.add_argument("--reps", type=int, help="rounds (default 7; with --quick 2)")
    parser.add_argument("--seconds", type=float, help="of each rate (default 3; with --quick 1)")
    parser.add_argument("--size", type=int, help="of the blob, in MiB (default 1024; with --quick 128)")
    parser.add_argument("--disk", default="/var/tmp", help="folder whose disk the servers write to (default %(default)s)")
    parser.add_argument("--inputs", default="/dev/shm", help="folder in memory for the blob that is pushed (default %(default)s)")
    parser.add_argument("--conf", type=Path, default=ROOT / "etc" / "nginx" / "nginx.conf", help="nginx's configuration (default %(default)s)")
    parser.add_argument("--profile", action="store_true", help="time the hooks of a request in process instead")
    options = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    wanted = options.only or ["pull", "push", "rate"]
    rounds, seconds = options.reps or (2 if options.quick else 7), options.seconds or (1 if options.quick else 3)
    print(f"{machine()}. {'' if options.profile else 'Medians of '}{rounds} rounds (lowest to highest).\n")
    for hook in HOOKS:
        for variable in hook.unknown:
            print(f"{hook.name}: this version does not know {variable}, which was left out.")
    if options.profile:
        print(profile(rounds, calls=500 if options.quick else 3000))
        return 0
    needed = {"wrk": "rate" in wanted, "nginx": "".join(wanted) != "rate", "curl": "".join(wanted) != "rate", "openssl": "".join(wanted) != "rate"}
    for name, is_needed in needed.items():
        if is_needed and not shutil.which(name):
            parser.error(f"{name} is missing (apt install {name}, or ./scripts/clients)")
    if needed["nginx"] and not options.conf.exists():
        parser.error(f"{options.conf} is not there")
    results = Results()
    with (
        tempfile.TemporaryDirectory(prefix="nora-bench-", dir=options.disk) as work,
        tempfile.TemporaryDirectory(prefix="nora-bench-", dir=options.inputs) as inputs,
    ):
        if "pull" in wanted or "push" in wanted:
            large = Large(Path(inputs) / "large", (options.size or (128 if options.quick else 1024)) * MIB)
            make_certificates(Path(inputs))
            with ExitStack() as stack:
                fronts = [
                    stack.enter_context(front(name, Path(work), options.conf, Path(inputs), settings))
                    for name, settings in (("handing", {"NORA_ACCEL_REDIRECT": "/_nora/"}), ("plain", {}))
                ]
                if "pull" in wanted:
                    measure_pull(fronts[0], fronts[1], large, rounds, results)
                if "push" in wanted:
                    measure_push(fronts[1], large, rounds, results)
            large.path.unlink()
        if "rate" in wanted:
            measure_rate(Path(work), rounds, seconds, results)
            if not find_binary("NORAFLASK_BENCH_NORA", "nora"):
                print("NORA 1.4.3 was not measured: no `nora` in $NORAFLASK_BENCH_NORA, ~/.cache/noraflask/bin or PATH (scripts/clients peers).")
    table, missed = render(results)
    print(f"{table}\n\n" + ("\n".join(missed) or "all targets are met"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
