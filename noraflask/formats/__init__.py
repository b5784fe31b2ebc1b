"""Formats: what the registry speaks. A repository is one mounting of a format."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint

from noraflask.formats.oci import protocol as oci
from noraflask.formats.oci.routes import bp as oci_blueprint
from noraflask.web.context import Repository
from noraflask.web.errors import Renderer


@dataclass(frozen=True)
class Format:
    blueprint: Blueprint
    """Registered once for each repository of the format, under the repository's name."""
    render_error: Renderer
    headers: tuple[tuple[str, str], ...]
    """On every answer below the mount."""
    default: Repository
    """The repository that exists without configuration."""


FORMATS = (Format(oci_blueprint, oci.render_error, oci.API_HEADERS, Repository("docker", "oci", "/v2")),)
