"""The snapshot that the master hands to its workers: the last one published, whole, also while the next one is being written."""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import random
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest

from noraflask.config import AccessConfig, AccessRule, AuthConfig, Config, OidcProvider, RoleRule
from noraflask.reload import Snapshot
from noraflask.serve import handover as module
from noraflask.serve.handover import Handover


@pytest.fixture
def handover() -> Iterator[Handover]:
    made = Handover()
    yield made
    made.leave_to_master()
    os.close(made._file)


def publish(handover: Handover, snapshot: object, large: bytes = b"") -> bytes | mmap.mmap:
    offer = handover.prepare(snapshot, large)
    handover.publish(offer)
    return offer.view


def size(handover: Handover) -> int:
    return os.fstat(handover._file).st_size


def test_before_the_first_reload_there_is_nothing(handover: Handover) -> None:
    assert handover.current() is None


def test_the_last_snapshot_counts(handover: Handover) -> None:
    for snapshot in ("first", "second", "third"):
        publish(handover, snapshot)
        assert handover.current() == handover.current() == (snapshot, None)


def test_snapshots_of_all_sizes_in_any_order(handover: Handover) -> None:
    dice = random.Random("sizes")
    for number in range(300):
        snapshot = number, dice.randbytes(dice.choice((0, 1, 10, 1000, 100_000)))
        publish(handover, snapshot)
        assert handover.current() == (snapshot, None)


def test_the_file_does_not_grow_with_the_reloads(handover: Handover) -> None:
    snapshot = b"x" * 1000
    room = 3 * len(pickle.dumps((snapshot, "", None, 0))) + module._HEAD.size
    for _ in range(100):
        publish(handover, snapshot)
        assert size(handover) <= room


def test_a_small_snapshot_after_a_large_one_gives_the_room_back(handover: Handover) -> None:
    for snapshot in (b"x" * 1_000_000, b"small", b"small again"):
        publish(handover, snapshot)
    assert size(handover) < 1000


def test_the_old_snapshot_is_there_until_the_new_one_is_whole(handover: Handover, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the master has done so far: at each of its writes a worker finds the old one whole, and afterwards the new one."""
    seen = []
    write, cut = os.pwrite, os.ftruncate

    def looked(data: bytes, at: int) -> int:
        seen.append(handover.current())
        return write(handover._file, data, at)

    def looked_at_the_end(file: int, length: int) -> None:
        seen.append(handover.current())
        cut(file, length)

    monkeypatch.setattr(os, "pwrite", lambda file, data, at: looked(data, at))
    monkeypatch.setattr(os, "ftruncate", looked_at_the_end)
    snapshots = [bytes([number]) * length for number, length in enumerate((10, 5000, 10, 10, 9000, 1, 5000))]
    for before, after in zip([None, *snapshots], snapshots, strict=False):
        seen.clear()
        publish(handover, after)
        assert seen == [before and (before, None), before and (before, None), (after, None)]


def test_a_write_that_the_kernel_does_in_pieces(handover: Handover, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: write(file, data[:100], at))
    for snapshot in (b"a" * 1050, b"b" * 3333):
        publish(handover, snapshot)
        assert handover.current() == (snapshot, None)


def test_what_is_torn_is_looked_at_again_and_never_taken(handover: Handover, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is slow between head and body: meanwhile the master has published twice, and the body's place has another's bytes."""
    publish(handover, "0" * 50)
    read = os.pread
    published: list[str] = []

    def slow(file: int, length: int, at: int) -> bytes:
        if at and len(published) < 4:
            published.append(f"{len(published) + 1}" * 50)
            publish(handover, published[-1])
            published.append(f"{len(published) + 1}" * 50)
            publish(handover, published[-1])
        return read(file, length, at)

    def master_reads(file: int, length: int, at: int) -> bytes:
        return read(file, length, at) if at == 0 else slow(file, length, at)

    monkeypatch.setattr(os, "pread", master_reads)
    assert handover.current() == ("4" * 50, None)
    assert len(published) == 4


def test_what_stays_torn_is_an_error(handover: Handover) -> None:
    publish(handover, "snapshot")
    start, length, _ = module._HEAD.unpack(os.pread(handover._file, module._HEAD.size, 0))
    os.pwrite(handover._file, bytes(length), start)
    with pytest.raises(RuntimeError, match="faster than it can be read"):
        handover.current()


def read_many(handover: Handover, results: int) -> None:
    """For a child: how many of its looks gave something that is no snapshot."""
    wrong = 0
    for _ in range(3000):
        (number, body), _ = handover.current()
        wrong += body != bytes([number % 251]) * len(body)
    os.write(results, bytes([min(wrong, 255)]))


def test_processes_that_read_while_another_writes(handover: Handover) -> None:
    publish(handover, (0, bytes(10)))
    told, tell = os.pipe()
    children = [get_context("fork").Process(target=read_many, args=(handover, tell)) for _ in range(3)]
    try:
        for child in children:
            child.start()
        number = 0
        while any(child.is_alive() for child in children):
            number += 1
            publish(handover, (number, bytes([number % 251]) * (number * 7919 % 5000)))
        assert [child.exitcode for child in children] == [0] * 3
        assert os.read(told, 3) == bytes(3)
    finally:
        for child in children:
            child.kill()
            child.join()
        os.close(told)
        os.close(tell)


def test_a_real_snapshot_comes_through(handover: Handover) -> None:
    provider = OidcProvider(name="ci", issuer="https://ci.example.com", role_rules=(RoleRule("repo:*", "write", ("team/**",)),))
    rule = AccessRule(place="config.toml:7", users=("ann",), actions=("pull",))
    auth = AuthConfig(enabled=True, oidc_providers=(provider,))
    snapshot = Snapshot(Config(auth=auth, access=AccessConfig(default_role="read", rules=(rule,))), 1_800_000_000.0)
    publish(handover, snapshot)
    assert handover.current() == (snapshot, None)


# Large data.


def found(handover: Handover) -> tuple[object, bytes]:
    snapshot, view = handover.current()
    with view:
        return snapshot, view[:]


def large_files() -> list[str]:
    """Of this process, those that are open or mapped; a mapping holds a descriptor of its own."""
    links = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that the listing itself used
            links.append(os.readlink(path))
    return [link for link in links if "nora-policy" in link]


def test_large_data_comes_with_its_snapshot(handover: Handover) -> None:
    dice = random.Random("large")
    for number in range(50):
        data = dice.randbytes(dice.choice((1, 4095, 4096, 4097, 300_000)))
        view = publish(handover, number, data)
        assert view[:] == data
        assert found(handover) == (number, data)
    assert publish(handover, "none") == b""
    assert handover.current() == ("none", None)


def test_large_data_cannot_be_changed_by_anybody(handover: Handover) -> None:
    view = publish(handover, "snapshot", b"x" * 5000)
    _, seen = handover.current()
    for one in (view, seen):
        with pytest.raises(TypeError):
            one[0] = 1
    with pytest.raises(PermissionError):
        os.pwrite(handover._large[0], b"y", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(handover._large[0], 1)


def test_a_view_outlives_the_file_that_it_shows(handover: Handover) -> None:
    publish(handover, "old", b"old data")
    _, view = handover.current()
    for number in range(10):
        publish(handover, number, b"new data")
    assert view[:] == b"old data"


def test_large_data_is_kept_for_a_while_and_no_longer(handover: Handover) -> None:
    others = len(large_files())  # of apps that other tests of this process have made
    for number in range(50):
        publish(handover, number, bytes(5000))
        assert len(large_files()) - others <= module._KEPT + 1
    assert len(handover._large) == module._KEPT


def test_a_worker_keeps_nothing_of_the_masters_files_open(handover: Handover) -> None:
    others = large_files()
    for number in range(5):
        publish(handover, number, bytes(5000))
    handover.leave_to_master()
    assert large_files() == others
    handover.leave_to_master()


@pytest.mark.parametrize("length", [10, 5000, 90_000])
def test_a_late_worker_gets_the_newest_though_a_number_is_used_again(handover: Handover, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """The master publishes so often between a worker's two looks that descriptors are used again, for smaller, equal and larger data."""
    publish(handover, "old", b"o" * 5000)
    opened, late = os.open, [True]

    def slow(path: str, flags: int) -> int:
        if late and late.pop():
            for number in range(1, 9):
                publish(handover, number, bytes([number]) * length)
        return opened(path, flags)

    monkeypatch.setattr(os, "open", slow)
    assert found(handover) == (8, b"\x08" * length)


def test_a_file_of_another_sort_under_the_number(handover: Handover, tmp_path: Path) -> None:
    """Such as a rule file that the master reads."""
    publish(handover, "snapshot", b"x" * 10)
    (tmp_path / "rules.toml").write_bytes(bytes(5000))
    with open(tmp_path / "rules.toml", "rb") as other:
        os.dup2(other.fileno(), handover._large[0])
    with pytest.raises(RuntimeError, match="faster than it can be read"):
        handover.current()


def read_large(handover: Handover, results: int) -> None:
    """For a child: how many of its looks gave data that is not its snapshot's."""
    handover.leave_to_master()
    wrong = 0
    for _ in range(1000):
        number, data = found(handover)
        wrong += data != bytes([number % 251]) * (1 + number * 7919 % 5000)
    os.write(results, bytes([min(wrong, 255)]))


def test_processes_that_map_while_another_publishes(handover: Handover) -> None:
    publish(handover, 0, bytes(1))
    told, tell = os.pipe()
    children = [get_context("fork").Process(target=read_large, args=(handover, tell)) for _ in range(3)]
    try:
        for child in children:
            child.start()
        number = 0
        while any(child.is_alive() for child in children):
            number += 1
            publish(handover, number, bytes([number % 251]) * (1 + number * 7919 % 5000))
        assert [child.exitcode for child in children] == [0] * 3
        assert os.read(told, 3) == bytes(3)
    finally:
        for child in children:
            child.kill()
            child.join()
        os.close(told)
        os.close(tell)
