"""GET /: what is served here. GET /setup/<client>: how a client is set up for this registry, with the address that the caller used.

The pages are the formats', and so a format that is switched off has none.
"""

from __future__ import annotations

from collections.abc import Iterable

from flask import Blueprint, Response, request

from noraflask.errors import NotFound, RepositoryUnknown
from noraflask.services.auth.principal import Action
from noraflask.web.access import PUBLIC, access
from noraflask.web.addresses import absolute
from noraflask.web.context import principal, state
from noraflask.web.format import Format
from noraflask.web.responses import Answer
from noraflask.web.setup_pages import Place, Served, render_home_html, render_home_json, render_home_text, render_index

HOME = {"text/plain": render_home_text, "text/html": render_home_html, "application/json": render_home_json}
"""The first for those who take anything, as curl does."""


def make_blueprint(formats: Iterable[Format]) -> Blueprint:
    """The pages of all formats that are served."""
    bp = Blueprint("setup", __name__)
    served = [Served(format.id, format.ecosystem.title, format.mounts, format.setup) for format in formats]
    by_client = {page.client: (page, one.format) for one in served for page in one.pages}

    @bp.get("/")
    @access(PUBLIC)
    def home() -> Response:
        media_type = request.accept_mimetypes.best_match(HOME, "text/plain")
        body = HOME[media_type](_place(), served)
        charset = "" if media_type == "application/json" else "; charset=utf-8"
        return Answer(body, content_type=f"{media_type}{charset}", headers={"Cache-Control": "no-store", "Vary": "Accept"})

    @bp.get("/setup")
    @access(PUBLIC)
    def clients() -> Response:
        return _text(render_index(_place(), (page for page, _ in by_client.values())))

    @bp.get("/setup/<client>")
    @access(PUBLIC)
    def client(client: str) -> Response:
        """?repository=NAME: for a named one, for whoever may pull something there."""
        if client not in by_client:
            raise NotFound(f"there are no settings for that client here, there are those for {', '.join(by_client)}")
        page, format = by_client[client]
        return _text(page.render(_place(_named(request.args["repository"], format) if "repository" in request.args else "")))

    return bp


def _named(name: str, format: str) -> str:
    """The name of a repository of the format; empty for its default one."""
    one = state().repositories.get(name)
    if one is None or one.format != format or not state().access.allowed(principal(), Action.PULL, one.name, None):
        raise RepositoryUnknown("there is no such repository for this client here, or it is not yours to see")
    return "" if one.is_default else one.name


def _place(repository: str = "") -> Place:
    """addresses.py lets through no host, port and prefix that could be anything else, so the text can be pasted into a shell."""
    return Place(absolute("/").rstrip("/"), repository)


def _text(text: str) -> Response:
    """Depends on who asks where: no cache may keep it for others."""
    return Answer(text, content_type="text/plain; charset=utf-8", headers={"Cache-Control": "no-store"})
