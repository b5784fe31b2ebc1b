"""GET /setup/<client>: how a client is set up for this registry, with the address that the caller used. The texts are in setup_texts.py."""

from __future__ import annotations

from flask import Blueprint, Response

from noraflask.errors import NotFound
from noraflask.web.access import PUBLIC, access
from noraflask.web.addresses import absolute
from noraflask.web.responses import Answer
from noraflask.web.setup_texts import CLIENTS, Place, index

bp = Blueprint("setup", __name__)


@bp.get("/setup")
@access(PUBLIC)
def clients() -> Response:
    return _text(index(_place()))


@bp.get("/setup/<client>")
@access(PUBLIC)
def client(client: str) -> Response:
    page = CLIENTS.get(client)
    if page is None:
        raise NotFound(f"there are no settings for that client here, there are those for {', '.join(CLIENTS)}")
    return _text(page(_place()))


def _place() -> Place:
    """addresses.py lets through no host, port and prefix that could be anything else, so the text can be pasted into a shell."""
    return Place(absolute("/").rstrip("/"))


def _text(text: str) -> Response:
    """Depends on who asks where: no cache may keep it for others."""
    return Answer(text, content_type="text/plain; charset=utf-8", headers={"Cache-Control": "no-store"})
