"""scripts/bench oci: push, pull, small reads, start-up and memory of this registry beside CNCF distribution and NORA.

Every figure of a round is taken from each server in turn, on an empty folder of the same disk, with the same client; the table
holds medians. This registry has everything on: logins by API token, limiter, metrics, a log line for each request. With --against also another
checkout of it takes its turns, and where plans matter, this one without them. docs/performance.md says what each row is and how to read it.
Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import bench_reads
from bench_blobs import Blob, Push, prepared, push_apart, push_pieces, push_stream, push_whole
from bench_client import MANIFEST_TYPE, MIB, Failed, digest_of, manifest_of, push_bytes
from bench_common import ROOT, figure, machine, together
from bench_oci_table import Found, Results, render_table, rows, write_page
from bench_peers import OURS, PEERS, PLANS, Server, of_checkout, running, without_plans

PAGE = ROOT / "docs" / "performance.md"
NEED_BLOBS = {"memory", "push", "stream", "chunks", "apart", "pull"}
NEED_WRK = {"manifest", "blob", "mixed", "plans"}
WITHOUT_PLANS = {"mixed", "plans"}
"""Groups in which this registry is measured without plans as well."""
BEFORE = {"apart", "images", "mixed"}
"""Groups that are measured of the other checkout, too, if none was asked for by name."""
ONCE = {"plans"}
"""Groups that take long and vary little: a single round."""


# ----------------------------------------------------------------------------------------------------------- what is measured


@dataclass
class Bench:
    work: Path
    blobs: list[Blob]
    seconds: float  # of each row that counts requests
    heads: int

    def groups(self) -> dict[str, Callable[[Server], dict[str, Found]]]:
        """By name, in the order of the table."""
        return {
            "start": self._start,
            "memory": self._memory,
            "push": partial(self._push, "push", push_whole),
            "stream": partial(self._push, "stream", push_stream),
            "chunks": partial(self._push, "chunks", push_pieces),
            "apart": partial(self._push, "apart", push_apart),
            "pull": self._pull,
            "manifest": self._manifest,
            "blob": self._blob,
            "mixed": self._mixed,
            "images": self._images,
            "plans": self._plans,
        }

    def _start(self, server: Server) -> dict[str, Found]:
        with running(server, self.work) as registry:
            time.sleep(2)
            return {"start": Found(registry.up.start_seconds), "idle": Found(registry.up.memory_mb())}

    def _push(self, row: str, push: Push, server: Server) -> dict[str, Found]:
        found = {}
        for count in (1, 4):
            with running(server, self.work) as registry:
                clients = [registry.client() for _ in range(count)]
                jobs = list(zip(clients, self.blobs, strict=False))
                before = registry.up.cpu_seconds()
                seconds = together(count, lambda n, jobs=jobs: push(jobs[n][0], f"bench/push{n}", jobs[n][1]))  # type: ignore[misc]
                used = registry.up.cpu_seconds() - before
                for number, (client, blob) in enumerate(jobs):
                    head = client.ask("HEAD", f"/v2/bench/push{number}/blobs/{blob.digest}", want=200).head
                    if f"content-length: {blob.size}".encode() not in head.lower():
                        raise Failed("a pushed blob has another size")
                    client.sock.close()
                gigabytes = count * self.blobs[0].size / 1e9
                found[f"{row}-{count}"] = Found(gigabytes * 1000 / seconds, used / gigabytes)
        return found

    def _pull(self, server: Server) -> dict[str, Found]:
        blob = self.blobs[0]
        path = f"/v2/bench/pull/blobs/{blob.digest}"
        found = {}
        with running(server, self.work) as registry:
            with registry.client() as client:
                push_whole(client, "bench/pull", blob)
                if client.digest_of(path, blob.size) != blob.digest:
                    raise Failed("a pulled blob has another digest")
            os.sync()
            for count in (1, 8):
                clients = [registry.client() for _ in range(count)]
                buffers = [bytearray(MIB) for _ in range(count)]
                before = registry.up.cpu_seconds()
                seconds = together(count, lambda n, c=clients, b=buffers: c[n].discard(path, blob.size, b[n]))  # type: ignore[misc]
                used = registry.up.cpu_seconds() - before
                for client in clients:
                    client.sock.close()
                gigabytes = count * blob.size / 1e9
                found[f"pull-{count}"] = Found(gigabytes * 1000 / seconds, used / gigabytes)
        return found

    def _manifest(self, server: Server) -> dict[str, Found]:
        with running(server, self.work) as registry:
            return bench_reads.manifests(registry, self.seconds)

    def _blob(self, server: Server) -> dict[str, Found]:
        with running(server, self.work) as registry:
            return bench_reads.blobs(registry, self.seconds)

    def _mixed(self, server: Server) -> dict[str, Found]:
        with running(server, self.work) as registry:
            return bench_reads.mixed(registry, self.seconds)

    def _plans(self, server: Server) -> dict[str, Found]:
        if server in PEERS:
            return {}
        with running(server, self.work) as registry:
            return bench_reads.plans(registry, self.heads)

    def _images(self, server: Server) -> dict[str, Found]:
        """Images of a config and one layer, all bytes new, from 8 connections: HEAD, POST and PUT of each blob, PUT of the manifest."""
        done = [0] * 8
        with running(server, self.work) as registry:
            end = time.perf_counter() + self.seconds

            def push_images(number: int) -> None:
                repository = f"bench/small{number}"
                with registry.client() as client:
                    while time.perf_counter() < end:
                        layer = os.urandom(1024)
                        config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["%b"]}}' % digest_of(layer).encode()
                        for data in (layer, config):
                            client.ask("HEAD", f"/v2/{repository}/blobs/{digest_of(data)}", want=404)
                            push_bytes(client, repository, data)
                        manifest = manifest_of((digest_of(config), len(config)), (digest_of(layer), len(layer)))
                        path = f"/v2/{repository}/manifests/v{done[number]}"
                        client.ask("PUT", path, manifest, f"Content-Type: {MANIFEST_TYPE}\r\n", want=201)
                        done[number] += 1

            before = registry.up.cpu_seconds()
            seconds = together(8, push_images)
            used = registry.up.cpu_seconds() - before
        return {"images": Found(sum(done) / seconds, used / sum(done) * 1000)}

    def _memory(self, server: Server) -> dict[str, Found]:
        """The highest PSS seen while 4 clients push and 8 pull without pause."""
        path = f"/v2/bench/pull/blobs/{self.blobs[0].digest}"
        highest = 0.0
        with running(server, self.work) as registry:
            with registry.client() as client:
                push_whole(client, "bench/pull", self.blobs[0])
            end = time.perf_counter() + max(6.0, self.seconds)

            def load(number: int) -> None:
                buffer = bytearray(MIB)
                turn = 0
                with registry.client() as client:
                    while time.perf_counter() < end:
                        if number < 4:
                            push_whole(client, f"bench/push{number}-{turn}", self.blobs[number % len(self.blobs)])
                        else:
                            client.discard(path, self.blobs[0].size, buffer)
                        turn += 1

            with ThreadPoolExecutor(1) as pool:
                loaded = pool.submit(together, 12, load)
                while not loaded.done():
                    highest = max(highest, registry.up.memory_mb())
                    time.sleep(0.2)
                loaded.result()
        return {"loaded": Found(highest)}


# ------------------------------------------------------------------------------------------------------------------ the rounds


def measure(bench: Bench, wanted: list[str], servers: list[Server], reps: int, asked_for: bool) -> Results:
    """`asked_for`: the groups were named, so that the other checkout takes part in all of them."""
    results = Results()
    groups = bench.groups()
    for rep in range(reps):
        for group in [name for name in wanted if not rep or name not in ONCE]:
            takes_part = {"off": group in WITHOUT_PLANS, "before": group in BEFORE or (asked_for and group not in ONCE)}
            those = [server for server in servers if takes_part.get(server.name, True)]
            turn = rep % len(those)
            for server in those[turn:] + those[:turn]:  # nobody is always the first
                told = f"round {rep + 1}/{reps} {server.name:13}"
                try:
                    found = groups[group](server)
                except (Failed, OSError, subprocess.SubprocessError) as error:
                    results.failures[group, server.name] = str(error)
                    print(f"{told} {group}: FAILED: {error}", file=sys.stderr)
                    continue
                for row, one in found.items():
                    results.values.setdefault((row, server.name), []).append(one)
                print(told, " ".join(f"{row}={figure(one.value)}" for row, one in found.items()), file=sys.stderr)
    return results


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench oci", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    groups = list(Bench(Path(), [], 0, 0).groups())
    parser.add_argument("--quick", action="store_true", help="128 MiB blobs, 2 rounds, rows of 1 s: to see that it works, not to compare")
    parser.add_argument("--only", action="append", choices=groups, help="measure this group; may be given again")
    parser.add_argument("--reps", type=int, help="rounds (default 5; with --quick 2)")
    parser.add_argument("--seconds", type=float, help="of each row that counts requests (default 3; with --quick 1)")
    parser.add_argument("--servers", default="ours,off,distribution,nora", help="which to run (default %(default)s); off: ours without plans")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="a folder with another state of this repository, measured too")
    parser.add_argument("--disk", default="/var/tmp", help="folder whose disk the servers write to (default %(default)s)")
    parser.add_argument("--inputs", default="/dev/shm", help="folder in memory for the blobs to send, 4.3 GB (default %(default)s)")
    parser.add_argument("--json", type=Path, help="also write every single figure to this file")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md also after a run with --quick, --only or --servers")
    options = parser.parse_args()
    known = {"ours", "off", *(peer.name for peer in PEERS)}
    options.servers = options.servers.split(",")
    if unknown := set(options.servers) - known:
        parser.error(f"unknown server {', '.join(sorted(unknown))}: the servers are {', '.join(sorted(known))}")
    options.is_whole = not (options.quick or options.only or set(options.servers) != known)
    options.groups = options.only or groups
    return options


def chosen(options: argparse.Namespace) -> tuple[list[Server], list[str]]:
    """The servers that can be measured, and notes about the others."""
    off, notes = without_plans(), []
    servers = [server for server in (OURS, off, *PEERS) if server is not None and server.name in options.servers]
    if off is None and "off" in options.servers:
        notes.append(f"This version does not know {PLANS}: it was not measured without plans.")
    for server in [server for server in servers if server.is_absent]:
        servers.remove(server)
        assert server.program
        notes.append(f"{server.title} was not measured: no `{server.program[1]}` in ${server.program[0]}, ~/.cache/noraflask/bin or PATH.")
    if options.against:
        servers.append(of_checkout(options.against))
    return servers, notes


def main() -> None:
    options = parsed()
    servers, notes = chosen(options)
    wanted = options.groups
    if not shutil.which("wrk") and NEED_WRK & set(wanted):
        notes.append("Manifests and small blobs were not measured: no `wrk` (apt install wrk).")
        wanted = [group for group in wanted if group not in NEED_WRK]
    for note in notes:
        print(note, file=sys.stderr)

    size = 128 * MIB if options.quick else 512 * MIB
    reps = options.reps or (2 if options.quick else 5)
    begin = time.monotonic()
    with ExitStack() as stack:
        work, inputs = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nora-bench-", dir=folder))) for folder in (options.disk, options.inputs)
        )
        blobs = stack.enter_context(prepared(inputs, 4, size)) if NEED_BLOBS & set(wanted) else []
        bench = Bench(work, blobs, options.seconds or (1 if options.quick else 3), bench_reads.HEADS // (20 if options.quick else 1))
        results = measure(bench, wanted, servers, reps, bool(options.only))

    table = render_table(results, rows(size), servers)
    notes += [f"{group} failed on {server}: {why[:300]}" for (group, server), why in results.failures.items()]
    print("\n".join(["", table, "", *notes]))
    if options.json:
        figures = [{"row": row, "server": server, "values": [vars(one) for one in found]} for (row, server), found in results.values.items()]
        options.json.write_text(json.dumps({"machine": machine(), "blob_bytes": size, "figures": figures}, indent=1))
    if options.write or options.is_whole:
        today = datetime.datetime.now(datetime.UTC).date()
        taken = f"{today}, {machine()}. Median of {reps} rounds (lowest to highest), {(time.monotonic() - begin) / 60:.0f} minutes."
        write_page(PAGE, "\n\n".join([taken, table, *notes]))
        print(f"written to {PAGE.relative_to(ROOT)}")
    if results.failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
