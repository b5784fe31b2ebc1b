"""Addresses the server hands out. They must be right behind a proxy, a port and a sub-path."""

from __future__ import annotations

import re

from flask import request

from noraflask.web.context import state
from noraflask.web.peers import Front, client_address, front_of, is_trusted

_HOST = re.compile(r"(?:(?=[^:]{1,253}(?::|\Z))(?:[A-Za-z0-9_\-]{1,63}\.)*[A-Za-z0-9_\-]{1,63}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")
_PORT = re.compile(r"[1-9][0-9]{0,4}\Z", re.ASCII)
_PREFIX = re.compile(r"(?=.{1,255}\Z)(?:/[A-Za-z0-9._~\-]+)+\Z")


def outside(path: str) -> str:
    """A path of this server as its clients must write it.

    With a public URL: absolute. With a host that a trusted proxy forwards: absolute, by its words. Else a path alone (RFC 9110, 10.2.2, allows it),
    which every client resolves against the address that it used itself, so that no port or scheme can be wrong.
    """
    public_url = state().config.server.public_url
    if public_url:
        return public_url + path
    front = _front()
    prefix = front.prefix.rstrip("/")
    prefix = prefix if _PREFIX.match(prefix) else ""
    scheme = front.scheme.lower() or request.scheme
    host = front.host
    if not _HOST.match(host) or scheme not in ("http", "https"):
        return prefix + path
    if _PORT.match(front.port) and front.port not in ("80", "443") and not re.search(r":[0-9]+\Z", host):
        host = f"{host}:{front.port}"
    return f"{scheme}://{host}{prefix}{path}"


def absolute(path: str) -> str:
    """As outside(), and absolute whatever is known: for what clients do not resolve, such as the realm of a challenge.

    Without a public URL and a forwarded host, the host is the one that the client asked.
    """
    address = outside(path)
    if not address.startswith("/"):
        return address
    told = _front().scheme.lower()
    return f"{told if told in ('http', 'https') else request.scheme}://{own_host()}{address}"


def as_seen() -> dict[str, str]:
    """The request at hand as this server sees it, for whoever sent it: its client, the address that the client uses, and whether a proxy named it.

    `forwarded`: none without X-Forwarded-For and Forwarded, untrusted from a peer that is not believed (then `client` is that peer), else trusted.
    """
    trusted = state().config.server.trusted_proxies
    forwarded = "none"
    if "X-Forwarded-For" in request.headers or "Forwarded" in request.headers:
        forwarded = "trusted" if is_trusted(request.remote_addr or "", trusted) else "untrusted"
    return {"client": client_address(request.environ, trusted), "url": absolute("/").rstrip("/"), "forwarded": forwarded}


def own_host() -> str:
    """Host and port as the client wrote them, where that is sound; else where the server listens."""
    host = request.environ.get("HTTP_HOST", "")
    return host if _HOST.match(host) else f"{request.environ['SERVER_NAME']}:{request.environ['SERVER_PORT']}"


def _front() -> Front:
    return front_of(request.environ, state().config.server.trusted_proxies)
