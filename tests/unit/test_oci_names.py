"""OCI names, tags, references and the keys made of them (distribution-spec, "Pulling manifests")."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from noraflask.digest import Digest
from noraflask.ecosystems.docker import ECOSYSTEM
from noraflask.errors import InvalidDigest, InvalidName, InvalidTag
from noraflask.formats.docker.protocol import keys, names
from noraflask.keys import Key

DIGEST = Digest.of(b"x")


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "0",
        "app",
        "team/app",
        "a/b/c/d/e/f/g/h",
        "/".join("a" * 128),
        "a.b",
        "a_b",
        "a__b",
        "a-b",
        "a--b",
        "a-----b",
        "a.b_c__d-e--f/g.h",
        "a.b.c",
        "blobs",
        "manifests/uploads/tags/list",
        "a" * 255,
    ],
)
def test_names(name):
    assert ECOSYSTEM.parse_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        "A",
        "teaM/app",
        "a..b",
        "a._b",
        "a_.b",
        "a___b",
        "a-_b",
        "a-.b",
        "a.-b",
        "_a",
        "__a",
        "-a",
        ".a",
        "a_",
        "a__",
        "a-",
        "a.",
        "a/.",
        "a/..",
        "../a",
        "a/-b",
        "a-/b",
        "a/_blobs",
        "_catalog",
        "a:b",
        "a@b",
        "a b",
        "a+b",
        "a~b",
        "a\n",
        "a\x00",
        "a\\b",
        "é",
        "à/b",
        "\uff41",  # a, full-width
        "a\u0301",
        "\u0661",  # a digit, but not an ASCII one
        "\ud800",
        "a" * 256,
        "/".join("a" * 129),
        "a" + "-" * 100_000,
    ],
)
def test_what_is_no_name(name):
    with pytest.raises(InvalidName) as caught:
        ECOSYSTEM.parse_name(name)
    assert caught.value.detail["name"] == name[:255]


ALPHANUMERIC = set("abcdefghijklmnopqrstuvwxyz0123456789")


def is_name(text: str) -> bool:
    """The grammar once more, without a pattern: every part is runs of letters and digits between separators of one kind."""
    return len(text) <= 255 and all(is_part(part) for part in text.split("/"))


def is_part(part: str) -> bool:
    if not part or part[0] not in ALPHANUMERIC or part[-1] not in ALPHANUMERIC:
        return False
    runs = ["".join(run) for is_separator, run in groupby(part, lambda character: character not in ALPHANUMERIC) if is_separator]
    return all(run in (".", "_", "__") or set(run) == {"-"} for run in runs)


@given(st.one_of(st.text("ab0.-_/", max_size=12), st.text(max_size=5), st.text("a-/", min_size=253, max_size=257)))
@example("a\u2028b")
def test_a_name_or_the_right_error_and_nothing_else(text):
    if is_name(text):
        assert ECOSYSTEM.parse_name(text) == text
    else:
        with pytest.raises(InvalidName):
            ECOSYSTEM.parse_name(text)


image_names = st.lists(st.from_regex(r"[a-z0-9]{1,4}(?:(?:\.|_|__|--?)[a-z0-9]{1,4}){0,2}", fullmatch=True), min_size=1, max_size=8).map("/".join)


@given(image_names)
@settings(max_examples=20)
def test_a_name_has_keys_of_its_own(name):
    name = ECOSYSTEM.parse_name(name)
    own = [
        keys.blob_pointer("docker", name, DIGEST),
        keys.manifest_pointer("docker", name, DIGEST),
        keys.tag_pointer("docker", name, "v1.0"),
        keys.referrer_pointer("docker", name, DIGEST, DIGEST),
        keys.name_pointer("docker", name),
    ]
    assert len(set(own)) == len(own)
    assert [Key(key) for key in own] == own  # what is trusted would have passed
    assert keys.name_of_pointer(own[-1].rpartition("/")[2]) == name


@given(image_names, image_names)
@settings(max_examples=20)
@example("a-b", "a.b")
@example("a.b", "a/b")
@example("a/b", "a0")
def test_pointers_are_in_the_order_of_names(first, second):
    """So that a page of the catalog begins where the one before ended, without reading it."""
    assert (keys.pointer_of_name(first) < keys.pointer_of_name(second)) is (first < second)


@pytest.mark.parametrize("name", ["a" * 255, "/".join("a" * 128)])
def test_the_longest_name_fits_into_keys(name):
    for key in (
        keys.referrer_pointer("docker", name, Digest.of(b"", "sha512"), Digest.of(b"", "sha512")),
        keys.tag_pointer("docker", name, "t" * 128),
        keys.name_pointer("docker", name),
    ):
        assert Key(key) == key


def test_no_key_of_a_name_is_inside_those_of_another():
    """`a` and `a/tags`, `a/b`: a listing of one folder must not meet another name's pointers."""
    outer, inner = keys.tags_folder("docker", "a"), keys.tag_pointer("docker", "a/tags", "1")
    assert not inner.startswith(outer + "/")
    assert not keys.manifest_pointer("docker", "a/b", DIGEST).startswith(keys.referrers_folder("docker", "a", DIGEST))


@pytest.mark.parametrize("tag", ["a", "_", "1", "latest", "V1.2-rc_3", "_x", "a..b", "a--b", "A" * 128])
def test_tags(tag):
    assert names.parse_tag(tag) == tag
    assert names.parse_reference(tag) == tag


@pytest.mark.parametrize("tag", ["", ".a", "-a", "a/b", "a b", "a+b", "a@b", "é", "a\n", "a\x00", "٣", "\ud800", "a" * 129, "a%2fb"])
def test_what_is_no_tag(tag):
    with pytest.raises(InvalidTag):
        names.parse_tag(tag)
    with pytest.raises(InvalidTag):
        names.parse_reference(tag)


@pytest.mark.parametrize("text", [":", "a:b", "sha256:", "latest:1", str(DIGEST)[:-1], str(DIGEST).upper()])
def test_a_reference_with_a_colon_is_a_digest_or_nothing(text):
    with pytest.raises(InvalidDigest):
        names.parse_reference(text)


@given(st.text())
def test_a_reference_or_the_right_error_and_nothing_else(text):
    try:
        found = names.parse_reference(text)
    except (InvalidTag, InvalidDigest):
        return
    assert str(found) == text
    assert isinstance(found, Digest) == (":" in text)


@pytest.mark.parametrize("digest", [DIGEST, Digest.of(b"x", "sha512")])
def test_a_reference_by_digest(digest):
    assert names.parse_reference(str(digest)) == digest
