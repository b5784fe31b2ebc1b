"""Whom a request is from: its peer, or the client that a trusted proxy names."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any


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
