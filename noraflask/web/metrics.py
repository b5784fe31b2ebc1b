"""GET /metrics, by prometheus-flask-exporter, of all workers at once: text for Prometheus, or OpenMetrics where a scraper asks for it."""

from __future__ import annotations

import functools
import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask, request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_flask_exporter import PrometheusMetrics

from noraflask.config.text_file import FileProblem, read_bytes, without_mark
from noraflask.errors import Denied, Unauthenticated
from noraflask.services.auth.principal import Source
from noraflask.web.access import PUBLIC, access
from noraflask.web.context import principal, state
from noraflask.web.peers import client_address, is_trusted
from noraflask.web.responses import Answer


def install(app: Flask, *collectors: Collector) -> None:
    """Mount the view. `collectors`: what a scrape asks."""
    Exposition(app, collectors)


class Exposition(PrometheusMetrics):
    """The exporter's own hooks on each request stay off: what they would cost is several times what our envelope counts for."""

    def __init__(self, app: Flask, collectors: tuple[Collector, ...]) -> None:
        self._collectors = collectors
        super().__init__(app, "/metrics", export_defaults=False, metrics_decorator=_guarded, registry=CollectorRegistry())

    def generate_metrics(self, accept_header: str = "", names: list[str] | None = None) -> tuple[str, str]:
        """The body and its content type; `names`: only these."""
        registry = CollectorRegistry(auto_describe=False)
        for collector in self._collectors:
            registry.register(collector)
        render, content_type = choose_encoder(accept_header)
        return render(_Chosen(registry, names) if names else registry).decode(), content_type


class _Chosen:
    """A registry that gives some samples only; prometheus_client's own knows no names that are made at the scrape."""

    def __init__(self, registry: CollectorRegistry, names: list[str]) -> None:
        self._registry, self._names = registry, frozenset(names)

    def collect(self) -> Any:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if sample.name in self._names]
            if metric.samples:
                yield metric


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
