"""Fixtures of the fault tests: real servers, real file systems of their own, and nothing left of either afterwards."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NoReturn

import pytest

from tests.server import Server, wait_until

from .oci import Client, noise

CAP_SYS_ADMIN = 21
Mounts = Callable[..., Path]
Fork = Callable[..., BaseProcess]


def may_mount() -> bool:
    found = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    return bool(int(found.split()[1], 16) >> CAP_SYS_ADMIN & 1)


def unable(why: str) -> NoReturn:
    """Skip by name; in CI a test that could run and does not is a failure."""
    if os.environ.get("CI") == "true" and may_mount():
        pytest.fail(why)
    pytest.skip(why)


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Gone afterwards, other than pytest's tmp_path: these tests store much."""
    path = Path(tempfile.mkdtemp(prefix="nora-fault-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def mount(folder: Path) -> Iterator[Mounts]:
    """mount(name, *arguments of mount(8)) → the new folder that it is mounted at."""
    if not may_mount():
        unable("needs to mount file systems: run as root")
    for tool in ("mount", "umount", "mkfs.ext4"):
        if not shutil.which(tool):
            unable(f"needs {tool}")
    mounted: list[Path] = []

    def make(name: str, *arguments: str) -> Path:
        at = folder / name
        at.mkdir()
        done = subprocess.run(["mount", *arguments, str(at)], capture_output=True, text=True, check=False)
        if done.returncode:
            unable(f"mount {' '.join(arguments)}: {done.stderr.strip()}")
        mounted.append(at)
        return at

    yield make
    for at in reversed(mounted):
        if subprocess.run(["umount", str(at)], capture_output=True, check=False).returncode:
            run("umount", "-l", str(at))


def ext4_image(path: Path, megabytes: int) -> Path:
    """A sparse file with an ext4 in it, for `mount -o loop`."""
    with open(path, "wb") as file:
        file.truncate(megabytes * 1024 * 1024)
    run("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(path))
    return path


@pytest.fixture
def start(request: pytest.FixtureRequest, folder: Path) -> Iterator[Callable[..., Server]]:
    """start(env, storage=…, staging=…) → a running server, killed at the end, before anything is unmounted."""
    if "mount" in request.fixturenames:
        request.getfixturevalue("mount")
    with contextlib.ExitStack() as servers:

        def begin(env: dict[str, str] | None = None, *, name: str = "server", storage: Path | None = None, staging: Path | None = None) -> Server:
            return servers.enter_context(Server(folder / name, env, storage=storage, staging=staging))

        yield begin


@pytest.fixture
def fork() -> Iterator[Fork]:
    """fork(function, *arguments) → a child, killed at the end if it still runs."""
    children: list[BaseProcess] = []

    def begin(function: Callable[..., object], *arguments: object) -> BaseProcess:
        child = multiprocessing.get_context("fork").Process(target=function, args=arguments)
        child.start()
        children.append(child)
        return child

    yield begin
    for child in children:
        child.kill()
        child.join()


def all_workers(server: Server, count: int = 2) -> list[int]:
    """The workers' process ids, once all of them have started (one is enough for /health)."""
    wait_until(lambda: len(server.worker_pids()) == count, 10, f"{count} workers to run")
    return server.worker_pids()


def assert_well(server: Server, workers: list[int], seed: str = "well") -> None:
    """After a fault: the same processes, and a proper push and pull work."""
    assert server.worker_pids() == workers, server.log_text()[-3000:]
    with Client(server.port) as client:
        data = noise(70_000, seed)
        assert client.blob("after/fault", client.push_blob("after/fault", data)).body == data
        assert client.ask("GET", "/health").status == 200


def leftovers(server: Server) -> list[Path]:
    """Files of uploads and unfinished objects, wherever they may lie; those with a dot in front are the server's own locks."""
    found = [path for top in (server.staging, server.storage / ".incoming") for path in top.rglob("*") if path.is_file()]
    return lasting(path for path in found if not path.name.startswith("."))


def lasting(paths: Iterable[Path]) -> list[Path]:
    """Without what a server writes and removes at once, to see whether its storage works. What is left of an object is named like that, and stays."""
    found, deadline = list(paths), time.monotonic() + 2
    while any(path.suffix == ".tmp" and path.exists() for path in found) and time.monotonic() < deadline:
        time.sleep(0.02)
    return [path for path in found if path.exists()]
