"""Named repositories with the real clients: by the first part of an image's name, by the host's name, and below /repository/ behind nginx."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client.conftest import Registry
from tests.client.layout import Layout, multi_arch
from tests.client.machine import base_image
from tests.client.test_skopeo import push
from tests.client.tools import Client
from tests.server import Server

CONFIG = """
[[repositories]]
name = "team"
format = "docker"

[[repositories]]
name = "hosted"
format = "docker"
hosts = ["localhost:{port}"]
"""

GUARDED = """
[auth]
enabled = true
htpasswd_file = "users.htpasswd"

[[access.rules]]
title = "team's own"
users = ["alice"]
repositories = ["team"]
actions = ["write"]
"""


@pytest.fixture
def server(own_server: Callable[..., Server], tmp_path: Path) -> Server:
    from tests.server import free_port

    port = free_port()
    return own_server(folder=tmp_path / "named", port=port, config_text=CONFIG.format(port=port))


def test_the_first_part_of_the_name(skopeo: Client, crane: Client, server: Server, layout: Layout) -> None:
    index = multi_arch(layout)
    registry = Registry(server.address)
    push(skopeo, registry, layout.tag(index, "v1"), "team/app:v1")
    crane("validate", "--remote", f"{server.address}/team/app:v1")
    assert registry.tags("team/app") == ["v1"]
    assert registry.request("GET", "/repository/team/v2/app/tags/list").json() == {"name": "app", "tags": ["v1"]}
    assert registry.request("GET", "/v2/_catalog").json() == {"repositories": []}
    assert registry.request("GET", "/v2/team/_catalog").json() == {"repositories": ["app"]}
    crane("copy", f"{server.address}/team/app:v1", f"{server.address}/team/copy:v2")
    crane("copy", f"{server.address}/team/app:v1", f"{server.address}/plain/copy:v2")
    assert registry.request("GET", "/v2/_catalog").json() == {"repositories": ["plain/copy"]}


def test_docker_and_containerd(docker: Client, ctr: Client, server: Server) -> None:
    base = base_image(docker, "named-base")
    docker("tag", base, f"{server.address}/team/base:1")
    docker("push", f"{server.address}/team/base:1")
    docker("rmi", f"{server.address}/team/base:1")
    docker("pull", f"{server.address}/team/base:1")
    docker("rmi", f"{server.address}/team/base:1")
    reference = f"{server.address}/team/base:1"
    ctr("images", "pull", "--plain-http", "--snapshotter", "native", reference)
    ctr("images", "push", "--plain-http", f"{server.address}/team/again:1", reference)
    ctr("images", "remove", reference)
    assert Registry(server.address).request("GET", "/v2/team/_catalog").json() == {"repositories": ["again", "base"]}


def test_helm(helm: Client, server: Server) -> None:
    helm("create", "shop")
    helm("package", "--version", "1.0.0", "shop")
    helm("push", "--plain-http", helm.home / "shop-1.0.0.tgz", f"oci://{server.address}/team/charts")
    assert "name: shop" in helm("show", "chart", "--plain-http", f"oci://{server.address}/team/charts/shop", "--version", "1.0.0")


def test_a_claimed_host(skopeo: Client, server: Server, layout: Layout) -> None:
    image = layout.image([layout.layer({"a": b"a"})])
    push(skopeo, Registry(f"localhost:{server.port}"), layout.tag(image, "v1"), "app:v1")
    assert Registry(server.address).request("GET", "/v2/hosted/app/tags/list").json() == {"name": "hosted/app", "tags": ["v1"]}
    assert Registry(server.address).request("GET", "/v2/app/tags/list").status == 404
    assert Registry(f"localhost:{server.port}").request("GET", "/v2/_catalog").json() == {"repositories": ["app"]}


BEHIND_NGINX = """
server {{
    listen 127.0.0.1:PORT;
    client_max_body_size 0;
    proxy_http_version 1.1;
    location /v2/ {{
        proxy_pass http://{address}/repository/team/v2/;
        proxy_set_header Host $http_host;
        proxy_request_buffering off;
    }}
    location /repository/team/v2/ {{
        proxy_pass http://{address};
        proxy_set_header Host $http_host;
        proxy_request_buffering off;
    }}
}}
"""
"""As docs/repositories.md has it."""


def test_behind_nginx_a_repository_has_a_port_of_its_own(
    nginx: Callable[..., int], skopeo: Client, crane: Client, server: Server, layout: Layout
) -> None:
    """As the ports of Nexus's Docker connectors: what a proxy puts in front of /v2/ leads to the repository."""
    port = nginx(BEHIND_NGINX.format(address=server.address))
    image = layout.image([layout.layer({"a": b"a"}), layout.layer({"b": b"b"})])
    push(skopeo, Registry(f"127.0.0.1:{port}"), layout.tag(image, "v1"), "app:v1")
    assert Registry(server.address).tags("team/app") == ["v1"]
    assert Registry(f"127.0.0.1:{port}").manifest("app", "v1").body == layout.read(image)
    crane("tag", f"127.0.0.1:{port}/app:v1", "v2")
    assert crane("ls", f"127.0.0.1:{port}/app").split() == ["v1", "v2"]


def test_a_login_behind_nginx(guarded: Server, nginx: Callable[..., int], docker: Client, skopeo: Client, layout: Layout) -> None:
    host = f"127.0.0.1:{nginx(BEHIND_NGINX.format(address=guarded.address))}"
    skopeo("login", "--tls-verify=false", "-u", "alice", "-p", "for a test", host)
    push(skopeo, Registry(host), layout.tag(layout.image([layout.layer({"a": b"a"})]), "v1"), "app:v1")
    docker("login", "-u", "alice", "-p", "for a test", host)
    docker("pull", f"{host}/app:v1")
    docker("rmi", f"{host}/app:v1")


@pytest.fixture
def guarded(own_server: Callable[..., Server], tmp_path: Path) -> Server:
    from noraflask.services.auth.users import hash_password

    folder = tmp_path / "guarded"
    folder.mkdir()
    (folder / "users.htpasswd").write_bytes(b"alice:" + hash_password("for a test", 4) + b"\n")
    return own_server(folder=folder, config_text=CONFIG.format(port=1) + GUARDED)


def test_rights_are_those_of_the_repository(guarded: Server, skopeo: Client, layout: Layout) -> None:
    server = guarded
    image = layout.image([layout.layer({"a": b"a"})])
    skopeo("login", "--tls-verify=false", "-u", "alice", "-p", "for a test", server.address)
    push(skopeo, Registry(server.address), layout.tag(image, "v1"), "team/app:v1")
    refused = skopeo.refused("copy", "--dest-tls-verify=false", f"oci:{layout.folder}:v1", f"docker://{server.address}/other/app:v1")
    assert "403 (Forbidden)" in refused, "skopeo asks with HEAD first, whose answer has no words"
    log = [json.loads(line) for line in server.log_text().splitlines() if '"registry"' in line]
    assert {line["registry"] for line in log if line["path"].startswith("/v2/team/")} == {"team"}
    assert {line["name"] for line in log if line["path"].startswith("/v2/team/app/")} == {"app"}
