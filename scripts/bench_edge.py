"""scripts/bench edge: what the front costs, and what the hooks of each request cost, beside peers that are measured in the same run.

    pull      a large blob through nginx with TLS of an own CA, sent by nginx (X-Accel-Redirect) and by the registry, beside the same file as
              nginx serves it statically over the same TLS
    push      a large blob, new each time, through that nginx, beside the registry's own port; the same of the peers behind the same nginx
    rate      a small manifest by its tag, by wrk at the registry's own port: limiter, metrics, log line and an API token all on, beside all off, and
              beside the peers with their defaults, NORA without its limiter
    behind    a small manifest and a small blob, by wrk through that nginx with TLS, everything on, beside the peers behind the same nginx

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
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench_blobs import Blob, prepared, push_whole
from bench_client import MIB, PATH, Failed, push_bytes, push_manifest
from bench_common import CONNECTIONS, ROOT, Running, load, machine, ours, wrk
from bench_edge_results import OBJECTS, Results, in_turn, render
from bench_front import HOST, Front, curl, front, make_certificates
from bench_hooks import ALL_OFF, HOOKS, profile
from bench_peers import OURS, PEERS, Registry, Server, all_on, running
from bench_push import REPOSITORY, measure_pushes

PARTS = ("pull", "push", "rate", "behind")


# ------------------------------------------------------------------------------------------------------------ what is measured


def with_cost(transfer: Callable[[], float], servers: Front, size: int, results: Results, row: str, way: str) -> float:
    """The transfer's rate; what it costs nginx and the registry is noted as well, in seconds of the processor for a GB."""
    before = servers.cpu_seconds()
    rate = transfer()
    results.add(f"processor, {row}", way, (servers.cpu_seconds() - before) / size * 1e9)
    return rate


def content_path(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    return f"{algorithm}/{value[:2]}/{value}"


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


def measure_pull(handing: Front, plain: Front, blob: Blob, rounds: int, results: Results) -> None:
    for each in (handing, plain):
        with each.registry.client() as client:
            push_whole(client, REPOSITORY, blob)
    path = f"/v2/{REPOSITORY}/blobs/{blob.digest}"
    ways = {
        "nginx sends": (handing, path),
        "registry sends": (plain, path),
        "static file": (handing, f"/static/{content_path(blob.digest)}"),
    }
    options = {name: [*each.trusting(), *(each.registry_login() if where == path else [])] for name, (each, where) in ways.items()}
    for name, (each, where) in ways.items():
        check_bytes(each.url(where), blob.digest, *options[name])
        told = "accel" in [key for line in lines_of(each.registry.up, path) for key in line]
        if name != "static file" and told != (name == "nginx sends"):
            raise Failed(f"{name}: the registry's log says otherwise")
    for protocol in ("1.1", "2"):
        calls, row = {}, f"pull, HTTP/{protocol}"
        for name, (each, where) in ways.items():
            transfer = partial(pulled, each.url(where), blob.size, f"--http{protocol}", *options[name])
            calls[name] = partial(with_cost, transfer, each, blob.size, results, row, name)
        in_turn(rounds, calls, results, row)


def lines_of(registry: Running, path: str) -> list[dict[str, object]]:
    """Of the registry's log, those of GETs of that path."""
    lines = (registry.folder / "log").read_text(errors="replace").splitlines()
    return [json.loads(line) for line in lines if f'"{path}"' in line and '"GET"' in line]


def all_off(folder: Path, port: int) -> tuple[list[str], Mapping[str, str]]:
    arguments, own = ours(folder, port)
    return arguments, own | ALL_OFF


def measure_rate(peers: list[Server], work: Path, rounds: int, seconds: float, results: Results) -> None:
    off = replace(OURS, name="all-off", title="all off", command=all_off, logins=False)
    servers = {"all on": OURS, **{server.title: server for server in (off, *peers)}}
    with ExitStack() as stack:
        up = {title: stack.enter_context(running(server, work)) for title, server in servers.items()}
        for registry in up.values():
            with registry.client() as client:
                push_manifest(client)
            wrk(registry.up, registry.login, 16, 2)  # warms what remembers
        for connections in CONNECTIONS:
            reads = {title: partial(read, registry, connections, seconds, results, title) for title, registry in up.items()}
            in_turn(rounds, reads, results, f"rate, {connections} connections")


def read(registry: Registry, connections: int, seconds: float, results: Results, way: str) -> float:
    """Reads a second; what they cost the server is noted as well."""
    found = wrk(registry.up, registry.login, connections, seconds)
    results.add(f"processor, rate, {connections} connections", way, found.cpu)
    return found.rate


def measure_behind(fronts: Mapping[str, Front], rounds: int, seconds: float, results: Results) -> None:
    paths = {}
    for title, each in fronts.items():
        with each.registry.client() as client:
            digest = push_manifest(client)
            blob = push_bytes(client, "bench/app", os.urandom(300))
        paths[title] = dict(zip(OBJECTS, (PATH, f"/v2/bench/app/manifests/{digest}", f"/v2/bench/app/blobs/{blob}"), strict=True))
    for what in OBJECTS:
        for connections in CONNECTIONS:
            row = f"behind nginx, {what}, {connections} connections"
            reads = {
                title: partial(read_behind, each, paths[title][what], connections, seconds, results, row, title) for title, each in fronts.items()
            }
            for call in reads.values():
                call(warming=True)
            in_turn(rounds, reads, results, row)


def read_behind(each: Front, path: str, connections: int, seconds: float, results: Results, row: str, way: str, warming: bool = False) -> float:
    url = f"https://127.0.0.1:{each.nginx.port}{path}"
    if warming:
        return load(url, each.registry.login, connections, 2, HOST).rate
    before = each.cpu_seconds()
    found = load(url, each.registry.login, connections, seconds, HOST)
    results.add(f"processor, {row}", way, (each.cpu_seconds() - before) / found.count * 1e6)
    return found.rate


# ---------------------------------------------------------------------------------------------------------------------- the run


def measure(options: argparse.Namespace, wanted: list[str], rounds: int, seconds: float) -> Results:
    results = Results()
    peers = [peer for peer in PEERS if not peer.is_absent]
    with ExitStack() as stack:
        work, inputs = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nora-bench-", dir=folder))) for folder in (options.disk, options.inputs)
        )
        make_certificates(inputs)

        def fronted(server: Server) -> Front:
            return fronts.enter_context(front(server, work, options.conf, inputs))

        with ExitStack() as fronts:
            if "pull" in wanted or "push" in wanted:
                (blob,) = fronts.enter_context(prepared(inputs, 1, (options.size or (128 if options.quick else 512)) * MIB))
                if "pull" in wanted:
                    handing = replace(OURS, name="handing", command=partial(all_on, more={"NORA_ACCEL_REDIRECT": "/_nora/"}))
                    measure_pull(fronted(handing), fronted(OURS), blob, rounds, results)
                if "push" in wanted:
                    measure_pushes({"": fronted(OURS), **{f"{peer.title}, ": fronted(peer) for peer in peers}}, blob, rounds, results)
        with ExitStack() as fronts:
            if "behind" in wanted:
                measure_behind({server.title: fronted(server) for server in (OURS, *peers)}, rounds, seconds, results)
        if "rate" in wanted:
            measure_rate(peers, work, rounds, seconds, results)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench edge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a blob of 128 MiB, 2 rounds, rates of 1 s: to see that it works, not to compare")
    parser.add_argument("--only", action="append", choices=PARTS, help="measure only this; may be given again")
    parser.add_argument("--reps", type=int, help="rounds (default 5; with --quick 2)")
    parser.add_argument("--seconds", type=float, help="of each rate (default 3; with --quick 1)")
    parser.add_argument("--size", type=int, help="of the blob, in MiB (default 512; with --quick 128)")
    parser.add_argument("--disk", default="/var/tmp", help="folder whose disk the servers write to (default %(default)s)")
    parser.add_argument("--inputs", default="/dev/shm", help="folder in memory for the blob that is pushed (default %(default)s)")
    parser.add_argument("--conf", type=Path, default=ROOT / "etc" / "nginx" / "nginx.conf", help="nginx's configuration (default %(default)s)")
    parser.add_argument("--profile", action="store_true", help="time the hooks of a request in process instead")
    options = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    wanted = options.only or list(PARTS)
    rounds, seconds = options.reps or (2 if options.quick else 5), options.seconds or (1 if options.quick else 3)
    print(f"{machine()}. {'' if options.profile else 'Medians of '}{rounds} rounds (lowest to highest).\n")
    for hook in HOOKS:
        for variable in hook.unknown:
            print(f"{hook.name}: this version does not know {variable}, which was left out.")
    if options.profile:
        print(profile(rounds, calls=500 if options.quick else 3000))
        return 0
    programs = {"wrk": {"rate", "behind"}, "nginx": {"pull", "push", "behind"}, "curl": {"pull", "push"}, "openssl": {"pull", "push", "behind"}}
    for name, parts in programs.items():
        if parts & set(wanted) and not shutil.which(name):
            parser.error(f"{name} is missing (apt install {name}, or ./scripts/clients)")
    results = measure(options, wanted, rounds, seconds)
    for peer in PEERS:
        if peer.program and peer.is_absent:
            print(f"{peer.title} was not measured: no `{peer.program[1]}` in ${peer.program[0]}, ~/.cache/noraflask/bin or PATH.")
    table, missed = render(results)
    print(f"{table}\n\n" + ("\n".join(missed) or "all targets are met"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
