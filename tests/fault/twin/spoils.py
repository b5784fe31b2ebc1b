"""Faults that plans could have, each put into a server on purpose: the comparison of twins must notice every one of them."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from typing import Any

RARELY = 40
"""Every so manyth time."""


def stale_answers() -> None:
    """What was answered to a head stays so, whatever was pushed, moved or deleted since; limits, log and metrics are right."""
    _remember(lambda environ: environ["PATH_INFO"].startswith(("/.docker/", "/.raw/")))


def stale_credentials() -> None:
    """A token that was good once stays good."""
    from noraflask.services.auth.tokens import Tokens

    find, good = Tokens.find, dict[str, Any]()

    def remembered(self: Any, id: str) -> Any:
        good[id] = good.get(id) or find(self, id)
        return good[id]

    Tokens.find = remembered  # type: ignore[method-assign]


def stale_policy() -> None:
    """A permit outlives the state in which it was given."""
    from noraflask.services.curation.gate import Curation

    recall, known = Curation.recall, dict[object, Any]()

    def remembered(self: Any, permits: Any, key: Any, revision: Any) -> Any:
        known[key] = recall(self, permits, key, revision) or known.get(key)
        return known[key]

    Curation.recall = remembered  # type: ignore[method-assign]


def endless_permit() -> None:
    """A permit does not end when a rule does, or when the next one begins."""
    from noraflask.services.curation import gate

    made = gate.Remembered
    gate.Remembered = lambda permit, until, revision: made(permit, float("inf"), revision)  # type: ignore[misc, assignment]


def forgotten_header() -> None:
    """A header that a view looks at is not in the key."""
    _remember(lambda environ: environ["PATH_INFO"].startswith("/.raw/"), "HTTP_IF_NONE_MATCH")


def lost_line() -> None:
    from noraflask.web.envelope import Envelope

    done, numbers = Envelope.done, itertools.count(1)

    def sometimes(self: Any, exchange: Any) -> None:
        lines = self._lines
        if next(numbers) % RARELY == 0:
            self._lines = None
        done(self, exchange)
        self._lines = lines

    Envelope.done = sometimes  # type: ignore[method-assign]


def lost_ledger_line() -> None:
    from noraflask.services.curation.ledger import Ledger

    note, numbers = Ledger._note, itertools.count(1)

    def sometimes(self: Any, *arguments: Any) -> None:
        if next(numbers) % 4:
            note(self, *arguments)

    Ledger._note = sometimes  # type: ignore[method-assign]


def lost_audit_line() -> None:
    from noraflask.services.audit import Audit

    record, numbers = Audit.record, itertools.count(1)

    def sometimes(self: Any, one: Any) -> None:
        if next(numbers) % 5:
            record(self, one)

    Audit.record = sometimes  # type: ignore[method-assign]


def wrong_metric() -> None:
    """A download that is not counted."""
    from noraflask.services.metrics.counting import Metrics

    done, numbers = Metrics.request_done, itertools.count(1)

    def sometimes(self: Any, registry: str, method: str, status: str, seconds: float, received: int, sent: int, served: bool) -> None:
        done(self, registry, method, status, seconds, received, sent, served and next(numbers) % RARELY != 0)

    Metrics.request_done = sometimes  # type: ignore[method-assign]


def second_token() -> None:
    """Now and then a request takes two tokens of the limiter."""
    from noraflask.services.limits.rates import RateLimits

    check, numbers = RateLimits.check, itertools.count(1)

    def twice(self: Any, limits: Any, tiers: Any, client: str) -> Any:
        if next(numbers) % RARELY == 0:
            check(self, limits, tiers, client)
        return check(self, limits, tiers, client)

    RateLimits.check = twice  # type: ignore[method-assign]


def wrong_id() -> None:
    """The request id of another request."""
    from noraflask.web.envelope import Exchange

    init, numbers, last = Exchange.__init__, itertools.count(1), ["none"]

    def sometimes(self: Any, envelope: Any, environ: Any, target: Any, request_id: str, start_response: Any) -> None:
        given = last[0] if next(numbers) % RARELY == 0 else request_id
        last[0] = request_id
        init(self, envelope, environ, target, given, start_response)

    Exchange.__init__ = sometimes  # type: ignore[method-assign]


def old_for_a_moment() -> None:
    """A worker gives an answer again for a while, and does not look."""
    _remember(lambda environ: environ["PATH_INFO"].startswith(("/.docker/", "/.raw/")), seconds=0.1)


def old_tokens() -> None:
    """A token is looked at every half a minute."""
    from noraflask.services.auth import tokens

    tokens.FRESH_SECONDS = 30.0


def old_passwords() -> None:
    """The users' file is looked at every half a minute: were it every few seconds, a change could come just before a look."""
    from noraflask.services.auth import users

    users.CHECK_SECONDS = 30.0


def old_rules() -> None:
    """A worker takes its time to adopt what was read."""
    from noraflask.app import ServedRegistry

    adopt = ServedRegistry.adopt

    def later(self: Any, *arguments: Any) -> None:
        time.sleep(3)
        adopt(self, *arguments)

    ServedRegistry.adopt = later  # type: ignore[method-assign]


def _remember(concerns: Callable[[dict[str, Any]], bool], *left_out: str, seconds: float = math.inf) -> None:
    from noraflask.web.envelope import Envelope

    init, known = Envelope.__init__, dict[object, Any]()

    def wrapped(application: Any) -> Any:
        def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
            if environ["REQUEST_METHOD"] != "GET" or not concerns(environ):
                return application(environ, start)
            names = (name for name in environ if name.startswith(("HTTP_", "PATH_", "QUERY_")) and name not in ("HTTP_X_REQUEST_ID", *left_out))
            key = tuple(sorted((name, environ[name]) for name in names))
            if key in known and time.monotonic() < known[key][3]:
                status, headers, body, _ = known[key]
                start(status, list(headers))
                return [body]
            given: list[Any] = []

            def keep(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
                given[:] = status, list(headers)
                return start(status, headers, *rest)

            pieces = application(environ, keep)
            if not isinstance(getattr(pieces, "response", pieces), list | tuple) and hasattr(pieces, "fileno"):
                return pieces
            body = b"".join(pieces)
            if given and given[0].startswith("200") and len(body) < 65536:
                known[key] = (*given, body, time.monotonic() + seconds)
            return [body]

        return answer

    def made(self: Any, application: Any, *rest: Any) -> None:
        init(self, wrapped(application), *rest)

    Envelope.__init__ = made  # type: ignore[method-assign]


SLOW: dict[str, Callable[[], None]] = {spoil.__name__: spoil for spoil in (old_for_a_moment, old_tokens, old_passwords, old_rules)}
"""What was true a moment ago; for a server whose clock is as ever."""
SPOILS: dict[str, Callable[[], None]] = {
    spoil.__name__: spoil
    for spoil in (
        *(
            stale_answers,
            stale_credentials,
            stale_policy,
            endless_permit,
            forgotten_header,
            lost_line,
            lost_ledger_line,
            lost_audit_line,
            wrong_metric,
        ),
        *(second_token, wrong_id),
    )
}
