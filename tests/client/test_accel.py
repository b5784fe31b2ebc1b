"""nginx sends large bodies itself (X-Accel-Redirect): every answer is the one that the registry gives, and nobody gets at the files otherwise."""

from __future__ import annotations

import grp
import hashlib
import http.server
import json
import os
import pwd
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from tests.client.conftest import finish
from tests.client.guarded import guarded_server, password_of
from tests.client.layout import Layout
from tests.client.registry import Answer, Registry
from tests.client.test_nginx import PROXY
from tests.client.test_skopeo import AS_THEY_ARE, assert_same_bytes
from tests.client.tools import Client, missing
from tests.oidc import Issuer
from tests.server import ROOT, Server, wait_until

SHIPPED = ROOT / "etc" / "nginx" / "nginx.conf"
FOLDER = "/var/lib/nora/storage"
"""storage.path in what is shipped."""
FRONT = "127.0.0.2"
"""nginx asks the registry from here, the only peer that it trusts."""
DATA = b"".join(number.to_bytes(3) for number in range(100_000))
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
ETAG = f'"{DIGEST}"'
PATH = f"/v2/team/app/blobs/{DIGEST}"
REFUSED = f"/v2/team/secret/blobs/{DIGEST}"
RULES = '[[block]]\nid = "SEC-1"\nformat = "docker"\nname = "team/secret"\nreason = "stolen"\n'
SECRET = b"nobody may read this"

Nginx = Callable[..., int]


def shipped_locations(storage: Path) -> str:
    """The location blocks of etc/nginx/ that this is about, for a storage folder of the test's own."""
    text = SHIPPED.read_text()
    found = re.findall(r"(?ms)^( *)(location (?:/_nora/\S*|@direct) \{$.*?^)\1\}$", text)
    assert [re.split(r"\s", block)[1] for _, block in found] == ["/_nora/blobs/", "/_nora/", "@direct"]
    return "\n".join(block + "}" for _, block in found).replace(FOLDER, str(storage))


def front(address: str, storage: Path) -> str:
    """A server block."""
    return f"""
    map $request_uri $nora_uri {{ default $request_uri; }}
    upstream nora {{ server {address}; keepalive 4; }}
    server {{
        listen 127.0.0.1:PORT;
        {PROXY}
        proxy_set_header Connection "";
        proxy_max_temp_file_size 0;
        proxy_bind {FRONT};
        set $nora_accel on;
        proxy_set_header X-Nora-Accel $nora_accel;
        location / {{ proxy_pass http://nora; }}
        {shipped_locations(storage)}
    }}"""


@dataclass(frozen=True)
class Seen:
    """What a client sees; without what is of this one connection, or differs between any two servers."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @classmethod
    def of(cls, answer: Answer) -> Seen:
        left_out = {"date", "server", "connection", "x-request-id"}
        if answer.status == 206:
            left_out.add("accept-ranges")  # nginx leaves it out, for the answer says as much itself
        counted = ("x-ratelimit-remaining",)  # differs from one request to the next
        found = [(name.lower(), value) for name, value in answer.headers.items() if name.lower() not in left_out]
        headers = sorted((name, "" if name in counted else value) for name, value in found)
        return cls(answer.status, headers, answer.body)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Server]:
    """With logins and rules; one blob in team/app and in team/secret."""
    folder = tmp_path_factory.mktemp("accel")
    (folder / "rules.toml").write_text(RULES)
    env = {
        "NORA_ACCEL_REDIRECT": "/_nora/",
        "NORA_AUTH_TRUSTED_PROXIES": FRONT,
        "NORA_CORS_ALLOWED_ORIGINS": "https://ui.example.com",
        "NORA_CURATION_MODE": "enforce",
        "NORA_CURATION_RULES_PATH": str(folder / "rules.toml"),
    }
    with guarded_server(folder / "server", issuer, env=env) as server:
        for name in ("team/app", "team/secret"):
            assert as_user(server.address, "writer").request("POST", f"/v2/{name}/blobs/uploads/?digest={DIGEST}", DATA).status == 201
        yield server
        finish(server)


def as_user(address: str, user: str = "reader") -> Registry:
    return Registry(address, f"{user}:{password_of(user)}")


def line_of(server: Server, request_id: str) -> dict[str, Any]:
    """The one that the request has left in the log; it is written after the client has its answer."""
    lines: list[str] = []

    def is_there() -> bool:
        lines[:] = [line for line in server.log_text().splitlines() if '"message": "request"' in line and f'"{request_id}"' in line]
        return bool(lines)

    wait_until(is_there, 10, f"the log's line of {request_id}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


@pytest.mark.parametrize(
    ("headers", "handed"),
    [
        ({}, True),
        ({"Range": "bytes=5-10"}, True),
        ({"Range": "BYTES=250000-"}, True),
        ({"Range": "bytes=-7"}, True),
        ({"Range": "bytes=0-"}, True),
        ({"Range": "bytes=299999-999999999999999999"}, True),
        ({"Range": "bytes=-400000"}, True),
        ({"Range": "bytes=300000-"}, False),
        ({"Range": "bytes=9-5"}, False),
        ({"Range": "bytes=-0"}, False),
        ({"Range": "bytes=a-b"}, False),
        ({"Range": "bytes=0-1,4-5"}, False),
        ({"Range": "bytes=0-1,1-5"}, False),
        ({"Range": "bytes=0-99999,100001-200000,5-9"}, False),
        ({"Range": "bytes=0-1,4-5", "If-Range": '"other"'}, False),
        ({"Range": "items=0-1"}, False),
        ({"Range": "bytes=5-10", "If-Range": ETAG}, True),
        ({"Range": "bytes=5-10", "If-Range": f"W/{ETAG}"}, True),
        ({"Range": "bytes=5-10", "If-Range": '"other"'}, True),
        ({"Range": "bytes=5-10", "If-Range": "Wed, 21 Oct 2099 07:28:00 GMT"}, True),
        ({"Range": "bytes=5-10", "If-Range": "nonsense"}, True),
        ({"If-None-Match": ETAG}, False),
        ({"If-None-Match": "*"}, False),
        ({"If-None-Match": '"other"'}, True),
        ({"If-None-Match": '"other"', "Range": "bytes=5-10"}, True),
        ({"If-Modified-Since": "Wed, 21 Oct 2099 07:28:00 GMT"}, True),
        ({"If-Match": ETAG}, False),
        ({"If-Match": '"other"'}, False),
        ({"If-Unmodified-Since": "Wed, 21 Oct 2009 07:28:00 GMT"}, False),
        ({"Accept-Encoding": "gzip, br"}, True),
        ({"Origin": "https://ui.example.com"}, True),
        ({"Origin": "https://evil.example"}, True),
    ],
)
def test_every_answer_is_the_one_that_the_registry_gives(nginx: Nginx, server: Server, headers: dict[str, str], handed: bool) -> None:
    port = nginx(front(server.address, server.storage))
    answers = [
        as_user(address).request("GET", PATH, headers=headers | {"X-Request-Id": f"{port}-{way}"})
        for way, address in (("direct", server.address), ("through", f"127.0.0.1:{port}"))
    ]
    assert Seen.of(answers[1]) == Seen.of(answers[0])
    assert answers[1].headers["X-Request-Id"] == f"{port}-through"
    direct, through = (line_of(server, f"{port}-{way}") for way in ("direct", "through"))
    assert ("accel" in direct, through.get("accel", False)) == (False, handed)
    assert (through["status"], through["bytes"]) == (direct["status"], direct["bytes"])


def test_what_nginx_knows_of_the_file_decides_nothing(nginx: Nginx, server: Server) -> None:
    """Its time, and the ETag that nginx would make of time and size, may be guessed."""
    registry = as_user(f"127.0.0.1:{nginx(front(server.address, server.storage))}")
    written = (server.storage / "blobs" / "sha256" / DIGEST[7:9] / DIGEST[7:]).stat().st_mtime
    time, etag = formatdate(written, usegmt=True), f'"{int(written):x}-{len(DATA):x}"'
    part = {"Range": "bytes=0-1"}
    for headers in ({"If-Modified-Since": time}, {"If-None-Match": etag}, part | {"If-Range": time}, part | {"If-Range": etag}):
        answer = registry.request("GET", PATH, headers=headers)
        assert (answer.status, answer.body, answer.headers["Last-Modified"]) == (200, DATA, None), headers


def test_a_large_manifest(nginx: Nginx, server: Server) -> None:
    config = b"{}"
    descriptor = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": f"sha256:{hashlib.sha256(config).hexdigest()}", "size": len(config)}
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": descriptor, "layers": [], "annotations": {"text": "x" * 100_000}}
    writer = as_user(server.address, "writer")
    assert writer.request("POST", f"/v2/team/large/blobs/uploads/?digest={descriptor['digest']}", config).status == 201
    assert writer.request("PUT", "/v2/team/large/manifests/v1", json.dumps(manifest), {"Content-Type": kind}).status == 201
    port = nginx(front(server.address, server.storage))
    direct, through = (
        as_user(address).request("GET", "/v2/team/large/manifests/v1", headers={"Accept": kind, "X-Request-Id": f"{address}-large"})
        for address in (server.address, f"127.0.0.1:{port}")
    )
    assert Seen.of(through) == Seen.of(direct)
    assert (through.headers["Content-Type"], through.headers["Vary"]) == (kind, "Accept, Origin")
    assert line_of(server, f"127.0.0.1:{port}-large")["accel"] is True


@pytest.mark.parametrize(
    ("method", "path", "user", "status"),
    [
        ("HEAD", PATH, "reader", 200),
        ("GET", PATH.replace("sha256:", "sha512:"), "reader", 400),
        ("GET", PATH.replace(DIGEST[-6:], "000000"), "reader", 404),
        ("GET", REFUSED, "reader", 403),
        ("GET", PATH, "mounter", 403),
    ],
)
def test_what_is_no_body_to_hand_over_is_the_registrys_own(nginx: Nginx, server: Server, method: str, path: str, user: str, status: int) -> None:
    port = nginx(front(server.address, server.storage))
    name = {"X-Request-Id": f"{port}-own"}
    direct, through = (as_user(address, user).request(method, path, headers=name) for address in (server.address, f"127.0.0.1:{port}"))
    assert through.status == direct.status == status
    assert type_of(through) == type_of(direct)
    if method == "GET":
        assert through.json()["errors"][0]["code"] == direct.json()["errors"][0]["code"]
    assert "accel" not in line_of(server, f"{port}-own")


def type_of(answer: Answer) -> tuple[str | None, str | None]:
    return answer.headers["Content-Type"], answer.headers["ETag"]


def test_who_is_not_logged_in_gets_nothing(nginx: Nginx, server: Server) -> None:
    port = nginx(front(server.address, server.storage))
    answer = Registry(f"127.0.0.1:{port}").request("GET", PATH)
    assert answer.status == 401
    assert f'realm="http://127.0.0.1:{port}/v2/token"' in answer.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    "path",
    [
        f"/_nora/blobs/sha256/{DIGEST[7:9]}/{DIGEST[7:]}",
        f"/_nora//blobs/sha256/{DIGEST[7:9]}/{DIGEST[7:]}",
        f"/%5fnora/blobs/sha256/{DIGEST[7:9]}/{DIGEST[7:]}",
        f"/v2/../_nora/blobs/sha256/{DIGEST[7:9]}/{DIGEST[7:]}",
        "/_nora/blobs/",
        "/_nora/blobs",
        "/_nora/",
        "/_nora",
        "/_nora/audit.jsonl",
        "/_nora/blobs/../audit.jsonl",
        "/_nora/blobs/%2e%2e/audit.jsonl",
        "/_nora/blobs/..%2faudit.jsonl",
    ],
)
@pytest.mark.parametrize("user", ["", "root"])
def test_no_client_gets_at_the_files_by_their_path(nginx: Nginx, server: Server, path: str, user: str) -> None:
    port = nginx(front(server.address, server.storage))
    address = f"127.0.0.1:{port}"
    answer = (as_user(address, user) if user else Registry(address)).request("GET", path, headers={"X-Nora-Accel": "on", "X-Accel-Redirect": path})
    assert answer.status == 404
    assert DATA[:100] not in answer.body


def test_a_client_that_plays_the_proxy_gets_nothing_by_it(nginx: Nginx, server: Server) -> None:
    """nginx overwrites what its clients say, and the registry believes no other peer."""
    port = nginx(front(server.address, server.storage))
    for words in ({"X-Nora-Accel": "on"}, {"X-Nora-Accel": "failed"}, {"X-Accel-Redirect": "/_nora/audit.jsonl"}):
        told = words | {"X-Request-Id": f"{port}-{words}".replace(" ", "")}
        direct, through = (as_user(address).request("GET", PATH, headers=told) for address in (server.address, f"127.0.0.1:{port}"))
        assert Seen.of(direct) == Seen.of(through)
        assert (direct.body, direct.headers["X-Accel-Redirect"]) == (DATA, None)
    assert "could not read" not in server.log_text()


# ------------------------------------------------------------------------------------------------ when nginx cannot


@pytest.mark.parametrize("why", ["the right is missing", "the alias is wrong", "a link leads out"])
def test_what_nginx_cannot_read_the_registry_sends(nginx: Nginx, own_server: Callable[..., Server], tmp_path: Path, why: str) -> None:
    """Nobody is told that there is no such blob; the log says what is wrong."""
    server = own_server(env={"NORA_ACCEL_REDIRECT": "/_nora/", "NORA_AUTH_TRUSTED_PROXIES": FRONT})
    registry = Registry(server.address)
    assert registry.request("POST", f"/v2/team/app/blobs/uploads/?digest={DIGEST}", DATA).status == 201
    storage, user = server.storage, "root"
    if why == "the right is missing":
        if os.geteuid():
            missing("another user for nginx's workers needs root")
        nobody = pwd.getpwnam("nobody")  # pytest's folders are for their owner alone
        user = f"nobody {grp.getgrgid(nobody.pw_gid).gr_name}"
    elif why == "the alias is wrong":
        storage = tmp_path / "not-there"
    else:
        file = storage / "blobs" / "sha256" / DIGEST[7:9] / DIGEST[7:]
        file.symlink_to(file.rename(tmp_path / "elsewhere"))
    through = Registry(f"127.0.0.1:{nginx(front(server.address, storage), user=user)}")
    for headers in ({}, {"Range": "bytes=5-10"}, {"If-None-Match": '"other"'}):
        before = server.log_text().count("the proxy could not read blobs/sha256/")
        assert Seen.of(through.request("GET", PATH, headers=headers)) == Seen.of(registry.request("GET", PATH, headers=headers))
        assert server.log_text().count("the proxy could not read blobs/sha256/") == before + 1


class Liar(http.server.BaseHTTPRequestHandler):
    """Sends nginx wherever the request says, and has something to say itself when it is asked again."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"" if self.headers["X-Nora-Accel"] == "on" else b"asked again"
        self.send_response(200)
        if not body:
            self.send_header("X-Accel-Redirect", self.headers["X-Wanted"])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def liar() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Liar) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_no_answer_leads_out_of_the_blobs(nginx: Nginx, liar: str, tmp_path: Path) -> None:
    """Whatever a registry that was taken over might tell nginx."""
    storage = tmp_path / "storage"
    (storage / "blobs").mkdir(parents=True)
    (storage / "_auth").mkdir()
    for file in (tmp_path / "outside", storage / "_auth" / "key", storage / "audit.jsonl"):
        file.write_bytes(SECRET)
    (storage / "blobs" / "link").symlink_to(tmp_path / "outside")
    (storage / "blobs" / "folder").symlink_to(storage / "_auth")
    (storage / "blobs" / "good").write_bytes(DATA)
    port = nginx(front(liar, storage))
    registry = Registry(f"127.0.0.1:{port}")
    assert registry.request("GET", "/", headers={"X-Wanted": "/_nora/blobs/good"}).body == DATA
    for wanted in (
        *("/_nora/blobs/link", "/_nora/blobs/folder/key", "/_nora/_auth/key", "/_nora/audit.jsonl"),
        *("/_nora/blobs/../_auth/key", "/_nora/blobs/%2e%2e/_auth/key", "/_nora/blobs/..%2f_auth/key", "/_nora/blobs/../../outside"),
        *("/_nora/blobs../_auth/key", f"/_nora/blobs/{tmp_path}/outside", "/_nora/blobs//etc/passwd", "/etc/passwd", "@nowhere"),
    ):
        answer = registry.request("GET", "/", headers={"X-Wanted": wanted})
        assert answer.body == b"asked again" or answer.status in (404, 500), (wanted, answer)
        assert SECRET not in answer.body


# ------------------------------------------------------------------------------------------------ a real client


def test_skopeo_pulls_what_nginx_sends(nginx: Nginx, own_server: Callable[..., Server], skopeo: Client, layout: Layout, tmp_path: Path) -> None:
    server = own_server(env={"NORA_ACCEL_REDIRECT": "/_nora/", "NORA_AUTH_TRUSTED_PROXIES": FRONT})
    image = layout.image([layout.layer({f"srv/{number}": os.urandom(200_000)}) for number in range(4)])
    target = f"docker://127.0.0.1:{nginx(front(server.address, server.storage))}/accel/skopeo:v1"
    skopeo("copy", AS_THEY_ARE, "--dest-tls-verify=false", layout.tag(image, "v1"), target)
    skopeo("copy", "--src-tls-verify=false", target, f"dir:{tmp_path / 'pulled'}")
    assert_same_bytes(layout, image, tmp_path / "pulled")
    assert server.log_text().count('"accel": true') == 4
