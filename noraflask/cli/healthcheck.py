"""`nora healthcheck`: asks the server that the configuration describes whether it is well.

A container does so every few seconds, within its own bounds of memory and processor. So nothing is imported for it but the configuration, and the
request is written by hand.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from noraflask import __version__
from noraflask.cli.subcommand import FAILED, bracketed, local_addresses, tell

if TYPE_CHECKING:
    from noraflask.config import ServerConfig

HEAD_BYTES = 4096


class NoAnswer(Exception):
    """The text says why."""


def healthcheck(timeout_seconds: float) -> int:
    """NORA's check for containers: 0 or 1, nothing else."""
    from noraflask.config import ConfigError, load

    try:
        server = load().server
    except ConfigError as error:
        for line in error.problems:
            tell(f"warning: {line}")
        server = error.usable.server
    return _ask_health(server, time.monotonic() + timeout_seconds)


def _ask_health(server: ServerConfig, give_up: float) -> int:
    """A server on every address of the machine is there by the one or the other kind of them."""
    problems = []
    for address in local_addresses(server.host):
        try:
            status = _status(address, server.port, give_up)
        except (NoAnswer, OSError) as problem:
            problems.append(f"unhealthy: no answer from {address} port {server.port}: {problem}")
            continue
        if 200 <= status < 300:
            return 0
        problems.append(f"unhealthy: {address} port {server.port} answered {status}")
    for line in problems:
        tell(line)
    return FAILED


def _status(address: str, port: int, give_up: float) -> int:
    """Raises NoAnswer, OSError."""
    head = f"GET /health HTTP/1.1\r\nHost: {bracketed(address)}:{port}\r\nUser-Agent: nora/{__version__} healthcheck\r\nConnection: close\r\n\r\n"
    with socket.create_connection((address, port), timeout=_left(give_up)) as connection:
        connection.sendall(head.encode())
        answer = b""
        while b"\n" not in answer and len(answer) < HEAD_BYTES:
            connection.settimeout(_left(give_up))
            piece = connection.recv(HEAD_BYTES)
            if not piece:
                break
            answer += piece
    protocol, _, rest = answer.partition(b"\n")[0].rstrip(b"\r").partition(b" ")
    status = rest.partition(b" ")[0]
    if protocol not in (b"HTTP/1.1", b"HTTP/1.0") or len(status) != 3 or not status.isdigit():
        raise NoAnswer("the connection was closed" if not answer else "this is no HTTP")
    return int(status)


def _left(give_up: float) -> float:
    left = give_up - time.monotonic()
    if left <= 0:
        raise NoAnswer("timed out")
    return left
