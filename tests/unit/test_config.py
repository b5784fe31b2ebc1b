"""Configuration: sources and their order, every kind of mistake, lines, and that sample, documentation and dataclasses follow the table."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noraflask.config import Config, ConfigError, StagingConfig, load
from noraflask.config import document as doc
from noraflask.config.settings import BY_ENV, BY_KEY, FORMAT_SETTINGS, NOT_YET, SETTINGS
from noraflask.config.text_file import MAX_BYTES
from noraflask.config.toml_file import read_nodes

TOP = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    """No test may meet a config.toml by chance."""
    monkeypatch.chdir(tmp_path)


def problems(environ=None, text=None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        from_text(text, environ) if text is not None else load(environ=environ)
    return caught.value.problems


def from_text(text: str | bytes, environ=None) -> Config:
    Path("config.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(environ=environ or {})


def get(config: Config, field: str):
    section, name = field.split(".")
    return getattr(config.formats[section] if section in config.formats else getattr(config, section), name)


# ---- what is taken

TAKEN_VARIABLES = [
    ("NORA_HOST", "0.0.0.0", "server.host", "0.0.0.0"),
    ("NORA_HOST", "::", "server.host", "::"),
    ("NORA_HOST", "localhost", "server.host", "localhost"),
    ("NORA_PORT", "65535", "server.port", 65535),
    ("NORA_PORT", "08080", "server.port", 8080),
    ("NORA_PUBLIC_URL", "https://r.example.com/", "server.public_url", "https://r.example.com"),
    ("NORA_PUBLIC_URL", "http://[2001:db8::1]:8080/a/b//", "server.public_url", "http://[2001:db8::1]:8080/a/b"),
    ("NORA_PUBLIC_URL", "", "server.public_url", None),
    ("NORA_ACCEL_REDIRECT", "/_nora/", "server.accel_redirect", "/_nora/"),
    ("NORA_ACCEL_REDIRECT", "/in-side/blobs.v1/", "server.accel_redirect", "/in-side/blobs.v1/"),
    ("NORA_ACCEL_REDIRECT", "", "server.accel_redirect", None),
    ("NORA_AUTH_TRUSTED_PROXIES", " 10.0.0.0/8 , ::1", "server.trusted_proxies", ("10.0.0.0/8", "::1")),
    ("NORA_AUTH_TRUSTED_PROXIES", "10.0.0.1/8", "server.trusted_proxies", ("10.0.0.1/8",)),
    ("NORA_AUTH_TRUSTED_PROXIES", "", "server.trusted_proxies", ()),
    ("NORA_ALLOWED_HOSTS", "Build.example.com, [::2]:4000,*", "server.allowed_hosts", ("build.example.com", "[::2]:4000", "*")),
    ("NORA_CORS_ALLOWED_ORIGINS", "", "cors.allowed_origins", ()),
    *(
        ("NORA_CORS_ALLOWED_ORIGINS", text, "cors.allowed_origins", (origin,))
        for text, origin in (
            ("https://UI.example.com", "https://ui.example.com"),
            ("https://ui.example.com:443/", "https://ui.example.com"),
            ("http://ui.example.com:443", "http://ui.example.com:443"),
            ("http://[::1]:80", "http://[::1]"),
            ("http://localhost:8080, http://localhost:8080", "http://localhost:8080"),
            ("*", "*"),
        )
    ),
    ("NORA_AUTH_TRUSTED_PROXIES", ",10.0.0.1, ,::1,", "server.trusted_proxies", ("10.0.0.1", "::1")),
    ("NORA_BODY_LIMIT_MB", "1", "server.body_limit_mb", 1),
    ("NORA_WORKERS", "64", "server.workers", 64),
    ("NORA_THREADS", "256", "server.threads", 256),
    ("NORA_TRANSFER_THREADS", "1024", "server.transfer_threads", 1024),
    ("NORA_MAX_CONNECTIONS", "2", "server.max_connections", 2),
    ("NORA_MAX_CONNECTIONS_PER_CLIENT", "7", "server.max_connections_per_client", 7),
    ("NORA_PLAN_MEMORY_MB", "0", "server.plan_memory_mb", 0),
    ("NORA_HEADER_READ_TIMEOUT", "1", "server.header_read_timeout", 1),
    ("NORA_KEEP_ALIVE_TIMEOUT", "91", "server.keep_alive_timeout", 91),
    ("NORA_IDLE_TIMEOUT", "86400", "server.idle_timeout", 86400),
    ("NORA_MIN_TRANSFER_RATE", "0", "server.min_transfer_rate", 0),
    ("NORA_SHUTDOWN_TIMEOUT", "15", "server.shutdown_timeout", 15),
    ("NORA_RELOAD_TIMEOUT_SECS", "1", "server.reload_timeout_secs", 1),
    ("NORA_MAINTENANCE_STALL_SECS", "90", "server.maintenance_stall_secs", 90),
    ("NORA_STORAGE_MODE", "Filesystem", "storage.mode", "local"),
    ("NORA_STORAGE_PATH", "/srv/naïve", "storage.path", Path("/srv/naïve")),
    ("NORA_STAGING_PATH", "/dev/shm", "staging.path", Path("/dev/shm")),
    ("NORA_STAGING_BUDGET_BYTES", "1048576", "staging.share_bytes", 1048576),
    ("NORA_STAGING_SHARE_BYTES", "0", "staging.share_bytes", 0),
    ("NORA_STAGING_PRINCIPAL_SESSIONS", "5000", "staging.principal_sessions", 5000),
    ("NORA_STAGING_PRINCIPAL_BYTES", "1000", "staging.principal_bytes", 1000),
    ("NORA_STAGING_SESSION_TTL_SECONDS", "1", "staging.session_ttl_seconds", 1),
    ("NORA_LOG_LEVEL", "WARNING", "logging.level", "warn"),
    ("NORA_LOG_FORMAT", "text", "logging.format", "text"),
    ("NORA_RATE_LIMIT_ENABLED", "false", "rate_limit.enabled", False),
    ("NORA_RATE_LIMIT_WAIT_MS", "0", "rate_limit.wait_ms", 0),
    ("NORA_RATE_LIMIT_AUTH_RPS", "1000000", "rate_limit.auth_rps", 1_000_000),
    ("NORA_RATE_LIMIT_AUTH_BURST", "1", "rate_limit.auth_burst", 1),
    ("NORA_RATE_LIMIT_METRICS_RPS", "1", "rate_limit.metrics_rps", 1),
    ("NORA_RATE_LIMIT_METRICS_BURST", "2", "rate_limit.metrics_burst", 2),
    ("NORA_RATE_LIMIT_UPLOAD_RPS", "1", "rate_limit.upload_rps", 1),
    ("NORA_RATE_LIMIT_UPLOAD_BURST", "1000000", "rate_limit.upload_burst", 1_000_000),
    ("NORA_RATE_LIMIT_GENERAL_RPS", "300", "rate_limit.general_rps", 300),
    ("NORA_RATE_LIMIT_GENERAL_BURST", "600", "rate_limit.general_burst", 600),
    ("NORA_RATE_LIMIT_ON_FAILURE", "CLOSED", "rate_limit.on_failure", "closed"),
    *(
        ("NORA_RATE_LIMIT_STORAGE_URL", text, "rate_limit.storage_url", value)
        for text, value in (
            ("", None),
            *(
                (url, url)
                for url in ("redis://r:6379/0", "redis://r", "rediss://u:p%2Fq@r.example.com:6380/15", "redis://:p-w_d.~!$&'()*+,;=@10.0.0.1")
            ),
            *((url, url) for url in ("rediss://[2001:db8::1]:6379/?ssl_ca_certs=/etc/nora/ca.pem", "redis+unix:///run/redis.sock?db=2")),
            ("unix://:pw@/run/redis.sock", "redis+unix://:pw@/run/redis.sock"),
        )
    ),
    ("NORA_DOCKER_ENABLED", "no", "docker.enabled", False),
    ("NORA_MAX_UPLOAD_SESSIONS", "100", "docker.max_upload_sessions", 100),
    ("NORA_MAX_UPLOAD_SESSION_SIZE_MB", "2048", "docker.max_upload_session_size_mb", 2048),
    ("NORA_DOCKER_CHUNK_MIN_BYTES", "1", "docker.chunk_min_bytes", 1),
    ("NORA_DOCKER_SPARSE_INDEXES", "Allow", "docker.sparse_indexes", "allow"),
    ("NORA_RAW_ENABLED", "no", "raw.enabled", False),
    ("NORA_RAW_MAX_FILE_SIZE", "1", "raw.max_file_size", 1),
    ("NORA_RAW_CACHE_CONTROL", "public, max-age=60", "raw.cache_control", "public, max-age=60"),
    ("NORA_RAW_OVERWRITE", "Never", "raw.overwrite", "never"),
    ("NORA_RAW_LISTING", "off", "raw.listing", False),
    ("NORA_STATE_PATH", "/srv/state", "state.path", Path("/srv/state")),
    ("NORA_REGISTRIES_ENABLE", "docker", "docker.enabled", True),
    ("NORA_REGISTRIES_ENABLE", "docker", "raw.enabled", False),
    ("NORA_REGISTRIES_ENABLE", " OCI , raw", "docker.enabled", True),
    ("NORA_REGISTRIES_ENABLE", "all,-oci", "docker.enabled", False),
    ("NORA_REGISTRIES_ENABLE", "all,-docker,-maven2", "raw.enabled", True),
    ("NORA_REGISTRIES_ENABLE", "all,-npm", "docker.enabled", True),
    ("NORA_REGISTRIES_ENABLE", "", "docker.enabled", True),
    ("RUST_LOG", "debug", "logging.level", "debug"),
    ("RUST_LOG", "hyper=trace, Info ,tower::x=off", "logging.level", "info"),
    ("RUST_LOG", "error,debug", "logging.level", "debug"),
    ("RUST_LOG", "hyper=debug", "logging.level", "info"),
    ("RUST_LOG", "off", "logging.level", "error"),
    ("RUST_LOG", "", "logging.level", "info"),
    ("NORA_AUTH_ENABLED", "true", "auth.enabled", True),
    ("NORA_AUTH_ANONYMOUS_READ", "true", "auth.anonymous_read", True),
    ("NORA_AUTH_DOCKER_ANON_PULL", "true", "auth.docker_anon_pull", True),
    ("NORA_AUTH_PUBLIC_WEB_UI", "true", "auth.public_web_ui", True),
    ("NORA_AUTH_PUBLIC_METRICS", "false", "auth.public_metrics", False),
    ("NORA_AUTH_HTPASSWD_FILE", "/etc/nora/users", "auth.htpasswd_file", Path("/etc/nora/users")),
    ("NORA_AUTH_GROUPS_FILE", "/etc/nora/groups", "auth.groups_file", Path("/etc/nora/groups")),
    ("NORA_AUTH_GROUPS_FILE", "", "auth.groups_file", None),
    ("NORA_AUTH_TOKEN_STORAGE", "data/tokens", "auth.token_storage", Path("data/tokens")),
    ("NORA_AUTH_TOKEN_CACHE_TTL", "0", "auth.token_cache_ttl", 0),
    ("NORA_AUTH_TOKEN_CACHE_TTL", "604800", "auth.token_cache_ttl", 604800),
    ("NORA_AUTH_ADMIN_USERS", "ann, bob", "auth.admin_users", ("ann", "bob")),
    ("NORA_AUTH_ADMIN_USERS", "", "auth.admin_users", ()),
    ("NORA_AUTH_ADMIN_USERS", "ann,, b b ,", "auth.admin_users", ("ann", "b b")),
    ("NORA_AUTH_BEARER_TTL_SECS", "1", "auth.bearer_ttl_secs", 1),
    ("NORA_AUTH_REFRESH_TOKENS", "off", "auth.refresh_tokens", False),
    ("NORA_AUTH_REFRESH_TTL_DAYS", "3650", "auth.refresh_ttl_days", 3650),
    ("NORA_AUTH_OIDC_ENABLED", "true", "auth.oidc_enabled", True),
    ("NORA_ACCESS_DEFAULT_ROLE", "Read", "access.default_role", "read"),
    ("NORA_ACCESS_DEFAULT_ROLE", "", "access.default_role", None),
    ("NORA_ACCESS_CONTACT", "the platform team", "access.contact", "the platform team"),
    ("NORA_ACCESS_CONTACT", "", "access.contact", None),
    ("NORA_AUDIT_LOG", "both", "audit.mode", "both"),
    ("NORA_AUDIT_LOG", "stderr", "audit.mode", "stdout"),
    *(("NORA_AUDIT_LOG", word, "audit.mode", "off") for word in ("off", "none", "False", "0")),
    ("NORA_AUDIT_PATH", "/var/log/audit", "audit.path", Path("/var/log/audit")),
    ("NORA_LOG_OPS_INTERVAL_SECS", "0", "logging.ops_interval_secs", 0),
    ("NORA_METRICS_ENABLED", "no", "metrics.enabled", False),
    ("NORA_METRICS_ALLOW_FROM", "10.0.0.0/8,::1", "metrics.allow_from", ("10.0.0.0/8", "::1")),
    ("NORA_METRICS_ALLOW_FROM", "", "metrics.allow_from", ()),
    ("NORA_METRICS_TOKEN_FILE", "/etc/nora/scrape", "metrics.token_file", Path("/etc/nora/scrape")),
    ("NORA_METRICS_TOKEN_FILE", "", "metrics.token_file", None),
    ("NORA_CONFIG_STRICT", "false", "logging.level", "info"),
    ("NORA_CONFIG_PATH", "", "server.port", 4000),
    *(("NORA_ACCESS_LOG", word, "logging.access", True) for word in ("true", "1", "yes", "on", "YES", "On")),
    *(("NORA_ACCESS_LOG", word, "logging.access", False) for word in ("false", "0", "no", "off", "FALSE", "oFF")),
]


@pytest.mark.parametrize(("name", "text", "field", "value"), TAKEN_VARIABLES)
def test_variable_is_taken(name, text, field, value):
    assert get(load(environ={name: text}), field) == value


def test_every_variable_is_tried():
    """Those of curation have their own tests, in test_config_curation.py."""
    others = [setting for setting in SETTINGS if not setting.name.startswith("curation.")]
    assert {row[0] for row in TAKEN_VARIABLES} == {name for setting in others for name in setting.env}


TAKEN_LINES = [
    ("server.port = 5000", "server.port", 5000),
    ("[server]\nport = 5000", "server.port", 5000),
    ("server = { port = 5000 }", "server.port", 5000),
    ('["server"]\n"port" = 5000', "server.port", 5000),
    ('server.public_url = ""', "server.public_url", None),
    ('auth.trusted_proxies = "10.0.0.1,10.1.0.0/16"', "server.trusted_proxies", ("10.0.0.1", "10.1.0.0/16")),
    ('auth.trusted_proxies = ["10.0.0.1"]', "server.trusted_proxies", ("10.0.0.1",)),
    ("auth.trusted_proxies = []", "server.trusted_proxies", ()),
    ('auth.admin_users = ["ann"]', "auth.admin_users", ("ann",)),
    ('auth.admin_users = "ann,bob"', "auth.admin_users", ("ann", "bob")),
    ('auth.admin_users = "ann,,bob,"', "auth.admin_users", ("ann", "bob")),
    ("auth.oidc.jwks_cache_secs = 0", "auth.oidc_jwks_cache_secs", 0),
    ("auth.oidc.leeway_secs = 3600", "auth.oidc_leeway_secs", 3600),
    ("auth.oidc.enabled = true", "auth.oidc_enabled", True),
    ("auth.oidc.leeway_secs = 0", "auth.oidc_leeway_secs", 0),
    ("[auth.oidc]\njwks_cache_secs = 604800", "auth.oidc_jwks_cache_secs", 604800),
    ("auth.oidc.providers = []", "auth.oidc_providers", ()),
    ("access.rules = []", "access.rules", ()),
    ('audit.mode = "none"', "audit.mode", "off"),
    ('storage.mode = "filesystem"', "storage.mode", "local"),
    ("logging.access = false", "logging.access", False),
    ('registries.enable = ["docker"]', "docker.enabled", True),
    ('registries.enable = "all"\ndocker.enabled = false', "docker.enabled", True),
    ("", "server.port", 4000),
]


@pytest.mark.parametrize(("text", "field", "value"), TAKEN_LINES)
def test_line_is_taken(text, field, value):
    assert get(from_text(text), field) == value


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8"])
def test_byte_order_mark_and_crlf_are_no_problem(encoding):
    assert from_text("[server]\r\nport = 5000\r\n".encode(encoding)).server.port == 5000


# ---- where it is from


def test_environment_wins_over_file_wins_over_default():
    config = from_text("[server]\nport = 5000\nthreads = 3\n", {"NORA_PORT": "6000"})
    assert (config.server.port, config.server.threads, config.server.workers) == (6000, 3, 2)
    assert [config.sources[f"server.{n}"] for n in ("port", "threads", "workers")] == ["NORA_PORT", "config.toml:3", "default"]


def test_nora_log_level_wins_over_rust_log_and_both_over_the_file():
    text = 'logging.level = "trace"'
    assert from_text(text, {"RUST_LOG": "error"}).logging.level == "error"
    assert from_text(text, {"RUST_LOG": "error", "NORA_LOG_LEVEL": "warn"}).logging.level == "warn"
    assert from_text(text, {"RUST_LOG": "hyper=error"}).logging.level == "trace"


def test_list_of_formats_wins_and_says_so():
    config = load(environ={"NORA_REGISTRIES_ENABLE": "docker", "NORA_DOCKER_ENABLED": "0"})
    assert config.formats["docker"].enabled
    assert not config.formats["raw"].enabled
    assert config.sources["docker.enabled"] == "NORA_REGISTRIES_ENABLE"
    assert config.warnings == ("NORA_DOCKER_ENABLED: has no effect, because NORA_REGISTRIES_ENABLE switches the format on",)


def test_sources_name_every_field_and_are_no_part_of_equality():
    config = from_text("server.port = 4000")
    assert config == Config()
    assert hash(config) == hash(Config())
    assert set(config.sources) == set(all_fields())
    assert config.sources["server.port"] == "config.toml:1"


def test_named_file_is_taken_instead_of_the_usual_one(tmp_path):
    Path("config.toml").write_text("broken")
    other = tmp_path / "other.toml"
    other.write_text("server.port = 7000")
    assert load(environ={"NORA_CONFIG_PATH": str(other)}).server.port == 7000
    assert load(other, {"NORA_CONFIG_PATH": "/nowhere"}).sources["server.port"] == f"{other}:1"


# ---- what is refused

REFUSED_VARIABLES = [
    ("NORA_PORT", "abc", 'expected a whole number from 1 to 65535, got "abc"'),
    ("NORA_PORT", "", "expected a whole number from 1 to 65535, got nothing"),
    ("NORA_PORT", "0", 'expected a whole number from 1 to 65535, got "0"'),
    ("NORA_PORT", "65536", 'expected a whole number from 1 to 65535, got "65536"'),
    *(("NORA_PORT", text, "expected a whole number from 1 to 65535, got ") for text in ("1.0", " 1", "1\n", "+1", "1_0", "٣", "9" * 5000)),
    *(("NORA_ACCESS_LOG", text, "expected one of true, false, 1, 0, yes, no, on, off, got ") for text in ("", "2", "ja", "tru", " true")),
    ("NORA_HOST", "", "expected an IP address or a host name, without port and brackets, got nothing"),
    *(("NORA_HOST", text, "expected an IP address or a host name") for text in ("localhost:80", "[::1]", "1.2.3.999", "a b", "-a", "ä", "::g")),
    *(
        ("NORA_PUBLIC_URL", text, f'expected an http:// or https:// address with a host and no user, query or fragment, got "{text}"')
        for text in (
            *("registry.example.com", "ftp://h", "https://", "//h", "https:///a", "https://h?", "https://h/?a=b", "https://h/#f", "https://h:0"),
            *("https://h:99999", "https://h:x", "https://[::g]", "https://h h", "https://h/\\\\a", "/v2"),
        )
        if "\\" not in text
    ),
    *(
        ("NORA_ACCEL_REDIRECT", text, f'expected a path such as /_nora/, with a slash at both ends, got "{text}"')
        for text in ("/", "_nora/", "/_nora", "//", "/a//b/", "/../", "/a/./", "/.a/", "/a b/", "/a%20b/", "/ä/", "http://h/", "/_nora/;", "/$a/")
    ),
    ("NORA_ACCEL_REDIRECT", f"/{'a' * 254}/", "expected a path such as /_nora/"),
    *(
        ("NORA_CORS_ALLOWED_ORIGINS", text, "entry 1: expected origins such as https://ui.example.com, or *")
        for text in (
            "null",
            "ui.example.com",
            "https://ui.example.com/app",
            "https://*.example.com",
            "ftp://a",
            "https://u@a",
            "https://a:0",
            "https://",
        )
    ),
    ("NORA_ALLOWED_HOSTS", "http://a", "entry 1: expected host names such as build.example.com or build.example.com:4000, or *"),
    ("NORA_AUTH_TRUSTED_PROXIES", "10.0.0.1,nonsense", "expected IP addresses and networks such as 127.0.0.1,10.0.0.0/8; entry 2 is neither"),
    ("NORA_AUTH_TRUSTED_PROXIES", "10.0.0.0/33", "expected IP addresses and networks such as 127.0.0.1,10.0.0.0/8; entry 1 is neither"),
    *(("NORA_STORAGE_PATH", text, "expected a path of printable characters, not empty, got ") for text in ("", " ", "a\0b", "a\nb", "\udcff")),
    ("NORA_STORAGE_MODE", "s3", "s3 is not supported by this version, expected local"),
    ("NORA_STORAGE_MODE", "GCS", "gcs is not supported by this version, expected local"),
    ("NORA_STORAGE_MODE", "", "expected local, got nothing"),
    ("NORA_STORAGE_MODE", "disk", 'expected local, got "disk"'),
    ("NORA_LOG_LEVEL", "verbose", 'expected trace, debug, info, warn or error, got "verbose"'),
    ("NORA_LOG_FORMAT", "xml", 'expected json or text, got "xml"'),
    ("NORA_WORKERS", "65", "expected a whole number from 1 to 64"),
    ("NORA_THREADS", "257", "expected a whole number from 1 to 256"),
    ("NORA_TRANSFER_THREADS", "1025", "expected a whole number from 1 to 1024"),
    ("NORA_HEADER_READ_TIMEOUT", "0", "expected a whole number from 1 to"),
    ("NORA_KEEP_ALIVE_TIMEOUT", "0", "expected a whole number from 1 to"),
    ("NORA_IDLE_TIMEOUT", "0", "expected a whole number from 1 to"),
    ("NORA_SHUTDOWN_TIMEOUT", "0", "expected a whole number from 1 to"),
    ("NORA_MIN_TRANSFER_RATE", "-1", "expected a whole number from 0 to"),
    ("NORA_MAX_CONNECTIONS", "0", "expected a whole number from 1 to"),
    ("NORA_MAX_CONNECTIONS_PER_CLIENT", "-1", "expected a whole number from 0 to"),
    ("NORA_RELOAD_TIMEOUT_SECS", "0", "expected a whole number from 1 to 3600"),
    ("NORA_MAINTENANCE_STALL_SECS", "89", "expected a whole number from 90 to"),
    ("NORA_BODY_LIMIT_MB", "0", "expected a whole number from 1 to"),
    ("NORA_STAGING_BUDGET_BYTES", "1048575", "expected a whole number from 1048576 to"),
    ("NORA_STAGING_SHARE_BYTES", "-1", "expected a whole number from 0 to"),
    ("NORA_STAGING_SESSION_TTL_SECONDS", "0", "expected a whole number from 1 to"),
    ("NORA_MAX_UPLOAD_SESSIONS", "0", "expected a whole number from 1 to"),
    ("NORA_MAX_UPLOAD_SESSION_SIZE_MB", "0", "expected a whole number from 1 to"),
    ("NORA_CONFIG_STRICT", "maybe", "expected one of true, false"),
    ("NORA_REGISTRIES_ENABLE", "npm", "the format npm is not supported by this version, expected docker, raw or all"),
    ("NORA_REGISTRIES_ENABLE", "docker,maven2", "the format maven2 is not supported by this version, expected docker, raw or all"),
    ("NORA_REGISTRIES_ENABLE", "dokcer", 'expected docker, raw or all, got "dokcer"'),
    ("NORA_REGISTRIES_ENABLE", "all,docker", "expected either all or the names of formats, not both"),
    ("NORA_REGISTRIES_ENABLE", "all,-docker,-raw", "no format is left, expected at least docker or raw"),
    ("NORA_REGISTRIES_ENABLE", "-npm", "no format is left, expected at least docker or raw"),
    ("RUST_LOG", "verbose", 'expected a level such as info, alone or in a list such as info,target=debug, got "verbose"'),
    ("NORA_HOTS", "x", "unknown variable, did you mean NORA_HOST?"),
    ("NORA_AUTH_TRUSTED_PROXYS", "x", "unknown variable, did you mean NORA_AUTH_TRUSTED_PROXIES?"),
    ("NORA_AUTH_ENABLE", "true", "unknown variable, did you mean NORA_AUTH_ENABLED?"),
    ("NORA_ZZ", "x", "unknown variable; docs/configuration.md lists the valid ones"),
    ("NORA_", "x", "unknown variable; docs/configuration.md lists the valid ones"),
    ("NORA_LOG_FILE", "/var/log/nora", "a log file (all lines go to stdout; send that where you want them) is not supported by this version"),
    ("NORA_AUTH_ENABLED", "", "expected one of true, false, 1, 0, yes, no, on, off, got nothing"),
    ("NORA_AUTH_ENABLED", "maybe", 'expected one of true, false, 1, 0, yes, no, on, off, got "maybe"'),
    ("NORA_AUTH_TOKEN_CACHE_TTL", "604801", 'expected a whole number from 0 to 604800, got "604801"'),
    ("NORA_AUTH_BEARER_TTL_SECS", "0", 'expected a whole number from 1 to 86400, got "0"'),
    ("NORA_AUTH_REFRESH_TTL_DAYS", "3651", 'expected a whole number from 1 to 3650, got "3651"'),
    ("NORA_AUTH_HTPASSWD_FILE", "", "expected a path of printable characters, not empty"),
    ("NORA_AUTH_ADMIN_USERS", "ann,b\tb", "entry 2: expected user names of 1 to 255 printable characters"),
    ("NORA_AUTH_ADMIN_USERS", "ann," + "b" * 256, "entry 2: expected user names"),
    ("NORA_ACCESS_DEFAULT_ROLE", "admin", 'expected read, write or none, got "admin"'),
    ("NORA_ACCESS_CONTACT", "x" * 201, "expected 1 to 200 printable characters"),
    ("NORA_ACCESS_CONTACT", "a\nb", "expected 1 to 200 printable characters"),
    ("NORA_AUDIT_LOG", "syslog", 'expected file, stdout, both or off, got "syslog"'),
    ("NORA_AUDIT_PATH", "a\nb", "expected a path of printable characters"),
    ("NORA_DOCKER_PROXIES", "https://u:p@h|a:b", "fetching from an upstream is not supported by this version, expected empty"),
    ("NORA_RATE_LIMIT_AUTH_RPS", "0", 'expected a whole number from 1 to 1000000, got "0"'),
    ("NORA_RATE_LIMIT_UPLOAD_BURST", "1000001", "expected a whole number from 1 to 1000000"),
    ("NORA_RATE_LIMIT_ON_FAILURE", "shut", 'expected local, open or closed, got "shut"'),
    *(
        ("NORA_RATE_LIMIT_STORAGE_URL", text, "expected redis://HOST:PORT/DB, rediss://HOST:PORT/DB?ssl_ca_certs=/FILE or unix:///SOCKET?db=DB")
        for text in (
            *("redis", "redis:", "redis://", "memory://", "http://r", "redis://r:0", "redis://r:65536", "redis://r:x", "redis://a b", "redis://r/x"),
            *("redis://[::g]", "redis://r/0?x=1", "redis://r\n", "unix://", "unix://run", "unix:///a b", "redis://a@b@c/", "redis://r/0#x"),
        )
    ),
    ("NORA_TLS_CA_CERT", "/etc/ca.pem", "belongs to a feature of NORA that is not supported by this version; remove it"),
]


@pytest.mark.parametrize(("name", "text", "message"), REFUSED_VARIABLES)
def test_variable_is_refused(name, text, message):
    (line,) = problems({name: text})
    assert line.startswith(f"{name}: {message}")
    assert "\n" not in line
    assert len(line) < 250


REFUSED_LINES = [
    ("\n[server]\nprot = 1", "config.toml:3: server.prot: unknown key, did you mean server.port?"),
    ("port = 1", "config.toml:1: port: unknown key, did you mean server.port?"),
    ("[docker]\nport = 1", "config.toml:2: docker.port: unknown key, did you mean server.port?"),
    ("[storage]\ncolour = 1", "config.toml:2: storage.colour: unknown key, valid are storage.mode, storage.path"),
    ("[sevrer]\nport = 1\nx.y = 2", "config.toml:1: sevrer: unknown section, did you mean server?"),
    ("[auht]\nenabled = true", "config.toml:1: auht: unknown section, did you mean auth?"),
    (
        "[[provinces]]\nname = 1",
        "config.toml:1: provinces: unknown key, valid are access, audit, auth, cors, curation, docker, logging, metrics, rate_limit, raw, "
        "registries, repositories, server, staging, state, storage",
    ),
    ('["a\\nb"]', 'config.toml:1: "a\\nb": unknown section, valid are '),
    ('"server.port" = 1', 'config.toml:1: "server.port": unknown key, did you mean server.port?'),
    ('server.port = "12"', 'config.toml:1: server.port: expected a whole number from 1 to 65535, got the string "12"'),
    ("server.port = true", "config.toml:1: server.port: expected a whole number from 1 to 65535, got true"),
    ("server.port = 1.5", "config.toml:1: server.port: expected a whole number from 1 to 65535, got the number 1.5"),
    ("server.port = inf", "config.toml:1: server.port: expected a whole number from 1 to 65535, got a number far too large"),
    (f"server.port = {'9' * 400}", "config.toml:1: server.port: expected a whole number from 1 to 65535, got a number far too large"),
    ("server.port = 70000", "config.toml:1: server.port: expected a whole number from 1 to 65535, got the number 70000"),
    ("server.port = [1]", "config.toml:1: server.port: expected a whole number from 1 to 65535, got an array"),
    ("server.port = 2026-01-01", "config.toml:1: server.port: expected a whole number from 1 to 65535, got a date or time"),
    ("server.port = { a = 1 }", "config.toml:1: server.port: expected a whole number from 1 to 65535, got a table"),
    ("[server.port]\na = 1", "config.toml:1: server.port: expected a whole number from 1 to 65535, got a table"),
    ("[[server.port]]\na = 1", "config.toml:1: server.port: expected a whole number from 1 to 65535, got an array of tables"),
    ("server = 1", "config.toml:1: server: expected a table [server], got the number 1"),
    ("[[server]]\nport = 1", "config.toml:1: server: expected a table [server], got an array of tables"),
    ('logging.access = "true"', 'config.toml:1: logging.access: expected true or false, without quotes, got the string "true"'),
    ("logging.access = 1", "config.toml:1: logging.access: expected true or false, without quotes, got the number 1"),
    ("storage.path = 1", "config.toml:1: storage.path: expected a path of printable characters, not empty, as a string, got the number 1"),
    ("storage.mode = false", "config.toml:1: storage.mode: expected local, as a string, got false"),
    ('registries.enable = ["npm"]', "config.toml:1: registries.enable: the format npm is not supported by this version"),
    ('registries.enable = ""', 'config.toml:1: registries.enable: expected docker, raw or all, got the string ""'),
    ("registries.enable = [1]", "config.toml:1: registries.enable: expected docker, raw or all, as a string or an array of strings, got an array"),
    ("registries.enable = []", "config.toml:1: registries.enable: no format is left, expected at least docker or raw, got an array"),
    ("auth.trusted_proxies = [7]", "config.toml:1: auth.trusted_proxies: expected IP addresses and networks such as 127.0.0.1,10.0.0.0/8; entry 1"),
    ("auth.trusted_proxies = 7", "config.toml:1: auth.trusted_proxies: expected IP addresses and networks such as 127.0.0.1,10.0.0.0/8, got a value"),
    ("gc.enabled = true", "config.toml:1: gc.enabled: garbage collection is not supported by this version, expected false"),
    ('gc.enabled = "false"', "config.toml:1: gc.enabled: garbage collection is not supported by this version, expected false"),
    ('auth.enabled = "false"', 'config.toml:1: auth.enabled: expected true or false, without quotes, got the string "false"'),
    ("auth.bearer_ttl_secs = 0", "config.toml:1: auth.bearer_ttl_secs: expected a whole number from 1 to 86400, got the number 0"),
    ("auth.oidc.leeway_secs = 3601", "config.toml:1: auth.oidc.leeway_secs: expected a whole number from 0 to 3600, got the number 3601"),
    (
        "auth.oidc.jwks_cache_secs = 604801",
        "config.toml:1: auth.oidc.jwks_cache_secs: expected a whole number from 0 to 604800, got the number 604801",
    ),
    ("auth.admin_users = 7", "config.toml:1: auth.admin_users: expected user names of 1 to 255 printable characters, as a string or"),
    ("auth.oidc.enable = true", "config.toml:1: auth.oidc.enable: unknown key, did you mean auth.oidc.enabled?"),
    ("[[access.rule]]\nusers = 1", "config.toml:1: access.rule: unknown key, did you mean access.rules?"),
    ("[access.rules]\nusers = 1", "config.toml:1: access.rules: expected at most 1000 tables [[access.rules]], got a table"),
    ('access.rules = "x"', 'config.toml:1: access.rules: expected at most 1000 tables [[access.rules]], got the string "x"'),
    ("access.rules = [1]", "config.toml:1: access.rules: expected at most 1000 tables [[access.rules]], got an array"),
    (
        '[[docker.upstreams]]\nurl = "h"',
        "config.toml:1: docker.upstreams: fetching from an upstream is not supported by this version",
    ),
    ("gc.interval = 5", "config.toml:1: gc.interval: belongs to a feature of NORA that is not supported by this version; remove it"),
    ("[tls]\nca_cert = 1", "config.toml:1: tls: belongs to a feature of NORA that is not supported by this version; remove it"),
    ("[npm.proxies]", "config.toml:1: npm.proxies: belongs to a feature of NORA that is not supported by this version; remove it"),
    ("[npm]\n[npm.x]", "config.toml:2: npm.x: belongs to a feature of NORA that is not supported by this version; remove it"),
    ('auth.trusted_proxies = ""\n[auth.oidc]\n[[auth.trusted_proxies]]', "config.toml:3: auth.trusted_proxies: is set twice"),
    ("a = 1\na = 2", "config.toml:2: a: is set twice"),
    ("server = { port = 1, port = 2 }", "config.toml:1:30: not valid TOML: Duplicate inline table key 'port'"),
    ("\nserver.port = \n", "config.toml:2:15: not valid TOML: Invalid value"),
    ("a = 1\n[b]\nc.d = 1\n[b.c]\ne = 1", "config.toml:4: b.c: is set twice"),
    ("a = " + "[" * 3000, "config.toml:1:5: nested more than 64 levels deep"),
    (b"a = 1\nb = '\xff'\n", "config.toml:2: is not UTF-8 text: byte 0xff"),
    (b"#" * (MAX_BYTES + 1), "config.toml: is larger than 1 MiB, the most that is read"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED_LINES)
def test_line_is_refused(text, message):
    (line,) = problems(text=text)
    assert line.startswith(message)
    assert "\n" not in line


def test_all_problems_come_at_once_and_in_order():
    text = '[server]\nport = "x"\nprot = 1\n\n[gc]\nenabled = true\n'
    assert [line.split(": ")[0] for line in problems({"NORA_PORT": "x", "NORA_HOTS": "y"}, text)] == [
        "config.toml:2",
        "config.toml:3",
        "config.toml:6",
        "NORA_HOTS",
        "NORA_PORT",
    ]


SECRETS = [
    ({"NORA_PUBLIC_URL": "https://user:hunter2@h"}, None),
    ({"NORA_AUTH_TRUSTED_PROXIES": "hunter2"}, None),
    ({"NORA_DOCKER_PROXIES": "https://h|user:hunter2"}, None),
    ({"NORA_CURATION_BYPASS_TOKEN": "hunter2 "}, None),
    ({}, 'curation.bypass_token = ["hunter2"]'),
    ({}, 'curation.bypass_token = "hunter2 "'),
    ({}, 'curation.bypass_tokens = "hunter2"'),
    ({"NORA_CURATION_BYPASS_TOKEN": "hunter2", "NORA_CURATION_MODE": "enforce"}, None),
    ({"NORA_TOKEN": "hunter2"}, None),
    ({"NORA_RATE_LIMIT_STORAGE_URL": "redis://:hunter2"}, None),
    ({}, 'rate_limit.storage_url = "redis//:hunter2@h"'),
    ({}, 'rate_limit.storage_url = ["hunter2"]'),
    ({"NORA_AUTH_TOKEN_STORAGE": "hunter2\n"}, None),
    ({}, '[[auth.oidc.providers]]\nname = "a"\nissuer = "https://user:hunter2@h"'),
    ({}, '[[auth.oidc.providers]]\nname = "a"\nissuer = "https://h"\nbearer_token_file = "hunter2\\n"'),
    ({}, '[[auth.oidc.providers]]\nname = "a"\nissuer = "https://h"\nclient_secret = "hunter2"'),
    ({"NORA_REGISTRIES_ENABLE": "user:hunter2@h"}, None),
    ({}, 'server.public_url = "https://user:hunter2@h"'),
    ({}, 'auth.trusted_proxies = "hunter2"'),
    ({}, '[[docker.upstreams]]\nauth = "hunter2"'),
    ({}, 'storage.s3_secret_key = "hunter2"'),
    ({}, 'server.password = "hunter2"'),
]


@pytest.mark.parametrize(("environ", "text"), SECRETS)
def test_no_problem_shows_a_secret(environ, text):
    assert "hunter2" not in "".join(problems(environ, text))


# ---- the file itself


def _folder(path: Path) -> None:
    path.mkdir()


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _circle(path: Path) -> None:
    path.symlink_to(path)


def _pipe(path: Path) -> None:
    import os

    os.mkfifo(path)


UNUSABLE = [(_folder, ": is a folder"), (_dangling, ": cannot be read: No such"), (_circle, ": cannot be read: "), (_pipe, ": is not a regular")]


@pytest.mark.parametrize(("make", "message"), UNUSABLE)
def test_unusable_file_is_a_problem_named_or_not(make, message):
    make(Path("config.toml"))
    for environ in ({}, {"NORA_CONFIG_PATH": "config.toml"}):
        assert problems(environ)[0].startswith(f"config.toml{message}")


@pytest.mark.parametrize("path", ["missing.toml", "/etc/passwd/x", "a\0b", "a\nb", "x" * 5000, "\udcff"])
def test_named_file_that_is_missing_is_a_problem(path):
    (line,) = problems({"NORA_CONFIG_PATH": path})
    assert "cannot be read" in line
    assert "\n" not in line


def test_unreadable_file_is_a_problem(monkeypatch):
    Path("config.toml").write_text("")

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # root may read everything, so the refusal is played
    assert problems({}) == ["config.toml: cannot be read: Permission denied"]


def test_null_device_is_an_empty_file():
    assert load(environ={"NORA_CONFIG_PATH": "/dev/null"}) == Config()


# ---- between settings

CONTRADICTIONS = [
    ("NORA_STAGING_BUDGET_BYTES=2097152 NORA_STAGING_SHARE_BYTES=2097153", "NORA_STAGING_SHARE_BYTES: staging.share_bytes is 2097153, expected"),
    ("NORA_STAGING_SHARE_BYTES=300000000", "NORA_STAGING_SHARE_BYTES: staging.share_bytes is 300000000, expected at most the 201326592 of"),
    ("NORA_WORKERS=4 NORA_MAX_CONNECTIONS=3", "NORA_WORKERS: server.workers is 4, expected at most the 3 of server.max_connections"),
    ("NORA_MAX_CONNECTIONS=1", "NORA_MAX_CONNECTIONS: server.workers is 2, expected at most the 1 of server.max_connections (from NORA_MAX_"),
    ("NORA_WORKERS=x NORA_MAX_CONNECTIONS=1", "NORA_WORKERS: expected a whole number"),
]


@pytest.mark.parametrize(("variables", "message"), CONTRADICTIONS)
def test_values_that_contradict_each_other_are_refused(variables, message):
    (line,) = problems(dict(pair.split("=") for pair in variables.split()))
    assert line.startswith(message)


def test_equal_values_and_a_lower_budget_are_fine():
    config = load(environ={"NORA_STAGING_BUDGET_BYTES": "2097152", "NORA_WORKERS": "3", "NORA_MAX_CONNECTIONS": "3"})
    assert config.staging == replace(StagingConfig(), budget_bytes=2097152, share_bytes=2097152)
    assert config.sources["staging.share_bytes"] == "default"


WARNINGS = [
    ({}, None, []),
    ({"NORA_KEEP_ALIVE_TIMEOUT": "90"}, None, ["server.keep_alive_timeout = 90"]),
    ({"NORA_KEEP_ALIVE_TIMEOUT": "91"}, None, []),
    ({"NORA_PUBLIC_URL": "http://localhost:4000"}, None, ["server.public_url = http://localhost:4000"]),
    ({"NORA_PUBLIC_URL": "http://127.8.0.1"}, None, ["server.public_url"]),
    ({"NORA_PUBLIC_URL": "http://[::1]/x"}, None, ["server.public_url"]),
    ({"NORA_PUBLIC_URL": "https://r.example.com"}, None, []),
    ({"NORA_AUTH_TRUSTED_PROXIES": "0.0.0.0/0"}, None, ["auth.trusted_proxies"]),
    ({"NORA_DOCKER_ENABLED": "false"}, None, []),
    ({"NORA_DOCKER_ENABLED": "false", "NORA_RAW_ENABLED": "false"}, None, ["docker.enabled = false, raw.enabled = false: no format is served"]),
    ({"NORA_STORAGE_PATH": "here"}, None, []),
    ({}, "", ["storage.path = data/storage", "state.path = data/state"]),
    ({"NORA_STORAGE_PATH": "/srv", "NORA_STATE_PATH": "/srv", "NORA_STAGING_PATH": "x"}, "", ["staging.path = x"]),
    ({"NORA_HOST": "0.0.0.0"}, None, ["auth.enabled = false: everybody who reaches the port"]),
    ({"NORA_SERVICE_HOST": "10.0.0.1", "NORA_PORT": "tcp://10.0.0.1:4000"}, None, ["ignored NORA_SERVICE_HOST, NORA_PORT: Kubernetes"]),
    ({"NORA_PORT_4000_TCP_ADDR": "10.0.0.1"}, None, ["ignored NORA_PORT_4000_TCP_ADDR: Kubernetes"]),
    ({"NORA_ENV_X\nerror: no": "1"}, None, ["ignored 'NORA_ENV_X\\nerror: no': "]),
]


@pytest.mark.parametrize(("environ", "text", "begins"), WARNINGS)
def test_warnings(environ, text, begins):
    found = load(environ=environ).warnings if text is None else from_text(text, environ).warnings
    assert len(found) == len(begins)
    assert all(line.startswith(begin) for line, begin in zip(found, begins, strict=True))


LINKS = {
    "NORA_SERVICE_HOST": "10.0.0.1",
    "NORA_SERVICE_PORT": "4000",
    "NORA_SERVICE_PORT_HTTP": "4000",
    "NORA_PORT": "tcp://10.0.0.1:4000",
    "NORA_PORT_4000_TCP": "tcp://10.0.0.1:4000",
    "NORA_PORT_4000_TCP_PROTO": "tcp",
    "NORA_PORT_4000_TCP_PORT": "4000",
    "NORA_PORT_4000_TCP_ADDR": "10.0.0.1",
    "NORA_PORT_53_UDP_ADDR": "10.0.0.1",
    "NORA_REGISTRY_SERVICE_HOST": "10.0.0.1",
    "NORA_REGISTRY_PORT": "tcp://10.0.0.1:80",
    "NORA_REGISTRY_PORT_80_TCP_ADDR": "10.0.0.1",
    "NORA_TLS_SERVICE_PORT": "443",
    "NORA_TLS_PORT": "tcp://[fd00::1]:443",
    "NORA_STORAGE_S3_SERVICE_HOST": "10.0.0.1",
    "NORA_1_PORT": "tcp://172.17.0.2:4000",
    "NORA_1_NAME": "/web/nora_1",
    "NORA_NAME": "/web/nora",
    "NORA_ENV_PATH": "/usr/bin:/bin",
    "NORA_ENV_NORA_PORT": "4001",
    "NORA_REGISTRY_ENV_GPG_KEY": "E3FF",
    "NORA_PORT_8000_TCP_START": "tcp://172.17.0.2:8000",
    "NORA_PORT_8000_TCP_PORT_END": "8010",
}
"""What Kubernetes and Docker set for services and links whose names begin with nora."""


@pytest.mark.parametrize(("name", "value"), LINKS.items())
def test_a_link_to_a_service_is_ignored(name, value):
    config = load(environ={name: value})
    assert config == Config()
    (warning,) = config.warnings
    assert warning.startswith(f"ignored {name}: Kubernetes")


def test_links_are_one_warning_that_stays_short():
    (warning,) = load(environ=LINKS | {f"NORA_{n}_SERVICE_HOST": "10.0.0.1" for n in range(1000)}).warnings
    assert " and 1013 more: Kubernetes" in warning
    assert len(warning) < 600


@pytest.mark.parametrize("name", ["NORA_HOME", "NORA_NAME", "NORA_VERSION", "NORA_ENV", "NORA_IMAGE"])
@pytest.mark.parametrize("value", ["", "/opt/nora", "production"])
def test_what_images_and_units_call_their_own_is_ignored(name, value):
    config = load(environ={name: value})
    assert config == Config()
    assert len(config.warnings) == 1
    assert config.warnings[0].startswith(f"ignored {name}: ")


def test_a_port_that_is_no_link_and_no_port_is_refused():
    assert len(problems({"NORA_PORT": "http://10.0.0.1:4000"})) == 1
    assert load(environ={"NORA_PORT": "4001", "NORA_SERVICE_HOST": "10.0.0.1"}).server.port == 4001


WITHOUT_EFFECT = (
    *("NORA_STORAGE_S3_URL", "NORA_STORAGE_S3_SECRET_KEY", "NORA_STORAGE_BUCKET", "NORA_STORAGE_GCS_BASE_URL"),
    *("NORA_GC_INTERVAL", "NORA_GC_GRACE", "NORA_RETENTION_INTERVAL", "NORA_CB_THRESHOLD", "NORA_SIGNING_KEY_PATH"),
    *("NORA_NPM_PROXY", "NORA_PYPI_PROXIES", "NORA_TF_PROXY", "NORA_HF_CDN_HOSTS", "NORA_DOCKER_PROXY_TIMEOUT", "NORA_MAVEN_PROXIES"),
    *("NORA_DOCKER_SERVE_STALE", "NORA_SECRETS_PROVIDER", "NORA_IMPORT_AUTH", "NORA_RPM_PROXIES"),
)


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_a_variable_that_switches_nothing_on_is_ignored(name):
    config = load(environ={name: "hunter2"})
    assert config == Config()
    (warning,) = config.warnings
    assert warning.startswith(f"ignored {name}: of a feature of NORA that this version lacks")
    assert "hunter2" not in warning


@pytest.mark.parametrize("value", ["", "false", "0", "no", "off", "None"])
def test_a_switch_of_a_missing_feature_that_is_not_switched_on_is_taken(value):
    assert load(environ={"NORA_GC_ENABLED": value, "NORA_NPM_ENABLED": value, "NORA_TLS_CA_CERT": ""}) == Config()


# ---- features that are not there yet

OFF = {"off": "off", "allow": "allow", "empty": "", "false": "false"}


@pytest.mark.parametrize("setting", NOT_YET, ids=lambda setting: setting.env[0])
def test_off_is_taken_and_on_is_refused(setting):
    word = OFF[setting.type.expected.split(" or ")[0]]
    for name in setting.env:
        assert load(environ={name: word}) == Config()
        assert "is not supported by this version" in problems({name: "true"})[0]
    if setting.key:
        assert from_text(f"{setting.key} = {'false' if word == 'false' else doc.toml(word)}") == Config()
        assert "is not supported by this version" in problems(text=f"{setting.key} = true")[0]


def test_empty_array_of_upstreams_is_hosted_only():
    assert from_text("docker.upstreams = []") == Config()


# ---- the table


def all_fields() -> list[str]:
    parts = [(f.name, f.default_factory) for f in fields(Config) if is_dataclass(f.default_factory)]
    parts += [(name, type(section)) for name, section in Config().formats.items()]
    return [*(f"{section}.{f.name}" for section, kind in parts for f in fields(kind)), "repositories"]


def test_every_field_has_its_setting_and_every_name_is_there_once():
    assert sorted(s.field or s.key for s in SETTINGS if s.key and s.key != "registries.enable") == sorted(set(all_fields()) - {"curation.formats"})
    assert len(BY_KEY) == sum(bool(s.key) for s in (*SETTINGS, *FORMAT_SETTINGS, *NOT_YET))
    assert len(BY_ENV) == sum(len(s.env) for s in (*SETTINGS, *FORMAT_SETTINGS, *NOT_YET))


def test_every_default_is_allowed():
    for setting in doc._in_config():
        value = doc.value_of(Config(), setting)
        if value is not None:
            assert setting.type.from_toml(tomllib.loads(f"x = {doc.toml(value)}")["x"]) == value


def test_sample_is_written_from_the_table_and_says_the_defaults():
    text = (TOP / "etc/config.toml").read_text()
    assert text == doc.sample(), "run: python -m noraflask.config.document"
    assert load(TOP / "etc/config.toml", {}) == Config()
    for setting in (s for s in SETTINGS if s.key):
        name = setting.key.rpartition(".")[2]
        assert any(f"\n{line}" in text for line in (f"{name} = ", f"# {name} = ", f"# [[{setting.key}]]\n"))


def test_commented_lines_of_the_sample_are_valid():
    lines = [line.removeprefix("# ") for line in doc.sample().splitlines(keepends=True)]
    config = from_text("".join(line for line in lines if re.match(r"[a-z_]+ = |\[", line)))
    assert config.server.public_url == "https://registry.example.com"
    assert config.access.contact == "registry@example.com"
    assert [rule.groups for rule in config.access.rules] == [("developers",)]
    assert [len(provider.role_rules) for provider in config.auth.oidc_providers] == [1]


def test_documentation_holds_the_table():
    text = (TOP / "docs/configuration.md").read_text()
    assert text == doc.with_tables(text), "run: python -m noraflask.config.document"
    assert all(f"`{name}`" in text for s in (*SETTINGS, *FORMAT_SETTINGS, *NOT_YET) for name in (s.key, *s.env) if name)


@pytest.mark.parametrize("environ", [{}, {"NORA_PUBLIC_URL": "https://h", "NORA_STORAGE_PATH": 'a "b" \\ ü', "NORA_AUTH_TRUSTED_PROXIES": ""}])
def test_what_check_config_prints_is_the_same_configuration_again(environ):
    config = load(environ=environ)
    assert from_text(doc.effective(config)) == config


# ---- any input

KEYS = st.sampled_from([*BY_KEY, "server", "docker", "gc", "auth.oidc", "x", "server.x", '"a\\nb"', "server.port.x"])
VALUES = st.one_of(
    st.sampled_from(['"x"', '""', "1", "4000", "-1", "true", "[]", "{}", "[1]", '["::1"]', "{ a = 1 }", "1.5", "nan", "07:32:00", '"""\nx\n"""']),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8).map(doc.toml),
)
LINES = st.one_of(
    st.tuples(KEYS, VALUES).map(" = ".join),
    KEYS.map("[{}]".format),
    KEYS.map("[[{}]]".format),
    st.text(max_size=12),
)


def check_outcome(path: Path, environ: dict[str, str]) -> None:
    """Anything but a Config or a ConfigError with whole lines fails the test."""
    outcome = load_or_error(path, environ)
    if isinstance(outcome, ConfigError):
        assert outcome.problems
        assert all(line and len(line.splitlines()) == 1 for line in outcome.problems)
        outcome = outcome.usable
    assert isinstance(outcome, Config)


def load_or_error(path: Path, environ: dict[str, str]) -> Config | ConfigError:
    try:
        return load(path, environ)
    except ConfigError as error:
        return error


@pytest.fixture(scope="module")
def scratch_file(tmp_path_factory):
    return tmp_path_factory.mktemp("any") / "c.toml"


@settings(deadline=None)  # a busy machine is no failure
@given(lines=st.lists(LINES, max_size=8))
def test_any_file_of_lines(scratch_file, lines):
    scratch_file.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    check_outcome(scratch_file, {})


@settings(deadline=None)  # a busy machine is no failure
@given(data=st.binary(max_size=40))
def test_any_bytes(scratch_file, data):
    scratch_file.write_bytes(data)
    check_outcome(scratch_file, {})


NAMES = st.one_of(st.sampled_from([name for name in BY_ENV if name != "NORA_CONFIG_PATH"]), st.text(max_size=8).map("NORA_".__add__))
TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(["1", "true", "off", "https://h", "info", "all", "::1", "tcp://"]))


@settings(deadline=None)  # a busy machine is no failure
@given(environ=st.dictionaries(NAMES, TEXTS, max_size=5))
def test_any_environment(scratch_file, environ):
    scratch_file.write_bytes(b"")
    environ.pop("NORA_CONFIG_PATH", None)
    check_outcome(scratch_file, environ)


# ---- lines

PIECES = [
    "k{n} = {n}\n",
    "k{n}.a.b = {n}\n",
    "\n# note\n",
    "k{n} = [ # note\n  {n},\n]\nl{n} = {n}0000\n",
    'k{n} = """\ntext\n"""\nl{n} = {n}0000\n',
    "k{n} = {{ a = {n}, b = {{ c = {n}1111 }} }} # note\n",
    "k{n} = {{\n  a = {n},\n  b = [\n    1,\n  ],\n  c = {n}4444 }}\nl{n} = {n}0000\n",
    "[t{n}]\n",
    "  [ t{n} . u ] # note\n",
    "[t{n}.u.v]\nx = {n}2222\n",
    "[t{n}.u]\n\ny = {n}3333\n",
    "[[s{n}.a]]\nx = 1\n\n[[s{n}.a]]\n[s{n}.a.b]\nz = 2\n",
    "\r\n",
]


@settings(deadline=None)  # a busy machine is no failure
@given(picks=st.lists(st.sampled_from(PIECES), min_size=1, max_size=12))
def test_every_value_has_its_line(scratch_file, picks):
    """Each number in the text is there once, so its line can be found by looking."""
    text = "".join(piece.format(n=100 + number) for number, piece in enumerate(picks))
    scratch_file.write_bytes(text.encode())
    lines = text.split("\n")
    for node in read_nodes(scratch_file):
        if isinstance(node.value, int):
            assert str(node.value) in lines[node.line - 1]
        else:
            assert node.key.split(".")[-1] in lines[node.line - 1]


def test_tables_out_of_order_keep_their_lines():
    assert [(n.key, n.line) for n in _nodes("[a.b.c]\nz = 1\n[d]\nq = 1\n[a.b]\ny = 2\n") if isinstance(n.value, int)] == [
        ("a.b.c.z", 2),
        ("d.q", 4),
        ("a.b.y", 6),
    ]


@pytest.mark.parametrize("name", ["a", "a.b"])
def test_array_of_tables_in_pieces_is_one_value(name):
    nodes = _nodes(f"[[{name}]]\nx = 1\n[c]\ny = 2\n[[{name}]]\nx = 3\n[d]\n")
    told = [node for node in nodes if node.key in (name, "c", "c.y", "d")]
    assert [node.key for node in told] == [name, "c", "c.y", "d"]
    assert told[0].value == [{"x": 1}, {"x": 3}]
    assert [table.place("x") for table in told[0].value] == ["c.toml:2", "c.toml:6"]
    assert [node.line for node in told] == [1, 3, 4, 7]


def _nodes(text: str):
    Path("c.toml").write_text(text)
    return read_nodes(Path("c.toml"))
