"""scripts/bench oci: push, pull, small reads, start-up and memory of this registry beside CNCF distribution and NORA.

Every figure of a round is taken from each server in turn, on an empty folder of the same disk, with the same client; the table
holds medians. docs/performance.md says what each row is and how to read it. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import re
import select
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from bench_common import (
    MANIFEST_TYPE,
    MIB,
    ROOT,
    TIMES,
    Client,
    Failed,
    Running,
    answers,
    digest_of,
    figure,
    find_binary,
    machine,
    manifest_of,
    nora,
    ours,
    push_bytes,
    started,
    with_digest,
    with_span,
)

PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- scripts/bench oci writes from here -->", "<!-- to here -->"
FRAME = 32 * 1024  # chunk of a streamed body: what Go's clients (docker, containerd, crane) send
PIECE = 16 * MIB  # body of one PATCH in a chunked upload


# ---------------------------------------------------------------------------------------------------------------- the servers


@dataclass(frozen=True)
class Server:
    """How to start one registry in a folder, with its defaults."""

    name: str
    title: str
    command: Callable[[Path, int], tuple[list[str], dict[str, str]]]


def distribution(folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """The configuration and environment of its own container image."""
    config = folder / "config.yml"
    config.write_text(
        "version: 0.1\nlog: {fields: {service: registry}}\n"
        f"storage: {{cache: {{blobdescriptor: inmemory}}, filesystem: {{rootdirectory: {folder}/storage}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}', headers: {{X-Content-Type-Options: [nosniff]}}}}\n"
        "health: {storagedriver: {enabled: true, interval: 10s, threshold: 3}}\n"
    )
    program = find_binary("NORAFLASK_BENCH_DISTRIBUTION", "registry")
    assert program
    return [program, "serve", str(config)], {"OTEL_TRACES_EXPORTER": "none"}


SERVERS = (
    Server("ours", "noraflask", ours),
    Server("distribution", "distribution 3.1.2", distribution),
    Server("nora", "NORA 1.4.3", nora),
)
PROGRAMS = {"distribution": ("NORAFLASK_BENCH_DISTRIBUTION", "registry"), "nora": ("NORAFLASK_BENCH_NORA", "nora")}


def running(server: Server, work: Path) -> AbstractContextManager[Running]:
    return started(server.name, work, server.command, answers("/v2/"))


# ------------------------------------------------------------------------------------------------------------------ the blobs


@dataclass
class Blob:
    """A large blob, ready to send: as it is, and with the framing of a streamed body around its pieces."""

    digest: str
    size: int
    plain: int
    framed: int
    framed_size: int


def prepare(folder: Path, count: int, size: int) -> list[Blob]:
    """Files in memory, so that sending them costs no disk."""
    blobs = []
    noise = os.urandom(MIB)
    for number in range(count):
        digest = hashlib.sha256()
        paths = folder / f"{number}.plain", folder / f"{number}.framed"
        with open(paths[0], "wb") as plain, open(paths[1], "wb") as framed:
            for part in range(size // MIB):
                block = struct.pack(">QQ", number, part) + noise[16:]
                digest.update(block)
                plain.write(block)
                for start in range(0, MIB, FRAME):
                    framed.write(b"%x\r\n%b\r\n" % (FRAME, block[start : start + FRAME]))
            framed.write(b"0\r\n\r\n")
        opened = [os.open(path, os.O_RDONLY) for path in paths]
        blobs.append(Blob(f"sha256:{digest.hexdigest()}", size, opened[0], opened[1], paths[1].stat().st_size))
    return blobs


def push_whole(client: Client, repository: str, blob: Blob) -> None:
    """POST, then one PUT with Content-Length."""
    location = client.ask("POST", f"/v2/{repository}/blobs/uploads/", want=202).location()
    headers = f"Content-Type: application/octet-stream\r\nContent-Length: {blob.size}\r\n"
    client.send_file("PUT", with_digest(location, blob.digest), headers, blob.plain, 0, blob.size, 201)


def push_stream(client: Client, repository: str, blob: Blob) -> None:
    """POST, one PATCH with Transfer-Encoding: chunked, PUT."""
    location = client.ask("POST", f"/v2/{repository}/blobs/uploads/", want=202).location()
    headers = "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n"
    location = client.send_file("PATCH", location, headers, blob.framed, 0, blob.framed_size, 202).location()
    client.ask("PUT", with_digest(location, blob.digest), want=201)


def push_pieces(client: Client, repository: str, blob: Blob) -> None:
    """POST, PATCH after PATCH of 16 MiB with Content-Range, PUT."""
    location = client.ask("POST", f"/v2/{repository}/blobs/uploads/", want=202).location()
    for start in range(0, blob.size, PIECE):
        length = min(PIECE, blob.size - start)
        headers = f"Content-Type: application/octet-stream\r\nContent-Length: {length}\r\nContent-Range: {start}-{start + length - 1}\r\n"
        location = client.send_file("PATCH", location, headers, blob.plain, start, length, 202).location()
    client.ask("PUT", with_digest(location, blob.digest), want=201)


def together(count: int, job: Callable[[int], None]) -> float:
    """Seconds that `count` jobs take side by side, from a common start."""
    barrier = threading.Barrier(count + 1)

    def one(number: int) -> None:
        barrier.wait()
        job(number)

    with ThreadPoolExecutor(count) as pool:
        jobs = [pool.submit(one, number) for number in range(count)]
        barrier.wait()
        begin = time.perf_counter()
        for each in jobs:
            each.result()
    return time.perf_counter() - begin


# ----------------------------------------------------------------------------------------------------------- what is measured


@dataclass
class Bench:
    work: Path
    blobs: list[Blob]
    seconds: float  # of each row that counts requests

    def start(self, server: Server) -> dict[str, float]:
        with running(server, self.work) as up:
            time.sleep(2)
            return {"start": up.start_seconds, "idle": up.memory_mb()}

    def push(self, server: Server) -> dict[str, float]:
        return self._push(server, "push", push_whole)

    def stream(self, server: Server) -> dict[str, float]:
        return self._push(server, "stream", push_stream)

    def chunks(self, server: Server) -> dict[str, float]:
        return self._push(server, "chunks", push_pieces)

    def _push(self, server: Server, row: str, send: Callable[[Client, str, Blob], None]) -> dict[str, float]:
        found = {}
        for count in (1, 4):
            with running(server, self.work) as up:
                clients = [Client(up.port) for _ in range(count)]
                jobs = list(zip(clients, self.blobs, strict=False))
                seconds = together(count, lambda n, jobs=jobs: send(jobs[n][0], f"bench/push{n}", jobs[n][1]))  # type: ignore[misc]
                for number, (client, blob) in enumerate(jobs):
                    head = client.ask("HEAD", f"/v2/bench/push{number}/blobs/{blob.digest}", want=200).head
                    if f"content-length: {blob.size}".encode() not in head.lower():
                        raise Failed("a pushed blob has another size")
                    client.sock.close()
                found[f"{row}-{count}"] = count * self.blobs[0].size / seconds / 1e6
        return found

    def pull(self, server: Server) -> dict[str, float]:
        blob = self.blobs[0]
        path = f"/v2/bench/pull/blobs/{blob.digest}"
        found = {}
        with running(server, self.work) as up:
            with Client(up.port) as client:
                push_whole(client, "bench/pull", blob)
                check_digest(up.port, path, blob)
            os.sync()
            for count in (1, 8):
                clients = [Client(up.port) for _ in range(count)]
                buffers = [bytearray(MIB) for _ in range(count)]
                seconds = together(count, lambda n, c=clients, b=buffers: c[n].discard(path, blob.size, b[n]))  # type: ignore[misc]
                for client in clients:
                    client.sock.close()
                found[f"pull-{count}"] = count * blob.size / seconds / 1e6
        return found

    def manifest(self, server: Server) -> dict[str, float]:
        found = {}
        with running(server, self.work) as up:
            with Client(up.port) as client:
                config, layer = b'{"architecture":"amd64","os":"linux"}', os.urandom(400)
                names = [(push_bytes(client, "bench/app", data), len(data)) for data in (config, layer)]
                manifest = manifest_of(names[0], names[1])
                client.ask("PUT", "/v2/bench/app/manifests/v1", manifest, f"Content-Type: {MANIFEST_TYPE}\r\n", want=201)
            for by, reference in (("tag", "v1"), ("digest", digest_of(manifest))):
                path = f"/v2/bench/app/manifests/{reference}"
                wrk(up.port, path, 16, 1)
                for count in (16, 128):
                    found[f"manifest-get-{by}-{count}"] = wrk(up.port, path, count, self.seconds)
                    found[f"manifest-head-{by}-{count}"] = heads(up.port, path, count, self.seconds)
        return found

    def blob(self, server: Server) -> dict[str, float]:
        found = {}
        with running(server, self.work) as up:
            for size, data in ((2, b"{}"), (300, os.urandom(300))):
                with Client(up.port) as client:
                    path = f"/v2/bench/app/blobs/{push_bytes(client, 'bench/app', data)}"
                wrk(up.port, path, 16, 1)
                for count in (16, 128):
                    found[f"blob-{size}-{count}"] = wrk(up.port, path, count, self.seconds)
        return found

    def images(self, server: Server) -> dict[str, float]:
        """Images of a config and one layer, all bytes new, from 8 connections: HEAD, POST and PUT of each blob, PUT of the manifest."""
        done = [0] * 8
        with running(server, self.work) as up:
            end = time.perf_counter() + self.seconds

            def push_images(number: int) -> None:
                repository = f"bench/small{number}"
                with Client(up.port) as client:
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

            seconds = together(8, push_images)
        return {"images": sum(done) / seconds}

    def memory(self, server: Server) -> dict[str, float]:
        """The highest PSS seen while 4 clients push and 8 pull without pause."""
        path = f"/v2/bench/pull/blobs/{self.blobs[0].digest}"
        highest = 0.0
        with running(server, self.work) as up:
            with Client(up.port) as client:
                push_whole(client, "bench/pull", self.blobs[0])
            end = time.perf_counter() + max(6.0, self.seconds)

            def load(number: int) -> None:
                buffer = bytearray(MIB)
                turn = 0
                with Client(up.port) as client:
                    while time.perf_counter() < end:
                        if number < 4:
                            push_whole(client, f"bench/push{number}-{turn}", self.blobs[number % len(self.blobs)])
                        else:
                            client.discard(path, self.blobs[0].size, buffer)
                        turn += 1

            with ThreadPoolExecutor(1) as pool:
                loaded = pool.submit(together, 12, load)
                while not loaded.done():
                    highest = max(highest, up.memory_mb())
                    time.sleep(0.2)
                loaded.result()
        return {"loaded": highest}


def check_digest(port: int, path: str, blob: Blob) -> None:
    """Once per pull row: what the server gives is what it was given."""
    digest = hashlib.sha256()
    with Client(port) as client:
        client.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        client._head()
        digest.update(client.rest)
        left = blob.size - len(client.rest)
        while left and (data := client.sock.recv(min(left, MIB))):
            digest.update(data)
            left -= len(data)
    if f"sha256:{digest.hexdigest()}" != blob.digest:
        raise Failed("a pulled blob has another digest")


def wrk(port: int, path: str, connections: int, seconds: float) -> float:
    """Requests a second; any failed one makes the row fail."""
    accept = ("-H", f"Accept: {MANIFEST_TYPE}") if "/manifests/" in path else ()
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "10s", *accept, f"http://127.0.0.1:{port}{path}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    if not rate or "Non-2xx" in said or "Socket errors" in said:
        raise Failed(said)
    return float(rate[1])


def heads(port: int, path: str, connections: int, seconds: float) -> float:
    """HEAD requests a second. wrk waits for the body that a HEAD's Content-Length promises, so this row has an epoll loop of its own."""
    request = f"HEAD {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: {MANIFEST_TYPE}\r\n\r\n".encode()
    clients = [Client(port).sock for _ in range(connections)]
    by_file = {sock.fileno(): sock for sock in clients}
    poll = select.epoll()
    for sock in clients:
        poll.register(sock, select.EPOLLIN)
        sock.sendall(request)
    done = 0
    begin = time.perf_counter()
    end = begin + seconds
    while (now := time.perf_counter()) < end:
        for file, _ in poll.poll(10):
            sock = by_file[file]
            answer = sock.recv(4096)
            if not (answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"\r\n\r\n")):
                raise Failed(f"HEAD gave {answer[:200]!r}")
            done += 1
            sock.sendall(request)
    poll.close()
    for sock in clients:
        sock.close()
    return done / (now - begin)


# ------------------------------------------------------------------------------------------------------------------ the table


@dataclass(frozen=True)
class Row:
    name: str
    title: str
    unit: str
    ratio: float | None = None  # the least share of the better peer that we want to reach
    most: float | None = None  # the most that we allow ourselves


def size_title(blob_size: int) -> str:
    return f"{blob_size // MIB} MiB"


def rows(blob_size: int) -> list[Row]:
    size = size_title(blob_size)
    found = [Row("start", "start-up: first 200", "s", most=1), Row("idle", "memory, idle", "MB", most=60)]
    found.append(Row("loaded", "memory, 4 pushes + 8 pulls", "MB", most=120))
    for name, title, ratio in (
        ("push", "POST + PUT", 1.3),
        ("stream", "streamed PATCH", 1.2),
        ("chunks", "PATCH of 16 MiB", 1.2),
    ):
        found += [Row(f"{name}-{count}", f"push {size}, {title}, {count} at once", "MB/s", ratio) for count in (1, 4)]
    found += [Row(f"pull-{count}", f"pull {size}, {count} at once", "MB/s", 1.2) for count in (1, 8)]
    for method in ("get", "head"):
        for by in ("tag", "digest"):
            title = f"manifest {method.upper()} by {by}"
            found += [Row(f"manifest-{method}-{by}-{count}", f"{title}, {count} connections", "/s", 1) for count in (16, 128)]
    found += [Row(f"blob-{size}-{count}", f"blob of {size} bytes GET, {count} connections", "/s", 4) for size in (2, 300) for count in (16, 128)]
    found.append(Row("images", "small images pushed, 8 connections", "/s", 1))
    return found


@dataclass
class Results:
    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)  # (row, server) -> one figure per round
    failures: dict[tuple[str, str], str] = field(default_factory=dict)  # (group, server) -> why

    def median(self, row: str, server: str) -> float | None:
        found = self.values.get((row, server))
        return statistics.median(found) if found else None


def render_table(results: Results, wanted: list[Row], servers: list[Server]) -> str:
    """Markdown: a row for each thing measured, medians with their span, the ratio to the better peer, the target."""
    peers = [server for server in servers if server.name != "ours"]
    lines = [
        f"| | {' | '.join(server.title for server in servers)} | ratio to the better peer | target | |",
        f"|---|{'---:|' * len(servers)}---:|---:|---|",
    ]
    for row in wanted:
        cells = []
        for server in servers:
            found = results.values.get((row.name, server.name))
            cells.append(with_span(found) if found else "—")
        if set(cells) == {"—"}:
            continue
        mine = results.median(row.name, "ours")
        theirs = [value for peer in peers if (value := results.median(row.name, peer.name)) is not None]
        smaller_is_better = row.most is not None
        best = (min(theirs) if smaller_is_better else max(theirs)) if theirs else None
        ratio = mine / best if mine is not None and best else None
        target = f"≥ {row.ratio:g}{TIMES}" if row.ratio else f"≤ {row.most:g} {row.unit}"
        reached = None
        if smaller_is_better and mine is not None:
            reached = mine <= (row.most or 0)
        elif ratio is not None:
            reached = ratio >= (row.ratio or 0)
        mark = {None: "", True: "reached", False: "**missed**"}[reached]
        lines.append(f"| {row.title}, {row.unit} | {' | '.join(cells)} | {f'{ratio:.2f}{TIMES}' if ratio else '—'} | {target} | {mark} |")
    return "\n".join(lines)


def write_page(page: Path, text: str) -> None:
    """Puts the text between the markers and leaves all other prose as it is."""
    old = page.read_text() if page.exists() else f"# Performance\n\n{BEGIN}\n{END}\n"
    if BEGIN not in old or END not in old:
        raise SystemExit(f"{page} has lost its markers {BEGIN!r} and {END!r}; nothing was written")
    before, _, rest = old.partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")


def main() -> None:
    groups = ("start", "memory", "push", "stream", "chunks", "pull", "manifest", "blob", "images")
    parser = argparse.ArgumentParser(prog="scripts/bench oci", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="128 MiB blobs, 2 rounds, rows of 1 s: to see that it works, not to compare")
    parser.add_argument("--only", action="append", choices=groups, help="measure this group; may be given again")
    parser.add_argument("--reps", type=int, help="rounds (default 5; with --quick 2)")
    parser.add_argument("--servers", default="ours,distribution,nora", help="which to run (default %(default)s)")
    parser.add_argument("--disk", default="/var/tmp", help="folder whose disk the servers write to (default %(default)s)")
    parser.add_argument("--inputs", default="/dev/shm", help="folder in memory for the blobs to send, 4.3 GB (default %(default)s)")
    parser.add_argument("--json", type=Path, help="also write every single figure to this file")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md also after a run with --quick, --only or --servers")
    options = parser.parse_args()

    chosen = options.servers.split(",")
    if unknown := set(chosen) - {server.name for server in SERVERS}:
        parser.error(f"unknown server {', '.join(sorted(unknown))}: the servers are {', '.join(server.name for server in SERVERS)}")
    absent = [server for server in SERVERS if server.name in PROGRAMS and server.name in chosen and not find_binary(*PROGRAMS[server.name])]
    servers = [server for server in SERVERS if server.name in chosen and server not in absent]
    notes = [
        f"{server.title} was not measured: no `{PROGRAMS[server.name][1]}` in ${PROGRAMS[server.name][0]}, ~/.cache/noraflask/bin or PATH."
        for server in absent
    ]
    wanted = list(options.only or groups)
    if not shutil.which("wrk") and {"manifest", "blob"} & set(wanted):
        notes.append("Manifests and small blobs were not measured: no `wrk` (apt install wrk).")
        wanted = [group for group in wanted if group not in ("manifest", "blob")]
    for note in notes:
        print(note, file=sys.stderr)

    size = 128 * MIB if options.quick else 512 * MIB
    reps = options.reps or (2 if options.quick else 5)
    results = Results()
    begin = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="nora-bench-", dir=options.disk) as work,
        tempfile.TemporaryDirectory(prefix="nora-bench-", dir=options.inputs) as inputs,
    ):
        needs_blobs = {"memory", "push", "stream", "chunks", "pull"} & set(wanted)
        blobs = prepare(Path(inputs), 4, size) if needs_blobs else []
        bench = Bench(Path(work), blobs, 1 if options.quick else 4)
        for rep in range(reps):
            for group in wanted:
                turn = rep % len(servers)
                for server in servers[turn:] + servers[:turn]:  # nobody is always the first
                    try:
                        found = getattr(bench, group)(server)
                    except (Failed, OSError, subprocess.SubprocessError) as error:
                        results.failures[group, server.name] = str(error)
                        print(f"round {rep + 1}/{reps} {server.name:13} {group}: FAILED: {error}", file=sys.stderr)
                        continue
                    for row, value in found.items():
                        results.values.setdefault((row, server.name), []).append(value)
                    told = " ".join(f"{row}={figure(value)}" for row, value in found.items())
                    print(f"round {rep + 1}/{reps} {server.name:13} {told}", file=sys.stderr)
        for blob in blobs:
            os.close(blob.plain)
            os.close(blob.framed)

    table = render_table(results, rows(size), servers)
    notes += [f"{group} failed on {server}: {why[:300]}" for (group, server), why in results.failures.items()]
    print(f"\n{table}\n")
    for note in notes:
        print(note)
    if options.json:
        figures = [{"row": row, "server": server, "values": values} for (row, server), values in results.values.items()]
        options.json.write_text(json.dumps({"machine": machine(), "blob_bytes": size, "figures": figures}, indent=1))
    if options.write or not (options.quick or options.only or set(chosen) != {server.name for server in SERVERS}):
        today = datetime.datetime.now(datetime.UTC).date()
        taken = f"{today}, {machine()}. Median of {reps} rounds (lowest to highest), {(time.monotonic() - begin) / 60:.0f} minutes."
        write_page(PAGE, "\n\n".join([taken, table, *notes]))
        print(f"written to {PAGE.relative_to(ROOT)}")
    if results.failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
