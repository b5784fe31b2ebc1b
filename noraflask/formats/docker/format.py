"""Images as the frame knows them."""

from __future__ import annotations

from noraflask.ecosystems.docker import ECOSYSTEM
from noraflask.formats.docker.doctor import CHECKS
from noraflask.formats.docker.protocol.answers import API_HEADERS, PROTOCOL_HEADERS, render_error
from noraflask.formats.docker.routes import bp
from noraflask.formats.docker.setup import PAGES
from noraflask.formats.docker.stock import STOCK
from noraflask.formats.docker.tokens import challenge
from noraflask.web.format import Format, Login

FORMAT = Format(
    ecosystem=ECOSYSTEM,
    mounts=("/v2",),
    routes=bp,
    render_error=render_error,
    stock=STOCK,
    login=Login(challenge, password_paths=("/v2/token",)),
    headers=API_HEADERS,
    answer_headers=PROTOCOL_HEADERS,
    root="/v2",
    names_begin_with_repository=True,
    setup=PAGES,
    checks=CHECKS,
)
