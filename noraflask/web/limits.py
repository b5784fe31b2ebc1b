"""Each request asks the rate limits first, before anything that costs more: before its credentials are looked at, also where no route matches."""

from __future__ import annotations

from flask import Flask, Request, request

from noraflask.recording import aside
from noraflask.services import Services
from noraflask.services.limits.rates import AUTH, GENERAL, METRICS, UPLOAD, Limits
from noraflask.web.context import EXTENSION, STATE
from noraflask.web.peers import client_address
from noraflask.web.targets import TARGET

STANDING = "nora.ratelimit"
"""In a request's environ: headers for its answer, where it was counted."""
OPS: dict[str, tuple[str, ...]] = {"/health": (), "/ready": (), "/metrics": (METRICS,)}
"""Those who watch the server: tiers in which GET and HEAD count."""
TOKEN_RULES = frozenset(("/api/tokens", "/api/tokens/list", "/api/tokens/revoke", "/api/tokens/rotate"))
"""POST routes that take a password or a token in the body."""

_UPLOAD: tuple[str, ...] = (UPLOAD,)
_GENERAL: tuple[str, ...] = (GENERAL,)
_TOKENS: tuple[str, ...] = (GENERAL, AUTH)


def install(app: Flask, trusted_proxies: tuple[str, ...]) -> None:
    """Requests for repositories count as `upload` whatever their method; the name is NORA's."""
    extensions = app.extensions

    def limit() -> None:
        here: Request = request._get_current_object()  # type: ignore[attr-defined]
        environ = here.environ
        limits: Limits = environ[STATE].limits
        if not limits.enabled:
            return
        services: Services = extensions[EXTENSION]
        if environ[TARGET].format is not None:
            tiers = _UPLOAD
        elif environ["PATH_INFO"] in OPS and environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            tiers = OPS[environ["PATH_INFO"]]
            if not tiers:
                return
        else:  # by the route, however its address is spelled
            is_token = here.url_rule is not None and here.url_rule.rule in TOKEN_RULES and environ["REQUEST_METHOD"] == "POST"
            tiers = _TOKENS if is_token else _GENERAL
        client = client_address(environ, trusted_proxies)
        with aside() as recording:
            environ[STANDING] = services.limits.check(limits, tiers, client)
        if recording is not None:
            services.limits.record(recording, limits, tiers, client)

    app.before_request(limit)
