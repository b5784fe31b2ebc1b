"""What is deleted while a rule blocks it goes on blocking, until the rule is gone."""

from __future__ import annotations

import pytest

from noraflask.digest import Digest
from noraflask.formats.docker import deletions
from noraflask.formats.docker.protocol.media_types import OCI_MANIFEST
from noraflask.formats.docker.stock import STOCK
from tests.protocol.curated import block, table, when
from tests.protocol.oci import descriptor, image, index

INDEX, SOLO = {":1", "@1", "@amd", "@arm", "amd", "arm"}, {":2", "@2", "two"}
ALL = INDEX | SOLO | {"base"}


def delete(curated, reference, name="app"):
    assert curated.ask("DELETE", f"{name}/manifests/{reference}").status_code == 202


def gone(curated):
    return [key for key in curated.services.content.names("docker/app") if key.startswith("_gone/")]


def readable(curated):
    """As Curated.readable(), where things may be missing."""
    paths = {f":{tag}": f"manifests/{tag}" for tag in ("1", "2", "1.0")}
    paths |= {f"@{one}": f"manifests/{getattr(curated, one)}" for one in ("one", "amd", "arm", "two")}
    paths |= {layer: f"blobs/{Digest.of(layer.encode())}" for layer in ("base", "amd", "arm", "two")}
    return {short: status for short, path in paths.items() if (status := curated.status(f"app/{path}", "GET")) != 404}


@pytest.mark.parametrize("mode", ["enforce", "audit"])
def test_deleting_a_blocked_tag_frees_neither_digest_nor_other_tags(curated, mode):
    assert curated.push("app", "1.0", curated._index()).status_code == 201
    curated.rules(block("1"), mode=mode)
    delete(curated, "1")
    curated.rules(block("1"))
    found = readable(curated)
    assert {short for short, status in found.items() if status == 200} == {":2", "@two", "two", "base"}
    assert {short for short, status in found.items() if status == 403} == {":1.0", "@one", "@amd", "@arm", "amd", "arm"}
    assert curated.tags("app") == ["2"]
    curated.rules()
    assert set(readable(curated).values()) == {200}


def test_deleting_a_blocked_image_frees_neither_platforms_nor_layers(curated):
    curated.rules(block("1"))
    delete(curated, curated.one)
    found = readable(curated)
    assert {short for short, status in found.items() if status == 403} == {"@amd", "@arm", "amd", "arm"}
    assert found["base"] == 200, "what an allowed image is made of as well stays free"
    delete(curated, curated.amd)
    assert curated.status(f"app/blobs/{Digest.of(b'amd')}", "GET") == 403
    curated.rules()
    assert set(readable(curated).values()) == {200}


@pytest.mark.parametrize("how", ["tag", "digest"])
@pytest.mark.parametrize("again", ["sha256", "sha512"])
def test_what_was_deleted_and_is_pushed_again_is_blocked(curated, how, again):
    curated.rules(block("2"))
    delete(curated, "2" if how == "tag" else curated.two)
    body = image(layers=(b"base", b"two"))
    for reference in (Digest.of(body, again), "new"):
        assert curated.push("app", reference, body).status_code == 201
        assert curated.status(f"app/manifests/{reference}", "GET") == 403
    assert curated.status(f"app/blobs/{Digest.of(b'two')}", "GET") == 403


def test_deleting_an_image_by_a_rule_on_its_digest(curated):
    curated.rules(block(str(curated.two)))
    delete(curated, curated.two)
    assert curated.status(f"app/blobs/{Digest.of(b'two')}", "GET") == 403


def test_what_is_remembered_allows_nothing(curated):
    """Deleted while it was blocked, allowed afterwards: its layers are strays, which no allowlist names."""
    curated.rules(block("2"))
    delete(curated, curated.two)
    curated.rules(table("allow", name="app", versions=["2", str(curated.two), "1"]))
    assert curated.status(f"app/blobs/{Digest.of(b'two')}", "GET") == 403
    assert curated.status(f"app/blobs/{Digest.of(b'amd')}", "GET") == 200


def test_a_tag_in_audit_that_was_deleted_allows_nothing(curated):
    curated.rules(block("2", mode="audit"))
    delete(curated, "2")
    curated.rules(block("2", mode="audit"), table("allow", name="app", version="2"))
    assert curated.status(f"app/manifests/{curated.two}", "GET") == 403


def test_what_was_free_is_not_remembered(curated):
    for tables in ([], [block("none")], [block("1", name="other")], [table("allow", name="app", version="none")]):
        curated.rules(*tables)
        assert curated.push("app", "free", image(layers=(b"base", b"two"))).status_code == 201
        delete(curated, "free")
        assert gone(curated) == []
    curated.rules(block("2"))
    delete(curated, curated.amd)
    assert gone(curated) == []


def test_it_is_forgotten_when_no_rule_blocks_it(curated):
    curated.rules(block("1"), block("2", expires=when(60)))
    delete(curated, "2")
    delete(curated, "1")
    assert len(gone(curated)) == 2
    curated.clock.now += 60
    delete(curated, curated.amd)
    assert gone(curated) == [f"_gone/{curated.amd}", f"_gone/{curated.one}"] or gone(curated) == [f"_gone/{curated.one}", f"_gone/{curated.amd}"]


def test_a_bypass_token_does_not_make_it_forget(curated):
    curated.rules(block("2"), bypass_token="t")
    headers = {"X-Nora-Bypass-Token": "t"}
    assert curated.ask("DELETE", "app/manifests/2", headers=headers).status_code == 202
    assert curated.status(f"app/manifests/{curated.two}", "GET") == 403


def test_deleting_a_tag_that_is_pinned_to_other_bytes(curated):
    curated.rules(table("pin", name="app", version="2", integrity=[str(curated.one)]))
    delete(curated, "2")
    assert curated.status(f"app/manifests/{curated.two}", "GET") == 403


def test_a_referrer_and_an_index_of_deleted_ones(curated):
    """A tag that was deleted counts for a platform as it did before."""
    inner = curated.push_image("app", "inner", layers=(b"inner",))
    curated.push("app", "outer", index(descriptor(inner, OCI_MANIFEST)))
    curated.rules(block("outer"))
    assert curated.status("app/manifests/inner", "GET") == 200, "it has a tag of its own"
    delete(curated, "outer")
    assert curated.status("app/manifests/inner", "GET") == 200
    delete(curated, "inner")
    assert curated.status(f"app/manifests/{inner}", "GET") == 403


def test_bytes_that_the_memory_needs_are_kept(curated):
    curated.rules(block("2"))
    delete(curated, curated.two)
    assert curated.two in set(STOCK.references(curated.services.content, "docker"))


def test_no_more_tags_are_remembered_than_said(curated, monkeypatch):
    monkeypatch.setattr(deletions, "MOST_TAGS", 3)
    curated.rules(block("x*"))
    for number in range(5):
        assert curated.push("app", f"x{number}", image(layers=(b"base", b"two"))).status_code == 201
        delete(curated, f"x{number}")
    (key,) = gone(curated)
    pointer = curated.services.content.pointer(f"docker/app/{key}")
    assert pointer.own["tags"] == ["x0", "x1", "x2"]
    assert curated.status(f"app/manifests/{curated.two}", "GET") == 403
