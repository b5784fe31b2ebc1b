"""create_app(config): builds the services, mounts the formats, installs error rendering. Importing this module has no effect."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from flask import Flask, Request
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import MapAdapter

from noraflask.assembly import formats_of_repositories, make_oidc, make_services
from noraflask.config import AccessConfig, AuthConfig, Config, ConfigError, RateLimitConfig, is_live, reload, restart_only
from noraflask.formats import FORMATS
from noraflask.formats.docker.stock import STOCK
from noraflask.log import write_event
from noraflask.services import Services
from noraflask.services.auth.rules import Policy
from noraflask.services.curation.ledger import read
from noraflask.services.curation.loading import FLIP_DAYS, check_flips, load_policy
from noraflask.services.curation.policy import Policy as CurationPolicy
from noraflask.services.metrics import catalogue
from noraflask.services.metrics.counting import Metrics
from noraflask.services.metrics.scrape_metrics import ScrapeMetrics
from noraflask.services.state_folder import ledger_folder
from noraflask.storage import Storage
from noraflask.web import auth as auth_routes
from noraflask.web import curation as curation_routes
from noraflask.web import errors, limits, ops, setup
from noraflask.web.context import CHALLENGES, EXTENSION, LOOKS, Repository
from noraflask.web.envelope import Envelope, Lines, Mount

MATCHES_KEPT = 4096
REMEMBERED_LENGTH = 512
DAY = 86400
API = Repository("api", "", "/api")
"""Not a repository; errors below this path are JSON."""
RELOADED = tuple(f.name for f in fields(AuthConfig) if is_live(f"auth.{f.name}"))

reload_log = logging.getLogger("nora.reload")
limits_log = logging.getLogger("nora.limits")


def create_app(config: Config, storage: Storage | None = None) -> Flask:
    """The WSGI application. `storage` overrides the configured one, for tests. Raises OSError when the storage folder cannot be made."""
    app = SyncFlask("noraflask", static_folder=None)
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.session_interface = NoSessions()
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False  # they would pass by the guard; no client of ours asks
    app.extensions[EXTENSION] = make_services(config, storage)
    app.register_blueprint(ops.bp)
    app.register_blueprint(auth_routes.bp)
    app.register_blueprint(curation_routes.bp)
    app.extensions[LOOKS] = {"docker": STOCK.look}
    formats = [format for format in FORMATS if getattr(config, format.default.name).enabled]
    app.register_blueprint(setup.make_blueprint(page for format in formats for page in format.setup))
    for format in formats:
        app.register_blueprint(format.blueprint, url_prefix=format.default.mount, name=format.default.name)
        app.extensions[f"{EXTENSION}.{format.default.name}"] = format.default
    app.extensions[CHALLENGES] = {format.default.name: format.challenge for format in formats}
    limits.install(app, [format.default.mount for format in formats], config.server.trusted_proxies)
    errors.install(app, [*((format.default, format.render_error) for format in formats), (API, errors.render_json)])
    install_metrics(app, config)
    wanted = config.logging.access and config.logging.level in ("trace", "debug", "info")
    app.wsgi_app = Envelope(  # type: ignore[method-assign]
        app.wsgi_app,
        [Mount(format.default.mount, format.default.name, format.headers) for format in formats],
        config.server.trusted_proxies,
        app.services.metrics,
        Lines(write_event(config.logging), config.logging.ops_interval_secs) if wanted else None,
    )
    return app


def install_metrics(app: SyncFlask, config: Config) -> None:
    here = app.services
    if not isinstance(here.metrics, Metrics) or here.inventory is None:
        return
    from noraflask.web import metrics

    app.scrape_metrics = ScrapeMetrics(
        repositories=here.metrics.names,
        workers=config.server.workers,
        max_connections=config.server.max_connections,
        volumes=volumes(config),
        health=here.health,
        staging=here.staging,
        curation=here.curation,
        reloads=here.reloads,
        inventory=here.inventory,
        lockout=here.logins.lockout if here.logins else None,
    )
    metrics.install(app, here.metrics, app.scrape_metrics)


def volumes(config: Config) -> dict[str, Path]:
    """Folders whose file systems a scrape looks at. The state folder is one of them where it does not share the disk of the storage."""
    folders = {"storage": config.storage.path, "staging": config.staging.path}
    if config.storage.path.is_dir() and os.stat(config.state.path).st_dev != os.stat(config.storage.path).st_dev:
        folders["state"] = config.state.path
    return folders


@dataclass(frozen=True)
class Snapshot:
    """What a reload may change, handed as a whole from the master to its workers."""

    auth: AuthConfig
    access: AccessConfig
    limits: RateLimitConfig
    when: float
    """Seconds since the epoch, when the master read it."""


class SyncFlask(Flask):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._matches: dict[tuple[str, str], Any] = {}
        self.scrape_metrics: ScrapeMetrics | None = None

    @property
    def services(self) -> Services:
        found: Services = self.extensions[EXTENSION]
        return found

    def start_worker(self, place: str = "", connections: Callable[[], int] | None = None) -> None:
        """What each worker process needs of its own, after the fork. `place`: no other living worker has it; `connections`: of all workers."""
        if isinstance(self.services.metrics, Metrics) and place:
            self.services.metrics.files.move(place)
        if self.scrape_metrics is not None:
            self.scrape_metrics.connections = connections
        if self.services.inventory is not None:
            self.services.inventory.start()
        self.services.health.start()
        self.services.curation.ledger.start()
        self.services.reloads.adopted(self.services.curation.policy.fingerprint)
        if self.services.logins:
            self.services.logins.oidc.start()

    def worker_ended(self, place: str) -> None:
        """In the master: a worker is gone, whatever ended it."""
        if isinstance(self.services.metrics, Metrics):
            self.services.metrics.files.forget(place)
            self.services.metrics.count(catalogue.WORKER_EXITS)

    def reload_broke(self) -> None:
        """A reload met an error that nobody expected; it has changed nothing."""
        self.services.metrics.count(catalogue.TASK_PANICS, "sighup")
        if not self.in_worker:
            self.services.reloads.failed()

    def stop_worker(self) -> None:
        self.services.tokens.flush()
        self.services.curation.ledger.stop()

    # Reload: the master reads again, the workers adopt what it has read.

    def read_again(self) -> tuple[Snapshot, bytes]:
        """What a reload may change, and the compiled curation policy. Raises ConfigError, and then nothing has changed."""
        before, now = self.services.config, time.time()
        try:
            config = reload(before, os.environ)
            data, rules = load_policy(config.curation, now)
            check_flips(
                config.curation,
                rules,
                self.services.curation.policy,
                CurationPolicy.from_buffer(data),
                read(ledger_folder(config), now - FLIP_DAYS * DAY),
                now,
            )
        except ConfigError as error:
            self.services.reloads.failed()
            self.services.audit.record("reload", "operator", detail=error.problems[0], outcome="failed")
            raise
        for warning in (*config.warnings, *rules.warnings):
            reload_log.warning("%s", warning)
        for name in restart_only(before, config):
            reload_log.warning("%s differs now; it takes a restart to change it", name)
        return Snapshot(config.auth, config.access, replace(config.rate_limit, storage_url=None), now), data

    def adopt(self, snapshot: Snapshot, policy_bytes: bytes | memoryview) -> None:
        """From the next request on the snapshot counts; requests under way have asked already."""
        found = self.services
        curation = CurationPolicy.from_buffer(policy_bytes)
        if curation.fingerprint != found.curation.policy.fingerprint:
            found.curation.adopt(curation)
        found.curation.ledger.enabled = found.config.curation.ledger and curation.settings.mode != "off"
        if self.in_worker:
            found.curation.ledger.start()
            found.reloads.adopted(curation.fingerprint)
        else:
            found.reloads.succeeded(curation.fingerprint)
        if found.limits.adopt(snapshot.limits) and not self.in_worker:
            limits_log.info("%s", found.limits.describe())
        auth = replace(found.config.auth, **{name: getattr(snapshot.auth, name) for name in RELOADED})
        policy = Policy.of(replace(found.config, auth=auth, access=snapshot.access), formats_of_repositories())
        found.access.adopt(policy)
        if not self.in_worker:
            found.audit.record("reload", "operator", detail=f"access {policy.fingerprint} curation {curation.fingerprint}")
        logins = found.logins
        if logins is None:
            return
        same = [name for name in RELOADED if name.startswith("oidc_") and getattr(logins.config, name) != getattr(auth, name)] == []
        oidc = logins.oidc if same else make_oidc(auth, found.content, found.access)
        started = oidc is logins.oidc
        logins.adopt(auth, oidc)
        if not started and self.in_worker:
            oidc.start()

    @property
    def in_worker(self) -> bool:
        """Threads are for workers: the master forks."""
        return self.services.health.is_started

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """There is no coroutine among our views; to look again at every call would cost time."""
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Routes here depend on the path and the method alone; to work out the host's name for each request would cost time."""
        if request is None:
            return super().create_url_adapter(request)
        return RememberedMatches(self._matches, self.url_map, "localhost", "/", "", request.scheme, request.path, request.method)


class RememberedMatches(MapAdapter):
    """Finds the route of an address that was asked for before without looking through the rules again; they do not change after the start."""

    def __init__(self, known: dict[tuple[str, str], Any], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._known = known

    def match(self, *arguments: Any, **options: Any) -> Any:
        if arguments or options != {"return_rule": True} or len(self.path_info) > REMEMBERED_LENGTH:
            return super().match(*arguments, **options)
        key = (self.path_info, self.default_method)
        found = self._known.get(key)
        if found is None:
            found = super().match(return_rule=True)
            if len(self._known) >= MATCHES_KEPT:
                self._known.clear()
            self._known[key] = found
        return found[0], dict(found[1])


class NoSessions(SessionInterface):
    """A registry has no browser sessions; looking for a cookie on each request would cost time."""

    _none = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        return self._none

    def is_null_session(self, obj: object) -> bool:
        return True
