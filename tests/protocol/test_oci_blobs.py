"""distribution-spec, "Pulling blobs", "Deleting Blobs"; RFC 9110, 13 (conditional requests) and 14 (ranges)."""

from __future__ import annotations

import pytest

from noraflask.digest import Digest
from noraflask.services.content import content_key
from noraflask.storage import GRACE_SECONDS
from noraflask.storage.memory import MemoryStorage
from noraflask.web.byte_ranges import MOST_RANGES
from noraflask.web.responses import INLINE_BYTES
from tests.multipart import parts_of
from tests.protocol.oci import Registry, code

DATA = b"0123456789"
DIGEST, ABSENT = Digest.of(DATA), Digest.of(b"absent")
LARGE = bytes(range(256)) * (INLINE_BYTES // 256) + b"end"


@pytest.fixture(params=["sha256", "sha512"])
def blob(request, registry) -> str:
    """The path of one that is there."""
    return f"/v2/team/app/blobs/{registry.push_blob('team/app', DATA, request.param)}"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_pull(registry, blob, method):
    answer = registry.ask(method, blob)
    digest = blob.rpartition("/")[2]
    assert answer.status_code == 200
    assert answer.data == (DATA if method == "GET" else b"")
    assert answer.headers["Content-Length"] == "10"
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Docker-Content-Digest"] == digest
    assert answer.headers["ETag"] == f'"{digest}"'
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert "immutable" in answer.headers["Cache-Control"]


@pytest.mark.parametrize("data", [b"", LARGE[:INLINE_BYTES], LARGE[: INLINE_BYTES + 1], LARGE], ids=len)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_pull_of_any_size(registry, method, data):
    answer = registry.ask(method, f"app/blobs/{registry.push_blob('app', data)}")
    assert (answer.status_code, answer.headers["Content-Length"]) == (200, str(len(data)))
    assert answer.data == (data if method == "GET" else b"")


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"team/app/blobs/{ABSENT}", (404, "BLOB_UNKNOWN")),
        (f"team/app/blobs/{Digest.of(DATA, 'sha512')}", (404, "BLOB_UNKNOWN")),
        (f"team/other/blobs/{DIGEST}", (404, "BLOB_UNKNOWN")),
        (f"team/blobs/{DIGEST}", (404, "BLOB_UNKNOWN")),
        ("team/app/blobs/sha256:abc", (400, "DIGEST_INVALID")),
        ("team/app/blobs/latest", (400, "DIGEST_INVALID")),
        ("team/app/blobs/" + str(DIGEST).upper(), (400, "DIGEST_INVALID")),
        ("team/app/blobs/md5:" + "0" * 32, (400, "DIGEST_INVALID")),
        ("team/app/blobs/%ff", (400, "DIGEST_INVALID")),
        (f"Team/app/blobs/{DIGEST}", (400, "NAME_INVALID")),
        (f"team/../app/blobs/{DIGEST}", (404, "UNSUPPORTED")),
        (f"_blobs/blobs/{DIGEST}", (400, "NAME_INVALID")),
    ],
)
def test_what_is_not_there(registry, method, path, expected):
    registry.push_blob("team/app", DATA)
    answer = registry.ask(method, path)
    if method == "HEAD":
        assert (answer.status_code, answer.data) == (expected[0], b"")
    else:
        assert code(answer) == expected


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=0-9", 0, 9),
        ("bytes=0-0", 0, 0),
        ("bytes=3-5", 3, 5),
        ("bytes=9-9", 9, 9),
        ("bytes=4-", 4, 9),
        ("bytes=0-", 0, 9),
        ("bytes=5-100", 5, 9),
        ("bytes=-1", 9, 9),
        ("bytes=-3", 7, 9),
        ("bytes=-10", 0, 9),
        ("bytes=-11", 0, 9),  # RFC 9110, 14.1.2: shorter than the suffix: all of it
        ("bytes=-1000000", 0, 9),
        ("BYTES=3-5", 3, 5),
    ],
)
def test_ranges(registry, blob, header, first, last):
    for method in ("GET", "HEAD"):
        answer = registry.ask(method, blob, headers={"Range": header})
        assert answer.status_code == 206
        assert answer.headers["Content-Range"] == f"bytes {first}-{last}/10"
        assert answer.headers["Content-Length"] == str(last - first + 1)
        assert answer.data == (DATA[first : last + 1] if method == "GET" else b"")


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=5-3", "bytes=500-0", "bytes=100-200", "bytes=99999999999999999999-"])
def test_ranges_outside_of_the_blob(registry, blob, header):
    answer = registry.ask("GET", blob, headers={"Range": header})
    assert code(answer)[0] == 416
    assert answer.headers["Content-Range"] == "bytes */10"


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=5-", "bytes=0-1,3-4", "bytes=3-1"])
def test_of_an_empty_blob_there_is_nothing_to_take_a_part_of(registry, header):
    """Some clients send a Range with each request, to limit what they get."""
    path = f"app/blobs/{registry.push_blob('app', b'')}"
    for method in ("GET", "HEAD"):
        answer = registry.ask(method, path, headers={"Range": header})
        assert (answer.status_code, answer.headers["Content-Length"], answer.data) == (200, "0", b"")
        assert "Content-Range" not in answer.headers


@pytest.mark.parametrize(
    "header", ["", "bytes", "bytes=", "bytes=a-b", "items=0-1", "0-1", "bytes=0-1,5-3", "bytes=0-1,x", "bytes=,", "bytes=--1", "bytes=1--2", "\xff"]
)
def test_what_may_be_ignored_is_ignored(registry, blob, header):
    answer = registry.ask("GET", blob, headers={"Range": header})
    assert (answer.status_code, answer.data) == (200, DATA)


@pytest.mark.parametrize("header", ["bytes=0-1,4-5", "bytes=0-1,-1", f"bytes={','.join(f'{at}-{at}' for at in range(0, 10, 2))}"])
def test_several_ranges_that_would_take_more_bytes_than_the_whole(registry, blob, header):
    for method in ("GET", "HEAD"):
        answer = registry.ask(method, blob, headers={"Range": header})
        assert (answer.status_code, answer.headers["Content-Length"]) == (200, "10")
        assert answer.data == (DATA if method == "GET" else b"")


@pytest.mark.parametrize(
    ("header", "first", "last"), [("bytes=0-1,50-60", 0, 1), ("bytes=5-6,0-4", 0, 6), ("bytes=-2,7-8", 7, 9), ("bytes=1-1,1-1", 1, 1)]
)
def test_several_ranges_that_come_to_one(registry, blob, header, first, last):
    answer = registry.ask("GET", blob, headers={"Range": header})
    assert (answer.status_code, answer.data) == (206, DATA[first : last + 1])
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/10"
    assert answer.headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize("data", [b"x" * INLINE_BYTES, LARGE], ids=["small", "large"])
def test_several_ranges(registry, data):
    """As stargz-snapshotter asks for chunks of a layer."""
    path, size = f"app/blobs/{registry.push_blob('app', data)}", len(data)
    headers = {"Range": f"bytes=500-599,0-99 , 550-649,-10,{size + 5}-"}
    expected = [(500, 650), (0, 100), (size - 10, size)]
    answer = registry.ask("GET", path, headers=headers)
    assert answer.status_code == 206
    assert parts_of(answer) == [(f"bytes {start}-{stop - 1}/{size}", data[start:stop]) for start, stop in expected]
    assert answer.headers["Content-Length"] == str(len(answer.data))
    assert "Content-Range" not in answer.headers
    assert answer.headers["ETag"] == registry.ask("HEAD", path).headers["ETag"]
    head = registry.ask("HEAD", path, headers=headers)
    assert (head.status_code, head.headers["Content-Length"]) == (206, str(len(answer.data)))
    other = registry.ask("GET", path, headers={**headers, "If-Range": '"other"'})
    assert (other.status_code, other.data) == (200, data)
    gone = registry.ask("GET", path, headers={"Range": f"bytes={size}-,{size + 5}-{size + 9},-0"})
    assert (code(gone)[0], gone.headers["Content-Range"]) == (416, f"bytes */{size}")


def test_more_ranges_than_one_answer_has(registry):
    path = f"app/blobs/{registry.push_blob('app', LARGE)}"
    few, many = (",".join(f"{200 * at}-{200 * at}" for at in range(count)) for count in (MOST_RANGES, MOST_RANGES + 1))
    assert len(parts_of(registry.ask("GET", path, headers={"Range": f"bytes={few}"}))) == MOST_RANGES
    answer = registry.ask("GET", path, headers={"Range": f"bytes={many}"})
    assert (answer.status_code, answer.data) == (200, LARGE)
    answer = registry.ask("GET", path, headers={"Range": f"bytes={','.join(['7-7'] * MOST_RANGES)}"})
    assert (answer.status_code, answer.data) == (206, LARGE[7:8])


def test_the_first_of_several_ranges_is_there_before_the_answer_begins(make_app):
    storage = MemoryStorage()
    registry = Registry(make_app(storage).test_client())
    digest = registry.push_blob("app", LARGE)
    storage.delete(content_key(digest))
    assert code(registry.ask("GET", f"app/blobs/{digest}", headers={"Range": "bytes=0-9,100-109"})) == (404, "BLOB_UNKNOWN")


@pytest.mark.parametrize(("first", "last"), [(0, 0), (1, INLINE_BYTES), (1, INLINE_BYTES + 1), (INLINE_BYTES, INLINE_BYTES + 2), (5, 6)])
def test_ranges_of_a_large_blob(registry, first, last):
    answer = registry.ask("GET", f"app/blobs/{registry.push_blob('app', LARGE)}", headers={"Range": f"bytes={first}-{last}"})
    assert (answer.status_code, answer.data) == (206, LARGE[first : last + 1])


@pytest.mark.parametrize(("if_range", "status"), [("{etag}", 206), ('"other"', 200), ("Wed, 21 Oct 2015 07:28:00 GMT", 200), ("W/{etag}", 200)])
def test_if_range(registry, blob, if_range, status):
    etag = registry.ask("HEAD", blob).headers["ETag"]
    answer = registry.ask("GET", blob, headers={"Range": "bytes=2-3", "If-Range": if_range.format(etag=etag)})
    assert (answer.status_code, answer.data) == (status, DATA[2:4] if status == 206 else DATA)


@pytest.mark.parametrize(
    ("header", "status"),
    [("{etag}", 304), ("*", 304), ("W/{etag}", 304), ('"a", {etag}', 304), ('"a",W/{etag} ,"b"', 304), ('"a"', 200), ("", 200), ("{bare}", 200)],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_if_none_match(registry, blob, method, header, status):
    etag = registry.ask("HEAD", blob).headers["ETag"]
    answer = registry.ask(method, blob, headers={"If-None-Match": header.format(etag=etag, bare=etag.strip('"')), "Range": "bytes=0-9"})
    assert answer.status_code == (status if status == 304 else 206)
    assert answer.headers["ETag"] == etag
    if status == 304:
        assert answer.data == b""
        assert "Content-Range" not in answer.headers


@pytest.mark.parametrize(
    ("header", "status"),
    [("{etag}", 206), ("*", 206), ('"a", {etag}', 206), ("W/{etag}", 412), ('"a"', 412), ("", 412), ("{bare}", 412)],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_if_match(registry, blob, method, header, status):
    """RFC 9110, 13.1.1: the strong comparison; and it is looked at before If-None-Match and Range."""
    etag = registry.ask("HEAD", blob).headers["ETag"]
    headers = {"If-Match": header.format(etag=etag, bare=etag.strip('"')), "Range": "bytes=0-9"}
    assert registry.ask(method, blob, headers=headers).status_code == status
    assert registry.ask(method, blob, headers=headers | {"If-None-Match": etag}).status_code == (412 if status == 412 else 304)


@pytest.mark.parametrize(("method", "held"), [("HEAD", [DIGEST]), ("GET", [])])
def test_who_may_push_can_rely_on_a_blob_that_is_there(registry, monkeypatch, method, held):
    """It is leased before it is looked for: the manifest that needs it comes in a later request."""
    registry.push_blob("app", DATA)
    content, touched = registry.client.application.services.content, []
    stat = content.stat
    monkeypatch.setattr(content, "touch", lambda *digests: touched.extend(digests))
    monkeypatch.setattr(content, "stat", lambda digest: stat(digest) if touched == held else pytest.fail("looked before it was leased"))
    assert registry.status(f"app/blobs/{DIGEST}", method) == 200
    assert touched == held


def test_a_blob_that_is_unknown_is_not_leased(registry, monkeypatch):
    """Nobody relies on it; nor on content that is here under other names alone."""
    registry.push_blob("other", DATA)
    monkeypatch.setattr(registry.client.application.services.content, "touch", lambda *digests: pytest.fail("leased"))
    assert registry.status(f"app/blobs/{DIGEST}", "HEAD") == 404


def test_delete(registry):
    for name in ("app", "other"):
        registry.push_blob(name, DATA)
    assert registry.ask("DELETE", f"app/blobs/{DIGEST}").status_code == 202
    assert code(registry.ask("GET", f"app/blobs/{DIGEST}")) == (404, "BLOB_UNKNOWN")
    assert code(registry.ask("DELETE", f"app/blobs/{DIGEST}")) == (404, "BLOB_UNKNOWN")
    assert registry.ask("GET", f"other/blobs/{DIGEST}").data == DATA
    registry.push_blob("app", DATA)
    assert registry.ask("GET", f"app/blobs/{DIGEST}").data == DATA


def test_bytes_that_vanished_from_storage_are_an_unknown_blob(make_app):

    storage = MemoryStorage()
    registry = Registry(make_app(storage).test_client())
    registry.push_blob("app", DATA)
    storage.delete(content_key(DIGEST))
    assert code(registry.ask("GET", f"app/blobs/{DIGEST}")) == (404, "BLOB_UNKNOWN")
    registry.push_blob("app", DATA)
    assert registry.ask("GET", f"app/blobs/{DIGEST}").data == DATA


@pytest.mark.parametrize("ask", ["HEAD", "mount", "push"])
def test_what_a_pusher_was_told_of_is_not_deleted_before_he_can_link_it(make_app, ask):
    """The manifest that names the blob comes in a later request."""
    storage, now = MemoryStorage(), [1e9]
    registry, leases = Registry(make_app(storage).test_client()), storage.abilities.leases
    leases._clock = lambda: now[0]
    registry.push_blob("app", DATA)
    now[0] += 3 * GRACE_SECONDS
    if ask == "HEAD":
        assert registry.ask("HEAD", f"app/blobs/{DIGEST}").status_code == 200
    elif ask == "mount":
        assert registry.ask("POST", f"other/blobs/uploads/?mount={DIGEST}&from=app").status_code == 201
    else:
        registry.push_blob("app", DATA)
    assert not leases.reap(content_key(DIGEST), leases.mark(), lambda: False)
    now[0] += 3 * GRACE_SECONDS
    assert leases.reap(content_key(DIGEST), leases.mark(), lambda: False)
    assert registry.ask("HEAD", f"app/blobs/{DIGEST}").status_code == 404
