"""What a request stands in: its services, its repository, its principal. Alone reads current_app."""

from __future__ import annotations

from dataclasses import dataclass

from flask import current_app, request

from noraflask.services import Services
from noraflask.services.auth import ANONYMOUS, Principal

EXTENSION = "noraflask"


@dataclass(frozen=True, slots=True)
class Repository:
    """One mounting of a format. Keys, rights and log lines all name it."""

    name: str
    format: str
    mount: str
    """Path in front of the format's own routes, beginning with a slash, without one at the end."""


def services() -> Services:
    found: Services = current_app.extensions[EXTENSION]
    return found


def repository() -> Repository:
    """The repository that the request's blueprint was registered for."""
    found: Repository = current_app.extensions[f"{EXTENSION}.{request.blueprint}"]
    return found


def repositories() -> list[Repository]:
    """All that this server has."""
    return [found for name, found in current_app.extensions.items() if name.startswith(f"{EXTENSION}.")]


def principal() -> Principal:
    return ANONYMOUS
