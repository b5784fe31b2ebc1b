"""Hashing uploads while they grow: threads that all of them share."""

from __future__ import annotations

import hashlib
import os
import ssl
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from noraflask.errors import ClientGone
from noraflask.services import hashing
from noraflask.services.hashing import HASH_AHEAD_BYTES, HashAhead, RunningHash
from noraflask.services.resumable_sha256 import is_available

MIB = 1024 * 1024


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadPoolExecutor(1) as hashers:
        monkeypatch.setattr(hashing, "_hashers", lambda: hashers)
        yield


class Endless(RunningHash):
    """A body that comes as fast as it is hashed."""

    ahead: HashAhead
    ended = threading.Event()

    def follow(self, descriptor: int, stop: int) -> None:
        self.offset = stop
        if not self.ended.is_set():
            self.ahead._goal = stop + 2 * HASH_AHEAD_BYTES


@pytest.fixture
def endless(one_thread: None) -> Iterator[Endless]:
    running = Endless()
    running.ahead = HashAhead(running, lambda: -1)
    running.ahead.advance(HASH_AHEAD_BYTES)
    yield running
    running.ended.set()


def file_of(folder: Path, size: int) -> int:
    data = folder / "data"
    data.write_bytes(bytes(size))
    return os.open(data, os.O_RDONLY)


def test_a_body_that_comes_as_fast_as_it_is_hashed_keeps_no_other_one_waiting(endless: Endless, tmp_path: Path) -> None:
    size = 40 * MIB
    descriptor, running = file_of(tmp_path, size), RunningHash()

    def hash_it() -> None:
        with HashAhead(running, lambda: descriptor) as ahead:
            ahead.advance(size)

    other = threading.Thread(target=hash_it, daemon=True)
    other.start()
    other.join(20)
    assert not other.is_alive()
    running.follow(descriptor, size)
    assert running.hexdigest() == hashlib.sha256(bytes(size)).hexdigest()
    os.close(descriptor)


def test_what_is_far_behind_holds_a_step_of_the_body_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread takes in the bodies of all slow peers."""
    monkeypatch.setattr(hashing, "_hashers", lambda: Never())
    ahead = HashAhead(RunningHash(), lambda: -1)
    step = threading.Thread(target=ahead.advance, args=(1024 * MIB,), daemon=True)
    step.start()
    step.join(20)
    assert not step.is_alive()


class Never:
    def submit(self, job: object) -> None:
        """Its turn does not come."""


def test_a_body_that_broke_off_is_not_hashed_to_its_end(one_thread: None, tmp_path: Path) -> None:
    size = 200 * MIB
    descriptor, running = file_of(tmp_path, 0), RunningHash()
    os.truncate(tmp_path / "data", size)

    def break_off() -> None:
        with HashAhead(running, lambda: descriptor) as ahead:
            ahead.advance(size)
            raise ClientGone()

    with pytest.raises(ClientGone):
        break_off()
    assert running.offset < size
    os.close(descriptor)


def test_threads_that_have_hashed_keep_no_memory(tmp_path: Path) -> None:
    """Each of the pool's has done so sooner or later."""
    descriptor = file_of(tmp_path, 100)
    with ThreadPoolExecutor(32) as threads:
        barrier = threading.Barrier(32)

        def hash_it() -> int:
            barrier.wait()
            RunningHash().follow(descriptor, 100)
            barrier.wait()
            before = tracemalloc.get_traced_memory()[0]
            barrier.wait()
            return before

        tracemalloc.start()
        try:
            kept = max(job.result() for job in [threads.submit(hash_it) for _ in range(32)])
        finally:
            tracemalloc.stop()
    os.close(descriptor)
    assert kept < 8 * hashing.PIECE_BYTES


@pytest.mark.skipif(ssl.OPENSSL_VERSION_INFO < (3,), reason="needs OpenSSL 3")
def test_with_openssl_3_a_hash_can_be_handed_on() -> None:
    """Else the tests of that would be skipped."""
    assert is_available()
