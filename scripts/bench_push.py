"""For scripts/bench edge: large blobs pushed through nginx with TLS, beside the registry's own port, by the same client."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from bench_blobs import BYTES, Blob, Push, push_pieces, push_stream, push_whole
from bench_client import Client, Failed, TlsClient, begin_upload, with_digest
from bench_edge_results import PARTS, PUSHES, Results, in_turn, part_of
from bench_front import HOST, Front, curl

REPOSITORY = "bench/large"
WAYS: dict[str, Push] = dict(zip(PUSHES, (push_whole, push_stream, push_pieces), strict=True))


def measure_pushes(fronts: Mapping[str, Front], blob: Blob, rounds: int, results: Results) -> None:
    """`fronts` by what to write before their ways in the table: nothing for this registry, which curl pushes to as well."""
    for name, push in WAYS.items():
        calls = {}
        for prefix, front in fronts.items():
            for way, new_client in (("direct", front.registry.client), ("nginx", partial(through, front))):
                calls[prefix + way] = partial(pushed, front, blob, results, f"push, {name}", prefix + way, partial(send, new_client, push, blob))
        in_turn(rounds, calls, results, f"push, {name}")
    own, row = fronts[""], "push by curl, POST + PUT"
    bases = {"direct": (f"http://127.0.0.1:{own.registry.up.port}", ["--http1.1"])}
    bases |= {f"nginx, HTTP/{protocol}": (own.url(""), [f"--http{protocol}", *own.trusting()]) for protocol in ("1.1", "2")}
    calls = {way: partial(pushed, own, blob, results, row, way, partial(put, own, blob, base, options)) for way, (base, options) in bases.items()}
    in_turn(rounds, calls, results, row)


def through(front: Front) -> Client:
    """A client of nginx."""
    return TlsClient(front.nginx.port, front.registry.login, HOST, front.trust)


def pushed(front: Front, blob: Blob, results: Results, row: str, way: str, transfer: Callable[[], None]) -> float:
    """MB/s of the transfer of a new blob; what it costs each process is noted as well, in seconds of the processor for a GB."""
    blob.renew()
    os.sync()
    before, begin = used(front), time.perf_counter()
    transfer()
    took, after = time.perf_counter() - begin, used(front)
    drop_stored(front, blob.size)
    gigabytes = blob.size / 1e9
    parts = {part: (after[part] - before[part]) / gigabytes for part in PARTS}
    for part, seconds in parts.items():
        results.add(part_of(row, part), way, seconds)
    results.add(f"processor, {row}", way, parts["nginx"] + parts["registry"])
    return gigabytes * 1000 / took


def used(front: Front) -> dict[str, float]:
    """Seconds of the processor so far, by PARTS; the client is this process and the programs that it has run."""
    mine = os.times()
    client = mine.user + mine.system + mine.children_user + mine.children_system
    return dict(zip(PARTS, (client, front.nginx.cpu_seconds(), front.registry.up.cpu_seconds()), strict=True))


def send(new_client: Callable[[], Client], push: Push, blob: Blob) -> None:
    with new_client() as client:
        push(client, REPOSITORY, blob)


def put(front: Front, blob: Blob, base: str, options: list[str]) -> None:
    """The PUT with all the bytes, by curl."""
    with front.registry.client() as client:
        url = base + with_digest(begin_upload(client, REPOSITORY), blob.digest)
    curl(*options, *front.registry_login(), "-H", BYTES.strip(), "-H", "Expect:", "-o", os.devnull, "-T", str(blob.path), url, want=201)


def drop_stored(front: Front, size: int) -> None:
    """So that the disk need not hold them all. One file of that size must be there."""
    stored = list(files_of(front, size))
    if not stored:
        raise Failed("a pushed blob has another size")
    for path in stored:
        os.unlink(path)


def files_of(front: Front, size: int) -> Iterator[str]:
    for folder, _, names in os.walk(front.registry.up.folder):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.getsize(path) == size:
                yield path
