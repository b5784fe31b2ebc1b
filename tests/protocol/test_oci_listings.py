"""distribution-spec, "Listing Tags", "Listing Referrers"; the catalog is distribution's own."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from noraflask.digest import Digest
from noraflask.formats.docker.protocol.media_types import OCI_ARTIFACT, OCI_INDEX, OCI_MANIFEST
from tests.protocol.oci import CONFIG_TYPE, Registry, code, descriptor, image, index

TAGS = ["0", "1", "1.0", "1.0-rc", "1_0", "10", "2", "A", "Z", "_", "a", "a-b", "a.b", "latest", "z" * 128]
"""In the order of their bytes ("lexical" in the spec)."""


@pytest.fixture
def tagged(registry: Registry) -> None:
    registry.push("app", "1", index(), query=[("tag", tag) for tag in reversed(TAGS)])
    registry.push("app/below", "other", index())


def in_byte_order(entries):
    return sorted(entries, key=str.encode)


def test_tags(registry, tagged):
    answer = registry.ask("GET", "app/tags/list")
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    assert answer.json == {"name": "app", "tags": in_byte_order(TAGS)}
    assert "Link" not in answer.headers


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(TAGS) - 1, len(TAGS), len(TAGS) + 1, 10**29])
def test_links_lead_through_all_tags_in_order(registry, tagged, size):
    assert registry.follow(f"app/tags/list?n={size}", "tags") == in_byte_order(TAGS)


@pytest.mark.parametrize("size", [None, 0, 1, 4, 100])
def test_tags_after(registry, tagged, size):
    for last in ["", *TAGS, "0a", "zzz", "~", "é", "\0", "a/b", "\U0010ffff", "%"]:
        answer = registry.ask("GET", f"app/tags/list?last={quote(last)}" + ("" if size is None else f"&n={size}"))
        rest = [tag for tag in in_byte_order(TAGS) if tag.encode() > last.encode()]
        assert answer.json["tags"] == rest[:size], last
        more = size is not None and 0 < size < len(rest)
        assert answer.headers.get("Link") == (f'</v2/app/tags/list?n={size}&last={rest[size - 1]}>; rel="next"' if more else None)


@pytest.mark.parametrize("path", ["app/tags/list", "_catalog", f"app/referrers/{Digest.of(b'')}"])
@pytest.mark.parametrize("n", ["-1", "x", " ", "1.5", "1e3", "%2b1", "%d9%a1", "9" * 40])
def test_a_bad_n(registry, tagged, path, n):
    assert registry.ask("GET", f"{path}?n={n}").status_code == 400
    assert code(registry.ask("GET", f"{path}?n={n}"))[1] == "UNSUPPORTED"


@pytest.mark.parametrize("path", ["app/tags/list", "_catalog", f"app/referrers/{Digest.of(b'')}"])
def test_parameters_that_are_empty_count_as_absent(registry, tagged, path):
    registry.push_image("app", "subject", subject=descriptor(Digest.of(b""), OCI_MANIFEST))
    plain, answer = registry.ask("GET", path), registry.ask("GET", f"{path}?n=&last=")
    assert (answer.status_code, answer.json) == (200, plain.json)
    assert "Link" not in answer.headers


@pytest.mark.parametrize(
    ("name", "expected"),
    [("none", (404, "NAME_UNKNOWN")), ("app/none", (404, "NAME_UNKNOWN")), ("ap", (404, "NAME_UNKNOWN")), ("App", (400, "NAME_INVALID"))],
)
def test_tags_of_an_unknown_repository(registry, tagged, name, expected):
    assert code(registry.ask("GET", f"{name}/tags/list")) == expected


def test_a_repository_that_holds_blobs_alone_is_not_known_yet(registry):
    registry.push_blob("app", b"x")
    assert code(registry.ask("GET", "app/tags/list")) == (404, "NAME_UNKNOWN")


@pytest.mark.parametrize("name", ["tags", "tags/list", "a/tags", "manifests", "blobs/uploads"])
def test_names_that_hold_the_routes_own_words(registry, name):
    registry.push_image(name, "1")
    assert registry.tags(name) == ["1"]
    assert registry.ask("GET", "_catalog").json == {"repositories": [name]}


# The catalog.

NAMES = ["a", "a-b", "a-b/c", "a.b", "a/b", "a/b-c", "a/b/c", "a0", "a_b", "a__b", "app", "z/y/x"]


@pytest.fixture
def stocked(registry: Registry) -> None:
    for name in NAMES:
        registry.push(name, "1", index())


def test_the_catalog_of_nothing(registry):
    answer = registry.ask("GET", "_catalog")
    assert (answer.status_code, answer.content_type, answer.json) == (200, "application/json", {"repositories": []})


@pytest.mark.parametrize("size", [1, 2, 5, 11, 12, 13])
def test_links_lead_through_the_catalog_in_order(registry, stocked, size):
    assert registry.follow(f"_catalog?n={size}", "repositories") == in_byte_order(NAMES)


@pytest.mark.parametrize("size", [None, 0, 3])
def test_the_catalog_after(registry, stocked, size):
    for last in ["", *NAMES, "a/", "zz", "é"]:
        answer = registry.ask("GET", "_catalog", query_string={"last": last} | ({} if size is None else {"n": size}))
        rest = [name for name in in_byte_order(NAMES) if name > last]
        assert answer.json == {"repositories": rest[:size]}, last
        assert ("Link" in answer.headers) == (size is not None and 0 < size < len(rest))


# Referrers.

SUBJECT = descriptor(Digest.of(image()), OCI_MANIFEST)
SBOM, SIGNATURE = "application/spdx+json", "application/vnd.dev.cosign.artifact.sig.v1+json"


def referrer(number: int, **more) -> bytes:
    return image(subject=SUBJECT, annotations={"number": str(number)}, **more)


@pytest.fixture
def referred(registry: Registry) -> dict[str, str]:
    """Digest -> artifact type of what refers to the image."""
    registry.push_image("app", "1")
    bodies = {number: referrer(number, artifactType=[SBOM, SIGNATURE][number % 2]) for number in range(5)}
    for body in bodies.values():
        pushed = registry.push("app", Digest.of(body), body)
        assert pushed.headers["OCI-Subject"] == SUBJECT["digest"]
    return {str(Digest.of(body)): [SBOM, SIGNATURE][number % 2] for number, body in bodies.items()}


def test_referrers(registry, referred):
    found = registry.referrers("app", SUBJECT["digest"])
    assert {entry["digest"]: entry["artifactType"] for entry in found} == referred
    for entry in found:
        assert entry["mediaType"] == OCI_MANIFEST
        assert entry["size"] == len(registry.ask("GET", f"app/manifests/{entry['digest']}").data)
        assert set(entry["annotations"]) == {"number"}
    assert "OCI-Filters-Applied" not in registry.ask("GET", f"app/referrers/{SUBJECT['digest']}").headers


@pytest.mark.parametrize("wanted", [SBOM, SIGNATURE, CONFIG_TYPE, "none/such", "", "é"])
def test_referrers_of_a_type(registry, referred, wanted):
    answer = registry.ask("GET", f"app/referrers/{SUBJECT['digest']}", query_string={"artifactType": wanted})
    assert answer.headers["OCI-Filters-Applied"] == "artifactType"
    assert {entry["digest"] for entry in answer.json["manifests"]} == {digest for digest, kind in referred.items() if kind == wanted}


@pytest.mark.parametrize("size", [1, 2, 4, 5, 6])
@pytest.mark.parametrize("wanted", [None, SBOM, SIGNATURE])
def test_links_lead_through_all_referrers(registry, referred, size, wanted):
    path = f"app/referrers/{SUBJECT['digest']}?n={size}" + (f"&artifactType={quote(wanted)}" if wanted else "")
    digests = [entry["digest"] for entry in registry.follow(path, "manifests")]
    assert digests == sorted(digest for digest, kind in referred.items() if wanted in (None, kind))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (referrer(1), {"artifactType": CONFIG_TYPE, "mediaType": OCI_MANIFEST}),
        (referrer(1, artifactType="a/b"), {"artifactType": "a/b", "mediaType": OCI_MANIFEST}),
        (index(subject=SUBJECT, artifactType="a/b"), {"artifactType": "a/b", "mediaType": OCI_INDEX}),
        (index(subject=SUBJECT), {"mediaType": OCI_INDEX}),
        (
            json.dumps({"mediaType": OCI_ARTIFACT, "artifactType": "a/b", "subject": SUBJECT}).encode(),
            {"artifactType": "a/b", "mediaType": OCI_ARTIFACT},
        ),
    ],
)
def test_each_kind_of_manifest_may_refer(registry, body, expected):
    """Also before its subject is there."""
    for blob in (b"{}", b"layer"):
        registry.push_blob("app", blob)
    assert registry.push("app", "sbom", body).headers["OCI-Subject"] == SUBJECT["digest"]
    (entry,) = registry.referrers("app", SUBJECT["digest"])
    assert entry.pop("annotations", {"number": "1"}) == {"number": "1"}
    assert entry == {"digest": str(Digest.of(body)), "size": len(body), **expected}


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_sha512_in_referrers(registry, algorithm):
    registry.push_blob("app", b"{}")
    registry.push_blob("app", b"layer")
    subject = Digest.of(b"subject", "sha512")
    body = image(subject=descriptor(subject, OCI_MANIFEST))
    digest = Digest.of(body, algorithm)
    assert registry.push("app", digest, body).headers["OCI-Subject"] == str(subject)
    assert [entry["digest"] for entry in registry.referrers("app", subject)] == [str(digest)]


@pytest.mark.parametrize("name", ["app", "none", "app/none"])
def test_no_referrers_are_an_empty_index(registry, referred, name):
    assert registry.referrers(name, Digest.of(b"unknown")) == []
    assert registry.referrers("none", SUBJECT["digest"]) == []


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("app/referrers/sha256:abc", (400, "DIGEST_INVALID")),
        ("app/referrers/latest", (400, "DIGEST_INVALID")),
        (f"App/referrers/{Digest.of(b'')}", (400, "NAME_INVALID")),
    ],
)
def test_referrers_of_nonsense(registry, path, expected):
    assert code(registry.ask("GET", path)) == expected


def test_a_deleted_referrer_is_listed_no_more(registry, referred):
    gone, *rest = referred
    assert registry.ask("DELETE", f"app/manifests/{gone}").status_code == 202
    assert {entry["digest"] for entry in registry.referrers("app", SUBJECT["digest"])} == set(rest)


def test_the_referrers_of_a_deleted_subject_stay(registry, referred):
    registry.ask("DELETE", f"app/manifests/{SUBJECT['digest']}")
    assert len(registry.referrers("app", SUBJECT["digest"])) == len(referred)


def test_a_deleted_tag_leaves_the_referrer(registry, referred):
    body = referrer(0, artifactType=SBOM)
    registry.push("app", "sbom", body)
    registry.ask("DELETE", "app/manifests/sbom")
    assert len(registry.referrers("app", SUBJECT["digest"])) == len(referred)
