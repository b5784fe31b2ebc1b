"""get(): one request of ours to another server, or to this one, within bounds of time and size.

The doctor has connections of its own (services/doctor/front.py): it sends half a body and looks. Importing this module imports no library.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from noraflask import __version__

if TYPE_CHECKING:
    import urllib3

PIECE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Bounds:
    connect_seconds: float = 5.0
    read_seconds: float = 5.0
    """Of silence."""
    total_seconds: float = 15.0
    """Of the body, however fast its pieces come."""
    max_bytes: int = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """Asked without regard to letter case."""
    body: bytes


class NoAnswer(Exception):
    """No answer came, or none within the bounds. The text says why, without the address: that may hold a secret."""


def get(
    url: str, headers: Mapping[str, str] | None = None, bounds: Bounds | None = None, *, ca_file: Path | None = None, use_proxy: bool = False
) -> Answer:
    """Redirects are not followed: a credential goes to the address that was named and nowhere else.

    `ca_file`: trusts these CAs instead of the system's. `use_proxy`: the one of HTTP_PROXY, HTTPS_PROXY and NO_PROXY. Raises NoAnswer.
    """
    import urllib3

    bounds = bounds or Bounds()
    sent = {"User-Agent": f"nora/{__version__}", "Accept-Encoding": "identity", **(headers or {})}
    timeout = urllib3.Timeout(connect=bounds.connect_seconds, read=bounds.read_seconds)
    try:
        if urlsplit(url).scheme not in ("http", "https"):
            raise NoAnswer("this is no http(s) address")
        with _pool(url, ca_file, use_proxy) as pool:
            response = pool.request("GET", url, headers=sent, timeout=timeout, retries=False, redirect=False, preload_content=False)
            try:
                return Answer(response.status, response.headers, _body(response, bounds))
            finally:
                response.close()
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as problem:
        raise NoAnswer(_reason(problem)) from None


def _pool(url: str, ca_file: Path | None, use_proxy: bool) -> urllib3.PoolManager:
    import ssl
    from urllib.request import getproxies, proxy_bypass

    import urllib3

    target = urlsplit(url)
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None) if target.scheme == "https" else None
    proxy = getproxies().get(target.scheme) if use_proxy and not proxy_bypass(target.netloc) else None
    if not proxy:
        return urllib3.PoolManager(ssl_context=context)
    parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    account = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}" if parts.username else None
    return urllib3.ProxyManager(parts.geturl(), proxy_headers=urllib3.make_headers(proxy_basic_auth=account), ssl_context=context)


def _body(response: urllib3.BaseHTTPResponse, bounds: Bounds) -> bytes:
    body = bytearray()
    give_up = time.monotonic() + bounds.total_seconds
    while piece := response.read1(PIECE_BYTES, decode_content=False):
        body += piece
        if len(body) > bounds.max_bytes:
            raise NoAnswer(f"its answer is larger than {bounds.max_bytes} bytes")
        if time.monotonic() > give_up:
            raise NoAnswer(f"its answer takes longer than {bounds.total_seconds:g} s")
    return bytes(body)


def _reason(problem: BaseException) -> str:
    """What lies under the words of the library, which name objects and addresses."""
    inner = next((inner for inner in (problem.__cause__, *problem.args[:2]) if isinstance(inner, BaseException)), None)
    if inner is not None:
        return _reason(inner)
    name, text = type(problem).__name__, " ".join(str(problem).split())[:300]
    return text if isinstance(problem, OSError) and text else f"{name}: {text}".rstrip(": ")
