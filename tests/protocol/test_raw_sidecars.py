"""Checksums that lie beside each file: right, by the rights of the file, and computed once."""

from __future__ import annotations

import hashlib

import pytest
from flask.testing import FlaskClient

from noraflask.formats.raw import sidecars
from noraflask.keys import Key
from noraflask.services import rehashing
from noraflask.storage.memory import MemoryStorage
from tests.protocol.raw import Files, error, etag, sha256

DATA, OTHER = b"hello\n", b"other\n"


@pytest.fixture
def files(client: FlaskClient) -> Files:
    return Files(client)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "sha1", "md5"])
def test_checksums_lie_beside_the_file(files, algorithm):
    files.store("a/b.bin", DATA)
    for _ in range(2):
        answer = files.get(f"a/b.bin.{algorithm}")
        assert answer.status_code == 200
        assert answer.text == f"{hashlib.new(algorithm, DATA).hexdigest()}  b.bin\n"
        assert answer.content_type == "text/plain; charset=utf-8"
    assert files.get(f"a/b.bin.{algorithm}", If_None_Match=answer.headers["ETag"]).status_code == 304
    assert files.head(f"a/b.bin.{algorithm}").headers["Content-Length"] == str(len(answer.data))
    assert files.get("a/b.bin").data == DATA


def test_a_checksum_follows_its_file(files):
    files.store("a", DATA)
    files.get("a.md5")
    files.put("a", OTHER, {"If-Match": etag(DATA)})
    assert files.get("a.md5").text.startswith(hashlib.md5(OTHER).hexdigest())
    files.delete("a")
    assert files.get("a.md5").status_code == 404


def test_a_file_with_a_sidecars_name_is_a_file(files):
    files.have(a=DATA)
    files.store("a.sha256", b"mine")
    assert files.get("a.sha256").data == b"mine"
    assert files.get("a.sha256.sha256").text == f"{sha256(b'mine')}  a.sha256\n"
    files.delete("a.sha256")
    assert files.get("a.sha256").text == f"{sha256(DATA)}  a\n"


@pytest.mark.parametrize("path", ["none.sha256", "a.sha256.sha256", "a.SHA256", "a.sha224", ".sha256"])
def test_what_is_no_sidecar(files, path):
    files.have(a=DATA)
    assert files.get(path).status_code == 404


def test_a_file_is_hashed_once_and_large_ones_one_at_a_time(files, monkeypatch):
    hashed = []
    compute = sidecars.compute
    monkeypatch.setattr(rehashing, "AT_ONCE_BYTES", 10)
    monkeypatch.setattr(sidecars, "compute", lambda *of: (compute(*of), hashed.append(of))[0])
    files.have(small=b"small", large=b"x" * 100)
    with sidecars.REHASHING.turn(100):
        answer = files.get("large.md5")
        assert error(answer)[0] == 503
        assert answer.headers["Retry-After"] == "5"
        assert files.get("small.md5").status_code == files.get("large.sha256").status_code == 200
    for suffix in ("md5", "sha1", "sha512", "md5"):
        assert files.get(f"large.{suffix}").status_code == files.get(f"small.{suffix}").status_code == 200
    assert len(hashed) == 2


def lose(storage: MemoryStorage, data: bytes) -> None:
    storage.delete(Key(f"blobs/sha256/{sha256(data)[:2]}/{sha256(data)}"))


def test_lost_bytes_are_not_found_and_come_back_by_putting_them_again(make_app):
    storage = MemoryStorage()
    files = Files(make_app(storage).test_client())
    files.have(a=DATA)
    lose(storage, DATA)
    assert files.get("a.md5").status_code == 404
    files.store("a", DATA)
    assert files.get("a.md5").status_code == 200
