"""The real server as a process of its own, for the tests in client/ and fault/.

with Server(tmp_path, env={"NORA_STAGING_BUDGET_BYTES": "1048576"}) as server:
    http.client.HTTPConnection("127.0.0.1", server.port)
    server.kill()      # SIGKILL for master and workers, as one blow
    server.start()     # same port, same data, same log
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
FAULT_LINE = re.compile(r'Traceback \(most recent call last\)|"status": ?5\d\d\b|\bstatus=5\d\d\b|HTTP/1\.[01]" 5\d\d\b')


class ServerFailed(AssertionError):
    """The server did not start, did not stop, or ended by itself; the message holds the end of its log."""


def free_port() -> int:
    """Not one of those that the kernel gives to clients (ip(7), ip_local_port_range): one of them might have it before a server listens on it."""
    while True:
        port = secrets.choice(range(10_000, 32_768))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Poll until the condition holds; AssertionError with `what` when it has not within the given seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds} s still waiting: {what}")
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """A zombie that nobody has reaped yet counts as dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    """Direct and indirect child processes, oldest first."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in map(int, task.read_text().split()):
                found += [child, *children(child)]
    return found


def workers_of(master: int) -> list[int]:
    """The living ones. A reload is read by another child for a moment, which looks like the master at first."""
    found = []
    for pid in children(master):
        with contextlib.suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
            if alive(pid) and not title.startswith((b"nora: reload", b"nora: master")):
                found.append(pid)
    return found


class Server:
    """`nora serve` on a free loopback port, everything it keeps below `folder`.

    `env` is added to a bare environment that holds no NORA_* variable of the caller; a value of None takes a variable away.
    `config_text` becomes the server's config.toml. `storage` and `staging` may lie elsewhere, e.g. on a mount that a test made.
    """

    def __init__(
        self,
        folder: Path,
        env: Mapping[str, str | None] | None = None,
        config_text: str | None = None,
        *,
        storage: Path | None = None,
        staging: Path | None = None,
        port: int | None = None,
        python: str = sys.executable,
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.storage = storage or folder / "storage"
        self.state = folder / "state"
        self.staging = staging or folder / "staging"
        self.log = folder / "server.log"
        self._env = dict(env or {})
        self._config_text = config_text
        self._python = python
        self._process: subprocess.Popen[bytes] | None = None

    # ------------------------------------------------------------------------------------------------ what it is

    @property
    def address(self) -> str:
        """As in an image reference: 127.0.0.1:4000."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def running(self) -> bool:
        """False before start() and after stop() or kill(); a server that ended by itself still counts, so that its end is noticed."""
        return self._process is not None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerFailed("the server is not running")
        return self._process

    @property
    def pid(self) -> int:
        """The master's."""
        return self.process.pid

    def worker_pids(self) -> list[int]:
        return workers_of(self.pid)

    def pids(self) -> list[int]:
        return [self.pid, *self.worker_pids()]

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def log_faults(self) -> list[str]:
        """Lines of the log that must never be there: tracebacks and answers of the 5xx kind."""
        return [line for line in self.log_text().splitlines() if FAULT_LINE.search(line)]

    def pss_bytes(self) -> int:
        """Memory of master and workers, pages that they share counted once."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                total += 1024 * int(re.findall(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)[0])
        return total

    # ------------------------------------------------------------------------------------------------ start and stop

    def environment(self) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("NORA_") and key != "RUST_LOG"}
        own: dict[str, str | None] = {
            "NORA_HOST": "127.0.0.1",
            "NORA_PORT": str(self.port),
            "NORA_STORAGE_PATH": str(self.storage),
            "NORA_STATE_PATH": str(self.state),
            "NORA_STAGING_PATH": str(self.staging),
            "NORA_RATE_LIMIT_ENABLED": "false",  # most tests ask faster than a client may
            "PYTHONPATH": str(ROOT),
        }
        if self._config_text is not None:
            config = self.folder / "config.toml"
            config.write_text(self._config_text)
            own["NORA_CONFIG_PATH"] = str(config)
        merged = inherited | own | self._env
        return {key: value for key, value in merged.items() if value is not None}

    def start(self, seconds: float = 30) -> Self:
        """Returns once /health answers 200."""
        self.launch()
        try:
            wait_until(self._healthy_or_gone, seconds, "/health to answer 200")
        except AssertionError as error:
            self.kill()
            raise ServerFailed(f"{error}\n{self._tail()}") from None
        if self.process.poll() is not None:
            code, self._process = self.process.returncode, None
            raise ServerFailed(f"the server ended with {code} instead of serving\n{self._tail()}")
        return self

    def launch(self) -> subprocess.Popen[bytes]:
        """Start without waiting, for tests that expect a refusal."""
        for folder in (self.folder, self.storage, self.staging):
            folder.mkdir(parents=True, exist_ok=True)
        environment = self.environment()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._python, "-m", "noraflask", "serve"],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self._process

    def stop(self, seconds: float = 30) -> int:
        """SIGTERM to the master, as systemd and docker do; returns the exit status once nothing of the server is left."""
        process, pids = self.process, self.pids()
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailed(f"the server did not stop within {seconds} s\n{self._tail()}") from None
        self._process = None
        wait_until(lambda: not any(map(alive, pids)), 5, f"the workers to end with their master: {pids}")
        return code

    def kill(self) -> None:
        """SIGKILL for the whole process group at once; quiet if nothing runs."""
        if self._process is None:
            return
        pids = self.pids()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        wait_until(lambda: not any(map(alive, pids)), 5, f"killed processes to be gone: {pids}")

    def restart(self, seconds: float = 30) -> Self:
        """A clean stop, if it still runs, and a start on the same port and folders."""
        if self.running:
            self.stop(seconds)
        return self.start(seconds)

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    def _healthy_or_gone(self) -> bool:
        if self.process.poll() is not None:
            return True
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _tail(self) -> str:
        return "\n".join(self.log_text().splitlines()[-40:])
