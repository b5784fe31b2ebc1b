"""Uploads that break off and go on, and uploads in parts."""

from __future__ import annotations

import io
from typing import Any

import pytest
from flask.testing import FlaskClient

from noraflask.storage.memory import MemoryStorage
from tests.protocol.raw import Files, digest_field, error, etag, sha256

DATA = bytes(range(256)) * 40
HALF = len(DATA) // 2


@pytest.fixture
def files(client: FlaskClient) -> Files:
    return Files(client)


def break_off(files: Files, path: str, sent: bytes, size: int = len(DATA), **headers: str) -> None:
    """A whole body was announced, and less comes."""
    files.ask("PUT", path, headers=headers, environ_overrides={"wsgi.input": io.BytesIO(sent), "CONTENT_LENGTH": str(size)})


def offset(files: Files, path: str, **more: Any) -> str | None:
    answer = files.ask("HEAD", path, **more)
    assert answer.status_code == 404
    return answer.headers.get("Upload-Offset")


def test_a_broken_upload_goes_on_where_it_broke(files):
    break_off(files, "a", DATA[:HALF])
    assert files.get("a").status_code == 404
    assert offset(files, "a") == str(HALF)
    answer = files.part("a", DATA[HALF:], HALF, len(DATA))
    assert (answer.status_code, answer.headers["ETag"]) == (200, etag(DATA))
    assert files.get("a").data == DATA
    files.delete("a")
    assert offset(files, "a") is None


def test_it_can_be_asked_for(files):
    assert files.put("a", headers={"Content-Range": f"bytes */{len(DATA)}"}).headers["Upload-Offset"] == "0"
    break_off(files, "a", DATA[:100])
    answer = files.put("a", headers={"Content-Range": f"bytes */{len(DATA)}"})
    assert answer.status_code == 204
    assert (answer.headers["Upload-Offset"], answer.headers["Range"]) == ("100", "bytes=0-99")


def test_a_file_in_parts(files):
    for first in range(0, len(DATA), 4096):
        piece = DATA[first : first + 4096]
        answer = files.part("a", piece, first, len(DATA))
        if first + len(piece) < len(DATA):
            assert (answer.status_code, answer.headers["Upload-Offset"]) == (202, str(first + len(piece)))
            assert files.get("a").status_code == 404
    assert answer.status_code == 200
    assert files.get("a").data == DATA


@pytest.mark.parametrize("first", [1, HALF - 1, HALF + 1])
def test_a_part_that_is_not_the_next_one(files, first):
    break_off(files, "a", DATA[:HALF])
    answer = files.part("a", DATA[first:], first, len(DATA))
    status, text = error(answer)
    assert (status, answer.headers["Upload-Offset"]) == (416, str(HALF))
    assert f"bytes {HALF}-" in text
    assert offset(files, "a") == str(HALF)


def test_a_part_of_nothing(files):
    answer = files.part("a", DATA[10:], 10, len(DATA))
    assert (answer.status_code, answer.headers["Upload-Offset"]) == (416, "0")


def test_the_first_byte_begins_anew(files):
    break_off(files, "a", b"wrong" * 100)
    assert files.part("a", DATA, 0, len(DATA)).status_code == 200
    assert files.get("a").data == DATA


def test_a_plain_put_begins_anew(files):
    break_off(files, "a", b"wrong" * 100)
    files.store("a", DATA)
    assert files.get("a").data == DATA


def test_the_newest_counts_and_each_can_go_on(files):
    break_off(files, "a", b"x" * 100)
    break_off(files, "a", DATA[:200])
    assert offset(files, "a") == "200"
    assert files.part("a", b"y" * 50, 100, 150).status_code == 200
    assert files.get("a").data == b"x" * 100 + b"y" * 50


def test_an_upload_is_its_paths_alone(files):
    break_off(files, "a", DATA[:HALF])
    assert offset(files, "b") is None
    assert files.part("b", DATA[HALF:], HALF, len(DATA)).status_code == 416


def test_digests_are_of_the_whole_and_of_the_part(files):
    assert files.part("a", DATA[:HALF], 0, len(DATA), {"Content-Digest": digest_field(DATA[:HALF])}).status_code == 202
    answer = files.part("a", DATA[HALF:], HALF, len(DATA), {"Content-Digest": digest_field(b"other")})
    assert answer.status_code == 400
    assert offset(files, "a") == str(HALF)
    headers = {"Content-Digest": digest_field(DATA[HALF:]), "Repr-Digest": digest_field(DATA)}
    assert files.part("a", DATA[HALF:], HALF, len(DATA), headers).status_code == 200


def test_a_whole_that_has_another_digest_is_forgotten(files):
    files.part("a", DATA[:HALF], 0, len(DATA))
    assert files.part("a", DATA[HALF:], HALF, len(DATA), {"Repr-Digest": digest_field(b"other")}).status_code == 400
    assert offset(files, "a") is None


def test_conditions_count_at_the_end_as_well(files):
    files.part("a", DATA[:HALF], 0, len(DATA), {"If-None-Match": "*"})
    files.store("a", b"somebody else")
    assert files.part("a", DATA[HALF:], HALF, len(DATA), {"If-None-Match": "*"}).status_code == 412
    assert files.get("a").data == b"somebody else"


@pytest.mark.parametrize("header", ["bytes 0-9/*", "bytes 5-1/10", "0-9/10", "bytes 0-9/5", "nonsense"])
def test_ranges_that_are_none(files, header):
    status, _ = error(files.put("a", b"0123456789", {"Content-Range": header}))
    assert status == 400


def test_a_part_of_a_file_that_is_too_large(make_app):
    files = Files(make_app(raw={"max_file_size": 1000}).test_client())
    assert files.part("a", b"x" * 10, 0, 1001).status_code == 413
    assert offset(files, "a") is None


def test_uploads_that_broke_off_are_bounded_in_each_repository(files, monkeypatch):
    monkeypatch.setattr("noraflask.formats.raw.uploads.MOST_UNFINISHED", 3)
    for number in range(5):
        break_off(files, f"a{number}", DATA[:HALF])
    assert [offset(files, f"a{number}") for number in range(5)] == [str(HALF)] * 3 + [None] * 2


def test_an_upload_without_a_byte_is_not_kept(files):
    break_off(files, "a", b"")
    assert offset(files, "a") is None


def test_a_part_that_is_longer_than_its_range_is_taken_back(files):
    files.part("a", DATA[:100], 0, len(DATA))
    headers = {"Content-Range": f"bytes 100-199/{len(DATA)}", "Transfer-Encoding": "chunked"}
    answer = files.put("a", DATA[100:300], headers, environ_overrides={"wsgi.input_terminated": True})
    assert answer.status_code == 400
    assert offset(files, "a") == "100"


def test_bytes_that_no_name_leads_to_are_not_kept(make_app):
    storage = MemoryStorage()
    files = Files(make_app(storage).test_client())
    files.store("a", DATA)
    assert files.put("a", DATA[::-1]).status_code == 409
    assert [entry.key for entry in storage.list("blobs/")] == [f"blobs/sha256/{sha256(DATA)[:2]}/{sha256(DATA)}"]
