"""Arrays of tables: the kind of their settings, and what the tables of [[access.rules]] and [[auth.oidc.providers]] may hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from noraflask.config.kinds import Bad, Choice, Kind, Listed, Switch, Text, WholeNumber, read_path
from noraflask.config.model import AccessRule, OidcProvider, RoleRule
from noraflask.config.patterns import read_algorithm, read_issuer, read_name_pattern, read_scope_pattern, read_text, read_uri, read_word
from noraflask.config.telling import got, nearest
from noraflask.config.toml_file import LinedTable, dotted, shown


@dataclass(frozen=True)
class Problem:
    place: str  # "config.toml:14"; empty: where the array is
    path: str  # after the key of the array: "[2].actions"
    text: str


class BadTables(Bad):
    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems[0].text)
        self.problems = problems


@dataclass(frozen=True)
class Field:
    key: str
    kind: Kind
    meaning: str
    required: bool = False


@dataclass(frozen=True)
class TableArray:
    """One value for each table. `make` gets the place of the table and the fields that are there; it may raise Bad about them together."""

    header: str
    fields: tuple[Field, ...]
    make: Callable[[str, dict[str, Any]], Any]
    most: int

    @property
    def expected(self) -> str:
        return f"at most {self.most} tables [[{self.header}]]"

    def from_text(self, text: str) -> tuple[Any, ...]:
        raise Bad(f"expected {self.expected} in the file")

    def from_toml(self, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
            raise Bad(f"expected {self.expected}")
        if len(value) > self.most:
            raise Bad(f"expected {self.expected}, got {len(value)}", show_value=False)
        problems: list[Problem] = []
        made = [self._made(table, f"[{number}]", problems) for number, table in enumerate(value, 1)]
        if problems:
            raise BadTables(problems)
        return tuple(made)

    def _made(self, table: dict[str, Any], path: str, problems: list[Problem]) -> Any:
        """The value; with a problem, which is added to the others, nothing."""
        values: dict[str, Any] = {}
        found = list(self._read(table, values))
        if not found:
            try:
                return self.make(_place(table), values)
            except Bad as bad:
                found = [Problem(_place(table), "", bad.text)]
        problems += [replace(problem, path=path + problem.path) for problem in found]
        return None

    def _read(self, table: dict[str, Any], values: dict[str, Any]) -> Iterator[Problem]:
        known = {field.key: field for field in self.fields}
        for key, value in table.items():
            place, path = _place(table, key), "." + dotted((key,))
            if key not in known:
                yield Problem(place, path, _unknown(key, list(known)))
                continue
            try:
                values[key] = known[key].kind.from_toml(value)
            except BadTables as bad:
                yield from (replace(inner, place=inner.place or place, path=path + inner.path) for inner in bad.problems)
            except Bad as bad:
                yield Problem(place, path, bad.text + got(value, bad, known[key].kind, (key,)))
        for field in self.fields:
            if field.required and field.key not in table:
                yield Problem(_place(table), f".{field.key}", f"is missing, expected {field.kind.expected}")


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
    """The words of a rule's actions, as they are written; see _rule()."""

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


def _rule(place: str, values: dict[str, Any]) -> AccessRule:
    """Roles become their actions. In a rule that denies, `write` would take reading away too, which hardly anybody means, so it is not taken."""
    words = values["actions"]
    if values.get("effect") == "deny":
        if "write" in words:
            raise Bad('actions: the role write holds pull as well; a rule that denies names the actions, such as ["push", "delete"]')
        chosen = {"pull" if word == "read" else word for word in words}
    else:
        chosen = {action for word in words for action in _ACTIONS_OF_ROLE.get(word, (word,))}
    return AccessRule(**{**values, "place": place, "actions": tuple(action for action in ACTIONS if action in chosen)})


def _role_rule(_place: str, values: dict[str, Any]) -> RoleRule:
    return RoleRule(**values)


def _provider(_place: str, values: dict[str, Any]) -> OidcProvider:
    return OidcProvider(**values)


def places(value: Any) -> tuple[str, ...]:
    """Of each table of an array; nothing for other values."""
    return tuple(_place(table) for table in value) if isinstance(value, list) else ()


def _place(table: Any, key: str = "") -> str:
    return table.place(key) if isinstance(table, LinedTable) else ""


def _unknown(key: str, known: list[str]) -> str:
    near = nearest(key, known)
    return f"unknown key, did you mean {near}?" if near else f"unknown key, valid are {', '.join(known)}"


_WORD = "1 to 255 printable characters without spaces"
_TEXT = Text("1 to 255 printable characters", read_text)
_FILE = Text("a path of printable characters", read_path, optional=True)
_CLAIM_PATTERNS = Listed("a pattern of 1 to 255 printable characters", read_text, least=1)
_SCOPE = Listed(f"patterns of {_WORD}", read_scope_pattern)

RULES = TableArray(
    "access.rules",
    (
        Field("title", _TEXT, "Shown where the rule decided."),
        Field("effect", Choice(("allow", "deny")), "A rule that denies wins over all that allow."),
        Field("users", Listed(f"patterns of {_WORD}", read_word), "Users of the htpasswd file and owners of tokens."),
        Field("groups", Listed(f"patterns of {_WORD}", read_word), "Groups of the groups file."),
        Field("anonymous", Switch(), "Everybody, with a login or without; may only allow pull."),
        Field("provider", _TEXT, "Identities of the OIDC provider of this name. Unset, and claims set: of any provider."),
        Field("claims", Claims(), "All claims must match; of several patterns of one claim, one. A claim inside of another: `a.b`."),
        Field("repositories", Listed(f"patterns of {_WORD}", read_word, least=1), "Repositories the rule is about."),
        Field(
            "names",
            Listed(f"patterns of {_WORD}", read_name_pattern, least=1),
            "Names the rule is about; `{user}` and `{claim:NAME}` stand for the asker's own.",
        ),
        Field("actions", Actions(), "Allowed or denied. In a rule that denies, admin is only that action and write is not taken.", required=True),
    ),
    _rule,
    most=1000,
)

ROLE_RULES = TableArray(
    "auth.oidc.providers.role_rules",
    (
        Field("pattern", _TEXT, "For the claim `sub`; `*` stands for any run of characters, also for slashes.", required=True),
        Field("role", Choice(("read", "write", "admin")), "What a matching identity may; the first rule that matches decides.", required=True),
        Field("namespace_scope", _SCOPE, "Names it may write; the provider's must allow them as well."),
    ),
    _role_rule,
    most=1000,
)

PROVIDERS = TableArray(
    "auth.oidc.providers",
    (
        Field("name", _TEXT, "For rules, logs and metrics.", required=True),
        Field("issuer", Text("an http:// or https:// address", read_issuer), "Equal to the claim `iss`, to the letter.", required=True),
        Field("audience", Listed("texts of 1 to 255 printable characters", read_text), "One of them must be in the claim `aud`."),
        Field("any_audience", Switch(), "Takes tokens that were made for other services too; without effect when audience is set."),
        Field("jwks_uri", Text("an http:// or https:// address", read_uri, optional=True), "Where the issuer's keys are. Unset: by discovery."),
        Field(
            "algorithms",
            Listed("names of asymmetric signature algorithms", read_algorithm, least=1),
            "RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA, Ed25519.",
        ),
        Field("max_token_lifetime_secs", WholeNumber(60, 365 * 86400), "Longest life of a token, `exp` less `iat`."),
        Field("namespace_scope", _SCOPE, 'Names its identities may write. `["*"]`: all; `[]`: none.'),
        Field("namespace_scope_enforcement", Choice(("enforce", "audit")), "audit only logs what enforce would refuse."),
        Field("enabled", Switch(), "Whether its tokens are taken."),
        Field("ca_file", _FILE, "Certificates to trust for the issuer, PEM. Unset: the system's."),
        Field("bearer_token_file", _FILE, "Its content is sent to the issuer as a bearer token, as Kubernetes wants it."),
        Field("role_rules", ROLE_RULES, "See below."),
    ),
    _provider,
    most=100,
)
