"""The order of the checks: this machine from its files to its server, then the front from outside to inside."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from ssl import SSLContext

from noraflask.config import Config
from noraflask.services.doctor import certificate, files, machine, proxy, remedies, server
from noraflask.services.doctor.findings import NAME, WRONG, Finding, Run, ok, run, warning, wrong
from noraflask.services.doctor.format_checks import HEALTH, Context, FormatChecks, Home, OpenStorage, OwnStorage
from noraflask.services.doctor.front import TIMEOUT_SECONDS, Front, Target
from noraflask.services.doctor.redis import redis
from noraflask.storage.mounts import MEMORY_FILE_SYSTEMS, mount_here

SLOW_BYTES_PER_SECOND = 4 * 1024 * 1024
"""Of a disk that must still be waited for."""


def this_machine(config: Config, address: str, open_storage: OpenStorage) -> Iterator[Finding]:
    """`address`: where the server's own port is reached."""
    front = Front(Target("http", address, config.server.port, ""), timeout=10)
    checks: list[tuple[str, Run]] = [
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
    yield from machine.storage_folder(path, mount_here(path))
    yield from machine.disk(path)
    try:
        with open_storage() as found:
            yield from machine.same_device(path, lambda folder: os.stat(folder).st_dev)
            yield from machine.round_trip(found)
            with contextlib.suppress(OSError):
                os.rmdir(path / NAME)  # the folder of the round trip's object
    except OSError as problem:
        remedy = f"run this as user {os.stat(path).st_uid}, or: chown -R <the server's user> {path}"
        yield wrong("storage", f"{problem.filename or path}: {problem.strerror}", remedy)


def state(path: Path) -> Iterator[Finding]:
    if not path.is_dir():
        yield wrong("state folder", f"{path} is not there", "state.path (NORA_STATE_PATH); the first start of the server makes the folder")
        return
    mount = mount_here(path)
    if mount.kind in MEMORY_FILE_SYSTEMS:
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
    size: int = 8 * machine.MIB
    pause_seconds: float = 5.0


def through_front(options: FrontOptions, formats: Sequence[FormatChecks], own: OwnStorage | None = None) -> Iterator[Finding]:
    """`own`: the storage that the front may lead to."""
    tls: SSLContext | None = None
    if options.target.scheme == "https":
        try:
            tls = certificate.context_for(options.ca_file)
        except OSError as problem:
            yield wrong("certificate", f"{options.ca_file}: {problem.strerror or problem}", "--ca-file: a file with certificates in PEM")
            return
        if not (yield from certificate.certificate(options.target, tls, [line for format in formats for line in format.trust])):
            yield warning("canary", "not tried: nothing is sent where the certificate is not trusted")
            return
    front = Front(options.target, tls, options.authorization, TIMEOUT_SECONDS + options.size / SLOW_BYTES_PER_SECOND)
    home = next((format.home for format in formats if format.home), HEALTH)
    reached = list(proxy.reachable(front, home))
    yield from reached
    if any(finding.verdict == WRONG for finding in reached):
        return
    context = Context(front, options.size, options.pause_seconds, own)
    checks = [check for format in formats for check in format.checks]
    yield from run((check.title, partial(check.run, context)) for check in checks if not check.needs_login)
    yield from run(_of_the_front(front, home))
    if not options.authorization and front.ask("GET", front.target.prefix + home.path).status == 401:
        yield warning("canary", "not tried: the registry wants a login", remedies.LOGIN)
        return
    yield from run((check.title, partial(check.run, context)) for check in checks if check.needs_login)


def _of_the_front(front: Front, home: Home) -> list[tuple[str, Run]]:
    checks: list[tuple[str, Run]] = [
        ("forwarded headers", lambda: proxy.forwarded(front)),
        ("metrics", lambda: proxy.metrics(front)),
        ("TLS", lambda: proxy.transport(front)),
    ]
    if front.target.scheme == "https" and front.target.port == 443:
        checks.append(("http", lambda: proxy.redirect(front.target, home)))
    return checks
