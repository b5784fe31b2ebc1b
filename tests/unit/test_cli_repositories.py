"""nora repo list and show, through main(): what they print, where each setting is from, and what they say when they cannot."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from noraflask.cli import main
from noraflask.storage.disk import DiskStorage
from tests.protocol.oci import Registry
from tests.protocol.raw import Files

CONFIG = """\
[storage]
path = "{0}/storage"
[state]
path = "{0}/state"
[raw]
listing = false
[[repositories]]
name = "team"
format = "docker"
title = "The team's"
hosts = ["images.example.com"]
ns = ["docker.io"]
chunk_min_bytes = 7
[[repositories]]
name = "files"
format = "raw"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("NORA_") or name == "RUST_LOG"]:
        monkeypatch.delenv(name)
    Path("config.toml").write_text(CONFIG.format(tmp_path))
    return tmp_path


def run(capsys, *argv: str, code: int = 0) -> tuple[str, str]:
    assert main(["repo", *argv]) == code
    out, err = capsys.readouterr()
    return out, err


def test_list(capsys):
    out, err = run(capsys, "list")
    assert err == ""
    assert [line.split(None, 3) for line in out.splitlines()] == [
        ["NAME", "FORMAT", "KIND", "ADDRESSES"],
        ["docker", "docker", "hosted", "/v2/, /repository/docker/v2/"],
        ["raw", "raw", "hosted", "/raw/, /repository/raw/"],
        ["team", "docker", "hosted", "/v2/team/, /repository/team/v2/, host images.example.com, ns docker.io"],
        ["files", "raw", "hosted", "/repository/files/"],
    ]


def test_the_public_url_stands_before_the_addresses(capsys, monkeypatch):
    monkeypatch.setenv("NORA_PUBLIC_URL", "https://r.example.com/nora")
    assert "https://r.example.com/nora/v2/team/, https://r.example.com/nora/repository/team/v2/" in run(capsys, "list")[0]


def test_list_in_json_has_the_words_of_the_api(capsys, make_app):
    listed = json.loads(run(capsys, "list", "--json")[0])["repositories"]
    app = make_app(repositories=[{"name": "team", "format": "docker"}])
    answered = app.test_client().get("/api/v1/repositories").json["repositories"]
    assert [one["name"] for one in listed] == ["docker", "raw", "team", "files"]
    assert {*answered[0]} == {*listed[0]}
    team = listed[2]
    assert (team["kind"], team["default"], team["hosts"], team["ns"]) == ("hosted", False, ["images.example.com"], ["docker.io"])
    assert team["title"] == "The team's"
    assert team["settings"]["chunk_min_bytes"] == 7


def test_show_says_where_each_setting_was_set(capsys, monkeypatch):
    monkeypatch.setenv("NORA_MAX_UPLOAD_SESSION_SIZE_MB", "12")
    lines = run(capsys, "show", "team")[0].splitlines()
    assert lines[:8] == [
        "name:      team",
        "format:    docker",
        "kind:      hosted",
        "title:     The team's",
        "set in:    config.toml:7",
        "addresses: /v2/team/ /repository/team/v2/",
        "hosts:     images.example.com",
        "ns:        docker.io",
    ]
    assert "  chunk_min_bytes = 7  # from config.toml:7" in lines
    assert "  max_upload_session_size_mb = 12  # from NORA_MAX_UPLOAD_SESSION_SIZE_MB" in lines
    assert "  enabled = true  # from default" in lines
    files = run(capsys, "show", "files")[0].splitlines()
    assert "  listing = false  # from config.toml:6" in files
    assert '  overwrite = "conditional"  # from default' in files


def test_a_default_repository_is_shown_as_well(capsys):
    lines = run(capsys, "show", "raw")[0].splitlines()
    assert "set in:    the default repository of its format" in lines
    assert json.loads(run(capsys, "show", "raw", "--json")[0])["place"] is None


def test_names_are_counted_where_the_storage_is(capsys, folder, make_app):
    assert "names:     not counted, the storage is not on this machine" in run(capsys, "show", "team")[0]
    storage = DiskStorage(folder / "storage")
    client = make_app(storage, repositories=[{"name": "team", "format": "docker"}, {"name": "files", "format": "raw"}]).test_client()
    for name in ("a", "b", "c/d"):
        Registry(client, "/v2/team").push_image(name, "v1")
    Registry(client).push_image("elsewhere", "v1")
    Files(client, "/repository/files").store("x/y.txt")
    assert [json.loads(run(capsys, "show", name, "--json")[0])["names"] for name in ("team", "docker", "files", "raw")] == [3, 1, 1, 0]
    assert "names:     3" in run(capsys, "show", "team")[0]


def test_an_unknown_name_is_told_beside_the_known_ones(capsys):
    out, err = run(capsys, "show", "tema", code=1)
    assert (out, err) == ("", "nora: there is no repository tema, there is docker, files, raw, team\n")


@pytest.mark.parametrize("argv", [["list"], ["show", "team"]])
def test_a_mistake_in_the_file_is_told_and_nothing_shown(argv, capsys):
    Path("config.toml").write_text('[[repositories]]\nname = "v2"\nformat = "docker"\n')
    out, err = run(capsys, *argv, code=78)
    assert out == ""
    assert err.startswith("config.toml:2: repositories[1].name: is a word of the server's own")
