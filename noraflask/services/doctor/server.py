"""The running server on its own port, past any proxy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

from noraflask import __version__
from noraflask.services.doctor.findings import Finding, ok, warning, wrong
from noraflask.services.doctor.front import Answer, Front, NoAnswer
from noraflask.services.doctor.machine import skew


def running(front: Front) -> Iterator[Finding]:
    try:
        health, ready = front.ask("GET", "/health"), front.ask("GET", "/ready")
    except NoAnswer as problem:
        yield wrong("server", f"no answer on {front.target.authority}: {problem}", "nora serve, or: systemctl start nora")
        return
    yield from _health(health)
    parts = ready.json()
    if ready.status != 200:
        said = parts if isinstance(parts, dict) else {}
        yield wrong("ready", "; ".join(f"{name}: {value}" for name, value in said.items() if name != "status") or f"/ready answered {ready.status}")
    yield from clock_of("clock of the server", health)


def _health(answer: Answer) -> Iterator[Finding]:
    members = answer.json()
    if not isinstance(members, dict) or "version" not in members or "status" not in members:
        yield wrong("server", f"what answers on that port is not noraflask: {answer.told()}", "server.port (NORA_PORT)")
        return
    version, policy = str(members["version"]), members.get("policy")
    workers = f", {policy['workers']} workers" if isinstance(policy, dict) and "workers" in policy else ""
    shown = f"version {version}{workers}, up for {members.get('uptime_seconds')} s, {members['status']}"
    if members["status"] != "healthy":
        yield wrong("server", shown, "the server's log says why: journalctl -u nora, docker logs nora")
    elif version != __version__:
        yield warning("server", f"{shown}; this command is version {__version__}", "restart the server")
    else:
        yield ok("server", shown)


def clock_of(check: str, answer: Answer) -> Iterator[Finding]:
    """By the header Date. Seconds are cut off there, so the real time is half of one later on average."""
    try:
        told = parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
    except (ValueError, TypeError):
        return
    yield from skew(check, told + 0.5 - time.time())
