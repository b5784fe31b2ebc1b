"""nginx, Caddy and Traefik from etc/, set up by the commands of docs/deployment.md, with TLS of a CA of one's own.

Each is asked on port 443 and on 8443, with a sub-path and without: real clients push and pull, and what they are told is looked at.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from tests.client.fronts import ADDRESS, CLIENT_ADDRESS, HOST, WORDS, Front, Machine, front_on
from tests.client.guarded import password_of
from tests.client.layout import busybox_files, digest_of, tarball
from tests.client.test_large_layers import with_digest
from tests.client.tools import Client
from tests.server import Server, wait_until

FRONTS = list(product(WORDS, (443, 8443), ("", "/hub")))
"""Each of the three, in each way."""


@pytest.fixture(scope="module", params=FRONTS, ids=lambda front: f"{front[0]}-{front[1]}{front[2].replace('/', '-')}")
def front(machine: Machine, machine_registry: Server, request: pytest.FixtureRequest) -> Iterator[Front]:
    name, port, sub_path = request.param
    with front_on(machine, machine_registry, name, port, sub_path) as started:
        yield started


def from_the_machine(front: Front) -> tuple[str, str]:
    """What makes curl come from 127.0.0.1."""
    return "--connect-to", f"{HOST}:{front.port}:127.0.0.1:{front.port}"


def test_docker_logs_in_pushes_and_pulls(front: Front, machine_docker: Client) -> None:
    docker = machine_docker
    name = f"matrix/{front.name.lower()}-{front.port}{front.sub_path.replace('/', '-')}"
    reference = f"{front.host}/{name}:1"
    docker("import", "-", reference, stdin=tarball(busybox_files() | {"etc/front": name.encode()}))
    before = docker("image", "inspect", "--format", "{{.Id}}", reference)
    assert "authentication is required" in docker.refused("push", reference)
    docker("login", "--username", "writer", "--password-stdin", front.host, stdin=password_of("writer").encode())
    docker("push", reference)
    docker("rmi", reference)
    docker("pull", reference)
    assert docker("image", "inspect", "--format", "{{.Id}}", reference) == before
    docker("rmi", reference)
    docker("logout", front.host)
    assert {line["client"] for line in front.logged() if line["path"].startswith(f"/v2/{name}/")} == {ADDRESS}


@pytest.mark.parametrize("protocol", ["--http1.1", "--http2"])
def test_every_location_leads_back_to_the_front(front: Front, protocol: str, tmp_path: Path) -> None:
    """With the scheme, the port and the sub-path of the client."""
    data = tmp_path / "data"
    data.write_bytes(os.urandom(3 << 20))
    digest = digest_of(data.read_bytes())
    login = ("--user", f"writer:{password_of('writer')}", protocol)
    for base in {front.url, front.url + front.sub_path}:
        upload = front.ask(f"{base}/v2/by/hand/blobs/uploads/", *login, "-X", "POST")
        patched = front.ask(upload.headers["location"], *login, "-X", "PATCH", "-H", "Content-Type: application/octet-stream", "-T", data)
        put = front.ask(with_digest(patched.headers["location"], digest), *login, "-X", "PUT")
        assert [upload.status, patched.status, put.status] == [202, 202, 201], (upload, patched, put)
        assert {answer.protocol for answer in (upload, patched, put)} == {protocol.removeprefix("--http")}
        for answer in (upload, patched, put):
            assert answer.headers["location"].startswith(f"{base}/v2/by/hand/blobs/"), answer
        pulled = front.ask(put.headers["location"], *login)
        assert pulled.body == data.read_bytes()
        assert pulled.headers["docker-content-digest"] == digest
        assert front.ask(put.headers["location"], *login, "-H", "Range: bytes=100000-199999").body == data.read_bytes()[100000:200000]


def test_the_challenge_names_the_front(front: Front) -> None:
    for prefix in {"", front.sub_path}:
        answer = front.ask(f"{prefix}/v2/")
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith(f'Bearer realm="{front.url}{prefix}/v2/token"')


def test_http_is_sent_to_https(front: Front) -> None:
    for path in ("/v2/", "/v2/team/app/manifests/1?a=b"):
        answer = front.ask(f"http://{HOST}{path}")
        assert answer.status in (301, 308)
        assert answer.headers["location"] == front.url + path


def test_the_client_is_who_it_is_and_not_who_it_says(front: Front) -> None:
    identity = f"forged-{front.name}-{front.port}{front.sub_path.strip('/')}"
    forged = {
        "X-Forwarded-For": "203.0.113.9",
        "X_Forwarded_For": "203.0.113.9",
        "X-Real-IP": "203.0.113.9",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Port": "1234",
        "X-Forwarded-Prefix": "/evil",
    }
    options = [word for name, value in forged.items() for word in ("-H", f"{name}: {value}")]
    for prefix in {"", front.sub_path}:
        answer = front.ask(f"{prefix}/v2/", "--interface", CLIENT_ADDRESS, *options, "-H", f"X-Request-Id: {identity}")
        assert answer.headers["www-authenticate"].startswith(f'Bearer realm="{front.url}{prefix}/v2/token",service="{front.host}"')
    assert {line["client"] for line in front.lines_of(identity)} == {CLIENT_ADDRESS}
    # from the machine itself, whose address the registry trusts as its proxy's
    front.ask("/v2/", *from_the_machine(front), *options, "-H", f"X-Request-Id: {identity}-inside")
    assert {line["client"] for line in front.lines_of(f"{identity}-inside")} == {"127.0.0.1"}


def test_a_request_is_found_in_both_logs_by_its_id(front: Front) -> None:
    own = front.ask("/v2/").headers["x-request-id"]
    given = f"ci-{front.name}-{front.port}{front.sub_path.strip('/')}"
    assert front.ask("/v2/", "-H", f"X-Request-Id: {given}").headers["x-request-id"] == given
    for identity in (own, given):
        assert len(front.lines_of(identity)) == 1
        wait_until(lambda wanted=identity: any(wanted in str(line) for line in front.log_lines()), 5, f"{identity} in the proxy's log")
    for unsound in ('x"onload="y', "y" * 200) if front.name != "Traefik" else ("y" * 200,):
        assert front.ask("/v2/", "-H", f"X-Request-Id: {unsound}").headers["x-request-id"] != unsound


SPELLINGS = ("/metrics", "//metrics", "/%6detrics", "/./metrics", "/v2/../metrics", "/metrics?a=b", "/v2/%2e%2e/metrics")


def test_metrics_are_for_whom_the_file_names(front: Front) -> None:
    """However they are spelt. Whoever may ask is let through to the registry, which then asks for itself."""
    for number, spelling in enumerate(prefix + spelling for prefix in {"", front.sub_path} for spelling in SPELLINGS):
        identity = f"metrics-{front.name}-{front.port}-{front.sub_path.strip('/')}-{number}"
        assert front.ask(spelling, "--interface", CLIENT_ADDRESS, "-H", f"X-Request-Id: {identity}").status == 403, spelling
        assert front.logged(request_id=identity) == []
    identity = f"metrics-{front.name}-{front.port}-{front.sub_path.strip('/')}"
    inside = front.ask("/metrics", *from_the_machine(front), "-H", f"X-Request-Id: {identity}")
    assert [line["path"] for line in front.lines_of(identity)] == ["/metrics"], inside


def test_the_location_of_blobs_is_not_for_clients(front: Front) -> None:
    for path in ("/_nora/blobs/sha256/", "/_nora/audit.jsonl", "/_nora/blobs/../audit.jsonl", "//_nora/blobs/sha256/"):
        assert front.ask(path).status == 404


def test_tls_is_of_our_time(front: Front) -> None:
    for option, version in (("--tls-max 1.2", "TLSv1.2"), ("--tlsv1.3", "TLSv1.3")):
        told = front.machine.sh(f"curl -sSv {option} --cacert /etc/nora/tls/ca.crt -o /dev/null {front.url}/health 2>&1")
        assert f"SSL connection using {version}" in told
        assert "ALPN: server accepted h2" in told
    old = f"curl -sS --tlsv1.0 --tls-max 1.1 --ciphers DEFAULT@SECLEVEL=0 --cacert /etc/nora/tls/ca.crt {front.url}/health 2>&1 || true"
    assert "curl: (35)" in front.machine.sh(old)


def test_long_tokens_get_through(front: Front) -> None:
    answer = front.ask("/v2/", "-H", f"Authorization: Bearer {'x' * 20_000}")
    assert answer.status == 401
    assert answer.json()["errors"][0]["code"] == "UNAUTHORIZED"
