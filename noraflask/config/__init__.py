"""Configuration: load() fills the frozen dataclasses from the defaults, the file and the environment, or names every problem at once.

settings.py is the table of what can be set, kinds.py what a value may look like, tables.py and patterns.py the same for arrays of tables,
toml_file.py the file with its lines, reading.py the order of sources, telling.py the end of a problem's line, checks.py what only shows between
two settings, document.py what is printed for people.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

from noraflask.config.checks import contradictions, warnings
from noraflask.config.model import (
    AccessConfig,
    AccessRule,
    AuditConfig,
    AuthConfig,
    Config,
    ConfigError,
    CurationConfig,
    DockerConfig,
    FormatCuration,
    LoggingConfig,
    MetricsConfig,
    OidcProvider,
    RateLimitConfig,
    RoleRule,
    ServerConfig,
    StagingConfig,
    StateConfig,
    StorageConfig,
)
from noraflask.config.reading import NOT_SECTIONS, Reading
from noraflask.config.toml_file import label_of

__all__ = [
    "AccessConfig",
    "AccessRule",
    "AuditConfig",
    "AuthConfig",
    "Config",
    "ConfigError",
    "CurationConfig",
    "DockerConfig",
    "FormatCuration",
    "LoggingConfig",
    "MetricsConfig",
    "OidcProvider",
    "RateLimitConfig",
    "RoleRule",
    "ServerConfig",
    "StagingConfig",
    "StateConfig",
    "StorageConfig",
    "is_live",
    "load",
    "reload",
    "restart_only",
]

_LIVE = (
    *("access.", "curation.", "auth.oidc_", "auth.anonymous_read", "auth.docker_anon_pull"),
    *("auth.admin_users", "auth.bearer_ttl_secs", "auth.refresh_ttl_days"),
    *("rate_limit.enabled", "rate_limit.on_failure", "rate_limit.wait_ms", "rate_limit.auth_", "rate_limit.upload_", "rate_limit.general_"),
)
"""Beginnings of the fields that a running server takes over."""


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """The defaults, then the file, then the environment. Raises ConfigError with every problem of all of them.

    The file is `path`, else the one that NORA_CONFIG_PATH names, else `config.toml` of the working folder, which alone may be absent.
    """
    reading = Reading()
    file = path or _file(environ)
    if file is not None:
        reading.take_file(file)
    reading.take_environment(environ)
    config = replace(reading.config(), file=file)
    problems = reading.problems + contradictions(config, reading)
    if problems:
        raise ConfigError(problems, config)
    return replace(config, warnings=(*reading.warnings, *warnings(config, file)))


def reload(config: Config, environ: Mapping[str, str] = os.environ) -> Config:
    """What `config` was read from, read again. Raises ConfigError, also when its file is gone: the defaults instead could be wide open."""
    if config.file is not None and not os.path.lexists(config.file):
        raise ConfigError([f"{label_of(config.file)}: has vanished; put it back, or restart to go on without it"], config)
    return load(config.file, environ)


def restart_only(old: Config, new: Config) -> list[str]:
    """Fields that differ and that a running server does not take over, such as "server.port"."""
    sections = [section.name for section in fields(Config) if section.name not in NOT_SECTIONS]
    names = [f"{section}.{field.name}" for section in sections for field in fields(getattr(old, section))]
    return [name for name in names if not is_live(name) and _value(old, name) != _value(new, name)]


def is_live(name: str) -> bool:
    """Does a running server take over a changed value of this field, such as "access.rules"?"""
    return name.startswith(_LIVE)


def _value(config: Config, name: str) -> object:
    section, _, field = name.partition(".")
    return getattr(getattr(config, section), field)


def _file(environ: Mapping[str, str]) -> Path | None:
    named = environ.get("NORA_CONFIG_PATH")
    if named:
        return Path(named)
    usual = Path("config.toml")
    return usual if os.path.lexists(usual) else None
