"""Files by name: sidecars, digests, parts of uploads, media types, names in headers and addresses."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noraflask.digest import Digest
from noraflask.errors import BadRequest, DigestMismatch, InvalidDigest, InvalidName, RangeInvalid
from noraflask.formats.raw import protocol
from noraflask.formats.raw.protocol import Part

SHA256, SHA512 = Digest.of(b"x"), Digest.of(b"x", "sha512")


def field(digest: Digest, name: str) -> str:
    return f"{name}=:{base64.b64encode(bytes.fromhex(digest.hex)).decode()}:"


@pytest.mark.parametrize(("path", "key"), [("a", "=a"), ("a/b.txt", "+a/=b.txt"), ("+a/=b", "++a/==b"), ("=a/+b/c", "+=a/++b/=c"), ("ü/ü", "+ü/=ü")])
def test_keys(path, key):
    assert protocol.file_key("team", path) == f"team/files/{key}"
    assert protocol.path_of_key(key) == path


def test_a_file_and_a_folder_of_one_name_have_different_keys():
    assert protocol.file_key("raw", "a") == "raw/files/=a"
    assert protocol.folder_key("raw", "a") == "raw/files/+a"
    assert protocol.folder_key("raw", "") == "raw/files"
    assert (protocol.mark_entry("a"), protocol.mark_entry("a/")) == ("=a", "+a/")


def test_a_name_that_fits_into_no_key_is_invalid():
    with pytest.raises(InvalidName):
        protocol.file_key("raw", "a/" + "b" * 255)


@pytest.mark.parametrize(("path", "folders"), [("a", []), ("a/b", ["a"]), ("a/b/c", ["a", "a/b"])])
def test_folders_above(path, folders):
    assert protocol.folders_above(path) == folders


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("app.tar.gz.sha256", ("app.tar.gz", "sha256")),
        ("a/b.md5", ("a/b", "md5")),
        ("a/b.sha1", ("a/b", "sha1")),
        ("a/b.sha512", ("a/b", "sha512")),
        ("a.sha256.sha256", ("a.sha256", "sha256")),
        ("a.SHA256", None),
        ("a/.sha256", None),
        (".sha256", None),
        ("sha256", None),
        ("a", None),
        ("a.sha256/b", None),
    ],
)
def test_sidecars(path, found):
    assert protocol.parse_sidecar(path) == found


def test_a_sidecar_names_the_file_without_its_folders():
    assert protocol.render_sidecar("a/b c.gz", "00ff") == b"00ff  b c.gz\n"


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (None, ()),
        (field(SHA256, "sha-256"), (SHA256,)),
        (f" {field(SHA256, 'sha-256')} , {field(SHA512, 'sha-512')}", (SHA256, SHA512)),
        (f"md5=:AAAA:,{field(SHA512, 'sha-512')}", (SHA512,)),
    ],
)
def test_digest_fields(header, found):
    assert protocol.parse_digest_field("Repr-Digest", header) == found


@pytest.mark.parametrize(
    "header",
    [
        "",
        "sha-256",
        "sha-256=",
        "sha-256=::",
        "sha-256=:AAAA:",
        "sha-256=:%%%%:",
        "sha-256=:" + "A" * 43 + ":",
        "sha-256=abc",
        "md5=:AAAA:",
        f"sha256:{SHA256.hex}",
        field(SHA256, "SHA-256"),
        field(SHA256, "sha-256")[:-1],
        field(SHA256, "sha-256") + ",",
        field(SHA256, "sha-256") + "\n",
        field(SHA512, "sha-256"),
    ],
)
def test_a_digest_field_that_cannot_be_checked_is_bad(header):
    with pytest.raises(InvalidDigest):
        protocol.parse_digest_field("Repr-Digest", header)


@given(st.text(max_size=200))
def test_no_digest_field_breaks_the_parser(text):
    try:
        protocol.parse_digest_field("Content-Digest", text)
    except InvalidDigest:
        pass


@pytest.mark.parametrize("digest", [SHA256, SHA512])
def test_a_rendered_digest_field_is_read_again(digest):
    assert protocol.parse_digest_field("Repr-Digest", protocol.render_digest_field(digest)) == (digest,)


def test_checksum_header():
    assert protocol.parse_checksum(f" {SHA256.hex.upper()} ") == (SHA256,)
    assert protocol.parse_checksum(None) == ()
    for bad in ("", "abc", SHA256.hex + "0", "g" * 64, f"sha256:{SHA256.hex}"):
        with pytest.raises(InvalidDigest):
            protocol.parse_checksum(bad)


def test_two_different_digests_of_one_algorithm_cannot_both_be_right():
    assert protocol.one_of_each((SHA256, SHA512, SHA256)) == (SHA256, SHA512)
    with pytest.raises(DigestMismatch):
        protocol.one_of_each((SHA256, Digest.of(b"y")))


@pytest.mark.parametrize(
    ("header", "length", "found"),
    [
        (None, 5, None),
        ("bytes 0-4/10", 5, Part(0, 5, 10)),
        ("bytes 5-9/10", 5, Part(5, 5, 10)),
        ("bytes 5-9/10", None, Part(5, 5, 10)),
        (" Bytes  5-9/10 ", 5, Part(5, 5, 10)),
        ("bytes */10", None, Part(0, 0, 10)),
        ("bytes */10", 0, Part(0, 0, 10)),
        ("bytes */0", 0, Part(0, 0, 0)),
    ],
)
def test_parts(header, length, found):
    assert protocol.parse_part(header, length) == found


@pytest.mark.parametrize(
    ("header", "length"),
    [
        ("", 5),
        ("bytes", 5),
        ("bytes 0-4", 5),
        ("bytes 0-4/*", 5),
        ("bytes=0-4/10", 5),
        ("0-4/10", 5),
        ("bytes 4-0/10", 5),
        ("bytes 6-10/10", 5),
        ("bytes 0-4/10", 6),
        ("bytes 0-4/10", 0),
        ("bytes */10", 5),
        ("bytes -5-9/10", 5),
        ("bytes 0-9/1" + "0" * 18, 10),
        ("items 0-4/10", 5),
        ("bytes 0-4/10, bytes 5-9/10", 10),
        ("bytes \u0660-\u0664/10", 5),
    ],
)
def test_other_parts_are_bad(header, length):
    with pytest.raises(BadRequest):
        protocol.parse_part(header, length)


def test_the_last_part():
    assert Part(5, 5, 10).is_last
    assert not Part(0, 5, 10).is_last
    assert not Part(0, 0, 0).is_last


def test_only_the_next_part_or_the_first_fits():
    protocol.check_offset(Part(5, 5, 10), 5)
    protocol.check_offset(Part(0, 5, 10), 5)
    with pytest.raises(RangeInvalid) as raised:
        protocol.check_offset(Part(4, 5, 10), 5)
    assert raised.value.headers == {"Upload-Offset": "5", "Range": "bytes=0-4"}


def test_nothing_received_has_no_range():
    assert protocol.offset_headers(0) == {"Upload-Offset": "0"}


@pytest.mark.parametrize(
    ("path", "told", "found"),
    [
        ("a.json", None, "application/json"),
        ("a.JSON", "", "application/json"),
        ("a.tar.gz", None, "application/gzip"),
        ("a.tgz", "application/octet-stream", "application/gzip"),
        ("a.md", "application/x-www-form-urlencoded", "text/markdown"),
        ("a.yml", None, "application/yaml"),
        ("a.svg", None, "image/svg+xml"),
        ("a.wasm", None, "application/wasm"),
        ("a", None, "application/octet-stream"),
        ("b.json/a", None, "application/octet-stream"),
        (".json", None, "application/octet-stream"),
        ("a.unheard-of", None, "application/octet-stream"),
        ("a.json", "text/plain; charset=utf-8", "text/plain; charset=utf-8"),
        ("a.json", 'text/plain; charset="utf-8"', 'text/plain; charset="utf-8"'),
        ("a", "application/octet-stream; x=y", "application/octet-stream"),
        ("a.json", "nonsense", "application/json"),
        ("a.json", "text/html\r\nX-Evil: 1", "application/json"),
        ("a.json", "text/html; x=\u00e9", "application/json"),
        ("a.json", "text/" + "x" * 300, "application/json"),
    ],
)
def test_media_types(path, told, found):
    assert protocol.media_type(path, told) == found


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a/b.tar.gz", 'attachment; filename="b.tar.gz"'),
        ("a b", 'attachment; filename="a b"'),
        ('a";x="', "attachment; filename=\"a_;x=_\"; filename*=UTF-8''a%22%3Bx%3D%22"),
        ("Größe.txt", "attachment; filename=\"Gr__e.txt\"; filename*=UTF-8''Gr%C3%B6%C3%9Fe.txt"),
        ("100%", "attachment; filename=\"100_\"; filename*=UTF-8''100%25"),
    ],
)
def test_disposition(path, found):
    assert protocol.disposition(path) == found


@pytest.mark.parametrize(
    ("path", "found"), [("a/b", "a/b"), ("a b/ü", "a%20b/%C3%BC"), ("a#b?c", "a%23b%3Fc"), ("50%", "50%25"), ("~x+y@1", "~x+y@1"), ('"<', "%22%3C")]
)
def test_addresses(path, found):
    assert protocol.address_of(path) == found
