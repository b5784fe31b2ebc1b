"""Every route carries its guard; a repository is one mounting of a format, and a second one lives apart."""

from __future__ import annotations

import pytest
from flask import Flask, request

from noraflask.digest import Digest
from noraflask.formats import FORMATS
from noraflask.formats.oci import protocol
from noraflask.formats.oci.routes import bp
from noraflask.services.auth import Action
from noraflask.storage.memory import MemoryStorage
from noraflask.web import access, errors
from noraflask.web.context import EXTENSION, Repository, repository
from tests.protocol.oci import Registry, code

SECOND = Repository("second", "oci", "/named/v2")


def test_every_view_declares_its_access(app):
    views = {rule.endpoint: getattr(app.view_functions[rule.endpoint], "access", None) for rule in app.url_map.iter_rules()}
    assert len(views) > 10
    assert [endpoint for endpoint, declared in views.items() if not isinstance(declared, Action)] == []


READS, DELETES = {"GET", "HEAD", "OPTIONS"}, {"DELETE", "OPTIONS"}


def test_what_each_view_declares_fits_its_methods(app):
    for rule in app.url_map.iter_rules():
        declared = app.view_functions[rule.endpoint].access
        if declared is Action.PUBLIC:
            assert rule.endpoint.startswith("ops.")
        elif declared is Action.PULL:
            assert rule.methods <= READS, rule
        elif declared is Action.DELETE:
            assert rule.methods <= DELETES, rule
        else:
            assert declared is Action.PUSH, rule
        if not (rule.methods <= READS):
            assert declared in (Action.PUSH, Action.DELETE), rule


@pytest.mark.parametrize(
    ("method", "path", "action", "name"),
    [
        ("GET", "/v2/", "pull", None),
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
        asked.append((action.value, repository, name))
        return False

    monkeypatch.setattr(access, "allowed", nobody)
    answer = registry.ask(method, path, data=b"x" if method in ("PUT", "PATCH") else None)
    assert answer.status_code == 403
    assert asked == [(action, "docker", name)]
    if method != "HEAD":
        assert code(answer) == (403, "DENIED")


@pytest.mark.parametrize("query", ["mount={}&from=secret", "mount={}"])
def test_a_mount_is_only_from_where_one_may_read(registry, monkeypatch, query):
    digest = registry.push_blob("secret", b"x")
    monkeypatch.setattr(access, "allowed", lambda principal, action, repository, name: name == "app")
    answer = registry.ask("POST", f"app/blobs/uploads/?{query.format(digest)}")
    assert answer.status_code == 202
    assert registry.status(f"app/blobs/{digest}") == 404


def test_the_catalog_shows_what_one_may_read(registry, monkeypatch):
    for name in ("app", "secret"):
        registry.push_image(name, "1")
    monkeypatch.setattr(access, "allowed", lambda principal, action, repository, name: name != "secret")
    assert registry.ask("GET", "_catalog").json == {"repositories": ["app"]}


# Repositories.


@pytest.mark.parametrize("found", [format.default for format in FORMATS])
def test_the_repository_of_a_request_is_that_of_its_blueprint(app, found):
    with app.test_request_context(f"{found.mount}/"):
        assert request.blueprint == found.name
        assert repository() == found


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def two(make_app, storage) -> Flask:
    """An app with a second repository of the OCI format, as a configuration may name one."""
    app = make_app(storage)
    app.register_blueprint(bp, url_prefix=SECOND.mount, name=SECOND.name)
    app.extensions[f"{EXTENSION}.{SECOND.name}"] = SECOND
    errors.install(app, [*((format.default, format.render_error) for format in FORMATS), (SECOND, protocol.render_error)])
    return app


def test_a_second_repository_works_and_lives_apart(two, storage):
    first, second = Registry(two.test_client()), Registry(two.test_client(), SECOND.mount)
    location = second.begin("app")
    assert location.startswith("/named/v2/app/blobs/uploads/")
    assert code(first.ask("GET", location.removeprefix("/named"))) == (404, "BLOB_UPLOAD_UNKNOWN"), "a session belongs to one repository"
    second.push_image("app", "1", layers=(b"only here",))
    first.push_image("app", "2")
    assert (first.tags("app"), second.tags("app")) == (["2"], ["1"])
    assert first.status(f"app/blobs/{Digest.of(b'only here')}") == 404
    assert second.ask("GET", f"app/blobs/{Digest.of(b'only here')}").data == b"only here"
    assert first.ask("GET", "_catalog").json == second.ask("GET", "_catalog").json == {"repositories": ["app"]}
    fronts = {key.partition("/")[0] for key in storage.list("")}
    assert fronts == {"blobs", "docker", "second"}
    second.ask("DELETE", "app/manifests/1")
    assert (first.tags("app"), second.tags("app")) == (["2"], [])


def test_errors_and_links_of_a_second_repository(two):
    second = Registry(two.test_client(), SECOND.mount)
    assert code(second.ask("GET", "nothing")) == (404, "UNSUPPORTED")
    assert code(second.ask("POST", "app/tags/list")) == (405, "UNSUPPORTED")
    second.push_image("app", "1")
    second.push_image("app", "2")
    assert second.follow("app/tags/list?n=1", "tags") == ["1", "2"]
    assert second.client.get("/named/x").mimetype == "text/plain"


def test_an_address_asked_for_again_finds_the_same_route(app, monkeypatch):
    monkeypatch.setattr("noraflask.app.MATCHES_KEPT", 3)
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
    assert not app._matches, "long addresses are not kept"
