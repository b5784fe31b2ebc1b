"""crane: `validate --remote` fetches and re-hashes everything that a manifest names."""

from __future__ import annotations

import json
from pathlib import Path

from tests.client.conftest import Registry
from tests.client.layout import Layout, forty_layers, multi_arch
from tests.client.test_skopeo import push
from tests.client.tools import Client


def test_push_validate_and_list(crane: Client, registry: Registry, layout: Layout) -> None:
    layout.tag(forty_layers(layout), "v1")
    name = f"{registry.address}/crane/forty"
    crane("push", layout.folder, f"{name}:v1")
    crane("validate", "--remote", f"{name}:v1")
    crane("tag", f"{name}:v1", "v2")
    assert crane("ls", name).split() == ["v1", "v2"]
    assert "crane/forty" in crane("catalog", registry.address).split()


def test_validate_an_index(crane: Client, skopeo: Client, registry: Registry, layout: Layout) -> None:
    index = multi_arch(layout)
    push(skopeo, registry, layout.tag(index, "v1"), "crane/index:v1")
    crane("validate", "--remote", f"{registry.address}/crane/index:v1")
    assert crane("digest", f"{registry.address}/crane/index:v1").strip() == index["digest"]


def test_copy_mounts_across_repositories(crane: Client, registry: Registry, layout: Layout) -> None:
    image = layout.image([layout.layer({"a": b"a" * 100_000})])
    layout.tag(image, "v1")
    crane("push", layout.folder, f"{registry.address}/crane/from:v1")
    output = crane.run("copy", f"{registry.address}/crane/from:v1", f"{registry.address}/crane/deep/er/to:v1")
    assert output.returncode == 0, output.stderr.decode()
    assert "mounted blob" in output.stderr.decode()
    crane("validate", "--remote", f"{registry.address}/crane/deep/er/to:v1")
    assert registry.manifest("crane/deep/er/to", "v1").body == layout.read(image)


def test_append_streams_a_layer_of_unknown_size(crane: Client, registry: Registry, layout: Layout, tmp_path: Path) -> None:
    base = layout.image([layout.layer({"a": b"a"})])
    layout.tag(base, "v1")
    crane("push", layout.folder, f"{registry.address}/crane/append:v1")
    (tmp_path / "more.tar").write_bytes(layout.read(layout.layer({"b": b"b"}, "none")))
    name = f"{registry.address}/crane/append"
    crane("append", "--base", f"{name}:v1", "--new_layer", tmp_path / "more.tar", "--new_tag", f"{name}:v2")
    assert len(json.loads(crane("manifest", f"{name}:v2"))["layers"]) == 2
    crane("validate", "--remote", f"{name}:v2")


def test_delete_by_tag_and_by_digest(crane: Client, registry: Registry, layout: Layout) -> None:
    image = layout.image([layout.layer({"a": b"a"})])
    layout.tag(image, "v1")
    name = f"{registry.address}/crane/delete"
    for tag in ("one", "two", "three"):
        crane("push", layout.folder, f"{name}:{tag}")
    crane("delete", f"{name}:one")
    assert registry.tags("crane/delete") == ["three", "two"]
    crane("validate", "--remote", f"{name}@{image['digest']}")
    crane("delete", f"{name}@{image['digest']}")
    assert "MANIFEST_UNKNOWN" in crane.refused("manifest", f"{name}:two")
