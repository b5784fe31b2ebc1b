"""Formats: what the registry speaks. A repository is one mounting of a format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flask import Blueprint

from noraflask.formats.docker import doctor, setup, stored
from noraflask.formats.docker import protocol as oci
from noraflask.formats.docker.routes import bp as oci_blueprint
from noraflask.formats.docker.routes import challenge as oci_challenge
from noraflask.services.content import Content
from noraflask.services.doctor.format_checks import FormatChecks
from noraflask.web.context import Challenge, Repository
from noraflask.web.errors import Renderer
from noraflask.web.setup_pages import Page


@dataclass(frozen=True)
class Format:
    blueprint: Blueprint
    """Registered once for each repository of the format, under the repository's name."""
    render_error: Renderer
    headers: tuple[tuple[str, str], ...]
    """On every answer below the mount."""
    challenge: Challenge
    """What a client is asked for that has no valid credentials."""
    count_names: Callable[[Content, str], int]
    """How many names a repository has."""
    default: Repository
    """The repository that exists without configuration."""
    setup: tuple[Page, ...] = ()
    """How its clients are set up; the names of clients are distinct among all formats."""
    checks: FormatChecks | None = None
    """What the doctor asks of a front for it."""


FORMATS = (
    Format(
        oci_blueprint,
        oci.render_error,
        oci.API_HEADERS,
        oci_challenge,
        stored.count_names,
        Repository("docker", "oci", "/v2"),
        setup.PAGES,
        doctor.CHECKS,
    ),
)
