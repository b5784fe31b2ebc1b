"""What a client gets for a tag, whatever it accepts; indexes of images, of blobs, and of what is not there (image-spec "Image Index")."""

from __future__ import annotations

import json
from typing import Any

import pytest

from noraflask.digest import Digest
from noraflask.formats.docker.protocol.media_types import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from tests.protocol.oci import LAYER_TYPE, Registry, code, descriptor, image, index

FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


@pytest.fixture(autouse=True)
def _blobs(registry: Registry) -> None:
    for blob in (b"{}", b"layer"):
        registry.push_blob("app", blob)


# Accept.

CHILD = {"platform": {"os": "linux", "architecture": "amd64"}}


@pytest.fixture
def multi(registry: Registry) -> dict[str, bytes]:
    """A tag `multi` that leads to an index of amd64 and arm64."""
    amd64, arm64 = image(annotations={"for": "amd64"}), image(annotations={"for": "arm64"})
    arm = descriptor(arm64, OCI_MANIFEST, platform={"os": "linux", "architecture": "arm64"})
    body = index(arm, descriptor(amd64, OCI_MANIFEST, **CHILD))
    for reference, manifest in ((Digest.of(amd64), amd64), (Digest.of(arm64), arm64), ("multi", body)):
        assert registry.push("app", reference, manifest).status_code == 201
    return {"index": body, "amd64": amd64, "arm64": arm64}


@pytest.mark.parametrize(
    ("accept", "found"),
    [
        (None, "index"),
        ("", "index"),
        ("*/*", "index"),
        ("application/*", "index"),
        (OCI_INDEX, "index"),
        (f"{OCI_MANIFEST}, {OCI_INDEX}", "index"),
        (f"{OCI_MANIFEST}, */*", "index"),
        (OCI_MANIFEST, "amd64"),
        (f"{DOCKER_MANIFEST}, {OCI_MANIFEST};q=0.5", "amd64"),
        (f"{OCI_INDEX};q=0, {OCI_MANIFEST}", "amd64"),
        (f"{OCI_INDEX}; q=0.000, {OCI_MANIFEST};q=0.001", "amd64"),
        (f"{OCI_MANIFEST}, */*;q=0", "amd64"),
        (f"application/json, {OCI_MANIFEST}", "amd64"),
        (f"{OCI_MANIFEST.upper()};q=high", "amd64"),
        # what is stored, for those who name no type of images, or one of indexes
        (f"{OCI_MANIFEST};q=0", "index"),
        (f"{OCI_MANIFEST}, *", "index"),
        (DOCKER_MANIFEST, "index"),  # no child is of that type
        (DOCKER_LIST, "index"),
        (f"{DOCKER_MANIFEST}, {DOCKER_LIST}", "index"),
        (f"{OCI_MANIFEST}, {DOCKER_LIST}", "index"),
        ("application/json", "index"),
        ("*", "index"),
        ("*/*;q=0", "index"),
        ("text/html", "index"),
        (",;q=,;;q=0,", "index"),
        ("\xff", "index"),
    ],
)
def test_a_tag_that_leads_to_an_index(registry, multi, accept, found):
    for method in ("GET", "HEAD"):
        answer = registry.ask(method, "app/manifests/multi", headers={} if accept is None else {"Accept": accept})
        assert answer.status_code == 200
        assert answer.headers["Docker-Content-Digest"] == str(Digest.of(multi[found]))
        assert answer.headers["Content-Type"] == (OCI_INDEX if found == "index" else OCI_MANIFEST)
        assert answer.headers["Vary"] == "Accept"
        assert answer.data == (multi[found] if method == "GET" else b"")


@pytest.mark.parametrize("accept", [OCI_MANIFEST, DOCKER_LIST, "text/html", "*/*;q=0"])
def test_a_digest_is_served_whatever_is_accepted(registry, multi, accept):
    for body in multi.values():
        answer = registry.ask("GET", f"app/manifests/{Digest.of(body)}", headers={"Accept": accept})
        assert (answer.status_code, answer.data) == (200, body)


@pytest.mark.parametrize("accept", [DOCKER_MANIFEST, OCI_INDEX, DOCKER_LIST, "application/json", "*", "text/html", "*/*;q=0", f"{OCI_MANIFEST};q=0"])
@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_an_image_that_is_not_accepted_is_served_all_the_same(registry, media_type, accept):
    registry.push("app", "1", image(media_type=media_type))
    for method in ("GET", "HEAD"):
        answer = registry.ask(method, "app/manifests/1", headers={"Accept": accept})
        assert (answer.status_code, answer.content_type) == (200, media_type)
        assert answer.data == (image(media_type=media_type) if method == "GET" else b"")


def test_an_index_whose_child_is_gone(registry, multi):
    registry.ask("DELETE", f"app/manifests/{Digest.of(multi['amd64'])}")
    answer = registry.ask("GET", "app/manifests/multi", headers={"Accept": OCI_MANIFEST})
    assert (answer.status_code, answer.content_type, answer.data) == (200, OCI_INDEX, multi["index"])


# Indexes of other things than images, and of what is not there.

CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def buildkit_cache(media_type: str) -> tuple[bytes, dict[str, Any]]:
    """What `buildctl build --export-cache type=registry` of BuildKit before 0.21 pushes, with either value of `oci-mediatypes`; and its entries.

    Members, their order and their absence were recorded from 0.12.5.
    """
    layer_type = LAYER_TYPE if media_type == OCI_INDEX else DOCKER_LAYER
    annotations = {"buildkit/createdat": "2019-08-14T17:52:26.789506223-07:00", "containerd.io/uncompressed": str(Digest.of(b"tar"))}
    entries = [descriptor(b"layer", layer_type, annotations=annotations), descriptor(b"second layer", layer_type), descriptor(b"{}", CACHE_CONFIG)]
    return json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}, separators=(",", ":")).encode(), {
        "layers": entries[:2],
        "config": entries[2],
    }


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
def test_a_cache_of_buildkit_is_an_index_of_blobs(registry, media_type):
    body, entries = buildkit_cache(media_type)
    assert code(registry.push("team/cache", "main", body)) == (400, "MANIFEST_BLOB_UNKNOWN")
    # as its resolver pushes: each blob by POST and PUT, the manifest last, after a HEAD of its tag
    for blob in (b"layer", b"second layer", b"{}"):
        assert registry.status(f"team/cache/blobs/{Digest.of(blob)}") == 404
        assert registry.ask("PUT", registry.begin("team/cache"), query_string={"digest": str(Digest.of(blob))}, data=blob).status_code == 201
    assert registry.status("team/cache/manifests/main") == 404
    answer = registry.push("team/cache", "main", body)
    assert (answer.status_code, answer.headers["Docker-Content-Digest"]) == (201, str(Digest.of(body)))
    # and as its importer reads
    accept = ", ".join((DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX, "*/*"))
    answer = registry.ask("GET", "team/cache/manifests/main", headers={"Accept": accept})
    assert (answer.status_code, answer.content_type, answer.data) == (200, media_type, body)
    for entry in (*entries["layers"], entries["config"]):
        assert registry.status(f"team/cache/blobs/{entry['digest']}", "GET") == 200
        assert registry.status(f"team/cache/manifests/{entry['digest']}") == 404
    assert registry.tags("team/cache") == ["main"]
    assert registry.ask("GET", "team/cache/manifests/main", headers={"Accept": OCI_MANIFEST}).data == body


def test_a_newer_cache_of_buildkit_is_an_image(registry):
    """`image-manifest=true`, the default since 0.21."""
    members = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(b"{}", CACHE_CONFIG), "layers": [descriptor(b"layer")]}
    assert registry.push("app", "cache", json.dumps(members).encode()).status_code == 201


@pytest.mark.parametrize(
    "entry",
    [
        descriptor(b"layer", OCI_MANIFEST),  # a blob cannot be had where a manifest is looked for
        descriptor(b"layer", f"{OCI_MANIFEST}; charset=utf-8"),
        descriptor(b"layer", OCI_INDEX.upper()),
        descriptor(b"absent", DOCKER_LAYER),
        descriptor(b"absent", CACHE_CONFIG),
        descriptor(b"absent", "application/vnd.docker.distribution.manifest.v1+prettyjws"),
    ],
    ids=lambda entry: entry["mediaType"],
)
def test_what_an_index_lists_must_be_there_as_what_it_says(registry, entry):
    body = index(descriptor(b"{}", CACHE_CONFIG), entry)
    assert code(registry.push("app", "1", body)) == (400, "MANIFEST_BLOB_UNKNOWN")


def test_what_else_an_index_may_list(registry):
    registry.push("app", "1", image())
    assert registry.push("app", "2", index(descriptor(image(), "application/vnd.example.manifest+json"))).status_code == 201
    assert registry.push("app", "3", index(descriptor(b"far away", FOREIGN), descriptor(b"layer"))).status_code == 201


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
def test_a_sparse_index(make_app, media_type):
    here = image()
    platform = {"os": "linux", "architecture": "amd64"}
    body = index(descriptor(here, OCI_MANIFEST), descriptor(b"absent", OCI_MANIFEST, platform=platform), descriptor(b"absent"), media_type=media_type)
    for setting, status in (({}, 400), ({"sparse_indexes": "require"}, 400), ({"sparse_indexes": "allow"}, 201)):
        registry = Registry(make_app(docker=setting).test_client())
        for blob in (b"{}", b"layer"):
            registry.push_blob("app", blob)
        registry.push("app", Digest.of(here), here)
        assert registry.push("app", "1", body).status_code == status
        assert registry.push("app", "2", image(layers=(b"absent",))).status_code == 400  # an image must be whole all the same
        assert registry.push("app", Digest.of(index()), index()).status_code == 201
    answer = registry.ask("GET", "app/manifests/1", headers={"Accept": OCI_MANIFEST})
    assert (answer.status_code, answer.data) == (200, body)
    assert registry.status(f"app/manifests/{Digest.of(b'absent')}") == 404


# What other tools push.

EMPTY = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": str(Digest.of(b"{}")), "size": 2, "data": "e30="}
SUBJECT = descriptor(image(), OCI_MANIFEST)


def artifact(config: dict[str, Any], layer_type: str, **more: Any) -> dict[str, Any]:
    layer = descriptor(b"layer", layer_type, annotations={"org.opencontainers.image.title": "hello.txt"})
    return {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer], **more}


TOOLS = {
    "notation": artifact(
        {**EMPTY, "mediaType": "application/vnd.cncf.notary.signature"},
        "application/jose+json",
        subject=SUBJECT,
        annotations={"io.cncf.notary.x509chain.thumbprint#S256": '["ab"]'},
    ),
    "cosign, tag": artifact(
        descriptor(b"{}", "application/vnd.oci.image.config.v1+json"),
        "application/vnd.dev.cosign.simplesigning.v1+json",
        layers=[descriptor(b"layer", "application/vnd.dev.cosign.simplesigning.v1+json", annotations={"dev.cosignproject.cosign/signature": "MEU="})],
    ),
    "cosign, bundle": artifact(
        EMPTY, "application/vnd.dev.sigstore.bundle.v0.3+json", artifactType="application/vnd.dev.sigstore.bundle.v0.3+json", subject=SUBJECT
    ),
    "oras": artifact(EMPTY, "text/plain", artifactType="application/vnd.unknown.artifact.v1"),
    "oras, no layers": artifact(EMPTY, "", artifactType="application/vnd.example", layers=[EMPTY]),
    "wasm": artifact(descriptor(b"{}", "application/vnd.wasm.config.v0+json"), "application/wasm"),
    "helm": artifact(descriptor(b"{}", "application/vnd.cncf.helm.config.v1+json"), "application/vnd.cncf.helm.chart.content.v1.tar+gzip"),
    "attestation of buildkit": artifact(
        descriptor(b"{}", "application/vnd.oci.image.config.v1+json"),
        "application/vnd.in-toto+json",
        layers=[descriptor(b"layer", "application/vnd.in-toto+json", annotations={"in-toto.io/predicate-type": "https://spdx.dev/Document"})],
    ),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_what_other_tools_push(registry, tool):
    body = json.dumps(TOOLS[tool], separators=(",", ":")).encode()
    answer = registry.push("app", Digest.of(body), body)
    assert (answer.status_code, answer.headers.get("OCI-Subject")) == (201, SUBJECT["digest"] if "subject" in TOOLS[tool] else None)
    answer = registry.ask("GET", f"app/manifests/{Digest.of(body)}")
    assert (answer.status_code, answer.content_type, answer.data) == (200, OCI_MANIFEST, body)
    listed = registry.referrers("app", Digest.of(image()))
    assert [entry["digest"] for entry in listed] == [str(Digest.of(body))] * ("subject" in TOOLS[tool])


def test_an_index_with_attestations(registry):
    """As `docker buildx build --provenance` pushes: an attestation is a child of no platform, and no client is sent there."""
    attestation = json.dumps(TOOLS["attestation of buildkit"]).encode()
    for body in (image(), attestation):
        registry.push("app", Digest.of(body), body)
    reference = {"vnd.docker.reference.digest": str(Digest.of(image())), "vnd.docker.reference.type": "attestation-manifest"}
    unknown = {"os": "unknown", "architecture": "unknown"}
    body = index(descriptor(attestation, OCI_MANIFEST, annotations=reference, platform=unknown), descriptor(image(), OCI_MANIFEST, **CHILD))
    assert registry.push("app", "1", body).status_code == 201
    assert registry.ask("GET", "app/manifests/1").data == body
    assert registry.ask("GET", "app/manifests/1", headers={"Accept": OCI_MANIFEST}).data == image()
