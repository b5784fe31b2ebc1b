"""Errors of every address: in the words of the format that is mounted there, text elsewhere; headers of all answers."""

from __future__ import annotations

import pytest

from noraflask.storage.memory import MemoryStorage
from tests.protocol.oci import Registry, code


@pytest.mark.parametrize("path", ["/v2/app", "/v2/app/none/x", "/v2/tags/list", "/v2/app/manifests/", "/v2/app/blobs/x/y", "/v2/_none", "/v2/%ff"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_no_such_address_of_the_registry(registry, method, path):
    assert code(registry.ask(method, path)) == (404, "UNSUPPORTED")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v2/", {"GET", "HEAD"}),
        ("DELETE", "/v2/_catalog", {"GET", "HEAD"}),
        ("PUT", "/v2/app/tags/list", {"GET", "HEAD"}),
        ("POST", "/v2/app/manifests/1", {"GET", "HEAD", "PUT", "DELETE"}),
        ("PATCH", "/v2/app/blobs/x", {"GET", "HEAD", "DELETE"}),
        ("TRACE", "/v2/", {"GET", "HEAD"}),
        ("BREW", "/v2/", {"GET", "HEAD"}),
        ("OPTIONS", "/v2/", {"GET", "HEAD"}),
        ("OPTIONS", "/v2/app/blobs/uploads/", {"POST"}),
    ],
)
def test_a_method_that_an_address_lacks(registry, method, path, allowed):
    answer = registry.ask(method, path)
    assert code(answer) == (405, "UNSUPPORTED")
    assert set(answer.headers["Allow"].split(", ")) == allowed


@pytest.mark.parametrize("path", ["/ui/", "/none", "/v2x", "/v1/", "/healthy", "/static/x", "/v", "/V2/"])
def test_elsewhere_errors_are_text(client, path):
    answer = client.get(path)
    assert (answer.status_code, answer.mimetype) == (404, "text/plain")
    assert answer.data == b"there is nothing at this address\n"


def test_elsewhere_a_wrong_method_is_text_too(client):
    answer = client.post("/health")
    assert (answer.status_code, answer.mimetype, set(answer.headers["Allow"].split(", "))) == (405, "text/plain", {"GET", "HEAD"})


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/api/none", 404), ("GET", "/api", 404), ("GET", "/api/tokens", 405), ("POST", "/api/tokens", 415)]
)
def test_below_api_errors_are_json(client, method, path, status):
    answer = client.open(path, method=method)
    assert (answer.status_code, answer.content_type) == (status, "application/json")
    assert list(answer.json) == ["error"]


class BrokenStorage(MemoryStorage):
    def stat(self, key):
        raise ZeroDivisionError("secret words")


def test_the_unexpected_says_nothing_of_the_inside(make_app, caplog):
    registry = Registry(make_app(BrokenStorage()).test_client())
    answer = registry.ask("GET", "app/tags/list")
    assert code(answer) == (500, "UNSUPPORTED")
    assert b"secret" not in answer.data
    assert "ZeroDivisionError: secret words" in caplog.text


@pytest.mark.parametrize("path", ["/v2/", "/v2/app/tags/list", "/v2/none", "/health", "/none", "/api/v1/whoami", "/api/none"])
def test_headers_of_all_answers(client, path):
    answer = client.get(path)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert len(answer.headers["X-Request-Id"]) == 24
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "Server" not in answer.headers
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("path", ["/v2/", "/v2/app/tags/list"])
def test_the_registry_says_its_version_also_in_errors(client, path):
    assert client.get(path).headers["Docker-Distribution-Api-Version"] == "registry/2.0"


@pytest.mark.parametrize("given", ["abc", "a" * 128, "!~/:;,"])
def test_a_request_id_is_taken_over(client, given):
    for path in ("/v2/", "/none"):
        assert client.get(path, headers={"X-Request-Id": given}).headers.getlist("X-Request-Id") == [given]


@pytest.mark.parametrize("given", ["", "a b", "a" * 129, "é", "a\tb", "\x7f"])
def test_a_request_id_that_is_none_is_replaced(client, given):
    found = client.get("/v2/", headers={"X-Request-Id": given}).headers.getlist("X-Request-Id")
    assert [len(entry) for entry in found] == [24]
    assert found != [given]


def test_request_ids_differ(client):
    assert len({client.get("/v2/").headers["X-Request-Id"] for _ in range(20)}) == 20
