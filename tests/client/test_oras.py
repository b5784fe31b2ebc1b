"""oras: files of any kind as artifacts, and artifacts that refer to others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.client.conftest import Registry
from tests.client.layout import EMPTY
from tests.client.tools import Client

HTTP = "--plain-http"


@pytest.fixture
def files(oras: Client) -> Path:
    """The folder in which oras runs, holding two files to push."""
    (oras.home / "report.json").write_text('{"found": "nothing"}')
    (oras.home / "model.bin").write_bytes(bytes(range(256)) * 4096)
    return oras.home


def discovered(oras: Client, reference: str, *options: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(oras("discover", HTTP, "--format", "json", *options, reference))["referrers"]
    return found


def test_push_and_pull_files(oras: Client, registry: Registry, files: Path) -> None:
    reference = f"{registry.address}/oras/files:1"
    oras("push", HTTP, "--artifact-type", "application/vnd.example.model", reference, "model.bin", "report.json:application/json")
    oras("pull", HTTP, "--output", "back", reference)
    for name in ("model.bin", "report.json"):
        assert (files / "back" / name).read_bytes() == (files / name).read_bytes()
    stored = registry.manifest("oras/files", "1").json()
    assert stored["artifactType"] == "application/vnd.example.model"
    assert stored["config"]["mediaType"] == EMPTY


def test_attach_and_discover(oras: Client, registry: Registry, files: Path) -> None:
    reference = f"{registry.address}/oras/attach:1"
    oras("push", HTTP, reference, "model.bin")
    oras("attach", HTTP, "--artifact-type", "application/vnd.example.scan", reference, "report.json")
    oras("attach", HTTP, "--artifact-type", "application/vnd.example.note", "--annotation", "said=well done", reference)
    assert {entry["artifactType"] for entry in discovered(oras, reference)} == {
        "application/vnd.example.scan",
        "application/vnd.example.note",
    }
    (scan,) = discovered(oras, reference, "--artifact-type", "application/vnd.example.scan")
    oras("pull", HTTP, "--output", "scan", f"{registry.address}/oras/attach@{scan['digest']}")
    assert (files / "scan" / "report.json").read_text() == '{"found": "nothing"}'
    # By the referrers API, not by the tag of a digest that older registries need.
    assert registry.tags("oras/attach") == ["1"]
    subject = registry.manifest("oras/attach", "1").headers["Docker-Content-Digest"]
    assert len(registry.referrers("oras/attach", subject)) == 2


def test_copy_with_referrers(oras: Client, registry: Registry, files: Path) -> None:
    source, target = f"{registry.address}/oras/source:1", f"{registry.address}/oras/target:1"
    oras("push", HTTP, source, "model.bin")
    oras("attach", HTTP, "--artifact-type", "application/vnd.example.scan", source, "report.json")
    oras("cp", "--from-plain-http", "--to-plain-http", "--recursive", source, target)
    assert [entry["artifactType"] for entry in discovered(oras, target)] == ["application/vnd.example.scan"]


def test_copy_to_a_layout_and_back(oras: Client, registry: Registry, files: Path) -> None:
    reference = f"{registry.address}/oras/round"
    oras("push", HTTP, f"{reference}:1", "model.bin", "report.json")
    oras("cp", "--from-plain-http", f"{reference}:1", "--to-oci-layout", "kept:1")
    oras("cp", "--from-oci-layout", "kept:1", "--to-plain-http", f"{reference}:2")
    assert registry.manifest("oras/round", "1").body == registry.manifest("oras/round", "2").body


def test_tags_repositories_and_deletion(oras: Client, registry: Registry, files: Path) -> None:
    reference = f"{registry.address}/oras/listed"
    oras("push", HTTP, f"{reference}:b,a", "report.json")
    assert oras("repo", "tags", HTTP, reference).split() == ["a", "b"]
    assert "oras/listed" in oras("repo", "ls", HTTP, registry.address).split()
    oras("manifest", "delete", HTTP, "--force", f"{reference}:a")
    assert "not found" in oras.refused("manifest", "fetch", HTTP, f"{reference}:b")


def test_single_blob(oras: Client, registry: Registry, files: Path) -> None:
    reference = f"{registry.address}/oras/blob"
    pushed = json.loads(oras("blob", "push", HTTP, "--descriptor", reference, "model.bin"))
    oras("blob", "fetch", HTTP, "--output", "fetched.bin", f"{reference}@{pushed['digest']}")
    assert (files / "fetched.bin").read_bytes() == (files / "model.bin").read_bytes()
    oras("blob", "delete", HTTP, "--force", f"{reference}@{pushed['digest']}")
    assert "not found" in oras.refused("blob", "fetch", HTTP, "--output", "none", f"{reference}@{pushed['digest']}")
