"""Content: what is remembered in memory is right, bounded, and no way around a pointer that is gone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest

from noraflask.digest import Digest
from noraflask.errors import AlreadyExists, NotFound
from noraflask.keys import Key
from noraflask.pointer import Pointer
from noraflask.services import content as module
from noraflask.services.content import Content, content_key
from noraflask.storage import GRACE_SECONDS
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
        assert content._remembered.bytes <= 5000
        assert content._remembered.get(Digest.of(data)) == data, "what was asked for longest ago goes first"
    large = b"x" * (module.SMALL_BYTES + 1)
    content.keep_bytes(large, Digest.of(large))
    assert content.read(Digest.of(large)) == large
    assert content._remembered.get(Digest.of(large)) is None


# Pointers.

DATA = b"some content"
DIGEST = Digest.of(DATA)
KEY = Key("raw/a/_files/one")
POINTER = Pointer(DIGEST, len(DATA), "text/plain", 1000.5, {"name": "one"})


def test_a_pointer_that_never_changes_keeps_its_date(storage):
    content = Content(storage)
    assert (content.pointer(KEY), content.exists(KEY)) == (None, False)
    assert content.point(KEY, POINTER) == POINTER
    assert content.point(KEY, replace(POINTER, created=2000.0)) == POINTER
    assert content.pointer(KEY) == POINTER
    content.repoint(KEY, replace(POINTER, created=2000.0))
    assert content.pointer(KEY).created == 2000.0
    content.remove(KEY)
    assert content.pointer(KEY) is None


@pytest.mark.parametrize("left", [b"", POINTER.render()[:20], b"\0" * 100])
def test_what_a_power_cut_left_of_a_pointer_counts_as_absent_and_is_written_again(storage, left):
    content = Content(storage)
    storage.create(KEY, left)
    assert content.pointer(KEY) is None
    assert list(content.pointers("raw/a")) == []
    assert content.point(KEY, POINTER) == POINTER
    assert content.pointer(KEY) == POINTER


def test_pages_of_pointers(storage):
    content = Content(storage)
    for name in "dbac":
        content.point(Key(f"raw/a/{name}"), replace(POINTER, own={"name": name}))
    storage.create(Key("raw/a/bb"), b"half")
    storage.create(Key("raw/ab"), b"")
    assert [(name, pointer.own["name"]) for name, pointer in content.pointers("raw/a")] == [(name, name) for name in "abcd"]
    assert [name for name, _ in content.pointers("raw/a", after="a", limit=2)] == ["b", "c"]
    assert list(content.names("raw/a", after="a", limit=2)) == ["b", "bb"]
    assert [(entry.key, entry.info.size) for entry in content.list("raw/a", "b", 1)] == [("raw/a/bb", 4)]


# Leases: between the first trust in bytes and the pointer nobody deletes them.


class Watched(MemoryStorage):
    """A deleter comes at each moment of a push."""

    def create(self, key, source):
        self.delete_what_nobody_needs()
        try:
            return super().create(key, source)
        finally:
            self.delete_what_nobody_needs()

    def delete_what_nobody_needs(self):
        leases = self.abilities.leases
        if not self.stat(KEY):
            leases.reap(module.content_key(DIGEST), leases.mark() + 10 * GRACE_SECONDS, lambda: False)


def test_a_push_holds_what_it_found_until_its_pointer_is_there():
    storage = Watched()
    content = Content(storage)
    for there in (False, True):
        if there:
            MemoryStorage.create(storage, module.content_key(DIGEST), DATA)
        with content.together(DIGEST):
            content.keep_bytes(DATA, DIGEST)
            content.point(KEY, POINTER)
        storage.delete_what_nobody_needs()
        assert content.stat(DIGEST).size == len(DATA)
        content.remove(KEY)
        storage.delete_what_nobody_needs()
        assert content.stat(DIGEST) is None, "the deleter does nothing; the test is of no use"


def test_sweep_deletes_what_nobody_needs(storage, monkeypatch):
    content = Content(storage)
    kept, held, told, lost = (Digest.of(data) for data in (b"kept", b"held", b"told", b"lost"))
    for data in (b"kept", b"held", b"told", b"lost"):
        content.keep_bytes(data, Digest.of(data))
    content.touch(told)
    with content.lease(held):
        assert content.sweep(lambda: [kept]) == 1
        assert content.stat(lost) is None
    assert [content.stat(each) is not None for each in (kept, held, told)] == [True] * 3


def test_a_hot_head_touches_a_lease_once_a_minute(storage, monkeypatch):
    content, touched, now = Content(storage), [], [1000.0]
    leases = SimpleNamespace(touch=lambda *keys: touched.extend(keys))
    monkeypatch.setattr(content, "_abilities", SimpleNamespace(leases=leases))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for seconds, times in ((0, 1), (59, 1), (1, 2), (0, 2), (60, 3)):
        now[0] += seconds
        content.touch(DIGEST)
        assert touched == [module.content_key(DIGEST)] * times
    monkeypatch.setattr(module, "TOUCHED_KEPT", 5)
    for number in range(20):
        content.touch(Digest.of(bytes([number])))
        assert len(content._touched) <= 5


def test_what_is_pushed_while_a_sweep_looks_stays(storage):
    content = Content(storage)

    def needed() -> list[Digest]:
        with content.together(DIGEST):
            content.keep_bytes(DATA, DIGEST)
            content.point(KEY, POINTER)
        return []  # the search had passed that place already

    assert content.sweep(needed) == 0
    assert content.stat(DIGEST) is not None


# Pointers that are changed by several.

OTHER_KEY = Key("repository/name")


def pointer(data: bytes, **own: int) -> Pointer:
    return Pointer(Digest.of(data), len(data), "text/plain", 1.0, own)


def test_a_new_pointer_is_written_once(storage):
    content = Content(storage)
    content.create(OTHER_KEY, pointer(b"1"))
    with pytest.raises(AlreadyExists):
        content.create(OTHER_KEY, pointer(b"2"))
    assert content.pointer(OTHER_KEY) == pointer(b"1")


def test_a_pointer_is_made_from_the_one_before(storage):
    content = Content(storage)
    assert content.change(OTHER_KEY, lambda before: pointer(b"1") if before is None else None) == pointer(b"1")
    assert content.change(OTHER_KEY, lambda before: before) == pointer(b"1")
    assert content.change(OTHER_KEY, lambda before: None if before == pointer(b"1") else before) is None
    assert content.pointer(OTHER_KEY) is None


def test_what_a_change_raises_ends_it(storage):
    content = Content(storage)
    content.create(OTHER_KEY, pointer(b"1"))

    def refuse(before: Pointer | None) -> Pointer | None:
        raise AlreadyExists()

    with pytest.raises(AlreadyExists):
        content.change(OTHER_KEY, refuse)
    assert content.pointer(OTHER_KEY) == pointer(b"1")


@pytest.mark.parametrize("half", [b"", b'{"digest": "sha'])
def test_half_a_pointer_counts_as_none_and_is_written_anew(storage, half):
    storage.create(OTHER_KEY, half)
    content = Content(storage)
    assert content.change(OTHER_KEY, lambda before: pointer(b"1") if before is None else None) == pointer(b"1")
    assert content.pointer(OTHER_KEY) == pointer(b"1")


def test_no_change_of_a_pointer_is_lost(storage):
    content = Content(storage)

    def count(before: Pointer | None) -> Pointer:
        return pointer(b"1", count=1 + (before.own["count"] if before else 0))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: content.change(OTHER_KEY, count), range(80)))
    assert content.pointer(OTHER_KEY) == pointer(b"1", count=80)
