"""Rights: what a principal may do to which names, and which rule says so. Pure functions of a policy and a principal.

What is granted comes from roles and from `[[access.rules]]`; a rule that denies wins over all grants; what a credential is cut to (a token's role and
scopes, the scopes of a bearer token, the namespaces of an OIDC provider) must allow it as well.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace

from noraflask.config import AccessRule, Config
from noraflask.ecosystems import Ecosystem, ecosystem_of
from noraflask.services.auth.name_patterns import holds_all_below, leads_below, matches_name
from noraflask.services.auth.principal import ROLES, Action, Principal, Scope, Source, bytes_of_principal, bytes_of_scopes
from noraflask.services.bounded_memory import BoundedMemory, bytes_of
from noraflask.services.repositories import Repository
from noraflask.settings.texts import glob

EVERYTHING = ("**",)
WRITES = frozenset((Action.PUSH, Action.DELETE))
MOST_FILLED = 1000
"""Names that one pattern with placeholders may stand for."""
LOCAL = (Source.PASSWORD, Source.TOKEN)
"""Users of this server. The `sub` of another issuer may look like one of their names and is none."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Some actions on some names, allowed or denied, and by whose word."""

    scope: Scope
    by: str
    deny: bool = False
    own: frozenset[str] = frozenset()
    """Names of the scope that hold the principal's own name: where the format takes that for another's, they are nobody's."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What a credential is cut to: one of the scopes must allow an action."""

    scopes: tuple[Scope, ...]
    by: str


@dataclass(frozen=True, slots=True)
class Decision:
    allowed: bool
    by: str
    """The rule, role or limit that decided, in words."""


@dataclass(frozen=True, slots=True)
class Rights:
    """All that bears on one principal."""

    grants: tuple[Grant, ...]
    limits: tuple[Limit, ...]


@dataclass(frozen=True)
class Policy:
    """What of the configuration decides over rights."""

    enabled: bool = False
    rules: tuple[AccessRule, ...] = ()
    default_role: str = "write"
    open_repositories: tuple[str, ...] = ()
    """Repositories that may be read without a login."""
    admin_users: tuple[str, ...] = ()
    contact: str | None = None
    fingerprint: str = ""

    @classmethod
    def of(cls, config: Config, repositories: Iterable[Repository]) -> Policy:
        auth, access = config.auth, config.access
        policy = cls(
            enabled=auth.enabled,
            rules=access.rules,
            default_role=access.default_role or ("none" if access.rules else "write"),
            open_repositories=tuple(one.name for one in repositories if getattr(auth, ecosystem_of(one.format).opened_by)),
            admin_users=auth.admin_users,
            contact=access.contact,
        )
        text = json.dumps(asdict(policy), sort_keys=True)
        return replace(policy, fingerprint=hashlib.sha256(text.encode()).hexdigest()[:16])


def rights_of(policy: Policy, principal: Principal) -> Rights:
    return Rights(grants_of(policy, principal), limits_of(policy, principal))


def grants_of(policy: Policy, principal: Principal) -> tuple[Grant, ...]:
    if not policy.enabled:
        return (Grant(Scope(ROLES["admin"]), "authentication is switched off"),)
    return tuple(_grants(policy, principal))


def limits_of(policy: Policy, principal: Principal) -> tuple[Limit, ...]:
    return tuple(_limits(principal)) if policy.enabled else ()


def decide(rights: Rights, action: Action, repository: str, name: str | None) -> Decision:
    """May that be done to the name? `name` None asks whether there is any name to which it may be done.

    `repository` is its name, "" for what belongs to none, such as administration.
    """
    for grant in rights.grants:
        if grant.deny and covers(grant.scope, action, repository, name) and (name is not None or grant.scope.names == EVERYTHING):
            return Decision(False, grant.by)
    allowed = next((grant for grant in rights.grants if not grant.deny and covers(grant.scope, action, repository, name)), None)
    if allowed is None:
        return Decision(False, "")
    for limit in rights.limits:
        if not any(covers(scope, action, repository, name) for scope in limit.scopes):
            return Decision(False, limit.by)
    return Decision(True, allowed.by)


def everywhere(rights: Rights, action: Action, repository: str) -> bool:
    """May that be done to every name of a repository, also to those nobody has thought of?"""
    if any(grant.deny and covers(grant.scope, action, repository, None) for grant in rights.grants):
        return False
    pieces = [[grant.scope for grant in rights.grants if not grant.deny], *(limit.scopes for limit in rights.limits)]
    return all(any(covers(scope, action, repository, None) and set(scope.names) & {"*", "**"} for scope in scopes) for scopes in pieces)


def reaches(rights: Rights, action: Action, repository: str, folder: str) -> bool:
    """May that be done to any name below a folder, also to those nobody has thought of? `folder` has no slash at its end."""
    for grant in rights.grants:
        if grant.deny and covers(grant.scope, action, repository, None) and any(holds_all_below(pattern, folder) for pattern in grant.scope.names):
            return False
    pieces = [[grant.scope for grant in rights.grants if not grant.deny], *(limit.scopes for limit in rights.limits)]
    return all(
        any(covers(scope, action, repository, None) and any(leads_below(pattern, folder) for pattern in scope.names) for scope in scopes)
        for scopes in pieces
    )


def covers(scope: Scope, action: Action, repository: str, name: str | None) -> bool:
    if action not in scope.actions:
        return False
    if action is Action.ADMIN:  # it is about the whole server, so a piece of it does not cover it
        return "*" in scope.repositories and not {"*", "**"}.isdisjoint(scope.names)
    if repository and scope.repositories != ("*",) and not any(glob(pattern, repository) for pattern in scope.repositories):
        return False
    return name is None or scope.names == EVERYTHING or any(matches_name(pattern, name) for pattern in scope.names)


def _grants(policy: Policy, principal: Principal) -> Iterator[Grant]:
    if policy.open_repositories:
        yield Grant(Scope(ROLES["read"], policy.open_repositories), "open to everybody")
    if principal.source is Source.PASSWORD or (principal.source is Source.TOKEN and not principal.service):
        if policy.default_role != "none":
            yield Grant(Scope(ROLES[policy.default_role]), f"default role {policy.default_role}")
        if principal.role == "admin" and principal.name in policy.admin_users:  # as in NORA: with such a token, not with the password alone
            yield Grant(Scope(ROLES["admin"]), "auth.admin_users")
    elif principal.role:
        yield Grant(Scope(ROLES[principal.role]), f"role {principal.role}")
    for number, rule in enumerate(policy.rules, 1):
        if not concerns(rule, principal):
            continue
        names = _names_of(rule, principal)
        if names:
            title = f', "{rule.title}"' if rule.title else ""
            scope = Scope(frozenset(Action(word) for word in rule.actions), rule.repositories, names)
            place = rule.place.rpartition("/")[2]  # clients read it too, and the server's folders are no business of theirs
            own = frozenset(names) - frozenset(rule.names) if principal.source in LOCAL else frozenset[str]()
            yield Grant(scope, f"rule {number} ({place}{title})", rule.effect == "deny", own)


def concerns(rule: AccessRule, principal: Principal) -> bool:
    """What is open to anonymous clients is open to all."""
    if rule.anonymous:
        return True
    if principal.source in LOCAL:
        by_group = any(glob(pattern, group) for pattern in rule.groups for group in principal.groups)
        return by_group or any(glob(pattern, principal.name) for pattern in rule.users)
    if principal.source is Source.OIDC and (rule.provider or rule.claims):
        return rule.provider in ("", principal.provider) and all(_has_claim(principal, *wanted) for wanted in _by_claim(rule.claims))
    return False


def _by_claim(pairs: Iterable[tuple[str, str]]) -> Iterable[tuple[str, list[str]]]:
    """Several patterns for one claim: one of them must match."""
    found: dict[str, list[str]] = {}
    for claim, pattern in pairs:
        found.setdefault(claim, []).append(pattern)
    return found.items()


def _has_claim(principal: Principal, claim: str, patterns: list[str]) -> bool:
    return any(name == claim and any(glob(pattern, value) for pattern in patterns) for name, value in principal.claims)


def _limits(principal: Principal) -> Iterator[Limit]:
    if principal.source is Source.TOKEN:
        role = principal.role or "read"
        yield Limit((Scope(ROLES[role]),), f"the token's role is {role}")
        if principal.scopes is not None:
            yield Limit(principal.scopes, "the token's scopes do not include it")
    for patterns in principal.namespace_scopes:
        if "*" not in patterns:
            scopes = (Scope(ROLES["admin"] - WRITES), Scope(WRITES, names=patterns))
            yield Limit(scopes, f"it is outside of the namespaces that provider {principal.provider} may write")
    if principal.bearer is not None:
        yield Limit(principal.bearer, "the bearer token was not issued for it")


def in_ecosystem(rights: Rights, ecosystem: Ecosystem) -> Rights:
    """The same rights for canonical names: a pattern matches what it would match in any spelling of a name."""
    grants = tuple(replace(grant, scope=_scope_in(_own_scope(grant, ecosystem), ecosystem)) for grant in rights.grants)
    return Rights(grants, tuple(replace(limit, scopes=tuple(_scope_in(scope, ecosystem) for scope in limit.scopes)) for limit in rights.limits))


def _own_scope(grant: Grant, ecosystem: Ecosystem) -> Scope:
    """Where letter case does not count, home/Alice is alice's: Alice has none."""
    others = {name for name in grant.own if ecosystem.same_name(name).lower() == name.lower() != name and ecosystem.same_name(name) != name}
    return replace(grant.scope, names=tuple(name for name in grant.scope.names if name not in others)) if others else grant.scope


def _scope_in(scope: Scope, ecosystem: Ecosystem) -> Scope:
    names = tuple(dict.fromkeys(spelt for pattern in scope.names for spelt in ecosystem.access_patterns(pattern)))
    return scope if names == scope.names else replace(scope, names=names)


# In whose words.


def _filled(pattern: str, principal: Principal) -> list[str]:
    """The pattern with the principal's words for {user} and {claim:name}; none when it has no such word, or one that could mean more than itself.

    Raises _TooMany.
    """
    if "{" not in pattern:
        return [pattern]
    filled = [""]
    for piece in re.split(r"(\{[^{}]*\})", pattern):
        values = [value for value in _words(piece, principal) if _is_plain(value)] if piece.startswith("{") else [piece]
        if len(filled) * len(values) > MOST_FILLED:
            raise _TooMany
        filled = [before + value for before in filled for value in values]
    return filled


class _TooMany(Exception):
    """A pattern would stand for more names than anybody could mean: a token has many values for a claim that is there several times."""


def _words(placeholder: str, principal: Principal) -> list[str]:
    word = placeholder[1:-1]
    if word == "user":
        return [principal.name] if principal.source in LOCAL else []
    claim = word.removeprefix("claim:")
    return [value.lower() for name, value in principal.claims if name == claim]


def _names_of(rule: AccessRule, principal: Principal) -> tuple[str, ...]:
    """The rule's names in the principal's words. Of too many a rule that allows has none, and one that denies has all."""
    try:
        return tuple(filled for pattern in rule.names for filled in _filled(pattern, principal))
    except _TooMany:
        return EVERYTHING if rule.effect == "deny" else ()


def _is_plain(value: str) -> bool:
    return all(part and part not in (".", "..") for part in value.split("/")) and not set(value) & set("*{}")


# In words.


def describe(rights: Rights) -> list[dict[str, object]]:
    """Grants as JSON-ready objects, for whoami."""
    return [{"effect": "deny" if grant.deny else "allow", **_scope_members(grant.scope), "by": grant.by} for grant in rights.grants]


def describe_limits(rights: Rights) -> list[dict[str, object]]:
    return [{"by": limit.by, "scopes": [_scope_members(scope) for scope in limit.scopes]} for limit in rights.limits]


def _scope_members(scope: Scope) -> dict[str, object]:
    order = [action.value for action in Action if action in scope.actions]
    return {"actions": order, "repositories": list(scope.repositories), "names": list(scope.names)}


def without_bearer(principal: Principal) -> Principal:
    """The principal by its own rights, whatever the bearer token in hand was issued for."""
    return principal if principal.bearer is None else replace(principal, bearer=None)


class Access:
    """The question every route asks, of one policy. What it worked out before is kept, and dies with it."""

    def __init__(self, policy: Policy, repositories: Iterable[Repository] = ()) -> None:
        self.policy = policy
        self._ecosystems = {one.name: ecosystem_of(one.format) for one in repositories}
        self._known: BoundedMemory[Principal, _Known] = BoundedMemory(RIGHTS_BYTES)
        self._granted: BoundedMemory[Principal, tuple[Grant, ...]] = BoundedMemory(RIGHTS_BYTES)
        self._decided: BoundedMemory[tuple[int, Action, str, str | None], Decision] = BoundedMemory(DECISIONS_BYTES)
        self._numbers = itertools.count()

    def decide(self, principal: Principal, action: Action, repository: str, name: str | None) -> Decision:
        known = self._of(principal)
        key = (known.number, action, repository, name)
        decision = self._decided.get(key)
        if decision is None:
            decision = decide(self._rights(known, repository), action, repository, name)
            self._decided.put(key, decision, DECISION_BYTES + bytes_of(name or "", decision.by))
        return decision

    def same_name(self, repository: str, name: str | None) -> str | None:
        """The name as decide() wants it, of any spelling."""
        ecosystem = self._ecosystems.get(repository)
        return ecosystem.same_name(name) if ecosystem and name is not None else name

    def allowed(self, principal: Principal, action: Action, repository: str, name: str | None) -> bool:
        return self.decide(principal, action, repository, name).allowed

    def everywhere(self, principal: Principal, action: Action, repository: str) -> bool:
        return everywhere(self._rights(self._of(principal), repository), action, repository)

    def reaches(self, principal: Principal, action: Action, repository: str, folder: str) -> bool:
        return reaches(self._rights(self._of(principal), repository), action, repository, folder)

    def leaves_watched(self, principal: Principal, action: Action, repository: str, name: str | None) -> bool:
        """Would namespaces that are only watched refuse this?"""
        if not principal.watched_scopes or action not in WRITES or name is None:
            return False
        scopes = (Scope(WRITES, names=patterns) for patterns in principal.watched_scopes)
        ecosystem = self._ecosystems.get(repository)
        return any(not covers(_scope_in(scope, ecosystem) if ecosystem else scope, action, repository, name) for scope in scopes)

    def rights(self, principal: Principal) -> Rights:
        return self._of(principal).rights

    def _rights(self, known: _Known, repository: str) -> Rights:
        """In the spelling of the repository's format."""
        ecosystem = self._ecosystems.get(repository)
        if ecosystem is None:
            return known.rights
        rights = known.by_ecosystem.get(ecosystem.id)
        if rights is None:
            rights = known.by_ecosystem[ecosystem.id] = in_ecosystem(known.rights, ecosystem)
        return rights

    def _of(self, principal: Principal) -> _Known:
        known = self._known.get(principal)
        if known is None:
            rights = Rights(self._grants_of(uncut(principal)), limits_of(self.policy, principal))
            known = _Known(next(self._numbers), rights, {})
            own = bytes_of_principal(principal) + sum(bytes_of_scopes(limit.scopes) for limit in rights.limits)
            self._known.put(principal, known, KNOWN_BYTES + own + _bytes_of_grants(rights.grants))
        return known

    def _grants_of(self, principal: Principal) -> tuple[Grant, ...]:
        grants = self._granted.get(principal)
        if grants is None:
            grants = grants_of(self.policy, principal)
            self._granted.put(principal, grants, bytes_of_principal(principal) + _bytes_of_grants(grants))
        return grants


def uncut(principal: Principal) -> Principal:
    """Whoever that is, whatever the credential in hand is cut to: many bearer tokens of one user have the same grants."""
    return replace(
        principal, password_mark="", token_id="", expires_at=None, scopes=None, bearer=None, exchanged=False, namespace_scopes=(), watched_scopes=()
    )


def _bytes_of_grants(grants: tuple[Grant, ...]) -> int:
    return bytes_of_scopes(grant.scope for grant in grants)


RIGHTS_BYTES = 6 * 1024 * 1024
"""Of the principals whose rights a process remembers."""
KNOWN_BYTES = 1500
"""One of them without its scopes."""
DECISIONS_BYTES = 6 * 1024 * 1024
DECISION_BYTES = 400


@dataclass(frozen=True, slots=True)
class _Known:
    number: int
    rights: Rights
    by_ecosystem: dict[str, Rights]
    """The same, for the names of one format."""


def accepts_claims(policy: Policy, principal: Principal) -> bool:
    """Whether an access rule names an OIDC identity, so that it may come in without a role."""
    return any(concerns(rule, principal) and not rule.anonymous for rule in policy.rules)
