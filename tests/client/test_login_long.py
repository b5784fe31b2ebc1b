"""Uploads that outlast the bearer token they began with. All of them run at the same time, a minute each.

docker, skopeo and regctl hold every token good for a minute at least, whatever its `expires_in` says, for distribution's "Token Authentication
Specification" wants none to be shorter; and a refusal ends their push. So with tokens of five seconds a push of theirs fails when it takes longer
than those and less than a minute, and succeeds again when it takes more. crane and oras ask for another token whenever they are refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.client.conftest import Engine, finish
from tests.client.guarded import Guarded, guarded_server, password_of
from tests.client.layout import Layout, tarball
from tests.client.logins import HTTP
from tests.client.registry import Answer, Registry
from tests.client.throttle import Throttle
from tests.client.tools import Client
from tests.oidc import Issuer

TOKEN_SECONDS = 5
UPLOAD_SECONDS = 65
PIECES = 650
LAYER_BYTES = 6 << 20
REFUSAL_IS_NO_END = ("crane", "oras")
SHORT_BYTES = LAYER_BYTES // 4

pytestmark = [pytest.mark.slow, pytest.mark.waits(UPLOAD_SECONDS)]


class Slow(NamedTuple):
    """A server whose tokens live for five seconds, and a way to it that takes a minute for the layer."""

    guarded: Guarded
    address: str


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Slow]:
    folder = tmp_path_factory.mktemp("slow") / "server"
    with guarded_server(folder, issuer, env={"NORA_AUTH_BEARER_TTL_SECS": str(TOKEN_SECONDS)}) as server:
        with Throttle(server.port, LAYER_BYTES / UPLOAD_SECONDS) as throttle:
            yield Slow(Guarded(server, issuer), throttle.address)
        finish(server)


def token_for(registry: Registry, name: str) -> str:
    answer = registry.request("GET", f"/v2/token?scope=repository:{name}:pull,push")
    assert answer.json()["expires_in"] == TOKEN_SECONDS
    return f"Bearer {answer.json()['token']}"


class ByHand(NamedTuple):
    patch: Answer
    with_the_old: Answer
    with_another: Answer
    seconds: float


def push_by_hand(guarded: Guarded) -> ByHand:
    """POST, a PATCH that takes a minute, and a PUT with the token of the beginning; then with one of its own."""
    writer, plain, name = guarded.as_user("writer"), Registry(guarded.address), "slow/by-hand"
    data = os.urandom(PIECES << 10)
    started, old = time.monotonic(), {"Authorization": token_for(writer, name)}

    def dripping() -> Iterator[bytes]:
        for number in range(PIECES):
            time.sleep(max(0.0, started + UPLOAD_SECONDS * (number + 1) / PIECES - time.monotonic()))
            yield data[number << 10 : (number + 1) << 10]

    begun = plain.request("POST", f"/v2/{name}/blobs/uploads/", headers=old)
    length = {"Content-Length": str(len(data))}
    patch = plain.request("PATCH", begun.headers["Location"], dripping(), old | length)
    seconds = time.monotonic() - started
    last = f"{begun.headers['Location']}?digest=sha256:{hashlib.sha256(data).hexdigest()}"
    refused = plain.request("PUT", last, headers=old)
    done = plain.request("PUT", last, headers={"Authorization": token_for(writer, name)})
    return ByHand(patch, refused, done, seconds)


def push_with(client: Client, host: str, folder: Path, layer_bytes: int) -> float:
    """Seconds that it took. Raises AssertionError when it failed."""
    program, password = client.name, password_of("writer").encode()
    name = f"{host}/slow/{folder.name}:v1"
    content = {"data": os.urandom(layer_bytes)}
    layout = Layout(folder)
    layout.tag(layout.image([layout.layer(content)]), "v1")
    calls = {
        "docker": (["login", "--username", "writer", "--password-stdin", host], ["push", name]),
        "skopeo": (
            ["login", HTTP, "--username", "writer", "--password-stdin", host],
            ["copy", "--dest-tls-verify=false", f"oci:{layout.folder}:v1", f"docker://{name}"],
        ),
        "crane": (["auth", "login", "--username", "writer", "--password-stdin", host], ["push", str(layout.folder), name]),
        "oras": (
            ["login", "--plain-http", "--username", "writer", "--password-stdin", host],
            ["copy", "--from-oci-layout", f"{layout.folder}:v1", "--to-plain-http", name],
        ),
        "regctl": (["registry", "login", "--user", "writer", "--pass-stdin", host], ["image", "copy", f"ocidir://{layout.folder}:v1", name]),
    }
    if program == "docker":
        client("import", "-", name, stdin=tarball(content))
    client(*calls[program][0], stdin=password)
    started = time.monotonic()
    client(*calls[program][1])
    return time.monotonic() - started


@pytest.fixture(scope="module")
def pushes(slow: Slow, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Any]]]:
    folder = tmp_path_factory.mktemp("pushes")
    clients = {
        "docker": engine.docker_of_own(folder / "docker-home"),
        "skopeo": Client("skopeo", folder / "skopeo-home"),
        "crane": Client("crane", folder / "crane-home", "--insecure"),
        "oras": Client("oras", folder / "oras-home"),
        "regctl": Client("regctl", folder / "regctl-home", "--host", f"reg={slow.address},tls=disabled"),
    }
    with ThreadPoolExecutor(len(clients) + len(REFUSAL_IS_NO_END) + 1) as pool:
        running = {name: pool.submit(push_with, clients[name], slow.address, folder / name, LAYER_BYTES) for name in clients}
        for name in REFUSAL_IS_NO_END:
            running[f"{name}-short"] = pool.submit(push_with, clients[name], slow.address, folder / f"{name}-short", SHORT_BYTES)
        yield running | {"by hand": pool.submit(push_by_hand, slow.guarded)}


def test_a_request_under_way_outlives_its_token_and_the_next_is_asked_for_another(pushes: dict[str, Future[ByHand]]) -> None:
    seen = pushes["by hand"].result()
    assert seen.seconds > UPLOAD_SECONDS - 1
    assert seen.patch.status == 202
    assert seen.with_the_old.status == 401
    assert 'error="invalid_token"' in seen.with_the_old.headers["WWW-Authenticate"]
    assert 'scope="repository:slow/by-hand:pull,push"' in seen.with_the_old.headers["WWW-Authenticate"]
    assert json.loads(seen.with_the_old.body)["errors"][0]["code"] == "UNAUTHORIZED"
    assert seen.with_another.status == 201


@pytest.mark.parametrize("program", ["docker", "skopeo", "crane", "oras", "regctl"])
def test_a_push_that_takes_more_than_a_minute(program: str, pushes: dict[str, Future[float]], slow: Slow) -> None:
    assert pushes[program].result() > 60
    assert slow.guarded.tags(f"slow/{program}") == ["v1"]


@pytest.mark.parametrize("program", REFUSAL_IS_NO_END)
def test_a_push_that_takes_a_few_lives_of_a_token(program: str, pushes: dict[str, Future[float]], slow: Slow) -> None:
    assert pushes[f"{program}-short"].result() > 2 * TOKEN_SECONDS
    assert slow.guarded.tags(f"slow/{program}-short") == ["v1"]
