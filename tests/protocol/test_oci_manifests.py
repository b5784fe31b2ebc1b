"""distribution-spec, "Pushing Manifests", "Pulling manifests", "Deleting Manifests", "Deleting tags"."""

from __future__ import annotations

import io
import json

import pytest

from noraflask.digest import Digest
from noraflask.formats.docker.protocol.manifests import MANIFEST_BYTES
from noraflask.formats.docker.protocol.media_types import DOCKER_LIST, DOCKER_MANIFEST, OCI_ARTIFACT, OCI_INDEX, OCI_MANIFEST
from tests.protocol.oci import STREAMED, Registry, code, descriptor, image, index

FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
UNKNOWN = Digest.of(b"unknown")


@pytest.fixture(autouse=True)
def _blobs(registry: Registry) -> None:
    for name in ("app", "team/app"):
        for blob in (b"{}", b"layer"):
            registry.push_blob(name, blob)


def artifact(**more) -> bytes:
    return json.dumps({"mediaType": OCI_ARTIFACT, "artifactType": "a/b", "blobs": [descriptor(b"layer")], **more}).encode()


# Push and pull.

BODIES = {
    OCI_MANIFEST: image(),
    DOCKER_MANIFEST: image(media_type=DOCKER_MANIFEST),
    OCI_INDEX: index(),
    DOCKER_LIST: index(media_type=DOCKER_LIST),
    OCI_ARTIFACT: artifact(),
}


@pytest.mark.parametrize("media_type", BODIES)
@pytest.mark.parametrize("name", ["app", "team/app"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512", None])
def test_bytes_and_type_come_back_as_they_were(registry, media_type, name, algorithm):
    """By digest of either algorithm, or by tag: spaces, order and all."""
    body = b" \n" + BODIES[media_type].replace(b", ", b" ,\t") + b"\n"
    digest = Digest.of(body, algorithm or "sha256")
    pushed = registry.push(name, digest if algorithm else "1.0", body, media_type)
    assert pushed.status_code == 201
    assert pushed.headers["Docker-Content-Digest"] == str(digest)
    assert pushed.headers["Location"] == f"/v2/{name}/manifests/{digest}"
    assert pushed.headers.getlist("OCI-Tag") == ([] if algorithm else ["1.0"])
    assert "OCI-Subject" not in pushed.headers
    for reference in [pushed.headers["Location"]] + ([] if algorithm else [f"{name}/manifests/1.0"]):
        for method in ("GET", "HEAD"):
            answer = registry.ask(method, reference)
            assert answer.status_code == 200
            assert answer.data == (body if method == "GET" else b"")
            assert answer.headers["Content-Type"] == media_type
            assert answer.headers["Content-Length"] == str(len(body))
            assert answer.headers["Docker-Content-Digest"] == str(digest)
            assert answer.headers["ETag"] == f'"{digest}"'


@pytest.mark.parametrize("content_type", ["", "application/json", "application/octet-stream", OCI_MANIFEST + "; charset=utf-8"])
def test_a_type_that_only_the_body_tells(registry, content_type):
    assert registry.push("app", "1", image(), content_type).status_code == 201
    assert registry.ask("GET", "app/manifests/1").headers["Content-Type"] == OCI_MANIFEST


def test_a_push_by_digest_makes_no_tag(registry):
    registry.push("app", Digest.of(image()), image())
    assert registry.tags("app") == []


@pytest.mark.parametrize(
    ("reference", "query", "tags"),
    [
        ("1", [("tag", "2"), ("tag", "3")], ["1", "2", "3"]),
        (None, [("tag", "2")], ["2"]),
        (None, [("tag", "b"), ("tag", "a")], ["b", "a"]),
        ("1", [("digest", str(Digest.of(image())))], ["1"]),
        ("1", [("digest", str(Digest.of(image(), "sha512")))], ["1"]),
    ],
)
def test_tags_by_parameter(registry, reference, query, tags):
    pushed = registry.push("app", reference or Digest.of(image()), image(), query=query)
    assert (pushed.status_code, pushed.headers.getlist("OCI-Tag")) == (201, tags)
    assert registry.tags("app") == sorted(tags)
    for tag in tags:
        answer = registry.ask("GET", f"app/manifests/{tag}")
        assert (answer.data, answer.headers["Docker-Content-Digest"]) == (image(), pushed.headers["Docker-Content-Digest"])


@pytest.mark.parametrize(
    ("reference", "query", "expected"),
    [
        ("1", [("tag", "-bad")], "MANIFEST_INVALID"),
        ("1", [("tag", "")], "MANIFEST_INVALID"),
        ("1", [("digest", str(UNKNOWN))], "DIGEST_INVALID"),
        ("1", [("digest", "x")], "DIGEST_INVALID"),
        (str(UNKNOWN), [], "DIGEST_INVALID"),
        (str(Digest.of(b"unknown", "sha512")), [], "DIGEST_INVALID"),
        ("sha256:abc", [], "DIGEST_INVALID"),
        ("-bad", [], "MANIFEST_INVALID"),
        ("a" * 129, [], "MANIFEST_INVALID"),
        ("%ff", [], "MANIFEST_INVALID"),
    ],
)
def test_references_that_do_not_fit(registry, reference, query, expected):
    assert code(registry.push("app", reference, image(), query=query)) == (400, expected)
    assert registry.status(f"app/manifests/{Digest.of(image())}") == 404
    assert registry.status("app/tags/list") == 404


def test_a_tag_moves_and_the_old_manifest_stays(registry):
    first, second = image(annotations={"a": "1"}), image(annotations={"a": "2"})
    for body in (first, second, second):
        assert registry.push("app", "latest", body).status_code == 201
        assert registry.ask("GET", "app/manifests/latest").data == body
    assert registry.ask("GET", f"app/manifests/{Digest.of(first)}").data == first
    assert registry.tags("app") == ["latest"]


def test_the_same_bytes_under_another_type(registry):
    body = image().replace(b'"mediaType": "%s", ' % OCI_MANIFEST.encode(), b"")
    for media_type in (OCI_MANIFEST, DOCKER_MANIFEST):
        registry.push("app", "1", body, media_type)
        assert registry.ask("GET", "app/manifests/1").headers["Content-Type"] == media_type
        assert registry.ask("GET", f"app/manifests/{Digest.of(body)}").headers["Content-Type"] == media_type


@pytest.mark.parametrize(("header", "status"), [("{etag}", 304), ("*", 304), ('"x"', 200)])
def test_if_none_match(registry, header, status):
    registry.push("app", "1", image())
    etag = registry.ask("GET", "app/manifests/1").headers["ETag"]
    assert registry.ask("GET", "app/manifests/1", headers={"If-None-Match": header.format(etag=etag)}).status_code == status


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("app/manifests/none", (404, "MANIFEST_UNKNOWN")),
        (f"app/manifests/{UNKNOWN}", (404, "MANIFEST_UNKNOWN")),
        ("none/manifests/1", (404, "MANIFEST_UNKNOWN")),
        ("team/manifests/1", (404, "MANIFEST_UNKNOWN")),
        (f"team/app/manifests/{Digest.of(image())}", (404, "MANIFEST_UNKNOWN")),
        ("app/manifests/-bad", (400, "MANIFEST_INVALID")),
        ("app/manifests/a+b", (400, "MANIFEST_INVALID")),
        ("app/manifests/sha256:abc", (400, "DIGEST_INVALID")),
        ("App/manifests/1", (400, "NAME_INVALID")),
        ("a//b/manifests/1", (404, "UNSUPPORTED")),
    ],
)
def test_what_is_not_there(registry, method, path, expected):
    registry.push("app", "1", image())
    answer = registry.ask(method, path)
    assert (answer.status_code if method == "HEAD" else code(answer)) == (expected[0] if method == "HEAD" else expected)


def test_a_blob_is_no_manifest_and_a_manifest_no_blob(registry):
    registry.push("app", "1", image())
    assert registry.status(f"app/manifests/{Digest.of(b'layer')}") == 404
    assert registry.status(f"app/blobs/{Digest.of(image())}") == 404


# What is refused.


@pytest.mark.parametrize("form", [{}, STREAMED], ids=["announced", "streamed"])
@pytest.mark.parametrize(("size", "status"), [(MANIFEST_BYTES, 201), (MANIFEST_BYTES + 1, 413)])
def test_the_largest_manifest(registry, form, size, status):
    body = image().ljust(size)
    headers = {"Content-Type": OCI_MANIFEST, **form.get("headers", {})}
    answer = registry.ask("PUT", "app/manifests/1", input_stream=io.BytesIO(body), **{**form, "headers": headers})
    assert answer.status_code == status
    assert registry.status("app/manifests/1") == (200 if status == 201 else 404)
    if status == 413:
        assert code(answer) == (413, "SIZE_INVALID")


def test_the_servers_own_body_limit_holds_for_manifests_too(make_app):
    registry = Registry(make_app(server={"body_limit_mb": 1}).test_client())
    for size, status in ((1 << 20, 201), ((1 << 20) + 1, 413)):
        assert registry.push("app", "1", index().ljust(size)).status_code == status


@pytest.mark.parametrize(
    ("body", "unknown"),
    [
        (image(config=b"absent"), b"absent"),
        (image(layers=(b"layer", b"absent")), b"absent"),
        (image(layers=(b"other name's",)), b"other name's"),
        (artifact(blobs=[descriptor(b"absent")]), b"absent"),
        (index(descriptor(b"absent", OCI_MANIFEST)), b"absent"),
        (index(descriptor(b"layer", OCI_MANIFEST)), b"layer"),  # a blob, not a manifest
    ],
)
@pytest.mark.parametrize("by_digest", [True, False])
def test_what_a_manifest_needs_must_be_in_its_repository(registry, body, unknown, by_digest):
    registry.push_blob("other", b"other name's")
    answer = registry.push("app", Digest.of(body) if by_digest else "1", body)
    assert code(answer) == (400, "MANIFEST_BLOB_UNKNOWN")
    assert answer.json["errors"][0]["detail"] == {"digest": str(Digest.of(unknown))}
    assert registry.status("app/manifests/1") == registry.status(f"app/manifests/{Digest.of(body)}") == 404


def test_a_child_in_another_repository_is_none(registry):
    registry.push("team/app", "1", image())
    body = index(descriptor(image(), OCI_MANIFEST))
    assert code(registry.push("app", "1", body)) == (400, "MANIFEST_BLOB_UNKNOWN")
    assert registry.push("team/app", "2", body).status_code == 201


def test_foreign_layers_and_subjects_need_not_be_there(registry):
    layers = [descriptor(b"far away", FOREIGN, urls=["https://example.com/x"]), descriptor(b"layer")]
    members = {"schemaVersion": 2, "config": descriptor(b"{}", "x/y"), "layers": layers, "subject": descriptor(UNKNOWN, OCI_MANIFEST)}
    for media_type in (OCI_MANIFEST, DOCKER_MANIFEST):
        assert registry.push("app", "1", json.dumps(members).encode(), media_type).status_code == 201
    assert registry.status(f"app/blobs/{Digest.of(b'far away')}") == 404


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", OCI_MANIFEST),
        (b"not json", OCI_MANIFEST),
        (b"[]", OCI_MANIFEST),
        (b"{}", OCI_MANIFEST),
        (b"\xff\xfe{}", OCI_MANIFEST),
        (b'{"a":' * 100_000, OCI_MANIFEST),
        (image()[:-1], OCI_MANIFEST),
        (image(), OCI_INDEX),
        (image(), "text/html"),
        (image(manifests=[]), OCI_MANIFEST),
        (index(layers=[]), OCI_INDEX),
        (index(config={}), OCI_INDEX),
        (image().replace(b'"config": {', b'"config": null, "x": {'), OCI_MANIFEST),
    ],
    ids=lambda value: value[:20] if isinstance(value, bytes) else None,
)
def test_what_is_no_manifest(registry, body, content_type):
    assert code(registry.push("app", "1", body, content_type)) == (400, "MANIFEST_INVALID")
    assert registry.status("app/tags/list") == 404


@pytest.mark.parametrize(
    "body",
    [
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": None},
        {"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": None},
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "config": None, "layers": None, "blobs": None, "subject": None},
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(b"{}", "x/y"), "layers": None, "manifests": None, "annotations": None},
        {"schemaVersion": 2, "mediaType": None, "artifactType": None, "config": descriptor(b"{}", "x/y"), "layers": None, "manifests": None},
        {"mediaType": OCI_ARTIFACT, "artifactType": "a/b", "blobs": None, "manifests": None},
    ],
    ids=lambda body: str(body)[20:90],
)
def test_what_is_null_is_not_there(registry, body):
    """As programs in Go write a list that nothing was put in."""
    data, media_type = json.dumps(body).encode(), body["mediaType"] or OCI_MANIFEST
    for content_type in (media_type, "application/json" if body["mediaType"] else ""):
        assert registry.push("app", "1", data, content_type).status_code == 201
    answer = registry.ask("GET", "app/manifests/1")
    assert (answer.status_code, answer.content_type, answer.data) == (200, media_type, data)


@pytest.mark.parametrize("name", ["App", "_a", "%ff", "a" * 256])
def test_a_bad_name(registry, name):
    assert code(registry.push(name, "1", image())) == (400, "NAME_INVALID")


# Delete.


@pytest.fixture
def tagged(registry: Registry) -> Digest:
    """One manifest under tags 1 and 2, another one under 3."""
    registry.push("app", "1", image(), query=[("tag", "2")])
    registry.push("app", "3", image(annotations={"another": "one"}))
    return Digest.of(image())


def test_delete_a_tag_alone(registry, tagged):
    assert registry.ask("DELETE", "app/manifests/1").status_code == 202
    assert code(registry.ask("GET", "app/manifests/1")) == (404, "MANIFEST_UNKNOWN")
    assert code(registry.ask("DELETE", "app/manifests/1")) == (404, "MANIFEST_UNKNOWN")
    assert registry.tags("app") == ["2", "3"]
    assert registry.status("app/manifests/2") == registry.status(f"app/manifests/{tagged}") == 200


def test_delete_a_manifest_and_its_tags(registry, tagged):
    registry.push("team/app", "1", image())
    assert registry.ask("DELETE", f"app/manifests/{tagged}").status_code == 202
    for reference in ("1", "2", str(tagged)):
        assert code(registry.ask("GET", f"app/manifests/{reference}")) == (404, "MANIFEST_UNKNOWN")
    assert registry.tags("app") == ["3"]
    assert registry.status(f"app/blobs/{Digest.of(b'layer')}") == 200
    assert registry.status(f"team/app/manifests/{tagged}") == registry.status("team/app/manifests/1") == 200
    assert registry.push("app", "1", image()).status_code == 201
    assert registry.tags("app") == ["1", "3"]


def test_delete_the_last_tag_and_the_repository_stays_known(registry, tagged):
    for tag in ("1", "2", "3"):
        registry.ask("DELETE", f"app/manifests/{tag}")
    answer = registry.ask("GET", "app/tags/list")
    assert (answer.status_code, answer.json) == (200, {"name": "app", "tags": []})


def test_delete_a_blob_that_a_manifest_needs(registry, tagged):
    """The manifest can still be read, and be pushed again only with its blob."""
    registry.ask("DELETE", f"app/blobs/{Digest.of(b'layer')}")
    assert registry.status("app/manifests/1") == 200
    assert code(registry.push("app", "4", image())) == (400, "MANIFEST_BLOB_UNKNOWN")
