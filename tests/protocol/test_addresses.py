"""Locations and Links as a client must write them: behind a proxy, a port, a sub-path, a public URL."""

from __future__ import annotations

import pytest

from noraflask.digest import Digest
from tests.protocol.oci import Registry, image

DIGEST = Digest.of(b"x")
HOST, PROTO, PREFIX, PORT = "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Prefix", "X-Forwarded-Port"
FOR, FORWARDED_BY = "X-Forwarded-For", "Forwarded"


def addresses(registry: Registry, headers: dict[str, str], peer: str = "127.0.0.1") -> set[str]:
    """What stands in front of the path in every kind of address that the registry hands out."""

    def ask(method, path, expected, **more):
        answer = registry.ask(method, path, headers=headers, environ_overrides={"REMOTE_ADDR": peer}, **more)
        assert answer.status_code == expected, answer.data
        return answer

    upload = ask("POST", "app/blobs/uploads/", 202).headers["Location"]
    session = "/v2" + upload.partition("/v2")[2]
    found = {
        upload: session,
        ask("GET", session, 204).headers["Location"]: session,
        ask("PATCH", session, 202, data=b"x").headers["Location"]: session,
        ask("PUT", session, 201, query_string={"digest": str(DIGEST)}).headers["Location"]: f"/v2/app/blobs/{DIGEST}",
        ask("POST", "b/blobs/uploads/", 201, query_string={"mount": str(DIGEST)}).headers["Location"]: f"/v2/b/blobs/{DIGEST}",
    }
    registry.push_image("app", "2")
    found[ask("PUT", "app/manifests/1", 201, data=image()).headers["Location"]] = f"/v2/app/manifests/{Digest.of(image())}"
    link = ask("GET", "app/tags/list?n=1", 200).headers["Link"]
    found[link.partition(">")[0][1:]] = "/v2/app/tags/list?n=1&last=1"
    for address, path in found.items():
        assert address.endswith(path)
    return {address.removesuffix(path) for address, path in found.items()}


@pytest.mark.parametrize("public_url", ["https://registry.example", "http://r.example:8080", "https://r.example/sub/path"])
@pytest.mark.parametrize("headers", [{}, {HOST: "other.example", PROTO: "http", PREFIX: "/x"}])
def test_with_a_public_url(make_app, public_url, headers):
    assert addresses(Registry(make_app(server={"public_url": public_url}).test_client()), headers) == {public_url}


FORWARDED = [
    ({}, ""),
    ({"Host": "evil.example"}, ""),
    ({PROTO: "https"}, ""),
    ({HOST: "r.example"}, "http://r.example"),
    ({HOST: "r.example", PROTO: "https"}, "https://r.example"),
    ({HOST: "r.example", PROTO: "HTTPS"}, "https://r.example"),
    ({HOST: "r.example:5000", PROTO: "https"}, "https://r.example:5000"),
    ({HOST: "r.example", PROTO: "https", PORT: "8443"}, "https://r.example:8443"),
    ({HOST: "r.example", PROTO: "https", PORT: "443"}, "https://r.example"),
    ({HOST: "r.example", PROTO: "http", PORT: "80"}, "http://r.example"),
    ({HOST: "r.example:5000", PROTO: "https", PORT: "8443"}, "https://r.example:5000"),
    ({HOST: "192.0.2.1", PROTO: "http"}, "http://192.0.2.1"),
    ({HOST: "[2001:db8::1]:5000", PROTO: "http"}, "http://[2001:db8::1]:5000"),
    ({HOST: "[2001:db8::1]", PORT: "5000"}, "http://[2001:db8::1]:5000"),
    ({HOST: "r.example", PROTO: "https", PREFIX: "/registry"}, "https://r.example/registry"),
    ({HOST: "r.example", PREFIX: "/a/b/"}, "http://r.example/a/b"),
    ({HOST: "r.example", PREFIX: "/"}, "http://r.example"),
    ({PREFIX: "/registry"}, "/registry"),
    ({HOST: "first.example, r.example", PROTO: "http, https"}, "https://r.example"),
    # Two trusted proxies: the first of what they have added.
    ({FOR: "192.0.2.7, 127.0.0.1", HOST: "r.example, inner", PROTO: "https, http", PORT: "8443, 80"}, "https://r.example:8443"),
    ({FOR: "192.0.2.7, 127.0.0.1", HOST: "evil.example, r.example, inner", PROTO: "http, https, http"}, "https://r.example"),
    ({FORWARDED_BY: "for=192.0.2.7;host=r.example;proto=https"}, "https://r.example"),
    ({FORWARDED_BY: 'for="[2001:db8::1]:4";host="r.example:8443";proto=https, for=127.0.0.1;host=inner'}, "https://r.example:8443"),
    ({FORWARDED_BY: "host=evil.example", FOR: "192.0.2.7"}, ""),
    ({FORWARDED_BY: 'for=x;host="evil.example/y"'}, ""),
    # What is no host, scheme or prefix is not repeated.
    ({HOST: ""}, ""),
    ({HOST: "r.example/path"}, ""),
    ({HOST: "r.example\\@evil"}, ""),
    ({HOST: "user@r.example"}, ""),
    ({HOST: "r.example:port"}, ""),
    ({HOST: "a b"}, ""),
    ({HOST: '"><script>'}, ""),
    ({HOST: "r.example", PROTO: "javascript"}, ""),
    ({HOST: "r.example", PREFIX: "//evil.example"}, "http://r.example"),
    ({HOST: "r.example", PREFIX: "no-slash"}, "http://r.example"),
    ({PREFIX: "//evil.example"}, ""),
    ({PREFIX: "/a/../b?x"}, ""),
    ({HOST: "r.example", PORT: "x"}, "http://r.example"),
]


@pytest.mark.parametrize(("headers", "front"), FORWARDED, ids=str)
def test_behind_a_trusted_proxy(registry, headers, front):
    assert addresses(registry, headers) == {front}


@pytest.mark.parametrize("peer", ["192.0.2.1", "::2", "", "unix:", "127.0.0.2"])
def test_behind_anybody_else(registry, peer):
    assert addresses(registry, {HOST: "evil.example", PROTO: "https", PREFIX: "/x", PORT: "1"}, peer) == {""}


@pytest.mark.parametrize(
    ("trusted", "peer", "is_trusted"),
    [
        (("10.0.0.0/8",), "10.1.2.3", True),
        (("10.0.0.0/8",), "11.1.2.3", False),
        (("10.0.0.0/8",), "::ffff:10.1.2.3", True),
        (("2001:db8::/32",), "2001:db8::7", True),
        (("::1",), "127.0.0.1", False),
        ((), "127.0.0.1", False),
        (("0.0.0.0/0",), "192.0.2.1", True),
    ],
)
def test_who_is_trusted_is_configured(make_app, trusted, peer, is_trusted):
    registry = Registry(make_app(server={"trusted_proxies": trusted}).test_client())
    assert addresses(registry, {HOST: "r.example"}, peer) == {"http://r.example" if is_trusted else ""}


# What this server sees of a request, told to whoever sends it: /api/v1/whoami.


@pytest.mark.parametrize(
    ("headers", "peer", "seen"),
    [
        ({}, "192.0.2.1", ("192.0.2.1", "http://localhost", "none")),
        ({"Host": "r.example:5000"}, "192.0.2.1", ("192.0.2.1", "http://r.example:5000", "none")),
        ({FOR: "203.0.113.9"}, "192.0.2.1", ("192.0.2.1", "http://localhost", "untrusted")),
        ({FOR: "203.0.113.9", HOST: "evil.example", PROTO: "https"}, "192.0.2.1", ("192.0.2.1", "http://localhost", "untrusted")),
        ({}, "::ffff:192.0.2.1", ("192.0.2.1", "http://localhost", "none")),
        ({FOR: "::ffff:203.0.113.9"}, "::ffff:127.0.0.1", ("203.0.113.9", "http://localhost", "trusted")),
        ({FORWARDED_BY: "for=203.0.113.9;host=r.example"}, "127.0.0.1", ("203.0.113.9", "http://r.example", "trusted")),
        ({FORWARDED_BY: "for=203.0.113.9;host=r.example"}, "192.0.2.1", ("192.0.2.1", "http://localhost", "untrusted")),
        ({FOR: "203.0.113.9"}, "127.0.0.1", ("203.0.113.9", "http://localhost", "trusted")),
        ({FOR: "198.51.100.1, 203.0.113.9"}, "127.0.0.1", ("203.0.113.9", "http://localhost", "trusted")),
        (
            {FOR: "203.0.113.9", HOST: "r.example:8443", PROTO: "https", PREFIX: "/hub"},
            "127.0.0.1",
            ("203.0.113.9", "https://r.example:8443/hub", "trusted"),
        ),
        ({FOR: "203.0.113.9", "Host": 'x"><script>'}, "127.0.0.1", ("203.0.113.9", "http://localhost:80", "trusted")),
    ],
    ids=str,
)
def test_what_is_seen_of_a_request(client, headers, peer, seen):
    answer = client.get("/api/v1/whoami", headers=headers, environ_overrides={"REMOTE_ADDR": peer})
    assert answer.json["request"] == dict(zip(("client", "url", "forwarded"), seen, strict=True))


def test_the_public_url_is_what_a_request_is_told(make_app):
    client = make_app(server={"public_url": "https://r.example/hub"}).test_client()
    assert client.get("/api/v1/whoami").json["request"]["url"] == "https://r.example/hub"
