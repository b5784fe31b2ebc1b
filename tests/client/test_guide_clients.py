"""The CA of docs/deployment.md on the clients: each refuses the registry before, and trusts it after what the guide says."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.fronts import CA, HOST, Front, Machine, front_on
from tests.client.guarded import password_of
from tests.client.layout import Layout, tarball
from tests.client.tools import Client
from tests.server import ROOT, Server

LOGIN = f"writer:{password_of('writer')}"
UNKNOWN = "certificate signed by unknown authority"


@pytest.fixture(scope="module")
def front(machine: Machine, machine_registry: Server) -> Iterator[Front]:
    with front_on(machine, machine_registry, "nginx") as started:
        yield started


@pytest.fixture
def image(layout: Layout) -> str:
    return layout.tag(layout.image([layout.layer({"etc/motd": b"hello\n" * 500})]), "v1")


def test_docker(front: Front, machine: Machine, machine_docker: Client) -> None:
    """Without a restart, and the address is none of those that the engine trusts by itself."""
    reference = f"{HOST}/guide/docker:1"
    machine_docker("import", "-", reference, stdin=tarball({"etc/motd": b"hello\n"}))
    machine.sh("rm -rf /etc/docker/certs.d")
    assert UNKNOWN in machine_docker.refused("push", reference)
    machine.follow("Docker", "/etc/nora/tls")
    machine_docker("login", "--username", "writer", "--password-stdin", HOST, stdin=password_of("writer").encode())
    machine_docker("push", reference)


def test_podman_and_skopeo(front: Front, machine: Machine, image: str, tmp_path: Path) -> None:
    skopeo = machine.client("skopeo", tmp_path / "skopeo")
    # podman wants its runroot in 50 characters
    podman = machine.client("podman", tmp_path / "podman", "--storage-driver=vfs", f"--root={machine.folder}/s", f"--runroot={machine.folder}/r")
    target = f"docker://{HOST}/guide/podman:1"
    machine.sh("rm -rf /etc/docker/certs.d")  # they look there, too
    push, pull = ("copy", f"--dest-creds={LOGIN}", image, target), ("pull", f"--creds={LOGIN}", target)
    assert UNKNOWN in skopeo.refused(*push)
    assert UNKNOWN in podman.refused(*pull)
    machine.follow("podman, skopeo, buildah", "/etc/nora/tls")
    skopeo(*push)
    podman(*pull)
    podman("rmi", "--all")


def test_containerd(front: Front, machine: Machine, machine_docker: Client, layout: Layout, image: str, tmp_path: Path) -> None:
    """The one that the Docker engine runs. It pushes as well."""
    socket = Path(machine_docker.env["DOCKER_HOST"].removeprefix("unix://")).parent / "exec" / "containerd" / "containerd.sock"
    ctr = machine.client("ctr", tmp_path / "ctr", "--address", socket, "--namespace", "guide")
    subprocess.run(["tar", "-cf", tmp_path / "layout.tar", "-C", layout.folder, "."], check=True)
    ctr("images", "import", "--snapshotter", "native", "--base-name", f"{HOST}/guide/containerd", tmp_path / "layout.tar")
    options = ("--hosts-dir", "/etc/containerd/certs.d", "--user", LOGIN, f"{HOST}/guide/containerd:v1")
    assert UNKNOWN in ctr.refused("images", "push", *options)
    (tmp_path / "files").mkdir()
    machine.sh(f"cp {CA} {ROOT}/etc/containerd/hosts.toml {tmp_path}/files")
    machine.follow("containerd", tmp_path / "files")
    ctr("images", "push", *options)
    ctr("images", "remove", options[-1])
    ctr("images", "pull", "--snapshotter", "native", *options)
    ctr("images", "remove", options[-1])


def test_a_node_is_told_where_the_hosts_files_are(machine: Machine) -> None:
    machine.sh("rm -rf /etc/containerd")
    for _ in range(2):
        assert machine.follow("Kubernetes nodes").split() == ["config_path", "=", '"/etc/containerd/certs.d"']
    assert 'config_path = "/etc/containerd/certs.d"' in machine.sh("containerd --config /etc/containerd/config.toml config dump")


def test_programs_that_ask_the_system(front: Front, machine: Machine, layout: Layout, image: str, tmp_path: Path) -> None:
    crane = machine.client("crane", tmp_path / "crane")
    reference = f"{HOST}/guide/crane:1"
    crane("auth", "login", "--username", "writer", "--password-stdin", HOST, stdin=password_of("writer").encode())
    assert "failed to verify certificate" in crane.refused("push", layout.folder, reference)
    machine.follow("Linux system store", "/etc/nora/tls")
    crane("push", layout.folder, reference)
    crane("validate", "--remote", reference)
    machine.sh(f"curl -sSf https://{HOST}/health")
