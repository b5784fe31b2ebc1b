"""What `docker login` leaves in config.json, and who else can use it: other programs, and Kubernetes as a secret of that file or of its values."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.conftest import Engine, finish
from tests.client.guarded import Guarded, guarded_server, password_of
from tests.client.logins import Seat
from tests.client.registry import Registry
from tests.client.tools import Client
from tests.oidc import Issuer

Seats = Callable[[str, str], Seat]

READERS = ("crane", "podman", "skopeo", "oras", "helm")
"""Programs that read config.json."""


@pytest.fixture(scope="session")
def without_refresh_tokens(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Guarded]:
    with guarded_server(tmp_path_factory.mktemp("plain") / "server", issuer, env={"NORA_AUTH_REFRESH_TOKENS": "false"}) as server:
        yield Guarded(server, issuer)
        finish(server)


def logged_in(seat: Seats, address: str) -> tuple[Seat, dict[str, Any]]:
    """Docker, and what it keeps of that registry."""
    docker = seat("docker", address)
    docker.log_in("writer")
    return docker, json.loads((docker.client.home / "docker/config.json").read_text())["auths"][address]


def kept_by(reader: Seat, entry: dict[str, Any]) -> None:
    """Let the program find what another one, or a kubelet, was given."""
    text = json.dumps({"auths": {reader.host: entry}})
    (reader.client.home / "docker").mkdir(exist_ok=True)
    (reader.client.home / "docker/config.json").write_text(text)
    (reader.client.home / "auth.json").write_text(text)
    if reader.program == "helm":
        folder = Path(reader.client.env["XDG_CONFIG_HOME"]) / "helm/registry"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(text)


def as_secret(host: str, name: str, password: str) -> dict[str, Any]:
    """The entry of `kubectl create secret docker-registry --docker-server --docker-username --docker-password`."""
    auth = base64.b64encode(f"{name}:{password}".encode()).decode()
    secret = base64.b64encode(json.dumps({"auths": {host: {"username": name, "password": password, "auth": auth}}}).encode())  # .dockerconfigjson
    found: dict[str, Any] = json.loads(base64.b64decode(secret))["auths"][host]
    return found


def by_kubelet(entry: dict[str, Any]) -> tuple[str, str]:
    """Kubernetes, pkg/credentialprovider/config.go: `auth` is name and password, and no other field of a login is known."""
    name, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
    return name, password


def test_docker_keeps_an_identity_token_that_a_kubelet_cannot_use(guarded: Guarded, seat: Seats) -> None:
    docker, entry = logged_in(seat, guarded.address)
    assert entry["identitytoken"]
    assert by_kubelet(entry) == ("writer", "")
    docker.push("kept/by-docker")
    assert not docker.keeps("writer", password_of("writer"))


@pytest.mark.parametrize("reader", READERS)
def test_without_refresh_tokens_everybody_reads_the_file(without_refresh_tokens: Guarded, seat: Seats, reader: str) -> None:
    address = without_refresh_tokens.address
    docker, entry = logged_in(seat, address)
    assert by_kubelet(entry) == ("writer", password_of("writer"))
    assert set(entry) == {"auth"}
    docker.push("kept/by-docker")
    own = seat(reader, address)
    kept_by(own, entry)
    own.push(f"kept/by-{reader}")
    own.pull(f"kept/by-{reader}")


@pytest.mark.parametrize("name", ["writer", "<token>"])
@pytest.mark.parametrize("reader", READERS)
def test_an_identity_token_is_a_password_in_a_secret(guarded: Guarded, seat: Seats, reader: str, name: str) -> None:
    token = logged_in(seat, guarded.address)[1]["identitytoken"]
    own = seat(reader, guarded.address)
    kept_by(own, as_secret(guarded.address, name, token))
    own.push(f"secret/{reader}")
    own.pull(f"secret/{reader}")
    assert Registry(guarded.address, f"{name}:{token}").request("GET", "/v2/_catalog").status == 401, "at the token service alone"


@pytest.mark.parametrize("program", ["docker", "podman", "crane"])
def test_an_identity_token_is_a_password_to_log_in_with(guarded: Guarded, seat: Seats, program: str, tmp_path: Path, engine: Engine) -> None:
    first = Seat(engine.docker_of_own(tmp_path / "first"), guarded.address, seat("crane", guarded.address).goods)
    first.log_in("writer")
    token = json.loads((first.client.home / "docker/config.json").read_text())["auths"][guarded.address]["identitytoken"]
    own = seat(program, guarded.address)
    own.log_in("writer", token)
    own.push(f"again/{program}")
    own.pull(f"again/{program}")


def test_containerd_takes_it_with_the_call(guarded: Guarded, seat: Seats, crane: Client) -> None:
    """As a kubelet hands the values of a secret on."""
    token = logged_in(seat, guarded.address)[1]["identitytoken"]
    own = seat("ctr", guarded.address)
    own.log_in(*by_kubelet(as_secret(guarded.address, "writer", token)))
    own.push("secret/ctr")
    own.pull("secret/ctr")
