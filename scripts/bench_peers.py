"""For scripts/bench oci and edge: this registry, as it is, without plans and as another checkout has it, and its peers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench_client import Client
from bench_common import ROOT, Command, Running, answers, find_binary, nora, ours, started
from bench_hooks import ALL_ON, KNOWN, api_token, login_settings

PLANS = "NORA_PLAN_MEMORY_MB"


@dataclass(frozen=True)
class Server:
    """How to start one registry in a folder."""

    name: str
    title: str
    command: Command
    program: tuple[str, str] | None = None
    """Where to look for it: a variable, and a name."""
    logins: bool = False
    where: Path = ROOT

    @property
    def is_absent(self) -> bool:
        return self.program is not None and find_binary(*self.program) is None


@dataclass(frozen=True)
class Registry:
    """One that has been started, and how to talk to it."""

    up: Running
    login: str
    """The Authorization header; empty: it asks for none."""

    def client(self) -> Client:
        return Client(self.up.port, self.login)


@contextmanager
def running(server: Server, work: Path) -> Iterator[Registry]:
    with started(server.name, work, server.command, answers("/v2/"), where=server.where) as up:
        yield Registry(up, api_token(up.port) if server.logins else "")


def all_on(folder: Path, port: int, more: Mapping[str, str] | None = None) -> tuple[list[str], Mapping[str, str]]:
    """This registry with logins, a limiter with bounds that nobody meets, metrics, and a line for each request."""
    arguments, own = ours(folder, port)
    return arguments, {**own, **ALL_ON, **login_settings(folder, ALL_ON), **(more or {})}


def distribution(folder: Path, port: int) -> tuple[list[str], Mapping[str, str]]:
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


OURS = Server("ours", "noraflask", all_on, logins=True)
PEERS = (
    Server("distribution", "distribution 3.1.2", distribution, ("NORAFLASK_BENCH_DISTRIBUTION", "registry")),
    Server("nora", "NORA 1.4.3", nora, ("NORAFLASK_BENCH_NORA", "nora")),
)


def without_plans() -> Server | None:
    """None: this version knows no plans."""
    return replace(OURS, name="off", title="noraflask without plans", command=partial(all_on, more={PLANS: "0"})) if PLANS in KNOWN else None


def of_checkout(where: Path) -> Server:
    """The registry of another checkout, with the Python of this one."""
    return replace(OURS, name="before", title=f"noraflask at {revision(where)}", where=where.resolve())


def revision(where: Path) -> str:
    return subprocess.run(["git", "-C", str(where), "describe", "--always", "--dirty"], capture_output=True, text=True, check=True).stdout.strip()
