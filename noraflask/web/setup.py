"""GET /setup/<client>: how a client is set up for this registry, with the address that the caller used. The pages are the formats'."""

from __future__ import annotations

from collections.abc import Iterable

from flask import Blueprint, Response

from noraflask.errors import NotFound
from noraflask.web.access import PUBLIC, access
from noraflask.web.addresses import absolute
from noraflask.web.responses import Answer
from noraflask.web.setup_pages import Page, Place, render_index


def make_blueprint(pages: Iterable[Page]) -> Blueprint:
    """The pages of all mounted formats."""
    bp = Blueprint("setup", __name__)
    by_client = {page.client: page for page in pages}

    @bp.get("/setup")
    @access(PUBLIC)
    def clients() -> Response:
        return _text(render_index(_place(), by_client.values()))

    @bp.get("/setup/<client>")
    @access(PUBLIC)
    def client(client: str) -> Response:
        page = by_client.get(client)
        if page is None:
            raise NotFound(f"there are no settings for that client here, there are those for {', '.join(by_client)}")
        return _text(page.render(_place()))

    return bp


def _place() -> Place:
    """addresses.py lets through no host, port and prefix that could be anything else, so the text can be pasted into a shell."""
    return Place(absolute("/").rstrip("/"))


def _text(text: str) -> Response:
    """Depends on who asks where: no cache may keep it for others."""
    return Answer(text, content_type="text/plain; charset=utf-8", headers={"Cache-Control": "no-store"})
