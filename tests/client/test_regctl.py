"""regctl: the client that takes the specification by its word (tag deletion, referrers, sha512)."""

from __future__ import annotations

import json

from tests.client.conftest import Registry
from tests.client.layout import Layout, multi_arch
from tests.client.tools import Client


def layout_reference(layout: Layout) -> str:
    return f"ocidir://{layout.folder}:v1"


def test_copy_with_referrers(regctl: Client, registry: Registry, layout: Layout) -> None:
    index = multi_arch(layout)
    layout.tag(index, "v1")
    first, second = f"{registry.address}/regctl/first:v1", f"{registry.address}/regctl/second:v1"
    regctl("image", "copy", layout_reference(layout), first)
    regctl("artifact", "put", "--artifact-type", "application/vnd.example.sbom", "--subject", first, stdin=b"what is in it")
    regctl("image", "copy", "--referrers", first, second)
    listed = json.loads(regctl("artifact", "list", "--format", "raw-body", second))
    assert [entry["artifactType"] for entry in listed["manifests"]] == ["application/vnd.example.sbom"]
    assert regctl("image", "digest", second).strip() == index["digest"]
    assert regctl("artifact", "get", "--subject", second, "--filter-artifact-type", "application/vnd.example.sbom") == "what is in it"


def test_tag_deletion_leaves_the_image_and_its_other_tags(regctl: Client, registry: Registry, layout: Layout) -> None:
    index = multi_arch(layout)
    layout.tag(index, "v1")
    name = f"{registry.address}/regctl/tags"
    for tag in ("a", "b", "c"):
        regctl("image", "copy", layout_reference(layout), f"{name}:{tag}")
    regctl("tag", "delete", f"{name}:b")
    assert regctl("tag", "ls", name).split() == ["a", "c"]
    assert regctl("tag", "ls", "--limit", "1", name).split() == ["a"]
    regctl("manifest", "head", f"{name}@{index['digest']}")
    assert "regctl/tags" in regctl("repo", "ls", registry.address).split()


def test_manifest_deletion_needs_the_digest(regctl: Client, registry: Registry, layout: Layout) -> None:
    image = layout.image([layout.layer({"a": b"a"})])
    layout.tag(image, "v1")
    name = f"{registry.address}/regctl/manifests"
    regctl("image", "copy", layout_reference(layout), f"{name}:v1")
    regctl("manifest", "delete", f"{name}@{image['digest']}")
    assert "not found" in regctl.refused("manifest", "get", f"{name}:v1")


def test_blobs_in_and_out(regctl: Client, registry: Registry) -> None:
    name = f"{registry.address}/regctl/blobs"
    digest = regctl("blob", "put", "--format", "{{.Digest}}", name, stdin=b"some bytes").strip()
    assert regctl("blob", "get", name, digest) == "some bytes"
    regctl("blob", "copy", name, f"{registry.address}/regctl/blobs-too", digest)
    regctl("blob", "delete", name, digest)
    assert "not found" in regctl.refused("blob", "head", name, digest)
    assert regctl("blob", "get", f"{registry.address}/regctl/blobs-too", digest) == "some bytes"
