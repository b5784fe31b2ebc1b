"""Listings of folders over HTTP: for programs and for people, page by page, and only what the caller may see."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from noraflask.digest import Digest
from noraflask.formats.raw import protocol
from noraflask.pointer import Pointer
from tests.protocol.raw import Files, error, sha256

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
def files(client: FlaskClient) -> Files:
    files = Files(client)
    for path in ("readme.txt", "tools/a.txt", "tools/b.txt", "tools/linux/app", "tools/linux/deep/er", "tools.txt"):
        files.store(path, path.encode())
    return files


def names(files: Files, path: str) -> tuple[list[str], list[str]]:
    answer = files.get(path)
    assert answer.status_code == 200
    return answer.json["folders"], [entry["name"] for entry in answer.json["files"]]


@pytest.mark.parametrize(
    ("path", "folders", "found"),
    [
        ("", ["tools"], ["readme.txt", "tools.txt"]),
        ("tools/", ["linux"], ["a.txt", "b.txt"]),
        ("tools/linux/", ["deep"], ["app"]),
        ("tools/linux/deep/", [], ["er"]),
    ],
)
def test_a_folder_for_programs(files, path, folders, found):
    answer = files.get(path)
    assert answer.content_type == "application/json"
    assert answer.headers["Vary"] == "Accept"
    assert answer.json["path"] == path
    assert answer.json["next"] is None
    assert names(files, path) == (folders, found)
    assert files.head(path).status_code == 200


def test_what_is_told_of_a_file(files):
    (entry, _) = files.get("tools/").json["files"]
    assert entry.pop("modified").endswith("Z")
    assert entry == {"name": "a.txt", "size": 11, "sha256": sha256(b"tools/a.txt"), "content_type": "text/plain"}


def test_a_folder_for_people(files):
    answer = files.ask("GET", "tools/", headers=HTML)
    assert answer.content_type == "text/html; charset=utf-8"
    for link in ('href="../"', 'href="./linux/"', 'href="./a.txt"'):
        assert link in answer.text
    (policy,) = answer.headers.getlist("Content-Security-Policy")
    assert "allow-downloads" in policy
    assert "default-src 'none'" in policy
    assert "allow-scripts" not in policy


def test_all_other_answers_keep_the_usual_policy(files):
    for path in ("tools/", "tools/a.txt", "none/"):
        (policy,) = files.get(path).headers.getlist("Content-Security-Policy")
        assert "allow-downloads" not in policy


@pytest.mark.parametrize("accept", [None, HTML["Accept"]])
def test_pages(files, accept):
    found, path = [], "tools/?n=1"
    while path:
        answer = files.ask("GET", path, headers={"Accept": accept} if accept else {})
        assert answer.status_code == 200
        if not accept:
            found += answer.json["folders"] + [entry["name"] for entry in answer.json["files"]]
        link = answer.headers.get("Link", "")
        assert not link or link.endswith('>; rel="next"')
        path = link.partition(">")[0][1:]
        if accept:
            found.append(answer.text)
            assert ('rel="next"' in answer.text) == bool(link)
    assert len(found) == 3
    assert accept or found == ["linux", "a.txt", "b.txt"]


def test_the_next_page_is_found_from_the_body_as_well(files):
    first = files.get("tools/?n=2").json
    assert [entry["name"] for entry in files.get(f"tools/{first['next']}").json["files"]] == ["b.txt"]


def test_a_page_behind_the_end_is_empty(files):
    assert files.get("tools/?last=zzz").json["files"] == []


@pytest.mark.parametrize("n", ["0", "-1", "x"])
def test_bad_pages(files, n):
    assert error(files.get(f"tools/?n={n}"))[0] == 400


@pytest.mark.parametrize("path", ["none/", "readme.txt/", "tool/", "tools/a.txt/"])
def test_folders_that_are_not_there(files, path):
    assert error(files.get(path))[0] == 404


def test_an_empty_repository_has_an_empty_top(client):
    assert Files(client).get("").json == {"path": "", "folders": [], "files": [], "next": None}


def test_a_folder_goes_with_its_last_file(files):
    files.delete("tools/linux/deep/er")
    assert names(files, "tools/linux/") == ([], ["app"])
    files.delete("tools/linux/app")
    assert names(files, "tools/")[0] == []
    assert error(files.get("tools/linux/"))[0] == 404


def test_a_repository_may_not_list(make_app):
    files = Files(make_app(raw={"listing": False}).test_client())
    files.store("a/b")
    for path in ("", "a/"):
        assert error(files.get(path))[0] == 404
    assert files.get("a/b").status_code == 200


@pytest.mark.parametrize("name", ["<script>alert(1)<script>", '"><b>', "a b", "ü", "a:b", "100%", "#?&", "'", "+a=b", "=", "+"])
def test_odd_names_come_back_as_they_are(client, name):
    from urllib.parse import quote

    files = Files(client)
    address = quote(f"x/{name}", safe="/")
    files.store(f"{address}/{quote(name)}", b"1")
    files.store(f"x/{quote('f' + name)}", b"2")
    assert names(files, "x/") == ([name], [f"f{name}"])
    assert names(files, f"{address}/") == ([], [name])
    assert files.get(f"{address}/{quote(name)}").data == b"1"
    text = files.ask("GET", "x/", headers=HTML).text
    assert "<script>" not in text
    assert "<b>" not in text


def test_a_page_of_ten_thousand_files_reads_no_more_than_it_shows(make_app, monkeypatch):
    app = make_app()
    content, files = app.services.content, Files(app.test_client())
    for number in range(10_000):
        content.create(protocol.file_key("raw", f"many/{number:05}"), Pointer(Digest.of(b""), 0, "text/plain", 1.0))
    read = []
    pointer = content.pointer
    monkeypatch.setattr(content, "pointer", lambda key: read.append(key) or pointer(key))
    found, path = [], "many/?n=1000"
    while path:
        page = files.get(path).json
        found += [entry["name"] for entry in page["files"]]
        path = page["next"] and f"many/{page['next']}"
        assert len(read) <= 1001
        read.clear()
    assert found == [f"{number:05}" for number in range(10_000)]


@pytest.mark.parametrize("size", ["", "?n=2", "?n=1"])
def test_a_long_folder_is_looked_through_in_steps(files, monkeypatch, size):
    """However much of it the caller may not see: a page may be short, and its Link leads on."""
    monkeypatch.setattr("noraflask.formats.raw.listing.SCANNED", 2)
    for number in range(5):
        files.store(f"tools/{number}.txt", b"x")
    monkeypatch.setattr("noraflask.formats.raw.folders.may_by_right", lambda action, name: not name.endswith(("1.txt", "2.txt", "3.txt")))
    found, path, pages = [], f"tools/{size}", 0
    while path:
        answer = files.get(path)
        found += [*answer.json["folders"], *(entry["name"] for entry in answer.json["files"])]
        path = f"tools/{answer.json['next']}" if answer.json["next"] else ""
        assert ("Link" in answer.headers) == bool(path)
        pages += 1
    assert found == ["linux", "0.txt", "4.txt", "a.txt", "b.txt"]
    assert pages >= 4
