"""nora reload: SIGHUP to the master of the configured address, after a look at what it would read, and a wait until every worker has it."""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noraflask import __version__
from noraflask.cli.subcommand import Commands, Failed, add, local_address, local_url, tell

if TYPE_CHECKING:
    from noraflask.config import ServerConfig

POLL_SECONDS = 0.1
ANSWER_SECONDS = 5.0

DESCRIPTION = """\
Reads the configuration and its rules as the server would, and with a problem stops there: exit code 78, nothing is sent. Then it sends SIGHUP to
the running server and waits until every worker has the new policy. Run it as the server's user or root, in its folder and with its variables.
"""


@dataclass(frozen=True, slots=True)
class State:
    """Of /health."""

    fingerprint: str
    workers: int
    current: int
    last_reload: float
    failed_reload: float | None


def add_commands(commands: Commands) -> None:
    parser = add(commands, "reload", "make the running server read its rules again", DESCRIPTION)
    parser.add_argument("--timeout-secs", type=_seconds, default=10.0, metavar="N", help="seconds to wait for the workers (default: 10)")
    parser.set_defaults(work=reload)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise ValueError(text)
    return value


def reload(options: argparse.Namespace) -> int:
    from noraflask.config import load
    from noraflask.serve.settings import address
    from noraflask.services.curation.loading import load_policy
    from noraflask.services.curation.policy import Policy

    config = load()
    expected = Policy.from_buffer(load_policy(config.curation, time.time())[0]).fingerprint
    server = config.server
    master = find_master(address(server.host, server.port))

    def ask() -> State:
        return ask_health(server)

    before = ask()
    send(master)
    state = wait(ask, before, options.timeout_secs)
    print(f"all {state.workers} workers have policy {state.fingerprint}")
    if state.fingerprint != expected:
        tell(f"warning: by the configuration that this command reads it would be {expected}; the server has other variables, or another folder")
    return 0


def find_master(address: str, proc: Path = Path("/proc")) -> int:
    """Raises Failed unless there is exactly one."""
    from noraflask.services.master_process import find_masters

    masters = find_masters(address, proc)
    if not masters:
        title = f"nora: master [{address}]"
        raise Failed(f"there is no running server for {address} ({title!r} in the process list); start it, or reload it where it runs")
    if len(masters) > 1:
        pids = ", ".join(map(str, masters))
        raise Failed(f"there are several servers for {address}, processes {pids}; send SIGHUP to the one that is meant")
    return masters[0]


def send(master: int) -> None:
    try:
        os.kill(master, signal.SIGHUP)
    except ProcessLookupError:
        raise Failed(f"the server, process {master}, has just ended; nothing was reloaded") from None
    except PermissionError:
        raise Failed(f"process {master} belongs to another user; run this as that user or as root") from None


def wait(
    ask: Callable[[], State],
    before: State,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> State:
    """The state in which every worker has what the master read. Raises Failed when the master refused it, or time is up."""
    end = clock() + seconds
    while True:
        state = ask()
        if state.failed_reload != before.failed_reload:
            raise Failed(f"the server refused it and goes on with policy {state.fingerprint}; its log says why (`Curation policy reload failed`)")
        if state.last_reload != before.last_reload and state.current == state.workers:
            return state
        if clock() >= end:
            if state.last_reload == before.last_reload:
                raise Failed(f"after {seconds:g} seconds the server has not reloaded; its log says more")
            told = f"after {seconds:g} seconds {state.current} of {state.workers} workers have policy {state.fingerprint}"
            raise Failed(f"{told}; the others have the one before until they answer the signal or are replaced; GET /api/v1/policy shows them")
        pause(POLL_SECONDS)


def ask_health(server: ServerConfig) -> State:
    from noraflask import http_client

    bounds = http_client.Bounds(ANSWER_SECONDS, ANSWER_SECONDS)
    try:
        return state_of(http_client.get(f"{local_url(server)}/health", {"User-Agent": f"nora/{__version__} reload"}, bounds).body)
    except http_client.NoAnswer as problem:
        raise Failed(f"no answer from {local_address(server.host)} port {server.port}: {problem}") from None


def state_of(body: bytes) -> State:
    try:
        members: dict[str, Any] = json.loads(body)["policy"]
        return State(**{name: members[name] for name in State.__slots__})
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Failed("what answers there does not tell its policy; is it this registry, in this version?") from None
