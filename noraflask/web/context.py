"""What a request stands in: its services, its repository, its principal. Alone reads current_app."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import Flask, Request, current_app, request

from noraflask.services import Services
from noraflask.services.audit import Record
from noraflask.services.auth.principal import ANONYMOUS, Action, Principal
from noraflask.services.state import State
from noraflask.web.peers import client_address

EXTENSION = "noraflask"
CHALLENGES = f"{EXTENSION}-challenges"
"""In the application's extensions: by blueprint, the function that makes a format's own challenge."""
LOOKS = f"{EXTENSION}-looks"
"""Likewise: by a rule's format, the function that looks a package up in storage (services/curation/explaining.py)."""
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

Challenge = Callable[[Action, str | None, str], str]
"""A WWW-Authenticate header for an action on a name; the third argument is an error code of RFC 6750, 3.1, or empty."""


@dataclass(frozen=True, slots=True)
class Repository:
    """One mounting of a format. Keys, rights and log lines all name it."""

    name: str
    format: str
    mount: str
    """Path in front of the format's own routes, beginning with a slash, without one at the end."""


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


def repository() -> Repository:
    """The repository that the request's blueprint was registered for."""
    found: Repository = extensions()[f"{EXTENSION}.{request.blueprint}"]
    return found


def repository_name() -> str:
    """The name of the request's repository, empty for what belongs to none."""
    return surroundings()[2]


def surroundings() -> tuple[Services, dict[str, Any], str]:
    """Services, environ and name of the repository, in one go: the guard asks for all of them for each request."""
    here: Request = request._get_current_object()  # type: ignore[attr-defined]
    found = extensions()
    repository: Repository | None = found.get(f"{EXTENSION}.{here.blueprint}")
    return found[EXTENSION], here.environ, repository.name if repository else ""


def format_challenge() -> Challenge | None:
    """What makes the WWW-Authenticate header of the request's format; None where Basic will do."""
    found: Challenge | None = current_app.extensions[CHALLENGES].get(request.blueprint)
    return found


def storage_look(format: str) -> Callable[..., Any] | None:
    """What looks a package of that format up in storage; None where there is no such thing."""
    looks: dict[str, Callable[..., Any]] = current_app.extensions[LOOKS]
    return looks.get(format)


def repositories() -> list[Repository]:
    """All that this server has."""
    return [found for name, found in current_app.extensions.items() if name.startswith(f"{EXTENSION}.")]


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
