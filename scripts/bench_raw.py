"""Files by plain HTTP: this registry beside nginx with its dav module (which syncs nothing to the disk) and, where it is installed, NORA.

scripts/bench raw --size 256 --small 400 --rounds 3
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench_client import MIB, Client
from bench_common import answers, figure, find_binary, machine, nora, ours, started, together, with_span

SMALL_BYTES = 4096
WRITERS = 8

NGINX = """
daemon off; worker_processes 2; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; client_max_body_size 0; client_body_temp_path {folder}/body; default_type application/octet-stream;
  proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port}; location = /health {{ return 200 ok; }}
    location /raw/ {{ root {folder}/storage; dav_methods PUT DELETE; create_full_put_path on; autoindex on; autoindex_format json; }} }}
}}
"""


@dataclass(frozen=True)
class Server:
    name: str
    command: Callable[[Path, int], tuple[list[str], Mapping[str, str]]]


def nginx(folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    (folder / "storage" / "raw").mkdir(parents=True)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port))
    os.chmod(folder, 0o755)
    return [
        find_binary("NORAFLASK_BENCH_NGINX", "nginx") or "/usr/sbin/nginx",
        "-p",
        str(folder),
        "-c",
        str(folder / "nginx.conf"),
        "-g",
        "user root;",
    ], {}


def servers() -> list[Server]:
    found = [Server("noraflask", lambda folder, port: with_room(ours(folder, port)))]
    if find_binary("NORAFLASK_BENCH_NGINX", "nginx") or Path("/usr/sbin/nginx").exists():
        found.append(Server("nginx dav", nginx))
    if find_binary("NORAFLASK_BENCH_NORA", "nora"):
        found.append(Server("NORA", lambda folder, port: with_room(nora(folder, port))))
    return found


def with_room(command: tuple[list[str], dict[str, str]]) -> tuple[list[str], dict[str, str]]:
    """Files as large as the bench wants."""
    return command[0], {**command[1], "NORA_RAW_MAX_FILE_SIZE": str(64 << 30)}


def measure(port: int, large: Path, small: int) -> dict[str, float]:
    """Each row once, in an empty repository."""
    size, buffer, figures = large.stat().st_size, bytearray(MIB), {}
    with Client(port) as client, open(large, "rb") as file:
        begin = time.perf_counter()
        if client.send_file("PUT", "/raw/large.bin", f"Content-Length: {size}\r\n", file.fileno(), 0, size, 0).status not in (200, 201):
            raise SystemExit("the large file was refused")
        figures["PUT of a large file, MB/s"] = size / 1e6 / (time.perf_counter() - begin)
        begin = time.perf_counter()
        client.discard("/raw/large.bin", size, buffer)
        figures["GET of a large file, MB/s"] = size / 1e6 / (time.perf_counter() - begin)

    def put(number: int) -> None:
        dice = random.Random(number)
        with Client(port) as client:
            for index in range(small):
                if client.ask("PUT", f"/raw/s{number}/{index}", dice.randbytes(SMALL_BYTES)).status not in (200, 201):
                    raise SystemExit("a small file was refused")

    def get(number: int) -> None:
        with Client(port) as client:
            for index in range(small):
                client.ask("GET", f"/raw/s{number}/{index}", want=200)

    total = WRITERS * small
    figures[f"PUT of files of 4 KiB, {WRITERS} clients, files/s"] = total / together(WRITERS, put)
    figures[f"GET of files of 4 KiB, {WRITERS} clients, files/s"] = total / together(WRITERS, get)
    with Client(port) as client:
        if client.ask("GET", "/raw/s0/").status == 200:
            begin = time.perf_counter()
            for _ in range(10):
                client.ask("GET", "/raw/s0/", want=200)
            figures[f"listing of {small} files, pages/s"] = 10 / (time.perf_counter() - begin)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="MiB of the large file")
    parser.add_argument("--small", type=int, default=400, help="small files of each client")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"), help="a folder on a disk")
    wanted = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="bench-raw-", dir=wanted.work) as name:
        work = Path(name)
        os.chmod(work, 0o755)
        large = work / "large"
        with open(large, "wb") as file:
            for number in range(wanted.size):
                file.write(random.Random(number).randbytes(MIB))
        found: dict[str, dict[str, list[float]]] = {}
        for _ in range(wanted.rounds):
            for server in servers():
                with started(server.name.replace(" ", "-"), work, server.command, answers("/health")) as up:
                    for row, value in measure(up.port, large, wanted.small).items():
                        found.setdefault(row, {}).setdefault(server.name, []).append(value)
    for row, by_server in found.items():
        ours_first = statistics.median(next(iter(by_server.values())))
        told = [f"{name} {with_span(values)} ({figure(ours_first / statistics.median(values))}x)" for name, values in by_server.items()]
        print(f"{row}: {', '.join(told)}")


if __name__ == "__main__":
    main()
