"""Several ranges of one blob on the real server: as a lazy puller asks for them, and from clients that do not read."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from tests.multipart import read_parts
from tests.server import Server, wait_until

from .oci import Client, noise

Start = Callable[..., Server]
CHUNK = 50_000
"""What stargz-snapshotter reads at once."""
MIB = 1 << 20


def test_a_lazy_puller_gets_what_it_asks_for_and_no_more(start: Start) -> None:
    server, data = start(), noise(4 * MIB, "lazy")
    with Client(server.port) as client:
        path = f"/v2/app/blobs/{client.push_blob('app', data)}"
        asked = [(at * CHUNK, (at + length) * CHUNK) for at, length in ((3, 1), (10, 2), (40, 20), (1, 1))]
        ranges = ",".join(f"{first}-{stop - 1}" for first, stop in asked)
        for _ in range(2):  # on one connection: what follows is where it should be
            answer = client.ask("GET", path, headers={"Range": f"bytes={ranges}"})
            assert answer.status == 206
            found = read_parts(answer.headers["Content-Type"], answer.body)
            assert [(where, part) for _, where, part in found] == [
                (f"bytes {first}-{stop - 1}/{len(data)}", data[first:stop]) for first, stop in asked
            ]
            assert len(answer.body) < sum(stop - first for first, stop in asked) + 1000
    assert not server.log_faults()


def test_clients_that_do_not_read_several_ranges_hold_no_thread_and_hardly_any_memory(start: Start) -> None:
    server, data, count = start(), noise(24 * MIB, "idle"), 100
    with Client(server.port) as client:
        path = f"/v2/app/blobs/{client.push_blob('app', data)}"
        before, files = server.pss_bytes(), open_files(server)
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(count)]
        try:
            for connection in idle:
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nRange: bytes=0-9999999,10000001-20000000\r\n\r\n".encode())
            wait_until(lambda: open_files(server) >= files + 2 * count, 20, "all of them have their first bytes")
            assert client.ask("GET", path, headers={"Range": "bytes=0-9,20-29"}).status == 206
            assert client.ask("GET", "/health").status == 200
            assert server.pss_bytes() - before < count * 128 * 1024
        finally:
            for connection in idle:
                connection.close()
        wait_until(lambda: open_files(server) <= files + 4, 20, "their files are closed")
    assert not server.log_faults()


def open_files(server: Server) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in server.worker_pids())
