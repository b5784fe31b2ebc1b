"""Addresses the server hands out. They must be right behind a proxy, a port and a sub-path."""

from __future__ import annotations

import re

from flask import request

from noraflask.web.context import state
from noraflask.web.peers import client_address, is_trusted

_HOST = re.compile(r"(?:(?=[^:]{1,253}(?::|\Z))(?:[A-Za-z0-9_\-]{1,63}\.)*[A-Za-z0-9_\-]{1,63}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")
_PREFIX = re.compile(r"(?=.{1,255}\Z)(?:/[A-Za-z0-9._~\-]+)+\Z")


def outside(path: str) -> str:
    """A path of this server as its clients must write it.

    With a public URL: absolute. With a trusted proxy's X-Forwarded-Host: absolute, by its words. Else a path alone (RFC 9110, 10.2.2, allows it),
    which every client resolves against the address that it used itself, so that no port or scheme can be wrong.
    """
    public_url = state().config.server.public_url
    if public_url:
        return public_url + path
    environ = request.environ
    if not ("HTTP_X_FORWARDED_HOST" in environ or "HTTP_X_FORWARDED_PREFIX" in environ) or not is_trusted(
        request.remote_addr or "", state().config.server.trusted_proxies
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


def absolute(path: str) -> str:
    """As outside(), and absolute whatever is known: for what clients do not resolve, such as the realm of a challenge.

    Without a public URL and a forwarded host, the host is the one that the client asked.
    """
    address = outside(path)
    if not address.startswith("/"):
        return address
    scheme = request.scheme
    if "X-Forwarded-Proto" in request.headers and is_trusted(request.remote_addr or "", state().config.server.trusted_proxies):
        told = _first("X-Forwarded-Proto").lower()
        scheme = told if told in ("http", "https") else scheme
    return f"{scheme}://{own_host()}{address}"


def as_seen() -> dict[str, str]:
    """The request at hand as this server sees it, for whoever sent it: its client, the address that the client uses, and whether a proxy named it.

    `forwarded`: none without X-Forwarded-For, untrusted from a peer that is not believed (then `client` is that peer), else trusted.
    """
    trusted = state().config.server.trusted_proxies
    forwarded = "none"
    if "X-Forwarded-For" in request.headers:
        forwarded = "trusted" if is_trusted(request.remote_addr or "", trusted) else "untrusted"
    return {"client": client_address(request.environ, trusted), "url": absolute("/").rstrip("/"), "forwarded": forwarded}


def own_host() -> str:
    """Host and port as the client wrote them, where that is sound; else where the server listens."""
    host = request.environ.get("HTTP_HOST", "")
    return host if _HOST.match(host) else f"{request.environ['SERVER_NAME']}:{request.environ['SERVER_PORT']}"


def _first(header: str) -> str:
    """What the nearest proxy said: each one appends, so the last entry is its word. For these headers proxies set, not append; take the last."""
    return request.headers.get(header, "").rpartition(",")[2].strip()
