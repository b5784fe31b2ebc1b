"""Files: put, read, overwritten under conditions, deleted (NORA's answers; RFC 9110, 9530)."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from noraflask.web.responses import INLINE_BYTES
from tests.multipart import read_parts
from tests.protocol.raw import STREAMED, Files, digest_field, error, etag, sha256

DATA, OTHER = b"hello\n", b"other\n"


@pytest.fixture
def files(client: FlaskClient) -> Files:
    return Files(client)


# ---- PUT


def test_a_new_file(files):
    answer = files.put("tools/app 1.txt", DATA)
    assert (answer.status_code, answer.data) == (200, b"")
    assert answer.headers["ETag"] == etag(DATA)
    assert answer.headers["Repr-Digest"] == digest_field(DATA)
    assert answer.headers["Location"].endswith("/raw/tools/app%201.txt")
    assert files.get(answer.headers["Location"]).data == DATA


def test_the_same_bytes_again_are_no_error_and_change_nothing(files):
    files.store("a", DATA, content_type="text/plain")
    before = files.get("a").headers
    answer = files.put("a", DATA, {"Content-Type": "text/html"})
    assert answer.status_code == 200
    assert answer.headers["ETag"] == etag(DATA)
    assert files.get("a").headers["Content-Type"] == "text/plain"
    assert files.get("a").headers["Last-Modified"] == before["Last-Modified"]


@pytest.mark.parametrize("data", [OTHER, b"longer than before"])
def test_other_bytes_need_a_condition(files, data):
    files.store("a", DATA)
    status, text = error(files.put("a", data))
    assert status == 409
    assert f"If-Match: {etag(DATA)}" in text
    assert files.get("a").data == DATA


def test_an_empty_file(files):
    files.store("empty", b"")
    answer = files.get("empty")
    assert (answer.status_code, answer.data, answer.headers["ETag"]) == (200, b"", etag(b""))


def test_a_body_whose_length_is_not_announced(files):
    files.store("a", DATA * 1000, **STREAMED)
    assert files.get("a").data == DATA * 1000


@pytest.mark.parametrize("large", [1000, 300_000])
def test_what_was_put_comes_back(files, large):
    data = b"0123456789" * large
    files.store("a", data)
    assert files.get("a").data == data


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-Match": etag(DATA)}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": f"{etag(OTHER)}, {etag(DATA)}"}, 200),
        ({"If-Match": etag(OTHER)}, 412),
        ({"If-Match": f"W/{etag(DATA)}"}, 412),
        ({"If-Match": sha256(DATA)}, 400),
        ({"If-None-Match": "*"}, 412),
        ({"If-None-Match": etag(DATA)}, 400),
        ({"If-Unmodified-Since": "Sun, 09 Sep 2001 01:46:40 GMT"}, 412),
        ({"If-Unmodified-Since": "Sun, 09 Sep 2101 01:46:40 GMT"}, 409),
    ],
)
def test_conditions_on_a_file_that_is_there(files, headers, status):
    files.store("a", DATA)
    answer = files.put("a", OTHER, headers)
    assert answer.status_code == status
    assert files.get("a").data == (OTHER if status == 200 else DATA)


@pytest.mark.parametrize(("headers", "status"), [({"If-Match": "*"}, 412), ({"If-Match": etag(DATA)}, 412), ({"If-None-Match": "*"}, 200)])
def test_conditions_on_a_file_that_is_not_there(files, headers, status):
    assert files.put("a", DATA, headers).status_code == status
    assert files.get("a").status_code == (200 if status == 200 else 404)


@pytest.mark.parametrize(("policy", "plain", "matching"), [("conditional", 409, 200), ("always", 200, 200), ("never", 409, 409)])
def test_a_repository_says_whether_files_may_be_overwritten(make_app, policy, plain, matching):
    files = Files(make_app(raw={"overwrite": policy}).test_client())
    files.have(a=DATA, b=DATA)
    assert files.put("a", OTHER).status_code == plain
    assert files.put("b", OTHER, {"If-Match": etag(DATA)}).status_code == matching
    assert files.put("b", OTHER, {"If-None-Match": "*"}).status_code == 412


def test_who_may_overwrite_may_correct_the_type(files):
    files.store("a", DATA)
    assert files.put("a", DATA, {"Content-Type": "text/csv", "If-Match": etag(DATA)}).status_code == 200
    assert files.get("a").headers["Content-Type"] == "text/csv"


# ---- digests


@pytest.mark.parametrize(
    "headers",
    [
        {"Repr-Digest": digest_field(DATA)},
        {"Repr-Digest": digest_field(DATA, "sha512")},
        {"Repr-Digest": f"{digest_field(DATA)}, {digest_field(DATA, 'sha512')}"},
        {"Content-Digest": digest_field(DATA)},
        {"X-Checksum-Sha256": sha256(DATA).upper()},
        {"X-Checksum-Sha256": sha256(DATA), "Repr-Digest": digest_field(DATA)},
    ],
)
def test_digests_that_fit(files, headers):
    assert files.put("a", DATA, headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Repr-Digest": digest_field(OTHER)},
        {"Repr-Digest": digest_field(OTHER, "sha512")},
        {"Repr-Digest": f"{digest_field(DATA)}, {digest_field(OTHER, 'sha512')}"},
        {"Content-Digest": digest_field(OTHER)},
        {"X-Checksum-Sha256": sha256(OTHER)},
        {"X-Checksum-Sha256": sha256(DATA), "Repr-Digest": digest_field(OTHER)},
        {"Repr-Digest": "md5=:AAAA:"},
        {"Repr-Digest": "sha-256=:AAAA:"},
        {"Repr-Digest": "nonsense"},
        {"X-Checksum-Sha256": "nonsense"},
    ],
)
def test_digests_that_do_not_fit_store_nothing(files, headers):
    status, _ = error(files.put("a", DATA, headers))
    assert status == 400
    assert files.head("a").status_code == 404
    assert "Upload-Offset" not in files.head("a").headers


def test_encoded_bodies_are_refused_as_nobody_would_decode_them(files):
    assert files.put("a", DATA, {"Content-Encoding": "gzip"}).status_code == 415
    assert files.put("a", DATA, {"Content-Encoding": "identity"}).status_code == 200


# ---- size


@pytest.mark.parametrize("more", [{}, STREAMED], ids=["announced", "streamed"])
def test_a_file_that_is_too_large(make_app, more):
    files = Files(make_app(raw={"max_file_size": 1000}).test_client())
    assert files.ask("PUT", "a", data=b"x" * 1000, **more).status_code == 200
    status, _ = error(files.ask("PUT", "b", data=b"x" * 1001, **more))
    assert status == 413
    assert files.head("b").status_code == 404


class Unread:
    """A body that nobody may ask for."""

    def read(self, size: int = -1) -> bytes:
        raise AssertionError("the body was read")


@pytest.mark.parametrize(
    ("headers", "length", "status"),
    [
        ({}, "101", 413),
        ({"If-None-Match": "*"}, "6", 412),
        ({"If-Match": etag(OTHER)}, "6", 412),
        ({"If-None-Match": etag(OTHER)}, "6", 400),
        ({}, "7", 409),
        ({"X-Checksum-Sha256": sha256(OTHER)}, "6", 409),
        ({"Repr-Digest": "nonsense"}, "6", 400),
        ({"Content-Encoding": "gzip"}, "6", 415),
    ],
)
def test_what_can_be_refused_before_the_body_is(make_app, headers, length, status):
    files = Files(make_app(raw={"max_file_size": 100}).test_client())
    files.store("a", DATA)
    environ = {"wsgi.input": Unread(), "CONTENT_LENGTH": length}
    assert files.ask("PUT", "a", headers=headers, environ_overrides=environ).status_code == status


# ---- places


def test_nothing_lies_below_a_file(files):
    files.store("a/b", DATA)
    for path in ("a/b/c", "a/b/c/d"):
        status, text = error(files.put(path, DATA))
        assert status == 409
        assert "a/b is a file" in text


def test_no_file_takes_the_place_of_a_folder(files):
    files.store("a/b/c", DATA)
    for path in ("a", "a/b"):
        status, text = error(files.put(path, DATA))
        assert status == 409
        assert "is a folder" in text
    files.delete("a/b/c")
    files.store("a/b", DATA)
    files.store("ab", DATA)


# ---- GET, HEAD


def test_what_an_answer_says(files):
    files.store("a/b.json", DATA)
    for answer in (files.get("a/b.json"), files.head("a/b.json")):
        assert answer.status_code == 200
        assert answer.headers["ETag"] == etag(DATA)
        assert answer.headers["Repr-Digest"] == digest_field(DATA)
        assert answer.headers["Content-Length"] == str(len(DATA))
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.headers["Content-Disposition"] == 'attachment; filename="b.json"'
        assert answer.headers["Last-Modified"].endswith(" GMT")
        assert "sandbox" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_type_that_says_something_is_kept(files):
    files.store("a.json", DATA, content_type="text/plain; charset=utf-8")
    files.store("b.json", DATA, content_type="application/octet-stream")
    assert files.get("a.json").headers["Content-Type"] == "text/plain; charset=utf-8"
    assert files.get("b.json").headers["Content-Type"] == "application/json"


def test_cache_control_is_the_repositorys(make_app):
    files = Files(make_app(raw={"cache_control": "max-age=60"}).test_client())
    files.store("a", DATA)
    assert files.get("a").headers["Cache-Control"] == "max-age=60"


@pytest.mark.parametrize(
    ("headers", "status", "body"),
    [
        ({"Range": "bytes=1-3"}, 206, DATA[1:4]),
        ({"Range": "bytes=-2"}, 206, DATA[-2:]),
        ({"Range": "bytes=2-"}, 206, DATA[2:]),
        ({"Range": "bytes=6-"}, 416, None),
        ({"Range": "bytes=0-0,2-2"}, 200, DATA),
        ({"Range": "bytes=1-", "If-Range": etag(DATA)}, 206, DATA[1:]),
        ({"Range": "bytes=1-", "If-Range": etag(OTHER)}, 200, DATA),
        ({"If-None-Match": etag(DATA)}, 304, b""),
        ({"If-None-Match": f"W/{etag(DATA)}"}, 304, b""),
        ({"If-None-Match": etag(OTHER)}, 200, DATA),
        ({"If-Match": etag(DATA)}, 200, DATA),
        ({"If-Match": etag(OTHER)}, 412, None),
        ({"If-Modified-Since": "Sun, 09 Sep 2101 01:46:40 GMT"}, 304, b""),
        ({"If-Modified-Since": "Sun, 09 Sep 2001 01:46:40 GMT"}, 200, DATA),
        ({"If-Unmodified-Since": "Sun, 09 Sep 2001 01:46:40 GMT"}, 412, None),
    ],
)
def test_conditions_and_ranges_of_reads(files, headers, status, body):
    files.store("a", DATA)
    answer = files.ask("GET", "a", headers=headers)
    assert answer.status_code == status
    assert body is None or answer.data == body
    assert files.ask("HEAD", "a", headers=headers).status_code == status


@pytest.mark.parametrize("size", [1000, INLINE_BYTES + 1000])
def test_several_ranges(files, size):
    data = (b"0123456789" * (size // 10 + 1))[:size]
    files.store("a.txt", data)
    headers = {"Range": "bytes=500-599,0-9,550-649", "If-Range": etag(data)}
    answer = files.ask("GET", "a.txt", headers=headers)
    assert (answer.status_code, answer.headers["ETag"]) == (206, etag(data))
    assert read_parts(answer.headers["Content-Type"], answer.data) == [
        ("text/plain", f"bytes 500-649/{size}", data[500:650]),
        ("text/plain", f"bytes 0-9/{size}", data[:10]),
    ]
    assert files.ask("HEAD", "a.txt", headers=headers).headers["Content-Length"] == str(len(answer.data))
    whole = files.ask("GET", "a.txt", headers={**headers, "If-Range": etag(OTHER)})
    assert (whole.status_code, whole.data) == (200, data)
    assert files.ask("GET", "a.txt", headers={"Range": f"bytes={size}-,-0"}).status_code == 416


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=-1", "bytes=0-1,3-4"])
def test_a_range_of_an_empty_file(files, header):
    files.store("empty", b"")
    answer = files.get("empty", Range=header)
    assert (answer.status_code, answer.data) == (200, b"")


def test_a_file_that_is_not_there(files):
    status, text = error(files.get("none"))
    assert status == 404
    assert "slash" in text
    assert files.head("none").status_code == 404


def test_a_folder_without_its_slash_is_named_as_one(files):
    files.store("a/b", DATA)
    status, text = error(files.get("a"))
    assert status == 404
    assert "this is a folder" in text


# ---- DELETE and other methods


def test_delete(files):
    files.store("a/b", DATA)
    answer = files.delete("a/b")
    assert (answer.status_code, answer.data) == (204, b"")
    assert files.get("a/b").status_code == 404
    status, _ = error(files.delete("a/b"))
    assert status == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If_Match": etag(DATA)}, 204),
        ({"If_Match": "*"}, 204),
        ({"If_Match": etag(OTHER)}, 412),
        ({"If_None_Match": etag(DATA)}, 412),
        ({"If_None_Match": etag(OTHER)}, 204),
        ({"If_Unmodified_Since": "Sun, 09 Sep 2001 01:46:40 GMT"}, 412),
    ],
)
def test_conditions_of_delete(files, headers, status):
    files.have(a=DATA)
    assert files.delete("a", **headers).status_code == status
    assert files.head("a").status_code == (404 if status == 204 else 200)


def test_a_folder_is_not_deleted_as_a_whole(files):
    files.store("a/b", DATA)
    status, text = error(files.delete("a"))
    assert status == 404
    assert "folder" in text
    assert files.get("a/b").status_code == 200


@pytest.mark.parametrize("method", ["POST", "PATCH", "PROPFIND", "MKCOL"])
def test_other_methods(files, method):
    answer = files.ask(method, "a")
    assert answer.status_code == 405
    assert {"GET", "HEAD", "PUT", "DELETE"} <= set(answer.headers["Allow"].split(", "))


def test_a_folders_address_takes_no_file(files):
    assert files.put("a/", DATA).status_code in (404, 405)
    assert files.delete("a/").status_code in (404, 405)
