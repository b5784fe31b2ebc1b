"""Users whose names no path can hold have no place of their own, and somebody says so; another's place is never theirs."""

from __future__ import annotations

import pytest

from noraflask.config import AccessConfig, AccessRule, AuthConfig, Config
from noraflask.ecosystems import ECOSYSTEMS
from noraflask.services.auth.homes import without_place
from noraflask.services.auth.principal import Action, Principal, Source
from noraflask.services.auth.rules import MOST_FILLED, Access, Policy, grants_of
from noraflask.services.auth.users import Directory
from noraflask.services.repositories import Repository

HOME = AccessRule("config.toml:3", ("pull", "push"), users=("*",), names=("home/{user}/**",))
NAMES = ("alice", "bob.smith", "Alice", "bob smith", "ann@example.com", "..", "a/b", "*", "-x", "é")


def told(*rules: AccessRule, names: tuple[str, ...] = NAMES) -> list[str]:
    config = Config(auth=AuthConfig(enabled=True), access=AccessConfig(rules=rules))
    return list(without_place(config, Directory(dict.fromkeys(names, b""))))


def test_who_has_none_is_named_once_for_each_format():
    docker, raw = told(HOME)
    assert docker == (
        "config.toml:3: access.rules[1].names: home/{user}/** is no docker name for Alice, bob smith, ann@example.com, .., a/b, *, -x, é: "
        "names of images have small letters, digits and . _ - / alone"
    )
    assert raw.startswith("config.toml:3: access.rules[1].names: home/{user}/** is no raw name for .., a/b, *: ")


def test_only_whom_a_rule_is_about_and_where_it_counts():
    assert told(AccessRule("c:1", ("pull",), users=("alice",), names=("home/{user}/**",))) == []
    assert len(told(AccessRule("c:1", ("pull",), users=("A*",), repositories=("docker",), names=("home/{user}/**", "x")))) == 1
    assert told(AccessRule("c:1", ("pull",), users=("A*",), repositories=("raw",), names=("home/{user}/**",))) == []
    assert told(HOME, names=("alice", "bob")) == []


def access(*rules: AccessRule) -> Access:
    config = Config(auth=AuthConfig(enabled=True), access=AccessConfig(rules=rules))
    repositories = [Repository(id, id, settings=None, is_default=True) for id in ("docker", "raw")]
    assert ECOSYSTEMS.keys() >= {"docker", "raw"}
    return Access(Policy.of(config, repositories), repositories)


@pytest.mark.parametrize(
    ("who", "repository", "name", "may"),
    [
        ("alice", "docker", "home/alice/x", True),
        ("Alice", "docker", "home/alice/x", False),
        ("Alice", "raw", "home/Alice/x", True),
        ("Alice", "raw", "home/alice/x", False),
        ("alice", "raw", "home/alice/x", True),
    ],
)
def test_a_name_in_other_letters_is_another_user(who, repository, name, may):
    assert access(HOME).allowed(Principal(who, Source.PASSWORD), Action.PUSH, repository, name) is may


def claims(number: int, *names: str) -> Principal:
    return Principal("job", Source.OIDC, provider="ci", claims=tuple((name, f"v{n}") for name in names for n in range(number)))


@pytest.mark.parametrize(("effect", "names"), [("allow", []), ("deny", [("**",)])])
def test_claims_with_many_values_do_not_multiply_without_end(effect, names):
    """25 placeholders, 50 values each. A denial that cannot be worked out denies all."""
    rule = AccessRule("c:1", ("pull",), effect=effect, provider="ci", names=("/".join(["{claim:g}"] * 25),))
    policy = Policy.of(Config(auth=AuthConfig(enabled=True), access=AccessConfig(rules=(rule,))), [])
    assert [grant.scope.names for grant in grants_of(policy, claims(50, "g"))] == names
    few = AccessRule("c:1", ("pull",), provider="ci", names=("{claim:g}/{claim:h}",))
    policy = Policy.of(Config(auth=AuthConfig(enabled=True), access=AccessConfig(rules=(few,))), [])
    (grant,) = grants_of(policy, claims(30, "g", "h"))
    assert len(grant.scope.names) == 900 <= MOST_FILLED
