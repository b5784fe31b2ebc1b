"""Whom a request is from, and what address the client used: the peer, or what trusted proxies say of it.

Each proxy adds an entry at the right end of X-Forwarded-For, or of Forwarded (RFC 7239): whom it had the request from. Read from the right, entries
of trusted proxies are believed, and so is the first one behind them, which the outermost trusted proxy added. What stands further to the left anybody
may have written. Host, scheme and port are that proxy's words too. Forwarded counts only where no X-Forwarded-For, -Host, -Proto or -Port is there:
the usual proxies write those, and pass the other one on as a client sent it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

MOST_CHARACTERS = 1024
"""Of a header, from the right."""
MOST_PROXIES = 32
REMEMBERED_CHARACTERS = 256
"""Of all these headers, where a process remembers what they say; clients can make them long, and each time others."""
MOST_COMMAS = 8
"""In the quotes of one element."""

_FORWARDED = "HTTP_FORWARDED"
_FOR, _HOST, _PROTO, _PORT, _PREFIX = (f"HTTP_X_FORWARDED_{word}" for word in ("FOR", "HOST", "PROTO", "PORT", "PREFIX"))
_VALUE = r"""[!#$%&'*+.^_`|~0-9A-Za-z:\[\]/-]*+"""  # also what RFC 7239 wants in quotes
_PAIR = rf'[A-Za-z][A-Za-z0-9-]*+=(?:"(?:[^"\\]|\\.)*+"|{_VALUE})'
_ELEMENT = re.compile(rf"[ \t]*+({_PAIR}(?:[ \t]*+;[ \t]*+{_PAIR})*+)[ \t]*+;?[ \t]*+\Z")
_PAIRS = re.compile(rf'([A-Za-z][A-Za-z0-9-]*+)=(?:({_VALUE})(?![^;\s])|"((?:[^"\\]|\\.)*+)")')


@dataclass(frozen=True, slots=True)
class Front:
    """The request as its client sent it to the outermost trusted proxy. What was not told is empty."""

    client: str
    host: str = ""
    scheme: str = ""
    port: str = ""
    prefix: str = ""


def front_of(environ: Mapping[str, Any], trusted_proxies: tuple[str, ...]) -> Front:
    """What an untrusted peer says changes nothing."""
    peer: str = environ.get("REMOTE_ADDR", "")
    if not _says(environ) or not is_trusted(peer, trusted_proxies):
        return Front(plain_address(peer))
    told = tuple(str(environ[name])[-MOST_CHARACTERS:] if name in environ else None for name in (_FOR, _HOST, _PROTO, _PORT, _PREFIX, _FORWARDED))
    understood = _front if sum(map(len, filter(None, told))) <= REMEMBERED_CHARACTERS else _front.__wrapped__
    return understood(plain_address(peer), told, trusted_proxies)


def client_address(environ: Mapping[str, Any], trusted_proxies: tuple[str, ...]) -> str:
    """The client's IP: the first address from the right that is no trusted proxy, else the peer. A mapped IPv4 address is told as IPv4."""
    return front_of(environ, trusted_proxies).client


def _says(environ: Mapping[str, Any]) -> bool:
    return _FOR in environ or _FORWARDED in environ or _HOST in environ or _PROTO in environ or _PORT in environ or _PREFIX in environ


@lru_cache(maxsize=4096)
def _front(peer: str, told: tuple[str | None, ...], trusted_proxies: tuple[str, ...]) -> Front:
    by_for, host, proto, port, prefix, forwarded = told
    if forwarded is not None and by_for is host is proto is port is None:
        return _by_elements(peer, forwarded, prefix, trusted_proxies)
    client, proxies = _client_of(peer, (by_for or "").split(",")[::-1] if by_for is not None else [], trusted_proxies)
    return Front(client, *(_added_by(proxies, header) for header in (host, proto, port, prefix)))


def _client_of(peer: str, entries: Iterable[str], trusted_proxies: tuple[str, ...]) -> tuple[str, int]:
    """The client by entries from the right, and how many of them trusted proxies have added: at least the peer speaks."""
    proxies = 0
    for entry in entries:
        address = parse_address(entry)
        if address is None:  # whoever wrote that: beyond it nobody can be believed
            break
        proxies += 1
        if not is_trusted(address, trusted_proxies):
            return address, proxies
    return peer, max(1, proxies)


def _added_by(proxies: int, header: str | None) -> str:
    """The first entry of what so many trusted proxies have added; one that sets the header anew leaves fewer."""
    entries = (header or "").split(",")
    return entries[-min(proxies, len(entries))].strip()


def _by_elements(peer: str, forwarded: str, prefix: str | None, trusted_proxies: tuple[str, ...]) -> Front:
    elements = _elements(forwarded)
    client, proxies = _client_of(peer, [element.get("for", "") for element in elements], trusted_proxies)
    told = elements[:proxies][::-1]  # the outermost first
    host, scheme = (next((element[word] for element in told if word in element), "") for word in ("host", "proto"))
    return Front(client, host, scheme, "", _added_by(proxies, prefix))


def _elements(forwarded: str) -> list[dict[str, str]]:
    """From the right, as far as they can be read: an open quote of a client must not swallow what a proxy has added behind it."""
    found: list[dict[str, str]] = []
    end = len(forwarded)
    while end > 0 and len(found) < MOST_PROXIES:
        comma, match = end, None
        for _ in range(MOST_COMMAS):
            comma = forwarded.rfind(",", 0, comma)
            match = _ELEMENT.match(forwarded[comma + 1 : end])
            if match is not None or comma < 0:
                break
        if match is None:
            return found
        found.append({name.lower(): token or re.sub(r"\\(.)", r"\1", quoted) for name, token, quoted in _PAIRS.findall(match[1])})
        end = comma
    return found


def parse_address(text: str) -> str | None:
    """An IP address, which some proxies write with the port: `10.1.2.3:4711`, `[2001:db8::1]:4711`. None for anything else."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(unmapped(ipaddress.ip_address(text.partition("%")[0])))
    except ValueError:
        return None


@lru_cache(maxsize=4096)
def plain_address(address: str) -> str:
    """A peer's address as it is told and counted: a mapped IPv4 address as IPv4, without a zone. What is no IP stays as it is."""
    return (parse_address(address) or address) if ":" in address else address


@lru_cache(maxsize=4096)
def is_trusted(address: str, trusted: tuple[str, ...]) -> bool:
    """Is an IP one of these addresses and networks? A mapped IPv4 address counts as IPv4; what is no IP is not trusted."""
    try:
        ip = unmapped(ipaddress.ip_address(address))
    except ValueError:
        return False
    return any(ip in network for network in _networks(trusted))


def unmapped(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """A mapped IPv4 address as IPv4."""
    return getattr(ip, "ipv4_mapped", None) or ip


@lru_cache(maxsize=16)
def _networks(trusted: Iterable[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [_unmapped_network(ipaddress.ip_network(entry, strict=False)) for entry in trusted]


def _unmapped_network(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """`::ffff:10.0.0.0/104` is 10.0.0.0/8."""
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    return ipaddress.ip_network(f"{mapped}/{network.prefixlen - 96}") if mapped and network.prefixlen >= 96 else network
