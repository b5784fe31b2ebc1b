"""The sections of logins and rights, with their arrays of tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

from noraflask.config.sections import FOLDER, PATH
from noraflask.config.tables import TableArray
from noraflask.config.text_file import shown
from noraflask.settings import DAY, Bad, Choice, Listed, Switch, Text, WholeNumber, live_setting, setting
from noraflask.settings.texts import (
    read_algorithm,
    read_contact,
    read_issuer,
    read_name_pattern,
    read_path,
    read_scope_pattern,
    read_text,
    read_uri,
    read_word,
)

_WORD = "1 to 255 printable characters without spaces"
_TEXT = Text("1 to 255 printable characters", read_text)
_FILE = Text("a path of printable characters", read_path, optional=True)
_CLAIM_PATTERNS = Listed("a pattern of 1 to 255 printable characters", read_text, least=1)
_SCOPE = Listed(f"patterns of {_WORD}", read_scope_pattern)


@dataclass(frozen=True)
class Claims:
    """A pattern, or a list of them, for each claim. A claim inside of another has a name with a dot, as TOML's dotted keys write it."""

    expected: str = "a table of claims, each with a pattern or an array of patterns"

    def from_text(self, text: str) -> tuple[tuple[str, str], ...]:
        raise Bad(f"expected {self.expected}")

    def from_toml(self, value: Any) -> tuple[tuple[str, str], ...]:
        if not isinstance(value, dict) or not value:  # an empty table would let everybody in where somebody was meant
            raise Bad(f"expected {self.expected}")
        return tuple(self._pairs(value, ""))

    def _pairs(self, table: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
        for key, value in table.items():
            name = prefix + key
            if isinstance(value, dict) and value:
                yield from self._pairs(value, f"{name}.")
                continue
            try:
                yield from ((name, pattern) for pattern in _CLAIM_PATTERNS.from_toml(value))
            except Bad as bad:
                raise Bad(f"claim {shown(name)}: {bad.text}", show_value=False) from None


@dataclass(frozen=True)
class Actions:
    """The words of a rule's actions, as they are written; see _finish_rule()."""

    expected: str = "pull, push, delete and admin, or a role: read, write or admin"

    def from_text(self, text: str) -> tuple[str, ...]:
        raise Bad(f"expected {self.expected}")

    def from_toml(self, value: Any) -> tuple[str, ...]:
        return Listed(self.expected, _read_action, least=1).from_toml(value)


ACTIONS = ("pull", "push", "delete", "admin")
_ACTIONS_OF_ROLE = {"read": ("pull",), "write": ("pull", "push", "delete"), "admin": ACTIONS}


def _read_action(text: str) -> str:
    if text.lower() not in (*ACTIONS, *_ACTIONS_OF_ROLE):
        raise ValueError(text)
    return text.lower()


@dataclass(frozen=True)
class AccessRule:
    """Who may, or may not, do what to which names. Who: any of users, groups, anonymous, or a provider's identity with all of the claims."""

    place: str = field(compare=False)  # "config.toml:14"
    actions: tuple[str, ...] = setting(
        MISSING, Actions(), "Allowed or denied. In a rule that denies, admin is only that action and write is not taken."
    )
    title: str = setting("", _TEXT, "Shown where the rule decided.")
    effect: str = setting("allow", Choice(("allow", "deny")), "A rule that denies wins over all that allow.")
    users: tuple[str, ...] = setting((), Listed(f"patterns of {_WORD}", read_word), "Users of the htpasswd file and owners of tokens.")
    groups: tuple[str, ...] = setting((), Listed(f"patterns of {_WORD}", read_word), "Groups of the groups file.")
    anonymous: bool = setting(False, Switch(), "Everybody, with a login or without; may only allow pull.")
    provider: str = setting("", _TEXT, "Identities of the OIDC provider of this name. Unset, and claims set: of any provider.")
    claims: tuple[tuple[str, str], ...] = setting(
        (), Claims(), "All claims must match; of several patterns of one claim, one. A claim inside of another: `a.b`."
    )
    repositories: tuple[str, ...] = setting(("*",), Listed(f"patterns of {_WORD}", read_word, least=1), "Repositories the rule is about.")
    names: tuple[str, ...] = setting(
        ("**",),
        Listed(f"patterns of {_WORD}", read_name_pattern, least=1),
        "Names the rule is about; `{user}` and `{claim:NAME}` stand for the asker's own.",
    )


def _finish_rule(place: str, values: dict[str, Any]) -> dict[str, Any]:
    """Roles become their actions. In a rule that denies, `write` would take reading away too, which hardly anybody means, so it is not taken."""
    words = values["actions"]
    if values.get("effect") == "deny":
        if "write" in words:
            raise Bad('actions: the role write holds pull as well; a rule that denies names the actions, such as ["push", "delete"]')
        chosen = {"pull" if word == "read" else word for word in words}
    else:
        chosen = {action for word in words for action in _ACTIONS_OF_ROLE.get(word, (word,))}
    return {**values, "place": place, "actions": tuple(action for action in ACTIONS if action in chosen)}


RULES = TableArray("access.rules", AccessRule, most=1000, finish=_finish_rule)


@dataclass(frozen=True)
class RoleRule:
    """The role of an OIDC identity by its claim `sub`; the first rule of its provider that matches decides."""

    pattern: str = setting(MISSING, _TEXT, "For the claim `sub`; `*` stands for any run of characters, also for slashes.")
    role: str = setting(MISSING, Choice(("read", "write", "admin")), "What a matching identity may; the first rule that matches decides.")
    namespace_scope: tuple[str, ...] | None = setting(None, _SCOPE, "Names it may write; the provider's must allow them as well.")


ROLE_RULES = TableArray("auth.oidc.providers.role_rules", RoleRule, most=1000)


@dataclass(frozen=True)
class OidcProvider:
    """An issuer whose tokens are accepted as credentials (workload identity of a CI system or a cluster)."""

    name: str = setting(MISSING, _TEXT, "For rules, logs and metrics.")
    issuer: str = setting(MISSING, Text("an http:// or https:// address", read_issuer), "Equal to the claim `iss`, to the letter.")
    audience: tuple[str, ...] = setting((), Listed("texts of 1 to 255 printable characters", read_text), "One of them must be in the claim `aud`.")
    any_audience: bool = setting(False, Switch(), "Takes tokens that were made for other services too; without effect when audience is set.")
    jwks_uri: str | None = setting(
        None, Text("an http:// or https:// address", read_uri, optional=True), "Where the issuer's keys are. Unset: by discovery."
    )
    algorithms: tuple[str, ...] = setting(
        ("RS256", "ES256"),
        Listed("names of asymmetric signature algorithms", read_algorithm, least=1),
        "RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA, Ed25519.",
    )
    max_token_lifetime_secs: int = setting(7200, WholeNumber(60, 365 * DAY), "Longest life of a token, `exp` less `iat`.")
    namespace_scope: tuple[str, ...] = setting(("*",), _SCOPE, 'Names its identities may write. `["*"]`: all; `[]`: none.')
    namespace_scope_enforcement: str = setting("enforce", Choice(("enforce", "audit")), "audit only logs what enforce would refuse.")
    enabled: bool = setting(True, Switch(), "Whether its tokens are taken.")
    ca_file: Path | None = setting(None, _FILE, "Certificates to trust for the issuer, PEM. Unset: the system's.")
    bearer_token_file: Path | None = setting(None, _FILE, "Its content is sent to the issuer as a bearer token, as Kubernetes wants it.")
    role_rules: tuple[RoleRule, ...] = setting((), ROLE_RULES, "See below.")


PROVIDERS = TableArray("auth.oidc.providers", OidcProvider, most=100)


@dataclass(frozen=True)
class AuthConfig:
    enabled: bool = setting(
        False, Switch(), "Whether rights are asked for. false: whoever reaches the port may do everything.", env="NORA_AUTH_ENABLED"
    )
    anonymous_read: bool = live_setting(
        False,
        Switch(),
        "Whether formats other than docker may be read without a login.",
        env="NORA_AUTH_ANONYMOUS_READ",
    )
    docker_anon_pull: bool = live_setting(False, Switch(), "Whether images may be pulled without a login.", env="NORA_AUTH_DOCKER_ANON_PULL")
    public_web_ui: bool = setting(False, Switch(), "Taken for NORA's sake: there is no web UI yet.", env="NORA_AUTH_PUBLIC_WEB_UI")
    public_metrics: bool = setting(True, Switch(), "Whether /metrics is open without a login.", env="NORA_AUTH_PUBLIC_METRICS")
    htpasswd_file: Path = setting(
        Path("users.htpasswd"),
        FOLDER,
        "Users and their passwords, in bcrypt. A relative path starts at the working folder.",
        env="NORA_AUTH_HTPASSWD_FILE",
    )
    groups_file: Path | None = setting(None, PATH, "Groups and their users.", env="NORA_AUTH_GROUPS_FILE")
    token_storage: Path | None = setting(None, PATH, "Folder of API tokens. Unset: they are kept in the storage.", env="NORA_AUTH_TOKEN_STORAGE")
    token_cache_ttl: int = setting(
        300,
        WholeNumber(0, 7 * DAY),
        "Seconds that a verified secret is remembered in memory; 0 = not at all.",
        env="NORA_AUTH_TOKEN_CACHE_TTL",
    )
    admin_users: tuple[str, ...] = live_setting(
        (),
        Listed("user names of 1 to 255 printable characters", read_text, commas=True),
        "Users who may make admin tokens with their password. The file takes a string or an array.",
        env="NORA_AUTH_ADMIN_USERS",
    )
    bearer_ttl_secs: int = live_setting(300, WholeNumber(1, DAY), "Life of a Docker bearer token, in seconds.", env="NORA_AUTH_BEARER_TTL_SECS")
    refresh_tokens: bool = live_setting(
        True,
        Switch(),
        "Whether `docker login` is given a refresh token in place of the password. false: it keeps name and password, which Kubernetes and other "
        "readers of its config.json can use.",
        env="NORA_AUTH_REFRESH_TOKENS",
    )
    refresh_ttl_days: int = live_setting(30, WholeNumber(1, 3650), "Life of a Docker refresh token, in days.", env="NORA_AUTH_REFRESH_TTL_DAYS")
    oidc_enabled: bool = live_setting(
        False,
        Switch(),
        "Whether tokens of the providers are taken as a login; without effect unless auth.enabled.",
        env="NORA_AUTH_OIDC_ENABLED",
        key="auth.oidc.enabled",
    )
    oidc_leeway_secs: int = live_setting(60, WholeNumber(0, 3600), "Clock skew allowed in the times of a token.", key="auth.oidc.leeway_secs")
    oidc_jwks_cache_secs: int = live_setting(
        3600,
        WholeNumber(0, 604800),
        "Seconds after which an issuer's keys are fetched again; less than 10 counts as 10.",
        key="auth.oidc.jwks_cache_secs",
    )
    oidc_providers: tuple[OidcProvider, ...] = live_setting((), PROVIDERS, "Issuers whose tokens are taken; see Access.", key="auth.oidc.providers")


@dataclass(frozen=True)
class AccessConfig:
    default_role: str | None = live_setting(
        None,
        Choice(("read", "write", "none"), optional=True),
        "What a user with a password may on every name. Unset: write when there are no rules, else none.",
        env="NORA_ACCESS_DEFAULT_ROLE",
    )
    contact: str | None = live_setting(
        None,
        Text("1 to 200 printable characters", read_contact, optional=True),
        "To whom to turn: named in every denial.",
        env="NORA_ACCESS_CONTACT",
    )
    rules: tuple[AccessRule, ...] = live_setting((), RULES, "Who may do what to which names; see Access.")
