"""Browsers run what other sites wrote, from inside of networks and on the machine itself. Here is what such pages may do:

read      what an answer tells pages of other origins: nothing, unless cors.allowed_origins names them (CORS; Fetch standard, "HTTP extensions")
change    a request of another site that would change anything is refused, before anybody is asked to log in (`Origin`, `Sec-Fetch-Site`)
be local  a server that listens on a loopback address is asked by its own names alone: a foreign site's name may lead there as well (DNS rebinding)

Clients that are no browsers send neither `Origin` nor `Sec-Fetch-Site`, and none of this concerns them.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Request, Response, request

from noraflask.ecosystems import ECOSYSTEMS
from noraflask.errors import Denied
from noraflask.services.state import State
from noraflask.web.addresses import absolute
from noraflask.web.context import STATE
from noraflask.web.format import Format
from noraflask.web.peers import is_trusted, unmapped
from noraflask.web.responses import Answer
from noraflask.web.targets import TARGET

READING = frozenset(("GET", "HEAD"))
SAFE = READING | {"OPTIONS"}
"""Methods that change nothing (RFC 9110, 9.2.1), as far as anything here answers them."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

_SENT = (
    *("Accept", "Authorization", "Cache-Control", "Content-Digest", "Content-Range", "Content-Type", "If-Match", "If-Modified-Since"),
    *("If-None-Match", "If-Range", "If-Unmodified-Since", "Pragma", "Range", "Repr-Digest", "X-Request-Id", "X-Requested-With"),
    *sorted(name.removeprefix("HTTP_").replace("_", "-").title() for one in ECOSYSTEMS.values() for name in one.credential_headers),
)
"""Headers that a page may send. None by which a proxy speaks to us: who has one to pass such headers on would be believed."""
_TOLD = (
    *("Accept-Ranges", "Allow", "Content-Disposition", "Content-Length", "Content-Range", "Date", "ETag", "Last-Modified", "Link", "Location"),
    *("Repr-Digest", "Retry-After", "WWW-Authenticate", "X-Nora-Policy", "X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Request-Id"),
)
"""Headers of answers that a page may read."""
KEPT_SECONDS = 600
"""How long a browser need not ask again what it may."""

_FORWARDING = ("HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_HOST", "HTTP_X_FORWARDED_PROTO", "HTTP_FORWARDED", "HTTP_X_REAL_IP")
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_.-]{1,253})(?::(?P<port>[0-9]{1,5}))?\Z")
_USUAL_PORT = re.compile(r":(?:80|443)\Z")
LONGEST_HOST = 261


class CrossSite(Denied):
    """A page of another site asks, and not the person before it."""

    default_message = "a page of another site may not change anything here; cors.allowed_origins names the sites that may"


class UnknownHost(Denied):
    """The name in Host is none of this server's."""

    default_message = (
        "this server listens on a loopback address and is not known by the name in Host: let the proxy in front send X-Forwarded-For, "
        "or set server.public_url, or add the name to server.allowed_hosts"
    )


def install(app: Flask) -> None:
    """Behind the rate limits, and before all else."""

    def look() -> Response | None:
        here: Request = request._get_current_object()  # type: ignore[attr-defined]
        environ = here.environ
        if _is_loopback(environ["SERVER_NAME"]) and not _is_known(environ):
            raise UnknownHost()
        method = environ["REQUEST_METHOD"]
        if method in READING:
            return None
        if method == "OPTIONS":
            return _preflight(environ)
        if _is_foreign(environ):
            raise CrossSite()
        return None

    app.before_request(look)


# Reading.


@dataclass(frozen=True, slots=True)
class Sharing:
    """Who may read answers."""

    origins: frozenset[str]
    anybody: bool

    def of(self, origin: str, method: str) -> tuple[tuple[str, str], ...]:
        """Headers that let the page go on; none: it may not. Browsers send a login that they keep to named origins alone."""
        if origin in self.origins:
            return (("Access-Control-Allow-Origin", origin), ("Access-Control-Allow-Credentials", "true"))
        return (("Access-Control-Allow-Origin", "*"),) if self.anybody and method in SAFE else ()


@lru_cache(maxsize=8)
def _sharing(allowed: tuple[str, ...]) -> Sharing:
    return Sharing(frozenset(allowed) - {"*"}, "*" in allowed)


def shared_with(environ: dict[str, Any], format: Format | None) -> tuple[tuple[str, str], ...]:
    """What an answer says to browsers about pages of other origins. `format`: whose headers such a page may read as well."""
    allowed: tuple[str, ...] = environ[STATE].config.cors.allowed_origins
    if not allowed:
        return ()
    sharing = _sharing(allowed)
    vary = (("Vary", "Origin"),) if sharing.origins else ()  # without an Origin too: a cache would give that answer to a page
    granted = sharing.of(environ.get("HTTP_ORIGIN", ""), environ["REQUEST_METHOD"]) if "HTTP_ORIGIN" in environ else ()
    if not granted or environ["REQUEST_METHOD"] == "OPTIONS":
        return vary + granted
    told = (*_TOLD, *format.answer_headers) if format else _TOLD
    return (*vary, *granted, ("Access-Control-Expose-Headers", ", ".join(told)))


def _preflight(environ: dict[str, Any]) -> Response | None:
    """The answer to a browser that asks whether a page may (Fetch standard, "CORS-preflight request"); it comes without a login.

    None: that is no such question, or the page may not, and no header says that it may.
    """
    wanted = environ.get("HTTP_ACCESS_CONTROL_REQUEST_METHOD", "")
    sharing = _sharing(environ[STATE].config.cors.allowed_origins)
    origin = environ.get("HTTP_ORIGIN", "")
    if not wanted or not (sharing.anybody or origin in sharing.origins):
        return None
    format: Format | None = environ[TARGET].format
    answer = Answer(status=204)  # shared_with() says to whom it is, as on every answer
    answer.headers["Access-Control-Allow-Methods"] = ", ".join(METHODS if origin in sharing.origins else sorted(READING))
    answer.headers["Access-Control-Allow-Headers"] = ", ".join((*_SENT, *format.request_headers) if format else _SENT)
    answer.headers["Access-Control-Max-Age"] = str(KEPT_SECONDS)
    answer.headers["Vary"] = "Access-Control-Request-Method, Access-Control-Request-Headers"
    return answer


# Changing.


def _is_foreign(environ: dict[str, Any]) -> bool:
    """Is it a page of another site that asks? `Sec-Fetch-Site` is a browser's own word; older ones, and all over plain HTTP, have `Origin` alone.

    A browser sends `Origin: null` for a page that it does not trust, such as one that we serve ourselves, in a sandbox.
    """
    site, origin = environ.get("HTTP_SEC_FETCH_SITE", ""), environ.get("HTTP_ORIGIN")
    if not site and origin is None:
        return False
    if origin is not None and origin in _sharing(environ[STATE].config.cors.allowed_origins).origins:
        return False
    if site:
        return site not in ("same-origin", "none")
    assert origin is not None
    return not _is_ours(origin.lower(), environ)


def _is_ours(origin: str, environ: dict[str, Any]) -> bool:
    """Is it where the browser found this server? The scheme is the proxy's affair: who does not say which one it had changes nothing by that."""
    scheme, _, authority = origin.partition("://")
    if scheme not in ("http", "https") or not authority:
        return False
    own = (environ.get("HTTP_HOST", "").lower(), urlsplit(absolute("/")).netloc.lower())
    return _USUAL_PORT.sub("", authority) in {_USUAL_PORT.sub("", host) for host in own}


# Being asked by a name.


def _is_known(environ: dict[str, Any]) -> bool:
    """Is the name in Host one of this server's, on a loopback address?

    A proxy on the same machine hands on the name that its clients use, and says that it is a proxy. A page that came here by DNS rebinding could say
    that too, but never without our own port in Host, which no page can write itself and a proxy's clients do not know.
    """
    host = environ.get("HTTP_HOST", "").lower()
    if not host or _is_local(host[:LONGEST_HOST]):
        return True
    state: State = environ[STATE]
    found = _HOST.match(host[:LONGEST_HOST])
    if found is None or len(host) > LONGEST_HOST:
        return False
    if _is_configured(host, found["name"], state):
        return True
    if found["port"] == environ["SERVER_PORT"] or not any(name in environ for name in _FORWARDING):
        return False
    return is_trusted(environ.get("REMOTE_ADDR", ""), state.config.server.trusted_proxies)


def _is_configured(host: str, name: str, state: State) -> bool:
    server = state.config.server
    if not {host, name, "*"}.isdisjoint(server.allowed_hosts) or host in state.repositories.hosts:
        return True
    public = _HOST.match(urlsplit((server.public_url or "").lower()).netloc)
    return public is not None and name == public["name"]


@lru_cache(maxsize=1024)
def _is_local(host: str) -> bool:
    """Names that no public name server can make lead here: localhost, addresses of this machine, names of one word, as proxies and containers have
    them for what lies behind, and those below .internal, which is nobody's (host.containers.internal).
    """
    found = _HOST.match(host)
    if found is None:
        return False
    name = found["name"].strip("[]").removesuffix(".")
    if name == "localhost" or name.endswith((".localhost", ".internal")):
        return True
    return _is_loopback(name) or (name != "" and "." not in name and ":" not in name)


@lru_cache(maxsize=1024)
def _is_loopback(address: str) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return unmapped(ip).is_loopback
