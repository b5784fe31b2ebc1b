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
    accel_redirect: str | None = None  # path of nginx's internal location that holds the storage folder, with a slash at both ends
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
class StateConfig:
    path: Path = Path("data/state")  # what the server writes for itself: audit log, ledger


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
    ops_interval_secs: int = 60  # good answers of /health, /ready and /metrics leave a line only so often, in each worker; 0 = always


@dataclass(frozen=True)
class MetricsConfig:
    enabled: bool = True
    allow_from: tuple[str, ...] = ()  # clients (IP or CIDR) that may read /metrics
    token_file: Path | None = None  # whoever sends what it holds may as well


@dataclass(frozen=True)
class DockerConfig:
    enabled: bool = True
    max_upload_sessions: int = 20000
    max_upload_session_size_mb: int = 20480
    chunk_min_bytes: int = 65536  # announced as OCI-Chunk-Min-Length; smaller chunks are still taken


@dataclass(frozen=True)
class RoleRule:
    """The role of an OIDC identity by its claim `sub`; the first rule of its provider that matches decides."""

    pattern: str  # `*` stands for any run of characters, also for slashes
    role: str  # read, write, admin
    namespace_scope: tuple[str, ...] | None = None  # beside the provider's: names that may be written


@dataclass(frozen=True)
class OidcProvider:
    """An issuer whose tokens are accepted as credentials (workload identity of a CI system or a cluster)."""

    name: str
    issuer: str  # equal to the claim `iss`, to the letter
    audience: tuple[str, ...] = ()  # one of them must be in the claim `aud`
    any_audience: bool = False
    jwks_uri: str | None = None  # where its keys are; unset: by discovery
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    max_token_lifetime_secs: int = 7200
    namespace_scope: tuple[str, ...] = ("*",)  # names that its identities may write
    namespace_scope_enforcement: str = "enforce"  # enforce, audit
    enabled: bool = True
    ca_file: Path | None = None  # PEM; unset: the system's
    bearer_token_file: Path | None = None  # sent to the issuer with each request, as Kubernetes wants it
    role_rules: tuple[RoleRule, ...] = ()


@dataclass(frozen=True)
class AccessRule:
    """Who may, or may not, do what to which names. Who: any of users, groups, anonymous, or a provider's identity with all of the claims."""

    place: str = field(compare=False)  # "config.toml:14"
    actions: tuple[str, ...]  # pull, push, delete, admin
    title: str = ""
    effect: str = "allow"  # allow, deny
    users: tuple[str, ...] = ()  # patterns
    groups: tuple[str, ...] = ()
    anonymous: bool = False
    provider: str = ""  # of `claims`; empty: any
    claims: tuple[tuple[str, str], ...] = ()  # claim, pattern
    repositories: tuple[str, ...] = ("*",)
    names: tuple[str, ...] = ("**",)


@dataclass(frozen=True)
class AuthConfig:
    enabled: bool = False
    anonymous_read: bool = False  # formats other than docker
    docker_anon_pull: bool = False
    public_web_ui: bool = False
    public_metrics: bool = True
    htpasswd_file: Path = Path("users.htpasswd")
    groups_file: Path | None = None
    token_storage: Path | None = None  # None: in the registry's storage
    token_cache_ttl: int = 300  # seconds that a verified secret is remembered
    admin_users: tuple[str, ...] = ()  # may mint admin tokens with their password
    bearer_ttl_secs: int = 300
    refresh_ttl_days: int = 30
    oidc_enabled: bool = False
    oidc_leeway_secs: int = 60
    oidc_jwks_cache_secs: int = 3600
    oidc_providers: tuple[OidcProvider, ...] = ()


@dataclass(frozen=True)
class AccessConfig:
    default_role: str | None = None  # of users with a password: read, write, none; None: write without rules, none with rules
    contact: str | None = None  # named in every denial
    rules: tuple[AccessRule, ...] = ()


@dataclass(frozen=True)
class RateLimitConfig:
    """Token buckets by client: `burst` requests at once, `rps` a second from then on."""

    enabled: bool = True
    auth_rps: int = 1
    auth_burst: int = 5
    upload_rps: int = 200
    upload_burst: int = 500
    general_rps: int = 100
    general_burst: int = 200
    wait_ms: int = 10  # a request that comes so much too early waits, while there is a thread for it; 0 = it is refused
    storage_url: str | None = field(default=None, repr=False)  # of a Redis; None: memory of this server
    on_failure: str = "local"  # local, open, closed


@dataclass(frozen=True)
class AuditConfig:
    mode: str = "file"  # file, stdout, both, off
    path: Path | None = None  # None: audit.jsonl in state.path


@dataclass(frozen=True)
class FormatCuration:
    """What one format has of its own; None: as for all formats."""

    min_release_age: float | None = None
    quarantine: str | None = None
    quarantine_ttl: float | None = None


@dataclass(frozen=True)
class CurationConfig:
    mode: str = "off"  # off, audit, enforce
    on_failure: str = "closed"  # nothing else: a gate that cannot decide says no
    allowlist_path: Path | None = None
    blocklist_path: Path | None = None
    rules_path: Path | None = None  # TOML
    bypass_token: str | None = field(default=None, repr=False)
    require_integrity: bool = False
    internal_namespaces: tuple[str, ...] = ()
    min_release_age: float | None = None  # seconds, as all durations here
    hosted: bool = False  # min_release_age also holds for what was published here
    unknown_age: str = "block"  # block, allow
    trust_upstream_dates: bool = False
    quarantine: str = "off"  # off, observe, enforce
    quarantine_ttl: float = 14 * 86400.0
    flip_guard_percent: int = 0  # 0 = off
    audit_allows: bool = False  # the audit log is told of plain allows as well
    ledger: bool = True
    ledger_path: Path | None = None  # None: the folder "ledger" in state.path
    ledger_days: int = 90
    docs_url: str | None = None  # named in refusals
    formats: tuple[tuple[str, FormatCuration], ...] = ()


@dataclass(frozen=True)
class Config:
    server: ServerConfig = field(default_factory=ServerConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    state: StateConfig = field(default_factory=StateConfig)
    staging: StagingConfig = field(default_factory=StagingConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    docker: DockerConfig = field(default_factory=DockerConfig)
    auth: AuthConfig = field(default_factory=AuthConfig)
    access: AccessConfig = field(default_factory=AccessConfig)
    rate_limit: RateLimitConfig = field(default_factory=RateLimitConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    curation: CurationConfig = field(default_factory=CurationConfig)
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
