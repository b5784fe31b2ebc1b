"""Configuration of access: tables with their lines, every mistake in them, what contradicts, what is warned of, and reading it all again."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noraflask.config import AccessRule, Config, ConfigError, OidcProvider, RoleRule, load, reload, restart_only
from noraflask.config import document as doc
from noraflask.config.access import PROVIDERS, ROLE_RULES, RULES
from noraflask.config.dead_patterns import can_match
from noraflask.ecosystems import ECOSYSTEMS

TEXT = """\
[auth]
oidc.enabled = true
[[access.rules]]
title = "Team"
users = "ann"
groups = ["dev*", "ops"]
names = ["team/**", "home/{user}/*"]
repositories = "docker"
actions = ["write"]

# CI
[[access.rules]]
effect = "deny"
provider = "ci"
names = "{claim:project}/**"
actions = "push"
[access.rules.claims]
project.path = "team/*"
ref = [
  "main",
  "release-*",
]
[server]
port = 5000
[[access.rules]]
anonymous = true
actions = ["read", "pull"]
[[auth.oidc.providers]]
name = "ci"
issuer = "https://ci.example.com/"
audience = "nora"
jwks_uri = "https://ci.example.com/keys?p=a&v=2"
algorithms = ["EdDSA"]
max_token_lifetime_secs = 60
namespace_scope = []
namespace_scope_enforcement = "audit"
enabled = false
ca_file = "/etc/ca.pem"
bearer_token_file = "/run/token"
[[auth.oidc.providers.role_rules]]
pattern = "repo:team/*:ref:*"
role = "write"
namespace_scope = ["team/**"]
[[auth.oidc.providers.role_rules]]
pattern = "*"
role = "read"
[[auth.oidc.providers]]
name = "cluster"
issuer = "https://cluster.example.com"
any_audience = true
"""

RULES_OF_TEXT = (
    AccessRule(
        "config.toml:3",
        ("pull", "push", "delete"),
        "Team",
        users=("ann",),
        groups=("dev*", "ops"),
        repositories=("docker",),
        names=("team/**", "home/{user}/*"),
    ),
    AccessRule(
        "config.toml:12",
        ("push",),
        effect="deny",
        provider="ci",
        claims=(("project.path", "team/*"), ("ref", "main"), ("ref", "release-*")),
        names=("{claim:project}/**",),
    ),
    AccessRule("config.toml:25", ("pull",), anonymous=True),
)

PROVIDERS_OF_TEXT = (
    OidcProvider(
        "ci",
        "https://ci.example.com/",
        audience=("nora",),
        jwks_uri="https://ci.example.com/keys?p=a&v=2",
        algorithms=("EdDSA",),
        max_token_lifetime_secs=60,
        namespace_scope=(),
        namespace_scope_enforcement="audit",
        enabled=False,
        ca_file=Path("/etc/ca.pem"),
        bearer_token_file=Path("/run/token"),
        role_rules=(RoleRule("repo:team/*:ref:*", "write", ("team/**",)), RoleRule("*", "read")),
    ),
    OidcProvider("cluster", "https://cluster.example.com", any_audience=True),
)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    """No test may meet a config.toml by chance."""
    monkeypatch.chdir(tmp_path)


def from_text(text: str, environ=None) -> Config:
    Path("config.toml").write_text(text)
    return load(environ=environ or {})


def problems(text: str, environ=None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        from_text(text, environ)
    return caught.value.problems


# ---- what is taken


def test_every_field_is_taken_and_every_rule_knows_its_line():
    config = from_text(TEXT)
    assert config.access.rules == RULES_OF_TEXT
    assert [rule.place for rule in config.access.rules] == [rule.place for rule in RULES_OF_TEXT]  # which is no part of equality
    assert config.auth.oidc_providers == PROVIDERS_OF_TEXT
    assert (config.sources["access.rules"], config.sources["auth.oidc_providers"]) == ("config.toml:3", "config.toml:28")
    assert config.server.port == 5000


@pytest.mark.parametrize(("array", "made"), [(RULES, AccessRule), (PROVIDERS, OidcProvider), (ROLE_RULES, RoleRule)])
def test_every_field_of_the_dataclass_is_a_field_of_the_table(array, made):
    assert {field.key for field in array.fields} == {field.name for field in fields(made)} - {"place"}


def test_inline_tables_have_the_line_of_their_array():
    text = """\

[access]
rules = [
  { users = "a", actions = "pull" },
  { users = ["b"], actions = ["push"], claims = { x = "y" } },
]
"""
    config = from_text(text)
    assert [(rule.users, rule.place) for rule in config.access.rules] == [(("a",), "config.toml:3"), (("b",), "config.toml:3")]
    text = '[[auth.oidc.providers]]\nname = "a"\nissuer = "https://h"\n\nrole_rules = [{ pattern = "x" }]'
    assert problems(text) == ["config.toml:5: auth.oidc.providers[1].role_rules[1].role: is missing, expected read, write or admin"]


def test_tables_between_others_keep_their_lines():
    text = '[[a]]\n[c]\n[[a]]\n[[access.rules]]\nusers = "a"\nactions = "fly"\n'
    assert problems(text)[-1].startswith("config.toml:6: access.rules[1].actions: expected pull")


ACTIONS = [
    ('"read"', "allow", ("pull",)),
    ('"write"', "allow", ("pull", "push", "delete")),
    ('"Admin"', "allow", ("pull", "push", "delete", "admin")),
    ('["delete", "push", "push"]', "allow", ("push", "delete")),
    ('["read", "delete"]', "deny", ("pull", "delete")),
    ('"admin"', "deny", ("admin",)),
]


@pytest.mark.parametrize(("words", "effect", "actions"), ACTIONS)
def test_roles_become_actions(words, effect, actions):
    (rule,) = from_text(f'[[access.rules]]\nusers = "a"\neffect = "{effect}"\nactions = {words}').access.rules
    assert rule.actions == actions


TAKEN_PATTERNS = ["*", "**", "a", "a/*", "a*b/**/c", "**/x", "{user}", "ci-{claim:a.b}/{user}*", "ü@b", "x" * 255]


@pytest.mark.parametrize("pattern", TAKEN_PATTERNS)
def test_pattern_of_names_is_taken(pattern):
    (rule,) = from_text(f'[[access.rules]]\nusers = "a"\nprovider = "p"\nnames = "{pattern}"\nactions = "pull"\n{PROVIDER}').access.rules
    assert rule.names == (pattern,)


# ---- what is refused

PROVIDER = '[[auth.oidc.providers]]\nname = "p"\nissuer = "https://h"\n'
SEGMENT = "** stands only as a whole part between slashes, as in team/**; inside of one use *"
BRACES = "the placeholders are {user} and {claim:NAME}; other braces are not taken"
WORDS = "patterns of 1 to 255 printable characters without spaces"

REFUSED_IN_RULES = [
    ("names = 'a**b'", f".names: {SEGMENT}"),
    ("names = ['a', 'b/***']", f".names: entry 2: {SEGMENT}"),
    ("names = 'a//b'", ".names: has an empty part between slashes, so it matches no name"),
    ("names = 'a/'", ".names: has an empty part between slashes, so it matches no name"),
    *((f"names = '{text}'", f".names: {BRACES}") for text in ("{User}", "{claim:}", "{claim:a*}", "a{", "}", "{{user}}")),
    ("names = []", f".names: expected {WORDS}, at least one, got an array"),
    ("names = ''", f'.names: expected {WORDS}, got the string ""'),
    ("names = 'a b'", f'.names: expected {WORDS}, got the string "a b"'),
    (f"users = '{'x' * 256}'", f".users: expected {WORDS}, got the string "),
    ("users = ['a', 'b c']", f".users: entry 2: expected {WORDS}"),
    ("users = ['']", f".users: entry 1: expected {WORDS}"),
    ("users = [1]", f".users: expected {WORDS}, as a string or an array of strings, got an array"),
    ("groups = 1", f".groups: expected {WORDS}, as a string or an array of strings, got the number 1"),
    ("repositories = []", f".repositories: expected {WORDS}, at least one"),
    ("anonymous = 'yes'", '.anonymous: expected true or false, without quotes, got the string "yes"'),
    ("effect = 'refuse'", '.effect: expected allow or deny, got the string "refuse"'),
    ("title = ''", '.title: expected 1 to 255 printable characters, got the string ""'),
    ("provider = ''", '.provider: expected 1 to 255 printable characters, got the string ""'),
    ("claims = 'x'", '.claims: expected a table of claims, each with a pattern or an array of patterns, got the string "x"'),
    ("claims = {}", ".claims: expected a table of claims, each with a pattern or an array of patterns, got a table"),
    ("claims.ref = []", '.claims: claim "ref": expected a pattern of 1 to 255 printable characters, at least one'),
    ("claims.a.b = 1", '.claims: claim "a.b": expected a pattern of 1 to 255 printable characters, as a string or an array of strings'),
    ("claims.a = {}", '.claims: claim "a": expected a pattern'),
    ("nmaes = 'x'", ".nmaes: unknown key, did you mean names?"),
    ("zzz = 'x'", ".zzz: unknown key, valid are actions, title, effect, users, groups, anonymous, provider, claims, repositories, names"),
    ("place = 'x'", ".place: unknown key, "),
    ('"a\\nb" = 1', '."a\\nb": unknown key, '),
]


@pytest.mark.parametrize(("line", "message"), REFUSED_IN_RULES)
def test_line_of_a_rule_is_refused(line, message):
    (problem,) = problems(f"[[access.rules]]\nactions = 'pull'\nusers = 'a'\n\n[[access.rules]]\nactions = 'pull'\n{line}")
    assert problem.startswith(f"config.toml:7: access.rules[2]{message}")
    assert "\n" not in problem
    assert ": entry" not in problem or problem.endswith(message)  # "got an array" would say nothing


REFUSED_ACTIONS = [
    ("", "config.toml:1: access.rules[1].actions: is missing, expected pull, push, delete and admin, or a role: read, write or admin"),
    ("actions = []", "config.toml:3: access.rules[1].actions: expected pull, push, delete and admin, or a role: read, write or admin, at least one"),
    ("actions = ['pull', 'fly']", "config.toml:3: access.rules[1].actions: entry 2: expected pull, push,"),
    (
        "actions = 'none'",
        'config.toml:3: access.rules[1].actions: expected pull, push, delete and admin, or a role: read, write or admin, got the string "n',
    ),
    ("effect = 'deny'\nactions = 'write'", "config.toml:1: access.rules[1]: actions: the role write holds pull as well"),
]


@pytest.mark.parametrize(("line", "message"), REFUSED_ACTIONS)
def test_actions_are_refused(line, message):
    (problem,) = problems(f"[[access.rules]]\nusers = 'a'\n{line}")
    assert problem.startswith(message)


REFUSED_IN_PROVIDERS = [
    *((f"algorithms = '{word}'", ".algorithms: HS* and none are refused: ") for word in ("HS256", "hs512", "none", "None")),
    ("algorithms = ['RS256', 'HS384']", ".algorithms: entry 2: HS* and none are refused: "),
    ("algorithms = ['rs256']", ".algorithms: entry 1: expected of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA, Ed25519"),
    ("algorithms = []", ".algorithms: expected names of asymmetric signature algorithms, at least one"),
    ("max_token_lifetime_secs = 59", ".max_token_lifetime_secs: expected a whole number from 60 to 31536000, got the number 59"),
    ("max_token_lifetime_secs = 31536001", ".max_token_lifetime_secs: expected a whole number from 60 to 31536000, got the number 31536001"),
    ("namespace_scope = ['a**']", f".namespace_scope: entry 1: {SEGMENT}"),
    ("namespace_scope = ['{user}']", ".namespace_scope: entry 1: braces are not taken"),
    ("namespace_scope_enforcement = 'off'", '.namespace_scope_enforcement: expected enforce or audit, got the string "off"'),
    ("enabled = 1", ".enabled: expected true or false, without quotes, got the number 1"),
    ("any_audience = 'x'", ".any_audience: expected true or false, without quotes"),
    ("audience = ['a', '']", ".audience: entry 2: expected texts of 1 to 255 printable characters"),
    *((f"jwks_uri = '{text}'", ".jwks_uri: expected an http") for text in ("h", "https://h/#a", "https://h?", "https://h/?a b", "file:///k")),
    ("ca_file = 1", ".ca_file: expected a path of printable characters, as a string, got the number 1"),
    ("audiense = 'x'", ".audiense: unknown key, did you mean audience?"),
    ("role_rules = 'x'", ".role_rules: expected at most 1000 tables [[auth.oidc.providers.role_rules]]"),
    ("[[auth.oidc.providers.role_rules]]\nrole = 'read'", ".role_rules[1].pattern: is missing, expected 1 to 255 printable characters"),
]


@pytest.mark.parametrize(("line", "message"), REFUSED_IN_PROVIDERS)
def test_line_of_a_provider_is_refused(line, message):
    (problem,) = problems(f"{PROVIDER}{line}")
    assert problem.startswith(f"config.toml:4: auth.oidc.providers[1]{message}")
    assert "\n" not in problem


@pytest.mark.parametrize("issuer", ["", "h", "ftp://h", "https://h?x", "https://u@h", "https://h#f"])
def test_issuer_is_refused(issuer):
    (problem,) = problems(f"[[auth.oidc.providers]]\nname = 'a'\nissuer = '{issuer}'")
    assert problem.startswith("config.toml:3: auth.oidc.providers[1].issuer: expected an http:// or https:// address, got ")


def test_all_problems_of_all_tables_come_at_once_each_with_its_line():
    text = """\
[[access.rules]]
users = "a b"
effekt = "deny"
[[auth.oidc.providers]]
name = ""
[[auth.oidc.providers.role_rules]]
pattern = "x"
role = "read"
[[auth.oidc.providers.role_rules]]
pattern = "x"
role = "owner"
[[access.rules]]
actions = 1
[server]
port = 0
"""
    assert [re.split(": expected|, expected", line)[0] for line in problems(text)] == [
        "config.toml:2: access.rules[1].users",
        "config.toml:3: access.rules[1].effekt: unknown key, did you mean effect?",
        "config.toml:1: access.rules[1].actions: is missing",
        "config.toml:13: access.rules[2].actions",
        "config.toml:5: auth.oidc.providers[1].name",
        "config.toml:11: auth.oidc.providers[1].role_rules[2].role",
        "config.toml:4: auth.oidc.providers[1].issuer: is missing",
        "config.toml:15: server.port",
    ]


@pytest.mark.parametrize(
    ("count", "array", "table"),
    [
        pytest.param(1000, "access.rules", "users = 'a{n}'\nactions = 'pull'", marks=pytest.mark.slow),
        (100, "auth.oidc.providers", "name = 'p{n}'\nissuer = 'https://h{n}'"),
    ],
)
def test_number_of_tables_is_bounded(count, array, table):
    text = "".join(f"[[{array}]]\n{table}\n".replace("{n}", str(n)) for n in range(count))
    from_text(text)
    assert problems(text + f"[[{array}]]\n") == [f"config.toml:1: {array}: expected at most {count} tables [[{array}]], got {count + 1}"]


# ---- between settings

ON = "auth.enabled = true\nauth.oidc.enabled = true\n"
RULE = "[[access.rules]]\nactions = 'pull'\n"

CONTRADICTIONS = [
    (ON + PROVIDER, "config.toml:3: auth.oidc.providers[1].audience: is missing"),
    (
        PROVIDER + "[[auth.oidc.providers]]\nname = 'p'\nissuer = 'https://g'",
        "config.toml:4: auth.oidc.providers[2].name: is that of auth.oidc.providers[1] as",
    ),
    (
        PROVIDER + "enabled = false\n[[auth.oidc.providers]]\nname = 'p'\nissuer = 'https://g'",
        "config.toml:5: auth.oidc.providers[2].name: is that of auth.oidc.providers[1] as",
    ),
    (
        PROVIDER + "enabled = false\n" + PROVIDER.replace('"p"', '"q"') + PROVIDER.replace('"p"', '"r"'),
        "config.toml:8: auth.oidc.providers[3].issuer: is that of auth.oidc.providers[2] as well",
    ),
    (
        PROVIDER + "[[auth.oidc.providers]]\nname = 'q'\nissuer = 'https://h'",
        "config.toml:4: auth.oidc.providers[2].issuer: is that of auth.oidc.providers[1]",
    ),
    (RULE, "config.toml:1: access.rules[1]: names nobody, expected users, groups, anonymous, provider or claims"),
    (RULE + "users = []", "config.toml:1: access.rules[1]: names nobody"),
    (RULE + "provider = 'p'", "config.toml:1: access.rules[1].provider: no provider of auth.oidc has this name"),
    ("[[access.rules]]\nactions = 'admin'\nusers = 'a'\nnames = 'a/**'", "config.toml:1: access.rules[1].actions: admin is about the whole server"),
    (
        "[[access.rules]]\nactions = 'admin'\nusers = 'a'\nrepositories = 'docker'",
        "config.toml:1: access.rules[1].actions: admin is about the whole server",
    ),
    (
        "[[access.rules]]\nactions = ['pull', 'push']\nanonymous = true",
        "config.toml:1: access.rules[1].actions: everybody, with anonymous = true, may only",
    ),
    (RULE + "users = 'a'\nnames = '{claim:x}'", "config.toml:1: access.rules[1].names: {claim:NAME} needs an identity"),
    (RULE + "anonymous = true\nnames = 'x/{user}'", "config.toml:1: access.rules[1].names: {user} needs a user"),
]


@pytest.mark.parametrize(("text", "message"), CONTRADICTIONS)
def test_what_contradicts_is_refused(text, message):
    (problem,) = problems(text)
    assert problem.startswith(message)


FINE = [
    ON + PROVIDER + "enabled = false",
    ON + PROVIDER + "audience = 'a'",
    ON + PROVIDER + "any_audience = true",
    "auth.enabled = true\n" + PROVIDER,
    PROVIDER + "enabled = false\n" + PROVIDER.replace('"p"', '"q"'),
    PROVIDER + PROVIDER.replace('"p"', '"q"') + "enabled = false",
    PROVIDER + "max_token_lifetime_secs = 31536000",
    "auth.oidc.enabled = true\n" + PROVIDER + "audience = ''",
    *(RULE + line for line in ("users = 'a'", "groups = 'a'", "anonymous = true", "claims.a = 'b'", "claims.a = 'b'\nnames = '{claim:x}'")),
    RULE + "provider = 'p'\nnames = '{claim:x}'\n" + PROVIDER,
    "[[access.rules]]\nactions = 'admin'\nusers = 'a'\nnames = '*'\nrepositories = ['**', 'a']",
    "[[access.rules]]\nactions = ['pull', 'push']\nanonymous = true\neffect = 'deny'",
    RULE + "anonymous = true\nusers = 'a'\nnames = '{user}'",
]


@pytest.mark.parametrize("text", FINE)
def test_what_does_not_contradict_is_taken(text):
    from_text(text)


def test_provider_with_a_mistake_is_not_unknown_too():
    assert len(problems(RULE + "provider = 'p'\n" + PROVIDER + "enabled = 1")) == 1


CLEAN = "storage.path = '/srv/s'\nstate.path = '/srv/t'\nauth.htpasswd_file = '/dev/null'\n"
DENY_USERS = "[[access.rules]]\neffect = 'deny'\nactions = 'push'\nusers = '*'\n"
WARNINGS = [
    ("", []),
    ("auth.enabled = true", []),
    ("server.host = '192.0.2.1'", ["auth.enabled = false: everybody who reaches the port may read, write and delete"]),
    ("server.host = 'localhost'", []),
    ("server.host = '192.0.2.1'\nauth.enabled = true", []),
    ("auth.enabled = true\nauth.anonymous_read = true\nauth.docker_anon_pull = true", ["auth.anonymous_read = true", "auth.docker_anon_pull = true"]),
    ("auth.admin_users = 'a'", ["auth.admin_users: has no effect, because auth.enabled is false"]),
    (RULE + "users = 'a'", ["access.rules: has no effect"]),
    (PROVIDER, ["auth.oidc.providers: has no effect"]),
    ("auth.public_web_ui = true", ["auth.public_web_ui = true: has no effect"]),
    ("auth.public_metrics = false", []),
    (ON + PROVIDER + "audience = 'a'\nany_audience = true", ["auth.oidc.providers[1].any_audience = true: has no effect, because audience is set"]),
    (ON + PROVIDER + "any_audience = true", ["auth.oidc.providers[1].any_audience = true: tokens that were made for other services are taken"]),
    (ON + PROVIDER.replace("https", "HTTP") + "audience = 'a'", ["auth.oidc.providers[1].issuer = HTTP://h: without TLS"]),
    (ON + PROVIDER.replace("https://h", "http://127.0.0.1:80") + "audience = 'a'", []),
    (
        "auth.enabled = true\nauth.groups_file = 'g'\nauth.token_storage = 't'",
        ["auth.groups_file = g: is relative", "auth.token_storage = t: is relative"],
    ),
    ("auth.groups_file = 'g'", []),
    ("auth.enabled = true\nauth.bearer_ttl_secs = 59", ["auth.bearer_ttl_secs = 59: docker, podman, skopeo and regctl use a token for 60 seconds"]),
    ("auth.enabled = true\nauth.bearer_ttl_secs = 60", []),
    (ON + PROVIDER + "audience = 'a'\n" + DENY_USERS, ["config.toml:10: access.rules[1]: denies all users, who are those of this registry; OIDC"]),
    (ON + PROVIDER + "audience = 'a'\n" + DENY_USERS + "anonymous = true", []),
    (ON + PROVIDER + "audience = 'a'\n" + DENY_USERS.replace("'*'", "'ann'"), []),
    ("auth.enabled = true\n" + DENY_USERS, []),
    ("audit.path = 'log'", ["audit.path = log: is relative"]),
]


@pytest.mark.parametrize(("text", "begins"), WARNINGS)
def test_warnings(text, begins):
    found = from_text(CLEAN + text).warnings
    assert len(found) == len(begins)
    assert all(line.startswith(begin) for line, begin in zip(found, begins, strict=True))


@pytest.mark.parametrize(("oidc", "rest"), [("0", "nobody can log in with a password"), ("1", "only tokens and OIDC identities are let in")])
def test_missing_password_file_is_warned_of(oidc, rest):
    environ = {"NORA_AUTH_ENABLED": "1", "NORA_AUTH_OIDC_ENABLED": oidc}
    assert load(environ=environ).warnings == (f"auth.htpasswd_file = users.htpasswd: is not there; {rest}",)
    Path("users.htpasswd").touch()
    assert load(environ=environ).warnings == ()


# ---- printed


def test_what_check_config_prints_loads_to_the_same_again():
    config = from_text(TEXT)
    printed = doc.effective(config)
    assert "\n# access.rules: 3, from config.toml:3\n[[access.rules]]\n" in printed
    assert from_text(printed) == config


NAMES = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="{}/*"), min_size=1, max_size=8)
SOME = st.lists(NAMES, min_size=1, max_size=3, unique=True).map(tuple)
OF_FILES = st.lists(NAMES.filter(lambda name: can_match(name, ECOSYSTEMS["raw"])), min_size=1, max_size=3, unique=True).map(tuple)


@settings(max_examples=30)
@given(users=SOME, names=OF_FILES, claims=st.dictionaries(NAMES, SOME, min_size=1, max_size=3), title=NAMES, patterns=SOME)
def test_any_rule_and_provider_is_the_same_again(tmp_path_factory, users, names, claims, title, patterns):
    pairs = tuple((claim, pattern) for claim, found in claims.items() for pattern in found)
    rule = AccessRule("", ("pull", "push"), title, users=users, names=names, claims=pairs, provider=title)
    provider = OidcProvider(title, "https://h", audience=patterns, role_rules=tuple(RoleRule(pattern, "read", names) for pattern in patterns))
    config = Config()
    config = replace(config, access=replace(config.access, rules=(rule,)), auth=replace(config.auth, oidc_providers=(provider,)))
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(doc.effective(config))
    assert load(path, {}) == config


# ---- read again


def test_reload_reads_the_same_file_again(tmp_path):
    other = tmp_path / "other.toml"
    other.write_text("server.port = 5000")
    config = load(other, {})
    Path("config.toml").write_text("server.port = 1")
    other.write_text("server.port = 6000")
    again = reload(config, {"NORA_WORKERS": "3"})
    assert (again.server.port, again.server.workers, again.file) == (6000, 3, other)


def test_reload_without_a_file_looks_for_the_usual_one():
    config = load(environ={})
    assert config.file is None
    assert reload(config, {}) == config
    Path("config.toml").write_text("server.port = 6000")
    assert reload(config, {}).server.port == 6000
    assert reload(config, {}).file == Path("config.toml")


def test_file_that_vanished_is_no_empty_file():
    config = from_text("auth.enabled = true")
    Path("config.toml").unlink()
    with pytest.raises(ConfigError) as caught:
        reload(config, {})
    assert caught.value.problems == ["config.toml: has vanished; put it back, or restart to go on without it"]
    assert caught.value.usable is config


LIVE = {
    "server.reload_timeout_secs",
    *("access.default_role", "access.contact", "access.rules", "auth.anonymous_read", "auth.docker_anon_pull", "auth.admin_users"),
    *("auth.oidc_enabled", "auth.oidc_leeway_secs", "auth.oidc_jwks_cache_secs", "auth.oidc_providers"),
    *("auth.bearer_ttl_secs", "auth.refresh_ttl_days", "auth.refresh_tokens", "rate_limit.enabled", "rate_limit.on_failure", "rate_limit.wait_ms"),
    *("server.allowed_hosts", "cors.allowed_origins"),
    *(f"rate_limit.{tier}_{key}" for tier in ("auth", "upload", "general", "metrics") for key in ("rps", "burst")),
    *("docker.max_upload_session_size_mb", "docker.chunk_min_bytes", "docker.sparse_indexes"),
    *("raw.max_file_size", "raw.cache_control", "raw.overwrite", "raw.listing"),
}


def test_every_field_needs_a_restart_but_the_live_ones():
    old = Config()
    changed = set()
    for section in ("server", "storage", "state", "staging", "logging", "metrics", "auth", "access", "audit", "rate_limit", "cors"):
        part = getattr(old, section)
        for field in fields(part):
            new = replace(old, **{section: replace(part, **{field.name: "other"})})
            name = f"{section}.{field.name}"
            assert restart_only(old, new) == ([] if name in LIVE else [name])
            changed.add(name)
    for format, part in old.formats.items():
        for field in fields(part):
            new = replace(old, formats={**old.formats, format: replace(part, **{field.name: "other"})})
            name = f"{format}.{field.name}"
            assert restart_only(old, new) == ([] if name in LIVE else [name])
            changed.add(name)
    assert changed >= LIVE


def test_where_a_value_is_from_needs_no_restart():
    old = Config()
    assert restart_only(old, replace(old, file=Path("x"), sources={"a": "b"}, warnings=("w",))) == []


def test_tokens_of_noras_are_pointed_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "tokens").mkdir(parents=True)
    told = "data/tokens is where NORA keeps API tokens"
    assert any(line.startswith(told) for line in load(environ={"NORA_AUTH_ENABLED": "1"}).warnings)
    for environ in ({}, {"NORA_AUTH_ENABLED": "1", "NORA_AUTH_TOKEN_STORAGE": "data/tokens"}):
        assert not any(line.startswith(told) for line in load(environ=environ).warnings)
