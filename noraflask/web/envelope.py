"""The envelope of every request, outside of Flask: its id, the headers that every answer has, its line in the log.

WSGI middleware, since it is on the path of every request, and since a line is due only when the last byte has left, or could not.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from werkzeug.wsgi import ClosingIterator

from noraflask.web.context import HANDED_OVER, PRINCIPAL
from noraflask.web.peers import client_address

REQUEST_ID = "nora.request_id"
_SAFE = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox"),
)
"""On every answer. What the registry serves was made by others; a browser that is shown it must not run it as a page of this server."""
_GIVEN_ID = re.compile(r"[!-~]{1,128}\Z")

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Envelope:
    def __init__(
        self,
        application: Application,
        mounts: Mapping[str, Iterable[tuple[str, str]]],
        trusted_proxies: tuple[str, ...],
        write: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        """`mounts`: the headers of every answer below a path. `write` takes one event for each request; None: no such lines."""
        self._application = application
        self._mounts = [(mount + "/", list(headers)) for mount, headers in mounts.items()]
        self._trusted_proxies = trusted_proxies
        self._write = write
        self._process = ""
        self._numbers = itertools.count()

    def _next_id(self) -> str:
        """Random for each process, then counted: a random number for each request would be a system call more."""
        if not self._process:  # on the first request, so that workers forked from one master differ
            self._process = os.urandom(8).hex()
        return f"{self._process}{next(self._numbers):08x}"

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        started = time.perf_counter()
        given = environ.get("HTTP_X_REQUEST_ID")
        request_id = given if given and _GIVEN_ID.match(given) else self._next_id()
        environ[REQUEST_ID] = request_id
        answer: list[Any] = ["000", ()]
        path = environ.get("PATH_INFO", "") + "/"

        def begin(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            answer[:] = status, headers
            headers.append(("X-Request-Id", request_id))
            headers.extend(_SAFE)
            for mount, more in self._mounts:
                if path.startswith(mount):
                    headers.extend(more)
            return start_response(status, headers, *exc_info)

        body = self._application(environ, begin)
        write = self._write
        if write is None:
            return body

        def log() -> None:
            write(_event(environ, answer, started, self._trusted_proxies))

        if isinstance(body, environ.get("wsgi.file_wrapper", ())):  # the server must see its own type, to let the kernel send the file
            close = getattr(body, "close", lambda: None)

            def close_and_log() -> None:
                close()
                log()

            body.close = close_and_log
            return body
        return ClosingIterator(body, log)


def _event(environ: dict[str, Any], answer: list[Any], started: float, trusted_proxies: tuple[str, ...]) -> dict[str, Any]:
    status, headers = answer
    event = {
        "message": "request",
        "method": environ["REQUEST_METHOD"],
        "path": environ.get("PATH_INFO", ""),
        "status": int(status[:3]),
        "bytes": next((int(value) for name, value in headers if name == "Content-Length"), 0),
        "ms": round((time.perf_counter() - started) * 1000, 1),
        "client": client_address(environ, trusted_proxies),
        "agent": environ.get("HTTP_USER_AGENT", "")[:200],
        "request_id": environ[REQUEST_ID],
    }
    who = environ.get(PRINCIPAL)
    if who is not None:
        event["user"] = who.name
    if HANDED_OVER in environ:
        event["bytes"], event["accel"] = environ[HANDED_OVER], True
    if "nora.cut" in environ:  # our server says so when the answer did not get through
        event["cut"] = environ["nora.cut"]
    return event
