"""Versions, swap, and documents that many change: no acknowledged change is lost, in any number of processes, however they end."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noraflask.errors import AlreadyExists, Changed, NotFound, Unavailable
from noraflask.keys import Key
from noraflask.services import documents as module
from noraflask.services.documents import Documents
from noraflask.storage import Storage
from noraflask.storage.disk import DiskStorage
from tests.contract import writers

KEY = Key("docker/app/document")


def version_of(storage: Storage, key: Key = KEY) -> str | None:
    """By each of the ways in which one can be asked for."""
    found = storage.stat(key)
    (entry,) = list(storage.list("docker/app/"))[:1] or [None]
    assert storage.stat_many([key, Key("none")]) == [found, None]
    if found is None:
        assert entry is None
        return None
    with storage.open(key) as reader:
        assert reader.version == found.version == entry.info.version
    return found.version


@pytest.mark.parametrize("write", [lambda s: s.create(KEY, b"1"), lambda s: s.replace(KEY, b"1"), lambda s: s.swap(KEY, b"1", None)])
def test_who_writes_learns_the_version(storage, write):
    assert version_of(storage) is None
    assert write(storage) == version_of(storage)
    assert storage.replace(KEY, b"") == version_of(storage)


def test_swap_replaces_what_is_still_the_same(storage):
    first = storage.create(KEY, b"1")
    second = storage.swap(KEY, b"22", first)
    assert (storage.whole(KEY), version_of(storage)) == (b"22", second)
    assert second != first
    with pytest.raises(Changed):
        storage.swap(KEY, b"3", first)
    assert (storage.whole(KEY), version_of(storage)) == (b"22", second)


def test_swap_with_nothing_creates_only(storage):
    first = storage.swap(KEY, b"1", None)
    for expected in (None, "another"):
        with pytest.raises(Changed):
            storage.swap(KEY, b"2", expected)
    assert storage.whole(KEY) == b"1"
    storage.delete(KEY)
    with pytest.raises(Changed):
        storage.swap(KEY, b"2", first)
    with pytest.raises(NotFound):
        storage.whole(KEY)


def test_delete_of_what_is_still_the_same(storage):
    first = storage.create(KEY, b"1")
    second = storage.replace(KEY, b"2")
    with pytest.raises(Changed):
        storage.delete(KEY, first)
    assert storage.whole(KEY) == b"2"
    storage.delete(KEY, second)
    assert storage.stat(KEY) is None
    with pytest.raises(Changed):
        storage.delete(KEY, second)


def test_a_version_stays_as_long_as_the_object(storage):
    version = storage.create(KEY, b"1")
    storage.create(Key("docker/app/z"), b"1")
    storage.whole(KEY)
    with pytest.raises(AlreadyExists):
        storage.create(KEY, b"1")
    assert version_of(storage) == version


@given(st.lists(st.sampled_from(["create", "replace", "swap", "delete"]), min_size=20, max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
def test_no_version_comes_twice(storage, verbs):
    """The same bytes, written in one tick of the kernel's clock, on an inode that was freed just now."""
    storage.delete(KEY)
    seen: list[str] = []
    for verb in verbs:
        found = storage.stat(KEY)
        if verb == "delete":
            storage.delete(KEY)
        elif verb == "swap":
            seen.append(storage.swap(KEY, b"x", found.version if found else None))
        elif verb == "replace":
            seen.append(storage.replace(KEY, b"x"))
        elif found is None:
            seen.append(storage.create(KEY, b"x"))
    assert len(set(seen)) == len(seen)


def test_files_are_stamped_by_a_clock_that_does_not_stand_still(tmp_path):
    """The kernel's own stands still for some milliseconds, in which an inode may be freed and given away again."""
    storage = DiskStorage(tmp_path / "storage")
    for write in (storage.create, storage.replace, lambda key, data: storage.swap(key, data, storage.stat(key).version)):
        before = time.time_ns()
        write(KEY, b"x")
        assert before <= (tmp_path / "storage" / KEY).stat().st_mtime_ns <= time.time_ns()
    storage.close()


def test_an_upload_that_is_linked_gets_a_version_of_its_own(tmp_path):
    storage, versions = DiskStorage(tmp_path / "storage"), set()
    for turn in range(20):
        with open(Path(storage.incoming) / f"{turn}.upload", "w+b", buffering=0) as file:
            file.write(b"x")
            versions.add(storage.create(KEY, file))
            Path(file.name).unlink()
        storage.delete(KEY)
    assert len(versions) == 20
    storage.close()


@pytest.mark.parametrize("verb", ["swap", "delete", "replace"])
def test_of_many_against_one_version_one_succeeds(storage, verb):
    """Whatever verb the other one uses: what swap saw is what it replaces."""
    for _ in range(20):
        version = storage.replace(KEY, b"old")
        start, outcomes = threading.Barrier(4), []

        def run(number: int, version=version, start=start, outcomes=outcomes) -> None:
            start.wait()
            try:
                if number or verb == "swap":
                    storage.swap(KEY, b"%d" % number, version)
                elif verb == "delete":
                    storage.delete(KEY, version)
                else:
                    storage.replace(KEY, b"replaced")
                outcomes.append(number)
            except Changed:
                pass

        threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if verb == "replace":
            assert storage.whole(KEY) == b"replaced", "a swap came after it and did not see it"
            assert len(outcomes) <= 2
        else:
            assert len(outcomes) == 1


# Documents.


@pytest.fixture
def documents(storage) -> Documents:
    return Documents(storage, "docker/")


def test_update(documents):
    assert documents.update("x", lambda old: old) is None
    assert documents.update("x", lambda old: (old or b"") + b"1") == b"1"
    assert documents.update("x", lambda old: (old or b"") + b"2") == documents.read("x") == b"12"
    version = documents.stat("x").version
    assert documents.update("x", lambda old: old) == b"12"
    assert documents.stat("x").version == version, "what stays as it is is not written"
    assert documents.update("x", lambda old: None) is None
    assert documents.read("x") is None
    with pytest.raises(ZeroDivisionError):
        documents.update("x", lambda old: b"x" * (1 // 0))
    assert documents.update("x", lambda old: b"") == documents.read("x") == b""


def test_update_gives_up_when_others_are_always_faster(documents, monkeypatch):
    monkeypatch.setattr(module, "UPDATE_SECONDS", 0.05)

    def change(old: bytes | None) -> bytes:
        documents.replace("x", b"faster")
        return b"mine"

    with pytest.raises(Unavailable):
        documents.update("x", change)
    assert documents.read("x") == b"faster"


def test_thirty_two_threads_change_one_document(storage):
    documents, failed = Documents(storage), []

    def work(number: int) -> None:
        try:
            for turn in range(3):
                writers.add(documents, f"{number}.{turn}")
        except Exception as problem:
            failed.append(problem)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(writers.entries(documents)) == sorted(f"{number}.{turn}" for number in range(32) for turn in range(3))


def test_thirty_two_writers_in_four_processes_change_one_document(tmp_path):
    processes = [writers.start("append", tmp_path / "storage", str(name), "3") for name in range(4)]
    acknowledged = [line for process in processes for line in process.communicate()[0].split()]
    assert [process.returncode for process in processes] == [0] * 4
    assert len(acknowledged) == 4 * 8 * 3
    storage = DiskStorage(tmp_path / "storage")
    assert sorted(writers.entries(Documents(storage))) == sorted(acknowledged)
    storage.close()


@pytest.mark.slow
def test_kill_9_of_writers_loses_nothing_that_was_acknowledged(tmp_path):
    dice, acknowledged = random.Random("kill"), set()
    for turn in range(4):
        processes = [writers.start("append", tmp_path / "storage", f"{turn}-{name}", "1000") for name in range(4)]
        assert processes[0].stdout.readline(), "it has begun"
        time.sleep(dice.uniform(0.2, 0.6))
        for process in processes[: 3 + turn % 2]:
            process.kill()
            time.sleep(dice.uniform(0, 0.1))
        for process in processes:
            process.kill()
            acknowledged.update(process.communicate()[0].split())
        storage = DiskStorage(tmp_path / "storage")
        found = writers.entries(Documents(storage))
        assert acknowledged <= set(found)
        assert len(found) == len(set(found))
        assert len(set(found) - acknowledged) <= 32 * (turn + 1), "more than what was under way"
        writers.add(Documents(storage), f"after {turn}")
        assert [name for name in Path(storage.incoming).iterdir() if name.suffix == ".tmp"] == []
        storage.close()
    assert len(acknowledged) > 20
