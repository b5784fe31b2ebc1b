"""skopeo: whole indexes from a layout and back, every kind of layer, tags and deletion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.client.conftest import Registry
from tests.client.layout import EMPTY, MANIFEST, Descriptor, Layout, busybox_files, digest_of, forty_layers, multi_arch
from tests.client.tools import Client

# Without it, skopeo may send another packing of a layer, one that it or podman has met before: both remember all layers of this machine.
AS_THEY_ARE = "--preserve-digests"


def push(skopeo: Client, registry: Registry, source: str, name: str, option: str = AS_THEY_ARE) -> str:
    """Returns the reference that other calls of skopeo understand."""
    target = f"docker://{registry.address}/{name}"
    skopeo("copy", "--all", "--dest-tls-verify=false", option, source, target)
    return target


def pull(skopeo: Client, source: str, folder: Path) -> Path:
    """Returns the folder with the manifest as version file `manifest.json` and blobs named by their hash."""
    skopeo("copy", "--all", "--src-tls-verify=false", source, f"dir:{folder}")
    return folder


def assert_same_bytes(layout: Layout, image: Descriptor, pulled: Path) -> None:
    manifest = layout.read(image)
    assert (pulled / "manifest.json").read_bytes() == manifest
    document = json.loads(manifest)
    for blob in [document["config"], *document["layers"]]:
        assert (pulled / blob["digest"].partition(":")[2]).read_bytes() == layout.read(blob)


def test_multi_arch_index_goes_in_and_out_unchanged(skopeo: Client, registry: Registry, layout: Layout, tmp_path: Path) -> None:
    index = multi_arch(layout)
    target = push(skopeo, registry, layout.tag(index, "v1"), "skopeo/multi/arch:v1")
    assert registry.manifest("skopeo/multi/arch", "v1").body == layout.read(index)
    for image in json.loads(layout.read(index))["manifests"]:
        assert registry.manifest("skopeo/multi/arch", image["digest"]).body == layout.read(image)
    pulled = pull(skopeo, target, tmp_path / "pulled")
    assert (pulled / "manifest.json").read_bytes() == layout.read(index)
    assert digest_of(skopeo("inspect", "--raw", "--tls-verify=false", target).encode()) == index["digest"]


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_layers_of_each_compression(skopeo: Client, registry: Registry, layout: Layout, tmp_path: Path, compression: str) -> None:
    image = layout.image([layout.layer(busybox_files(), compression), layout.layer({"a": b"a"}, compression)])
    target = push(skopeo, registry, layout.tag(image, "v1"), f"skopeo/{compression}:v1")
    assert registry.manifest(f"skopeo/{compression}", "v1").body == layout.read(image)
    assert_same_bytes(layout, image, pull(skopeo, target, tmp_path / "pulled"))


def test_recompressed_to_zstd_on_the_way(skopeo: Client, registry: Registry, layout: Layout, tmp_path: Path) -> None:
    """The client compresses while it sends, so it knows neither digest nor length beforehand: a streamed PATCH."""
    # A layer of its own, since this push may choose another packing.
    source = layout.tag(layout.image([layout.layer(busybox_files() | {"only": b"here"}, "none")]), "v1")
    target = push(skopeo, registry, source, "skopeo/recompressed:v1", "--dest-compress-format=zstd")
    (layer,) = registry.manifest("skopeo/recompressed", "v1").json()["layers"]
    assert layer["mediaType"].endswith("zstd")
    stored = (pull(skopeo, target, tmp_path / "pulled") / layer["digest"].partition(":")[2]).read_bytes()
    assert digest_of(stored) == layer["digest"]
    assert stored[:4] == b"\x28\xb5\x2f\xfd"  # zstd's magic number


def test_forty_layers(skopeo: Client, registry: Registry, layout: Layout, tmp_path: Path) -> None:
    image = forty_layers(layout)
    target = push(skopeo, registry, layout.tag(image, "v1"), "skopeo/forty:v1")
    assert_same_bytes(layout, image, pull(skopeo, target, tmp_path / "pulled"))


def test_foreign_layer_is_described_and_never_asked_for(skopeo: Client, registry: Registry, layout: Layout) -> None:
    foreign = layout.foreign_layer({"licensed": b"fetch me elsewhere"}, "https://licensed.invalid/layer.tar.gz")
    image = layout.image([layout.layer(busybox_files()), foreign])
    push(skopeo, registry, layout.tag(image, "v1"), "skopeo/foreign:v1")
    assert registry.manifest("skopeo/foreign", "v1").body == layout.read(image)
    assert registry.request("HEAD", f"/v2/skopeo/foreign/blobs/{foreign['digest']}").status == 404


def test_empty_layer_and_image_without_layers(skopeo: Client, registry: Registry, layout: Layout, tmp_path: Path) -> None:
    of_nothing = layout.image([layout.layer({})])
    without = layout.image([])
    for tag, image in (("of-nothing", of_nothing), ("without", without)):
        target = push(skopeo, registry, layout.tag(image, tag), f"skopeo/empty:{tag}")
        assert_same_bytes(layout, image, pull(skopeo, target, tmp_path / tag))


def test_artifact_with_the_empty_config(skopeo: Client, registry: Registry, layout: Layout) -> None:
    artifact = layout.artifact("application/vnd.example.thing")
    push(skopeo, registry, layout.tag(artifact, "v1"), "skopeo/artifact:v1")
    answer = registry.manifest("skopeo/artifact", "v1")
    assert answer.body == layout.read(artifact)
    assert answer.headers["Content-Type"] == MANIFEST
    assert answer.json()["config"]["mediaType"] == EMPTY


def test_inspect_and_list_tags(skopeo: Client, registry: Registry, layout: Layout) -> None:
    image = layout.image([layout.layer({"a": b"a"})])
    source = layout.tag(image, "any")
    for tag in ("v2", "latest", "V1", "v10"):
        push(skopeo, registry, source, f"skopeo/tags:{tag}")
    found = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{registry.address}/skopeo/tags:v2"))
    assert found["Digest"] == image["digest"]
    assert found["Architecture"] == "amd64"
    listed = json.loads(skopeo("list-tags", "--tls-verify=false", f"docker://{registry.address}/skopeo/tags"))["Tags"]
    assert listed == ["V1", "latest", "v10", "v2"]


def test_delete(skopeo: Client, registry: Registry, layout: Layout) -> None:
    """skopeo deletes by digest, so all tags of the image go with it."""
    doomed, kept = layout.image([layout.layer({"a": b"a"})]), layout.image([layout.layer({"b": b"b"})])
    for tag, image in (("one", doomed), ("two", doomed), ("kept", kept)):
        push(skopeo, registry, layout.tag(image, tag), f"skopeo/delete:{tag}")
    skopeo("delete", "--tls-verify=false", f"docker://{registry.address}/skopeo/delete:one")
    assert registry.tags("skopeo/delete") == ["kept"]
    message = skopeo.refused("inspect", "--tls-verify=false", f"docker://{registry.address}/skopeo/delete:two")
    assert "manifest unknown" in message


def test_sync_of_a_whole_repository(skopeo: Client, registry: Registry, layout: Layout, tmp_path: Path) -> None:
    images = {tag: layout.image([layout.layer({"tag": tag.encode()})]) for tag in ("1.0", "1.1")}
    for tag, image in images.items():
        push(skopeo, registry, layout.tag(image, tag), f"skopeo/sync:{tag}")
    skopeo("sync", "--src-tls-verify=false", "--src=docker", "--dest=dir", f"{registry.address}/skopeo/sync", tmp_path / "synced")
    for tag, image in images.items():
        assert_same_bytes(layout, image, tmp_path / "synced" / f"sync:{tag}")
