"""Images as the frame knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noraflask.ecosystems.docker import ECOSYSTEM
from noraflask.formats.docker.protocol.answers import API_HEADERS, PROTOCOL_HEADERS, render_error
from noraflask.formats.docker.routes import bp
from noraflask.formats.docker.setup import PAGES
from noraflask.formats.docker.stock import STOCK
from noraflask.formats.docker.tokens import challenge
from noraflask.web.format import Format, Login

if TYPE_CHECKING:
    from noraflask.services.doctor.format_checks import FormatChecks


def checks() -> FormatChecks:
    from noraflask.formats.docker.doctor import CHECKS

    return CHECKS


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
    checks=checks,
)
