"""Leases: what somebody relies on is not deleted, by whichever process, and what nobody needs goes."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from noraflask.errors import AlreadyExists, StorageFull
from noraflask.keys import Key
from noraflask.storage import GRACE_SECONDS, Leases, Storage
from noraflask.storage.disk import DiskStorage
from noraflask.storage.disk_cells import DiskLeases
from noraflask.storage.memory import MemoryLeases
from tests.clock import Clock
from tests.contract import writers

KEY, OTHER = Key("blobs/a"), Key("blobs/b")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def another(storage: Storage, clock: Clock) -> Callable[[], Leases]:
    """another() → leases as one more process sees them; in memory there is but one."""
    only = MemoryLeases(storage.delete, clock)
    return lambda: DiskLeases(os.path.join(storage.root, ".shared"), storage.delete, clock) if isinstance(storage, DiskStorage) else only


def reaped(storage: Storage, leases: Leases, mark: float, needed: bool = False) -> bool:
    """Is the object gone, and does the answer say so?"""
    gone = leases.reap(KEY, mark, lambda: needed)
    assert gone == (storage.stat(KEY) is None)
    return gone


def test_what_nobody_held_goes(storage, another, clock):
    storage.create(KEY, b"x")
    storage.create(OTHER, b"x")
    leases = another()
    mark = leases.mark()
    assert not reaped(storage, leases, mark, needed=True)
    assert reaped(storage, leases, mark)
    assert storage.stat(OTHER) is not None
    assert leases.reap(KEY, mark, lambda: False), "gone is gone"


def test_what_is_held_stays_whatever_the_time(storage, another, clock):
    storage.create(KEY, b"x")
    holder, deleter = another(), another()
    with holder.hold(OTHER, KEY):
        with holder.hold(KEY):
            pass
        clock.now += 100 * GRACE_SECONDS
        assert not reaped(storage, deleter, deleter.mark())
    assert not reaped(storage, deleter, clock.now + GRACE_SECONDS / 2), "it was held until now"
    clock.now += 3 * GRACE_SECONDS
    assert reaped(storage, deleter, deleter.mark())


@pytest.mark.parametrize("by", ["hold", "touch"])
def test_what_was_held_since_the_mark_or_shortly_before_stays(storage, another, clock, by):
    storage.create(KEY, b"x")
    holder, deleter = another(), another()

    def use() -> None:
        if by == "touch":
            holder.touch(KEY)
        else:
            with holder.hold(KEY):
                pass

    use()
    clock.now += GRACE_SECONDS - 1
    mark = deleter.mark()
    assert not reaped(storage, deleter, mark)
    clock.now += 5 * GRACE_SECONDS
    assert not reaped(storage, deleter, mark), "the mark counts, not the time of the reaping"
    mark = deleter.mark()
    use()
    clock.now += 5 * GRACE_SECONDS
    assert not reaped(storage, deleter, mark)
    assert reaped(storage, deleter, deleter.mark())


def test_a_holder_waits_for_a_deleter_and_finds_the_truth(storage, another, clock):
    storage.create(KEY, b"x")
    seen: list[object] = []

    def hold() -> None:
        with another().hold(KEY):
            seen.append(storage.stat(KEY))

    holder = threading.Thread(target=hold)

    def asked() -> bool:
        holder.start()
        time.sleep(0.1)
        assert seen == []
        return False

    assert another().reap(KEY, clock.now, asked)
    holder.join()
    assert seen == [None]


def test_holders_do_not_wait_for_each_other(storage, another):
    leases = another()
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(leases.hold(KEY))
            stack.enter_context(another().hold(KEY, OTHER))


def test_what_raises_inside_is_no_longer_held(storage, another, clock):
    storage.create(KEY, b"x")
    with pytest.raises(ZeroDivisionError), another().hold(KEY):
        _ = 1 // 0
    clock.now += 2 * GRACE_SECONDS
    assert reaped(storage, another(), clock.now)


def test_a_full_disk_refuses_who_holds_and_not_who_touches(tmp_path, monkeypatch):
    storage = DiskStorage(tmp_path / "storage")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    before = len(os.listdir("/proc/self/fd"))
    storage.abilities.leases.touch(KEY)
    with pytest.raises(StorageFull), storage.abilities.leases.hold(KEY):
        pass
    assert len(os.listdir("/proc/self/fd")) == before
    storage.close()


def test_the_files_are_bounded(tmp_path):
    storage = DiskStorage(tmp_path / "storage")
    for number in range(2000):
        storage.abilities.leases.touch(f"blobs/{number}")
    assert os.stat(tmp_path / "storage/.shared/leases").st_size == 4 << 20
    storage.close()


# Against a deleter in a loop, in another process.

BLOBS = [f"{number:02}" for number in range(8)]


def push(storage: DiskStorage, leases: Leases, blob: str, pointer: Key, dice: random.Random) -> None:
    """As services/content.py does it: trust what is there, or store it; point to it."""
    with leases.hold(f"blobs/{blob}"):
        try:
            storage.create(Key(f"blobs/{blob}"), b"content")
        except AlreadyExists:
            time.sleep(dice.uniform(0, 0.01))
        storage.create(pointer, b"")


@pytest.mark.slow
def test_no_pointer_ever_leads_nowhere_while_a_deleter_loops(tmp_path):
    root = tmp_path / "storage"
    storage = DiskStorage(root)
    deleter = writers.start("collect", root)
    broken: list[str] = []
    stop = time.monotonic() + 6

    def work(number: int) -> None:
        dice, leases, turn = random.Random(number), writers.leases_of(storage), 0
        while time.monotonic() < stop:
            turn += 1
            blob = dice.choice(BLOBS)
            pointer = Key(f"pointers/{blob}.{number}.{turn}")
            push(storage, leases, blob, pointer, dice)
            time.sleep(dice.uniform(0, 0.3))
            if storage.stat(Key(f"blobs/{blob}")) is None:
                broken.append(pointer)
            storage.delete(pointer)
            time.sleep(dice.uniform(0, 0.9))

    writers.in_threads(work)
    deleter.kill()
    deleted = deleter.communicate()[0].split()
    storage.close()
    assert broken == []
    assert len(deleted) > 3, "the deleter had nothing to do; the test is of no use"


def test_a_killed_holder_holds_no_longer(tmp_path):
    root: Path = tmp_path / "storage"
    storage = DiskStorage(root)
    storage.create(KEY, b"x")
    holder = writers.start("hold", root, KEY)
    assert holder.stdout.readline()
    leases = writers.leases_of(storage)
    time.sleep(1.2 * GRACE_SECONDS / writers.SPEED)
    assert not leases.reap(KEY, leases.mark(), lambda: False)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert leases.reap(KEY, leases.mark(), lambda: False)
    storage.close()
