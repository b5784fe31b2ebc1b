"""What /setup/<client> prints works with that client, through TLS of a CA that nobody knows yet, and without TLS."""

from __future__ import annotations

import http.client
import re
import shlex
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.certificates import make_ca
from tests.client.conftest import Engine
from tests.client.guarded import Guarded, password_of
from tests.client.layout import tarball
from tests.client.logins import Goods
from tests.client.test_nginx import PROXY, Nginx
from tests.client.tools import Client, as_root

LOGIN = ("--username", "writer", "--password-stdin")
PASSWORD = password_of("writer").encode()


@dataclass(frozen=True)
class Front:
    address: str
    ca_file: Path

    def page(self, client: str) -> str:
        trust = ssl.create_default_context(cafile=str(self.ca_file))
        connection = http.client.HTTPSConnection(self.address, timeout=30, context=trust)
        try:
            connection.request("GET", f"/setup/{client}")
            return connection.getresponse().read().decode()
        finally:
            connection.close()


@pytest.fixture
def front(nginx: Nginx, guarded: Guarded, tmp_path: Path) -> Front:
    ca = make_ca()
    certificate, key = ca.issue("registry").write(tmp_path / "tls")
    (tmp_path / "ca.crt").write_bytes(ca.pem())
    port = nginx(f"""
    server {{
        listen 127.0.0.1:PORT ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        location / {{ {PROXY} proxy_pass http://{guarded.address}; }}
    }}""")
    return Front(f"127.0.0.1:{port}", tmp_path / "ca.crt")


def calls(page: str, program: str) -> list[list[str]]:
    """The arguments of each call of a program, in order."""
    return [shlex.split(line)[1:] for line in page.splitlines() if line.startswith(f"{program} ")]


def follow(page: str, client: Client, image: str = "", more: tuple[str, ...] = ()) -> None:
    """Every call that the page has for the client; IMAGE stands for one that is there, and the login is given without a terminal."""
    told = calls(page, client.name)
    assert len(told) >= 3, page
    for arguments in told:
        words = [image if word == "IMAGE" else word for word in arguments]
        client(*words, *more, *(LOGIN if "login" in words else ()), stdin=PASSWORD)


def prepare(page: str, place: Path, folder: Path) -> None:
    """Run what the page does before the first client is called, with `place` instead of /etc."""
    script = "\n".join(line for line in page.partition("# 2. Log in")[0].splitlines() if not line.startswith("#"))
    assert "ca.crt" in script
    subprocess.run(["sh", "-euc", script.replace("/etc/", f"{place}/")], cwd=folder, check=True)


def test_docker(engine: Engine, guarded: Guarded, tmp_path: Path) -> None:
    docker = engine.docker_of_own(tmp_path / "docker")
    docker("import", "-", "setup/docker", stdin=tarball({"etc/motd": b"docker"}))
    answer = guarded.as_user("reader").request("GET", "/setup/docker")
    follow(answer.body.decode().replace("team/app:1", "setup/docker:1"), docker, "setup/docker")
    assert guarded.tags("setup/docker") == ["1"]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_podman(scheme: str, podman: Client, guarded: Guarded, front: Front, goods: Goods, tmp_path: Path) -> None:
    """The user's own folder stands for /etc/containers."""
    page = front.page("podman") if scheme == "https" else guarded.as_user("reader").request("GET", "/setup/podman").body.decode()
    if scheme == "https":
        prepare(page, podman.home / ".config", tmp_path)
    podman("import", goods.tree, "setup/podman")
    follow(page.replace("team/app:1", f"setup/podman:{scheme}"), podman, "setup/podman")
    assert scheme in (guarded.tags("setup/podman") or [])


def test_helm(helm: Client, front: Front, guarded: Guarded, goods: Goods, tmp_path: Path) -> None:
    page = front.page("helm").replace("shop-1.0.0.tgz", str(goods.chart)).replace("/charts", "/setup/charts")
    assert "each command takes --ca-file ca.crt" in page
    page = re.sub(r"(?m)^helm install .*$", "", page)  # it wants a cluster
    follow(page, helm, more=("--ca-file", str(front.ca_file)))
    assert guarded.tags("setup/charts/shop") == ["1.0.0"]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_containerd(scheme: str, ctr: Client, crane: Client, front: Front, guarded: Guarded, goods: Goods, tmp_path: Path) -> None:
    crane("auth", "login", *LOGIN, guarded.address, stdin=PASSWORD)
    crane("push", goods.layout, f"{guarded.address}/setup/ctr:1")
    page = front.page("containerd") if scheme == "https" else guarded.as_user("reader").request("GET", "/setup/containerd").body.decode()
    script = page.partition("# 2. Log in")[0].replace("/etc/containerd", str(tmp_path))
    subprocess.run(as_root("sh", "-euc", script), cwd=tmp_path, check=True)
    (call,) = calls(page.replace("team/app:1", "setup/ctr:1").replace("/etc/containerd", str(tmp_path)), "ctr")
    ctr(*call[:2], "--snapshotter", "native", "--user", f"writer:{PASSWORD.decode()}", *call[2:])


def test_containerd_needs_the_line_with_the_ca(ctr: Client, front: Front, tmp_path: Path) -> None:
    script = front.page("containerd").partition("# 2. Log in")[0].replace("/etc/containerd", str(tmp_path))
    subprocess.run(as_root("sh", "-euc", "\n".join(line for line in script.splitlines() if "  ca = " not in line)), cwd=tmp_path, check=True)
    login = ("--user", f"writer:{PASSWORD.decode()}")
    message = ctr.refused("images", "pull", "--hosts-dir", tmp_path / "certs.d", *login, f"{front.address}/setup/ctr:1")
    assert "x509: certificate signed by unknown authority" in message
