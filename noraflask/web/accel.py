"""X-Accel-Redirect: large bodies that nginx sends by itself from the storage folder, once every check here has passed.

nginx says `X-Nora-Accel: on`, and nobody else can: other peers are not believed, and of its clients it passes that header on from none. It holds the
storage folder as an internal location (`server.accel_redirect`), which clients cannot ask for. Where it may not read a file, it asks once more with
`failed`, and is sent the body in the ordinary way. etc/nginx/ has its side.
"""

from __future__ import annotations

import logging
import re
from typing import Any
from urllib.parse import quote

from werkzeug.datastructures import Headers

from noraflask.digest import Digest
from noraflask.services.content import Content, content_key
from noraflask.web.context import STATE
from noraflask.web.peers import is_trusted

_ONE_RANGE = re.compile(r"bytes=(?:[0-9]{1,18}-[0-9]{0,18}|-[1-9][0-9]{0,17})\Z", re.IGNORECASE)
"""What nginx reads as we do. It answers 416 to nonsense, which RFC 9110, 14.2, would have ignored."""
_ITS_OWN_MIND = ("HTTP_IF_MATCH", "HTTP_IF_UNMODIFIED_SINCE")
"""Conditions that we know nothing of, and that nginx would judge by the file and its time."""

KEPT = {"Cache-Control": "X-Nora-Cache-Control"}

log = logging.getLogger(__name__)


def internal_path(content: Content, environ: dict[str, Any], digest: Digest, size: int) -> str | None:
    """Where the proxy that asks finds content of that size, percent-encoded; None: it is to be sent from here."""
    prefix, told = environ[STATE].config.server.accel_redirect, environ.get("HTTP_X_NORA_ACCEL")
    if prefix is None or told is None or not is_trusted(environ.get("REMOTE_ADDR", ""), environ[STATE].config.server.trusted_proxies):
        return None
    if told == "failed":
        log.warning("the proxy could not read %s; give its user the right to read the storage folder, and check its alias", content_key(digest))
    if told != "on" or content.backend != "local" or any(name in environ for name in _ITS_OWN_MIND):
        return None
    if not _ONE_RANGE.match(environ.get("HTTP_RANGE", "bytes=0-")):
        return None
    found = content.stat(digest)
    return quote(f"{prefix}{content_key(digest)}") if found and found.size == size else None


def told_to_proxy(headers: Headers) -> Headers:
    """The headers of an answer, for a proxy that sends its body.

    nginx adds Accept-Ranges itself. It would keep Cache-Control, also on the error that the answer turns out to be when it asks again after it could
    not read the file; so it is told under another name, and adds it to the file's alone (`add_header`).
    """
    told = Headers((KEPT.get(name, name), value) for name, value in headers if name != "Accept-Ranges")
    told["Content-Length"] = "0"
    return told
