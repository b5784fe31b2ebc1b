"""Operations: /health (is the process well?), /ready (can it take work?)."""

from __future__ import annotations

import json

from flask import Blueprint, Response

from noraflask import __version__
from noraflask.web.access import PUBLIC, access
from noraflask.web.context import repositories, services
from noraflask.web.curation import health_members
from noraflask.web.responses import Answer

bp = Blueprint("ops", __name__)


@bp.get("/health")
@access(PUBLIC)
def health() -> Response:
    """Touches no disk, so that it answers while a disk hangs; what it says of storage is from the last round of background work.

    503 only when a background task of this worker stands still: a registry that can only be read from is degraded, not dead.
    """
    state = services().health
    failing = state.failing_task()
    body: dict[str, object] = {
        "status": "unhealthy" if failing else "healthy" if state.storage_reachable else "degraded",
        "version": __version__,
        "uptime_seconds": state.uptime_seconds(),
        "storage": {"backend": services().content.backend, "reachable": state.storage_reachable},
        "registries": {here.name: "ok" for here in repositories()},
        "upstreams": {},
        "policy": health_members(),
    }
    if failing:
        body["failing_task"] = failing
    return _json(body, 503 if failing else 200)


@bp.get("/ready")
@access(PUBLIC)
def ready() -> Response:
    """Writes to storage and staging, for real."""
    parts = services().health.probe()
    well = all(outcome == "ok" for outcome in parts.values())
    return _json({"status": "ready" if well else "unready", **parts}, 200 if well else 503)


def _json(body: dict[str, object], status: int) -> Response:
    return Answer(json.dumps(body), status=status, content_type="application/json", headers={"Cache-Control": "no-store"})
