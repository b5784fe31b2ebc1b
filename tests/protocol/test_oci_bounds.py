"""What large documents and long listings may cost: answers of bounded size, and reads that parse nothing."""

from __future__ import annotations

import json

import pytest

from noraflask.digest import Digest
from noraflask.formats.docker.protocol import kept, listings
from noraflask.formats.docker.protocol.kept import ANNOTATIONS_BYTES, FEW_PARTS
from noraflask.formats.docker.protocol.manifests import MANIFEST_BYTES
from noraflask.formats.docker.protocol.media_types import DOCKER_MANIFEST, OCI_ARTIFACT, OCI_INDEX, OCI_MANIFEST
from tests.protocol.oci import Registry, code, descriptor, image, index
from tests.storage import keys_in

SUBJECT = descriptor(image(), OCI_MANIFEST)


def push_referrers(registry: Registry, count: int, size: int, artifact_type: str = "a/b", piece: int = 1000) -> list[str]:
    """Their digests. Each has so many bytes of annotations, in pieces."""
    registry.push_image("app", "1")
    digests = []
    for number in range(count):
        annotations = {"number": f"{number}"} | {f"{place}": "x" * piece for place in range(size // piece)}
        body = image(subject=SUBJECT, artifactType=artifact_type, annotations=annotations)
        assert registry.push("app", Digest.of(body), body).status_code == 201
        digests.append(str(Digest.of(body)))
    return sorted(digests)


@pytest.mark.parametrize("piece", [1000, 100_000])
def test_referrers_with_large_annotations_are_a_small_answer(registry, piece):
    digests = push_referrers(registry, 8, MANIFEST_BYTES - 200_000, piece=piece)
    answer = registry.ask("GET", f"app/referrers/{SUBJECT['digest']}?n=999999999")
    assert len(answer.data) < 8 * (ANNOTATIONS_BYTES + 1000)
    assert [entry["digest"] for entry in answer.json["manifests"]] == digests
    assert all(entry["annotations"]["number"] for entry in answer.json["manifests"])


@pytest.mark.parametrize("size", [3000, 9000])
def test_referrers_are_paged_by_bytes(registry, monkeypatch, size):
    monkeypatch.setattr(listings, "REFERRERS_BYTES", 8000)
    digests = push_referrers(registry, 9, size)
    pages, path = [], f"app/referrers/{SUBJECT['digest']}?artifactType=a/b"
    while path:
        answer = registry.ask("GET", path)
        assert len(answer.data) < max(8000, size + 1000) + 200
        pages.append([entry["digest"] for entry in answer.json["manifests"]])
        path = answer.headers.get("Link", "").partition(">")[0][1:]
    assert [digest for page in pages for digest in page] == digests
    assert {len(page) for page in pages[:-1]} == {2 if size == 3000 else 1}


@pytest.mark.parametrize("bound", ["REFERRERS_READ_BYTES", "SCANNED"])
def test_referrers_of_a_type_are_looked_for_in_steps(registry, monkeypatch, bound):
    """However many others there are: a page may be short, and its Link leads on."""
    others = push_referrers(registry, 9, 1000, "other/type")
    wanted = push_referrers(registry, 3, 2000, "a/b")
    if bound == "SCANNED":
        monkeypatch.setattr(listings.Scan.__init__, "__defaults__", (2,))
    else:
        monkeypatch.setattr(listings, bound, 3000)
    found, steps, path = [], 0, f"app/referrers/{SUBJECT['digest']}?artifactType=a/b"
    while path:
        answer = registry.ask("GET", path)
        assert answer.headers["OCI-Filters-Applied"] == "artifactType"
        found += [entry["digest"] for entry in answer.json["manifests"]]
        path = answer.headers.get("Link", "").partition(">")[0][1:]
        steps += 1
    assert found == wanted
    assert steps > len(others) / 3


@pytest.mark.parametrize("path", ["app/tags/list", "_catalog"])
@pytest.mark.parametrize("query", ["", "?n=9999999999", "?n=4", "?n=3"])
def test_each_n_has_a_cap(registry, monkeypatch, path, query):
    registry.push("app", "0", index(), query=[("tag", f"{number}") for number in range(10)])
    for number in range(9):
        registry.push(f"app{number}", "1", index())
    monkeypatch.setattr(listings, "LONGEST_PAGE", 4)
    answer = registry.ask("GET", path + query)
    found = answer.json.get("tags") or answer.json["repositories"]
    assert len(found) == (3 if query == "?n=3" else 4)
    assert f"n={len(found)}&" in answer.headers["Link"]
    assert len(registry.follow(path + query, "tags" if "tags" in path else "repositories")) == 10


def test_a_scan_that_ends_early_leads_on(registry, monkeypatch):
    monkeypatch.setattr(listings.Scan.__init__, "__defaults__", (3,))
    registry.push("app", "0", index(), query=[("tag", f"{number}") for number in range(10)])
    assert registry.follow("app/tags/list", "tags") == [f"{number}" for number in range(10)]
    assert registry.follow("app/tags/list?n=2", "tags") == [f"{number}" for number in range(10)]
    assert registry.ask("GET", "app/tags/list?n=0").headers.get("Link") is None


def large_index(registry: Registry, children: int = 12_000) -> bytes:
    registry.push_image("app", "arm")
    arm = {"platform": {"os": "linux", "architecture": "arm64"}, "annotations": {"a": "x" * 100}}
    amd = {"platform": {"os": "linux", "architecture": "amd64"}}
    entries = [descriptor(image(), OCI_MANIFEST, **arm)] * children
    body = index(*entries, descriptor(image(), OCI_MANIFEST, **amd))
    assert len(body) <= MANIFEST_BYTES
    return body


@pytest.mark.parametrize("accept", [OCI_MANIFEST, DOCKER_MANIFEST, "text/html", OCI_INDEX, None])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_no_read_of_a_manifest_parses_it(registry, monkeypatch, accept, method):
    body = large_index(registry)
    assert registry.push("app", "1", body).status_code == 201
    longest = []
    loads = json.loads
    monkeypatch.setattr("json.loads", lambda data, **more: longest.append(len(data)) or loads(data, **more))
    for reference in ("1", Digest.of(body)):
        answer = registry.ask(method, f"app/manifests/{reference}", headers={"Accept": accept} if accept else {})
        wanted = Digest.of(image()) if accept == OCI_MANIFEST and reference == "1" else Digest.of(body)
        assert (answer.status_code, answer.headers["Docker-Content-Digest"]) == (200, str(wanted))
    assert max(longest) < 100 * FEW_PARTS


def test_what_is_kept_of_a_manifest_goes_with_it(registry, app):
    body = large_index(registry)
    registry.push("app", "1", body)
    assert f"docker/app/_parts/{Digest.of(body)}" in keys_in(app.services.content._storage)
    for digest in (Digest.of(body), Digest.of(image())):
        assert registry.ask("DELETE", f"app/manifests/{digest}").status_code == 202
    assert not [key for key in keys_in(app.services.content._storage) if "_parts" in key or "_manifests" in key]


def test_a_manifest_under_another_type_is_made_of_other_things(registry, app):
    """`blobs` and `layers` in one document: what it is made of depends on how it is read."""
    layers = tuple(b"%d" % number for number in range(FEW_PARTS + 1))
    for blob in (b"{}", b"more", *layers):
        registry.push_blob("app", blob)
    members = json.loads(image(layers=layers)) | {"blobs": [descriptor(b"more")]}
    del members["mediaType"]
    body = json.dumps(members).encode()
    content, digest = app.services.content, Digest.of(body)

    def parts() -> set[str]:
        from noraflask.formats.docker.graphs import parts_of
        from noraflask.formats.docker.protocol import keys

        found = parts_of(content, "docker", "app", content.pointer(keys.manifest_pointer("docker", "app", digest)))
        assert found is not None
        return set(kept.digests_in(found[0].blobs))

    all_layers = {str(Digest.of(blob)) for blob in (b"{}", *layers)}
    for media_type, expected in ((OCI_MANIFEST, all_layers), (OCI_ARTIFACT, {str(Digest.of(b"more"))}), (OCI_MANIFEST, all_layers)):
        assert registry.push("app", "1", body, media_type).status_code == 201
        assert parts() == expected


@pytest.mark.parametrize(
    "filling", [b"[" + b"[]," * 1_300_000 + b"1]", b"{" + b",".join(b'"%x":1' % number for number in range(300_000)) + b"}", b"[" * 2_000_000]
)
def test_a_manifest_that_would_take_much_memory_is_refused(registry, filling):
    body = b'{"schemaVersion": 2, "manifests": [], "x": ' + filling + b"}"
    assert code(registry.push("app", "1", body, OCI_INDEX)) == (400, "MANIFEST_INVALID")
