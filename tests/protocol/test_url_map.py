"""Every route carries its guard; a repository is one mounting of a format, and a second one lives apart."""

from __future__ import annotations

import itertools

import pytest
from flask import Flask
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter, RequestRedirect, Rule

from noraflask.digest import Digest
from noraflask.formats import FORMATS
from noraflask.services.auth.principal import Action, Principal, Source
from noraflask.services.auth.rules import Access, Decision, Policy
from noraflask.services.bounded_memory import BoundedMemory
from noraflask.storage.memory import MemoryStorage
from noraflask.web.context import PRINCIPAL
from noraflask.web.flask_app import RememberedMatches
from noraflask.web.shapes import looked_at
from noraflask.web.targets import INNER
from tests.live import change
from tests.protocol.oci import Registry, code
from tests.storage import keys_in


def test_every_view_declares_its_access(app):
    views = {rule.endpoint: getattr(app.view_functions[rule.endpoint], "access", None) for rule in app.url_map.iter_rules()}
    assert len(views) > 10
    assert [endpoint for endpoint, declared in views.items() if not isinstance(declared, Action)] == []


READS = {"GET", "HEAD"}
FITTING = {
    Action.PUBLIC: {"ops.", "prometheus_metrics", "auth.", "setup.", "docker.get_token", "docker.post_token"},
    Action.LOGIN: {"docker.ping", "curation.", "repositories."},
    Action.ADMIN: {"auth.", "curation."},
}
"""Who may declare what no format needs for its artifacts: beginnings of endpoints."""
LISTS = {"docker.catalog", "raw.list_top", "raw.list_folder"}
"""What lists names has none in its address: it shows those that may be pulled."""


def test_what_each_view_declares_fits_its_methods(app):
    for rule in app.url_map.iter_rules():
        declared = app.view_functions[rule.endpoint].access
        if declared in FITTING:
            assert rule.endpoint.startswith(tuple(FITTING[declared])), rule
            continue
        assert "name" in rule.arguments or rule.endpoint in LISTS, rule
        assert declared in (Action.PULL, Action.PUSH, Action.DELETE), rule
        if declared is Action.PULL:
            assert rule.methods <= READS, rule
        if declared is Action.DELETE:
            assert rule.methods == {"DELETE"}, rule


ALICE = {PRINCIPAL: Principal("alice", Source.PASSWORD)}


def guard(registry, monkeypatch, decide):
    """Logins are on from now on, and `decide` stands in for all rules."""
    change(registry.client.application.services.live, access=Access(Policy(enabled=True, default_role="none")))
    monkeypatch.setattr(Access, "decide", lambda self, *question: decide(*question))


@pytest.mark.parametrize(
    ("method", "path", "action", "name"),
    [
        ("GET", "/v2/_catalog", "pull", None),
        ("GET", "/v2/team/app/tags/list", "pull", "team/app"),
        ("GET", f"/v2/team/app/referrers/{Digest.of(b'')}", "pull", "team/app"),
        ("HEAD", f"/v2/team/app/blobs/{Digest.of(b'')}", "pull", "team/app"),
        ("DELETE", f"/v2/team/app/blobs/{Digest.of(b'')}", "delete", "team/app"),
        ("POST", "/v2/team/app/blobs/uploads/", "push", "team/app"),
        ("GET", "/v2/team/app/blobs/uploads/x", "push", "team/app"),
        ("PATCH", "/v2/team/app/blobs/uploads/x", "push", "team/app"),
        ("PUT", "/v2/team/app/blobs/uploads/x", "push", "team/app"),
        ("DELETE", "/v2/team/app/blobs/uploads/x", "push", "team/app"),
        ("GET", "/v2/team/app/manifests/1", "pull", "team/app"),
        ("PUT", "/v2/team/app/manifests/1", "push", "team/app"),
        ("DELETE", "/v2/team/app/manifests/1", "delete", "team/app"),
    ],
)
def test_the_guard_asks_and_its_no_is_an_answer(registry, monkeypatch, method, path, action, name):
    asked = []

    def nobody(principal, action, repository, name):
        asked.append((principal.name, action.value, repository, name))
        return Decision(False, "")

    guard(registry, monkeypatch, nobody)
    answer = registry.ask(method, path, data=b"x" if method in ("PUT", "PATCH") else None, environ_overrides=ALICE)
    assert answer.status_code == 403
    assert asked == [("alice", action, "docker", name)]
    if method != "HEAD":
        assert code(answer) == (403, "DENIED")


@pytest.mark.parametrize("query", ["mount={}&from=secret", "mount={}"])
def test_a_mount_is_only_from_where_one_may_read(registry, monkeypatch, query):
    digest = registry.push_blob("secret", b"x")
    guard(registry, monkeypatch, lambda principal, action, repository, name: Decision(name == "app", ""))
    answer = registry.ask("POST", f"app/blobs/uploads/?{query.format(digest)}", environ_overrides=ALICE)
    assert answer.status_code == 202
    assert registry.ask("HEAD", f"app/blobs/{digest}", environ_overrides=ALICE).status_code == 404


def test_the_catalog_shows_what_one_may_read(registry, monkeypatch):
    for name in ("app", "secret"):
        registry.push_image(name, "1")
    guard(registry, monkeypatch, lambda principal, action, repository, name: Decision(name != "secret", ""))
    assert registry.ask("GET", "_catalog", environ_overrides=ALICE).json == {"repositories": ["app"]}


# Repositories.


@pytest.mark.parametrize("format", FORMATS, ids=[format.id for format in FORMATS])
def test_each_format_is_registered_once_below_its_inner_mount(app, format):
    rules = [rule.rule for rule in app.url_map.iter_rules() if rule.endpoint.startswith(f"{format.id}.")]
    assert rules
    assert all(rule.startswith(f"{INNER}{format.id}/") for rule in rules)
    assert app.blueprints[format.id] is format.routes


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def two(make_app, storage) -> Flask:
    return make_app(storage, repositories=[{"name": "second", "format": "docker"}])


@pytest.mark.parametrize("mount", ["/v2/second", "/repository/second/v2"])
def test_a_second_repository_works_and_lives_apart(two, storage, mount):
    first, second = Registry(two.test_client()), Registry(two.test_client(), mount)
    location = second.begin("app")
    assert location.startswith(f"{mount}/app/blobs/uploads/")
    assert code(first.ask("GET", f"/v2{location.removeprefix(mount)}")) == (404, "BLOB_UPLOAD_UNKNOWN"), "a session belongs to one repository"
    second.push_image("app", "1", layers=(b"only here",))
    first.push_image("app", "2")
    assert (first.tags("app"), second.tags("app")) == (["2"], ["1"])
    assert first.status(f"app/blobs/{Digest.of(b'only here')}") == 404
    assert second.ask("GET", f"app/blobs/{Digest.of(b'only here')}").data == b"only here"
    assert first.ask("GET", "_catalog").json["repositories"][0] == "app"
    assert second.ask("GET", "_catalog").json == {"repositories": ["app"]}
    fronts = {key.partition("/")[0] for key in keys_in(storage)}
    assert fronts == {"blobs", "docker", "second"}
    second.ask("DELETE", "app/manifests/1")
    assert (first.tags("app"), second.tags("app")) == (["2"], [])


@pytest.mark.parametrize("mount", ["/v2/second", "/repository/second/v2"])
def test_errors_and_links_of_a_second_repository(two, mount):
    second = Registry(two.test_client(), mount)
    assert code(second.ask("GET", "nothing")) == (404, "UNSUPPORTED")
    assert code(second.ask("POST", "app/tags/list")) == (405, "UNSUPPORTED")
    second.push_image("app", "1")
    second.push_image("app", "2")
    assert second.follow("app/tags/list?n=1", "tags") == ["1", "2"]
    assert second.client.get("/named/x").mimetype == "text/plain"


def test_an_address_asked_for_again_finds_the_same_route(app, monkeypatch):
    monkeypatch.setattr(app, "_matches", BoundedMemory(3 * 1200))
    client = app.test_client()
    for _ in range(3):
        assert client.get("/v2/").status_code == 200
        assert client.post("/v2/").status_code == 405
        assert client.get("/v2/a/tags/list").json["errors"][0]["detail"] == {"name": "a"}
        assert client.get("/v2/b/tags/list").json["errors"][0]["detail"] == {"name": "b"}
        assert client.get("/v2/b/nothing").status_code == 404
        assert len(app._matches) <= 3
    app._matches.clear()
    client.get("/v2/" + "a" * 600 + "/tags/list")
    assert len(app._matches) == 0, "long addresses are not kept"
    for number in range(20):
        for name in (f"A{number}", f"-{number}", f"{number}:5000/a", f"a__b__-{number}", "a" * 300 + f"{number}"):
            client.get(f"/v2/{name}/tags/list")
            client.get(f"/v2/{name}/manifests/1")
        client.get(f"/raw/a%00{number}")
    assert len(app._matches) == 0, "nor what no name can be"


BEGINS = (
    "",
    "/v2",
    "/v2/app",
    "/v2/a/b",
    "/v2/app/tags",
    "/v2/app/blobs",
    "/v2/app/blobs/uploads",
    "/v2/app/x",
    "/v2/app/manifests",
    "/raw",
    "/raw/a",
    "/a",
    "/a/-",
    "/x",
    "/x/y",
)
LASTS = ("app", "a", "c", "blobs", "uploads", "list", "tags", "_catalog", "token", "x.tgz", ".tgz", "-", "1", "", " ", "a\nb", "\n", "é", "%")
MORE_RULES = (
    "/v2/<path:name>/tags/<tag>",
    "/v2/<path:name>/x/a",
    "/<a>/<b>.tgz",
    "/<a>/-/<b>",
    "/v2/<int:number>",
    "/v2/app/<any(a, c):word>",
    "/<a>/<b>/",
    "/x/<path:c>",
    "/x/<path:c>",
    "/<a>/<b>",
)


@pytest.mark.parametrize("begin", BEGINS)
def test_an_address_of_a_known_shape_finds_the_route_that_it_would_have_found_alone(app, begin):
    """Whatever was asked for before it, on the routes of the formats and on others that name a last segment, look into it or convert it."""
    for number, rule in enumerate(MORE_RULES):
        app.url_map.add(Rule(rule, endpoint=f"more{number}", methods=["GET", "PUT"]))
    pattern = looked_at(app.url_map)

    def found(adapter: MapAdapter, how: str) -> object:
        try:
            return getattr(adapter, how)(return_rule=True)
        except (HTTPException, RequestRedirect) as problem:
            return type(problem)

    for method, *lasts in itertools.product(["GET", "PUT"], LASTS, LASTS):
        app._matches.clear()
        for last in lasts:
            adapter = RememberedMatches(app._matches, pattern, None, app.url_map, "localhost", "/", "", "http", f"{begin}/{last}", method)
            assert found(adapter, "match") == found(adapter, "_exactly"), (method, lasts, last)


def test_blobs_of_one_name_share_what_is_remembered(app):
    client = app.test_client()
    app._matches.clear()
    for number in range(30):
        client.head(f"/v2/app/blobs/sha256:{number:064x}")
        client.put(f"/v2/app/blobs/uploads/{number:032x}?digest=sha256:{number:064x}")
    assert len(app._matches) == 2
