"""Content: what is remembered in memory is right, bounded, and no way around a pointer that is gone."""

from __future__ import annotations

import pytest

from noraflask.digest import Digest
from noraflask.errors import NotFound
from noraflask.services import content as module
from noraflask.services.content import Content, content_key
from noraflask.storage.memory import MemoryStorage


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


def test_small_content_is_read_from_storage_once(storage):
    content, data = Content(storage), b"small"
    content.keep_bytes(data, Digest.of(data))
    assert content.read(Digest.of(data)) == data
    storage.delete(content_key(Digest.of(data)))
    assert content.read(Digest.of(data)) == data
    with pytest.raises(NotFound):
        Content(storage).read(Digest.of(data))


def test_what_is_remembered_is_bounded(storage, monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED_BYTES", 5000)
    content = Content(storage)
    for number in range(100):
        data = b"%d" % number * 300
        content.keep_bytes(data, Digest.of(data))
        assert content.read(Digest.of(data)) == data
        assert sum(map(len, content._remembered.values())) <= 5000
    large = b"x" * (module.SMALL_BYTES + 1)
    content.keep_bytes(large, Digest.of(large))
    assert content.read(Digest.of(large)) == large
    assert Digest.of(large) not in content._remembered
