"""What a request stands in: its services, its repository, its principal. Alone reads current_app."""

from __future__ import annotations

from typing import Any

from flask import Flask, Request, current_app, request

from noraflask.services import Services
from noraflask.services.audit import Record
from noraflask.services.auth.principal import ANONYMOUS, Principal, Source
from noraflask.services.client_network import network_of
from noraflask.services.repositories import Repository
from noraflask.services.state import State
from noraflask.web.format import Format
from noraflask.web.peers import client_address
from noraflask.web.targets import TARGET, Target

EXTENSION = "noraflask"
FORMATS = f"{EXTENSION}-formats"
"""In the application's extensions: the formats that are served, by id."""
STATE = "nora.state"
"""In a request's environ, from its first moment on: the live state that it began with (services/state.py)."""
PRINCIPAL = "nora.principal"
"""Likewise, once it was asked for."""
NAME = "nora.name"
"""Likewise: the name of what the request is about, such as an image's."""
SERVED = "nora.served"
"""Likewise: set where the answer is an artifact's bytes."""
HANDED_OVER = "nora.handed_over"
"""Likewise: how many bytes of the body a proxy sends in our place (web/accel.py)."""


def extensions() -> dict[str, Any]:
    """What the application holds. Through the object itself: an attribute of Flask's stand-in costs a microsecond more."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    return app.extensions


def services() -> Services:
    found: Services = extensions()[EXTENSION]
    return found


def state() -> State:
    """The one that this request began with, whatever is reloaded meanwhile."""
    here: Request = request._get_current_object()  # type: ignore[attr-defined]
    found: State = here.environ[STATE]
    return found


def target() -> Target:
    """What the request is for (targets.py)."""
    here: Request = request._get_current_object()  # type: ignore[attr-defined]
    found: Target = here.environ[TARGET]
    return found


def repository() -> Repository:
    """The request's repository. Only for views of formats, which no request reaches without one."""
    found = target().repository
    assert found is not None
    return found


def repository_name() -> str:
    """The name of the request's repository, empty for what belongs to none."""
    return target().registry


def surroundings() -> tuple[Services, dict[str, Any], str]:
    """Services, environ and name of the repository, in one go: the guard asks for all of them for each request."""
    here: Request = request._get_current_object()  # type: ignore[attr-defined]
    return extensions()[EXTENSION], here.environ, here.environ[TARGET].registry


def formats() -> dict[str, Format]:
    """Those that are served, by id."""
    found: dict[str, Format] = extensions()[FORMATS]
    return found


def repositories() -> list[Repository]:
    """All that this server has."""
    return list(state().repositories)


def principal() -> Principal:
    """Who asks. Raises Unauthenticated or TooManyLogins for credentials that are not valid, whatever the route would let anonymous clients do."""
    here: Request = request._get_current_object()  # type: ignore[attr-defined]
    return recognise(here.environ)


def recognise(environ: dict[str, Any]) -> Principal:
    """As principal(), for whoever has the environ at hand."""
    found: Principal | None = environ.get(PRINCIPAL)
    if found is None:
        authenticator = environ[STATE].authenticator
        found = environ[PRINCIPAL] = ANONYMOUS if authenticator is None else authenticator.authenticate(environ)
    return found


def uploader() -> str:
    """For whom an upload counts (services/staging.py): the principal by whatever credential, or a client without one by its address."""
    who = principal()
    if who.source is Source.ANONYMOUS:
        here: Request = request._get_current_object()  # type: ignore[attr-defined]
        return f"client {network_of(client_address(here.environ, state().config.server.trusted_proxies))}"
    return f"oidc {who.provider} {who.name}" if who.source is Source.OIDC else f"user {who.name}"


def note(action: str, artifact: str = "", detail: str = "", outcome: str = "ok", actor: Principal | None = None, registry: str | None = None) -> None:
    """A record in the audit log, with what every record has: who, in which repository, from where."""
    who, environ, here = actor or principal(), request.environ, services()
    here.audit.record(
        Record(
            action,
            who.name,
            artifact=artifact,
            registry=repository_name() if registry is None else registry,
            detail=detail,
            outcome=outcome,
            source=who.source.value,
            client=client_address(environ, state().config.server.trusted_proxies),
            request_id=environ.get("nora.request_id", ""),
        )
    )
