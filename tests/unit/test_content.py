"""Content: what is remembered in memory is right, bounded, and no way around a pointer that is gone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from noraflask.digest import Digest
from noraflask.errors import AlreadyExists, NotFound
from noraflask.keys import Key
from noraflask.pointer import Pointer
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


# Pointers that are changed by several.

KEY = Key("repository/name")


def pointer(data: bytes, **own: int) -> Pointer:
    return Pointer(Digest.of(data), len(data), "text/plain", 1.0, own)


def test_a_new_pointer_is_written_once(storage):
    content = Content(storage)
    content.create(KEY, pointer(b"1"))
    with pytest.raises(AlreadyExists):
        content.create(KEY, pointer(b"2"))
    assert content.pointer(KEY) == pointer(b"1")


def test_a_pointer_is_made_from_the_one_before(storage):
    content = Content(storage)
    assert content.change(KEY, lambda before: pointer(b"1") if before is None else None) == pointer(b"1")
    assert content.change(KEY, lambda before: before) == pointer(b"1")
    assert content.change(KEY, lambda before: None if before == pointer(b"1") else before) is None
    assert content.pointer(KEY) is None


def test_what_a_change_raises_ends_it(storage):
    content = Content(storage)
    content.create(KEY, pointer(b"1"))

    def refuse(before: Pointer | None) -> Pointer | None:
        raise AlreadyExists()

    with pytest.raises(AlreadyExists):
        content.change(KEY, refuse)
    assert content.pointer(KEY) == pointer(b"1")


@pytest.mark.parametrize("half", [b"", b'{"digest": "sha'])
def test_half_a_pointer_counts_as_none_and_is_written_anew(storage, half):
    storage.create(KEY, half)
    content = Content(storage)
    assert content.change(KEY, lambda before: pointer(b"1") if before is None else None) == pointer(b"1")
    assert content.pointer(KEY) == pointer(b"1")


def test_no_change_of_a_pointer_is_lost(storage):
    content = Content(storage)

    def count(before: Pointer | None) -> Pointer:
        return pointer(b"1", count=1 + (before.own["count"] if before else 0))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: content.change(KEY, count), range(80)))
    assert content.pointer(KEY) == pointer(b"1", count=80)
