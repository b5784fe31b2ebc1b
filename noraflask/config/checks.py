"""What only shows between settings: contradictions, which stop the start, and warnings, which do not."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from noraflask.config.model import Config
from noraflask.config.reading import Reading


def contradictions(config: Config, reading: Reading) -> list[str]:
    """Pairs of values that are fine alone and not together. A pair with a value that has a problem of its own is left out."""
    server, staging = config.server, config.staging
    pairs = [
        ("staging.share_bytes", staging.share_bytes, "staging.budget_bytes", staging.budget_bytes),
        ("server.workers", server.workers, "server.max_connections", server.max_connections),
    ]
    found = []
    for small, low, large, high in pairs:
        if low > high and not {small, large} & reading.doubtful:
            given = reading.values.get(small) or reading.values[large]
            found.append(f"{given.place}: {small} is {low}, expected at most the {high} of {large} (from {config.sources[large]})")
    return found


def warnings(config: Config, file: Path | None) -> list[str]:
    return list(_warnings(config, file))


def _warnings(config: Config, file: Path | None) -> Iterator[str]:
    server = config.server
    if server.keep_alive_timeout <= 90:
        yield f"server.keep_alive_timeout = {server.keep_alive_timeout}: a proxy may reuse a connection that is being closed; use more than 90"
    if server.public_url and _is_loopback(urlsplit(server.public_url).hostname or ""):
        yield f"server.public_url = {server.public_url}: only clients on this machine can follow such URLs"
    if any(ipaddress.ip_network(entry, strict=False).prefixlen == 0 for entry in server.trusted_proxies):
        yield "auth.trusted_proxies: a network of length /0 trusts everybody, so every client can forge its address"
    if not config.docker.enabled:
        yield "docker.enabled = false: no format is served"
    for key, path in (("storage.path", config.storage.path), ("staging.path", config.staging.path)):
        if file is not None and not path.is_absolute():
            yield f"{key} = {path}: is relative to the working folder, not to the configuration file; use an absolute path"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
