"""Digest and Key: values that are valid once they exist."""

from __future__ import annotations

import hashlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noraflask.digest import ALGORITHMS, Digest, new_hash
from noraflask.errors import InvalidDigest, InvalidName
from noraflask.keys import Key

SHA256, SHA512 = "sha256:" + "0a" * 32, "sha512:" + "9f" * 64


@pytest.mark.parametrize("text", [SHA256, SHA512])
def test_digest_is_what_it_was_parsed_from(text):
    digest = Digest.parse(text)
    assert (str(digest), f"{digest.algorithm}:{digest.hex}") == (text, text)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        ":",
        "sha256",
        "sha256:",
        SHA256[:-1],
        SHA256 + "0",
        SHA512[:-1],
        SHA512[: len(SHA256)],
        SHA256.replace("sha256", "sha512"),
        SHA256.upper(),
        SHA256.replace("a", "A"),
        SHA256.replace("a", "g"),
        SHA256.replace("sha256", "SHA256"),
        SHA256.replace("sha256", "sha384"),
        "md5:" + "0" * 32,
        "sha256+b64:" + "0" * 64,
        SHA256 + "\n",
        " " + SHA256,
        SHA256 + "\x00",
        SHA256[:-1] + "\u0663",  # a digit, but not an ASCII one
        SHA256[:-1] + "\ud800",
        "sha256:../" + "0" * 61,
        "x" * 100_000,
    ],
)
def test_what_is_no_digest(text):
    with pytest.raises(InvalidDigest) as caught:
        Digest.parse(text)
    assert len(caught.value.detail["digest"]) <= 200


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_digest_of_bytes(algorithm):
    assert str(Digest.of(b"abc", algorithm)) == f"{algorithm}:{hashlib.new(algorithm, b'abc').hexdigest()}"
    assert len(Digest.of(b"", algorithm).hex) == ALGORITHMS[algorithm]
    running = new_hash(algorithm, b"a")
    running.update(b"bc")
    assert running.hexdigest() == Digest.of(b"abc", algorithm).hex


def is_digest(text: str) -> bool:
    """The grammar once more, without a pattern."""
    algorithm, colon, value = text.partition(":")
    return bool(colon) and len(value) == {"sha256": 64, "sha512": 128}.get(algorithm) and all(c in "0123456789abcdef" for c in value)


near_digests = st.builds(
    lambda algorithm, colon, value, end: algorithm + colon + value + end,
    st.sampled_from(["sha256", "sha512", "sha1", "Sha256", ""]),
    st.sampled_from([":", "", "::"]),
    st.sampled_from([64, 128]).flatmap(lambda size: st.text("0123456789abcdefAF", min_size=size - 1, max_size=size)),
    st.sampled_from(["", "", "\n", "0"]),
)


@given(st.one_of(st.text(), near_digests, st.binary().map(lambda data: str(Digest.of(data))), st.binary().map(lambda d: str(Digest.of(d, "sha512")))))
def test_a_digest_or_the_right_error_and_nothing_else(text):
    if is_digest(text):
        assert str(Digest.parse(text)) == text
    else:
        with pytest.raises(InvalidDigest):
            Digest.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a/b",
        "docker/team/app/_blobs/" + SHA256,
        "docker/.names/team:app",
        "a" * 255,
        "é" * 127,
        "/".join(["ab"] * 300),
        "a b",
        "a/..b",
        "a/b..",
        "…",
    ],
)
def test_keys(text):
    assert Key(text) == text
    assert Key.trusted(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "../a",
        "a/..",
        "a/../b",
        "a/./b",
        ".a",
        ".incoming/x",
        "a\\b",
        "a\x00",
        "a\nb",
        "a\x1f",
        "a\x7f",
        "a\n",
        "\ud800",
        "a" * 256,
        "é" * 128,  # 256 bytes
        "/".join(["ab"] * 400),  # more than 1024 bytes
    ],
)
def test_what_is_no_key(text):
    with pytest.raises(InvalidName) as caught:
        Key(text)
    assert len(caught.value.detail["name"]) <= 200


@given(st.one_of(st.text(), st.text("a./\\\x00 é", max_size=12), st.lists(st.sampled_from([".", "..", "", "a", "x" * 255, "x" * 256])).map("/".join)))
def test_a_key_stays_below_its_root_or_is_refused(text):
    try:
        key = Key(text)
    except InvalidName:
        return
    parts = key.split("/")
    assert not {"", ".", ".."} & set(parts)
    assert not set(key) & (set(map(chr, range(32))) | {"\x7f", "\\"})
    assert not key.startswith(".")
    assert len(key.encode()) <= 1024
    assert max(len(part.encode()) for part in parts) <= 255


@given(st.lists(st.text(string.ascii_letters + string.digits + "_-:+~", min_size=1, max_size=20), min_size=1, max_size=20))
def test_plain_parts_make_a_key(parts):
    assert Key("/".join(parts)).split("/") == parts
