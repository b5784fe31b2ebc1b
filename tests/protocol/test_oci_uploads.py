"""distribution-spec, "Pushing blobs": in one request, in two, in chunks, by mount."""

from __future__ import annotations

import io
import json
from contextlib import contextmanager

import pytest

from noraflask.digest import Digest
from noraflask.errors import StorageFull, StorageReadOnly
from noraflask.storage.memory import MemoryStorage
from tests.protocol.oci import STREAMED, Registry, code
from tests.storage import keys_in

DATA = b"0123456789" * 5
DIGEST, SHA512, WRONG = Digest.of(DATA), Digest.of(DATA, "sha512"), Digest.of(b"other")
NAMES = ["app", "team/app", "a/b/c/d/e", "a__b/c--d/e.f", "blobs", "uploads", "a/blobs/uploads", "manifests/blobs", "tags/list", "a" * 255]


def assert_kept(registry: Registry, answer, digest: Digest, data: bytes = DATA, name: str = "app") -> None:
    """201 with the blob's Location, which leads to it, and its digest."""
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/v2/{name}/blobs/{digest}"
    assert answer.headers["Docker-Content-Digest"] == str(digest)
    assert registry.ask("GET", answer.headers["Location"]).data == data


@pytest.mark.parametrize("path", ["/v2/", "/v2"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_ping(registry, method, path):
    answer = registry.ask(method, path)
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


# In one request: POST …?digest=


@pytest.mark.parametrize("digest", [DIGEST, SHA512])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("slash", ["/", ""])
def test_a_single_post(registry, name, digest, slash):
    answer = registry.ask("POST", f"{name}/blobs/uploads{slash}", query_string={"digest": str(digest)}, data=DATA)
    assert_kept(registry, answer, digest, name=name)


@pytest.mark.parametrize("data", [b"", b"x", b"x" * 3_000_000], ids=len)
@pytest.mark.parametrize("form", [{}, STREAMED], ids=["announced", "streamed"])
def test_a_single_post_of_any_size(registry, data, form):
    digest = Digest.of(data)
    answer = registry.ask("POST", "app/blobs/uploads/", query_string={"digest": str(digest)}, input_stream=io.BytesIO(data), **form)
    assert_kept(registry, answer, digest, data)


def test_a_single_post_again(registry):
    for name in ("app", "app", "other"):
        answer = registry.ask("POST", f"{name}/blobs/uploads/", query_string={"digest": str(DIGEST)}, data=DATA)
        assert_kept(registry, answer, DIGEST, name=name)


@pytest.mark.parametrize("digest", [WRONG, Digest.of(b"other", "sha512"), "sha256:abc", "md5:" + "0" * 32, "", "x"])
def test_a_single_post_with_a_wrong_digest(registry, digest):
    answer = registry.ask("POST", "app/blobs/uploads/", query_string={"digest": str(digest)}, data=DATA)
    assert code(answer) == (400, "DIGEST_INVALID")
    assert registry.status(f"app/blobs/{DIGEST}") == 404


# In two requests: POST, then PUT.


@pytest.mark.parametrize("digest", [DIGEST, SHA512])
@pytest.mark.parametrize("name", NAMES)
def test_post_then_put(registry, name, digest):
    location = registry.begin(name)
    assert_kept(registry, registry.ask("PUT", location, query_string={"digest": str(digest)}, data=DATA), digest, name=name)
    assert code(registry.ask("GET", location)) == (404, "BLOB_UPLOAD_UNKNOWN"), "the session has ended"


def test_a_session_says_where_it_is(registry):
    answer = registry.ask("POST", "app/blobs/uploads/")
    session = answer.headers["Docker-Upload-UUID"]
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/v2/app/blobs/uploads/{session}"
    assert answer.headers["Range"] == "0-0"
    assert answer.headers["OCI-Chunk-Min-Length"] == "65536"
    assert answer.data == b""


def test_sessions_differ(registry):
    assert len({registry.begin("app") for _ in range(5)}) == 5


def test_put_with_a_wrong_digest_ends_the_session(registry):
    location = registry.begin("app")
    assert code(registry.ask("PUT", location, query_string={"digest": str(WRONG)}, data=DATA)) == (400, "DIGEST_INVALID")
    assert code(registry.ask("GET", location)) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert registry.status(f"app/blobs/{WRONG}") == registry.status(f"app/blobs/{DIGEST}") == 404


@pytest.mark.parametrize("query", [{}, {"digest": ""}, {"digest": "sha256:abc"}, {"digest": "latest"}])
def test_put_with_no_digest_leaves_the_session(registry, query):
    location = registry.begin("app")
    assert code(registry.ask("PUT", location, query_string=query, data=DATA)) == (400, "DIGEST_INVALID")
    assert_kept(registry, registry.ask("PUT", location, query_string={"digest": str(DIGEST)}, data=DATA), DIGEST)


# In chunks.


def patch(registry: Registry, location: str, first: int, last: int, **headers: str):
    return registry.ask("PATCH", location, data=DATA[first : last + 1], headers={"Content-Range": f"{first}-{last}", **headers})


@pytest.mark.parametrize("sizes", [[50], [10, 40], [1] * 50, [49, 1]])
@pytest.mark.parametrize("last_with_put", [True, False])
def test_chunks(registry, sizes, last_with_put):
    location, first = registry.begin("app"), 0
    for number, size in enumerate(sizes):
        if last_with_put and number == len(sizes) - 1:
            break
        answer = patch(registry, location, first, first + size - 1)
        first += size
        assert answer.status_code == 202
        assert answer.headers["Range"] == f"0-{first - 1}"
        location = answer.headers["Location"]
        assert "OCI-Chunk-Min-Length" not in answer.headers
    headers = {"Content-Range": f"{first}-{len(DATA) - 1}"} if last_with_put else {}
    answer = registry.ask("PUT", location, query_string={"digest": str(DIGEST)}, data=DATA[first:], headers=headers)
    assert_kept(registry, answer, DIGEST)


@pytest.mark.parametrize("form", [{}, STREAMED], ids=["announced", "streamed"])
def test_one_streamed_patch_then_put(registry, form):
    location = registry.begin("app")
    answer = registry.ask("PATCH", location, input_stream=io.BytesIO(DATA), **form)
    assert (answer.status_code, answer.headers["Range"]) == (202, "0-49")
    assert_kept(registry, registry.ask("PUT", location, query_string={"digest": str(SHA512)}), SHA512)


@pytest.mark.parametrize("content_range", ["0-9", "5-14", "11-20", "9-10", "20-11", "nonsense", "", "10-", "10-20", "bytes */5"])
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_a_chunk_out_of_order_is_416_and_the_session_lives_on(registry, method, content_range):
    location = registry.begin("app")
    assert patch(registry, location, 0, 9).status_code == 202
    query = {"digest": str(DIGEST)} if method == "PUT" else None
    answer = registry.ask(method, location, data=DATA[10:20], headers={"Content-Range": content_range}, query_string=query)
    assert code(answer) == (416, "BLOB_UPLOAD_INVALID")
    assert (answer.headers["Location"], answer.headers["Range"]) == (location, "0-9")
    assert registry.ask("GET", location).headers["Range"] == "0-9"
    assert patch(registry, location, 10, 49).status_code == 202
    assert_kept(registry, registry.ask("PUT", location, query_string={"digest": str(DIGEST)}), DIGEST)


def test_the_first_chunk_out_of_order(registry):
    location = registry.begin("app")
    answer = patch(registry, location, 5, 9)
    assert code(answer) == (416, "BLOB_UPLOAD_INVALID")
    assert answer.headers["Range"] == "0-0"
    assert patch(registry, location, 0, 9).status_code == 202


def test_a_chunk_that_ends_early_counts_as_far_as_it_came(registry):
    location = registry.begin("app")
    answer = registry.ask(
        "PATCH", location, data=DATA[:10], headers={"Content-Range": "0-19", **STREAMED["headers"]}, environ_overrides={"wsgi.input_terminated": True}
    )
    assert code(answer) == (400, "SIZE_INVALID")
    assert registry.ask("GET", location).headers["Range"] == "0-9"
    assert patch(registry, location, 10, 49).status_code == 202


def test_a_body_that_breaks_off_counts_as_far_as_it_came(registry):
    location = registry.begin("app")
    answer = registry.ask("PATCH", location, input_stream=io.BytesIO(DATA[:10]), environ_overrides={"CONTENT_LENGTH": "20"})
    assert code(answer) == (400, "BLOB_UPLOAD_INVALID")
    assert registry.ask("GET", location).headers["Range"] == "0-9"


def test_status(registry):
    location = registry.begin("app")
    for last, received in ((None, "0-0"), (0, "0-0"), (9, "0-9")):
        if last is not None:
            patch(registry, location, 1 if last else 0, last)
        answer = registry.ask("GET", location)
        assert (answer.status_code, answer.headers["Range"], answer.headers["Location"]) == (204, received, location)
        assert answer.headers["Docker-Upload-UUID"] == location.rpartition("/")[2]


def test_cancel(registry):
    location = registry.begin("app")
    patch(registry, location, 0, 9)
    assert registry.ask("DELETE", location).status_code == 204
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        assert code(registry.ask(method, location, query_string={"digest": str(DIGEST)})) == (404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize("session", ["x", "0" * 32, "0" * 31 + "%00", "%ff", "é", "a" * 5000])
def test_a_session_that_never_was(registry, session):
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        answer = registry.ask(method, f"app/blobs/uploads/{session}", query_string={"digest": str(DIGEST)})
        assert code(answer) == (404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize("method", ["GET", "PATCH", "PUT", "DELETE"])
def test_a_session_belongs_to_one_name(registry, method):
    location = registry.begin("app")
    elsewhere = location.replace("/app/", "/app2/")
    assert code(registry.ask(method, elsewhere, query_string={"digest": str(DIGEST)})) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert registry.status(location, "GET") == 204


@pytest.mark.parametrize("minimum", [0, 1, 5_000_000])
def test_chunk_min_length_is_announced(make_app, minimum):
    answer = make_app(docker={"chunk_min_bytes": minimum}).test_client().post("/v2/app/blobs/uploads/")
    assert answer.headers.get("OCI-Chunk-Min-Length") == (str(minimum) if minimum else None)


# Limits.


@pytest.mark.parametrize("form", [{}, STREAMED], ids=["announced", "streamed"])
@pytest.mark.parametrize("way", ["post", "put", "patch"])
def test_the_largest_blob(make_app, form, way):
    registry = Registry(make_app(docker={"max_upload_session_size_mb": 1}).test_client())

    def push(size: int):
        data = b"x" * size
        query = {"digest": str(Digest.of(data))}
        if way == "post":
            return registry.ask("POST", "app/blobs/uploads/", query_string=query, input_stream=io.BytesIO(data), **form)
        location = registry.begin("app")
        if way == "put":
            return registry.ask("PUT", location, query_string=query, input_stream=io.BytesIO(data), **form)
        answer = registry.ask("PATCH", location, input_stream=io.BytesIO(data), **form)
        return registry.ask("PUT", location, query_string=query) if answer.status_code == 202 else answer

    assert push(1 << 20).status_code == 201
    assert code(push((1 << 20) + 1)) == (413, "SIZE_INVALID")


def test_no_more_than_so_many_sessions(make_app):
    registry = Registry(make_app(docker={"max_upload_sessions": 2}).test_client())
    registry.begin("app")
    location = registry.begin("app")
    answer = registry.ask("POST", "app/blobs/uploads/")
    assert code(answer) == (429, "TOOMANYREQUESTS")
    assert int(answer.headers["Retry-After"]) > 0
    assert registry.ask("PUT", location, query_string={"digest": str(DIGEST)}, data=DATA).status_code == 201


def test_a_mount_looks_under_its_lease(registry, monkeypatch):
    """What is deleted between the check and the lease is sent by the client, and what is there then stays until the pointer is written."""
    registry.push_blob("app", DATA)
    content = registry.client.application.services.content
    lease, stat, point, steps = content.lease, content.stat, content.point, []

    @contextmanager
    def noted(*digests):
        steps.append(("lease", *digests))
        with lease(*digests):
            yield
        steps.append(("over",))

    monkeypatch.setattr(content, "lease", noted)
    monkeypatch.setattr(content, "stat", lambda digest: steps.append(("look", digest)) or stat(digest))
    monkeypatch.setattr(content, "point", lambda *pointer: steps.append(("point",)) or point(*pointer))
    assert registry.ask("POST", "other/blobs/uploads/", query_string={"mount": str(DIGEST), "from": "app"}).status_code == 201
    assert steps == [("lease", DIGEST), ("look", DIGEST), ("point",), ("over",)]
    monkeypatch.setattr(content, "stat", lambda digest: None)
    assert registry.ask("POST", "third/blobs/uploads/", query_string={"mount": str(DIGEST), "from": "app"}).status_code == 202
    assert registry.status(f"third/blobs/{DIGEST}") == 404


@pytest.mark.parametrize(("problem", "status", "named"), [(StorageFull, 507, "STORAGE_FULL"), (StorageReadOnly, 503, "TOOMANYREQUESTS")])
@pytest.mark.parametrize("verb", ["create", "replace"])
def test_a_storage_that_takes_nothing(make_app, monkeypatch, problem, status, named, verb):
    def refuse(self, key, source):
        raise problem()

    storage = MemoryStorage()
    registry = Registry(make_app(storage).test_client())
    registry.push_image("app", "1")
    before = keys_in(storage)
    monkeypatch.setattr(MemoryStorage, verb, refuse)
    if verb == "create":
        answer = registry.ask("POST", "app/blobs/uploads/", query_string={"digest": str(DIGEST)}, data=DATA)
    else:
        answer = registry.push("app", "2", registry.ask("GET", "app/manifests/1").data)
    assert code(answer) == (status, named)
    assert int(answer.headers["Retry-After"]) > 0
    assert keys_in(storage) == before
    assert registry.ask("DELETE", "app/manifests/1").status_code == 202


# Mounting.


@pytest.mark.parametrize("source", ["other", None])
@pytest.mark.parametrize("digest", [DIGEST, SHA512])
def test_mount(registry, source, digest):
    registry.push_blob("other", DATA, digest.algorithm)
    query = {"mount": str(digest)} | ({"from": source} if source else {})
    assert_kept(registry, registry.ask("POST", "app/blobs/uploads/", query_string=query), digest)


@pytest.mark.parametrize(
    "query",
    [
        {"mount": str(DIGEST), "from": "elsewhere"},
        {"mount": str(WRONG), "from": "other"},
        {"mount": str(WRONG)},
        {"mount": str(WRONG), "from": ""},
        {"mount": ""},
        {"mount": "", "from": "other"},
        {"mount": "x", "from": "other"},
        {"mount": "sha256:123", "from": "other"},
        {"mount": f"sha384:{'0' * 96}", "from": "other"},
        {"mount": f"md5:{'0' * 32}"},
        {"mount": str(DIGEST).upper(), "from": "other"},
        {"mount": str(DIGEST), "from": "../x"},
        {"mount": str(DIGEST), "from": "Other"},
        {"mount": str(DIGEST), "from": "other/"},
        {"mount": str(DIGEST), "from": "a" * 300},
        {"mount": str(DIGEST), "from": "registry.example:5000/other"},
        {"mount": str(DIGEST), "from": "\x00\r\n"},
    ],
    ids=lambda query: "-".join(f"{name}={value[:12]!r}" for name, value in query.items()),
)
def test_a_mount_of_what_is_not_there_begins_an_upload(registry, query):
    registry.push_blob("other", DATA)
    answer = registry.ask("POST", "app/blobs/uploads/", query_string=query)
    assert (answer.status_code, answer.headers["Range"]) == (202, "0-0")
    assert registry.status(f"app/blobs/{DIGEST}") == 404
    assert_kept(registry, registry.ask("PUT", answer.headers["Location"], query_string={"digest": str(DIGEST)}, data=DATA), DIGEST)


def test_a_mount_of_what_its_source_has_forgotten(registry):
    registry.push_blob("other", DATA)
    registry.ask("DELETE", f"other/blobs/{DIGEST}")
    assert registry.ask("POST", "app/blobs/uploads/", query_string={"mount": str(DIGEST), "from": "other"}).status_code == 202


def test_a_mount_from_an_empty_source_is_one_without(registry):
    registry.push_blob("other", DATA)
    assert_kept(registry, registry.ask("POST", "app/blobs/uploads/", query_string={"mount": str(DIGEST), "from": ""}), DIGEST)


BAD_NAMES = ["A", "a..b", "_a", "a_", "-a", "a%00", "é", "%ff", "a" * 256, "a b"]
MISSPELT = ["a//b", "%2e%2e/%2e%2e/etc", "a/../b", "a%2f%2fb", "a%2fb"]
"""No address is written so."""


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("method", ["POST"])
def test_a_bad_name_starts_nothing(registry, method, name):
    assert code(registry.ask(method, f"/v2/{name}/blobs/uploads/")) == (400, "NAME_INVALID")


@pytest.mark.parametrize("name", MISSPELT)
def test_a_misspelt_address_leads_nowhere(registry, name):
    assert code(registry.ask("POST", f"/v2/{name}/blobs/uploads/")) == (404, "UNSUPPORTED")


def test_errors_carry_facts(registry):
    answer = registry.ask("POST", "app/blobs/uploads/", query_string={"digest": str(WRONG)}, data=DATA)
    assert json.loads(answer.data)["errors"][0]["detail"] == {"expected": str(WRONG), "received": str(DIGEST), "bytes": 50}
