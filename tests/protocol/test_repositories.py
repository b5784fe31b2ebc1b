"""Named repositories by protocol: each kind of address leads to one and back to itself, and rights, rules, settings and counts are its own."""

from __future__ import annotations

import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from noraflask.digest import Digest
from noraflask.formats.docker.protocol.media_types import OCI_MANIFEST
from tests.live import change
from tests.protocol.access import ALL, Authorized, Door, basic, bearer, parse_challenge, rule, words_of
from tests.protocol.oci import Registry, code, descriptor, image
from tests.protocol.raw import Files, error

HOST = "team.example.com"
TABLES = [
    {"name": "team", "format": "docker", "hosts": (HOST,), "ns": ("hub.example.com",)},
    {"name": "stage", "format": "docker"},
    {"name": "files", "format": "raw", "hosts": ("files.example.com",)},
    {"name": "drawings", "format": "raw"},
]
USERS = {"ann": "pw-a", "bob": "pw-b", "eve": "pw-e"}
SPELLINGS = ("x", "library/x", "docker.io/library/x", "index.docker.io/x", "docker.io/x", "registry-1.docker.io/library/x")


class At:
    """A client that reaches a repository by one kind of address."""

    def __init__(self, client, base_url: str = "http://localhost", **query: str) -> None:
        self.client, self.base_url, self.query = client, base_url, query

    def open(self, path, method, query_string=None, **more):
        query = {**self.query, **(query_string or {})} if not isinstance(query_string, str) else query_string
        path, _, own = path.partition("?")
        if own:
            query = "&".join([own, *(f"{key}={value}" for key, value in query.items())])
        return self.client.open(path, method=method, base_url=self.base_url, query_string=query, **more)


ADDRESSES = {
    "first segment": ("/v2/team", "http://localhost", {}),
    "repository": ("/repository/team/v2", "http://localhost", {}),
    "host": ("/v2", f"http://{HOST}", {}),
    "ns": ("/v2", "http://localhost", {"ns": "hub.example.com"}),
}
every_address = pytest.mark.parametrize("address", ADDRESSES)


@pytest.fixture
def client(make_app):
    return make_app(repositories=TABLES).test_client()


def at(client, address: str) -> Registry:
    mount, base_url, query = ADDRESSES[address]
    return Registry(At(client, base_url, **query), mount)


def rows(client, **more):
    """By name and labels, what /metrics says."""
    families = text_string_to_metric_families(client.get("/metrics", **more).text)
    return {(sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples}


# Addresses.


@every_address
def test_an_image_goes_in_and_out_at_every_address(client, address):
    registry, by_path = at(client, address), Registry(client, "/v2/team")
    assert registry.status("", "GET") == 200
    location = registry.begin("app")
    for chunk in (b"one ", b"two"):
        assert location.startswith(f"{registry.mount}/app/blobs/uploads/")
        answer = registry.ask("PATCH", location, data=chunk, content_type="application/octet-stream")
        assert answer.status_code == 202
        location = answer.headers["Location"]
    assert registry.ask("GET", location).headers["Location"] == location
    digest = Digest.of(b"one two")
    done = registry.ask("PUT", location, query_string={"digest": str(digest)})
    assert (done.status_code, done.headers["Location"]) == (201, f"{registry.mount}/app/blobs/{digest}")
    assert registry.ask("GET", done.headers["Location"]).data == b"one two"
    registry.push_blob("app", b"{}")
    body = image(layers=(b"one two",))
    done = registry.push("app", "v1", body)
    assert (done.status_code, done.headers["Location"]) == (201, f"{registry.mount}/app/manifests/{Digest.of(body)}")
    assert registry.ask("GET", done.headers["Location"]).data == body
    assert registry.ask("HEAD", "app/manifests/v1").headers["Docker-Content-Digest"] == str(Digest.of(body))
    assert by_path.tags("app") == ["v1"]
    assert at(client, "repository").ask("GET", "app/manifests/v1").data == body
    assert Registry(client).status("app/manifests/v1") == 404
    assert registry.ask("DELETE", "app/manifests/v1").status_code == 202
    assert by_path.tags("app") == []


@every_address
def test_links_lead_back_to_the_address(client, address):
    registry = at(client, address)
    subject = registry.push_image("app", "t0")
    for number in range(1, 5):
        registry.push_image("app", f"t{number}")
        registry.push_image(f"app{number}", "v1")
        body = image(layers=(), subject=descriptor(subject, OCI_MANIFEST), annotations={"number": str(number)})
        assert registry.push("app", Digest.of(body), body).status_code == 201
    for path, member, count in (("app/tags/list", "tags", 5), ("_catalog", "repositories", 5), (f"app/referrers/{subject}", "manifests", 4)):
        answer = registry.ask("GET", path, query_string={"n": "2"})
        assert answer.headers["Link"].startswith(f"<{registry.mount}/{path}?"), "behind another address are another repository's entries"
        assert len(registry.follow(f"{registry.mount}/{path}?n=2", member)) == count


@every_address
def test_the_list_of_tags_says_the_name_that_the_client_knows(client, address):
    registry = at(client, address)
    registry.push_image("app", "v1")
    known = "team/app" if address == "first segment" else "app"
    assert registry.ask("GET", "app/tags/list").json == {"name": known, "tags": ["v1"]}


@pytest.mark.parametrize("mount", ["/repository/files", "/raw"])
def test_files_go_in_and_out_at_every_address(client, mount):
    files = Files(At(client, "http://files.example.com" if mount == "/raw" else "http://localhost"), mount)
    files.store("a/b.txt", b"one")
    assert files.get("a/b.txt").data == b"one"
    assert Files(client, "/repository/files").get("a/b.txt").data == b"one"
    assert Files(client).get("a/b.txt").status_code == 404
    assert [files.part("big", part, first, 10).status_code for part, first in ((b"12345", 0), (b"67890", 5))] == [202, 200]
    for number in range(4):
        files.store(f"many/{number}")
    page = files.get("many/?n=2", accept="application/json")
    assert page.headers["Link"] == f'<{mount}/many/?n=2&last=1>; rel="next"'
    following = files.get(page.headers["Link"].partition(">")[0][1:], accept="application/json")
    assert [entry["name"] for entry in following.json["files"]] == ["2", "3"]
    assert files.delete("a/b.txt").status_code == 204
    assert Files(client, "/repository/files").get("a/b.txt").status_code == 404


def test_default_repositories_have_a_long_address_too(client):
    Registry(client, "/repository/docker/v2").push_image("app", "v1")
    assert Registry(client).tags("app") == ["v1"]
    Files(client, "/repository/raw").store("x")
    assert Files(client).get("x").status_code == 200


@pytest.mark.parametrize("path", ["/repository/nobody/v2/", "/repository/nobody/x", "/repository/", "/repository", "/repository/team/app/tags/list"])
def test_what_is_no_repository_is_404(client, path):
    assert client.get(path).status_code == 404


BAD_PATHS = ["x//tags/list", "x/tags/list/", "x%2fy/tags/list", "x/../tags/list", "./x/tags/list", "/x/tags/list"]


@pytest.mark.parametrize("mount", ["/v2/team", "/repository/team/v2"])
@pytest.mark.parametrize("path", BAD_PATHS)
def test_an_address_has_one_spelling(make_app, mount, path):
    client = make_app(repositories=TABLES, metrics={"enabled": True}).test_client()
    raw = f"{mount}/{path}"
    answer = client.open(raw, method="GET", environ_overrides={"RAW_URI": raw, "PATH_INFO": raw.replace("%2f", "/")}, buffered=True)
    assert code(answer)[0] == 404
    assert rows(client)["nora_http_requests_total", ("method", "GET"), ("registry", "team"), ("status", "404")] == 1


def test_one_spelling_for_files_as_well(make_app):
    client = make_app(repositories=TABLES, metrics={"enabled": True}).test_client()
    Files(client, "/repository/files").store("a/b")
    for raw in ("/repository/files/a//b", "/repository/files/a/../a/b", "/repository/files/a%2fb"):
        answer = client.open(raw, method="GET", environ_overrides={"RAW_URI": raw, "PATH_INFO": raw.replace("%2f", "/")}, buffered=True)
        assert error(answer)[0] == 404
    assert rows(client)["nora_http_requests_total", ("method", "GET"), ("registry", "files"), ("status", "404")] == 3


# One is not the other.


def test_nothing_of_one_is_in_another(client):
    team, stage, default = Registry(client, "/v2/team"), Registry(client, "/v2/stage"), Registry(client)
    digest = team.push_image("app", "v1")
    layer = Digest.of(b"layer")
    for other in (stage, default):
        assert [other.status(f"app/{path}") for path in ("manifests/v1", f"manifests/{digest}", f"blobs/{layer}", "tags/list")] == [404] * 4
        assert other.ask("GET", "_catalog").json == {"repositories": []}
        assert code(other.push("app", "v1", image())) == (400, "MANIFEST_BLOB_UNKNOWN"), "content that is known elsewhere is not here"
    session = team.begin("app")
    assert stage.ask("PATCH", session.replace("/v2/team/", "/v2/stage/"), data=b"x").status_code == 404
    Files(client, "/repository/files").store("plan", b"data")
    assert Files(client, "/repository/drawings").get("plan").status_code == 404


@pytest.mark.parametrize(
    ("into", "name", "source", "status"),
    [
        ("/v2/team", "copy", "team/app", 201),
        ("/v2/stage", "copy", "team/app", 201),
        ("/v2", "copy", "team/app", 201),
        ("/v2/team", "copy", "plain/app", 201),
        ("/v2/team", "copy", "app", 202),
        ("/repository/team/v2", "copy", "app", 201),
        ("/repository/team/v2", "copy", "team/app", 202),
        ("/repository/stage/v2", "copy", "app", 202),
    ],
)
def test_mounts(client, into, name, source, status):
    """`from` is a name as it is at this address."""
    digest = Registry(client, "/v2/team").push_blob("app", b"data")
    Registry(client).push_blob("plain/app", b"data")
    answer = Registry(client, into).ask("POST", f"{name}/blobs/uploads/", query_string={"mount": str(digest), "from": source})
    assert answer.status_code == status
    assert answer.headers["Location"].startswith(f"{into}/{name}/blobs/")
    assert Registry(client, into).status(f"{name}/blobs/{digest}") == (200 if status == 201 else 404)


def test_a_repository_hides_images_whose_names_begin_so(make_app):
    app = make_app(repositories=TABLES)
    live, client = app.services.live, app.test_client()
    full = live.state.repositories
    change(live, repositories=type(full)(one for one in full if one.name != "team"))
    Registry(client).push_image("team/app", "old")
    assert Registry(client).ask("GET", "/v2/team/app/tags/list").json == {"name": "team/app", "tags": ["old"]}
    change(live, repositories=full)
    assert Registry(client).status("team/app/manifests/old") == 404
    assert Registry(client, "/repository/docker/v2").status("team/app/manifests/old") == 200
    assert Registry(client).ask("GET", "_catalog").json == {"repositories": []}, "what an index shows can be had"
    assert Registry(client, "/repository/docker/v2").ask("GET", "_catalog").json == {"repositories": ["team/app"]}
    Registry(client, "/v2/team").push_image("app", "new")
    change(live, repositories=type(full)(one for one in full if one.name != "team"))
    assert Registry(client).tags("team/app") == ["old"]
    change(live, repositories=full)
    assert Registry(client, "/v2/team").tags("app") == ["new"]


# Rights.


@pytest.fixture
def guarded(make_app):
    def build(*rules, **sections) -> Door:
        return Door(make_app(repositories=TABLES, auth={"users": USERS, "admin_users": ("root",)}, access={"rules": rules}, **sections))

    return build


TEAM_ONLY = rule(ALL, users=("ann",), repositories=("team",))


@pytest.mark.parametrize(
    ("address", "realm", "scope"),
    [
        ("first segment", "http://localhost/v2/token", "repository:team/app:pull"),
        ("repository", "http://localhost/repository/team/v2/token", "repository:app:pull"),
        ("host", f"http://{HOST}/v2/token", "repository:app:pull"),
    ],
)
def test_a_bearer_token_is_for_the_repository(guarded, address, realm, scope):
    door = guarded(TEAM_ONLY, rule(ALL, users=("ann",), repositories=("stage", "docker")))
    mount, base_url, _ = ADDRESSES[address]
    for path in ("/v2/team", "/v2/stage", "/v2"):
        Registry(Authorized(door, basic("ann", "pw-a")), path).push_image("app", "v1")
    refused = door.get(f"{mount}/app/manifests/v1", base_url=base_url)
    assert refused.status_code == 401
    found = parse_challenge(refused)[1]
    assert (found["realm"], found["scope"]) == (realm, scope)
    answer = door.get(realm.removeprefix(base_url), basic("ann", "pw-a"), query_string={"scope": scope}, base_url=base_url)
    token = bearer(answer.json["token"])
    assert [door.get(f"{path}/app/manifests/v1", token).status_code for path in ("/v2/team", "/repository/team/v2", "/v2/stage", "/v2")] == [
        200,
        200,
        401,
        401,
    ]
    assert door.get("/v2/app/manifests/v1", token, base_url=f"http://{HOST}").status_code == 200


@pytest.mark.parametrize("asked", SPELLINGS)
@pytest.mark.parametrize("prefix", ["team/", ""])
def test_a_scope_in_any_spelling_is_for_one_name(guarded, asked, prefix):
    door = guarded(rule(ALL, users=("ann",), repositories=("team", "docker")))
    Registry(Authorized(door, basic("ann", "pw-a")), f"/v2/{prefix}"[:-1]).push_image("x", "v1")
    token = bearer(door.bearer_token(basic("ann", "pw-a"), f"repository:{prefix}{asked}:pull"))
    assert {door.get(f"/v2/{prefix}{spelling}/manifests/v1", token).status_code for spelling in SPELLINGS} == {200}
    assert door.get(f"/v2/{prefix}y/manifests/v1", token).status_code == 401


def test_rights_are_those_of_the_repository_at_every_address(guarded):
    door = guarded(TEAM_ONLY, rule(("pull",), users=("bob",), repositories=("team",)))
    ann, bob, eve = (basic(name, password) for name, password in USERS.items())
    Registry(Authorized(door, ann), "/v2/team").push_image("app", "v1")
    for mount, base_url, query in ADDRESSES.values():
        statuses = [door.get(f"{mount}/app/manifests/v1", who, base_url=base_url, query_string=query).status_code for who in (ann, bob, eve)]
        assert statuses == [200, 200, 403]
        assert door.post(f"{mount}/app/blobs/uploads/", bob, base_url=base_url, query_string=query).status_code == 403
    assert door.post("/v2/stage/app/blobs/uploads/", ann).status_code == 403
    assert door.post("/v2/app/blobs/uploads/", ann).status_code == 403
    assert door.ask("PUT", "/repository/files/x", ann, data=b"x").status_code == 403


def spelled(door: Door, authorization: str | None) -> set[int]:
    found = {door.get(f"/v2/team/{name}/manifests/v1", authorization).status_code for name in SPELLINGS}
    return found | {door.get(f"/repository/team/v2/{name}/manifests/v1", authorization).status_code for name in SPELLINGS}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_meets_one_answer(guarded, spelling):
    denied = rule(("pull",), users=("bob",), repositories=("team",), names=("x",), effect="deny")
    door = guarded(TEAM_ONLY, rule(("pull",), users=("bob",)), rule(("pull",), users=("eve",), repositories=("team",), names=("x",)), denied)
    Registry(Authorized(door, basic("ann", "pw-a")), "/v2/team").push_image(spelling, "v1")
    assert spelled(door, basic("ann", "pw-a")) == {200}
    assert spelled(door, basic("bob", "pw-b")) == {403}, "the deny rule"
    assert spelled(door, basic("eve", "pw-e")) == {200}, "a namespace"
    cut = {"repositories": ["team"], "names": ["x"], "actions": ["pull"]}
    made = door.post("/api/tokens", json={"username": "ann", "password": "pw-a", "scopes": [cut]}).json["token"]
    assert spelled(door, bearer(made)) == {200}
    cut["names"] = ["y"]
    made = door.post("/api/tokens", json={"username": "ann", "password": "pw-a", "scopes": [cut]}).json["token"]
    assert spelled(door, bearer(made)) == {403}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_block_rule_in_any_spelling_holds_for_all(make_app, name):
    text = f'[[block]]\nid = "B"\nformat = "docker"\nname = "{name}"\nversion = "*"\nreason = "no"\n'
    client = make_app(repositories=TABLES, curation={"mode": "enforce", "rules": text}).test_client()
    for mount in ("/v2/team", "/v2"):
        Registry(client, mount).push_image("x", "v1")
        Registry(client, mount).push_image("y", "v1")
        assert {client.get(f"{mount}/{spelling}/manifests/v1").status_code for spelling in SPELLINGS} == {403}
        assert client.get(f"{mount}/y/manifests/v1").status_code == 200


def test_a_rule_of_one_repository_holds_there_alone(make_app):
    text = '[[block]]\nid = "B"\nformat = "docker"\nname = "x"\nversion = "*"\nrepository = "team"\nreason = "no"\n'
    client = make_app(repositories=TABLES, curation={"mode": "enforce", "rules": text}).test_client()
    for mount in ("/v2/team", "/v2/stage", "/v2"):
        Registry(client, mount).push_image("x", "v1")
    for mount, base_url, query in ADDRESSES.values():
        assert client.get(f"{mount}/x/manifests/v1", base_url=base_url, query_string=query).status_code == 403
    assert [client.get(f"{mount}/x/manifests/v1").status_code for mount in ("/v2/stage", "/v2", "/repository/docker/v2")] == [200] * 3


# Who says its name.


def test_metrics_and_audit_say_the_repository(guarded):
    door = guarded(TEAM_ONLY, rule(ALL, users=("ann",), repositories=("files",)), metrics={"enabled": True}, audit={"mode": "file"})
    ann = Authorized(door, basic("ann", "pw-a"))
    for address in ("first segment", "repository"):
        Registry(ann, ADDRESSES[address][0]).push_image("app", "v1")
        assert ann.open(f"{ADDRESSES[address][0]}/app/manifests/v1", method="GET", buffered=True).status_code == 200
        assert door.get(f"{ADDRESSES[address][0]}/app/manifests/v1", basic("bob", "pw-b"), buffered=True).status_code == 403
    assert ann.open("/repository/files/x", method="PUT", data=b"x", buffered=True).status_code == 200
    assert door.get("/repository/files/x", basic("bob", "pw-b"), buffered=True).status_code == 403
    lines = [line for line in door.audit() if line["action"] in ("push", "denied")]
    assert {(line["action"], line["registry"]) for line in lines} == {(action, name) for action in ("push", "denied") for name in ("team", "files")}
    told = rows(door, authorization=bearer(door.api_token("root", "admin", service=True)))
    assert not {key for key, value in told.items() if value and {("registry", "docker"), ("registry", "raw")} & set(key[1:])}
    assert told["nora_downloads_total", ("registry", "team")] == 2
    assert told["nora_uploads_total", ("registry", "files")] == 1
    assert told["nora_access_denied_total", ("action", "pull"), ("registry", "team"), ("status", "403")] == 2


# What it sets itself.


def test_settings_of_its_own(make_app):
    own = {"max_file_size": 4, "overwrite": "always", "listing": False, "cache_control": "max-age=60"}
    client = make_app(repositories=[{"name": "own", "format": "raw", **own}, {"name": "plain", "format": "raw"}]).test_client()
    own_files, plain = Files(client, "/repository/own"), Files(client, "/repository/plain")
    assert error(own_files.put("a", b"12345"))[0] == 413
    plain.store("a", b"12345")
    for files, status in ((own_files, 200), (plain, 409)):
        files.store("b", b"1")
        assert files.put("b", b"2").status_code == status
    assert own_files.get("b").headers["Cache-Control"] == "max-age=60"
    assert plain.get("b").headers["Cache-Control"] == "no-cache"
    assert own_files.get("").status_code == 404
    assert plain.get("").status_code == 200
    small = make_app(repositories=[{"name": "small", "format": "docker", "max_upload_session_size_mb": 1}]).test_client()
    digest = Digest.of(data := bytes((1 << 20) + 1))
    for mount, status in (("/v2/small", 413), ("/v2", 201)):
        assert small.post(f"{mount}/a/blobs/uploads/", query_string={"digest": str(digest)}, data=data).status_code == status


# The list.


def test_the_list_without_logins_holds_all(client):
    listed = client.get("/api/v1/repositories").json["repositories"]
    assert [one["name"] for one in listed] == ["docker", "raw", "team", "stage", "files", "drawings"]
    team = next(one for one in listed if one["name"] == "team")
    assert team["addresses"] == ["http://localhost/v2/team/", "http://localhost/repository/team/v2/"]
    assert (team["format"], team["kind"], team["hosts"], team["ns"]) == ("docker", "hosted", [HOST], ["hub.example.com"])
    assert client.get("/api/v1/repositories/team").json == team
    assert client.get("/api/v1/repositories/nobody").status_code == 404


def test_the_list_holds_what_the_caller_may_pull(guarded):
    door = guarded(TEAM_ONLY, rule(("pull",), users=("ann",), repositories=("files",)))
    assert door.get("/api/v1/repositories").status_code == 401
    names = {
        user: [one["name"] for one in door.get("/api/v1/repositories", basic(user, password)).json["repositories"]]
        for user, password in USERS.items()
    }
    assert names == {"ann": ["team", "files"], "bob": [], "eve": []}
    hidden, unknown = (door.get(f"/api/v1/repositories/{name}", basic("bob", "pw-b")) for name in ("team", "nobody"))
    assert (hidden.status_code, words_of(hidden).replace("team", "nobody")) == (unknown.status_code, words_of(unknown)) == (404, words_of(unknown))
    assert json.loads(door.get("/api/v1/repositories/team", basic("ann", "pw-a")).data)["name"] == "team"
