"""Files as the frame knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noraflask.ecosystems.raw import ECOSYSTEM
from noraflask.formats.raw.routes import bp
from noraflask.formats.raw.setup import PAGES
from noraflask.formats.raw.stock import STOCK
from noraflask.web.errors import render_text
from noraflask.web.format import Format

if TYPE_CHECKING:
    from noraflask.services.doctor.format_checks import FormatChecks


def checks() -> FormatChecks:
    from noraflask.formats.raw.doctor import CHECKS

    return CHECKS


FORMAT = Format(
    ecosystem=ECOSYSTEM,
    mounts=("/raw",),
    routes=bp,
    render_error=render_text,
    request_headers=("X-Checksum-Sha256",),
    answer_headers=("Range", "Upload-Offset"),
    stock=STOCK,
    setup=PAGES,
    checks=checks,
)
