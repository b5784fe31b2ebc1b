"""Rights as tables: who may do what to which name, and by whose word."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noraflask.config import AccessConfig, AccessRule, AuthConfig, Config
from noraflask.services.auth.principal import ANONYMOUS, ROLES, Action, Principal, Scope, Source
from noraflask.services.auth.rules import (
    DECISIONS_BYTES,
    RIGHTS_BYTES,
    Access,
    Policy,
    accepts_claims,
    decide,
    describe,
    everywhere,
    glob,
    grants_of,
    matches_name,
    reaches,
    rights_of,
)
from noraflask.services.repositories import Repositories, Repository

REPOSITORIES = Repositories((Repository("docker", "docker"), Repository("npm", "npm")))
PULL, PUSH, DELETE, ADMIN = Action.PULL, Action.PUSH, Action.DELETE, Action.ADMIN
READ, WRITE = ("pull",), ("pull", "push", "delete")
ALICE = Principal("alice", Source.PASSWORD, frozenset(("dev", "ops")))
CI = (("repository", "Acme/App"), ("ref", "refs/heads/main"), ("environment", "a"), ("environment", "b"))


def rule(*actions: str, **more: Any) -> AccessRule:
    return AccessRule(**{"place": "config.toml:9", "actions": actions or READ, **more})


def policy(*rules: AccessRule, default_role: str | None = None, **auth: Any) -> Policy:
    return Policy.of(Config(auth=AuthConfig(enabled=True, **auth), access=AccessConfig(default_role=default_role, rules=rules)), REPOSITORIES)


def may(found: Policy, who: Principal, action: Action, name: str | None, repository: str = "docker") -> bool:
    return decide(rights_of(found, who), action, repository, name).allowed


def token(role: str, **more: Any) -> Principal:
    return Principal("alice", Source.TOKEN, frozenset(("dev",)), role=role, token_id="0" * 16, **more)


def identity(role: str | None = None, **more: Any) -> Principal:
    return Principal("repo:Acme/App:ref:refs/heads/main", Source.OIDC, role=role, provider="github", claims=CI, **more)


# Without rules: roles, as in NORA.


def granted(found: Policy, who: Principal) -> set[str]:
    return {action.value for action in (PULL, PUSH, DELETE, ADMIN) if may(found, who, action, None if action is ADMIN else "team/app")}


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        (ANONYMOUS, set()),
        (ALICE, set(WRITE)),
        (token("read"), {"pull"}),
        (token("write"), set(WRITE)),
        (token("admin"), set(WRITE)),  # its owner is no administrator
        (token("read", service=True), {"pull"}),
        (token("write", service=True), set(WRITE)),
        (token("admin", service=True), {*WRITE, "admin"}),
        (identity("read"), {"pull"}),
        (identity("write"), set(WRITE)),
        (identity("admin"), {*WRITE, "admin"}),
        (identity(None), set()),
    ],
)
def test_roles(who, expected):
    assert granted(policy(), who) == expected


def test_everything_is_open_when_authentication_is_off():
    off = Policy.of(Config(), REPOSITORIES)
    assert granted(off, ANONYMOUS) == {*WRITE, "admin"}
    assert everywhere(rights_of(off, ANONYMOUS), PULL, "docker")


def test_an_admin_token_of_an_admin_user_is_one_and_the_password_is_not():
    found = policy(admin_users=("alice",))
    assert granted(found, token("admin")) == {*WRITE, "admin"}
    assert granted(found, token("write")) == set(WRITE)
    assert granted(found, ALICE) == set(WRITE)
    assert granted(policy(admin_users=("bob",)), token("admin")) == set(WRITE)


@pytest.mark.parametrize(("role", "expected"), [("read", {"pull"}), ("write", set(WRITE)), ("none", set())])
def test_the_default_role_is_of_users_alone(role, expected):
    found = policy(default_role=role)
    assert granted(found, ALICE) == expected
    assert granted(found, token("write")) == expected, "a token never exceeds its owner"
    assert granted(found, token("write", service=True)) == set(WRITE)
    assert granted(found, ANONYMOUS) == set()


def test_the_first_rule_ends_the_default_role():
    assert granted(policy(rule(users=("bob",))), ALICE) == set()
    assert granted(policy(rule(users=("bob",)), default_role="read"), ALICE) == {"pull"}


@pytest.mark.parametrize(
    ("switches", "docker", "npm"),
    [({}, False, False), ({"docker_anon_pull": True}, True, False), ({"anonymous_read": True}, False, True)],
)
def test_what_is_open_to_anonymous_clients(switches, docker, npm):
    found = policy(**switches)
    for who in (ANONYMOUS, identity(None)):  # and so to everybody
        assert may(found, who, PULL, "app", "docker") is docker
        assert may(found, who, PULL, "app", "npm") is npm
        assert not may(found, who, PUSH, "app", "docker")


# Rules.


@pytest.mark.parametrize(
    ("who", "fields", "expected"),
    [
        (ALICE, {"users": ("alice",)}, True),
        (ALICE, {"users": ("al*",)}, True),
        (ALICE, {"users": ("Alice",)}, False),
        (ALICE, {"users": ("bob", "*")}, True),
        (ALICE, {"groups": ("dev",)}, True),
        (ALICE, {"groups": ("o*s",)}, True),
        (ALICE, {"groups": ("qa",)}, False),
        (ALICE, {"groups": ("qa",), "users": ("alice",)}, True),
        (ALICE, {"claims": (("repository", "*"),)}, False),
        (ALICE, {"anonymous": True}, True),
        (token("write"), {"users": ("alice",)}, True),
        (ANONYMOUS, {"users": ("*",)}, False),
        (ANONYMOUS, {"users": ("anonymous",)}, False),
        (ANONYMOUS, {"groups": ("*",)}, False),
        (ANONYMOUS, {"anonymous": True}, True),
        (identity(), {"users": ("*",)}, False),  # the sub of another issuer is no user of ours
        (identity(), {"claims": (("repository", "Acme/*"),)}, True),
        (identity(), {"claims": (("repository", "acme/*"),)}, False),
        (identity(), {"claims": (("repository", "Acme/*"), ("ref", "refs/tags/*"))}, False),
        (identity(), {"claims": (("ref", "refs/tags/*"), ("ref", "refs/heads/*"))}, True),  # two patterns of one claim
        (identity(), {"claims": (("environment", "b"),)}, True),
        (identity(), {"claims": (("actor", "*"),)}, False),
        (identity(), {"provider": "github"}, True),
        (identity(), {"provider": "gitlab"}, False),
        (identity(), {"provider": "gitlab", "claims": (("repository", "*"),)}, False),
    ],
)
def test_whom_a_rule_concerns(who, fields, expected):
    found = policy(rule(**fields))
    assert may(found, who, PULL, "app") is expected
    if who.source is Source.OIDC:
        assert accepts_claims(found, who) is expected


def test_an_open_rule_alone_lets_no_identity_in():
    assert not accepts_claims(policy(rule(anonymous=True)), identity())


@pytest.mark.parametrize(
    ("names", "name", "expected"),
    [
        (("team/*",), "team/app", True),
        (("team/*",), "team/app/x", False),
        (("team/**",), "team/app/x", True),
        (("other", "team/**"), "team", True),
        (("team/app",), "team/app", True),
        (("team/app",), "team/apps", False),
        (("{user}/**",), "alice/app", True),
        (("{user}/**",), "bob/app", False),
        (("x-{user}-*",), "x-alice-1", True),
    ],
)
def test_names_of_a_rule(names, name, expected):
    assert may(policy(rule(users=("alice",), names=names)), ALICE, PULL, name) is expected


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("{claim:repository}/**", "acme/app/image", True),
        ("{claim:repository}/**", "acme/other/image", False),
        ("{claim:environment}/*", "b/x", True),
        ("{claim:missing}/**", "acme/app", False),
        ("{claim:missing}**", "acme/app", False),
        ("{user}/**", "repo:acme/app", False),
        ("{claim:repository}/{claim:environment}", "acme/app/b", True),
    ],
)
def test_names_by_claim(pattern, name, expected):
    found = policy(rule(*WRITE, provider="github", names=(pattern,)))
    assert may(found, identity(), PUSH, name) is expected


@pytest.mark.parametrize("value", ["", "*", "**", "a/*", "../x", "a//b", "/a", "a/", ".", "{user}"])
def test_a_claim_that_could_mean_more_than_itself_fills_nothing(value):
    who = Principal("x", Source.OIDC, provider="p", claims=(("c", value),))
    found = policy(rule(provider="p", names=("{claim:c}", "{claim:c}/**")))
    assert not any(may(found, who, PULL, name) for name in ("a", "a/b", "x", "", "./x", "secret/app", None))


def test_repositories_of_a_rule():
    found = policy(rule(users=("alice",), repositories=("dock*",)))
    assert may(found, ALICE, PULL, "app", "docker")
    assert not may(found, ALICE, PULL, "app", "npm")


def test_actions_are_taken_by_the_letter():
    found = policy(rule("push", users=("alice",)))
    assert [may(found, ALICE, action, "app") for action in (PULL, PUSH, DELETE, ADMIN)] == [False, True, False, False]


DENY = rule("push", "delete", users=("*",), names=("prod/**",), effect="deny", title="freeze")


def test_a_denial_wins_wherever_it_stands():
    allow = rule(*WRITE, users=("alice",))
    for rules in ((allow, DENY), (DENY, allow)):
        found = policy(*rules)
        assert not may(found, ALICE, PUSH, "prod/app")
        assert may(found, ALICE, PULL, "prod/app")
        assert may(found, ALICE, PUSH, "test/app")
        assert may(found, ALICE, PUSH, None), "there are names left"
        assert not everywhere(rights_of(found, ALICE), PUSH, "docker")
        assert everywhere(rights_of(found, ALICE), PULL, "docker")
    assert not may(policy(allow, rule("push", users=("alice",), effect="deny")), ALICE, PUSH, None)


def test_a_denial_binds_administrators_too():
    assert not may(policy(DENY), token("admin", service=True), PUSH, "prod/app")


# What a credential is cut to.


def test_the_scopes_of_a_token():
    cut = token("write", scopes=(Scope(frozenset((PULL, PUSH)), names=("team/**",)), Scope(frozenset((PULL,)), names=("base/*",))))
    for who in (cut, token("write", scopes=cut.scopes, service=True)):
        assert may(policy(), who, PUSH, "team/app")
        assert not may(policy(), who, DELETE, "team/app")
        assert may(policy(), who, PULL, "base/x")
        assert not may(policy(), who, PUSH, "base/x")
        assert not may(policy(), who, PULL, "other")
        assert not everywhere(rights_of(policy(), who), PULL, "docker")


@pytest.mark.parametrize("scope", [Scope(ROLES["admin"], names=("team/**",)), Scope(ROLES["admin"], repositories=("docker",))])
def test_a_piece_of_the_server_is_not_administered(scope):
    assert not may(policy(), token("admin", service=True, scopes=(scope,)), ADMIN, None)
    assert may(policy(), token("admin", service=True, scopes=(Scope(ROLES["admin"]),)), ADMIN, None)


def test_a_bearer_token_is_good_for_what_it_was_issued_for():
    who = Principal("alice", Source.PASSWORD, bearer=(Scope(frozenset((PULL,)), ("docker",), ("team/app",)),))
    assert may(policy(), who, PULL, "team/app")
    assert not may(policy(), who, PUSH, "team/app")
    assert not may(policy(), who, PULL, "team/other")
    assert not may(policy(), who, PULL, "team/app", "npm")
    assert not may(policy(), Principal("alice", Source.PASSWORD, bearer=()), PULL, None)


@pytest.mark.parametrize(
    ("scopes", "name", "writes"),
    [
        ((("*",),), "any/app", True),
        ((("acme/*",),), "acme/app", True),
        ((("acme/*",),), "other/app", False),
        ((("acme/**",), ("acme/app",)), "acme/app", True),
        ((("acme/**",), ("acme/app",)), "acme/other", False),
        (((),), "acme/app", False),
    ],
)
def test_namespaces_of_a_provider_bound_writes(scopes, name, writes):
    who = identity("write", namespace_scopes=scopes)
    assert may(policy(), who, PULL, name)
    assert may(policy(), who, PUSH, name) is writes
    assert may(policy(), who, DELETE, name) is writes


@pytest.mark.parametrize(
    ("action", "name", "expected"),
    [(PUSH, "other", True), (DELETE, "other", True), (PUSH, "acme/app", False), (PULL, "other", False), (PUSH, None, False)],
)
def test_namespaces_that_are_only_watched(action, name, expected):
    who = identity("write", watched_scopes=(("*",), ("acme/**",)))
    assert Access(policy(), REPOSITORIES).leaves_watched(who, action, "docker", name) is expected
    assert may(policy(), who, action, name)


def test_a_rule_does_not_lead_out_of_the_providers_namespaces():
    who = identity(None, namespace_scopes=(("acme/**",),))
    assert not may(policy(rule(*WRITE, provider="github")), who, PUSH, "other/app")


@pytest.mark.parametrize("service", [False, True])
def test_no_rule_leads_a_token_beyond_its_role(service):
    found = policy(rule(*WRITE, users=("alice",)))
    assert may(found, token("write", service=service), PUSH, "app")
    assert not may(found, token("read", service=service), PUSH, "app")


# Saying why.


@pytest.mark.parametrize(
    ("who", "action", "name", "by"),
    [
        (ALICE, PULL, "team/app", 'rule 1 (config.toml:9, "team")'),
        (ALICE, PUSH, "prod/x", 'rule 2 (config.toml:9, "freeze")'),
        (ALICE, PUSH, "else", ""),
        (token("read"), PUSH, "team/app", "the token's role is read"),
        (token("write", scopes=(Scope(ROLES["read"]),)), PUSH, "team/app", "the token's scopes do not include it"),
        (identity("write", namespace_scopes=(("a/*",),)), PUSH, "b", "it is outside of the namespaces that provider github may write"),
        (identity("write"), PUSH, "b", "role write"),
    ],
)
def test_a_decision_names_who_decided(who, action, name, by):
    found = policy(rule(*WRITE, users=("alice",), names=("team/**", "prod/**"), title="team"), DENY)
    assert decide(rights_of(found, who), action, "docker", name).by == by


@pytest.mark.parametrize("place", ["/etc/nora/secret-folder/config.toml:9", "config.toml:9", "../x/config.toml:9"])
def test_a_decision_does_not_say_where_the_rules_file_lies(place):
    """Clients read it: in a denial, in whoami, in explain."""
    found = rights_of(policy(rule(users=("alice",), place=place)), ALICE)
    assert decide(found, PULL, "docker", "app").by == describe(found)[0]["by"] == "rule 1 (config.toml:9)"


def test_rights_in_words():
    (members,) = describe(rights_of(policy(rule(*WRITE, users=("alice",), names=("team/**",))), ALICE))
    assert members == {
        "effect": "allow",
        "actions": ["pull", "push", "delete"],
        "repositories": ["*"],
        "names": ["team/**"],
        "by": "rule 1 (config.toml:9)",
    }


def test_the_fingerprint_follows_the_rules():
    same = [policy(rule(users=("a",))).fingerprint for _ in range(2)]
    assert same[0] == same[1]
    assert policy(rule(users=("b",))).fingerprint != same[0]


def test_a_new_policy_counts_from_the_next_question_on():
    assert Access(policy(rule(users=("alice",)))).allowed(ALICE, PULL, "docker", "app")
    assert not Access(policy(rule(users=("bob",)))).allowed(ALICE, PULL, "docker", "app")


def test_another_bearer_token_of_the_same_user_is_no_more_work(monkeypatch):
    access, found = Access(policy(rule(users=("alice",)))), []
    monkeypatch.setattr("noraflask.services.auth.rules.grants_of", lambda policy, who: found.append(who) or grants_of(policy, who))
    for number in range(5):
        who = replace(ALICE, expires_at=float(number), bearer=(Scope(frozenset((PULL,)), ("docker",), (f"app{number}",)),))
        assert access.allowed(who, PULL, "docker", f"app{number}")
        assert not access.allowed(who, PULL, "docker", "other")
    assert found == [ALICE]


def test_what_is_remembered_is_bounded():
    """By bytes: names may be long, and a bearer token may be cut to a hundred scopes."""
    access = Access(policy(rule(users=("alice",))))
    for number in range(2000):
        scopes = tuple(Scope(frozenset((PULL,)), ("docker",), (f"app{number}/{part:080}",)) for part in range(100))
        assert not access.allowed(replace(ALICE, expires_at=float(number), bearer=scopes), PULL, "docker", "other")
        assert access.allowed(ALICE, PULL, "docker", f"{number}/{'a' * 1000}")
    kept = (access._known, access._granted, access._decided)
    assert [memory.bytes <= limit for memory, limit in zip(kept, (RIGHTS_BYTES, RIGHTS_BYTES, DECISIONS_BYTES), strict=True)] == [True] * 3
    assert len(access._known) < 200
    assert len(access._decided) < 6000


def test_who_asks_for_much_takes_nothing_from_who_asks_all_the_time(monkeypatch):
    monkeypatch.setattr("noraflask.services.auth.rules.DECISIONS_BYTES", 20_000)
    access, worked = Access(policy(rule(users=("*",)))), []
    monkeypatch.setattr("noraflask.services.auth.rules.decide", lambda *asked: worked.append(asked[3]) or decide(*asked))
    for number in range(200):
        assert access.allowed(ALICE, PULL, "docker", "app")
        assert access.allowed(Principal("bob", Source.PASSWORD), PULL, "docker", f"app{number}")
    assert worked.count("app") == 1


def test_another_password_of_the_same_user_is_no_more_work(monkeypatch):
    access, found = Access(policy(rule(users=("alice",)))), []
    monkeypatch.setattr("noraflask.services.auth.rules.grants_of", lambda policy, who: found.append(who) or grants_of(policy, who))
    for mark in ("a", "b", "c"):
        assert access.allowed(replace(ALICE, password_mark=mark), PULL, "docker", "app")
    assert found == [ALICE]


# Patterns.


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("", "", True),
        ("*", "", True),
        ("*", "a/b", True),
        ("a*", "a", True),
        ("*a", "ba", True),
        ("a*a", "a", False),
        ("a*b*c", "aXbYc", True),
        ("a*b*c", "acb", False),
        ("ab*ba", "aba", False),
        ("a**b", "ab", True),
        ("a?", "ab", False),
        ("[a]", "a", False),
        ("*x*x*", "x", False),
        ("*x*x*", "xx", True),
    ],
)
def test_glob(pattern, text, expected):
    assert glob(pattern, text) is expected


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("*", "a/b/c", True),
        ("**", "a", True),
        ("a/**/z", "a/z", True),
        ("a/**/z", "a/b/c/z", True),
        ("a/**/z", "a/b/c", False),
        ("**/z", "z", True),
        ("**/z", "a/b/z", True),
        ("**/z/**", "a/z/b", True),
        ("a/*/c", "a/b/c", True),
        ("a/*/c", "a/c", False),
        ("*/*", "a", False),
        ("a*/b", "axx/b", True),
        ("a*/b", "a/x/b", False),
        ("**/a/**/b", "a/x/a/b", True),
        ("**/a/*/b", "a/a/x/b", True),
        ("a/**", "ab", False),
    ],
)
def test_names_match_by_segments(pattern, name, expected):
    assert matches_name(pattern, name) is expected


def slow_glob(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(slow_glob(pattern[1:], text[at:]) for at in range(len(text) + 1))
    return bool(text) and pattern[0] == text[0] and slow_glob(pattern[1:], text[1:])


def slow_match(pattern: list[str], parts: list[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(slow_match(pattern[1:], parts[at:]) for at in range(len(parts) + 1))
    return bool(parts) and slow_glob(pattern[0], parts[0]) and slow_match(pattern[1:], parts[1:])


@given(st.text("ab*", max_size=7), st.text("ab", max_size=8))
def test_glob_is_what_trying_everything_would_find(pattern, text):
    assert glob(pattern, text) is slow_glob(pattern, text)


@given(
    st.lists(st.sampled_from(["**", "*", "a", "b", "a*"]), min_size=1, max_size=5),
    st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=6),
)
def test_names_match_as_trying_everything_would_find(pattern, parts):
    if pattern == ["*"]:
        return  # stands for everything, as in NORA
    assert matches_name("/".join(pattern), "/".join(parts)) is slow_match(pattern, parts)


def test_no_pattern_takes_long():
    """One that backtracks needs more than the age of the universe for these."""
    begun = time.process_time()
    assert not glob("*a" * 60 + "b", "a" * 200)
    assert not matches_name("/".join(["**", "a"] * 30) + "/b", "/".join("a" * 120))
    assert time.process_time() - begun < 60


# Folders: is there any name below one?


@pytest.mark.parametrize(
    ("pattern", "folder", "leads"),
    [
        ("*", "a/b", True),
        ("**", "a/b", True),
        ("team/**", "team", True),
        ("team/**", "team/a/b", True),
        ("team/**", "other", False),
        ("team/*", "team", True),
        ("team/*", "team/a", False),
        ("team/a", "team", True),
        ("team/a", "team/a", False),
        ("team/a", "te", False),
        ("t*/a/b", "team/a", True),
        ("t*/a/b", "team/b", False),
        ("**/x", "a/b/c", True),
        ("a/**/x", "a/b/c", True),
        ("a/**/x", "b", False),
        ("a", "a", False),
    ],
)
def test_a_pattern_leads_below_a_folder(pattern, folder, leads):
    found = rights_of(policy(rule(users=("alice",), names=(pattern,))), ALICE)
    assert reaches(found, PULL, "docker", folder) is leads
    assert not reaches(found, PUSH, "docker", folder)


@given(
    st.lists(st.sampled_from(["a", "b", "*", "**", "a*"]), min_size=1, max_size=4),
    st.lists(st.sampled_from(["a", "b", "ab"]), min_size=2, max_size=4),
)
def test_a_folder_above_a_name_that_may_be_had_is_always_reached(pattern, parts):
    found = rights_of(policy(rule(users=("alice",), names=("/".join(pattern),))), ALICE)
    if decide(found, PULL, "docker", "/".join(parts)).allowed:
        for end in range(1, len(parts)):
            assert reaches(found, PULL, "docker", "/".join(parts[:end]))


@pytest.mark.parametrize(("denied", "reached"), [("team/**", False), ("team/a/**", False), ("team/a/b", True), ("**", False), ("team/*", True)])
def test_a_folder_that_is_denied_as_a_whole_is_not_reached(denied, reached):
    rules = (rule(users=("alice",), names=("team/**",)), rule(users=("alice",), names=(denied,), effect="deny"))
    assert reaches(rights_of(policy(*rules), ALICE), PULL, "docker", "team/a") is reached


def test_a_credential_that_is_cut_to_names_reaches_no_other_folder():
    found = rights_of(policy(), token("read", scopes=(Scope(frozenset((PULL,)), ("docker",), ("team/*",)),)))
    assert reaches(found, PULL, "docker", "team")
    assert not reaches(found, PULL, "docker", "other")
