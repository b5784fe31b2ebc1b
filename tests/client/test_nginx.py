"""Behind nginx: TLS, another port, a sub-path. Every Location must be one that the client can follow."""

from __future__ import annotations

import http.client
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest

from tests.client.conftest import Registry
from tests.client.layout import Layout, digest_of, forty_layers
from tests.client.test_skopeo import AS_THEY_ARE, assert_same_bytes
from tests.client.tools import Client, tool
from tests.server import Server

Nginx = Callable[[str], int]

# etc/ holds the sample for real use; here only what decides over addresses.
PROXY = """
    client_max_body_size 0;
    proxy_request_buffering off;
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $http_host;
"""


def push_by_hand(base: str, repository: str, data: bytes) -> list[str]:
    """POST, PATCH, PUT through `base`; follows each Location as a client does and returns them, made absolute."""
    locations = [f"{base}/v2/{repository}/blobs/uploads/"]
    for method, body, query in (("POST", b"", ""), ("PATCH", data, ""), ("PUT", b"", f"digest={digest_of(data)}"), ("GET", b"", "")):
        url = locations[-1]
        if query:
            url += ("&" if "?" in url else "?") + query
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=30)
        connection.request(method, f"{parts.path}?{parts.query}".rstrip("?"), body=body)
        response = connection.getresponse()
        content = response.read()
        assert response.status in (200, 201, 202), (method, url, response.status, content)
        connection.close()
        if method == "GET":
            assert content == data
        else:
            locations.append(urljoin(url, response.headers["Location"]))
    return locations


def test_skopeo_through_nginx_with_tls(nginx: Nginx, registry: Registry, skopeo: Client, layout: Layout, tmp_path: Path) -> None:
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    subprocess.run(
        [
            *(tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", tmp_path / "server.key", "-out", certificates / "ca.crt"),
        ],
        check=True,
        capture_output=True,
    )
    port = nginx(f"""
    server {{
        listen 127.0.0.1:PORT ssl;
        ssl_certificate {certificates}/ca.crt;
        ssl_certificate_key {tmp_path}/server.key;
        location / {{ {PROXY} proxy_pass http://{registry.address}; }}
    }}""")
    image = forty_layers(layout)
    target = f"docker://127.0.0.1:{port}/nginx/tls:v1"
    skopeo("copy", AS_THEY_ARE, f"--dest-cert-dir={certificates}", layout.tag(image, "v1"), target)
    skopeo("copy", f"--src-cert-dir={certificates}", target, f"dir:{tmp_path / 'pulled'}")
    assert_same_bytes(layout, image, tmp_path / "pulled")


def test_locations_name_the_port_of_the_proxy(nginx: Nginx, registry: Registry) -> None:
    port = nginx(f"server {{ listen 127.0.0.1:PORT; location / {{ {PROXY} proxy_pass http://{registry.address}; }} }}")
    base = f"http://127.0.0.1:{port}"
    assert all(location.startswith(f"{base}/v2/nginx/port/blobs/") for location in push_by_hand(base, "nginx/port", os.urandom(3 << 20)))


def test_locations_keep_the_sub_path_that_the_proxy_names(nginx: Nginx, registry: Registry) -> None:
    port = nginx(f"""
    server {{
        listen 127.0.0.1:PORT;
        location /hub/ {{ {PROXY} proxy_set_header X-Forwarded-Prefix /hub; proxy_pass http://{registry.address}/; }}
    }}""")
    base = f"http://127.0.0.1:{port}/hub"
    assert all(location.startswith(f"{base}/v2/nginx/sub/blobs/") for location in push_by_hand(base, "nginx/sub", b"below a prefix"))


def test_locations_follow_the_public_url(nginx: Nginx, own_server: Callable[..., Server], tmp_path: Path) -> None:
    """Where the proxy says nothing, the configuration does."""
    inner = own_server()
    port = nginx(f"server {{ listen 127.0.0.1:PORT; location /hub/ {{ client_max_body_size 0; proxy_pass {inner.url}/; }} }}")
    base = f"http://127.0.0.1:{port}/hub"
    inner.stop()
    told = own_server(folder=tmp_path / "told", port=inner.port, env={"NORA_PUBLIC_URL": base})
    assert all(location.startswith(f"{base}/v2/nginx/public/blobs/") for location in push_by_hand(base, "nginx/public", b"told by configuration"))
    assert told.port == inner.port


@pytest.mark.parametrize("reference", ["latest", "sha256:" + "0" * 64])
def test_a_missing_manifest_keeps_its_error_through_the_proxy(nginx: Nginx, registry: Registry, reference: str) -> None:
    port = nginx(f"server {{ listen 127.0.0.1:PORT; location / {{ {PROXY} proxy_pass http://{registry.address}; }} }}")
    answer = Registry(f"127.0.0.1:{port}").request("GET", f"/v2/nginx/none/manifests/{reference}")
    assert answer.status == 404
    assert answer.json()["errors"][0]["code"] in ("MANIFEST_UNKNOWN", "NAME_UNKNOWN")
