"""What the benches share: a server in a folder of its own, a client that costs little, wrk, and how figures are told."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMES = "\u00d7"
MIB = 1024 * 1024
PATIENCE = 120  # seconds of silence after which a transfer counts as failed
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
CONNECTIONS = (16, 128)
PATH = "/v2/bench/app/manifests/v1"
"""Of the small manifest that is read."""


class Failed(Exception):
    """A server gave something other than what the row needs."""


# ---------------------------------------------------------------------------------------------------------------- the servers


def find_binary(variable: str, name: str) -> str | None:
    """A peer's program: the environment variable, ~/.cache/noraflask/bin, then PATH."""
    cached = Path.home() / ".cache" / "noraflask" / "bin" / name
    return os.environ.get(variable) or (str(cached) if cached.exists() else shutil.which(name))


@dataclass(frozen=True)
class Running:
    """A started server: one session of processes."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path
    """All that it keeps."""
    start_seconds: float
    """From spawn until it was ready."""

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    def memory_mb(self) -> float:
        """PSS of all its processes, in MB: shared pages are counted once."""
        total = 0
        for folder in self._processes():
            with suppress(OSError, TypeError):  # ended while we looked
                total += int(re.search(r"^Pss:\s+(\d+)", (folder / "smaps_rollup").read_text(), re.M)[1])  # type: ignore[index]
        return total * 1024 / 1e6

    def cpu_seconds(self) -> float:
        """What all its processes have used so far."""
        ticks = 0
        for folder in self._processes():
            with suppress(OSError):
                fields = _fields(folder)
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def _processes(self) -> Iterator[Path]:
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with suppress(OSError):
                    if int(_fields(folder)[3]) == self.process.pid:
                        yield folder


def _fields(folder: Path) -> list[str]:
    """Of /proc/<pid>/stat, from the state on."""
    return (folder / "stat").read_text().rpartition(")")[2].split()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def started(
    name: str, work: Path, command: Callable[[Path, int], tuple[list[str], Mapping[str, str]]], ready: Callable[[int], bool], seconds: float = 30
) -> Iterator[Running]:
    """A program in an empty folder below `work`, as `command(folder, port)` says; in the end it is stopped, the folder wiped, and nothing left to
    write back. Its output goes to the file `log` there. `ready(port)` is asked until it says so.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=work))
    port = free_port()
    arguments, settings = command(folder, port)
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("NORA_", "OTEL_"))} | dict(settings)
    os.sync()
    with open(folder / "log", "wb") as log:
        begin = time.perf_counter()
        process = subprocess.Popen(arguments, env=environ, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    try:
        while not ready(port):
            if process.poll() is not None or time.perf_counter() - begin > seconds:
                raise Failed(f"{name} did not start: {(folder / 'log').read_text(errors='replace')[-500:]}")
        yield Running(process, port, folder, time.perf_counter() - begin)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its own session: nobody else is in it
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)
        os.sync()


def ours(folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """This registry with its defaults, but for the limits on requests: one client asks for all here. With folder/config.toml, when it is there."""
    (folder / "staging").mkdir()
    where = {"STORAGE": folder / "storage", "STAGING": folder / "staging"}
    if (folder / "config.toml").exists():
        where["CONFIG"] = folder / "config.toml"
    paths = {f"NORA_{name}_PATH": str(path) for name, path in where.items()}
    return [sys.executable, "-m", "noraflask", "serve"], {
        **paths,
        "NORA_HOST": "127.0.0.1",
        "NORA_PORT": str(port),
        "NORA_RATE_LIMIT_ENABLED": "false",
    }


def nora(folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """NORA with its defaults, but for the same limits, and curation."""
    program = find_binary("NORAFLASK_BENCH_NORA", "nora")
    assert program
    limits = {"NORA_RATE_LIMIT_ENABLED": "false", "NORA_CURATION_MODE": "off"}
    return [program, "serve"], {"NORA_HOST": "127.0.0.1", "NORA_PORT": str(port), "NORA_STORAGE_PATH": str(folder / "storage"), **limits}


def answers(path: str) -> Callable[[int], bool]:
    """Does the server on a port answer 200 there?"""

    def ready(port: int) -> bool:
        try:
            with Client(port) as client:
                return client.ask("GET", path).status == 200
        except OSError:
            time.sleep(0.002)
            return False

    return ready


# ----------------------------------------------------------------------------------------------------------------- the client


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    head: bytes
    body: bytes

    def location(self) -> str:
        found = re.search(rb"(?im)^location:[ \t]*(\S+)", self.head)
        if not found:
            raise Failed(f"no Location in an answer of {self.status}")
        return re.sub(r"^https?://[^/]*", "", found[1].decode())


class Client:
    """One kept-alive HTTP/1.1 connection that costs little enough not to be what is measured."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.sock = self._connect()
        self.rest = b""

    def _connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):  # a Python timeout would make every call a poll as well
            sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", PATIENCE, 0))
        return sock

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def ask(self, method: str, path: str, body: bytes = b"", headers: str = "", want: int = 0) -> Answer:
        length = f"Content-Length: {len(body)}\r\n" if body or method in ("POST", "PUT", "PATCH") else ""
        self.sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n{headers}{length}\r\n".encode() + body)
        return self.answer(method, want)

    def send_file(self, method: str, path: str, headers: str, file: int, start: int, length: int, want: int) -> Answer:
        """The kernel copies the body from the file to the socket."""
        self.sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n{headers}\r\n".encode(), socket.MSG_MORE)
        end = start + length
        while start < end:
            start += os.sendfile(self.sock.fileno(), file, start, end - start)
        return self.answer(method, want)

    def answer(self, method: str, want: int = 0) -> Answer:
        head = self._head()
        status = int(head[9:12])
        lower = head.lower()
        length = re.search(rb"\ncontent-length:[ \t]*(\d+)", lower)
        if method == "HEAD" or status in (204, 304):
            body = b""
        elif length:
            body = self._take(int(length[1]))
        elif b"transfer-encoding: chunked" in lower:
            body = b""
            while size := int(self._line().split(b";")[0], 16):
                body += self._take(size + 2)[:-2]
            self._line()
        else:
            raise Failed(f"{method} gave {status} without a length")
        if b"\nconnection: close" in lower:
            self.sock.close()
            self.sock, self.rest = self._connect(), b""
        if want and status != want:
            raise Failed(f"{method} gave {status}, not {want}: {body[:300]!r}")
        return Answer(status, head, body)

    def discard(self, path: str, size: int, buffer: bytearray) -> None:
        """GET whose body is thrown away inside the kernel (MSG_TRUNC)."""
        self.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode())
        head = self._head()
        length = re.search(rb"(?i)\ncontent-length:[ \t]*(\d+)", head)
        if head[9:12] != b"200" or not length or int(length[1]) != size:
            raise Failed(f"GET of a blob gave {head[:200]!r}")
        left = size - len(self.rest)
        self.rest = b""
        while left:
            got = self.sock.recv_into(buffer, min(left, len(buffer)), socket.MSG_TRUNC)
            if not got:
                raise Failed(f"the body of a blob ended {left} bytes early")
            left -= got

    def _head(self) -> bytes:
        while b"\r\n\r\n" not in self.rest:
            self._more()
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        return head

    def _line(self) -> bytes:
        while b"\r\n" not in self.rest:
            self._more()
        line, _, self.rest = self.rest.partition(b"\r\n")
        return line

    def _take(self, size: int) -> bytes:
        while len(self.rest) < size:
            self._more()
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken

    def _more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise Failed("the connection was closed in mid-answer")
        self.rest += data


def with_digest(location: str, digest: str) -> str:
    return f"{location}{'&' if '?' in location else '?'}digest={digest}"


def push_bytes(client: Client, repository: str, data: bytes) -> str:
    digest = digest_of(data)
    location = client.ask("POST", f"/v2/{repository}/blobs/uploads/", want=202).location()
    client.ask("PUT", with_digest(location, digest), data, "Content-Type: application/octet-stream\r\n", want=201)
    return digest


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def manifest_of(config: tuple[str, int], layer: tuple[str, int]) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": config[0], "size": config[1]},
            "layers": [{"mediaType": LAYER_TYPE, "digest": layer[0], "size": layer[1]}],
            "annotations": {"org.opencontainers.image.created": "2026-01-01T00:00:00Z"},
        },
        indent=2,
    ).encode()


@dataclass(frozen=True)
class Figure:
    """Of one run of wrk."""

    rate: float
    """Reads a second."""
    cpu: float
    """Microseconds of the server's processor time for one read: what others do on the machine hardly shows in it."""


def wrk(up: Running, header: str, connections: int, seconds: float) -> Figure:
    """Reads of the small manifest, with that Authorization header; empty: none. Any read that fails makes the run fail."""
    headers = ["-H", f"Accept: {MANIFEST_TYPE}", *(("-H", f"Authorization: {header}") if header else ())]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "10s", *headers, f"http://127.0.0.1:{up.port}{PATH}"]
    before = up.cpu_seconds()
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = up.cpu_seconds() - before
    rate, count = re.search(r"Requests/sec:\s+([\d.]+)", said), re.search(r"(\d+) requests in", said)
    if not rate or not count or "Non-2xx" in said or "Socket errors" in said:
        raise Failed(said)
    return Figure(float(rate[1]), used / int(count[1]) * 1e6)


class LoggedIn(Client):
    """A client whose every request carries the same login."""

    def __init__(self, port: int, login: str) -> None:
        super().__init__(port)
        self._login = login

    def ask(self, method: str, path: str, body: bytes = b"", headers: str = "", want: int = 0) -> Answer:
        return super().ask(method, path, body, f"{headers}Authorization: {self._login}\r\n", want)


def push_manifest(port: int, login: str = "") -> None:
    """The small manifest, with what it needs."""
    with LoggedIn(port, login) if login else Client(port) as client:
        config, layer = b'{"architecture":"amd64","os":"linux"}', os.urandom(400)
        parts = [(push_bytes(client, "bench/app", data), len(data)) for data in (config, layer)]
        client.ask("PUT", PATH, manifest_of(parts[0], parts[1]), f"Content-Type: {MANIFEST_TYPE}\r\n", want=201)


# ---------------------------------------------------------------------------------------------------------------- the figures


def figure(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}" if value < 10_000 else f"{value / 1000:.1f}k"


def with_span(found: list[float]) -> str:
    median = figure(statistics.median(found))
    return f"{median} ({figure(min(found))} to {figure(max(found))})" if len(found) > 1 else median


def ratio(found: list[float]) -> str:
    return f"{statistics.median(found):.2f}{TIMES} ({min(found):.2f} to {max(found):.2f})"


def machine() -> str:
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    name = cpu[1] if cpu else platform.machine()
    gigabytes = int(memory[1]) // 1024**2 if memory else 0
    return f"{os.cpu_count()} cores ({name}), {gigabytes} GiB of memory, Linux {platform.release()}, Python {platform.python_version()}"
