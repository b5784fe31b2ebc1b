"""Configuration: load() fills the frozen dataclasses from the defaults, the file and the environment, or names every problem at once.

What can be set stands beside the fields: sections.py, access.py, curation.py and repositories.py, and for each format its file in ecosystems/.
settings.py collects it, tables.py reads arrays of tables, toml_file.py is the file with its lines, reading.py the order of sources, problem_lines.py
the end of a problem's line, checks.py what only shows between two settings, document.py what is printed for people. other_users.py says which files
others could have put there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path

from noraflask.config.access import AccessConfig, AccessRule, AuthConfig, OidcProvider, RoleRule
from noraflask.config.checks import contradictions, warnings
from noraflask.config.curation import CurationConfig, FormatCuration
from noraflask.config.model import Config, ConfigError
from noraflask.config.other_users import who_else_may_write
from noraflask.config.reading import Reading
from noraflask.config.repositories import RepositoryConfig
from noraflask.config.sections import (
    AuditConfig,
    CorsConfig,
    LoggingConfig,
    MetricsConfig,
    RateLimitConfig,
    ServerConfig,
    StagingConfig,
    StateConfig,
    StorageConfig,
)
from noraflask.config.settings import SECTIONS_OF_CONFIG, is_live
from noraflask.config.text_file import label_of

__all__ = [
    "AccessConfig",
    "AccessRule",
    "AuditConfig",
    "AuthConfig",
    "Config",
    "ConfigError",
    "CorsConfig",
    "CurationConfig",
    "FormatCuration",
    "LoggingConfig",
    "MetricsConfig",
    "OidcProvider",
    "RateLimitConfig",
    "RepositoryConfig",
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


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """The defaults, then the file, then the environment. Raises ConfigError with every problem of all of them.

    The file is `path`, else the one that NORA_CONFIG_PATH names, else `config.toml` of the working folder, which alone may be absent. One that
    another user could have written is read, and stderr is told before: nothing in the file can hinder that.
    """
    reading = Reading()
    file = path or _file(environ)
    if file is not None:
        is_named = path is not None or bool(environ.get("NORA_CONFIG_PATH"))
        stranger = who_else_may_write(file) if os.geteuid() == 0 or not is_named else None
        if stranger:
            print(f"warning: {label_of(file)} is read, although others could change it or put another in its place: {stranger}", file=sys.stderr)
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
    before, after = dict(_values(old)), dict(_values(new))
    return [name for name, value in after.items() if not is_live(name) and before.get(name) != value]


def _values(config: Config) -> Iterator[tuple[str, object]]:
    sections = {name: getattr(config, name) for name in SECTIONS_OF_CONFIG} | dict(config.formats)
    for name, section in sections.items():
        yield from ((f"{name}.{field.name}", getattr(section, field.name)) for field in fields(section))


def _file(environ: Mapping[str, str]) -> Path | None:
    named = environ.get("NORA_CONFIG_PATH")
    if named:
        return Path(named)
    usual = Path("config.toml")
    return usual if os.path.lexists(usual) else None
