"""Which addresses count as one client, for whatever is counted by client."""

from __future__ import annotations

import ipaddress
from functools import lru_cache


@lru_cache(maxsize=4096)
def network_of(client: str) -> str:
    """What counts as one client: an IPv4 address, or an IPv6 /64, since a single host can take any address of its own /64."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or f"{int(address) >> 64:x}::/64")
