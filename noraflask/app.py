"""create_app(config): builds the services, mounts the formats, installs error rendering. Importing this module has no effect."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from noraflask import reload
from noraflask.assembly import make_services
from noraflask.config import Config
from noraflask.formats import FORMATS
from noraflask.log import EventLog
from noraflask.reload import Snapshot
from noraflask.serve.application import has_password
from noraflask.services import Services
from noraflask.services.client_network import network_of
from noraflask.services.metrics import catalogue
from noraflask.services.metrics.counting import Metrics
from noraflask.services.metrics.scrape_metrics import ScrapeMetrics
from noraflask.services.state import State
from noraflask.storage import Storage
from noraflask.web import auth as auth_routes
from noraflask.web import browsers, errors, limits, ops, setup
from noraflask.web import curation as curation_routes
from noraflask.web import repositories as repository_routes
from noraflask.web.context import EXTENSION
from noraflask.web.context import FORMATS as SERVED
from noraflask.web.envelope import Envelope, Lines
from noraflask.web.flask_app import RegistryFlask
from noraflask.web.format import Format
from noraflask.web.limits import TOKEN_RULES
from noraflask.web.peers import client_address, is_trusted
from noraflask.web.targets import INNER, Targets

ENVELOPE = f"{EXTENSION}-envelope"
SCRAPE_METRICS = f"{EXTENSION}-scrape-metrics"
"""In the application's extensions: what is told at a scrape; absent where metrics are off."""


def create_app(config: Config, storage: Storage | None = None, formats: Sequence[Format] = FORMATS) -> RegistryFlask:
    """The WSGI application. `storage` overrides the configured one, for tests. Raises OSError when the storage folder cannot be made."""
    app = RegistryFlask("noraflask")
    served = [format for format in formats if config.formats[format.id].enabled]
    app.extensions[EXTENSION] = make_services(config, storage, served)
    app.extensions[SERVED] = {format.id: format for format in served}
    for routes in (ops.bp, auth_routes.bp, curation_routes.bp, repository_routes.bp):
        app.register_blueprint(routes)
    app.register_blueprint(setup.make_blueprint(served))
    for format in served:
        app.register_blueprint(format.routes, url_prefix=f"{INNER}{format.id}")
    limits.install(app, config.server.trusted_proxies)
    browsers.install(app)
    errors.install(app)
    install_metrics(app, config)
    wanted = config.logging.access and config.logging.level in ("trace", "debug", "info")
    app.wsgi_app = app.extensions[ENVELOPE] = Envelope(  # type: ignore[method-assign]
        app.wsgi_app,
        lambda: app.services.live.state,
        Targets(served, config.server.trusted_proxies),
        config.server.trusted_proxies,
        app.services.metrics,
        Lines(EventLog(config.logging), config.logging.ops_interval_secs) if wanted else None,
    )
    return app


def install_metrics(app: RegistryFlask, config: Config) -> None:
    services = app.services
    if not isinstance(services.metrics, Metrics) or services.inventory is None:
        return
    from noraflask.web import metrics

    scrape_metrics = ScrapeMetrics(
        repositories=services.metrics.names,
        workers=config.server.workers,
        max_connections=config.server.max_connections,
        volumes=volumes(config),
        health=services.health,
        staging=services.staging,
        live=services.live,
        freeze=services.curation.freeze,
        reloads=services.reloads,
        inventory=services.inventory,
        lockout=services.logins.lockout if services.logins else None,
    )
    app.extensions[SCRAPE_METRICS] = scrape_metrics
    metrics.install(app, services.metrics, scrape_metrics)


def volumes(config: Config) -> dict[str, Path]:
    """Folders whose file systems a scrape looks at. The state folder is one of them where it does not share the disk of the storage."""
    folders = {"storage": config.storage.path, "staging": config.staging.path}
    if config.storage.path.is_dir() and os.stat(config.state.path).st_dev != os.stat(config.storage.path).st_dev:
        folders["state"] = config.state.path
    return folders


class ServedRegistry:
    """The registry as the server knows it (serve/application.py): a WSGI application with workers and reloads."""

    def __init__(self, app: RegistryFlask) -> None:
        self._app, self._envelope = app, app.extensions[ENVELOPE]
        own = (path for format in app.services.formats for path in format.login.password_paths)
        self.password_paths: tuple[str, ...] = (*sorted(TOKEN_RULES), *own)
        self._adopted_over: State | None = None
        self._trusted = app.services.live.state.config.server.trusted_proxies

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        return self._app.wsgi_app(environ, start_response)

    @property
    def services(self) -> Services:
        return self._app.services

    def client_of_peer(self, peer: str) -> str:
        return "" if is_trusted(peer, self._trusted) else network_of(peer)

    def client_of(self, environ: dict[str, Any]) -> str:
        return network_of(client_address(environ, self._trusted))

    def checks_password(self, environ: dict[str, Any]) -> bool:
        if not has_password(environ):
            return False
        logins = self.services.live.state.authenticator
        return logins is not None and not logins.knows(environ["HTTP_AUTHORIZATION"])

    def count(self, event: str) -> None:
        self.services.metrics.count(catalogue.CONNECTIONS_ENDED, event)

    def flush(self) -> None:
        self._envelope.flush()

    def start_worker(self, place: str, connections: Callable[[], int]) -> None:
        services, scrape_metrics = self.services, self._app.extensions.get(SCRAPE_METRICS)
        if isinstance(services.metrics, Metrics):
            services.metrics.files.move(place)
        if scrape_metrics is not None:
            scrape_metrics.connections = connections
        if services.inventory is not None:
            services.inventory.start()
        services.health.start()
        reload.start(services)

    def stop_worker(self) -> None:
        self.flush()
        self.services.tokens.flush()
        self.services.curation.ledger.stop()

    def worker_ended(self, place: str) -> None:
        metrics = self.services.metrics
        if isinstance(metrics, Metrics):
            metrics.files.forget(place)
            metrics.count(catalogue.WORKER_EXITS)

    @property
    def reload_seconds(self) -> float:
        return self.services.live.state.config.server.reload_timeout_secs

    def read_again(self) -> tuple[Snapshot, bytes]:
        return reload.read_again(self.services)

    def adopt(self, snapshot: Snapshot, large: bytes | memoryview) -> None:
        before = self.services.live.state
        reload.adopt(self.services, snapshot, large)
        if self.services.health.is_started:  # threads are for workers: the master forks
            reload.start(self.services, before)
        else:
            self._adopted_over = before
            reload.warn(snapshot)

    def reload_succeeded(self) -> None:
        before, self._adopted_over = self._adopted_over, None
        if before is not None:
            reload.succeeded(self.services, before)

    def reload_refused(self, problem: str) -> None:
        reload.refused(self.services, problem)

    def reload_broke(self) -> None:
        self.services.metrics.count(catalogue.TASK_PANICS, "sighup")
        if not self.services.health.is_started:
            self.services.reloads.failed()
