"""Formats that live in the tests, made of the contract alone (noraflask/web/format.py): whatever they get, they get from the frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint

from noraflask.app import create_app
from noraflask.config import Config, LoggingConfig
from noraflask.config.repositories import repository_of
from noraflask.digest import Digest
from noraflask.ecosystems import ECOSYSTEMS, Ecosystem
from noraflask.formats import FORMATS
from noraflask.services.content import Content
from noraflask.services.curation.explaining import Stored
from noraflask.services.curation.model import Package
from noraflask.services.stock import Judge, StoredVersion
from noraflask.storage import Storage
from noraflask.storage.memory import MemoryStorage
from noraflask.web import errors
from noraflask.web.flask_app import RegistryFlask
from noraflask.web.format import Format
from tests.conftest import config_of


@dataclass(frozen=True)
class Section:
    enabled: bool = True


class Nothing:
    """The stock of a format that keeps nothing."""

    def names(self, content: Content, repository: str, after: str = "", limit: int | None = None) -> Iterator[str]:
        return iter(())

    def versions(self, content: Content, repository: str, name: str) -> Iterator[StoredVersion]:
        return iter(())

    def references(self, content: Content, repository: str) -> Iterator[Digest]:
        return iter(())

    def look(self, content: Content, asked: Package, judge: Judge) -> Stored | None:
        return None


def toy_format(blueprint: Blueprint, id: str = "notes", ecosystem: Ecosystem | None = None, **more: Any) -> Format:
    """`blueprint` below /<id>; errors are JSON, and nothing is in stock, unless `more` says otherwise."""
    members = {"mounts": (f"/{id}",), "render_error": errors.render_json, "stock": Nothing(), **more}
    return Format(ecosystem or Ecosystem(id, id.capitalize(), section=Section), routes=blueprint, **members)


def config_with(folder: Path, format: Format, repositories: tuple[dict[str, Any], ...] = (), **sections: Any) -> Config:
    """config_of() with a section for the format, and with named repositories of any format."""
    config = config_of(folder, **sections)
    assert format.ecosystem.section is not None
    formats = {**config.formats, format.id: format.ecosystem.section()}
    logging = LoggingConfig(**sections.get("logging", {"access": False}))
    named = tuple(repository_of(values, formats) for values in repositories)
    return Config(**{**vars(config), "formats": formats, "repositories": named, "logging": logging})


def app_of(folder: Path, monkeypatch: pytest.MonkeyPatch, format: Format, storage: Storage | None = None, **sections: Any) -> RegistryFlask:
    """An app that serves the format beside all others."""
    monkeypatch.setitem(ECOSYSTEMS, format.id, format.ecosystem)  # type: ignore[arg-type]
    return create_app(config_with(folder, format, **sections), storage or MemoryStorage(), (*FORMATS, format))
