"""Formats: what the registry speaks. A repository is one mounting of a format."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint

from noraflask.formats.docker import doctor, setup
from noraflask.formats.docker.protocol.answers import API_HEADERS, render_error
from noraflask.formats.docker.routes import bp as docker_blueprint
from noraflask.formats.docker.stock import STOCK as docker_stock
from noraflask.formats.docker.tokens import challenge as docker_challenge
from noraflask.services.doctor.format_checks import FormatChecks
from noraflask.services.stock import Stock
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
    stock: Stock
    default: Repository
    """The repository that exists without configuration."""
    setup: tuple[Page, ...] = ()
    """How its clients are set up; the names of clients are distinct among all formats."""
    checks: FormatChecks | None = None
    """What the doctor asks of a front for it."""


FORMATS = (
    Format(
        docker_blueprint,
        render_error,
        API_HEADERS,
        docker_challenge,
        docker_stock,
        Repository("docker", "oci", "/v2"),
        setup.PAGES,
        doctor.CHECKS,
    ),
)
