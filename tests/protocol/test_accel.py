"""Bodies that a proxy sends itself (web/accel.py): who is told to, for what, and that it is told all that the plain answer says."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from noraflask.digest import Digest
from noraflask.services.content import content_key
from noraflask.storage.disk import DiskStorage
from noraflask.storage.memory import MemoryStorage
from noraflask.web.responses import INLINE_BYTES
from tests.multipart import parts_of
from tests.protocol.oci import Registry, code

ON = {"X-Nora-Accel": "on"}
LARGE = bytes(range(256)) * (INLINE_BYTES // 256) + b"end"
DIGEST = Digest.of(LARGE)
ETAG = f'"{DIGEST}"'
PATH = f"/v2/team/app/blobs/{DIGEST}"
HANDED = f"/_nora/blobs/sha256/{DIGEST.hex[:2]}/{DIGEST.hex}"
PEER = {"environ_overrides": {"REMOTE_ADDR": "10.0.0.7"}}
STRANGER = {"environ_overrides": {"REMOTE_ADDR": "192.0.2.9"}}
SETTING = {"accel_redirect": "/_nora/", "trusted_proxies": ("127.0.0.1", "10.0.0.0/8")}


class Reader(Registry):
    """Reads each answer to its end, so that no file stays open."""

    def ask(self, method: str, path: str, **more: Any) -> TestResponse:
        return super().ask(method, path, buffered=True, **more)


Build = Callable[..., Reader]


@pytest.fixture
def build(app_with: Callable[..., Flask], tmp_path: Path) -> Build:
    """A registry on disk, with the blob LARGE in team/app."""

    def make(server: dict[str, Any] = SETTING, storage: Any = None, **sections: Any) -> Reader:
        app = app_with(storage=storage or DiskStorage(tmp_path / "storage"), server=server, **sections)
        registry = Reader(app.test_client())
        registry.push_blob("team/app", LARGE)
        return registry

    return make


@pytest.mark.parametrize("peer", [{}, PEER], ids=["loopback", "network"])
def test_a_large_blob_is_handed_over(build, peer):
    answer = build().ask("GET", PATH, headers=ON, **peer)
    assert (answer.status_code, answer.data, answer.headers["Content-Length"]) == (200, b"", "0")
    assert answer.headers["X-Accel-Redirect"] == HANDED


@pytest.mark.parametrize(
    ("server", "headers", "more"),
    [
        ({}, ON, {}),
        (SETTING | {"accel_redirect": None}, ON, PEER),
        (SETTING, ON, STRANGER),
        (SETTING | {"trusted_proxies": ()}, ON, {}),
        (SETTING, {}, {}),
        (SETTING, {"X-Nora-Accel": ""}, {}),
        (SETTING, {"X-Nora-Accel": "ON"}, {}),
        (SETTING, {"X-Nora-Accel": "on, on"}, {}),
        (SETTING, {"X-Nora-Accel": "failed"}, {}),
        (SETTING, {"X-Accel-Redirect": HANDED}, {}),
        (SETTING, ON | {"If-Match": ETAG}, {}),
        (SETTING, ON | {"If-Unmodified-Since": "Wed, 21 Oct 2009 07:28:00 GMT"}, {}),
        (SETTING, ON, {"method": "HEAD"}),
        (SETTING, ON, {"storage": MemoryStorage()}),
    ],
)
def test_who_gets_the_body_itself(build, server, headers, more):
    more = dict(more)
    method, storage = more.pop("method", "GET"), more.pop("storage", None)
    answer = build(server, storage).ask(method, PATH, headers=headers, **more)
    assert (answer.status_code, answer.headers["Content-Length"]) == (200, str(len(LARGE)))
    assert answer.data == (LARGE if method == "GET" else b"")
    assert not [name for name, _ in answer.headers if name.startswith(("X-Accel", "X-Nora-Cache"))]


def test_a_condition_that_fails_hands_nothing_over(build):
    answer = build().ask("GET", PATH, headers=ON | {"If-Match": '"other"'})
    assert answer.status_code == 412
    assert "X-Accel-Redirect" not in answer.headers


@pytest.mark.parametrize(("size", "handed"), [(1, False), (INLINE_BYTES, False), (INLINE_BYTES + 1, True)])
def test_small_bodies_go_with_the_head(build, size, handed):
    registry = build()
    answer = registry.ask("GET", f"team/app/blobs/{registry.push_blob('team/app', LARGE[:size])}", headers=ON)
    assert ("X-Accel-Redirect" in answer.headers) is handed
    assert answer.data == (b"" if handed else LARGE[:size])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Range": "bytes=5-10"}, 206),
        ({"Range": "BYTES=5-"}, 206),
        ({"Range": "bytes=-7"}, 206),
        ({"Range": f"bytes=-{len(LARGE) + 1}"}, 206),
        ({"Range": "bytes=0-999999999999999999"}, 206),
        ({"Range": "bytes=5-10", "If-Range": ETAG}, 206),
        ({"Range": "bytes=5-10", "If-Range": '"other"'}, 200),
        ({"Range": "bytes=5-10", "If-Range": "Wed, 21 Oct 2015 07:28:00 GMT"}, 200),
        ({"If-None-Match": '"other"'}, 200),
        ({"If-Modified-Since": "Wed, 21 Oct 2099 07:28:00 GMT"}, 200),
    ],
)
def test_ranges_and_conditions_that_nginx_reads_as_we_do(build, headers, status):
    registry = build()
    plain, answer = registry.ask("GET", PATH, headers=headers), registry.ask("GET", PATH, headers=ON | headers)
    assert (plain.status_code, answer.status_code) == (status, status)
    assert answer.headers["X-Accel-Redirect"] == HANDED
    assert answer.data == b""


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Range": "bytes=1-2,2-5"}, 206),
        ({"Range": "bytes=0-1,999999999-"}, 206),
        ({"Range": f"bytes={','.join(f'{2 * at}-{2 * at}' for at in range(1000))}"}, 200),
        ({"Range": "bytes=a-b"}, 200),
        ({"Range": "bytes=-0"}, 200),
        ({"Range": "items=0-1"}, 200),
        ({"Range": "bytes= 5-10"}, 206),
        ({"Range": "bytes=5-99999999999999999999"}, 206),
        ({"Range": f"bytes={len(LARGE)}-"}, 416),
        ({"Range": "bytes=10-5"}, 416),
        ({"If-None-Match": ETAG}, 304),
        ({"If-None-Match": "*"}, 304),
    ],
)
def test_what_nginx_might_see_otherwise_is_answered_here(build, headers, status):
    registry = build()
    plain, answer = registry.ask("GET", PATH, headers=headers), registry.ask("GET", PATH, headers=ON | headers)
    assert answer.status_code == status
    assert "X-Accel-Redirect" not in answer.headers
    assert (answer.data, same(answer.headers)) == (plain.data, same(plain.headers))


def test_several_ranges_are_sent_from_here(build):
    """nginx would send each as often as it was asked for."""
    registry = build()
    answer = registry.ask("GET", PATH, headers=ON | {"Range": "bytes=0-9,100-109,5-12"})
    assert "X-Accel-Redirect" not in answer.headers
    assert parts_of(answer) == [(f"bytes {start}-{stop - 1}/{len(LARGE)}", LARGE[start:stop]) for start, stop in ((0, 13), (100, 110))]


def same(headers: Any) -> list[tuple[str, str]]:
    return sorted((name, value) for name, value in headers if name != "X-Request-Id")


@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=5-10"}])
@pytest.mark.parametrize("rules", [None, '[[block]]\nformat = "docker"\nname = "other"\n'], ids=["open", "curated"])
def test_the_proxy_is_told_all_that_the_plain_answer_says(build, headers, rules):
    registry = build(**({"curation": {"mode": "enforce", "rules": rules}} if rules else {}))
    plain, answer = same(registry.ask("GET", PATH, headers=headers).headers), same(registry.ask("GET", PATH, headers=ON | headers).headers)
    assert "Cache-Control" not in dict(answer)  # nginx would keep it, whatever becomes of the answer
    renamed = {"X-Nora-Cache-Control": "Cache-Control"}
    left_out = ("Accept-Ranges", "Content-Length")  # nginx counts itself
    own = ("Content-Length", "X-Accel-Redirect")
    assert [(name, value) for name, value in plain if name not in left_out] == sorted(
        (renamed.get(name, name), value) for name, value in answer if name not in own
    )
    assert ("X-Nora-Policy" in dict(answer)) is (rules is not None)


def test_a_large_manifest_is_handed_over_as_well(build):
    registry = build()
    digest = registry.push_image("team/app", "v1", annotations={"text": "x" * INLINE_BYTES})
    answer = registry.ask("GET", "team/app/manifests/v1", headers=ON)
    assert answer.headers["X-Accel-Redirect"].endswith(digest.hex)
    assert answer.headers["Vary"] == "Accept"
    assert "X-Nora-Cache-Control" not in answer.headers


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_the_path_is_that_of_the_file(build, tmp_path, algorithm):
    registry = build()
    digest = registry.push_blob("team/app", LARGE, algorithm)
    told = registry.ask("GET", f"team/app/blobs/{digest}", headers=ON).headers["X-Accel-Redirect"]
    assert (tmp_path / "storage" / told.removeprefix("/_nora/")).read_bytes() == LARGE


def test_the_prefix_is_configured(build):
    answer = build(SETTING | {"accel_redirect": "/in/side/"}).ask("GET", PATH, headers=ON)
    assert answer.headers["X-Accel-Redirect"] == HANDED.replace("/_nora/", "/in/side/")


# ------------------------------------------------------------------------------------------------ every check comes first


def test_a_blob_of_another_repository_is_not_there(build):
    answer = build().ask("GET", PATH.replace("team", "other"), headers=ON)
    assert code(answer) == (404, "BLOB_UNKNOWN")
    assert "X-Accel-Redirect" not in answer.headers


@pytest.mark.parametrize("what", ["blob", "manifest"])
def test_content_that_is_gone_is_our_own_404(build, tmp_path, what):
    registry = build()
    digest, path = DIGEST, PATH
    if what == "manifest":
        digest = registry.push_image("team/app", "v1", annotations={"text": "x" * INLINE_BYTES})
        path = f"/v2/team/app/manifests/{digest}"
    (tmp_path / "storage" / content_key(digest)).unlink()
    assert code(registry.ask("GET", path, headers=ON)) == (404, f"{what.upper()}_UNKNOWN")


def test_content_of_another_length_is_not_handed_over(build, tmp_path):
    """What the manifest's pointer promises, nginx would not know."""
    registry = build()
    digest = registry.push_image("team/app", "v1", annotations={"text": "x" * INLINE_BYTES})
    (tmp_path / "storage" / content_key(digest)).write_bytes(LARGE[:INLINE_BYTES])
    assert "X-Accel-Redirect" not in registry.ask("GET", "team/app/manifests/v1", headers=ON).headers


def test_what_curation_refuses_is_not_handed_over(build):
    registry = build(curation={"mode": "enforce", "rules": '[[block]]\nformat = "docker"\nname = "team/app"\nreason = "no"\n'})
    answer = registry.ask("GET", PATH, headers=ON)
    assert answer.status_code == 403
    assert "X-Accel-Redirect" not in answer.headers


def test_who_may_not_read_gets_no_path(build, app_with, tmp_path):
    build()
    app = app_with(storage=DiskStorage(tmp_path / "storage"), server=SETTING, auth={"users": {"alice": "a password"}})
    registry = Reader(app.test_client())
    answer = registry.ask("GET", PATH, headers=ON)
    assert answer.status_code == 401
    assert "X-Accel-Redirect" not in answer.headers
    assert registry.ask("GET", PATH, headers=ON, auth=("alice", "a password")).headers["X-Accel-Redirect"] == HANDED


@pytest.mark.parametrize(("more", "warned"), [({}, True), (STRANGER, False)], ids=["proxy", "stranger"])
def test_a_file_that_the_proxy_could_not_read_is_sent_from_here_and_told(build, caplog, more, warned):
    with caplog.at_level(logging.WARNING, "noraflask.web.accel"):
        answer = build().ask("GET", PATH, headers={"X-Nora-Accel": "failed"}, **more)
    assert answer.data == LARGE
    assert (str(content_key(DIGEST)) in caplog.text) is warned
