"""create_app(config): builds the services, mounts the formats, installs error rendering. Importing this module has no effect."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

from flask import Flask, Request
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import MapAdapter

from noraflask.config import Config
from noraflask.formats import FORMATS
from noraflask.log import write_event
from noraflask.services import Services
from noraflask.services.content import Content
from noraflask.services.health import Health
from noraflask.services.staging import Staging
from noraflask.storage import Storage
from noraflask.storage.disk import DiskStorage
from noraflask.storage.memory import MemoryStorage
from noraflask.web import errors, ops
from noraflask.web.context import EXTENSION
from noraflask.web.envelope import Envelope

MATCHES_KEPT = 4096
REMEMBERED_LENGTH = 512


def create_app(config: Config, storage: Storage | None = None) -> Flask:
    """The WSGI application. `storage` overrides the configured one, for tests. Raises OSError when the storage folder cannot be made."""
    app = SyncFlask("noraflask", static_folder=None)
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.session_interface = NoSessions()
    app.extensions[EXTENSION] = make_services(config, storage)
    app.register_blueprint(ops.bp)
    formats = [format for format in FORMATS if getattr(config, format.default.name).enabled]
    for format in formats:
        app.register_blueprint(format.blueprint, url_prefix=format.default.mount, name=format.default.name)
        app.extensions[f"{EXTENSION}.{format.default.name}"] = format.default
    errors.install(app, [(format.default, format.render_error) for format in formats])
    wanted = config.logging.access and config.logging.level in ("trace", "debug", "info")
    app.wsgi_app = Envelope(  # type: ignore[method-assign]
        app.wsgi_app,
        {format.default.mount: format.headers for format in formats},
        config.server.trusted_proxies,
        write_event(config.logging) if wanted else None,
    )
    return app


def make_services(config: Config, storage: Storage | None) -> Services:
    found = storage or DiskStorage(config.storage.path)
    incoming = found.incoming if isinstance(found, DiskStorage) else tempfile.mkdtemp(prefix="noraflask-")
    staging = Staging(config.staging, incoming, config.docker.max_upload_sessions)
    probe = found.probe if isinstance(found, DiskStorage | MemoryStorage) else lambda: None
    health = Health(staging, probe, incoming, config.server.maintenance_stall_secs)
    return Services(config, Content(found), staging, health)


class SyncFlask(Flask):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._matches: dict[tuple[str, str], Any] = {}

    def start_worker(self) -> None:
        """What each worker process needs of its own, after the fork."""
        self.extensions[EXTENSION].health.start()

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
