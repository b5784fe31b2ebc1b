"""The envelope of every request, outside of Flask: its id, the headers that every answer has, its line in the log, what it counts.

WSGI middleware, since it is on the path of every request, and since a line is due only when the last byte has left, or could not.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from noraflask.log import REQUEST_ID as LOGGED_ID
from noraflask.log import EventLog
from noraflask.recording import CURRENT, PLAN, WANTED, Recording
from noraflask.services.curation.gate import Permit, Refusal
from noraflask.services.metrics import catalogue
from noraflask.services.metrics.counting import NullMetrics
from noraflask.services.state import State
from noraflask.suspension import Suspended
from noraflask.web.browsers import shared_with
from noraflask.web.context import HANDED_OVER, NAME, PRINCIPAL, SERVED, STATE
from noraflask.web.gate import PERMIT, REFUSED
from noraflask.web.limits import OPS, STANDING
from noraflask.web.peers import client_address
from noraflask.web.plans import REMAINING_FIELD, REQUEST_ID_FIELD, Outcome, Plan, Scene
from noraflask.web.targets import OUTER_PATH, Target, Targets

REQUEST_ID = "nora.request_id"
UPSTREAM_SECONDS = "nora.upstream_seconds"
"""In a request's environ, where an upstream was waited for: how long."""
_SAFE = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox"),
)
"""On every answer. What the registry serves was made by others; a browser that is shown it must not run it as a page of this server."""
_NOT_AGAIN = frozenset(("nora.cut", UPSTREAM_SECONDS, HANDED_OVER))
"""In a request's environ: it is not answered so again."""
SAFE = "nora.safe"
"""In a request's environ: what its answer has in place of the usual ones, made by safe_with()."""
_GIVEN_ID = re.compile(r"[!-~]{1,128}\Z")

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True)
class Lines:
    """How requests are told of in the log."""

    events: EventLog
    ops_interval_seconds: float
    """A check of the server's health that is answered as the one before leaves a line only this often, in each worker; 0: always."""


class Envelope:
    def __init__(
        self,
        application: Application,
        current: Callable[[], State],
        targets: Targets,
        trusted_proxies: tuple[str, ...],
        metrics: NullMetrics,
        lines: Lines | None,
    ) -> None:
        """`current`: the live state; `lines`: None: requests leave no lines."""
        self._application, self._current = application, current
        self._targets = targets
        self._trusted_proxies = trusted_proxies
        self._metrics = metrics
        self._lines = lines
        self._told: dict[tuple[str, str], float] = {}
        self._process = ""
        self._numbers = itertools.count()
        self.scene = Scene(current, self._next_id, metrics, lines.events if lines else None)

    def _next_id(self) -> str:
        """Random for each process, then counted: a random number for each request would be a system call more."""
        if not self._process:  # on the first request, so that workers forked from one master differ
            self._process = os.urandom(8).hex()
        return f"{self._process}{next(self._numbers):08x}"

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        state = environ[STATE] = self._current()  # first of all, and once: from here on this request sees no other
        given = environ.get("HTTP_X_REQUEST_ID")
        request_id = given if given and _GIVEN_ID.match(given) else self._next_id()
        environ[REQUEST_ID] = request_id
        LOGGED_ID.set(request_id)
        target = self._targets.locate(environ, state.repositories)
        exchange = Exchange(self, environ, target, request_id, start_response)
        self._metrics.request_began()
        return self._go_on(exchange, lambda: self._application(environ, exchange.begin))

    def _go_on(self, exchange: Exchange, run: Callable[[], Iterable[bytes]]) -> Iterable[bytes]:
        environ = exchange.environ
        LOGGED_ID.set(exchange.request_id)
        CURRENT.set(exchange.recording)
        try:
            body = run()
        except Suspended as pause:  # it goes on later, on another thread perhaps
            resume, exchange.recording = pause.resume, None
            raise Suspended(pause.reception, lambda problem, start_response: self._go_on(exchange, lambda: resume(problem, exchange.begin))) from None
        except BaseException:
            exchange.status = "500"
            self._answered(exchange)
            exchange.end()
            raise
        finally:
            LOGGED_ID.set("")
            CURRENT.set(None)
        self._answered(exchange)
        if isinstance(body, environ.get("wsgi.file_wrapper", ())):  # the server must see its own type, to let the kernel send the file
            close = getattr(body, "close", lambda: None)

            def close_and_end() -> None:
                close()
                exchange.end()

            body.close = close_and_end
            return body
        exchange.body = body
        return exchange

    def _answered(self, exchange: Exchange) -> None:
        exchange.decision = _decision(exchange.environ)
        seconds = (exchange.answered or time.perf_counter()) - exchange.started
        self._metrics.request_answered(exchange.registry, exchange.environ["REQUEST_METHOD"], exchange.status, seconds, exchange.decision)

    def done(self, exchange: Exchange) -> None:
        now = time.perf_counter()
        environ, status = exchange.environ, exchange.status
        method: str = environ["REQUEST_METHOD"]
        sent, seconds = _sent(exchange, method), now - exchange.started
        received = getattr(environ.get("wsgi.input"), "received", 0)
        served = SERVED in environ and method == "GET" and status in ("200", "206")
        self._metrics.request_done(exchange.registry, method, status, seconds, received, sent, served)
        if "nora.cut" in environ:
            self._metrics.count(catalogue.HTTP_CUT, exchange.registry)
        lines, event = self._lines, None
        if lines is not None and (lines.ops_interval_seconds <= 0 or self._is_news(environ, status, now, lines.ops_interval_seconds)):
            event = self._event(exchange, method, received, sent, seconds)
            lines.events.write(event)
        recording = exchange.recording
        if recording is not None and recording.body is not None and not recording.spoiled_by and not _NOT_AGAIN & environ.keys():
            outcome = Outcome(exchange.registry, method, status, exchange.decision, sent, served)
            environ[PLAN] = self._plan(exchange, recording, outcome, event)

    def _plan(self, exchange: Exchange, recording: Recording, outcome: Outcome, event: dict[str, Any] | None) -> Plan:
        varying = [(REQUEST_ID_FIELD, exchange.request_id)]
        if recording.limit is not None:
            varying += [field for field in exchange.environ[STANDING] if field[0] == REMAINING_FIELD]
        return Plan(recording, outcome, event, exchange.environ[STATE], self.scene, tuple(varying))

    def flush(self) -> None:
        """Write lines that are held back."""
        if self._lines is not None:
            self._lines.events.flush()

    def _is_news(self, environ: dict[str, Any], status: str, now: float, interval: float) -> bool:
        """Those who watch the server ask every few seconds, and nobody reads a thousand times that all is well."""
        path = environ.get("PATH_INFO", "")
        if path not in OPS or status != "200":
            if path in OPS:
                self._told.pop((path, "200"), None)  # so the first good answer after a bad one is told at once
            return True
        if now - self._told.get((path, status), -interval) < interval:
            return False
        self._told[path, status] = now
        return True

    def _event(self, exchange: Exchange, method: str, received: int, sent: int, seconds: float) -> dict[str, Any]:
        environ = exchange.environ
        event = {
            "message": "request",
            "method": method,
            "path": environ[OUTER_PATH],
            "status": int(exchange.status),
            "bytes": sent,
            "ms": round(seconds * 1000, 1),
            "client": client_address(environ, self._trusted_proxies),
            "agent": environ.get("HTTP_USER_AGENT", "")[:200],
            "request_id": exchange.request_id,
        }
        if received:
            event["received"] = received
        who = environ.get(PRINCIPAL)
        if who is not None:
            event["user"] = who.name
        if exchange.target.repository:
            event["registry"] = exchange.registry
        if environ.get(NAME):
            event["name"] = environ[NAME]
        if exchange.decision and exchange.decision != "skip":
            event["decision"] = exchange.decision
            event |= _rule(environ)
        if UPSTREAM_SECONDS in environ:
            event["upstream_ms"] = round(environ[UPSTREAM_SECONDS] * 1000, 1)
        if HANDED_OVER in environ:
            event["accel"] = True
        if "nora.cut" in environ:  # our server says so when the answer did not get through
            event["cut"] = environ["nora.cut"]
        return event


class Exchange:
    """One request and its answer, from the first line to the last byte. Itself the answer's body, so that it sees the end of it."""

    __slots__ = (
        *("_envelope", "_start", "answered", "body", "decision", "ended", "environ", "headers"),
        *("recording", "registry", "request_id", "started", "status", "target"),
    )

    def __init__(self, envelope: Envelope, environ: dict[str, Any], target: Target, request_id: str, start_response: Callable[..., Any]) -> None:
        self.started = time.perf_counter()
        self.answered = 0.0
        self.environ, self.target, self.request_id = environ, target, request_id
        self.registry = target.registry or catalogue.OTHER
        self.status = "000"
        self.headers: list[tuple[str, str]] = []
        self.body: Iterable[bytes] = ()
        self.ended = False
        self.decision: str | None = None
        self.recording = Recording() if WANTED in environ else None
        self._envelope, self._start = envelope, start_response

    def begin(self, status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
        self.answered = time.perf_counter()
        self.status, self.headers = status[:3], headers
        headers.append((REQUEST_ID_FIELD, self.request_id))
        headers.extend(self.environ.get(SAFE, _SAFE))
        headers.extend(self.environ.get(STANDING, ()))
        shared = shared_with(self.environ, self.target.format)
        if shared:
            headers.extend(shared)
            _join_vary(headers)
        if self.target.format is not None:
            headers.extend(self.target.format.headers)
        return self._start(status, headers, *exc_info)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.body)

    def close(self) -> None:
        try:
            close = getattr(self.body, "close", None)
            if close is not None:
                close()
        finally:
            self.end()

    def end(self) -> None:
        if not self.ended:
            self.ended = True
            self._envelope.done(self)


def _join_vary(headers: list[tuple[str, str]]) -> None:
    """In one field: nginx hands on the first alone where it sends the body in our place."""
    values = [value for name, value in headers if name == "Vary"]
    if len(values) > 1:
        headers[:] = [*(pair for pair in headers if pair[0] != "Vary"), ("Vary", ", ".join(values))]


def _sent(exchange: Exchange, method: str) -> int:
    """Bytes of the body that left, or that a proxy sends in our place."""
    if method == "HEAD" or exchange.status in ("204", "304"):
        return 0
    if HANDED_OVER in exchange.environ:
        return int(exchange.environ[HANDED_OVER])
    announced = next((int(value) for name, value in exchange.headers if name == "Content-Length"), 0)
    return min(announced, exchange.environ.get("nora.sent", announced))


def _decision(environ: dict[str, Any]) -> str | None:
    """The gate's answer in NORA's words; None where it was not asked."""
    if REFUSED in environ:
        return "block"
    granted: Permit | None = environ.get(PERMIT)
    if granted is None:
        return None
    if not granted.package.format:
        return "skip"
    return "audit" if granted.decision.would_block else "allow"


def _rule(environ: dict[str, Any]) -> dict[str, str]:
    refused: Refusal | None = environ.get(REFUSED)
    return {"rule": f"{refused.rule} {refused.rule_id}".strip(), "decision_id": refused.id} if refused else {}


def safe_with(policy: str) -> tuple[tuple[str, str], ...]:
    """The usual headers with another Content-Security-Policy, for a page of our own making."""
    return tuple((name, policy if name == "Content-Security-Policy" else value) for name, value in _SAFE)
