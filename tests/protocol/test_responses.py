"""send() for any format: its own headers, a date of change, and the conditions of RFC 9110, 13, in their order (13.2.2)."""

from __future__ import annotations

import pytest
from flask import Blueprint, Response
from werkzeug.http import http_date

from noraflask.digest import Digest
from noraflask.errors import NotFound
from noraflask.services.curation.model import Package
from noraflask.web import gate
from noraflask.web.access import PULL, access
from noraflask.web.context import services
from noraflask.web.responses import send
from tests.toy import app_of, toy_format

TEXT = b"0123456789"
DIGEST = Digest.of(TEXT)
ETAG = f'"{DIGEST.hex}"'
NOW = 1_800_000_000.5
OLDER, SAME, NEWER = (http_date(NOW + seconds) for seconds in (-60, 0, 60))
bp = Blueprint("files", __name__)


@bp.get("/<name>")
@access(PULL)
def get(name: str) -> Response:
    services().content.keep_bytes(TEXT, DIGEST)
    permit = gate.once(name, None, lambda: Package("files", name))
    headers = {"ETag": ETAG, "Repr-Digest": "sha-256=:x:"} if "etag" in name else {}
    return send(permit, DIGEST, len(TEXT), "text/plain", NotFound, headers, NOW if "date" in name else None)


@pytest.fixture
def client(tmp_path, monkeypatch):
    return app_of(tmp_path, monkeypatch, toy_format(bp, "files")).test_client()


def test_headers_are_the_formats_own(client):
    answer = client.get("/files/etag-date")
    assert (answer.status_code, answer.data) == (200, TEXT)
    assert (answer.headers["ETag"], answer.headers["Repr-Digest"]) == (ETAG, "sha-256=:x:")
    assert answer.headers["Last-Modified"] == SAME
    assert "Docker-Content-Digest" not in answer.headers
    bare = client.get("/files/bare")
    assert not {"ETag", "Last-Modified"} & set(bare.headers.keys())


@pytest.mark.parametrize(
    ("name", "headers", "status"),
    [
        ("etag-date", {"If-Modified-Since": SAME}, 304),
        ("etag-date", {"If-Modified-Since": NEWER}, 304),
        ("etag-date", {"If-Modified-Since": OLDER}, 200),
        ("etag-date", {"If-Modified-Since": "last Tuesday"}, 200),
        ("etag-date", {"If-Modified-Since": SAME, "If-None-Match": '"other"'}, 200),
        ("etag-date", {"If-Modified-Since": OLDER, "If-None-Match": ETAG}, 304),
        ("etag", {"If-Modified-Since": NEWER}, 200),
        ("etag-date", {"If-Unmodified-Since": OLDER}, 412),
        ("etag-date", {"If-Unmodified-Since": SAME}, 200),
        ("etag-date", {"If-Unmodified-Since": "soon"}, 200),
        ("etag-date", {"If-Unmodified-Since": OLDER, "If-Match": ETAG}, 200),
        ("etag", {"If-Unmodified-Since": OLDER}, 200),
        ("etag-date", {"If-Match": '"other"'}, 412),
        ("etag-date", {"If-Match": ETAG, "If-None-Match": ETAG}, 304),
        ("bare", {"If-Match": "*"}, 200),
        ("bare", {"If-Match": '""'}, 412),
        ("bare", {"If-None-Match": ", "}, 200),
        ("etag-date", {"Range": "bytes=0-1", "If-Range": ETAG}, 206),
        ("etag-date", {"Range": "bytes=0-1", "If-Range": '"other"'}, 200),
        ("etag-date", {"Range": "bytes=0-1", "If-Range": SAME}, 200),
        ("etag-date", {"Range": "bytes=0-1", "If-Modified-Since": OLDER}, 206),
        ("bare", {"Range": "bytes=0-1"}, 206),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_conditions(client, method, name, headers, status):
    answer = client.open(f"/files/{name}", method=method, headers=headers)
    assert answer.status_code == status
    if method == "GET" and status in (200, 206):
        assert answer.data == (TEXT if status == 200 else TEXT[:2])
    if status == 304:
        assert answer.data == b""
        assert answer.headers["ETag"] == ETAG
