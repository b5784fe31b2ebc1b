"""What pages of other sites may do in a browser: nothing but what the configuration lets them, and nothing by a name that only seems to be ours."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.protocol.access import basic
from tests.protocol.oci import Registry

UI, EVIL = "https://ui.example.com", "https://evil.example"
ALICE = basic("alice", "pw")


@pytest.fixture
def shared(make_app):
    """An app with a login, for the pages of one site."""
    return make_app(cors={"allowed_origins": (UI,)}, auth={"users": {"alice": "pw"}}).test_client()


def names(answer, header):
    return {name.strip().lower() for name in answer.headers.get(header, "").split(",")}


def vary(answer):
    return {name.strip() for value in answer.headers.getlist("Vary") for name in value.split(",")}


def preflight(client, path, method="GET", origin=UI, asked="authorization", **more):
    headers = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": asked, **more}
    return client.options(path, headers=headers)


def cors_headers(answer):
    return {name for name, _ in answer.headers if name.lower().startswith("access-control-")}


# Reading.

PATHS = ["/v2/", "/v2/_catalog", "/v2/a/manifests/1", "/raw/", "/raw/a", "/repository/docker/v2/", "/api/v1/whoami", "/", "/nowhere", "/health"]


@pytest.mark.parametrize("path", PATHS)
def test_a_preflight_is_answered_without_a_login(shared, path):
    answer = preflight(shared, path, "DELETE")
    assert (answer.status_code, answer.data) == (204, b"")
    assert answer.headers["Access-Control-Allow-Origin"] == UI
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert {"get", "head", "delete", "put", "post", "patch"} == names(answer, "Access-Control-Allow-Methods")
    assert {"authorization", "accept", "cache-control", "content-type"} <= names(answer, "Access-Control-Allow-Headers")
    assert not any(name.startswith(("x-forwarded", "x-real", "x-nora", "forwarded")) for name in names(answer, "Access-Control-Allow-Headers"))
    assert int(answer.headers["Access-Control-Max-Age"]) > 0
    assert "Origin" in vary(answer)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("header", [None, ALICE])
def test_an_answer_can_be_read_by_the_page_that_is_let_in(shared, path, header):
    """Also one that asks for a login, and one that says no: a page must be able to show it."""
    answer = shared.get(path, headers={"Origin": UI, **({"Authorization": header} if header else {})})
    assert answer.headers["Access-Control-Allow-Origin"] == UI
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert {"www-authenticate", "link", "etag", "location"} <= names(answer, "Access-Control-Expose-Headers")
    assert ("docker-content-digest" in names(answer, "Access-Control-Expose-Headers")) == ("/v2/" in path)
    assert "Origin" in vary(answer)


@pytest.mark.parametrize("origin", [EVIL, "null", "http://ui.example.com", f"{UI}:8443", f"{UI}.evil.example", "HTTPS://UI.EXAMPLE.COM", "", "*"])
@pytest.mark.parametrize("path", PATHS)
def test_a_page_of_another_site_reads_nothing(shared, origin, path):
    answers = [shared.get(path, headers={"Origin": origin}), preflight(shared, path, origin=origin)]
    assert [cors_headers(answer) for answer in answers] == [set(), set()]
    assert [vary(answer) >= {"Origin"} for answer in answers] == [True, True], "a cache must not give it to the other page"
    assert answers[1].status_code in (404, 405)


def test_who_is_no_browser_sees_that_answers_differ(shared):
    answer = shared.get("/v2/", headers={"Authorization": ALICE})
    assert (answer.status_code, cors_headers(answer), vary(answer)) == (200, set(), {"Origin"})


@pytest.mark.parametrize("path", PATHS)
def test_without_configuration_there_is_no_cors(client, path):
    answers = [client.get(path, headers={"Origin": UI}), preflight(client, path)]
    assert [cors_headers(answer) for answer in answers] == [set(), set()]
    assert "Origin" not in vary(answers[0])


def test_pages_of_any_site_may_only_read(make_app):
    client = make_app(cors={"allowed_origins": ("*",)}).test_client()
    for origin in (EVIL, "null"):
        for answer in (client.get("/v2/", headers={"Origin": origin}), preflight(client, "/v2/", origin=origin)):
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            assert "Access-Control-Allow-Credentials" not in answer.headers
        assert names(preflight(client, "/v2/", "DELETE", origin), "Access-Control-Allow-Methods") == {"get", "head"}
        answer = client.put("/raw/a", data=b"x", headers={"Origin": origin})
        assert (answer.status_code, cors_headers(answer)) == (403, set())


def test_a_named_site_beside_all_others(make_app):
    client = make_app(cors={"allowed_origins": ("*", UI)}).test_client()
    assert client.get("/v2/", headers={"Origin": UI}).headers["Access-Control-Allow-Origin"] == UI
    answer = client.get("/v2/", headers={"Origin": EVIL})
    assert (answer.headers["Access-Control-Allow-Origin"], vary(answer)) == ("*", {"Origin"})
    assert client.put("/raw/a", data=b"x", headers={"Origin": UI}).status_code == 200


def test_a_registry_browser_lists_shows_and_deletes(make_app):
    """As joxit/docker-registry-ui does it: ask, log in, read digest and config of an image, delete it."""
    client = make_app(cors={"allowed_origins": (UI,)}, auth={"users": {"alice": "pw"}}).test_client()
    uploader = client.application.test_client()
    uploader.environ_base["HTTP_AUTHORIZATION"] = ALICE
    Registry(uploader).push_image("team/app", "1")
    page = {"Origin": UI, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
    challenge = client.get("/v2/_catalog?n=100", headers=page)
    assert challenge.status_code == 401
    assert challenge.headers["WWW-Authenticate"].startswith("Bearer ")
    got = client.get("/v2/token?service=x&scope=repository:team/app:pull,delete", headers={**page, "Authorization": ALICE})
    assert got.headers["Access-Control-Allow-Origin"] == UI
    own = {**page, "Authorization": f"Bearer {got.json['token']}"}
    assert client.get("/v2/team/app/tags/list", headers=own).json["tags"] == ["1"]
    manifest = client.get("/v2/team/app/manifests/1", headers={**own, "Accept": "application/vnd.oci.image.manifest.v1+json"})
    assert "docker-content-digest" in names(manifest, "Access-Control-Expose-Headers")
    assert "delete" in names(preflight(client, "/v2/team/app/manifests/1", "DELETE"), "Access-Control-Allow-Methods")
    answer = client.delete(f"/v2/team/app/manifests/{manifest.headers['Docker-Content-Digest']}", headers=own)
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (202, UI)


def test_preflights_count_and_a_refusal_can_be_read(make_app):
    limits = {"enabled": True, "upload_rps": 1, "upload_burst": 3, "general_rps": 1, "general_burst": 3}
    client = make_app(rate_limit=limits, cors={"allowed_origins": (UI,)}).test_client()
    answers = [preflight(client, "/v2/") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [204, 204, 204, 429]
    assert answers[3].headers["Access-Control-Allow-Origin"] == UI
    assert "retry-after" in names(client.get("/v2/", headers={"Origin": UI}), "Access-Control-Expose-Headers")


# Changing.

CHANGES = [
    ("POST", "/v2/a/blobs/uploads/"),
    ("PUT", "/v2/a/manifests/1"),
    ("DELETE", "/v2/a/manifests/1"),
    ("PATCH", "/v2/a/blobs/uploads/x"),
    ("PUT", "/raw/a"),
    ("DELETE", "/raw/a"),
    ("PUT", "/repository/raw/a"),
    ("POST", "/v2/token"),
    ("POST", "/api/tokens"),
    ("POST", "/api/v1/admin/reload"),
    ("POST", "/api/v1/token/exchange"),
    ("POST", "/nowhere"),
]
FOREIGN = [
    {"Origin": EVIL},
    {"Origin": "null"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "http://localhost:8080"},
    {"Origin": "file://"},
    {"Origin": "x"},
    {"Origin": ""},
    {"Origin": "http://"},
    {"Origin": f"http://localhost, {EVIL}"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
    {"Sec-Fetch-Site": "nonsense"},
]


@pytest.mark.parametrize(("method", "path"), CHANGES)
@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_page_of_another_site_changes_nothing(client, method, path, headers):
    answer = client.open(path, method=method, headers=headers, data=b"x")
    assert answer.status_code == 403
    assert "another site" in answer.text
    if path.startswith("/v2"):
        assert json.loads(answer.data)["errors"][0]["code"] == "DENIED"
    assert client.get("/raw/a").status_code == 404


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_reading_is_as_before(client, headers):
    client.put("/raw/a", data=b"x")
    assert [client.open("/raw/a", method=method, headers=headers).status_code for method in ("GET", "HEAD")] == [200, 200]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "null"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://behind.a.proxy"},
        {"Origin": "http://localhost"},
        {"Origin": "https://localhost"},
        {"Origin": "https://localhost:443"},
        {"Origin": "http://R.example:5000", "Host": "r.example:5000"},
        {"Origin": "https://r.example", "X-Forwarded-Host": "r.example", "X-Forwarded-Proto": "https"},
        {"Origin": "https://hub.example.com"},
        {"Origin": UI, "Sec-Fetch-Site": "cross-site"},
        {"Origin": UI},
        {"Sec-Fetch-Mode": "cors", "User-Agent": "node"},
    ],
    ids=str,
)
def test_own_pages_those_let_in_and_clients_change_what_they_may(make_app, headers):
    client = make_app(
        server={"public_url": "https://hub.example.com"} if "hub" in str(headers) else {}, cors={"allowed_origins": (UI,)}
    ).test_client()
    assert client.put("/raw/a", data=b"x", headers=headers, environ_overrides={"REMOTE_ADDR": "127.0.0.1"}).status_code == 200


def test_a_forwarded_host_is_believed_of_proxies_alone(client):
    headers = {"Origin": EVIL, "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    assert client.put("/raw/a", data=b"x", headers=headers, environ_overrides={"REMOTE_ADDR": "192.0.2.1"}).status_code == 403


def test_a_refused_request_is_not_asked_to_log_in(shared):
    answer = shared.put("/raw/a", data=b"x", headers={"Origin": EVIL})
    assert (answer.status_code, "WWW-Authenticate" in answer.headers) == (403, False)


# The name by which a server on a loopback address is asked.

PORT = "4000"
DIRECTLY = {"SERVER_NAME": "127.0.0.1", "SERVER_PORT": PORT, "REMOTE_ADDR": "127.0.0.1"}
NAMES = [
    *(
        "localhost",
        "localhost:4000",
        "LOCALHOST:1",
        "localhost.",
        "app.localhost:4000",
        "127.0.0.1:4000",
        "127.1.2.3",
        "[::1]:4000",
        "[::ffff:127.0.0.1]",
    ),
    *("nora", "nora:4000", "x", "upstream_1:80"),
    *("host.docker.internal:4000", "host.containers.internal:4000"),  # how a container calls the machine that it runs on
]
"""By which nobody from outside can lead a browser here."""
STRANGE = [
    *(
        "evil.example",
        "evil.example:4000",
        "localhost.evil.example:4000",
        "127.0.0.1.evil.example",
        "internal.evil.example",
        "10.0.0.5:4000",
        "0.0.0.0:4000",
        "[2001:db8::1]",
    ),
    *(
        "a b",
        "localhost:4000:1",
        "[::1",
        "evil.example:port",
        ".",
        "x" * 9000,
        "x@evil.example",
        "127.0.0.1, evil.example",
        "evil%2eexample",
        "é.example",
    ),
]


def ask(client, path="/v2/", method="GET", headers=None, **environ):
    return client.open(path, method=method, headers=headers, environ_overrides={**DIRECTLY, **environ})


@pytest.mark.parametrize("server", ["127.0.0.1", "::1", "127.0.0.2", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("name", NAMES)
def test_own_names(client, name, server):
    assert ask(client, headers={"Host": name}, SERVER_NAME=server).status_code == 200


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("path", ["/v2/", "/raw/", "/api/v1/repositories", "/health", "/metrics", "/nowhere", "/"])
def test_a_strange_name_is_refused_whatever_is_asked(client, name, path):
    for method in ("GET", "HEAD", "POST", "OPTIONS"):
        answer = ask(client, path, method, HTTP_HOST=name)
        assert answer.status_code == 403
    assert "server.allowed_hosts" in ask(client, path, HTTP_HOST=name).text


@pytest.mark.parametrize("server", ["0.0.0.0", "::", "10.0.0.5", "192.0.2.1", "/run/nora.sock"])
def test_elsewhere_than_on_a_loopback_address_any_name_will_do(client, server):
    assert ask(client, headers={"Host": "evil.example:4000"}, SERVER_NAME=server).status_code == 200


@pytest.mark.parametrize(
    ("sections", "name"),
    [
        ({"server": {"public_url": "https://Hub.example.com:8443/x"}}, "hub.example.com:8443"),
        ({"server": {"public_url": "https://hub.example.com"}}, "hub.example.com:4000"),
        ({"server": {"public_url": "http://[2001:db8::1]:80"}}, "[2001:db8::1]:4000"),
        ({"server": {"allowed_hosts": ("build.example.com",)}}, "build.example.com:4000"),
        ({"server": {"allowed_hosts": ("build.example.com:4000",)}}, "build.example.com:4000"),
        ({"server": {"allowed_hosts": ("*",)}}, "any.example:4000"),
        ({"repositories": [{"name": "team", "format": "raw", "hosts": ("team.example.com:4000",)}]}, "Team.example.com:4000"),
    ],
)
def test_names_of_the_configuration(make_app, sections, name):
    client = make_app(**sections).test_client()
    assert ask(client, headers={"Host": name}).status_code == 200
    if "*" not in str(sections):
        assert ask(client, headers={"Host": "evil.example:4000"}).status_code == 403


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded", "X-Real-IP"])
def test_through_a_proxy_of_this_machine(client, header):
    """`proxy_set_header Host $host`, and any header by which a proxy shows itself. A client's port is the proxy's."""
    for name in ("r.example", "r.example:8443", "r.example:443"):
        assert ask(client, headers={"Host": name, header: "192.0.2.7"}).status_code == 200
        assert ask(client, headers={"Host": name, header: "192.0.2.7"}, REMOTE_ADDR="192.0.2.1").status_code == 403, "not a trusted one"


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Forwarded-Host", "Forwarded"])
def test_a_page_that_passes_for_a_proxy(client, header):
    """By DNS rebinding it is of one origin with this server and may set such headers, but not the port, which its browser writes into Host."""
    assert ask(client, headers={"Host": "evil.example:4000", header: "localhost"}).status_code == 403


def test_http_1_0_needs_no_name(client):
    assert ask(client, HTTP_HOST="").status_code == 200


def test_a_reload_takes_over_both_settings(app, client):
    assert client.put("/raw/a", data=b"x", headers={"Origin": UI}).status_code == 403
    live = app.services.live
    config = live.state.config
    changed = replace(config, cors=replace(config.cors, allowed_origins=(UI,)), server=replace(config.server, allowed_hosts=("build.example.com",)))
    live.state = replace(live.state, config=changed)
    assert client.put("/raw/a", data=b"x", headers={"Origin": UI}).status_code == 200
    assert ask(client, headers={"Host": "build.example.com:4000"}).status_code == 200
