"""GET /metrics, by prometheus-flask-exporter, of all workers at once: text for Prometheus, or OpenMetrics where a scraper asks for it.

What it costs does not grow with how often it is asked for: a worker gathers the figures once at a time and no more than FRESH says, and who asks
meanwhile gets those of less than a second ago.
"""

from __future__ import annotations

import copy
import functools
import hmac
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flask import Flask, request
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_flask_exporter import PrometheusMetrics

from noraflask.config.text_file import FileProblem, read_bytes, without_mark
from noraflask.errors import Denied, Unauthenticated, Unavailable
from noraflask.services.auth.principal import Source
from noraflask.services.limits.bucket import TICKS, Bucket, take
from noraflask.web.access import PUBLIC, access
from noraflask.web.context import principal, state
from noraflask.web.peers import client_address, is_trusted
from noraflask.web.responses import Answer

KEPT_SECONDS = 1.0
"""Figures that are older are not shown."""
FRESH = Bucket(1, 20)
"""How often a worker gathers them anew: each of those who ask now and then gets what is true now, a flood gets it once a second."""
WAIT_SECONDS = 2.0
"""How long a request waits for figures that another one gathers; a disk that hangs must not hold them all."""
BODIES_KEPT = 8


class StillGathering(Unavailable):
    default_message = "the figures are still being gathered for a request before this one; ask again"
    retry_after_seconds = 1


def install(app: Flask, *collectors: Collector) -> None:
    """Mount the view. `collectors`: what a scrape asks."""
    Exposition(app, collectors)


class Figures:
    """What the collectors gave at one moment, and the bodies that were made of it."""

    def __init__(self, families: list[Metric], gathered: float) -> None:
        self._families, self.gathered = families, gathered
        self._bodies: dict[str, str] = {}

    def collect(self) -> Iterable[Metric]:
        return self._families

    def body(self, accept: str) -> tuple[str, str]:
        """And its content type. Each form that a scraper may ask for is made once."""
        render, content_type = choose_encoder(accept)
        if content_type not in self._bodies:
            if len(self._bodies) >= BODIES_KEPT:
                self._bodies.clear()
            self._bodies[content_type] = render(self).decode()
        return self._bodies[content_type], content_type


class Gathering:
    """Figures for whoever asks. For the threads of one worker."""

    def __init__(self, collectors: Iterable[Collector], clock: Callable[[], float] = time.monotonic) -> None:
        self._collectors, self._clock = tuple(collectors), clock
        self._lock = threading.Lock()
        self._kept: Figures | None = None
        self._full_at = 0

    def figures(self) -> Figures:
        """Raises StillGathering."""
        asked = self._clock()
        if not self._lock.acquire(timeout=WAIT_SECONDS):
            raise StillGathering()
        try:
            now, kept = self._clock(), self._kept
            if kept is None or not self._is_good(kept, asked, now):
                kept = self._kept = Figures([family for collector in self._collectors for family in collector.collect()], now)
            return kept
        finally:
            self._lock.release()

    def _is_good(self, kept: Figures, asked: float, now: float) -> bool:
        """Those that were gathered while this request waited are; else those that are young, where others were gathered often lately."""
        if kept.gathered >= asked:
            return True
        self._full_at, taken = take(self._full_at, int(now * TICKS), FRESH)
        return taken.wait > 0 and 0 <= now - kept.gathered < KEPT_SECONDS


class Exposition(PrometheusMetrics):
    """The exporter's own hooks on each request stay off: what they would cost is several times what our envelope counts for."""

    def __init__(self, app: Flask, collectors: tuple[Collector, ...]) -> None:
        self._gathering = Gathering(collectors)
        super().__init__(app, "/metrics", export_defaults=False, metrics_decorator=_guarded, registry=CollectorRegistry())

    def generate_metrics(self, accept_header: str = "", names: list[str] | None = None) -> tuple[str, str]:
        """The body and its content type; `names`: only these."""
        figures = self._gathering.figures()
        if not names:
            return figures.body(accept_header)
        render, content_type = choose_encoder(accept_header)
        return render(_Chosen(figures, names)).decode(), content_type


class _Chosen:
    """Figures of which some samples only are wanted; prometheus_client's own registry knows no names that are made at the scrape."""

    def __init__(self, figures: Figures, names: list[str]) -> None:
        self._figures, self._names = figures, frozenset(names)

    def collect(self) -> Iterable[Metric]:
        for family in self._figures.collect():
            samples = [sample for sample in family.samples if sample.name in self._names]
            if samples:
                chosen = copy.copy(family)  # others are shown the whole one
                chosen.samples = samples
                yield chosen


def _guarded(view: Callable[[], Any]) -> Callable[[], Any]:
    @functools.wraps(view)
    def admitted() -> Any:
        admit()
        body, status, headers = view()
        return Answer(body, status=status, headers={**headers, "Cache-Control": "no-store"})

    return access(PUBLIC)(admitted)


def admit() -> None:
    """Raises Unauthenticated or Denied. Addresses, else the token, else a login; with none of these configured, auth.public_metrics decides."""
    config, access_policy = state().config, state().access.policy
    allowed, token_file = config.metrics.allow_from, config.metrics.token_file
    client = client_address(request.environ, config.server.trusted_proxies)
    if allowed and is_trusted(client, allowed):
        return
    if token_file is not None and _has_token(token_file):
        return
    limited = bool(allowed or token_file)
    if not limited and (config.auth.public_metrics or not access_policy.enabled):
        return
    if access_policy.enabled:
        if principal().source is not Source.ANONYMOUS:
            return
        raise Unauthenticated("metrics need a login, the token of metrics.token_file, or an address of metrics.allow_from")
    if token_file is not None:
        raise Unauthenticated("metrics need the token of metrics.token_file, as `Authorization: Bearer …`", headers={"WWW-Authenticate": "Bearer"})
    raise Denied(f"metrics are not for {client}; add it to metrics.allow_from")


def _has_token(path: Path) -> bool:
    """Read each time: scrapes are rare, and the file may be replaced."""
    scheme, _, given = request.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "bearer":
        return False
    try:
        wanted = without_mark(read_bytes(path)).strip()
    except FileProblem:
        return False
    return bool(wanted) and hmac.compare_digest(wanted, given.strip().encode("latin-1", "replace"))
