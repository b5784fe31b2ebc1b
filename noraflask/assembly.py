"""The services, made from the configuration. The command line makes some of them by itself."""

from __future__ import annotations

import logging
import tempfile
import time
from importlib import import_module

from flask import Flask
from flask_limiter import Limiter

from noraflask.config import AuthConfig, Config, RateLimitConfig
from noraflask.formats import FORMATS
from noraflask.services import Services, state_folder
from noraflask.services.audit import Audit
from noraflask.services.auth.authenticator import Authenticator
from noraflask.services.auth.documents import Documents
from noraflask.services.auth.lockout import Lockout
from noraflask.services.auth.login_record import LoginRecord
from noraflask.services.auth.oidc import Oidc
from noraflask.services.auth.rules import Access, Policy, accepts_claims
from noraflask.services.auth.signing import Signer
from noraflask.services.auth.tokens import Tokens
from noraflask.services.auth.users import Users
from noraflask.services.content import Content
from noraflask.services.curation.freeze import Freeze
from noraflask.services.curation.gate import Curation
from noraflask.services.curation.ledger import Ledger
from noraflask.services.curation.loading import load_policy
from noraflask.services.curation.policy import Policy as CurationPolicy
from noraflask.services.health import Health
from noraflask.services.inventory import Inventory
from noraflask.services.limits.rates import RateLimits
from noraflask.services.limits.strategy import NAME as TOKEN_BUCKET
from noraflask.services.limits.strategy import TokenBucket, register
from noraflask.services.limits.table import SCHEME as SHARED_MEMORY
from noraflask.services.metrics.counted_storage import CountedStorage
from noraflask.services.metrics.counter_files import CounterFiles, parent_folder
from noraflask.services.metrics.counting import Metrics, NullMetrics
from noraflask.services.reloads import Reloads
from noraflask.services.staging import Staging
from noraflask.storage import Storage
from noraflask.storage.disk import DiskStorage
from noraflask.storage.memory import MemoryStorage
from noraflask.web.peers import client_address

DAY = 86400
CURATION = "_curation"
AUTH = "_auth"
"""Where storage keeps tokens and keys. A repository's name never begins so."""

config_log = logging.getLogger("nora.config")
reload_log = logging.getLogger("nora.reload")
limits_log = logging.getLogger("nora.limits")
metrics_log = logging.getLogger("nora.metrics")


def make_services(config: Config, storage: Storage | None) -> Services:
    state_folder.prepare(config)
    for warning in state_folder.left_in_storage(config):
        config_log.warning("%s", warning)
    plain = storage or DiskStorage(config.storage.path)
    incoming = plain.incoming if isinstance(plain, DiskStorage) else tempfile.mkdtemp(prefix="noraflask-")
    metrics = make_metrics(config)
    found: Storage = CountedStorage(plain, metrics) if isinstance(metrics, Metrics) else plain
    staging = Staging(config.staging, incoming, config.docker.max_upload_sessions, metrics=metrics)
    content, audit = Content(found), Audit(config.audit, state_folder.audit_file(config), metrics=metrics)
    tokens = make_tokens(config, found)
    access = Access(Policy.of(config, formats_of_repositories()))
    logins = make_logins(config, found, content, tokens, access, audit, metrics) if config.auth.enabled else None
    curation = make_curation(config, Documents(found, f"{CURATION}/"))
    reloads = Reloads()
    reloads.succeeded(curation.policy.fingerprint, at_start=True)
    chores = (tokens.flush, tokens.sweep) if logins else (lambda: None, lambda: None)
    probe = plain.probe if isinstance(plain, DiskStorage | MemoryStorage) else lambda: None
    limits = make_limits(config.rate_limit, metrics, config.server.threads)
    limits_log.info("%s", limits.describe())
    health = Health(staging, probe, incoming, config.server.maintenance_stall_secs, *chores, metrics=metrics)
    inventory = make_inventory(config, plain, content, tokens, metrics) if isinstance(metrics, Metrics) else None
    return Services(config, content, staging, health, access, curation, reloads, limits, tokens, audit, metrics, inventory, logins)


def make_metrics(config: Config) -> NullMetrics:
    """A server that cannot count goes on all the same."""
    if not config.metrics.enabled:
        return NullMetrics()
    try:
        names = enabled_repositories(config)
        return Metrics(CounterFiles(parent_folder()), lambda: names, [format.default.name for format in FORMATS])
    except OSError as problem:
        metrics_log.warning("metrics are off, there is no folder for them: %s; PROMETHEUS_MULTIPROC_DIR may name one, best on a tmpfs", problem)
        return NullMetrics()


def enabled_repositories(config: Config) -> tuple[str, ...]:
    return tuple(format.default.name for format in FORMATS if getattr(config, format.default.name).enabled)


def make_inventory(config: Config, storage: Storage, content: Content, tokens: Tokens, metrics: Metrics) -> Inventory:
    enabled = enabled_repositories(config)

    def names() -> dict[str, int]:
        found = ((format.stock, format.default.name) for format in FORMATS if format.default.name in enabled)
        return {name: sum(1 for _ in stock.names(content, name)) for stock, name in found}

    return Inventory(storage, metrics.files.folder, names, lambda: (record.expires_at for record in tokens.list()), metrics)


def make_limits(config: RateLimitConfig, metrics: NullMetrics, threads: int = 8) -> RateLimits:
    """`threads`: of each worker, for short requests."""
    register()
    here, redis = make_limiter(f"{SHARED_MEMORY}://"), None
    if config.storage_url is not None:
        import_module("noraflask.services.limits.redis")  # takes memory, so only where it is wanted
        redis = make_limiter(f"nora+{config.storage_url}")
    return RateLimits(config, here, redis, metrics, seats=max(1, threads // 4))


def make_limiter(uri: str) -> TokenBucket:
    """What counts is flask-limiter's, with a storage and a strategy of ours.

    Its hooks stay on an app that serves nothing, because they would take each request some hundred microseconds; web/limits.py asks instead.
    """
    limiter = Limiter(lambda: "", storage_uri=uri, strategy=TOKEN_BUCKET)
    limiter.init_app(Flask("limits", static_folder=None))
    found: TokenBucket = limiter.limiter  # type: ignore[assignment]
    return found


def make_curation(config: Config, documents: Documents) -> Curation:
    """Raises ConfigError for rule files that cannot be used."""
    data, rules = load_policy(config.curation, time.time())
    for warning in rules.warnings:
        reload_log.warning("%s", warning)
    return Curation(CurationPolicy.from_buffer(data), make_ledger(config), Freeze(documents))


def make_ledger(config: Config) -> Ledger:
    curation = config.curation
    enabled = curation.ledger and curation.mode != "off"
    return Ledger(state_folder.ledger_folder(config), curation.ledger_days, enabled=enabled)


def make_logins(
    config: Config, storage: Storage, content: Content, tokens: Tokens, access: Access, audit: Audit, metrics: NullMetrics
) -> Authenticator:
    users, signer, trusted = make_users(config), make_signer(config, storage), config.server.trusted_proxies
    users.start()
    signer.start()
    oidc = make_oidc(config.auth, content, access)
    record = LoginRecord(audit, lambda environ: client_address(environ, trusted), metrics=metrics)
    return Authenticator(config.auth, users, tokens, signer, oidc, Lockout(), record)


def make_users(config: Config) -> Users:
    return Users(config.auth.htpasswd_file, config.auth.groups_file, config.auth.token_cache_ttl)


def make_tokens(config: Config, storage: Storage) -> Tokens:
    folder = config.auth.token_storage
    documents = Documents(DiskStorage(folder, private=True)) if folder else Documents(storage, f"{AUTH}/tokens/")
    return Tokens(documents, config.auth.token_cache_ttl)


def make_signer(config: Config, storage: Storage) -> Signer:
    return Signer(Documents(storage, f"{AUTH}/keys/"), max(config.auth.refresh_ttl_days * DAY, config.auth.bearer_ttl_secs))


def make_oidc(auth: AuthConfig, content: Content, access: Access) -> Oidc:
    providers = auth.oidc_providers if auth.oidc_enabled else ()
    return Oidc(providers, auth.oidc_leeway_secs, auth.oidc_jwks_cache_secs, content, accepts=lambda who: accepts_claims(access.policy, who))


def formats_of_repositories() -> dict[str, str]:
    return {format.default.name: format.default.format for format in FORMATS}
