"""Paths, headers and bodies that nobody in his right mind would send: a clear refusal, or a plain file."""

from __future__ import annotations

import unicodedata
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient

from tests.protocol.raw import Files, etag

LONG = "x" * 254


@pytest.fixture
def files(client: FlaskClient) -> Files:
    return Files(client)


@pytest.mark.parametrize(
    "path",
    [
        "a%00b",
        "a%0ab",
        "a%7fb",
        "a%5cb",
        "%2e%2e/a",
        "a/%2e%2e/b",
        "a/%2e/b",
        "a//b",
        "/a",
        "a%ffb",
        "%c0%af",
        "%ed%a0%80",
        "a%2fb",
        "a%2Fb",
        "a%e2%80%a8b",
        quote(unicodedata.normalize("NFD", "é")),
        "x" * 256,
        "/".join(["x" * 100] * 12),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "GET", "HEAD", "DELETE"])
def test_paths_that_are_none(files, method, path):
    answer = files.client.open(f"/raw/{path}", method=method, data=b"x" if method == "PUT" else None, environ_overrides={"RAW_URI": f"/raw/{path}"})
    assert answer.status_code in (400, 404), (path, answer.status_code)
    assert files.get("").json["files"] == files.get("").json["folders"] == []


@pytest.mark.parametrize(
    "path",
    [LONG, f"{LONG}/{LONG}/{LONG}", "%2e%2e%2e", "a%20", "%20a", "-rf", "~", "a%3fb", "a%23b", ".hidden", "a/.b", quote("é"), "con", "A", "a%25b"],
)
def test_odd_paths_that_are_files(files, path):
    assert files.put(path, b"x").status_code == 200
    assert files.get(path).data == b"x"
    assert files.get(f"{path}.md5").status_code in (200, 400)  # a name may fit while its sidecar's does not
    assert files.delete(path).status_code == 204


def test_letter_case_counts(files):
    files.have(a=b"1", A=b"2")
    assert (files.get("a").data, files.get("A").data) == (b"1", b"2")


@pytest.mark.parametrize(
    "headers",
    [
        {"If-Match": '"' + "a" * 9000 + '"'},
        {"If-Match": ", ".join(['"a"'] * 4000)},
        {"If-None-Match": '"a" ' * 100},
        {"Repr-Digest": "sha-256=:" + "A" * 9000 + ":"},
        {"Repr-Digest": ",".join(["sha-256=:AAAA:"] * 1000)},
        {"Content-Range": "bytes " + "9" * 9000 + "-1/2"},
        {"X-Checksum-Sha256": "f" * 9000},
    ],
)
def test_long_headers_are_refused(files, headers):
    assert files.put("a", b"x", headers).status_code == 400


@pytest.mark.parametrize("value", ["text/html; x=" + "y" * 9000, "text/html;" * 100, "\u00e9/\u00e9", "text/html; charset=\x01"])
def test_types_that_are_none_are_not_kept(files, value):
    files.client.put("/raw/a.txt", data=b"x", environ_overrides={"CONTENT_TYPE": value})
    assert files.get("a.txt").headers["Content-Type"] == "text/plain"


def test_many_ranges_are_one_whole_file(files):
    files.store("a", b"x" * 100_000)
    answer = files.get("a", Range="bytes=" + ",".join(f"{number}-{number}" for number in range(2000)))
    assert (answer.status_code, len(answer.data)) == (200, 100_000)


def test_of_many_writers_at_once_one_wins(app):
    def write(number: int) -> tuple[int, bytes]:
        data = b"%d" % number
        return Files(app.test_client()).put("a", data, {"If-None-Match": "*"}).status_code, data

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(write, range(32)))
    winners = [data for status, data in answers if status == 200]
    assert len(winners) == 1
    assert {status for status, _ in answers} == {200, 412}
    assert Files(app.test_client()).get("a").data == winners[0]


def test_no_change_under_a_condition_is_lost(app):
    """Each writer adds a letter to what is there, under If-Match, until it gets through."""
    Files(app.test_client()).store("a", b"")

    def add(number: int) -> None:
        files = Files(app.test_client())
        while True:
            data = files.get("a").data
            if files.put("a", data + b"%c" % (65 + number), {"If-Match": etag(data)}).status_code == 200:
                return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    assert sorted(Files(app.test_client()).get("a").data) == list(range(65, 73))
