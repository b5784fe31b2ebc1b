"""What those who know no format are told of images: names, versions, and which content is needed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from noraflask.digest import Digest
from noraflask.formats.docker.protocol import keys
from noraflask.formats.docker.protocol.media_types import OCI_MANIFEST
from noraflask.formats.docker.stock import STOCK
from noraflask.pointer import Pointer
from noraflask.services.content import Content
from noraflask.services.stock import Stock
from noraflask.storage.disk import DiskStorage
from noraflask.storage.memory import MemoryStorage

NOW = 1_800_000_000.0
ONE, TWO, LAYER, STRAY = (Digest.of(text) for text in (b"one", b"two", b"layer", b"stray"))


@pytest.fixture(params=["memory", "disk"])
def content(request, tmp_path):
    return Content(MemoryStorage() if request.param == "memory" else DiskStorage(tmp_path))


@pytest.fixture
def filled(content):
    """app: tags 1 and latest lead to ONE; TWO has none. app/more: a blob alone, before its manifest comes."""
    one, two, layer = (Pointer(digest, 3, OCI_MANIFEST, NOW) for digest in (ONE, TWO, LAYER))
    content.point(keys.manifest_pointer("docker", "app", ONE), one)
    content.point(keys.manifest_pointer("docker", "app", TWO), two)
    content.point(keys.blob_pointer("docker", "app", LAYER), layer)
    for tag in ("1", "latest"):
        content.repoint(keys.tag_pointer("docker", "app", tag), one)
    content.mark(keys.name_pointer("docker", "app"))
    content.point(keys.blob_pointer("docker", "app/more", STRAY), replace(layer, digest=STRAY))
    content.point(keys.referrer_pointer("docker", "app", Digest.of(b"gone"), ONE), one)
    return content


def test_versions_are_tags_and_manifests_without_one(filled):
    found = {version.version: version for version in STOCK.versions(filled, "docker", "app")}
    assert {name: version.digests for name, version in found.items()} == {"1": (ONE,), "latest": (ONE,), str(TWO): (TWO,)}
    assert {version.size for version in found.values()} == {3}
    assert {version.created for version in found.values()} == {NOW}
    assert list(STOCK.versions(filled, "docker", "nothing")) == []


def test_content_is_needed_as_long_as_a_name_has_it(filled):
    assert set(STOCK.references(filled, "docker")) == {ONE, TWO, LAYER, STRAY}, "a blob counts before the first manifest comes"
    assert set(STOCK.references(filled, "other")) == set()
    filled.remove(keys.blob_pointer("docker", "app/more", STRAY))
    assert STRAY not in set(STOCK.references(filled, "docker"))


def test_names_page_by_page(content):
    names = ["a", "a-b", "a.b", "a/b", "a0", "team/app"]
    for name in reversed(names):
        content.mark(keys.name_pointer("docker", name))
    assert list(STOCK.names(content, "docker")) == names
    for size in (1, 2, 5):
        found: list[str] = []
        while page := list(STOCK.names(content, "docker", found[-1] if found else "", size)):
            assert len(page) <= size
            found += page
        assert found == names


def test_it_has_what_the_frame_asks_for():
    stock: Stock = STOCK
    assert stock is STOCK
