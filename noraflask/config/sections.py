"""The sections that are about the server itself: where it listens, where it keeps things, what it tells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noraflask.settings import DAY, MIB, TIB, Addresses, Choice, Listed, Switch, Text, WholeNumber, live_setting, setting
from noraflask.settings.texts import REDIS_URLS, read_allowed_host, read_host, read_internal_prefix, read_origin, read_path, read_redis_url, read_url

SPARE_DESCRIPTORS = 512
"""Beside those of connections: files that are sent, upstreams, logs."""

FOLDER = Text("a path of printable characters, not empty", read_path)
PATH = Text("a path of printable characters", read_path, optional=True)
_SECONDS = WholeNumber(1, DAY)


@dataclass(frozen=True)
class ServerConfig:
    host: str = setting(
        "127.0.0.1",
        Text("an IP address or a host name, without port and brackets", read_host),
        "Address to listen on. 0.0.0.0 and :: mean every address of the machine.",
        env="NORA_HOST",
    )
    port: int = setting(4000, WholeNumber(1, 65535), "TCP port to listen on.", env="NORA_PORT")
    public_url: str | None = setting(
        None,
        Text("an http:// or https:// address with a host and no user, query or fragment", read_url, optional=True),
        "Base of every URL in answers; may hold a path. Unset: URLs follow the request and the X-Forwarded-* headers of trusted proxies.",
        env="NORA_PUBLIC_URL",
    )
    trusted_proxies: tuple[str, ...] = setting(
        ("127.0.0.1", "::1"),
        Addresses(),
        "Peers whose X-Forwarded-* headers are believed. Empty: nobody. The file takes a string or an array.",
        env="NORA_AUTH_TRUSTED_PROXIES",
        key="auth.trusted_proxies",
    )
    allowed_hosts: tuple[str, ...] = live_setting(
        (),
        Listed("host names such as build.example.com or build.example.com:4000, or *", read_allowed_host, commas=True),
        "On a loopback address alone: names in Host by which clients reach this server without a proxy, beside localhost, names of one word or below "
        ".internal, public_url's and those of repositories. Others are refused, since any site's name may lead here. *: all are taken.",
        env="NORA_ALLOWED_HOSTS",
    )
    accel_redirect: str | None = setting(
        None,
        Text("a path such as /_nora/, with a slash at both ends", read_internal_prefix, optional=True),
        "Path below which nginx keeps the storage folder as an internal location. Set, a trusted proxy that says X-Nora-Accel: on "
        "is told by X-Accel-Redirect to send large blobs itself, from local storage. Unset: they are sent from here.",
        env="NORA_ACCEL_REDIRECT",
    )
    body_limit_mb: int = setting(
        2048, WholeNumber(1, TIB // MIB), "Largest request body that is not a streamed upload, in MiB.", env="NORA_BODY_LIMIT_MB"
    )
    workers: int = setting(2, WholeNumber(1, 64), "Worker processes.", env="NORA_WORKERS")
    threads: int = setting(8, WholeNumber(1, 256), "Threads of each worker that answer short requests.", env="NORA_THREADS")
    transfer_threads: int = setting(
        32, WholeNumber(1, 1024), "Threads of each worker that take bodies and send large files.", env="NORA_TRANSFER_THREADS"
    )
    max_connections: int = setting(
        4096,
        WholeNumber(1, 1_000_000),
        "Open client connections, all workers together; not less than the workers.",
        env="NORA_MAX_CONNECTIONS",
    )
    max_connections_per_client: int = setting(
        0,
        WholeNumber(0, 1_000_000),
        "Of these, what one client address may have, IPv6 by /64; through a trusted proxy: requests in progress. Beyond that its own connections "
        "make room for it. 0 = three quarters of max_connections.",
        env="NORA_MAX_CONNECTIONS_PER_CLIENT",
    )
    plan_memory_mb: int = setting(
        16,
        WholeNumber(0, 4096),
        "MiB of each worker for answers to requests that come again and again, which are sent again while nothing that they rest on has changed. "
        "0: each request is run.",
        env="NORA_PLAN_MEMORY_MB",
    )
    header_read_timeout: int = setting(30, _SECONDS, "Seconds a client has for a complete request head.", env="NORA_HEADER_READ_TIMEOUT")
    keep_alive_timeout: int = setting(
        120,
        _SECONDS,
        "Seconds an idle connection stays open. 90 or less gets a warning: a proxy may reuse a connection that is being closed.",
        env="NORA_KEEP_ALIVE_TIMEOUT",
    )
    idle_timeout: int = setting(60, _SECONDS, "Longest silence inside a body, in both directions, in seconds.", env="NORA_IDLE_TIMEOUT")
    min_transfer_rate: int = setting(
        1024,
        WholeNumber(0, 1024 * MIB),
        "Bytes a second that a body must keep on average once it has taken idle_timeout seconds; 0 = no bound.",
        env="NORA_MIN_TRANSFER_RATE",
    )
    shutdown_timeout: int = setting(300, _SECONDS, "Seconds that running requests have to finish at a stop.", env="NORA_SHUTDOWN_TIMEOUT")
    reload_timeout_secs: int = live_setting(
        300,
        WholeNumber(1, 3600),
        "Seconds that a reload may take to read the files anew; one that takes longer is refused, and nothing changes.",
        env="NORA_RELOAD_TIMEOUT_SECS",
    )
    maintenance_stall_secs: int = setting(
        300,
        WholeNumber(90, DAY),
        "/health answers 503 when the last round of background work is older than this many seconds.",
        env="NORA_MAINTENANCE_STALL_SECS",
    )

    def descriptors_needed(self, workers: int) -> int:
        """Files that each of so many workers may have open: for every connection its socket and the file that its body goes to."""
        return 2 * self.max_connections // max(1, workers) + SPARE_DESCRIPTORS


_RATE = WholeNumber(1, 1_000_000)


def _rps(default: int, tier: str, what: str) -> Any:
    variable = f"NORA_RATE_LIMIT_{tier.upper()}_RPS"
    return live_setting(default, _RATE, f"Requests a second of one client {what}.", env=variable)


def _burst(default: int, tier: str) -> Any:
    variable = f"NORA_RATE_LIMIT_{tier.upper()}_BURST"
    return live_setting(default, _RATE, "As many may come at once before that rate holds.", env=variable)


@dataclass(frozen=True)
class RateLimitConfig:
    """Token buckets by client: `burst` requests at once, `rps` a second from then on."""

    enabled: bool = setting(True, Switch(), "Whether requests of each client are limited.", env="NORA_RATE_LIMIT_ENABLED", live=True)
    auth_rps: int = _rps(1, "auth", "to make, list, revoke and rotate API tokens")
    auth_burst: int = _burst(5, "auth")
    upload_rps: int = _rps(200, "upload", "to the formats, of any method")
    upload_burst: int = _burst(500, "upload")
    general_rps: int = _rps(100, "general", "to everything else; /health and /ready are free")
    general_burst: int = _burst(200, "general")
    metrics_rps: int = _rps(50, "metrics", "to /metrics; each server counts these by itself")
    metrics_burst: int = _burst(100, "metrics")
    storage_url: str | None = setting(
        None,
        Text(REDIS_URLS, read_redis_url, optional=True),
        "A Redis that counts for several servers. Unset: each server counts by itself, all its workers together.",
        env="NORA_RATE_LIMIT_STORAGE_URL",
        secret=True,
    )
    wait_ms: int = setting(
        10,
        WholeNumber(0, 1000),
        "A request that comes at most so many milliseconds too early waits for its turn instead of being refused; a few of each worker's threads "
        "do. 0 = none does.",
        env="NORA_RATE_LIMIT_WAIT_MS",
        live=True,
    )
    on_failure: str = setting(
        "local",
        Choice(("local", "open", "closed")),
        "While that Redis does not answer: local = the server counts by itself, open = requests pass uncounted, closed = they get 503.",
        env="NORA_RATE_LIMIT_ON_FAILURE",
        live=True,
    )


@dataclass(frozen=True)
class CorsConfig:
    allowed_origins: tuple[str, ...] = live_setting(
        (),
        Listed("origins such as https://ui.example.com, or *", read_origin, commas=True),
        "Sites whose pages may use this registry in a browser, such as a registry browser: read, and change what its user may. *: pages of any "
        "site may read, without a login that the browser keeps.",
        env="NORA_CORS_ALLOWED_ORIGINS",
    )


@dataclass(frozen=True)
class AuditConfig:
    mode: str = setting(
        "file",
        Choice(("file", "stdout", "both", "off"), aliases=(("stderr", "stdout"), ("none", "off"), ("false", "off"), ("0", "off"))),
        "Where the audit log goes.",
        env="NORA_AUDIT_LOG",
    )
    path: Path | None = setting(None, PATH, "File of the audit log. Unset: audit.jsonl in the state folder.", env="NORA_AUDIT_PATH")


@dataclass(frozen=True)
class StorageConfig:
    mode: str = setting(
        "local",
        Choice(("local",), aliases=(("filesystem", "local"),), not_yet=("s3", "gcs")),
        "Where artifacts are kept: local = a folder (filesystem means the same).",
        env="NORA_STORAGE_MODE",
    )
    path: Path = setting(
        Path("data/storage"),
        FOLDER,
        "Folder of the stored artifacts. A relative path starts at the working folder.",
        env="NORA_STORAGE_PATH",
    )


@dataclass(frozen=True)
class StateConfig:
    path: Path = setting(
        Path("data/state"),
        FOLDER,
        "Folder of what the server writes for itself: ledger, audit log, indexes that can be rebuilt. A relative path starts at the working folder.",
        env="NORA_STATE_PATH",
    )


@dataclass(frozen=True)
class StagingConfig:
    path: Path = setting(Path("/tmp"), FOLDER, "Folder where uploads begin, best on a tmpfs.", env="NORA_STAGING_PATH")
    budget_bytes: int = setting(
        192 * MIB,
        WholeNumber(MIB, TIB),
        "Bytes that all uploads together may use there; beyond this they go to the data volume.",
        env="NORA_STAGING_BUDGET_BYTES",
    )
    share_bytes: int = setting(
        16 * MIB,
        WholeNumber(0, TIB),
        "Bytes that one upload may use there; a larger one goes to the data volume. Not more than staging.budget_bytes.",
        env="NORA_STAGING_SHARE_BYTES",
    )
    principal_sessions: int = setting(
        5000,
        WholeNumber(1, 10_000_000),
        "Unfinished uploads that one principal, or one client without a login, may have: a robot account, an office behind one address. Never "
        "more than two thirds of all that there may be.",
        env="NORA_STAGING_PRINCIPAL_SESSIONS",
    )
    principal_bytes: int = setting(
        0,
        WholeNumber(0, 1024 * TIB),
        "Bytes of the data volume that they may hold before one more body is taken. 0 = three quarters of what it has left, with what uploads hold.",
        env="NORA_STAGING_PRINCIPAL_BYTES",
    )
    session_ttl_seconds: int = setting(
        3600, WholeNumber(1, 365 * DAY), "An upload that is idle for this many seconds is removed.", env="NORA_STAGING_SESSION_TTL_SECONDS"
    )


@dataclass(frozen=True)
class LoggingConfig:
    level: str = setting(
        "info",
        Choice(("trace", "debug", "info", "warn", "error"), aliases=(("warning", "warn"),)),
        "Least level of the lines that are written.",
        env="NORA_LOG_LEVEL",
    )
    format: str = setting("json", Choice(("json", "text")), "Form of each line on stdout.", env="NORA_LOG_FORMAT")
    access: bool = setting(True, Switch(), "Whether each request leaves a line.", env="NORA_ACCESS_LOG")
    ops_interval_secs: int = setting(
        60,
        WholeNumber(0, DAY),
        "Good answers of /health, /ready and /metrics leave a line only once in so many seconds, in each worker; 0 = each of them does.",
        env="NORA_LOG_OPS_INTERVAL_SECS",
    )


@dataclass(frozen=True)
class MetricsConfig:
    enabled: bool = setting(True, Switch(), "Whether there is /metrics, and anything is counted for it.", env="NORA_METRICS_ENABLED")
    allow_from: tuple[str, ...] = setting(
        (),
        Addresses(),
        "Clients that may read /metrics. Set, auth.public_metrics no longer opens it to all. The file takes a string or an array.",
        env="NORA_METRICS_ALLOW_FROM",
    )
    token_file: Path | None = setting(
        None,
        PATH,
        "Whoever sends the content of this file as a bearer token may read /metrics too; set, auth.public_metrics no longer opens it to all.",
        env="NORA_METRICS_TOKEN_FILE",
    )
