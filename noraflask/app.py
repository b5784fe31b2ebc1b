"""create_app(config): builds the services, mounts the formats, installs error rendering. Importing this module has no effect."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask, Request, Response, g, request
from flask.sessions import SessionInterface
from werkzeug.wsgi import ClosingIterator

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

_REQUEST_ID = re.compile(r"[!-~]{1,128}\Z")


def create_app(config: Config, storage: Storage | None = None) -> Flask:
    """The WSGI application. `storage` overrides the configured one, for tests. Raises OSError when the storage folder cannot be made."""
    app = Flask("noraflask", static_folder=None)
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.session_interface = NoSessions()
    app.extensions[EXTENSION] = make_services(config, storage)
    app.register_blueprint(ops.bp)
    for format in FORMATS:
        app.register_blueprint(format.blueprint, url_prefix=format.default.mount, name=format.default.name)
        app.extensions[f"{EXTENSION}.{format.default.name}"] = format.default
    errors.install(app, [(format.default, format.render_error) for format in FORMATS])
    app.before_request(take_request_id)
    app.after_request(finish_headers)
    if config.logging.access and config.logging.level in ("trace", "debug", "info"):
        app.wsgi_app = AccessLog(app.wsgi_app, write_event(config.logging))  # type: ignore[method-assign]
    return app


def make_services(config: Config, storage: Storage | None) -> Services:
    found = storage or DiskStorage(config.storage.path)
    incoming = found.incoming if isinstance(found, DiskStorage) else tempfile.mkdtemp(prefix="noraflask-")
    staging = Staging(config.staging, incoming, config.docker.max_upload_sessions)
    probe = found.probe if isinstance(found, DiskStorage | MemoryStorage) else lambda: None
    health = Health(staging, probe, incoming, config.server.maintenance_stall_secs)
    return Services(config, Content(found), staging, health)


class NoSessions(SessionInterface):
    """A registry has no browser sessions; looking for a cookie on each request would cost time."""

    def open_session(self, app: Flask, request: Request) -> None:
        return None

    def is_null_session(self, obj: object) -> bool:
        return True


def take_request_id() -> None:
    """The client's X-Request-Id if it is short and printable, else one of our own."""
    given = request.environ.get("HTTP_X_REQUEST_ID", "")
    g.request_id = request.environ["nora.request_id"] = given if _REQUEST_ID.match(given) else os.urandom(12).hex()


def finish_headers(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.get("request_id", "-")
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


class AccessLog:
    """WSGI middleware: one line per request, written when the last byte has left, or could not."""

    def __init__(self, application: Callable[..., Iterable[bytes]], write: Callable[[dict[str, Any]], None]) -> None:
        self._application = application
        self._write = write

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        started, answer = time.perf_counter(), {"status": 0, "bytes": 0}

        def note(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            answer["status"] = int(status[:3])
            answer["bytes"] = next((int(value) for name, value in headers if name == "Content-Length"), 0)
            return start_response(status, headers, *exc_info)

        def log() -> None:
            self._write(
                {
                    "message": "request",
                    "method": environ["REQUEST_METHOD"],
                    "path": environ.get("PATH_INFO", ""),
                    **answer,
                    "ms": round((time.perf_counter() - started) * 1000, 1),
                    "client": environ.get("nora.client") or environ.get("REMOTE_ADDR", ""),
                    "agent": environ.get("HTTP_USER_AGENT", "")[:200],
                    "request_id": environ.get("nora.request_id", "-"),
                }
            )

        body = self._application(environ, note)
        if isinstance(body, environ.get("wsgi.file_wrapper", ())):  # the server must see its own type, to let the kernel send the file
            close = getattr(body, "close", lambda: None)

            def close_and_log() -> None:
                close()
                log()

            body.close = close_and_log  # type: ignore[attr-defined]
            return body
        return ClosingIterator(body, log)
