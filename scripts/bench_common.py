"""What the benches share: a server in a folder of its own, wrk, and how figures are told."""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench_client import MANIFEST_TYPE, PATH, Client, Failed

ROOT = Path(__file__).resolve().parent.parent
TIMES = "\u00d7"
CONNECTIONS = (16, 128)


# ---------------------------------------------------------------------------------------------------------------- the servers

Command = Callable[[Path, int], tuple[list[str], Mapping[str, str]]]
"""How to start a server whose folder and port are given, and its environment."""


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
        return sum(self.memory_by_process().values())

    def memory_by_process(self) -> dict[int, float]:
        found = {}
        for folder in self._processes():
            with suppress(OSError, TypeError):  # ended while we looked
                pss = re.search(r"^Pss:\s+(\d+)", (folder / "smaps_rollup").read_text(), re.M)[1]  # type: ignore[index]
                found[int(folder.name)] = int(pss) * 1024 / 1e6
        return found

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
    name: str,
    work: Path,
    command: Command,
    ready: Callable[[int], bool],
    seconds: float = 30,
    where: Path = ROOT,
) -> Iterator[Running]:
    """A program in an empty folder below `work`, as `command(folder, port)` says, run in the folder `where`; in the end it is stopped, the folder
    wiped, and nothing left to write back. Its output goes to the file `log` there. `ready(port)` is asked until it says so.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=work))
    port = free_port()
    arguments, settings = command(folder, port)
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("NORA_", "OTEL_"))} | dict(settings)
    os.sync()
    with open(folder / "log", "wb") as log:
        begin = time.perf_counter()
        process = subprocess.Popen(arguments, env=environ, cwd=where, stdout=log, stderr=log, start_new_session=True)
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
    """Does the server on a port answer there, if only by asking for a login?"""

    def ready(port: int) -> bool:
        try:
            with Client(port) as client:
                return client.ask("GET", path).status in (200, 401)
        except OSError:
            time.sleep(0.002)
            return False

    return ready


# ------------------------------------------------------------------------------------------------------------------------ wrk


@dataclass(frozen=True)
class Figure:
    """Of one run of wrk."""

    rate: float
    """Reads a second."""
    cpu: float
    """Microseconds of the server's processor time for one read: what others do on the machine hardly shows in it."""


def wrk(up: Running, header: str, connections: int, seconds: float, path: str = PATH) -> Figure:
    """Reads of the small manifest, or of another path, with that Authorization header; empty: none. Any read that fails makes the run fail."""
    before = up.cpu_seconds()
    found = load(f"http://127.0.0.1:{up.port}{path}", header, connections, seconds)
    return Figure(found.rate, (up.cpu_seconds() - before) / found.count * 1e6)


@dataclass(frozen=True)
class Load:
    rate: float
    count: int
    slow_ms: float
    """99 of 100 took no longer."""


def load(url: str, header: str, connections: int, seconds: float, host: str = "") -> Load:
    """What wrk says; `host`: another name for the Host header."""
    headers = [f"Accept: {MANIFEST_TYPE}"] if "/manifests/" in url else []
    headers += [f"{name}: {value}" for name, value in (("Authorization", header), ("Host", host)) if value]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "10s", "--latency"]
    command += [word for each in headers for word in ("-H", each)]
    said = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    rate, count = re.search(r"Requests/sec:\s+([\d.]+)", said), re.search(r"(\d+) requests in", said)
    slow = re.search(r"99%\s+([\d.]+)(us|ms|s)\b", said)
    if not rate or not count or not slow or "Non-2xx" in said or "Socket errors" in said:
        raise Failed(said)
    return Load(float(rate[1]), int(count[1]), float(slow[1]) * {"us": 0.001, "ms": 1, "s": 1000}[slow[2]])


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
