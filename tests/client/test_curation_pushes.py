"""Pushes by real clients where pullers are refused: they end well in every mode, also the second time, and no bytes leave that pullers do not get."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.client.conftest import Registry
from tests.client.layout import Layout, multi_arch, tarball
from tests.client.test_skopeo import push
from tests.client.tools import Client
from tests.server import Server

NAME = "team/app"
RULES = {
    "allowlist": '[[allow]]\nformat = "docker"\nname = "other/**"\n',
    "age": "# the age is in the configuration\n",
    "tag": '[[block]]\nid = "no-v1"\nformat = "docker"\nname = "team/**"\nversions = ["v1", "1.2.3"]\n',
}
CASES = [(mode, why) for mode in ("off", "audit", "enforce") for why in RULES if mode == "enforce" or why == "allowlist"]


@pytest.fixture(params=CASES, ids="-".join)
def kept(request: pytest.FixtureRequest, own_server: Callable[..., Server], tmp_path: Path) -> Kept:
    mode, why = request.param
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "rules.toml").write_text(RULES[why])
    age = 'min_release_age = "7d"\nhosted = true\n' if why == "age" else ""
    return Kept(own_server(folder=folder, config_text=f'[curation]\nmode = "{mode}"\nrules_path = "{folder}/rules.toml"\n{age}'), mode, why)


class Kept:
    """A server of which nothing that is pushed may be pulled: not at all, not yet, or not by the tag that it is pushed to."""

    def __init__(self, server: Server, mode: str, why: str) -> None:
        self.server, self.registry = server, Registry(server.address)
        self.enforced, self.why = mode == "enforce", why

    @property
    def name(self) -> str:
        return f"{self.server.address}/{NAME}"

    def assert_kept(self, tag: str, name: str = NAME) -> None:
        """From everybody but the program that has just pushed it; its layers from all."""
        expected = 403 if self.enforced else 200
        answer = self.registry.request("HEAD", f"/v2/{name}/manifests/{tag}")
        assert answer.status == 200, "a pusher is told what is there"
        digest = answer.headers["Docker-Content-Digest"]
        stored = self.server.storage / "blobs" / digest.replace(":", f"/{digest[7:9]}/")
        manifest = json.loads(stored.read_bytes())
        parts = [part["digest"] for part in manifest.get("layers", ())]  # an empty config may be that of an allowed artifact too
        paths = [f"manifests/{tag}", f"manifests/{digest}", *(f"blobs/{part}" for part in parts)]
        found = {path: self.registry.request("GET", f"/v2/{name}/{path}").status for path in paths}
        assert set(found.values()) == {expected}, found
        assert (tag in (self.registry.request("GET", f"/v2/{name}/tags/list").json()["tags"] or [])) is not self.enforced


@pytest.fixture
def source(layout: Layout) -> Layout:
    layout.tag(multi_arch(layout), "v1")
    return layout


def test_oras(oras: Client, kept: Kept) -> None:
    for name in ("file", "more"):
        (oras.home / name).write_text(name)
    same = ("--annotation", "org.opencontainers.image.created=2026-01-01T00:00:00Z")
    for tag in ("v1", "v1", "v2"):
        oras("push", "--plain-http", *same, f"{kept.name}:{tag}", "file")
    oras("attach", "--plain-http", "--artifact-type", "application/vnd.example.scan", f"{kept.name}:v1", "more")
    oras("tag", "--plain-http", f"{kept.name}:v1", "v3")
    oras("cp", "--from-oci-layout", layout_of(oras, kept), "--to-plain-http", f"{kept.name}:v4")
    kept.assert_kept("v1")
    if kept.enforced:
        oras.refused("pull", "--plain-http", f"{kept.name}:v1")


def layout_of(oras: Client, kept: Kept) -> str:
    oras("push", "--oci-layout", "kept:v4", "more")
    return "kept:v4"


def test_helm(helm: Client, kept: Kept) -> None:
    helm("create", "shop")
    helm("package", "--version", "1.2.3", "shop")
    for _ in range(2):
        helm("push", "--plain-http", helm.home / "shop-1.2.3.tgz", f"oci://{kept.name}")
    kept.assert_kept("1.2.3", f"{NAME}/shop")
    if kept.enforced:
        helm.refused("pull", "--plain-http", f"oci://{kept.name}/shop", "--version", "1.2.3")


def test_crane(crane: Client, kept: Kept, layout: Layout) -> None:
    layout.tag(layout.image([layout.layer({"a": b"a"})]), "v1")
    for _ in range(2):
        crane("push", layout.folder, f"{kept.name}:v1")
    crane("tag", f"{kept.name}:v1", "v2")
    kept.assert_kept("v1")
    if kept.enforced:
        crane.refused("pull", f"{kept.name}:v1", "image.tar")
        crane.refused("copy", f"{kept.name}:v1", f"{kept.server.address}/team/other:v1")


def test_regctl(tmp_path: Path, kept: Kept, source: Layout) -> None:
    regctl = Client("regctl", tmp_path / "regctl", "--host", f"reg={kept.server.address},tls=disabled")
    for tag in ("v1", "v1", "v2"):
        regctl("image", "copy", f"ocidir://{source.folder}:v1", f"{kept.name}:{tag}")
    regctl("image", "copy", f"{kept.name}:v1", f"{kept.name}:v3")
    regctl("artifact", "put", "--artifact-type", "application/vnd.example.sbom", "--subject", f"{kept.name}:v1", stdin=b"what is in it")
    kept.assert_kept("v1")
    if kept.enforced:
        regctl.refused("image", "copy", f"{kept.name}:v1", f"ocidir://{tmp_path / 'back'}:v1")


def test_skopeo(skopeo: Client, kept: Kept, source: Layout, tmp_path: Path) -> None:
    for _ in range(2):
        push(skopeo, kept.registry, source.tag(json.loads((source.folder / "index.json").read_text())["manifests"][0], "v1"), f"{NAME}:v1")
    kept.assert_kept("v1")
    if kept.enforced:
        skopeo.refused("copy", "--all", "--src-tls-verify=false", f"docker://{kept.name}:v1", f"dir:{tmp_path / 'back'}")


def test_podman(podman: Client, kept: Kept, tmp_path: Path) -> None:
    (tmp_path / "tree.tar").write_bytes(tarball({"etc/pushed": b"new"}))
    podman("import", tmp_path / "tree.tar", f"{kept.name}:v1")
    for _ in range(2):
        podman("push", "--tls-verify=false", f"{kept.name}:v1")
    kept.assert_kept("v1")
    if kept.enforced:
        assert "is blocked by policy" in podman.refused("pull", "--tls-verify=false", f"{kept.name}:v1")


def test_docker(docker: Client, kept: Kept) -> None:
    docker("import", "-", f"{kept.name}:v1", stdin=tarball({"etc/pushed": b"new"}))
    try:
        for _ in range(2):
            docker("push", f"{kept.name}:v1")
        kept.assert_kept("v1")
        if kept.enforced:
            assert "is blocked by policy" in docker.refused("pull", f"{kept.name}:v1")
    finally:
        docker("rmi", f"{kept.name}:v1")


def test_ctr(ctr: Client, kept: Kept, source: Layout, tmp_path: Path) -> None:
    with imported(ctr, kept, source, tmp_path):
        for tag in ("v1", "v1", "v2"):
            ctr("images", "push", "--plain-http", f"{kept.name}:{tag}", f"{kept.name}:v1")
        kept.assert_kept("v1")
        if kept.enforced:
            message = ctr.refused("images", "pull", "--plain-http", "--snapshotter", "native", f"{kept.name}:v1")
            assert "403 forbidden" in message.lower(), "also where it has all of it"


@contextmanager
def imported(ctr: Client, kept: Kept, source: Layout, folder: Path) -> Iterator[None]:
    packed = folder / "layout.tar"
    with tarfile.open(packed, "w") as tar:
        tar.add(source.folder, arcname=".")
    ctr("images", "import", "--no-unpack", "--all-platforms", "--base-name", kept.name, packed)
    try:
        yield
    finally:
        ctr("images", "remove", f"{kept.name}:v1")
