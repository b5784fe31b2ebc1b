"""Formats: what the registry speaks. Each is a folder here and a file of noraflask/ecosystems; a repository is an instance of one."""

from __future__ import annotations

from noraflask.formats.docker.format import FORMAT as DOCKER
from noraflask.formats.raw.format import FORMAT as RAW
from noraflask.web.format import Format

__all__ = ["FORMATS", "Format"]

FORMATS: tuple[Format, ...] = (DOCKER, RAW)
