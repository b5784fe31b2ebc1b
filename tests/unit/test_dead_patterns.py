"""Patterns of access rules and scopes that can never match: refused with their line."""

from __future__ import annotations

import pytest

from noraflask.config import Config, ConfigError, load

RULE = "\n[[access.rules]]\nusers = 'ann'\nactions = 'pull'\n"
PROVIDER = "[[auth.oidc.providers]]\nname = 'ci'\nissuer = 'https://ci.example.com'\nany_audience = true\n"
IMAGES = "names of images have small letters, digits and . _ - / alone"
DOCKER = "repositories = 'docker'\n"


def from_text(folder, text: str) -> Config:
    file = folder / "config.toml"
    file.write_text(text)
    return load(file, {})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("repositories = 'Docker'", 'repositories: "Docker" can never match: names of repositories have small letters'),
        ("repositories = ['docker', 'team/*']", 'repositories: "team/*" can never match: '),
        ("repositories = 'oci'", 'repositories: "oci" can never match: the repository is called docker'),
        ("repositories = 'all'", 'repositories: "all" can never match: it is a word of the server\'s own, and * stands for all'),
        (f"{DOCKER}names = ['a', 'Team/**']", f'names: "Team/**" can never match: {IMAGES}'),
        (f"{DOCKER}names = '*/App'", f'names: "*/App" can never match: {IMAGES}'),
        (f"{DOCKER}names = 'registry.example.com:5000/team/*'", 'names: "registry.example.com:5000/team/*" can never match: '),
        (f"{DOCKER}names = 'team/-*'", 'names: "team/-*" can never match: '),
        (f"{DOCKER}names = 'Home/{{user}}/**'", 'names: "Home/{user}/**" can never match: '),
        ("names = 'a/../b'", 'names: "a/../b" can never match: '),
        ("names = 'team\\app'", 'names: "team\\\\app" can never match: '),
    ],
)
def test_a_rule_is_refused(tmp_path, lines, message):
    with pytest.raises(ConfigError) as caught:
        from_text(tmp_path, RULE + lines)
    (told,) = caught.value.problems
    assert told.startswith(f"{tmp_path}/config.toml:2: access.rules[1].{message}")


@pytest.mark.parametrize(
    "lines",
    [
        "names = 'Team/**'",
        "repositories = 'raw'\nnames = 'Team/**'",
        "repositories = 'team-*'",
        "repositories = 'npm'\nnames = '@Corp/**'",
        f"{DOCKER}names = ['home/{{user}}/**', '*-x', 'x-*', '**/y', 'docker.io/library/*', 'a.b/c_*', '*', '**']",
        f"{DOCKER}provider = 'ci'\nnames = '{{claim:project}}/*'",
    ],
)
def test_a_rule_that_may_match_is_taken(tmp_path, lines):
    assert len(from_text(tmp_path, PROVIDER + RULE + lines).access.rules) == 1


def test_a_scope_is_refused(tmp_path):
    rule = "[[auth.oidc.providers.role_rules]]\npattern = '*'\nrole = 'write'\nnamespace_scope = './x'\n"
    with pytest.raises(ConfigError) as caught:
        from_text(tmp_path, f"{PROVIDER}namespace_scope = ['a', 'b/../c']\n{rule}")
    first, second = caught.value.problems
    begin = f"{tmp_path}/config.toml:1: auth.oidc.providers[1]"
    assert first.startswith(f'{begin}.namespace_scope: "b/../c" can never match: ')
    assert second.startswith(f'{begin}.role_rules[1].namespace_scope: "./x" can never match: ')


def test_capitals_are_in_no_name_where_only_images_are_served(tmp_path):
    with pytest.raises(ConfigError) as caught:
        from_text(tmp_path, f"[raw]\nenabled = false\n{PROVIDER}namespace_scope = 'Team/**'\n")
    assert len(caught.value.problems) == 1
