"""The services, made from the configuration. The command line makes some of them by itself."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from importlib import import_module

from flask import Flask

from noraflask.config import AuthConfig, Config, OidcProvider, RateLimitConfig
from noraflask.formats import FORMATS
from noraflask.services import Services, state_folder
from noraflask.services.audit import Audit
from noraflask.services.auth.authenticator import Authenticator
from noraflask.services.auth.homes import without_place
from noraflask.services.auth.lockout import Lockout
from noraflask.services.auth.logins import Logins
from noraflask.services.auth.oidc import Oidc
from noraflask.services.auth.principal import Principal
from noraflask.services.auth.rules import Access, Policy, accepts_claims
from noraflask.services.auth.signing import Signer
from noraflask.services.auth.tokens import Tokens
from noraflask.services.auth.users import Users
from noraflask.services.content import Content
from noraflask.services.curation.freeze import Freeze
from noraflask.services.curation.gate import Curation, Permits
from noraflask.services.curation.ledger import Ledger
from noraflask.services.curation.loading import load_policy
from noraflask.services.curation.policy import Policy as CurationPolicy
from noraflask.services.documents import Documents
from noraflask.services.health import Health
from noraflask.services.inventory import Inventory
from noraflask.services.limits.rates import Limits, RateLimits
from noraflask.services.limits.strategy import NAME as TOKEN_BUCKET
from noraflask.services.limits.strategy import TokenBucket, register
from noraflask.services.limits.table import SCHEME as SHARED_MEMORY
from noraflask.services.metrics.counted_storage import CountedStorage
from noraflask.services.metrics.counter_files import CounterFiles, parent_folder
from noraflask.services.metrics.counting import Metrics, NullMetrics
from noraflask.services.reloads import Reloads
from noraflask.services.repositories import Repositories, Repository
from noraflask.services.staging import Staging
from noraflask.services.state import Live, State, fingerprint_of
from noraflask.services.watched_storage import WatchedStorage
from noraflask.storage import Storage
from noraflask.storage.disk import DiskStorage
from noraflask.web.format import Format
from noraflask.web.peers import client_address

DAY = 86400
USUAL_SESSIONS = 20000
CURATION = "_curation"
AUTH = "_auth"
"""Where storage keeps tokens and keys. A repository's name never begins so."""

config_log = logging.getLogger("nora.config")
reload_log = logging.getLogger("nora.reload")
limits_log = logging.getLogger("nora.limits")
metrics_log = logging.getLogger("nora.metrics")


def make_services(config: Config, storage: Storage | None, formats: Sequence[Format] = FORMATS) -> Services:
    """`formats`: those that are served."""
    state_folder.prepare(config)
    for warning in state_folder.left_in_storage(config):
        config_log.warning("%s", warning)
    plain = storage or DiskStorage(config.storage.path)
    incoming = plain.abilities.incoming or tempfile.mkdtemp(prefix="noraflask-")
    live: Live | None = None
    first = repositories_of(config, formats)
    metrics = make_metrics(config, formats, lambda: (live.state.repositories if live else first).names)
    found = WatchedStorage(CountedStorage(plain, metrics) if isinstance(metrics, Metrics) else plain)
    staging = Staging(config.staging, incoming, most_sessions(config), metrics=metrics)
    content, audit = Content(found), Audit(config.audit, state_folder.audit_file(config), metrics=metrics)
    tokens = make_tokens(config, found)
    logins = make_logins(config, found, tokens, audit, metrics) if config.auth.enabled else None
    now = time.time()
    live = Live(make_state(config, read_policy(config, now), now, logins, formats))
    curation = Curation(make_ledger(config), Freeze(Documents(found, f"{CURATION}/")))
    reloads = Reloads()
    reloads.succeeded(live.state.policy.fingerprint, live.state.fingerprint, at_start=True)
    chores = (tokens.flush, tokens.sweep) if logins else (lambda: None, lambda: None)
    limits = make_limits(config.rate_limit, metrics, config.server.threads)
    limits_log.info("%s", limits.describe(live.state.limits))
    health = Health(staging, plain.abilities.probe, incoming, config.server.maintenance_stall_secs, *chores, metrics=metrics)
    inventory = make_inventory(live, formats, plain, content, tokens, metrics) if isinstance(metrics, Metrics) else None
    return Services(config, live, content, staging, health, curation, reloads, limits, tokens, audit, metrics, inventory, logins, tuple(formats))


def make_state(
    config: Config, policy: CurationPolicy, when: float, logins: Logins | None, formats: Iterable[Format], before: State | None = None
) -> State:
    """Whatever could fail fails here; to take the state over is one assignment. `before`: the one in whose place it comes."""
    if before is not None and policy.fingerprint == before.policy.fingerprint:
        policy = before.policy
    repositories = repositories_of(config, formats)
    access = Access(Policy.of(config, repositories), repositories)
    return State(
        config=config,
        repositories=repositories,
        access=access,
        policy=policy,
        permits=Permits(policy),
        limits=Limits.of(config.rate_limit),
        authenticator=make_authenticator(config, access, logins, before.authenticator if before else None) if logins else None,
        when=when,
        policy_when=before.policy_when if before is not None and policy is before.policy else when,
        keeps_ledger=config.curation.ledger and policy.settings.mode != "off",
        fingerprint=fingerprint_of(config, policy),
    )


def repositories_of(config: Config, formats: Iterable[Format]) -> Repositories:
    """The default repository of each format that is served, whose name is the format's, and the named ones."""
    served = [format.id for format in formats if config.formats[format.id].enabled]
    defaults = (Repository(id, id, settings=config.formats[id], is_default=True) for id in served)
    tables = [one for one in config.repositories if one.format in served]
    named = (Repository(one.name, one.format, one.kind, one.settings, one.hosts, one.ns, title=one.title, place=one.place) for one in tables)
    return Repositories([*defaults, *named])


def most_sessions(config: Config) -> int:
    """Unfinished uploads of all formats at one time: as many as the most generous section allows."""
    return max((getattr(section, "max_upload_sessions", 0) for section in config.formats.values()), default=0) or USUAL_SESSIONS


def make_metrics(config: Config, formats: Iterable[Format], names: Callable[[], Collection[str]]) -> NullMetrics:
    """A server that cannot count goes on all the same. `names`: of all repositories that there are now."""
    if not config.metrics.enabled:
        return NullMetrics()
    try:
        return Metrics(CounterFiles(parent_folder()), names, [format.id for format in formats])
    except OSError as problem:
        metrics_log.warning("metrics are off, there is no folder for them: %s; PROMETHEUS_MULTIPROC_DIR may name one, best on a tmpfs", problem)
        return NullMetrics()


def make_inventory(live: Live, formats: Iterable[Format], storage: Storage, content: Content, tokens: Tokens, metrics: Metrics) -> Inventory:
    stocks = {format.id: format.stock for format in formats}

    def names() -> Iterator[tuple[str, Iterable[str]]]:
        for one in live.state.repositories:
            yield one.name, stocks[one.format].names(content, one.name)

    return Inventory(storage, metrics.files.inside, names, lambda: (record.expires_at for record in tokens.list()), metrics)


def make_limits(config: RateLimitConfig, metrics: NullMetrics, threads: int = 8) -> RateLimits:
    """`threads`: of each worker, for short requests."""
    register()
    here, redis = make_limiter(f"{SHARED_MEMORY}://"), None
    if config.storage_url is not None:
        import_module("noraflask.services.limits.redis")  # takes memory, so only where it is wanted
        redis = make_limiter(f"nora+{config.storage_url}")
    return RateLimits(here, redis, metrics, seats=max(1, threads // 4))


def make_limiter(uri: str) -> TokenBucket:
    """What counts is flask-limiter's, with a storage and a strategy of ours.

    Its hooks stay on an app that serves nothing, because they would take each request some hundred microseconds; web/limits.py asks instead.
    """
    from flask_limiter import Limiter  # after services/limits, which says how much of it is read

    limiter = Limiter(lambda: "", storage_uri=uri, strategy=TOKEN_BUCKET)
    limiter.init_app(Flask("limits", static_folder=None))
    found: TokenBucket = limiter.limiter  # type: ignore[assignment]
    return found


def read_policy(config: Config, now: float) -> CurationPolicy:
    """Raises ConfigError for rule files that cannot be used."""
    data, rules = load_policy(config.curation, now)
    for warning in rules.warnings:
        reload_log.warning("%s", warning)
    return CurationPolicy.from_buffer(data)


def make_ledger(config: Config) -> Ledger:
    return Ledger(state_folder.ledger_folder(config), config.curation.ledger_days)


def make_logins(config: Config, storage: Storage, tokens: Tokens, audit: Audit, metrics: NullMetrics) -> Logins:
    users, signer, trusted = make_users(config), make_signer(config, storage), config.server.trusted_proxies
    users.start()
    for warning in without_place(config, users.current()):
        config_log.warning("%s", warning)
    signer.start()
    issuer_keys = Documents(storage, f"{AUTH}/jwks/")
    return Logins(users, tokens, signer, Lockout(), audit, lambda environ: client_address(environ, trusted), metrics=metrics, issuer_keys=issuer_keys)


def make_authenticator(config: Config, access: Access, logins: Logins, before: Authenticator | None) -> Authenticator:
    """With the issuers' keys of the one before, where its issuers are the same."""
    auth = config.auth

    def accepts(who: Principal) -> bool:
        return accepts_claims(access.policy, who)

    if before is not None and issuers_of(auth) == issuers_of(before.config):
        return Authenticator(auth, before.oidc.by(accepts), logins)
    providers, leeway, cache = issuers_of(auth)
    return Authenticator(auth, Oidc(providers, leeway, cache, logins.issuer_keys, accepts=accepts), logins)


def issuers_of(auth: AuthConfig) -> tuple[tuple[OidcProvider, ...], int, int]:
    return auth.oidc_providers if auth.oidc_enabled else (), auth.oidc_leeway_secs, auth.oidc_jwks_cache_secs


def make_users(config: Config) -> Users:
    return Users(config.auth.htpasswd_file, config.auth.groups_file, config.auth.token_cache_ttl)


def make_tokens(config: Config, storage: Storage) -> Tokens:
    folder = config.auth.token_storage
    documents = Documents(DiskStorage(folder, private=True)) if folder else Documents(storage, f"{AUTH}/tokens/")
    return Tokens(documents, config.auth.token_cache_ttl)


def make_signer(config: Config, storage: Storage) -> Signer:
    return Signer(Documents(storage, f"{AUTH}/keys/"), max(config.auth.refresh_ttl_days * DAY, config.auth.bearer_ttl_secs))
