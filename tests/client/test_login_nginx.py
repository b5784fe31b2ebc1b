"""Logins behind nginx with TLS of an own CA: clients are led to the token service by its outside address, and logged by theirs."""

from __future__ import annotations

import base64
import http.client
import re
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.client.guarded import Guarded, password_of
from tests.client.logins import Goods, Seat
from tests.client.registry import Answer
from tests.client.test_nginx import PROXY, Nginx
from tests.client.tools import Client, tool


@dataclass(frozen=True)
class Front:
    """nginx before the registry."""

    address: str
    certificates: Path
    """With ca.crt, and no more: what clients are told to trust."""

    def request(self, path: str, headers: dict[str, str] | None = None, source: str = "127.0.0.1") -> Answer:
        trust = ssl.create_default_context(cafile=self.certificates / "ca.crt")
        connection = http.client.HTTPSConnection(self.address, timeout=30, context=trust, source_address=(source, 0))
        try:
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()


def make_certificates(folder: Path) -> Path:
    """A CA, and a certificate of it for 127.0.0.1 and localhost."""
    (folder / "trusted").mkdir(parents=True)
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    ca = ("-CA", "trusted/ca.crt", "-CAkey", "ca.key", "-CAcreateserial")
    for call in (
        ("req", "-x509", *key, "-days", "2", "-subj", "/CN=a CA for a test", "-keyout", "ca.key", "-out", "trusted/ca.crt"),
        ("req", *key, "-subj", "/CN=127.0.0.1", "-keyout", "server.key", "-out", "server.csr"),
        ("x509", "-req", "-in", "server.csr", *ca, "-days", "2", "-extfile", "names", "-out", "server.crt"),
    ):
        subprocess.run([tool("openssl"), *call], cwd=folder, check=True, capture_output=True)
    return folder / "trusted"


@pytest.fixture
def front(nginx: Nginx, guarded: Guarded, tmp_path: Path) -> Front:
    """The registry at /, as shared by others at /hub/, and at /terse/ by a proxy that passes on the host and the scheme alone."""
    certificates = make_certificates(tmp_path / "tls")
    port = nginx(f"""
    server {{
        listen 127.0.0.1:PORT ssl;
        ssl_certificate {tmp_path}/tls/server.crt;
        ssl_certificate_key {tmp_path}/tls/server.key;
        location / {{ {PROXY} proxy_pass http://{guarded.address}; }}
        location /terse/ {{ proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto $scheme; proxy_pass http://{guarded.address}/; }}
        location /hub/ {{ {PROXY} proxy_set_header X-Forwarded-Prefix /hub; proxy_pass http://{guarded.address}/; }}
    }}""")
    return Front(f"127.0.0.1:{port}", certificates)


def realm_of(answer: Answer) -> str:
    assert answer.status == 401, answer
    found = re.match(r'Bearer realm="([^"]+)"', answer.headers["WWW-Authenticate"])
    assert found, answer.headers["WWW-Authenticate"]
    return found[1]


def basic(user: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password_of(user)}".encode()).decode()}


@pytest.mark.parametrize(("prefix", "told"), [("", ""), ("/hub", "/hub"), ("/terse", "")])
def test_the_challenge_leads_to_the_proxy(front: Front, prefix: str, told: str) -> None:
    """By scheme, port and sub-path; and whoever follows it gets a token that is good there."""
    realm = realm_of(front.request(f"{prefix}/v2/"))
    assert realm == f"https://{front.address}{told}/v2/token"
    token = front.request(urlsplit(realm).path, basic("reader")).json()["token"]
    assert front.request(f"{prefix}/v2/", {"Authorization": f"Bearer {token}"}).status == 200


def skopeo_words(front: Front, goods: Goods) -> list[list[str]]:
    target = f"docker://{front.address}/tls/skopeo:v1"
    return [
        ["login", f"--cert-dir={front.certificates}", "--username", "writer", "--password-stdin", front.address],
        ["copy", f"--dest-cert-dir={front.certificates}", f"oci:{goods.layout}:v1", target],
        ["inspect", f"--cert-dir={front.certificates}", target],
    ]


def podman_words(front: Front, goods: Goods) -> list[list[str]]:
    reference, trust = f"{front.address}/tls/podman:v1", f"--cert-dir={front.certificates}"
    return [
        ["login", trust, "--username", "writer", "--password-stdin", front.address],
        ["import", str(goods.tree), reference],
        ["push", trust, reference],
        ["rmi", reference],
        ["pull", trust, reference],
    ]


def crane_words(front: Front, goods: Goods) -> list[list[str]]:
    reference = f"{front.address}/tls/crane:v1"
    return [
        ["auth", "login", "--username", "writer", "--password-stdin", front.address],
        ["push", str(goods.layout), reference],
        ["validate", "--remote", reference],
    ]


WORDS = {"skopeo": skopeo_words, "podman": podman_words, "crane": crane_words}


@pytest.mark.parametrize("program", WORDS)
def test_login_push_and_pull_through_tls(
    program: str, front: Front, guarded: Guarded, goods: Goods, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    strict = Client("crane", tmp_path / "strict", env={"SSL_CERT_FILE": str(front.certificates / "ca.crt")})  # the fixture's says --insecure
    client: Client = strict if program == "crane" else request.getfixturevalue(program)
    for call in WORDS[program](front, goods):
        client(*call, stdin=password_of("writer").encode())
    assert guarded.tags(f"tls/{program}") == ["v1"]


@pytest.mark.parametrize("program", ["skopeo", "podman"])
def test_a_client_that_does_not_know_the_ca_sends_no_password(program: str, front: Front, guarded: Guarded, request: pytest.FixtureRequest) -> None:
    client: Client = request.getfixturevalue(program)
    before = guarded.requests("GET", "/v2/token")
    message = client.refused("login", "--username", "writer", "--password-stdin", front.address, stdin=password_of("writer").encode())
    assert "certificate signed by unknown authority" in message
    assert guarded.requests("GET", "/v2/token") == before


def test_docker_through_tls(front: Front, guarded: Guarded, seat: Callable[[str, str], Seat]) -> None:
    """The engine asks for no certificate on 127.0.0.0/8, so this tells of addresses and logins alone."""
    own = seat("docker", front.address)
    own.log_in("writer")
    own.push("tls/docker")
    own.pull("tls/docker")
    assert guarded.tags("tls/docker") == ["v1"]


@pytest.mark.parametrize("prefix", ["", "/hub"])
def test_the_audit_log_names_the_client_and_not_the_proxy(front: Front, guarded: Guarded, prefix: str) -> None:
    client = f"127.0.0.{7 if prefix else 8}"
    front.request(f"{prefix}/v2/token", basic("reader"), source=client)
    wrong = base64.b64encode(b"reader:no-such-password").decode()
    front.request(f"{prefix}/v2/token", {"Authorization": f"Basic {wrong}"}, source=client)
    for action in ("login", "login_failed"):
        assert [record["actor"] for record in guarded.audit(action=action, client=client)] == ["reader"]
