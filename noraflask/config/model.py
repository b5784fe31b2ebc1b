"""What is configured: frozen dataclasses with the defaults, and the one error of a configuration that cannot be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1024 * 1024


@dataclass(frozen=True)
class ServerConfig:
    host: str = "127.0.0.1"
    port: int = 4000
    public_url: str | None = None  # base of every generated URL, without a trailing slash; may hold a path
    trusted_proxies: tuple[str, ...] = ("127.0.0.1", "::1")  # peers (IP or CIDR) whose X-Forwarded-* headers are believed
    body_limit_mb: int = 2048  # largest body that is not a streamed upload
    workers: int = 2
    threads: int = 8  # per worker: threads that answer reads
    transfer_threads: int = 32  # per worker: threads that take bodies and send large files
    max_connections: int = 4096  # open client connections, all workers together
    header_read_timeout: int = 30
    keep_alive_timeout: int = 120
    idle_timeout: int = 60  # longest silence inside a body, in both directions
    min_transfer_rate: int = 1024  # bytes a second that a body must keep on average after idle_timeout seconds; 0 = no bound
    shutdown_timeout: int = 300  # grace for running requests at stop
    maintenance_stall_secs: int = 300


@dataclass(frozen=True)
class StorageConfig:
    mode: str = "local"
    path: Path = Path("data/storage")


@dataclass(frozen=True)
class StagingConfig:
    path: Path = Path("/tmp")  # a tmpfs mount
    budget_bytes: int = 192 * MIB  # all uploads together on it; beyond this they spill to the data volume
    share_bytes: int = 16 * MIB  # one upload on it; a larger one spills to the data volume
    session_ttl_seconds: int = 3600  # idle uploads older than this are swept


@dataclass(frozen=True)
class LoggingConfig:
    level: str = "info"  # trace, debug, info, warn, error
    format: str = "json"  # json or text
    access: bool = True  # one line per request


@dataclass(frozen=True)
class DockerConfig:
    enabled: bool = True
    max_upload_sessions: int = 20000
    max_upload_session_size_mb: int = 20480
    chunk_min_bytes: int = 65536  # announced as OCI-Chunk-Min-Length; smaller chunks are still taken


@dataclass(frozen=True)
class Config:
    server: ServerConfig = field(default_factory=ServerConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    staging: StagingConfig = field(default_factory=StagingConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    docker: DockerConfig = field(default_factory=DockerConfig)
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
