"""containerd, as Kubernetes nodes use it; the one that the Docker engine runs, spoken to by ctr."""

from __future__ import annotations

from tests.client.conftest import Registry
from tests.client.layout import Layout, multi_arch
from tests.client.test_skopeo import push
from tests.client.tools import Client


def test_pull_and_push_of_an_index(ctr: Client, skopeo: Client, registry: Registry, layout: Layout) -> None:
    index = multi_arch(layout)
    push(skopeo, registry, layout.tag(index, "v1"), "containerd/in:v1")
    source, target = f"{registry.address}/containerd/in:v1", f"{registry.address}/containerd/out:v1"
    ctr("images", "pull", "--plain-http", "--snapshotter", "native", "--all-platforms", source)
    assert index["digest"] in ctr("images", "list", f"name=={source}")
    ctr("images", "push", "--plain-http", target, source)
    assert registry.manifest("containerd/out", "v1").body == layout.read(index)
    ctr("images", "remove", source)


def test_pull_by_digest(ctr: Client, skopeo: Client, registry: Registry, layout: Layout) -> None:
    image = layout.image([layout.layer({"a": b"a"})])
    push(skopeo, registry, layout.tag(image, "v1"), "containerd/digest:v1")
    reference = f"{registry.address}/containerd/digest@{image['digest']}"
    ctr("images", "pull", "--plain-http", "--snapshotter", "native", reference)
    assert image["digest"] in ctr("images", "list", "--quiet") + ctr("images", "list")
    assert "not found" in ctr.refused("images", "pull", "--plain-http", f"{registry.address}/containerd/digest:none")
