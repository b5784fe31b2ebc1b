"""Addresses the server hands out. They must be right behind a proxy, a port and a sub-path."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from flask import request

from noraflask.web.context import services

_HOST = re.compile(r"(?:(?=[^:]{1,253}(?::|\Z))(?:[A-Za-z0-9_\-]{1,63}\.)*[A-Za-z0-9_\-]{1,63}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")
_PREFIX = re.compile(r"(?=.{1,255}\Z)(?:/[A-Za-z0-9._~\-]+)+\Z")


def outside(path: str) -> str:
    """A path of this server as its clients must write it.

    With a public URL: absolute. With a trusted proxy's X-Forwarded-Host: absolute, by its words. Else a path alone (RFC 9110, 10.2.2, allows it),
    which every client resolves against the address that it used itself, so that no port or scheme can be wrong.
    """
    public_url = services().config.server.public_url
    if public_url:
        return public_url + path
    if not any(name in request.headers for name in ("X-Forwarded-Host", "X-Forwarded-Prefix")) or not is_trusted(
        request.remote_addr or "", services().config.server.trusted_proxies
    ):
        return path
    prefix = _first("X-Forwarded-Prefix").rstrip("/")
    prefix = prefix if _PREFIX.match(prefix) else ""
    host, scheme = _first("X-Forwarded-Host"), _first("X-Forwarded-Proto").lower() or request.scheme
    if not _HOST.match(host) or scheme not in ("http", "https"):
        return prefix + path
    port = _first("X-Forwarded-Port")
    if port.isdigit() and port not in ("80", "443") and not re.search(r":[0-9]+\Z", host):
        host = f"{host}:{port}"
    return f"{scheme}://{host}{prefix}{path}"


def client_address(environ: Mapping[str, Any], trusted_proxies: tuple[str, ...]) -> str:
    """The client's IP: the first address from the right of X-Forwarded-For that is no trusted proxy, else the peer."""
    peer: str = environ.get("REMOTE_ADDR", "")
    if "HTTP_X_FORWARDED_FOR" not in environ or not is_trusted(peer, trusted_proxies):
        return peer
    for address in reversed(environ["HTTP_X_FORWARDED_FOR"].split(",")):
        if not is_trusted(address.strip(), trusted_proxies):
            return str(address.strip()[:64])
    return peer


@lru_cache(maxsize=4096)
def is_trusted(address: str, trusted: tuple[str, ...]) -> bool:
    """Is an IP one of these addresses and networks? A mapped IPv4 address counts as IPv4; what is no IP is not trusted."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return any(ip in network for network in _networks(trusted))


@lru_cache(maxsize=16)
def _networks(trusted: Iterable[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [ipaddress.ip_network(entry, strict=False) for entry in trusted]


def _first(header: str) -> str:
    """What the nearest proxy said: each one appends, so the last entry is its word. For these headers proxies set, not append; take the last."""
    return request.headers.get(header, "").rpartition(",")[2].strip()
