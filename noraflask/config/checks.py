"""What only shows between settings: contradictions, which stop the start, and warnings, which do not."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from noraflask.config.access import AccessRule, OidcProvider
from noraflask.config.curation import CurationConfig
from noraflask.config.dead_patterns import dead_scope, formats_of
from noraflask.config.model import Config
from noraflask.config.other_users import planted
from noraflask.config.reading import Reading
from noraflask.config.repositories import conflicts
from noraflask.config.text_file import label_of
from noraflask.ecosystems import Ecosystem
from noraflask.settings.texts import placeholders

SHORTEST_BEARER_SECONDS = 60
"""distribution's token specification: "a token should never be returned with less than 60 seconds to live"."""
SHORTEST_BYPASS = 16
NORA_TOKENS = "data/tokens"
"""NORA's default for auth.token_storage; ours is the registry's storage."""


def contradictions(config: Config, reading: Reading) -> list[str]:
    """Pairs of values that are fine alone and not together. A pair with a value that has a problem of its own is left out."""
    server, staging = config.server, config.staging
    pairs = [
        ("staging.share_bytes", staging.share_bytes, "staging.budget_bytes", staging.budget_bytes),
        ("server.workers", server.workers, "server.max_connections", server.max_connections),
    ]
    found = []
    for small, low, large, high in pairs:
        if low > high and not {small, large} & reading.doubtful:
            given = reading.values.get(small) or reading.values[large]
            found.append(f"{given.place}: {small} is {low}, expected at most the {high} of {large} (from {config.sources[large]})")
    repositories = conflicts(config.repositories, config.formats, config.sources)
    return [
        *found,
        *_provider_problems(config, reading),
        *_rule_problems(config, reading),
        *_curation_problems(config, reading),
        *repositories,
    ]


def _provider_problems(config: Config, reading: Reading) -> Iterator[str]:
    providers = config.auth.oidc_providers
    formats = {} if "repositories" in reading.doubtful else formats_of(config)
    for number, provider in enumerate(providers, 1):
        begin = f"{reading.values['auth.oidc_providers'].tables[number - 1]}: auth.oidc.providers[{number}]"
        for field in ("name", "issuer"):
            # Two of one issuer may stand side by side while only one of them is enabled, as in the middle of a change.
            same = [at for at, other in enumerate(providers, 1) if getattr(other, field) == getattr(provider, field)]
            rivals = [at for at in same if field == "name" or providers[at - 1].enabled]
            if number in rivals[1:]:
                yield f"{begin}.{field}: is that of auth.oidc.providers[{rivals[0]}] as well"
        yield from _scope_problems(begin, provider, formats)
        if config.auth.enabled and config.auth.oidc_enabled and provider.enabled and not provider.audience and not provider.any_audience:
            yield f"{begin}.audience: is missing, so tokens made for other services would be taken; set it, or any_audience = true"


def _scope_problems(begin: str, provider: OidcProvider, formats: Mapping[str, Ecosystem]) -> Iterator[str]:
    scopes = [("namespace_scope", provider.namespace_scope)]
    scopes += [(f"role_rules[{number}].namespace_scope", rule.namespace_scope or ()) for number, rule in enumerate(provider.role_rules, 1)]
    for key, names in scopes:
        yield from (f"{begin}.{key}: {why}" for _, why in dead_scope(("*",), names, formats))


def _rule_problems(config: Config, reading: Reading) -> Iterator[str]:
    formats = {} if "repositories" in reading.doubtful else formats_of(config)
    providers = {provider.name for provider in config.auth.oidc_providers}
    for number, rule in enumerate(config.access.rules, 1):
        begin = f"{rule.place}: access.rules[{number}]"
        if rule.provider and rule.provider not in providers and "auth.oidc_providers" not in reading.doubtful:
            yield f"{begin}.provider: no provider of auth.oidc has this name"
        for problem in _problems_of(rule):
            yield f"{begin}{problem}"
        for key, why in dead_scope(rule.repositories, rule.names, formats):
            yield f"{begin}.{key}: {why}"


def _problems_of(rule: AccessRule) -> Iterator[str]:
    """What is wrong with the rule by itself."""
    named = bool(rule.users or rule.groups)
    identities = bool(rule.provider or rule.claims)
    if not (named or identities or rule.anonymous):
        yield ": names nobody, expected users, groups, anonymous, provider or claims"
    if "admin" in rule.actions and (_is_limited(rule.names) or _is_limited(rule.repositories)):
        yield ".actions: admin is about the whole server, so the rule must not limit names or repositories"
    if rule.anonymous and rule.effect == "allow" and rule.actions != ("pull",):
        yield ".actions: everybody, with anonymous = true, may only be allowed pull"
    used = set[str]().union(*map(placeholders, rule.names))
    if "claim" in used and not identities:
        yield ".names: {claim:NAME} needs an identity with claims; set provider or claims"
    if "user" in used and rule.anonymous and not (named or identities):
        yield ".names: {user} needs a user; a rule for everybody has none"


def _curation_problems(config: Config, reading: Reading) -> Iterator[str]:
    curation = config.curation
    if any(name.startswith("curation.") for name in reading.doubtful):
        return
    if curation.mode == "enforce" and not _has_control(curation):
        yield (
            f"{reading.values['curation.mode'].place}: enforce, and nothing is set that could refuse anything; set rules_path, blocklist_path, "
            "allowlist_path, internal_namespaces, min_release_age or quarantine"
        )
    if curation.require_integrity and not (curation.allowlist_path or curation.rules_path):
        yield f"{reading.values['curation.require_integrity'].place}: is about the allowlist; set curation.allowlist_path or curation.rules_path"
    if curation.mode != "off":
        for key, path in _missing_rule_files(curation):
            yield f"{reading.values[key].place}: {label_of(path)} is not there; put it there, or take the setting out"


def _has_control(curation: CurationConfig) -> bool:
    files = curation.allowlist_path or curation.blocklist_path or curation.rules_path
    return bool(files or curation.internal_namespaces or _has_age(curation) or _has_quarantine(curation))


def _has_age(curation: CurationConfig) -> bool:
    return bool(curation.min_release_age or any(own.min_release_age for _, own in curation.formats))


def _has_quarantine(curation: CurationConfig) -> bool:
    return any(mode not in (None, "off") for mode in (curation.quarantine, *(own.quarantine for _, own in curation.formats)))


def _rule_files(curation: CurationConfig) -> Iterator[tuple[str, Path | None]]:
    yield "curation.blocklist_path", curation.blocklist_path
    yield "curation.allowlist_path", curation.allowlist_path
    yield "curation.rules_path", curation.rules_path


def _missing_rule_files(curation: CurationConfig) -> Iterator[tuple[str, Path]]:
    for key, path in _rule_files(curation):
        if path is not None and not os.path.lexists(path):
            yield key, path


def _is_limited(patterns: tuple[str, ...]) -> bool:
    return not {"*", "**"} & set(patterns)


def warnings(config: Config, file: Path | None) -> list[str]:
    return list(_warnings(config, file))


def _warnings(config: Config, file: Path | None) -> Iterator[str]:
    server = config.server
    if server.keep_alive_timeout <= 90:
        yield f"server.keep_alive_timeout = {server.keep_alive_timeout}: a proxy may reuse a connection that is being closed; use more than 90"
    if server.public_url and _is_loopback(urlsplit(server.public_url).hostname or ""):
        yield f"server.public_url = {server.public_url}: only clients on this machine can follow such URLs"
    if any(ipaddress.ip_network(entry, strict=False).prefixlen == 0 for entry in server.trusted_proxies):
        yield "auth.trusted_proxies: a network of length /0 trusts everybody, so every client can forge its address"
    if not any(section.enabled for section in config.formats.values()):
        yield f"{', '.join(f'{name}.enabled = false' for name in config.formats)}: no format is served"
    for key, path in _paths(config):
        if file is not None and path is not None and not path.is_absolute():
            yield f"{key} = {path}: is relative to the working folder, not to the configuration file; use an absolute path"
        stranger = planted(path) if path is not None and key != "staging.path" else None
        if stranger:
            yield f"{key} = {path}: {stranger}"
    yield from _access_warnings(config) if config.auth.enabled else _open_warnings(config)
    yield from _provider_warnings(config)
    yield from _curation_warnings(config)
    if config.auth.public_web_ui:
        yield "auth.public_web_ui = true: has no effect, there is no web UI yet"


def _paths(config: Config) -> Iterator[tuple[str, Path | None]]:
    yield "storage.path", config.storage.path
    yield "state.path", config.state.path
    yield "staging.path", config.staging.path
    if config.auth.enabled:  # else they are not used
        yield "auth.htpasswd_file", config.auth.htpasswd_file
        yield "auth.groups_file", config.auth.groups_file
        yield "auth.token_storage", config.auth.token_storage
    yield "audit.path", config.audit.path
    yield "metrics.token_file", config.metrics.token_file
    yield from _rule_files(config.curation)
    yield "curation.ledger_path", config.curation.ledger_path


def _access_warnings(config: Config) -> Iterator[str]:
    auth = config.auth
    if auth.anonymous_read:
        yield "auth.anonymous_read = true: everybody may read all formats other than docker"
    if auth.docker_anon_pull:
        yield "auth.docker_anon_pull = true: everybody may pull all images"
    if not os.path.exists(auth.htpasswd_file):  # unlike Path's, quiet about a folder that may not be entered
        rest = "only tokens and OIDC identities are let in" if auth.oidc_enabled else "nobody can log in with a password"
        yield f"auth.htpasswd_file = {auth.htpasswd_file}: is not there; {rest}"
    if auth.token_storage is None and os.path.isdir(NORA_TOKENS):
        yield f'{NORA_TOKENS} is where NORA keeps API tokens; to go on using those, set auth.token_storage = "{NORA_TOKENS}"'

    if auth.bearer_ttl_secs < SHORTEST_BEARER_SECONDS:
        yield (
            f"auth.bearer_ttl_secs = {auth.bearer_ttl_secs}: docker, podman, skopeo and regctl use a token for {SHORTEST_BEARER_SECONDS} seconds "
            "whatever it says; a push that takes longer than the token lives may fail"
        )

    if auth.oidc_enabled and auth.oidc_providers:
        for number, rule in enumerate(config.access.rules, 1):
            if rule.effect == "deny" and "*" in rule.users and not rule.anonymous:
                yield (
                    f"{rule.place}: access.rules[{number}]: denies all users, who are those of this registry; OIDC identities are not among them. "
                    "anonymous = true means everybody"
                )


def _open_warnings(config: Config) -> Iterator[str]:
    auth = config.auth
    if not _is_loopback(config.server.host):
        yield "auth.enabled = false: everybody who reaches the port may read, write and delete"
    unused = {"auth.admin_users": auth.admin_users, "auth.oidc.providers": auth.oidc_providers, "access.rules": config.access.rules}
    for key in (key for key, value in unused.items() if value):
        yield f"{key}: has no effect, because auth.enabled is false"


def _curation_warnings(config: Config) -> Iterator[str]:
    curation = config.curation
    if curation.bypass_token is not None:
        source = config.sources["curation.bypass_token"]
        if source != "NORA_CURATION_BYPASS_TOKEN":
            yield f"curation.bypass_token: stands in {source} for all to read; set NORA_CURATION_BYPASS_TOKEN instead"
        if len(curation.bypass_token) < SHORTEST_BYPASS:
            yield f"curation.bypass_token: is shorter than {SHORTEST_BYPASS} characters and can be guessed; take a longer one"
    if curation.mode == "off":
        for key, path in _missing_rule_files(curation):
            yield f"{key} = {path}: is not there; with another curation.mode this stops the start"
        idle = any(path for _, path in _rule_files(curation)) or _has_age(curation)
        if idle:
            yield "curation.mode = off: rule files and ages have no effect, internal namespaces and quarantine have"
    elif curation.unknown_age == "allow" and _has_age(curation):
        yield "curation.unknown_age = allow: a version whose date is not known passes, however young it is"


def _provider_warnings(config: Config) -> Iterator[str]:
    for number, provider in enumerate(config.auth.oidc_providers, 1):
        begin = f"auth.oidc.providers[{number}]"
        issuer = urlsplit(provider.issuer)
        if issuer.scheme.lower() == "http" and not _is_loopback(issuer.hostname or ""):
            yield f"{begin}.issuer = {provider.issuer}: without TLS its keys can be forged on the way"
        if provider.any_audience:
            effect = "has no effect, because audience is set" if provider.audience else "tokens that were made for other services are taken"
            yield f"{begin}.any_audience = true: {effect}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
