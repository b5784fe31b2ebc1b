"""What all folders share: a whole app in one expression, and a network that ends at this machine."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import settings
from werkzeug.routing import Rule

from noraflask.app import create_app
from noraflask.assembly import make_services
from noraflask.config import (
    AccessConfig,
    AuditConfig,
    AuthConfig,
    Config,
    CorsConfig,
    CurationConfig,
    LoggingConfig,
    MetricsConfig,
    RateLimitConfig,
    ServerConfig,
    StagingConfig,
    StateConfig,
    StorageConfig,
)
from noraflask.config.model import default_formats
from noraflask.config.repositories import repository_of
from noraflask.services.auth.users import hash_password
from noraflask.storage import Storage
from noraflask.storage.memory import MemoryStorage
from noraflask.web.context import EXTENSION

settings.register_profile("noraflask", deadline=None, database=None)  # no deadline: the machine may be busy with other things
settings.register_profile("quick", settings.get_profile("noraflask"), max_examples=10)
settings.load_profile("noraflask")

_compile_builder, _builders = Rule._compile_builder, dict[Hashable, Callable[..., tuple[str, str]]]()


def _builder_of(rule: Rule, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
    """werkzeug writes and compiles two functions for each address of each app, which takes most of the time in which an app is made.
    They depend on the address alone, and hundreds of tests make an app of the same sixty.
    """
    if rule.defaults:
        return _compile_builder(rule, append_unknown)
    key = (rule.rule, tuple(rule._trace), append_unknown)
    if key not in _builders:
        _builders[key] = _compile_builder(rule, append_unknown)
    return _builders[key]


Rule._compile_builder = _builder_of  # type: ignore[assignment, method-assign]

REAL_NETWORK = ("client", "fault")
"""Folders whose tests talk to servers and clients of their own."""


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Sets print in another order in each process, and a test shall have the same name in each run."""
    return "+".join(sorted(map(str, val))) or "nothing" if isinstance(val, set | frozenset) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "soak" in config.option.markexpr:
        return
    soak = [item for item in items if item.get_closest_marker("soak")]
    if soak:
        config.hook.pytest_deselected(items=soak)
        items[:] = [item for item in items if item not in soak]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """No network, and no litter: an app makes its temporary folders and keeps them for its next start; here they go where pytest clears up."""
    if item.path.relative_to(Path(__file__).parent).parts[0] in REAL_NETWORK:
        return (yield)
    usual = tempfile.tempdir
    tempfile.tempdir = item.config.stash.get(_LITTER, None) or _make_litter(item.config)
    socket.socket.connect = _connect_here  # type: ignore[assignment, method-assign]
    try:
        return (yield)
    finally:
        del socket.socket.connect
        tempfile.tempdir = usual


_LITTER = pytest.StashKey[str]()


def _make_litter(config: pytest.Config) -> str:
    config.stash[_LITTER] = str(config._tmp_path_factory.mktemp("tmp"))  # type: ignore[attr-defined]
    return config.stash[_LITTER]


def _connect_here(self: socket.socket, address: Any) -> None:
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise AssertionError(f"a test reached for the network: {address}")
    super(socket.socket, self).connect(address)


@pytest.fixture
def make_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Flask]:
    """make_app(storage=…, server={"public_url": …}, auth={"users": {name: password}}, …) → an app on memory storage, nothing outside of tmp_path."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return lambda storage=None, **sections: create_app(config_of(tmp_path, **sections), storage or MemoryStorage())


@pytest.fixture
def app_with(_built_once: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Flask]:
    """As make_app, quicker, for all but `docker` and `server`: what those settle once is as usual. One at a time."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def build(storage: Storage | None = None, **sections: Any) -> Flask:
        monkeypatch.setitem(_built_once.extensions, EXTENSION, make_services(config_of(tmp_path, **sections), storage or MemoryStorage()))
        return _built_once

    return build


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


def config_of(folder: Path, repositories: Iterable[dict[str, Any]] = (), **sections: dict[str, Any]) -> Config:
    """By sections of the configuration. `auth` switches logins on and takes `users` as passwords by name, `curation` takes `rules` as the text of
    a file in TOML, `repositories` are the tables of [[repositories]]. No audit log, no metrics and no rate limits unless asked for: most tests ask
    faster than a client may.
    """
    formats = {name: type(section)(**sections.get(name, {})) for name, section in default_formats().items()}
    return Config(
        server=ServerConfig(**sections.get("server", {})),
        storage=StorageConfig(path=folder / "storage"),
        state=StateConfig(path=folder / "state"),
        staging=StagingConfig(**{"path": folder / "tmpfs", **sections.get("staging", {})}),
        formats=formats,
        repositories=tuple(repository_of(values, formats) for values in repositories),
        logging=LoggingConfig(access=False),
        auth=_auth_of(folder, **sections["auth"]) if "auth" in sections else AuthConfig(),
        access=AccessConfig(**sections.get("access", {})),
        rate_limit=RateLimitConfig(**{"enabled": False, **sections.get("rate_limit", {})}),
        audit=AuditConfig(**{"mode": "off", **sections.get("audit", {})}),
        metrics=MetricsConfig(**{"enabled": False, **sections.get("metrics", {})}),
        cors=CorsConfig(**sections.get("cors", {})),
        curation=_curation_of(folder, **sections.get("curation", {})),
    )


def _auth_of(folder: Path, users: dict[str, str] | None = None, **settings: Any) -> AuthConfig:
    write_htpasswd(folder / "users.htpasswd", users or {})
    return AuthConfig(**{"enabled": True, "htpasswd_file": folder / "users.htpasswd", **settings})


def _curation_of(folder: Path, rules: str | None = None, **settings: Any) -> CurationConfig:
    if rules is not None:
        settings["rules_path"] = folder / "rules.toml"
        settings["rules_path"].write_text(rules or "# no rules\n")
    return CurationConfig(**settings)


def write_htpasswd(path: Path, users: dict[str, str]) -> None:
    """With the least bcrypt cost: tests are in a hurry."""
    path.write_bytes(b"".join(name.encode() + b":" + hash_password(password, 4) + b"\n" for name, password in users.items()))


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()
