"""Revisions: what was worked out from a name's documents is never kept beyond a change, whoever makes it and however that one ends."""

from __future__ import annotations

import contextlib
import random
import threading
import time

import pytest

from noraflask.errors import NotFound
from noraflask.storage.disk import DiskStorage
from noraflask.storage.memory import MemoryStorage
from tests.contract import writers


@pytest.fixture
def revisions(storage):
    return storage.abilities.revisions


def test_a_change_is_another_revision(revisions):
    seen = [revisions.revision("a")]
    for _ in range(3):
        assert revisions.revision("a") == seen[-1]
        with revisions.changing("a"):
            pass
        seen.append(revisions.revision("a"))
    assert len(set(seen)) == 4
    assert None not in seen


def test_names_have_their_own(revisions):
    before = revisions.revision("b")
    with revisions.changing("a"):
        assert revisions.revision("b") == before
        assert revisions.revision("a") is None
    assert revisions.revision("b") == before


def test_while_anybody_is_at_work_there_is_none(revisions):
    first, second = revisions.changing("a"), revisions.changing("a")
    first.__enter__()
    second.__enter__()
    assert revisions.revision("a") is None
    first.__exit__(None, None, None)
    assert revisions.revision("a") is None
    second.__exit__(None, None, None)
    assert revisions.revision("a") is not None


def test_who_fails_was_at_work_all_the_same(revisions):
    before = revisions.revision("a")
    with contextlib.suppress(ZeroDivisionError), revisions.changing("a"):
        _ = 1 // 0
    assert revisions.revision("a") not in (None, before)


def test_two_storages_share_none(tmp_path):
    storages = [DiskStorage(tmp_path / "1"), DiskStorage(tmp_path / "2")]
    assert len({each.abilities.revisions.revision("a") for each in (*storages, MemoryStorage(), MemoryStorage())}) == 4
    for storage in storages:
        storage.close()


def test_workers_see_each_others_changes(tmp_path):
    one, two = DiskStorage(tmp_path), DiskStorage(tmp_path)
    before = two.abilities.revisions.revision("a")
    with one.abilities.revisions.changing("a"):
        assert two.abilities.revisions.revision("a") is None
    assert two.abilities.revisions.revision("a") not in (None, before)
    one.close()
    two.close()


def test_a_read_only_folder_keeps_its_revision(tmp_path, monkeypatch):
    """Pulls go on there, and what they need is remembered."""
    DiskStorage(tmp_path).close()
    storage = DiskStorage(tmp_path)
    real = writers.os.open

    def refuse(path, flags, *more):
        if flags & (writers.os.O_RDWR | writers.os.O_WRONLY):
            raise OSError(30, "Read-only file system")
        return real(path, flags, *more)

    monkeypatch.setattr(writers.os, "open", refuse)
    assert storage.abilities.revisions.revision("a") == storage.abilities.revisions.revision("a") is not None
    storage.close()


def test_a_full_disk_does_not_hinder_a_change(tmp_path, monkeypatch):
    """Deletes need no room. The room for revisions is taken at the start."""
    storage = DiskStorage(tmp_path)
    found = writers.os.stat(tmp_path / ".shared" / "revisions")
    assert found.st_blocks * 512 >= found.st_size == (1 << 14) * 8
    storage.close()


@pytest.mark.slow
def test_nothing_is_kept_that_a_killed_or_slow_writer_makes_untrue(tmp_path):
    """Two objects of one name, changed one after the other by processes that are killed at any moment; readers keep both under the revision."""
    root, dice = tmp_path / "storage", random.Random("revisions")
    storage = DiskStorage(root)
    stop, wrong, kept = threading.Event(), [], [0]

    def halves() -> tuple[bytes, ...]:
        with contextlib.suppress(NotFound):
            return tuple(storage.whole(key) for key in writers.HALVES)
        return ()

    def read(number: int) -> None:
        known: dict[object, tuple[bytes, ...]] = {}
        while not stop.is_set():
            revision = storage.abilities.revisions.revision("name")
            found = halves()
            if revision is not None and revision == storage.abilities.revisions.revision("name"):
                kept[0] += 1
                if known.setdefault(revision, found) != found:
                    wrong.append((revision, known[revision], found))

    readers = [threading.Thread(target=read, args=(number,)) for number in range(2)]
    for reader in readers:
        reader.start()
    for turn in range(6):
        processes = [writers.start("change", root, f"{turn}-{name}") for name in range(2)]
        assert all(process.stdout.readline() for process in processes), "they have begun"
        time.sleep(dice.uniform(0.1, 0.5))
        for process in processes:
            process.kill()
            process.communicate()
            time.sleep(dice.uniform(0, 0.05))
    stop.set()
    for reader in readers:
        reader.join()
    storage.close()
    assert wrong == []
    assert kept[0] > 100
