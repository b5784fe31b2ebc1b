"""What all folders share: a whole app in one expression, and a network that ends at this machine."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import settings

from noraflask.app import create_app, make_services
from noraflask.config import Config, DockerConfig, LoggingConfig, ServerConfig, StagingConfig
from noraflask.storage.memory import MemoryStorage
from noraflask.web.context import EXTENSION

settings.register_profile("noraflask", deadline=None, database=None)  # no deadline: the machine may be busy with other things
settings.load_profile("noraflask")

REAL_NETWORK = ("client", "fault")
"""Folders whose tests talk to servers and clients of their own."""


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.path.relative_to(Path(__file__).parent).parts[0] in REAL_NETWORK:
        return
    connect = socket.socket.connect

    def only_here(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test reached for the network: {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_here)


@pytest.fixture
def make_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Flask]:
    """make_app(storage=…, server={"public_url": …}, docker=…, staging=…) → an app on memory storage that leaves nothing outside of tmp_path."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return lambda storage=None, **sections: create_app(config_of(tmp_path, **sections), storage or MemoryStorage())


@pytest.fixture
def app(_built_once: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flask:
    """The app with its defaults. Services and storage are new for each test; its URL map, which takes long to build, is not."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setitem(_built_once.extensions, EXTENSION, make_services(config_of(tmp_path), MemoryStorage()))
    return _built_once


@pytest.fixture(scope="session")
def _built_once(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    folder = tmp_path_factory.mktemp("app")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        return create_app(config_of(folder), MemoryStorage())


def config_of(folder: Path, **sections: dict[str, Any]) -> Config:
    return Config(
        server=ServerConfig(**sections.get("server", {})),
        staging=StagingConfig(**{"path": folder / "tmpfs", **sections.get("staging", {})}),
        docker=DockerConfig(**sections.get("docker", {})),
        logging=LoggingConfig(access=False),
    )


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()
