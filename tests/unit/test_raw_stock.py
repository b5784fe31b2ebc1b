"""What storage has of files, told to those who know no format."""

from __future__ import annotations

import pytest

from noraflask.digest import Digest
from noraflask.formats.raw import protocol
from noraflask.formats.raw.files import package
from noraflask.formats.raw.stock import STOCK
from noraflask.pointer import Pointer
from noraflask.services.content import Content
from noraflask.services.curation.model import Decision
from noraflask.storage.memory import MemoryStorage

PATHS = ("a/b/c", "a/x", "b/z", "a.txt", "top")
"""In the order of their keys: folders come before the files beside them."""


def pointer_of(path: str) -> Pointer:
    return Pointer(Digest.of(path.encode()), len(path), "text/plain", 1_700_000_000.0)


@pytest.fixture
def content() -> Content:
    content = Content(MemoryStorage())
    for repository in ("raw", "other"):
        for path in reversed(PATHS):
            content.point(protocol.file_key(repository, path), pointer_of(path))
    content.remove(protocol.file_key("other", "top"))
    return content


def test_names_page_by_page(content):
    assert tuple(STOCK.names(content, "raw")) == PATHS
    for start, path in enumerate(PATHS, 1):
        assert tuple(STOCK.names(content, "raw", path, 2)) == PATHS[start : start + 2]
    assert tuple(STOCK.names(content, "other")) == PATHS[:-1]
    assert tuple(STOCK.names(content, "none")) == ()


def test_the_one_version_of_a_file(content):
    (version,) = STOCK.versions(content, "raw", "a/x")
    assert (version.created, version.size, version.digests) == (1_700_000_000.0, 3, (Digest.of(b"a/x"),))
    assert list(STOCK.versions(content, "raw", "a")) == []


def test_references_name_all_content(content):
    assert set(STOCK.references(content, "raw")) == {Digest.of(path.encode()) for path in PATHS}
    assert Digest.of(b"top") not in set(STOCK.references(content, "other"))


def test_a_look_tells_digest_and_date(content):
    found = STOCK.look(content, package("raw", "a/x"), lambda asked: Decision(asked.published == 1_700_000_000.0))
    assert found is not None
    assert (found.name, found.package.digests, found.decision) == ("a/x", (str(Digest.of(b"a/x")),), Decision(True))
    assert STOCK.look(content, package("raw", "none"), lambda _: Decision(True)) is None
