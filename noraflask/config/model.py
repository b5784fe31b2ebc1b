"""The whole configuration as one frozen value, and the one error of a configuration that cannot be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noraflask.config.access import AccessConfig, AuthConfig
from noraflask.config.curation import CurationConfig
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
from noraflask.ecosystems import ECOSYSTEMS


def default_formats() -> dict[str, Any]:
    return {ecosystem.id: ecosystem.section() for ecosystem in ECOSYSTEMS.values() if ecosystem.section}


@dataclass(frozen=True)
class Config:
    server: ServerConfig = field(default_factory=ServerConfig)
    auth: AuthConfig = field(default_factory=AuthConfig)
    access: AccessConfig = field(default_factory=AccessConfig)
    rate_limit: RateLimitConfig = field(default_factory=RateLimitConfig)
    cors: CorsConfig = field(default_factory=CorsConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    state: StateConfig = field(default_factory=StateConfig)
    staging: StagingConfig = field(default_factory=StagingConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    curation: CurationConfig = field(default_factory=CurationConfig)
    formats: Mapping[str, Any] = field(default_factory=default_formats, hash=False)
    """The section of each format that this version serves, by its id; each has a field `enabled`."""
    repositories: tuple[RepositoryConfig, ...] = ()
    """Those of [[repositories]]; the default repository of each format is none of them."""
    file: Path | None = field(default=None, compare=False)
    """The file that was read."""
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Where each field's value is from: "server.port" -> "default", "config.toml:12" or "NORA_PORT"."""
    warnings: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """What an operator should know although the server starts; one line each."""


class ConfigError(Exception):
    """All problems of a configuration at once; `problems` holds one line each."""

    def __init__(self, problems: list[str], usable: Config | None = None) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
        self.usable = usable or Config()  # what could be read, the rest at its default: for `nora healthcheck`, not for serving
