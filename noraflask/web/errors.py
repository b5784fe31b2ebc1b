"""One handler for everything raised. It picks the renderer of the request's format, also where no route matched (an unrouted 404, a 405)."""

from __future__ import annotations

import json
import logging

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from noraflask import errors
from noraflask.web.access import basic_challenge
from noraflask.web.context import target
from noraflask.web.format import Renderer
from noraflask.web.responses import Answer
from noraflask.web.targets import OUTER_PATH

API = "/api/"
"""Errors below it are JSON."""

log = logging.getLogger(__name__)


def install(app: Flask) -> None:
    def answer(problem: Exception) -> Response:
        if isinstance(problem, HTTPException):
            if problem.response is not None or (problem.code or 500) < 400:
                return app.make_response(problem.get_response())
            problem = _translate(problem)
        elif not isinstance(problem, errors.NoraError):
            log.exception("unexpected error in %s %s", request.method, request.environ[OUTER_PATH])
            problem = errors.NoraError()
        if problem.status == 401 and "WWW-Authenticate" not in problem.headers:
            problem.headers["WWW-Authenticate"] = basic_challenge()
        content_type, body = _renderer()(problem)
        return Answer(body, status=problem.status, headers=problem.headers, content_type=content_type)

    app.register_error_handler(Exception, answer)


def _renderer() -> Renderer:
    format = target().format
    if format is not None:
        return format.render_error
    return render_json if f"{request.environ[OUTER_PATH]}/".startswith(API) else render_text


def render_text(problem: Exception) -> tuple[str, bytes]:
    return "text/plain; charset=utf-8", f"{problem.args[0]}\n".encode(errors="replace")


def render_json(problem: Exception) -> tuple[str, bytes]:
    """The form of everything below /api/, as in NORA."""
    members = {"error": str(problem.args[0]), "detail": getattr(problem, "detail", None)}
    return "application/json", json.dumps({name: value for name, value in members.items() if value is not None}).encode()


def _translate(problem: HTTPException) -> errors.NoraError:
    """A werkzeug error as one of ours; headers such as Allow and Content-Range stay."""
    kinds: dict[int, type[errors.NoraError]] = {
        404: errors.NotFound,
        405: errors.MethodNotAllowed,
        413: errors.TooLarge,
        416: errors.RangeInvalid,
    }
    status = problem.code or 500
    kind = kinds.get(status, errors.BadRequest if status < 500 else errors.NoraError)
    message = "the range lies outside the content" if status == 416 else None
    ours = kind(message)
    ours.status = status
    ours.headers = {name: value for name, value in problem.get_headers() if name not in ("Content-Type", "Content-Length")}
    return ours
