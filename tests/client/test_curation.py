"""What people see when a policy stands in their way, and that nothing else does."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.client.conftest import Engine, Registry
from tests.client.layout import Descriptor, Layout, multi_arch, tarball
from tests.client.test_skopeo import assert_same_bytes, pull, push
from tests.client.tools import Client, as_root
from tests.server import ROOT, Server, wait_until

HTTP = "--tls-verify=false"
NOTHING = "# no rules\n"
BLOCK_ONE = """
[[block]]
id = "SEC-17"
format = "docker"
name = "team/app"
version = "1"
reason = "it ships a stolen key"
"""
SAID = ("blocked by policy (blocklist SEC-17)", "it ships a stolen key", "tell the decision d-")
"""What must reach people, whatever the client makes of it."""
PAGE = (ROOT / "docs" / "curation.md").read_text(encoding="utf-8")

Images = dict[str, Descriptor]


@dataclass(frozen=True)
class Curated:
    """A server that enforces what its rules.toml says."""

    server: Server

    @property
    def address(self) -> str:
        return self.server.address

    @property
    def registry(self) -> Registry:
        return Registry(self.address)

    def enforce(self, rules: str) -> None:
        """Returns once every worker has them."""
        (self.server.folder / "rules.toml").write_text(rules)
        wanted = self._reloaded() + len(self.server.worker_pids())
        self.server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self._reloaded() >= wanted, 20, "all workers to take over the rules")

    def _reloaded(self) -> int:
        return self.server.log_text().count('"reloaded"')

    def audited(self, action: str) -> list[str]:
        """The artifacts of the audit log's records of that kind."""
        lines = (self.server.state / "audit.jsonl").read_text().splitlines()
        return [record["artifact"] for record in map(json.loads, lines) if record["action"] == action]


@pytest.fixture
def curated(own_server: Callable[..., Server], tmp_path: Path) -> Curated:
    folder = tmp_path / "curated"
    folder.mkdir()
    rules = folder / "rules.toml"
    rules.write_text(NOTHING)
    return Curated(own_server(folder=folder, config_text=f'[curation]\nmode = "enforce"\nrules_path = "{rules}"\n'))


@pytest.fixture
def images(curated: Curated, skopeo: Client, layout: Layout) -> Images:
    """team/app:1 and :2, which have a layer in common; :all, of two platforms, one of which is :arm64 as well."""
    shared = layout.layer({"etc/shared": b"in both"})
    made = {tag: layout.image([shared, layout.layer({"etc/own": tag.encode()})]) for tag in ("1", "2")}
    made["all"] = multi_arch(layout)
    made["arm64"] = next(child for child in json.loads(layout.read(made["all"]))["manifests"] if child["platform"]["architecture"] == "arm64")
    for tag, image in made.items():
        push(skopeo, curated.registry, layout.tag(image, tag), f"team/app:{tag}")
    return made


def assert_told(message: str, *shown: str) -> None:
    """`shown`: what the client puts around it, as docs/curation.md has it."""
    for words in (*SAID, *shown):
        assert words in message, message
    for words in shown:
        assert words in PAGE, words


def test_docker_says_what_is_blocked_and_why(docker: Client, curated: Curated, images: Images) -> None:
    """By tag, and by the digest that the tag leads to. Once the rule is gone, the same image comes."""
    by_tag, by_digest = f"{curated.address}/team/app:1", f"{curated.address}/team/app@{images['1']['digest']}"
    curated.enforce(BLOCK_ONE)
    assert_told(
        docker.refused("pull", by_tag),
        "pull access denied for",
        "does not exist or may require 'docker login':",
        "denied: docker:team/app@1 is blocked by",
    )
    assert_told(docker.refused("pull", by_digest))
    assert_told(docker.refused("manifest", "inspect", "--insecure", by_tag))
    assert set(curated.audited("curation_block")) == {"team/app@1", f"team/app@{images['1']['digest']}"}
    curated.enforce(NOTHING)
    docker("pull", by_digest)
    docker("pull", by_tag)


def test_podman_says_what_is_blocked_and_why(podman: Client, curated: Curated, images: Images) -> None:
    by_tag, by_digest = f"{curated.address}/team/app:1", f"{curated.address}/team/app@{images['1']['digest']}"
    curated.enforce(BLOCK_ONE)
    assert_told(podman.refused("pull", HTTP, by_tag), "reading manifest 1 in", "denied:")
    assert_told(podman.refused("pull", HTTP, by_digest))
    curated.enforce(NOTHING)
    podman("pull", HTTP, by_digest)


def test_skopeo_says_what_is_blocked_and_why(skopeo: Client, curated: Curated, images: Images, tmp_path: Path) -> None:
    by_tag, by_digest = f"docker://{curated.address}/team/app:1", f"docker://{curated.address}/team/app@{images['1']['digest']}"
    curated.enforce(BLOCK_ONE)
    assert_told(skopeo.refused("copy", "--src-tls-verify=false", by_tag, f"dir:{tmp_path / 'no'}"), "reading manifest 1 in", "denied:")
    assert_told(skopeo.refused("inspect", HTTP, by_digest))
    assert json.loads(skopeo("list-tags", HTTP, f"docker://{curated.address}/team/app"))["Tags"] == ["2", "all", "arm64"]
    curated.enforce(NOTHING)
    pull(skopeo, by_digest, tmp_path / "pulled")


def test_crane_says_what_is_blocked_and_why(crane: Client, curated: Curated, images: Images) -> None:
    """Who may push is told by HEAD what is there, and gets nothing of it."""
    curated.enforce(BLOCK_ONE)
    assert_told(crane.refused("pull", f"{curated.address}/team/app:1", "image.tar"), "DENIED:")
    assert_told(crane.refused("manifest", f"{curated.address}/team/app:1"))
    assert crane("digest", f"{curated.address}/team/app:1").strip() == images["1"]["digest"]
    assert crane("ls", f"{curated.address}/team/app").split() == ["2", "all", "arm64"]


def test_containerd_says_forbidden_and_no_more(ctr: Client, curated: Curated, images: Images) -> None:
    """It asks by HEAD. Kubernetes users see just this; the log and the audit log tell the operator."""
    curated.enforce(BLOCK_ONE)
    reference = f"{curated.address}/team/app:1"
    message = ctr.refused("images", "pull", "--plain-http", "--snapshotter", "native", reference)
    assert "403 forbidden" in message.lower(), message
    assert "stolen" not in message, "containerd says more than it did: tell so in docs/curation.md"
    assert curated.audited("curation_block") == ["team/app@1"]
    curated.enforce(NOTHING)
    ctr("images", "pull", "--plain-http", "--snapshotter", "native", reference)


def test_an_image_that_shares_layers_with_a_blocked_one_comes_whole(
    docker: Client, skopeo: Client, curated: Curated, images: Images, layout: Layout, tmp_path: Path
) -> None:
    """And what the blocked one alone has does not come, by whatever way."""
    curated.enforce(BLOCK_ONE)
    docker("pull", f"{curated.address}/team/app:2")
    assert_same_bytes(layout, images["2"], pull(skopeo, f"docker://{curated.address}/team/app:2", tmp_path / "pulled"))
    shared, own = json.loads(layout.read(images["1"]))["layers"]
    assert curated.registry.request("GET", f"/v2/team/app/blobs/{shared['digest']}").status == 200
    assert curated.registry.request("GET", f"/v2/team/app/blobs/{own['digest']}").status == 403


def test_an_index_with_a_blocked_child(docker: Client, podman: Client, skopeo: Client, curated: Curated, images: Images, tmp_path: Path) -> None:
    """The other platform comes; the blocked one does not, and neither does the index as a whole."""
    curated.enforce(BLOCK_ONE.replace('version = "1"', f'version = "{images["arm64"]["digest"]}"'))
    name = f"{curated.address}/team/app:all"
    docker("pull", "--platform", "linux/amd64", name)
    podman("pull", HTTP, "--arch", "amd64", name)
    assert_told(docker.refused("pull", "--platform", "linux/arm64", name))
    assert_told(podman.refused("pull", HTTP, "--arch", "arm64", name))
    assert_told(skopeo.refused("copy", "--all", "--src-tls-verify=false", f"docker://{name}", f"dir:{tmp_path / 'all'}"))


def test_a_push_to_a_blocked_name_is_taken_and_not_served(docker: Client, podman: Client, curated: Curated, tmp_path: Path) -> None:
    """Curation judges what leaves. Who may push is a matter of [[access.rules]]."""
    curated.enforce(BLOCK_ONE.replace('"team/app"', '"team/bad/**"').replace('version = "1"\n', ""))
    name, tree = f"{curated.address}/team/bad", tarball({"etc/pushed": b"new"})
    docker("import", "-", f"{name}/docker:1", stdin=tree)
    docker("push", f"{name}/docker:1")
    (tmp_path / "tree.tar").write_bytes(tree)
    podman("import", tmp_path / "tree.tar", f"{name}/podman:1")
    podman("push", HTTP, f"{name}/podman:1")
    docker("rmi", f"{name}/docker:1")
    for one in ("docker", "podman"):
        assert_told(docker.refused("pull", f"{name}/{one}:1"))
        assert_told(podman.refused("pull", HTTP, f"{name}/{one}:1"))
    assert curated.registry.request("GET", "/v2/_catalog").json() == {"repositories": []}


def test_the_repaired_image_can_be_pushed_and_pulled(docker: Client, curated: Curated, images: Images, tmp_path: Path) -> None:
    """It is made of what the blocked one is made of, and of one layer more."""
    blocked, repaired = f"{curated.address}/team/app:1", f"{curated.address}/team/app:repaired"
    (tmp_path / "key").write_text("revoked")
    (tmp_path / "Dockerfile").write_text(f"FROM {blocked}\nCOPY key /etc/own\n")
    docker("build", "--network", "host", "--tag", repaired, tmp_path)
    curated.enforce(BLOCK_ONE)
    docker("push", repaired)
    docker("rmi", repaired)
    docker("pull", repaired)
    assert_told(docker.refused("pull", blocked))


def test_a_fix_under_the_blocked_tag_stays_blocked(docker: Client, skopeo: Client, curated: Curated, images: Images, layout: Layout) -> None:
    """The rule names the tag; the old image, which nothing names any longer, comes by its digest. Block digests where that matters."""
    curated.enforce(BLOCK_ONE)
    push(skopeo, curated.registry, layout.tag(images["2"], "moved"), "team/app:1")
    assert_told(docker.refused("pull", f"{curated.address}/team/app:1"))
    docker("pull", f"{curated.address}/team/app@{images['1']['digest']}")


# What people call docker.io/library/app, app for short.

BLOCK_SHORT = BLOCK_ONE.replace('"team/app"', '"app"')


@pytest.fixture
def hub_image(curated: Curated, skopeo: Client, layout: Layout) -> None:
    push(skopeo, curated.registry, layout.tag(layout.image([layout.layer({"a": b"a"})]), "1"), "library/app:1")


def test_podman_with_the_hub_led_here(podman: Client, curated: Curated, hub_image: None) -> None:
    """A rule for `app` holds for docker.io/library/app."""
    settings = podman.home / ".config" / "containers" / "registries.conf"
    settings.write_text(f'[[registry]]\nprefix = "docker.io"\nlocation = "{curated.address}"\ninsecure = true\n')
    podman("pull", "docker.io/library/app:1")
    curated.enforce(BLOCK_SHORT)
    assert_told(podman.refused("pull", "docker.io/library/app:1"))


def test_docker_with_a_mirror_of_the_hub(engine: Engine, curated: Curated, hub_image: None) -> None:
    """The engine asks its mirror for library/app. Refused there, it asks the Hub itself: only the network can stop that."""
    set_mirrors(engine, f"http://{curated.address}/")
    try:
        engine.docker("pull", "app:1")
        engine.docker("rmi", "app:1")
        curated.enforce(BLOCK_SHORT)
        assert "registry-1.docker.io" in engine.docker.refused("pull", "app:1")
        assert set(curated.audited("curation_block")) == {"app@1"}
    finally:
        set_mirrors(engine)


def set_mirrors(engine: Engine, *addresses: str) -> None:
    """The engine takes them over while it runs."""
    folder = engine.containerd.parents[2]
    (folder / "daemon.json").write_text(json.dumps({"registry-mirrors": addresses}))
    subprocess.run(as_root("kill", "-HUP", (folder / "d.pid").read_text().strip()), check=True)
    wait_until(
        lambda: json.loads(engine.docker("info", "--format", "{{json .RegistryConfig.Mirrors}}") or "null") in ([*addresses], addresses or None),
        20,
        "dockerd to reload",
    )
