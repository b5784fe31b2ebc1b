"""The order of the checks: this machine from its files to its server, then the front from outside to inside."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext

from noraflask.config import Config
from noraflask.services.doctor import canary, certificate, files, machine, proxy, remedies, server
from noraflask.services.doctor.findings import WRONG, Check, Finding, ok, run, warning, wrong
from noraflask.services.doctor.front import TIMEOUT_SECONDS, Front, Target
from noraflask.services.doctor.redis import redis
from noraflask.storage import Storage

SLOW_BYTES_PER_SECOND = 4 * 1024 * 1024
"""Of a disk that must still be waited for."""

OpenStorage = Callable[[], AbstractContextManager[Storage]]
"""Opens the storage as its owner."""


def this_machine(config: Config, address: str, open_storage: OpenStorage) -> Iterator[Finding]:
    """`address`: where the server's own port is reached."""
    front = Front(Target("http", address, config.server.port, ""), timeout=10)
    checks: list[tuple[str, Check]] = [
        ("storage", lambda: storage(config.storage.path, open_storage)),
        ("state", lambda: state(config.state.path)),
        ("staging", lambda: machine.staging_here(config.staging)),
        ("clock", machine.clock_here),
        ("limits", lambda: machine.process_limits(config)),
        ("policy", lambda: files.policy_here(config.curation)),
        ("users", lambda: files.users(config)),
        ("redis", lambda: redis(config.rate_limit)),
        ("server", lambda: server.running(front)),
    ]
    return run(checks)


def storage(path: Path, open_storage: OpenStorage) -> Iterator[Finding]:
    if not path.is_dir():
        yield wrong("storage folder", f"{path} is not there", "storage.path (NORA_STORAGE_PATH); the first start of the server makes the folder")
        return
    yield from machine.storage_folder(path, machine.mount_here(path))
    yield from machine.disk(path)
    try:
        with open_storage() as found:
            yield from machine.same_device(path, lambda folder: os.stat(folder).st_dev)
            yield from machine.round_trip(found)
            with contextlib.suppress(OSError):
                os.rmdir(path / canary.NAME)  # the folder of the round trip's object
    except OSError as problem:
        remedy = f"run this as user {os.stat(path).st_uid}, or: chown -R <the server's user> {path}"
        yield wrong("storage", f"{problem.filename or path}: {problem.strerror}", remedy)


def state(path: Path) -> Iterator[Finding]:
    if not path.is_dir():
        yield wrong("state folder", f"{path} is not there", "state.path (NORA_STATE_PATH); the first start of the server makes the folder")
        return
    mount = machine.mount_here(path)
    if mount.kind in machine.MEMORY_FILE_SYSTEMS:
        yield wrong("state folder", f"{path} lies on {mount.kind} ({mount.point}): a restart loses audit log and ledger", "state.path: on a disk")
    elif mount.kind == "overlay":
        yield wrong("state folder", f"{path} lies in the container's own layer and is lost with the container", "state.path: on a volume")
    else:
        yield ok("state folder", f"{path} on {mount.kind} ({mount.point})")


@dataclass(frozen=True, slots=True)
class FrontOptions:
    target: Target
    ca_file: Path | None = None
    authorization: str | None = None
    size: int = canary.HELD_BYTES
    pause_seconds: float = 5.0


def through_front(options: FrontOptions, made: Callable[[str], None] = lambda name: None) -> Iterator[Finding]:
    """`made` is told the name of the canary after it was removed through the front."""
    context: SSLContext | None = None
    if options.target.scheme == "https":
        try:
            context = certificate.context_for(options.ca_file)
        except OSError as problem:
            yield wrong("certificate", f"{options.ca_file}: {problem.strerror or problem}", "--ca-file: a file with certificates in PEM")
            return
        if not (yield from certificate.certificate(options.target, context)):
            yield warning("canary", "not tried: nothing is sent where the certificate is not trusted")
            return
    front = Front(options.target, context, options.authorization, TIMEOUT_SECONDS + options.size / SLOW_BYTES_PER_SECOND)
    found = list(proxy.reachable(front))
    yield from found
    if any(finding.verdict == WRONG for finding in found):
        return
    yield from run(_before_the_canary(front))
    if not options.authorization and front.ask("GET", f"{options.target.prefix}/v2/").status == 401:
        yield warning(
            "canary",
            "not tried: the registry wants a login",
            remedies.LOGIN,
        )
        return
    bird = canary.Canary(front, options.size, options.pause_seconds)
    yield from run([("canary", bird.run)])
    made(bird.name)


def _before_the_canary(front: Front) -> list[tuple[str, Check]]:
    checks: list[tuple[str, Check]] = [
        ("login address", lambda: proxy.login_address(front)),
        ("forwarded headers", lambda: proxy.forwarded(front)),
        ("metrics", lambda: proxy.metrics(front)),
        ("TLS", lambda: proxy.transport(front)),
    ]
    if front.target.scheme == "https" and front.target.port == 443:
        checks.append(("http", lambda: proxy.redirect(front.target)))
    return checks
