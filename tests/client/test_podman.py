"""podman and buildah, with a store of their own."""

from __future__ import annotations

from pathlib import Path

from tests.client.conftest import Registry
from tests.client.layout import Layout, busybox_files, multi_arch, tarball
from tests.client.test_skopeo import push
from tests.client.tools import Client

HTTP = "--tls-verify=false"


def image_id(client: Client, reference: str) -> str:
    return client("inspect", "--type", "image", "--format", "{{.Id}}", reference).strip()


def built_id(buildah: Client, reference: str) -> str:
    return buildah("images", "--no-trunc", "--quiet", reference).strip()


def test_podman_push_and_pull(podman: Client, registry: Registry, tmp_path: Path) -> None:
    reference = f"{registry.address}/podman/app:1"
    tree = tmp_path / "tree.tar"
    tree.write_bytes(tarball(busybox_files()))
    podman("import", tree, reference)
    before = image_id(podman, reference)
    podman("push", HTTP, reference)
    podman("rmi", reference)
    podman("pull", HTTP, reference)
    assert image_id(podman, reference) == before


def test_podman_pushes_docker_and_oci_manifests(podman: Client, registry: Registry, tmp_path: Path) -> None:
    tree = tmp_path / "tree.tar"
    tree.write_bytes(tarball(busybox_files()))
    podman("import", tree, "localhost/app:1")
    for form, media_type in (("v2s2", "docker.distribution.manifest.v2"), ("oci", "oci.image.manifest.v1")):
        podman("push", HTTP, "--format", form, "localhost/app:1", f"{registry.address}/podman/forms:{form}")
        assert media_type in registry.manifest("podman/forms", form).headers["Content-Type"]


def test_podman_runs_what_it_pulls(podman: Client, skopeo: Client, registry: Registry, layout: Layout) -> None:
    """The layers unpack to a root file system that starts."""
    push(skopeo, registry, layout.tag(multi_arch(layout), "v1"), "podman/run:v1")
    limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
    options = ("--rm", "--network", "none", *limits)
    assert podman("run", HTTP, *options, f"{registry.address}/podman/run:v1") == "it runs\n"


def test_podman_manifest_list(podman: Client, registry: Registry, tmp_path: Path) -> None:
    name = f"{registry.address}/podman/list"
    podman("manifest", "create", "both")
    for cpu in ("amd64", "arm64"):
        tree = tmp_path / f"{cpu}.tar"
        tree.write_bytes(tarball({"cpu": cpu.encode()}))
        podman("import", "--arch", cpu, tree, f"localhost/{cpu}:1")
        podman("manifest", "add", "both", f"containers-storage:localhost/{cpu}:1")
    podman("manifest", "push", HTTP, "--all", "both", f"docker://{name}:1")
    assert [entry["platform"]["architecture"] for entry in registry.manifest("podman/list", "1").json()["manifests"]] == ["amd64", "arm64"]


def test_podman_says_what_is_missing(podman: Client, registry: Registry) -> None:
    assert "manifest unknown" in podman.refused("pull", HTTP, f"{registry.address}/podman/none:1")


def test_podman_search_lists_the_catalog(podman: Client, skopeo: Client, registry: Registry, layout: Layout) -> None:
    push(skopeo, registry, layout.tag(layout.image([layout.layer({"a": b"a"})]), "v1"), "podman/searched:v1")
    assert "podman/searched" in podman("search", HTTP, "--limit", "100", f"{registry.address}/podman/searched")


def test_buildah_builds_pushes_and_pulls(buildah: Client, registry: Registry, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    for name, content in busybox_files().items():
        (context / name).parent.mkdir(exist_ok=True)
        (context / name).write_bytes(content)
        (context / name).chmod(0o755)
    (context / "Dockerfile").write_text("FROM scratch\nCOPY bin /bin\nCOPY Dockerfile /srv/\n")
    reference = f"{registry.address}/buildah/app:1"
    buildah("bud", "--isolation", "chroot", "--layers", "--tag", reference, context)
    before = built_id(buildah, reference)
    buildah("push", HTTP, reference)
    assert len(registry.manifest("buildah/app", "1").json()["layers"]) == 2
    buildah("rmi", "--all", "--force")
    buildah("pull", HTTP, reference)
    assert built_id(buildah, reference) == before
