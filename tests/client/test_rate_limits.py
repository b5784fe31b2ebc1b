"""Rate limits and real clients: at the defaults nobody notices them, and beyond them most clients wait as they are told."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client.layout import Descriptor, Layout
from tests.client.registry import Registry
from tests.client.tools import Client, clean_environment, tool
from tests.server import Server

LAYERS = 120
"""More than docker builds images of: it takes 125 at most."""
OwnServer = Callable[..., Server]


def many_layers(layout: Layout, count: int = LAYERS) -> Descriptor:
    return layout.image([layout.layer({f"srv/{number:03}": f"layer {number}\n".encode() * 50}) for number in range(count)])


def limited(own_server: OwnServer, **settings: int) -> Registry:
    """A server with the limits that it has by default, or those of `settings` instead."""
    own = {f"NORA_RATE_LIMIT_{name.upper()}": str(value) for name, value in settings.items()}
    return Registry(own_server(env={"NORA_RATE_LIMIT_ENABLED": "true", "NORA_WORKERS": "4", **own}).address)


def refusals(folder: Path) -> int:
    return sum(log.read_text().count('"status": 429') for log in folder.glob("server*/server.log"))


@pytest.mark.slow
def test_a_hundred_and_twenty_layers_pass_at_the_defaults(
    skopeo: Client, docker: Client, own_server: OwnServer, layout: Layout, tmp_path: Path
) -> None:
    """Pushed by skopeo, pulled and pushed by docker, pulled by skopeo: from one address, one after the other, as fast as they can."""
    first, second = limited(own_server), limited(own_server)
    source = layout.tag(many_layers(layout), "v1")
    skopeo("copy", "--dest-tls-verify=false", source, f"docker://{first.address}/limits/many:v1")
    docker("pull", f"{first.address}/limits/many:v1")
    docker("tag", f"{first.address}/limits/many:v1", f"{second.address}/limits/many:v1")
    docker("push", f"{second.address}/limits/many:v1")
    skopeo("copy", "--src-tls-verify=false", f"docker://{second.address}/limits/many:v1", f"dir:{tmp_path / 'out'}")
    assert len(second.manifest("limits/many", "v1").json()["layers"]) == LAYERS
    assert refusals(tmp_path) == 0


def test_the_conformance_suite_passes_at_the_defaults(own_server: OwnServer, tmp_path: Path) -> None:
    """It asks one thing after another, faster than the limits are: it is slowed down, and no request of it is refused."""
    setting = {"OCI_REGISTRY": limited(own_server).address, "OCI_TLS": "disabled", "OCI_RESULTS_DIR": str(tmp_path / "results"), "OCI_VERSION": "dev"}
    command, environment = [tool("conformance")], clean_environment(tmp_path / "home") | setting
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, refusals(tmp_path)) == (0, 0), done.stdout[-2000:]
