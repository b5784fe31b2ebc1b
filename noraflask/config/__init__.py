"""Configuration: load() fills the frozen dataclasses from the defaults, the file and the environment, or names every problem at once.

settings.py is the table of what can be set, kinds.py what a value may look like, toml_file.py the file with its lines, reading.py the order of
sources, checks.py what only shows between two settings, document.py what is printed for people.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from noraflask.config.checks import contradictions, warnings
from noraflask.config.model import Config, ConfigError, DockerConfig, LoggingConfig, ServerConfig, StagingConfig, StorageConfig
from noraflask.config.reading import Reading

__all__ = ["Config", "ConfigError", "DockerConfig", "LoggingConfig", "ServerConfig", "StagingConfig", "StorageConfig", "load"]


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """The defaults, then the file, then the environment. Raises ConfigError with every problem of all of them.

    The file is `path`, else the one that NORA_CONFIG_PATH names, else `config.toml` of the working folder, which alone may be absent.
    """
    reading = Reading()
    file = path or _file(environ)
    if file is not None:
        reading.take_file(file)
    reading.take_environment(environ)
    config = reading.config()
    problems = reading.problems + contradictions(config, reading)
    if problems:
        raise ConfigError(problems, config)
    return replace(config, warnings=(*reading.warnings, *warnings(config, file)))


def _file(environ: Mapping[str, str]) -> Path | None:
    named = environ.get("NORA_CONFIG_PATH")
    if named:
        return Path(named)
    usual = Path("config.toml")
    return usual if os.path.lexists(usual) else None
