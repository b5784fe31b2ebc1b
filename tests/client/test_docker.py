"""The Docker engine: what most people will use, and what sends the oldest dialect."""

from __future__ import annotations

import json
from pathlib import Path

from tests.client.conftest import Registry
from tests.client.layout import Layout, busybox_files, forty_layers, tarball
from tests.client.tools import Client

MANIFEST_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
SCHEMA_2 = "application/vnd.docker.distribution.manifest.v2+json"


def image_id(docker: Client, reference: str) -> str:
    return docker("image", "inspect", "--format", "{{.Id}}", reference).strip()


def imported(docker: Client, reference: str, **files: bytes) -> str:
    """A one-layer image with the given files; returns its id."""
    docker("import", "--change", 'CMD ["/bin/busybox", "true"]', "-", reference, stdin=tarball(busybox_files() | files))
    return image_id(docker, reference)


def pushed_digest(docker: Client, reference: str) -> str:
    output = docker("push", reference)
    return output.partition("digest: ")[2].split()[0]


def test_push_and_pull_give_the_same_image(docker: Client, registry: Registry) -> None:
    reference = f"{registry.address}/docker/team/app:1"
    before = imported(docker, reference)
    digest = pushed_digest(docker, reference)
    docker("rmi", reference)
    docker("pull", reference)
    assert image_id(docker, reference) == before
    stored = registry.manifest("docker/team/app", "1")
    assert stored.headers["Docker-Content-Digest"] == digest
    assert stored.headers["Content-Type"] == SCHEMA_2


def test_pull_by_digest(docker: Client, registry: Registry) -> None:
    reference = f"{registry.address}/docker/by-digest:1"
    before = imported(docker, reference)
    digest = pushed_digest(docker, reference)
    docker("rmi", reference)
    docker("pull", f"{registry.address}/docker/by-digest@{digest}")
    assert image_id(docker, f"{registry.address}/docker/by-digest@{digest}") == before


def test_build(docker: Client, registry: Registry, tmp_path: Path) -> None:
    base, reference = f"{registry.address}/docker/base:1", f"{registry.address}/docker/built:1"
    imported(docker, base)
    (tmp_path / "page.html").write_text("<p>hello\n" * 500)
    (tmp_path / "Dockerfile").write_text(f"FROM {base}\nCOPY page.html /srv/\nLABEL made=here\n")
    docker("build", "--network", "host", "--tag", reference, tmp_path)
    before = image_id(docker, reference)
    docker("push", reference)
    assert len(registry.manifest("docker/built", "1").json()["layers"]) == 2
    docker("rmi", reference)
    docker("pull", reference)
    assert image_id(docker, reference) == before


def test_forty_layers(docker: Client, skopeo: Client, registry: Registry, layout: Layout, tmp_path: Path) -> None:
    """Loaded rather than built: the engine's copying storage needs a second for each layer that it builds."""
    reference = f"{registry.address}/docker/forty:1"
    skopeo("copy", layout.tag(forty_layers(layout), "v1"), f"docker-archive:{tmp_path / 'forty.tar'}:{reference}")
    docker("load", "--input", tmp_path / "forty.tar")
    before = image_id(docker, reference)
    docker("push", reference)
    assert len(registry.manifest("docker/forty", "1").json()["layers"]) == 40
    docker("rmi", reference)
    docker("pull", reference)
    assert image_id(docker, reference) == before


def test_second_push_sends_no_layer_again(docker: Client, registry: Registry) -> None:
    """Into the same repository the layer is there already; into another one it is mounted."""
    first, second = f"{registry.address}/docker/again:1", f"{registry.address}/docker/elsewhere:1"
    imported(docker, first, again=b"unlike any other layer")
    docker("push", first)
    assert "Layer already exists" in docker("push", first)
    docker("tag", first, second)
    assert "Mounted from docker/again" in docker("push", second)
    assert registry.manifest("docker/elsewhere", "1").body == registry.manifest("docker/again", "1").body


def test_manifest_list(docker: Client, registry: Registry) -> None:
    name = f"{registry.address}/docker/multi"
    ids = {cpu: imported(docker, f"{name}:{cpu}", cpu=cpu.encode()) for cpu in ("amd64", "arm64")}
    for cpu in ids:
        docker("push", f"{name}:{cpu}")
    docker("manifest", "create", "--insecure", f"{name}:all", f"{name}:amd64", f"{name}:arm64")
    docker("manifest", "annotate", "--arch", "arm64", f"{name}:all", f"{name}:arm64")
    docker("manifest", "push", "--insecure", f"{name}:all")
    stored = registry.manifest("docker/multi", "all")
    assert stored.headers["Content-Type"] == MANIFEST_LIST
    assert [entry["platform"]["architecture"] for entry in stored.json()["manifests"]] == ["amd64", "arm64"]
    assert len(json.loads(docker("manifest", "inspect", "--insecure", f"{name}:all"))["manifests"]) == 2
    docker("rmi", *(f"{name}:{cpu}" for cpu in ids))
    docker("pull", "--platform", "linux/arm64", f"{name}:all")
    assert image_id(docker, f"{name}:all") == ids["arm64"]


def test_failed_pull_says_what_is_missing(docker: Client, registry: Registry) -> None:
    reference = f"{registry.address}/docker/known:1"
    imported(docker, reference)
    docker("push", reference)
    for absent in (f"{registry.address}/docker/known:2", f"{registry.address}/docker/unknown:1"):
        message = docker.refused("pull", absent)
        assert "not found" in message or "manifest unknown" in message, message
        assert "error parsing" not in message
