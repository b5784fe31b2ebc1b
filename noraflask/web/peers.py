"""Whom a request is from: its peer, or the client that a trusted proxy names."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any


def client_address(environ: Mapping[str, Any], trusted_proxies: tuple[str, ...]) -> str:
    """The client's IP: the first address from the right of X-Forwarded-For that is no trusted proxy, else the peer."""
    peer: str = environ.get("REMOTE_ADDR", "")
    forwarded = environ.get("HTTP_X_FORWARDED_FOR")
    if forwarded is None or not is_trusted(peer, trusted_proxies):
        return peer
    return _forwarded_client(peer, forwarded[-1024:], trusted_proxies)  # cut before it is remembered: headers may be long


@lru_cache(maxsize=4096)
def _forwarded_client(peer: str, forwarded: str, trusted_proxies: tuple[str, ...]) -> str:
    for entry in reversed(forwarded.split(",")):
        address = parse_address(entry)
        if address is None:  # whoever wrote that: beyond it nobody can be believed
            return peer
        if not is_trusted(address, trusted_proxies):
            return address
    return peer


def parse_address(text: str) -> str | None:
    """An IP address, which some proxies write with the port: `10.1.2.3:4711`, `[2001:db8::1]:4711`. None for anything else."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return None


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
