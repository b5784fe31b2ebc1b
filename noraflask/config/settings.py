"""The one table of settings. Reading the file and the environment, `nora check-config`, the sample and the documentation all follow it."""

from __future__ import annotations

from dataclasses import dataclass

from noraflask.config.kinds import (
    REDIS_URLS,
    Addresses,
    Choice,
    Duration,
    FormatList,
    Kind,
    Listed,
    Off,
    RustLog,
    Switch,
    Text,
    WholeNumber,
    read_host,
    read_path,
    read_redis_url,
    read_url,
)
from noraflask.config.patterns import read_contact, read_internal_prefix, read_on_failure, read_secret, read_text, read_uri, read_word
from noraflask.config.tables import PROVIDERS, RULES

DAY = 86400
MIB = 1024 * 1024
TIB = MIB * MIB


@dataclass(frozen=True)
class Setting:
    key: str  # in the file; empty: it is only a variable
    env: tuple[str, ...]  # none: it is only in the file
    kind: Kind
    meaning: str
    field: str = ""  # in Config, where it is not the key
    is_secret: bool = False  # its value is shown nowhere

    @property
    def name(self) -> str:
        """Under which its value is kept while the sources are read."""
        return self.field or self.key or self.env[0]


FORMATS_NOT_YET = (
    *("maven", "npm", "cargo", "pypi", "go", "raw", "gems", "terraform", "ansible"),
    *("nuget", "pub_dart", "conan", "rpm", "deb", "cpan", "hf"),
)
FORMAT_ALIASES_NOT_YET = (
    *("maven2", "rubygems", "chocolatey", "choco", "powershellgallery", "pwsh"),
    *("pub", "dart", "yum", "dnf", "apt", "debian", "huggingface"),
)
ENV_OF_FORMAT = {"terraform": "TF", "pub_dart": "PUB"}  # the others are their names in capitals

_SECONDS = WholeNumber(1, DAY)
_FOLDER = Text("a path of printable characters, not empty", read_path)
_PATH = Text("a path of printable characters", read_path, optional=True)


def _tier(tier: str, what: str) -> tuple[Setting, ...]:
    rps, burst = f"rate_limit.{tier}_rps", f"rate_limit.{tier}_burst"
    rate = WholeNumber(1, 1_000_000)
    return (
        Setting(rps, (f"NORA_RATE_LIMIT_{tier.upper()}_RPS",), rate, f"Requests a second of one client {what}."),
        Setting(burst, (f"NORA_RATE_LIMIT_{tier.upper()}_BURST",), rate, "As many may come at once before that rate holds."),
    )


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "server.host",
        ("NORA_HOST",),
        Text("an IP address or a host name, without port and brackets", read_host),
        "Address to listen on. 0.0.0.0 and :: mean every address of the machine.",
    ),
    Setting("server.port", ("NORA_PORT",), WholeNumber(1, 65535), "TCP port to listen on."),
    Setting(
        "server.public_url",
        ("NORA_PUBLIC_URL",),
        Text("an http:// or https:// address with a host and no user, query or fragment", read_url, optional=True),
        "Base of every URL in answers; may hold a path. Unset: URLs follow the request and the X-Forwarded-* headers of trusted proxies.",
    ),
    Setting(
        "server.accel_redirect",
        ("NORA_ACCEL_REDIRECT",),
        Text("a path such as /_nora/, with a slash at both ends", read_internal_prefix, optional=True),
        "Path below which nginx keeps the storage folder as an internal location. Set, a trusted proxy that says X-Nora-Accel: on "
        "is told by X-Accel-Redirect to send large blobs itself, from local storage. Unset: they are sent from here.",
    ),
    Setting(
        "server.body_limit_mb",
        ("NORA_BODY_LIMIT_MB",),
        WholeNumber(1, TIB // MIB),
        "Largest request body that is not a streamed upload, in MiB.",
    ),
    Setting("server.workers", ("NORA_WORKERS",), WholeNumber(1, 64), "Worker processes."),
    Setting("server.threads", ("NORA_THREADS",), WholeNumber(1, 256), "Threads of each worker that answer short requests."),
    Setting(
        "server.transfer_threads",
        ("NORA_TRANSFER_THREADS",),
        WholeNumber(1, 1024),
        "Threads of each worker that take bodies and send large files.",
    ),
    Setting(
        "server.max_connections",
        ("NORA_MAX_CONNECTIONS",),
        WholeNumber(1, 1_000_000),
        "Open client connections, all workers together; not less than the workers.",
    ),
    Setting("server.header_read_timeout", ("NORA_HEADER_READ_TIMEOUT",), _SECONDS, "Seconds a client has for a complete request head."),
    Setting(
        "server.keep_alive_timeout",
        ("NORA_KEEP_ALIVE_TIMEOUT",),
        _SECONDS,
        "Seconds an idle connection stays open. 90 or less gets a warning: a proxy may reuse a connection that is being closed.",
    ),
    Setting("server.idle_timeout", ("NORA_IDLE_TIMEOUT",), _SECONDS, "Longest silence inside a body, in both directions, in seconds."),
    Setting(
        "server.min_transfer_rate",
        ("NORA_MIN_TRANSFER_RATE",),
        WholeNumber(0, 1024 * MIB),
        "Bytes a second that a body must keep on average once it has taken idle_timeout seconds; 0 = no bound.",
    ),
    Setting("server.shutdown_timeout", ("NORA_SHUTDOWN_TIMEOUT",), _SECONDS, "Seconds that running requests have to finish at a stop."),
    Setting(
        "server.maintenance_stall_secs",
        ("NORA_MAINTENANCE_STALL_SECS",),
        WholeNumber(90, DAY),
        "/health answers 503 when the last round of background work is older than this many seconds.",
    ),
    Setting("auth.enabled", ("NORA_AUTH_ENABLED",), Switch(), "Whether rights are asked for. false: whoever reaches the port may do everything."),
    Setting("auth.anonymous_read", ("NORA_AUTH_ANONYMOUS_READ",), Switch(), "Whether formats other than docker may be read without a login."),
    Setting("auth.docker_anon_pull", ("NORA_AUTH_DOCKER_ANON_PULL",), Switch(), "Whether images may be pulled without a login."),
    Setting("auth.public_web_ui", ("NORA_AUTH_PUBLIC_WEB_UI",), Switch(), "Taken for NORA's sake: there is no web UI yet."),
    Setting("auth.public_metrics", ("NORA_AUTH_PUBLIC_METRICS",), Switch(), "Whether /metrics is open without a login."),
    Setting(
        "auth.htpasswd_file",
        ("NORA_AUTH_HTPASSWD_FILE",),
        _FOLDER,
        "Users and their passwords, in bcrypt. A relative path starts at the working folder.",
    ),
    Setting("auth.groups_file", ("NORA_AUTH_GROUPS_FILE",), _PATH, "Groups and their users."),
    Setting("auth.token_storage", ("NORA_AUTH_TOKEN_STORAGE",), _PATH, "Folder of API tokens. Unset: they are kept in the storage."),
    Setting(
        "auth.token_cache_ttl",
        ("NORA_AUTH_TOKEN_CACHE_TTL",),
        WholeNumber(0, 7 * DAY),
        "Seconds that a verified secret is remembered in memory; 0 = not at all.",
    ),
    Setting(
        "auth.admin_users",
        ("NORA_AUTH_ADMIN_USERS",),
        Listed("user names of 1 to 255 printable characters", read_text, commas=True),
        "Users who may make admin tokens with their password. The file takes a string or an array.",
    ),
    Setting("auth.bearer_ttl_secs", ("NORA_AUTH_BEARER_TTL_SECS",), WholeNumber(1, DAY), "Life of a Docker bearer token, in seconds."),
    Setting("auth.refresh_ttl_days", ("NORA_AUTH_REFRESH_TTL_DAYS",), WholeNumber(1, 3650), "Life of a Docker refresh token, in days."),
    Setting(
        "auth.trusted_proxies",
        ("NORA_AUTH_TRUSTED_PROXIES",),
        Addresses(),
        "Peers whose X-Forwarded-* headers are believed. Empty: nobody. The file takes a string or an array.",
        field="server.trusted_proxies",
    ),
    Setting(
        "auth.oidc.enabled",
        ("NORA_AUTH_OIDC_ENABLED",),
        Switch(),
        "Whether tokens of the providers are taken as a login; without effect unless auth.enabled.",
        field="auth.oidc_enabled",
    ),
    Setting("auth.oidc.leeway_secs", (), WholeNumber(0, 3600), "Clock skew allowed in the times of a token.", field="auth.oidc_leeway_secs"),
    Setting(
        "auth.oidc.jwks_cache_secs",
        (),
        WholeNumber(0, 604800),
        "Seconds after which an issuer's keys are fetched again; less than 10 counts as 10.",
        field="auth.oidc_jwks_cache_secs",
    ),
    Setting("auth.oidc.providers", (), PROVIDERS, "Issuers whose tokens are taken; see Access.", field="auth.oidc_providers"),
    Setting(
        "access.default_role",
        ("NORA_ACCESS_DEFAULT_ROLE",),
        Choice(("read", "write", "none"), optional=True),
        "What a user with a password may on every name. Unset: write when there are no rules, else none.",
    ),
    Setting(
        "access.contact",
        ("NORA_ACCESS_CONTACT",),
        Text("1 to 200 printable characters", read_contact, optional=True),
        "To whom to turn: named in every denial.",
    ),
    Setting("access.rules", (), RULES, "Who may do what to which names; see Access."),
    Setting("rate_limit.enabled", ("NORA_RATE_LIMIT_ENABLED",), Switch(), "Whether requests of each client are limited."),
    *_tier("auth", "to make, list, revoke and rotate API tokens"),
    *_tier("upload", "to the formats, of any method"),
    *_tier("general", "to everything else; /health, /ready and /metrics are free"),
    Setting(
        "rate_limit.storage_url",
        ("NORA_RATE_LIMIT_STORAGE_URL",),
        Text(REDIS_URLS, read_redis_url, optional=True),
        "A Redis that counts for several servers. Unset: each server counts by itself, all its workers together.",
        is_secret=True,
    ),
    Setting(
        "rate_limit.wait_ms",
        ("NORA_RATE_LIMIT_WAIT_MS",),
        WholeNumber(0, 1000),
        "A request that comes at most so many milliseconds too early waits for its turn instead of being refused; a few of each worker's threads "
        "do. 0 = none does.",
    ),
    Setting(
        "rate_limit.on_failure",
        ("NORA_RATE_LIMIT_ON_FAILURE",),
        Choice(("local", "open", "closed")),
        "While that Redis does not answer: local = the server counts by itself, open = requests pass uncounted, closed = they get 503.",
    ),
    Setting(
        "audit.mode",
        ("NORA_AUDIT_LOG",),
        Choice(("file", "stdout", "both", "off"), aliases=(("stderr", "stdout"), ("none", "off"), ("false", "off"), ("0", "off"))),
        "Where the audit log goes.",
    ),
    Setting("audit.path", ("NORA_AUDIT_PATH",), _PATH, "File of the audit log. Unset: audit.jsonl in state.path."),
    Setting(
        "storage.mode",
        ("NORA_STORAGE_MODE",),
        Choice(("local",), aliases=(("filesystem", "local"),), not_yet=("s3", "gcs")),
        "Where artifacts are kept: local = a folder (filesystem means the same).",
    ),
    Setting("storage.path", ("NORA_STORAGE_PATH",), _FOLDER, "Folder of the stored artifacts. A relative path starts at the working folder."),
    Setting("state.path", ("NORA_STATE_PATH",), _FOLDER, "Folder of what the server writes for itself: audit log and ledger."),
    Setting("staging.path", ("NORA_STAGING_PATH",), _FOLDER, "Folder where uploads begin, best on a tmpfs."),
    Setting(
        "staging.budget_bytes",
        ("NORA_STAGING_BUDGET_BYTES",),
        WholeNumber(MIB, TIB),
        "Bytes that all uploads together may use there; beyond this they go to the data volume.",
    ),
    Setting(
        "staging.share_bytes",
        ("NORA_STAGING_SHARE_BYTES",),
        WholeNumber(0, TIB),
        "Bytes that one upload may use there; a larger one goes to the data volume. Not more than staging.budget_bytes.",
    ),
    Setting(
        "staging.session_ttl_seconds",
        ("NORA_STAGING_SESSION_TTL_SECONDS",),
        WholeNumber(1, 365 * DAY),
        "An upload that is idle for this many seconds is removed.",
    ),
    Setting(
        "logging.level",
        ("NORA_LOG_LEVEL",),
        Choice(("trace", "debug", "info", "warn", "error"), aliases=(("warning", "warn"),)),
        "Least level of the lines that are written.",
    ),
    Setting("logging.format", ("NORA_LOG_FORMAT",), Choice(("json", "text")), "Form of each line on stdout."),
    Setting("logging.access", ("NORA_ACCESS_LOG",), Switch(), "Whether each request leaves a line."),
    Setting(
        "logging.ops_interval_secs",
        ("NORA_LOG_OPS_INTERVAL_SECS",),
        WholeNumber(0, DAY),
        "Good answers of /health, /ready and /metrics leave a line only once in so many seconds, in each worker; 0 = each of them does.",
    ),
    Setting("metrics.enabled", ("NORA_METRICS_ENABLED",), Switch(), "Whether there is /metrics, and anything is counted for it."),
    Setting(
        "metrics.allow_from",
        ("NORA_METRICS_ALLOW_FROM",),
        Addresses(),
        "Clients that may read /metrics. Set, auth.public_metrics no longer opens it to all. The file takes a string or an array.",
    ),
    Setting(
        "metrics.token_file",
        ("NORA_METRICS_TOKEN_FILE",),
        _PATH,
        "Whoever sends the content of this file as a bearer token may read /metrics too; set, auth.public_metrics no longer opens it to all.",
    ),
    Setting(
        "curation.mode",
        ("NORA_CURATION_MODE",),
        Choice(("off", "audit", "enforce")),
        "off: only internal namespaces hold. audit: what would be refused is served and told. enforce: it is refused.",
    ),
    Setting(
        "curation.on_failure",
        ("NORA_CURATION_ON_FAILURE",),
        Text("closed", read_on_failure),
        "A gate that cannot decide says no; NORA's word open is refused.",
    ),
    Setting("curation.blocklist_path", ("NORA_CURATION_BLOCKLIST_PATH",), _PATH, "What is refused, in NORA's JSON."),
    Setting("curation.allowlist_path", ("NORA_CURATION_ALLOWLIST_PATH",), _PATH, "What alone is let through, in NORA's JSON."),
    Setting("curation.rules_path", ("NORA_CURATION_RULES_PATH",), _PATH, "Rules of all kinds, in TOML."),
    Setting(
        "curation.bypass_token",
        ("NORA_CURATION_BYPASS_TOKEN",),
        Text("1 to 1024 printable ASCII characters without spaces", read_secret, optional=True),
        "Who sends it passes blocklist, allowlist and ages. Better in the variable than in the file; best are [[bypass]] tables, which expire.",
        is_secret=True,
    ),
    Setting(
        "curation.require_integrity",
        ("NORA_CURATION_REQUIRE_INTEGRITY",),
        Switch(),
        "Whether entries of the allowlist without a hash let nothing through.",
    ),
    Setting(
        "curation.internal_namespaces",
        ("NORA_CURATION_INTERNAL_NS",),
        Listed("patterns of 1 to 255 printable characters without spaces", read_word, commas=True),
        "Names of your own, such as @corp/**: served from here whatever the rules say, and never asked of an upstream, in every mode.",
    ),
    Setting("curation.min_release_age", ("NORA_CURATION_MIN_RELEASE_AGE",), Duration(), "Versions that are younger are refused. Unset: none are."),
    Setting(
        "curation.hosted",
        ("NORA_CURATION_HOSTED",),
        Switch(),
        "Whether min_release_age also holds for what was published here.",
    ),
    Setting(
        "curation.unknown_age",
        ("NORA_CURATION_UNKNOWN_AGE",),
        Choice(("block", "allow")),
        "What becomes of a version with a min_release_age whose date is not known.",
    ),
    Setting(
        "server.trust_upstream_dates",
        ("NORA_TRUST_UPSTREAM_DATES",),
        Switch(),
        "Whether an upstream is believed when it says when a version was published. false: its age begins when it is first seen here.",
        field="curation.trust_upstream_dates",
    ),
    Setting(
        "curation.quarantine",
        ("NORA_CURATION_QUARANTINE",),
        Choice(("off", "observe", "enforce"), aliases=(("", "off"),)),
        "What becomes of bytes of an upstream until they are here for quarantine_ttl; observe only tells.",
    ),
    Setting("curation.quarantine_ttl", ("NORA_CURATION_QUARANTINE_TTL",), Duration(empty=14.0 * DAY), "How long new bytes are in quarantine."),
    Setting(
        "curation.flip_guard_percent",
        ("NORA_CURATION_FLIP_GUARD_PERCENT",),
        WholeNumber(0, 100),
        "A reload that would newly refuse more than this share of what was served lately is itself refused; 0 = no guard.",
    ),
    Setting("curation.audit_allows", ("NORA_CURATION_AUDIT_ALLOWS",), Switch(), "Whether the audit log is told of plain allows as well."),
    Setting("curation.ledger", ("NORA_CURATION_LEDGER",), Switch(), "Whether it is written down what was served to whom."),
    Setting("curation.ledger_path", ("NORA_CURATION_LEDGER_PATH",), _PATH, "Folder of that. Unset: ledger in state.path."),
    Setting("curation.ledger_days", ("NORA_CURATION_LEDGER_DAYS",), WholeNumber(1, 3650), "Days that it is kept."),
    Setting(
        "curation.docs_url",
        ("NORA_CURATION_DOCS_URL",),
        Text("an http:// or https:// address", read_uri, optional=True),
        "Where refusals send people to read on.",
    ),
    Setting("docker.enabled", ("NORA_DOCKER_ENABLED",), Switch(), "Whether the Docker and OCI format is served at /v2/."),
    Setting("docker.max_upload_sessions", ("NORA_MAX_UPLOAD_SESSIONS",), WholeNumber(1, 10_000_000), "Unfinished blob uploads at one time."),
    Setting(
        "docker.max_upload_session_size_mb",
        ("NORA_MAX_UPLOAD_SESSION_SIZE_MB",),
        WholeNumber(1, TIB // MIB),
        "Largest blob, in MiB.",
    ),
    Setting(
        "docker.chunk_min_bytes",
        ("NORA_DOCKER_CHUNK_MIN_BYTES",),
        WholeNumber(1, 1024 * MIB),
        "Announced to clients as OCI-Chunk-Min-Length; smaller chunks are taken all the same.",
    ),
    Setting(
        "registries.enable",
        ("NORA_REGISTRIES_ENABLE",),
        FormatList(not_yet=FORMATS_NOT_YET + FORMAT_ALIASES_NOT_YET),
        "Formats to serve, as in NORA: a list, or all; set, it wins over docker.enabled.",
    ),
    Setting(
        "",
        ("RUST_LOG",),
        RustLog(),
        "Sets logging.level as in NORA: the plain level of a list such as info,target=debug; NORA_LOG_LEVEL wins over it.",
        field="logging.level",
    ),
    Setting(
        "",
        ("NORA_CONFIG_PATH",),
        Text("a path", str, optional=True),
        "The configuration file. Unset: config.toml of the working folder, when it is there.",
    ),
    Setting("", ("NORA_CONFIG_STRICT",), Switch(), "Accepted for NORA's sake and without effect: unknown names are always refused."),
)
"""What this version obeys. A later row wins over an earlier one for the same field; RUST_LOG alone is asked before all others."""


CURATED_FORMATS = (
    *("npm", "pypi", "cargo", "go", "docker", "maven", "gems", "terraform"),
    *("ansible", "nuget", "pub", "conan", "rpm", "deb", "cpan", "hf"),
)
"""Those that may have ages and quarantine of their own."""

_PER_FORMAT: tuple[tuple[str, Kind], ...] = (
    ("min_release_age", Duration()),
    ("quarantine", Choice(("off", "observe", "enforce"), optional=True)),
    ("quarantine_ttl", Duration()),
)

FORMAT_SETTINGS: tuple[Setting, ...] = tuple(
    Setting(f"curation.{name}.{key}", (f"NORA_CURATION_{name.upper()}_{key.upper()}",), kind, f"curation.{key} for {name} alone.")
    for name in CURATED_FORMATS
    for key, kind in _PER_FORMAT
)
"""Of curation.formats; documented once for all formats."""


def _formats_not_yet() -> tuple[Setting, ...]:
    return tuple(
        Setting(f"{name}.enabled", (f"NORA_{ENV_OF_FORMAT.get(name, name.upper())}_ENABLED",), Off(f"the format {name}"), "")
        for name in FORMATS_NOT_YET
    )


NOT_YET: tuple[Setting, ...] = (
    Setting("gc.enabled", ("NORA_GC_ENABLED",), Off("garbage collection"), ""),
    Setting("retention.enabled", ("NORA_RETENTION_ENABLED",), Off("retention"), ""),
    Setting("circuit_breaker.enabled", ("NORA_CB_ENABLED",), Off("the circuit breaker"), ""),
    Setting("signing.enabled", ("NORA_SIGNING_ENABLED",), Off("signing of package indexes"), ""),
    Setting("docker.upstreams", ("NORA_DOCKER_PROXIES", "NORA_DOCKER_UPSTREAMS"), Off("fetching from an upstream", ("",)), ""),
    Setting("docker.default_action", ("NORA_DOCKER_DEFAULT_ACTION",), Off("refusing names by default", ("allow",)), ""),
    Setting("", ("NORA_LOG_FILE",), Off("a log file (all lines go to stdout; send that where you want them)", ("",)), ""),
    *_formats_not_yet(),
)
"""NORA's features that this version lacks: "off" is accepted, so that an existing environment works; "on" is refused, never ignored."""

_OWNERS = [setting for setting in NOT_YET if setting.key.endswith((".enabled", ".mode"))]  # gc.enabled stands for gc.* and NORA_GC_*

KEYS_NOT_YET = (
    *(setting.key[: setting.key.rindex(".") + 1] for setting in _OWNERS),
    *("tls.", "secrets.", "storage.s3_", "storage.gcs_", "storage.bucket", "server.proxy_coalesce"),
    *("docker.proxy_timeout", "docker.read_timeout", "docker.metadata_ttl", "docker.serve_stale"),
)
"""Beginnings of keys of NORA that belong to features this version lacks."""

VARIABLES_NOT_YET = (
    *(setting.env[0][: setting.env[0].rindex("_") + 1] for setting in _OWNERS),
    *("NORA_TLS_", "NORA_SECRETS_", "NORA_STORAGE_S3_", "NORA_STORAGE_GCS_", "NORA_STORAGE_BUCKET", "NORA_IMPORT_AUTH"),
    *("NORA_DOCKER_PROXY_TIMEOUT", "NORA_DOCKER_READ_TIMEOUT", "NORA_DOCKER_METADATA_TTL", "NORA_DOCKER_SERVE_STALE"),
)
"""Beginnings of such variables."""

_ALL = (*SETTINGS, *FORMAT_SETTINGS, *NOT_YET)
BY_KEY = {setting.key: setting for setting in _ALL if setting.key}
BY_ENV = {name: setting for setting in _ALL for name in setting.env}
SECTIONS = {key.rpartition(".")[0] for key in BY_KEY}


def is_not_yet(name: str) -> bool:
    """Whether a key, a section or a variable that is not in the tables belongs to a feature of NORA that this version lacks."""
    return name.startswith(KEYS_NOT_YET + VARIABLES_NOT_YET) or f"{name}." in KEYS_NOT_YET
