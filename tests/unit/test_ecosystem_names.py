"""What a client sends as a name: one canonical spelling, or an error that says what is right; and what access rules mean by it."""

from __future__ import annotations

import time
import unicodedata
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from noraflask.ecosystems import ECOSYSTEMS, Ecosystem, ecosystem_of
from noraflask.ecosystems.docker import HUB_HOSTS
from noraflask.errors import InvalidName, NotFound, RepositoryUnknown
from noraflask.services.auth.name_patterns import matches_name

DOCKER, RAW = ECOSYSTEMS["docker"], ECOSYSTEMS["raw"]


@pytest.mark.parametrize(
    ("canonical", "spellings"),
    [
        ("x", ["x", "library/x", *(f"{host}/{rest}" for host in HUB_HOSTS for rest in ("x", "library/x"))]),
        ("x", ["docker.io/docker.io/x", "docker.io/index.docker.io/library/x"]),
        ("team/app", ["team/app", "docker.io/team/app", "index.docker.io/team/app", "registry-1.docker.io/team/app"]),
        ("library/a/b", ["library/a/b", "docker.io/library/a/b"]),
        ("library/library/x", ["library/library/x"]),
        ("my.team/app", ["my.team/app", "docker.io/my.team/app"]),
        ("ghcr.io/team/app", ["ghcr.io/team/app"]),
        ("localhost/x", ["localhost/x"]),
        ("docker.io", ["docker.io", "library/docker.io"]),
        ("library", ["library", "docker.io/library", "library/library"]),
        ("a" * 255, ["a" * 255, "registry.hub.docker.com/library/" + "a" * 255]),
    ],
)
def test_an_image_has_one_name(canonical, spellings):
    assert {DOCKER.parse_name(text) for text in spellings} == {canonical}
    assert {DOCKER.same_name(text) for text in spellings} == {canonical}
    assert DOCKER.parse_name(canonical) == canonical


@pytest.mark.parametrize("text", ["localhost:5000/x", "registry.example.com:443/team/app", "10.0.0.1:80/x", "docker.io:443/x", "Host:1/x"])
def test_a_name_with_the_host_of_another_registry_is_not_here(text):
    with pytest.raises(RepositoryUnknown) as caught:
        DOCKER.parse_name(text)
    assert isinstance(caught.value, NotFound)
    assert caught.value.detail == {"name": text}


@pytest.mark.parametrize(
    "text",
    ["", "/", "docker.io/", "library/", "docker.io/X", "Docker.io/x", "a//b", "a:b", "a:b/c", "x@y", "a" * 256, "docker.io/" + "a" * 256, "a/" * 200],
)
def test_what_is_no_image_is_told_the_grammar(text):
    with pytest.raises(InvalidName, match="lower-case letters and digits, parted by one of") as caught:
        DOCKER.parse_name(text)
    assert caught.value.detail == {"name": text[:255]}


NAMES = st.lists(st.sampled_from(["library", "docker.io", "index.docker.io", "x", "a.b", "team", "ghcr.io"]), min_size=1, max_size=5).map("/".join)


@given(NAMES)
@example("docker.io/docker.io/library/x")
def test_a_canonical_name_is_its_own(name):
    canonical = DOCKER.parse_name(name)
    assert DOCKER.parse_name(canonical) == canonical == DOCKER.same_name(name)


SEGMENTS = st.sampled_from(["library", "docker.io", "registry-1.docker.io", "x", "y*", "*", "**", "team"])


@given(st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join), NAMES)
@example("docker.io/*", "team/x")
@example("library/*", "team/x")
@example("library/**/x", "library/x")
def test_a_pattern_of_access_means_the_same_of_a_canonical_name(pattern, name):
    """What it matched by its spelling it goes on to match, and it gains nothing but other spellings of that."""
    canonical = DOCKER.same_name(name)
    hosts = ("".join(hosts) for most in range(4) for hosts in product(("docker.io/", "registry-1.docker.io/"), repeat=most))
    spellings = [text for host in hosts for rest in (canonical, f"library/{canonical}") if DOCKER.same_name(text := host + rest) == canonical]
    after = any(matches_name(one, canonical) for one in DOCKER.access_patterns(pattern))
    if after:
        assert any(matches_name(pattern, text) for text in spellings)
    first = pattern.split("/")[0]
    if "*" not in first and pattern not in ("docker.io", "library") and matches_name(pattern, canonical):
        assert after


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        ("library/x", ["x"], ["library/x/y", "team/x", "y"]),
        ("docker.io/library/x", ["x"], ["y"]),
        ("library/*", ["x", "y"], ["team/x", "library/a/b"]),
        ("library/ng*", ["nginx"], ["team/nginx", "x"]),
        ("library/**", ["x", "library/a/b"], ["team/x"]),
        ("library/**/x", ["x", "library/a/x"], ["team/x", "y"]),
        ("docker.io/**", ["x", "team/x"], []),
        ("docker.io/*", ["x"], ["team/x"]),
        ("docker.io/team/**", ["team", "team/x"], ["x"]),
        ("*", ["x", "team/x"], []),
        ("**", ["x", "team/x"], []),
        ("Team/*", ["team/x"], ["x"]),
        ("team/**", ["team/x", "team/x/y"], ["x"]),
    ],
)
def test_patterns_of_access(pattern, inside, outside):
    patterns = DOCKER.access_patterns(pattern)
    assert [name for name in (*inside, *outside) if any(matches_name(one, name) for one in patterns)] == inside


def test_other_formats_bring_the_pieces_of_a_pattern_to_one_form():
    assert ECOSYSTEMS["pypi"].access_patterns("My_Pkg*") == ("my-pkg*",)
    assert ECOSYSTEMS["npm"].access_patterns("@Corp/*") == ("@Corp/*",)
    assert ECOSYSTEMS["nuget"].access_patterns("Corp.**") == ("corp.**",)
    assert RAW.access_patterns("Team/**") == ("Team/**",)


# ---- raw


@pytest.mark.parametrize(
    "path",
    [
        *(
            "a",
            "a/b.txt",
            "A/b",
            "with space",
            "ünï/cödé",
            ".hidden",
            "a/.nora",
            "...",
            "a%2fb",
            "%",
            "+",
            "x:y",
            "*",
            "a/-/b",
            "\U0001f600",
            "a" * 255,
        ),
        "/".join("a" * 512),
        "é" * 127,
    ],
)
def test_paths(path):
    assert RAW.parse_name(path) == path == RAW.same_name(path)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "1 to 1024 bytes"),
        ("a" * 1025, "1 to 1024 bytes"),
        ("/".join(["é" * 100] * 6), "at most 1024 bytes"),
        ("a" * 256, "255 between two slashes"),
        ("é" * 128, "255 between two slashes"),
        *((path, "no empty part and neither . nor ..") for path in ("/a", "a/", "a//b", ".", "..", "a/..", "./a", "a/./b", "/")),
        *((path, "no backslash, no control characters") for path in ("a\\b", "a\x00", "a\nb", "\x7f", "\x85", "\u2028", "\ud800")),
        ("a\u0301", "NFC"),
        ("\u212b", "NFC"),
    ],
)
def test_what_is_no_path(path, why):
    with pytest.raises(InvalidName, match=why) as caught:
        RAW.parse_name(path)
    assert caught.value.detail == {"name": path[:255]}


@given(st.text(max_size=40))
def test_a_path_has_one_spelling(path):
    try:
        name = RAW.parse_name(path)
    except InvalidName:
        return
    assert name == path == unicodedata.normalize("NFC", path)
    name.encode()
    assert not {"", ".", ".."} & set(name.split("/"))


# ---- all


@pytest.mark.parametrize("ecosystem", ECOSYSTEMS.values(), ids=lambda ecosystem: ecosystem.id)
@given(text=st.text(max_size=30))
def test_a_name_or_the_right_error_and_nothing_else(ecosystem: Ecosystem, text):
    try:
        name = ecosystem.parse_name(text)
    except (InvalidName, RepositoryUnknown):
        return
    assert ecosystem.parse_name(name) == name == ecosystem.same_name(text)


@pytest.mark.parametrize(
    ("format", "canonical", "text"),
    [
        ("pypi", "my-pkg", "My_.Pkg"),
        ("npm", "@Corp/lib", "@Corp/lib"),
        ("cargo", "serde-json", "Serde_JSON"),
        ("go", "github.com/Azure/x", "github.com/!azure/x"),
        ("maven", "com.corp:lib", "com.corp:lib"),
        ("nuget", "newtonsoft.json", "Newtonsoft.Json"),
    ],
)
def test_names_of_formats_that_are_not_served(format, canonical, text):
    assert ECOSYSTEMS[format].parse_name(text) == canonical


@pytest.mark.parametrize(
    ("format", "text", "why"),
    [
        ("pypi", "a b", "letters, digits and - alone"),
        ("npm", "a b", "no spaces and ASCII"),
        ("npm", "a*", "no spaces and ASCII"),
        ("npm", "@corp//x", "no spaces and ASCII"),
        ("npm", "../x", "no spaces and ASCII"),
        ("pub", "X", "small letters"),
        ("npm", "", "1 to 512 characters"),
        ("npm", "a" * 513, "1 to 512 characters"),
    ],
)
def test_what_is_no_name(format, text, why):
    with pytest.raises(InvalidName, match=why):
        ECOSYSTEMS[format].parse_name(text)


@pytest.mark.parametrize("ecosystem", ECOSYSTEMS.values(), ids=lambda ecosystem: ecosystem.id)
def test_a_long_name_is_refused_before_it_is_looked_into(ecosystem: Ecosystem):
    began = time.process_time()
    for text in ("a" * 10_000_000, "a/" * 5_000_000, "docker.io/" * 1_000_000, "!a" * 5_000_000):
        with pytest.raises(InvalidName):
            ecosystem.parse_name(text)
    assert time.process_time() - began < 0.5


def test_a_format_that_is_gone_has_names_as_they_are_written():
    assert ecosystem_of("gone").same_name("A_b") == "A_b"
    assert ecosystem_of("gone").compare("1", "2") is None
