"""Rights by path and the policy's gate, on files, their sidecars, their uploads and listings."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from werkzeug.test import TestResponse

from tests.protocol.access import Door, basic, rule
from tests.protocol.raw import Files

RULES = (
    rule(("pull",), users=("*",), names=("pub/**",)),
    rule(("pull", "push", "delete"), users=("ann",), names=("**",)),
    rule(("pull",), users=("bob",), names=("team/b/*", "team/one/file.txt")),
    rule(("pull",), users=("bob",), names=("pub/secret/**",), effect="deny"),
    rule(("pull", "push"), users=("carl",), names=("pub/**",)),
    rule(("pull",), anonymous=True, names=("open/**",)),
)
PATHS = ("pub/a", "pub/secret/a", "team/a/a", "team/b/a", "team/one/file.txt", "team/one/other.txt", "open/a", "top")


class As(Files):
    def __init__(self, files: Files, user: str) -> None:
        super().__init__(files.client, files.mount)
        self.user = user

    def ask(self, method: str, path: str, **more: Any) -> TestResponse:
        login = {"Authorization": basic(self.user, "pw")} if self.user else {}
        return super().ask(method, path, **{**more, "headers": {**more.get("headers", {}), **login}})


@pytest.fixture
def server(make_app) -> Files:
    app = make_app(auth={"users": {"ann": "pw", "bob": "pw", "carl": "pw"}}, access={"rules": RULES, "default_role": "none"})
    files = Files(app.test_client())
    for path in PATHS:
        As(files, "ann").store(path, path.encode())
    return files


def listed(files: Files, path: str) -> set[str]:
    answer = files.get(path)
    if answer.status_code != 200:
        return set()
    return {f"{name}/" for name in answer.json["folders"]} | {entry["name"] for entry in answer.json["files"]}


@pytest.mark.parametrize("suffix", ["", ".sha256", ".md5"])
def test_rights_are_by_path(server, suffix):
    bob = As(server, "bob")
    may = {path for path in PATHS if bob.get(f"{path}{suffix}").status_code == 200}
    assert may == {"pub/a", "team/b/a", "open/a"} | ({"team/one/file.txt"} if not suffix else set())
    assert all(bob.put(path, b"x").status_code == 403 for path in PATHS)
    assert all(bob.delete(path).status_code == 403 for path in PATHS)


def test_a_sidecar_needs_the_right_to_its_file(make_app):
    rules = (*RULES, rule(("pull",), users=("bob",), names=("x/*",)), rule(("pull",), users=("bob",), names=("x/secret",), effect="deny"))
    server = Files(make_app(auth={"users": {"ann": "pw", "bob": "pw", "carl": "pw"}}, access={"rules": rules, "default_role": "none"}).test_client())
    As(server, "ann").store("x/secret", b"1")
    assert As(server, "bob").get("x/secret.sha256").status_code == 403
    assert As(server, "ann").get("x/secret.sha256").status_code == 200


def test_listings_show_what_may_be_had(server):
    bob, ann, nobody = As(server, "bob"), As(server, "ann"), As(server, "")
    assert listed(ann, "") == {"pub/", "team/", "open/", "top"}
    assert listed(bob, "") == {"pub/", "team/", "open/"}
    assert listed(bob, "pub/") == {"a"}
    assert listed(bob, "pub/secret/") == set()
    assert listed(bob, "team/") == {"b/", "one/"}
    assert listed(bob, "team/one/") == {"file.txt"}
    assert listed(nobody, "") == {"open/"}
    assert listed(nobody, "open/") == {"a"}


def test_without_any_right_there_is_a_challenge(make_app):
    server = Files(make_app(auth={"users": {"ann": "pw"}}, access={"rules": RULES[1:2], "default_role": "none"}).test_client())
    for path in ("", "a", "a/"):
        answer = server.get(path)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")


def test_unfinished_uploads_are_their_principals_alone(server):
    ann, bob, carl = As(server, "ann"), As(server, "bob"), As(server, "carl")
    ann.ask("PUT", "pub/new", environ_overrides={"wsgi.input": io.BytesIO(b"half"), "CONTENT_LENGTH": "8"})
    assert ann.head("pub/new").headers["Upload-Offset"] == "4"
    assert "Upload-Offset" not in bob.head("pub/new").headers
    assert "Upload-Offset" not in carl.head("pub/new").headers
    assert carl.part("pub/new", b"done", 4, 8).status_code == 416
    assert As(server, "").head("pub/new").status_code == 401
    assert ann.part("pub/new", b"done", 4, 8).status_code == 200


# ---- the gate


def table(kind: str, **members: Any) -> str:
    return f"[[{kind}]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in {"format": "raw", **members}.items())


def curated(make_app, *tables: str, **settings: Any) -> Files:
    return Files(make_app(curation={"mode": "enforce", "rules": "\n".join(tables), **settings}, audit={"mode": "file"}).test_client())


def test_what_is_blocked_cannot_be_had_by_any_route(make_app):
    files = curated(make_app, table("block", name="tools/bad*"))
    files.store("tools/bad.bin", b"bad")
    files.store("tools/good.bin", b"good")
    for path in ("tools/bad.bin", "tools/bad.bin.sha256", "tools/bad.bin.md5"):
        for method in ("GET", "HEAD"):
            answer = files.ask(method, path)
            assert answer.status_code == 403, (method, path)
            assert answer.headers["x-nora-decision"] == "blocked"
        assert files.get(path, Range="bytes=0-0").status_code == 403
        assert files.get(path, If_None_Match="*").status_code == 403
    assert listed(files, "tools/") == {"good.bin"}
    assert files.get("tools/good.bin.md5").status_code == 200


def test_a_folder_whose_files_are_all_blocked_is_empty(make_app):
    files = curated(make_app, table("block", name="bad/**"))
    files.store("bad/file", b"1")
    answer = files.get("bad/")
    assert (answer.status_code, answer.json["files"]) == (200, [])
    assert files.get("none/").status_code == 404


def test_an_allowlist_lets_its_files_through_and_lists_them(make_app):
    files = curated(make_app, table("allow", name="tools/good.bin"))
    files.store("tools/good.bin", b"good")
    files.store("tools/other.bin", b"other")
    assert files.get("tools/good.bin").status_code == 200
    assert files.get("tools/other.bin").status_code == 403
    assert listed(files, "") == {"tools/"}
    assert listed(files, "tools/") == {"good.bin"}


def test_what_is_pushed_and_deleted_is_written_down(make_app):
    door = Door(make_app(audit={"mode": "file"}))
    files = Files(door.client)
    files.store("a/b", b"1")
    files.delete("a/b")
    lines = [(line["action"], line["artifact"], line["registry"]) for line in door.audit()]
    assert lines == [("push", "a/b", "raw"), ("delete", "a/b", "raw")]


def test_a_refused_condition_or_digest_leaves_no_line(make_app):
    door = Door(make_app(audit={"mode": "file"}))
    files = Files(door.client)
    files.put("a", b"1", {"If-Match": "*"})
    files.put("a", b"1", {"X-Checksum-Sha256": "0" * 64})
    files.delete("a")
    assert door.audit() == []
