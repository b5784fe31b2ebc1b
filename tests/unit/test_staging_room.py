"""Each principal's share of unfinished uploads: who has it all makes room by what lies idle, or waits; others go on."""

from __future__ import annotations

import fcntl
import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from noraflask.config import StagingConfig
from noraflask.errors import TooManyUploads, UploadUnknown
from noraflask.services import staging_room as room_module
from noraflask.services import staging_usage as usage_module
from noraflask.services.metrics import catalogue
from noraflask.services.metrics.counting import NullMetrics
from noraflask.services.staging import Staging
from noraflask.services.staging_counts import Counts
from noraflask.services.staging_usage import owner_number, owner_of
from noraflask.suspension import drive
from tests.clock import Clock

SCOPE = "docker/app"
MIB = 1 << 20


class Counted(NullMetrics):
    def __init__(self) -> None:
        self.seen: list[tuple[str, ...]] = []

    def count(self, family, *labels, by=1.0):
        self.seen.append((family.name, *labels))


@pytest.fixture
def clock() -> Clock:
    return Clock(time.time())


@pytest.fixture
def make(tmp_path: Path, clock: Clock) -> Callable[..., Staging]:
    incoming = tmp_path / "storage" / ".incoming"
    incoming.mkdir(parents=True)

    def make(max_sessions: int = 1000, metrics: NullMetrics | None = None, **settings: int) -> Staging:
        return Staging(StagingConfig(tmp_path / "tmpfs", **settings), str(incoming), max_sessions, clock, metrics)

    return make


def begin(staging: Staging, owner: str, count: int = 1) -> list[str]:
    return [staging.begin(SCOPE, owner=owner) for _ in range(count)]


def send(staging: Staging, session: str, size: int) -> None:
    with staging.resume(SCOPE, session) as upload:
        drive(upload.receive(1 << 30), io.BytesIO(b"x" * size))


def full(staging: Staging, owner: str) -> int:
    """Seconds to wait."""
    with pytest.raises(TooManyUploads) as refused:
        staging.begin(SCOPE, owner=owner)
    return int(refused.value.headers["Retry-After"])


def later(clock: Clock, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock.now += seconds
    began = time.monotonic
    monkeypatch.setattr(room_module.time, "monotonic", lambda: began() + clock.now)


def alive(staging: Staging, sessions: list[str]) -> list[bool]:
    def is_alive(session: str) -> bool:
        try:
            staging.offset(SCOPE, session)
        except UploadUnknown:
            return False
        return True

    return [is_alive(session) for session in sessions]


# Sessions.


def test_who_has_all_that_one_may_have_waits_and_others_go_on(make):
    staging = make(principal_sessions=5)
    begin(staging, "user mallory", 5)
    assert 1 <= full(staging, "user mallory") <= 10
    begin(staging, "user alice", 5)
    staging.probe()


@pytest.mark.parametrize("most", [4, 10, 300, 20_000])
def test_one_principal_never_reaches_the_limit_of_all(make, most):
    assert make(most, principal_sessions=1_000_000).max_sessions_of_one <= most * 3 // 4


def test_by_default_200_pushes_of_five_layers_at_once_from_one_address_are_fine(make):
    staging = make(20_000)
    begin(staging, "client 192.0.2.1", 1000)
    assert staging.max_sessions_of_one == 5000


def test_a_restart_and_another_server_count_right(make, monkeypatch):
    monkeypatch.setattr(usage_module, "USAGE_FRESH_SECONDS", -1)
    first = make(principal_sessions=5)
    sessions = begin(first, "user mallory", 5)
    send(first, sessions[0], 20 * MIB)  # it goes to the data volume
    again = make(principal_sessions=5)
    full(again, "user mallory")
    again.cancel(SCOPE, sessions[0])
    begin(again, "user mallory")
    full(first, "user mallory")


def test_workers_count_together_to_the_last_one(make):
    """Each of them alone looks at the folder once a second, which is too late."""
    staging = make(principal_sessions=50)
    begin(staging, "user alice", 3)
    children = []
    for _ in range(4):
        child = os.fork()
        if not child:
            for _ in range(40):
                try:
                    staging.begin(SCOPE, owner="user mallory")
                except TooManyUploads:
                    pass
                except BaseException:
                    os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert len(staging.unfinished(SCOPE, owner="user mallory")) == 50
    assert len(staging.unfinished(SCOPE, owner="user alice")) == 3
    assert len(staging.unfinished(SCOPE)) == 53


def test_what_is_finished_or_cancelled_frees_its_place_at_once(make):
    staging = make(principal_sessions=2)
    for _ in range(20):
        one, other = begin(staging, "user alice", 2)
        send(staging, one, 10)
        with staging.resume(SCOPE, one) as upload:
            upload.discard()
        staging.cancel(SCOPE, other)
    assert staging.open_sessions() == 0


def test_an_upload_that_could_not_be_made_takes_no_place(make, monkeypatch):
    staging = make(principal_sessions=2)
    with monkeypatch.context() as broken:
        broken.setattr("noraflask.services.staging._create_in", lambda folder, name: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        for _ in range(5):
            with pytest.raises(Exception, match="full"):
                begin(staging, "user alice")
    begin(staging, "user alice", 2)


def test_the_owner_is_in_the_session_and_says_nothing_else(make):
    staging = make()
    ours, theirs = begin(staging, "user alice", 2), begin(staging, "user bob")
    assert {owner_of(session) for session in ours} == {owner_number("user alice")}
    assert owner_of(theirs[0]) == owner_number("user bob") != owner_number("user alice")
    assert all(len(session) == 32 and int(session, 16) for session in ours + theirs)
    assert owner_of(staging.begin(SCOPE)) == owner_number("") == 0


def test_what_is_no_session_is_nobodys():
    assert [owner_of(name) for name in ("", "x", "x" * 40, ".probe-0", "é" * 32)] == [0] * 5


# Making room.


def test_what_a_killed_job_left_makes_room_for_the_next_one(make, clock, monkeypatch):
    """CI runners are killed; nobody waits an hour for the uploads that they left."""
    metrics = Counted()
    staging = make(principal_sessions=10, metrics=metrics)
    left = begin(staging, "user robot", 10)
    later(clock, 61, monkeypatch)
    begin(staging, "user robot", 10)
    assert not any(alive(staging, left))
    assert (catalogue.STAGING_MADE_ROOM.name,) in metrics.seen
    assert staging.open_sessions() == 10


def test_empty_ones_make_room_first_and_none_that_is_young(make, clock, monkeypatch):
    staging = make(principal_sessions=4)
    with_bytes, empty, young, at_work = begin(staging, "user robot", 4)
    send(staging, with_bytes, 10)
    for path in (path for folder in staging._folders() for path in Path(folder).iterdir()):
        old = {with_bytes: 700, empty: 100, at_work: 5000}.get(path.name[:32], 10)
        os.utime(path, (clock.now - old, clock.now - old))
    with staging.resume(SCOPE, at_work):
        begin(staging, "user robot")
        assert alive(staging, [with_bytes, empty, young, at_work]) == [True, False, True, True]
        begin(staging, "user robot")
        assert alive(staging, [with_bytes, empty, young, at_work]) == [False, False, True, True]
        assert 1 <= full(staging, "user robot") <= 10
    assert alive(staging, [young, at_work]) == [True, True]


def test_others_lose_nothing_by_it(make, clock, monkeypatch):
    staging = make(principal_sessions=3)
    begin(staging, "user mallory", 3)
    theirs = begin(staging, "user alice", 3)
    for path in (path for path in Path(staging._folders()[0]).iterdir() if path.name[:32] in theirs):
        os.utime(path, (clock.now - 3000, clock.now - 3000))
    full(staging, "user mallory")
    assert all(alive(staging, theirs))


def test_where_all_places_are_taken_who_has_most_makes_room(make, clock, monkeypatch):
    staging = make(12, principal_sessions=7)
    alice = begin(staging, "user alice", 2)
    crowd = begin(staging, "user mallory", 7), begin(staging, "user mallet", 3)
    full(staging, "user bob")
    later(clock, 120, monkeypatch)
    begin(staging, "user bob")
    assert [sum(alive(staging, sessions)) for sessions in (alice, *crowd)] == [2, 6, 3]


def test_who_is_refused_again_and_again_costs_no_look_at_all_uploads(make, monkeypatch):
    looks = []
    idle_in = room_module.idle_in
    monkeypatch.setattr(room_module, "idle_in", lambda *given: looks.append(given) or idle_in(*given))
    staging = make(principal_sessions=5)
    begin(staging, "user mallory", 5)
    for _ in range(100):
        full(staging, "user mallory")
    assert len(looks) == 1


def test_a_sweep_leaves_what_somebody_is_at_work_on(make, clock):
    staging = make(session_ttl_seconds=10)
    at_work, left = begin(staging, "user alice", 2)
    clock.now += 11
    with staging.resume(SCOPE, at_work):
        assert staging.sweep() == 1
        assert alive(staging, [at_work, left]) == [True, False]
    assert staging.sweep() == 1


# Bytes.


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_module, "USAGE_FRESH_SECONDS", -1)


@pytest.mark.usefixtures("fresh")
def test_who_holds_all_bytes_that_one_may_hold_waits_and_others_go_on(make):
    metrics = Counted()
    staging = make(principal_bytes=1000, share_bytes=0, metrics=metrics)
    first, second = begin(staging, "user mallory", 2)
    send(staging, first, 5000)  # alone, an upload may be of any size
    send(staging, first, 5000)
    with pytest.raises(TooManyUploads) as refused:
        send(staging, second, 1)
    assert int(refused.value.headers["Retry-After"]) >= 1
    assert (catalogue.STAGING_REFUSED.name, "principal_bytes") in metrics.seen
    (other,) = begin(staging, "user alice")
    send(staging, other, 5000)
    staging.cancel(SCOPE, first)
    send(staging, second, 10)


@pytest.mark.usefixtures("fresh")
def test_bytes_that_lie_idle_make_room(make, clock, monkeypatch):
    staging = make(principal_bytes=1000, share_bytes=0)
    left, fresh = begin(staging, "user robot", 2)
    send(staging, left, 5000)
    later(clock, 601, monkeypatch)
    send(staging, fresh, 5000)
    assert alive(staging, [left, fresh]) == [False, True]


@pytest.mark.usefixtures("fresh")
def test_by_default_one_principal_leaves_a_quarter_of_the_volume(make, monkeypatch):
    staging = make(share_bytes=0)
    volume = os.statvfs_result((4096, 4096, 1000, 1000, 100, 1, 1, 1, 0, 255))  # 400 KiB are free
    monkeypatch.setattr(os, "statvfs", lambda path: volume)
    sessions = begin(staging, "user mallory", 3)
    send(staging, sessions[0], 500_000)
    send(staging, sessions[1], 1_000_000)  # 500,000 are less than three quarters of 900,000
    with pytest.raises(TooManyUploads):
        send(staging, sessions[2], 1)
    send(staging, begin(staging, "user alice")[0], 500_000)


@pytest.mark.usefixtures("fresh")
def test_a_full_volume_says_that_it_is_full_and_not_that_somebody_has_too_much(make, monkeypatch):
    staging = make()
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((4096, 4096, 1000, 0, 0, 1, 1, 1, 0, 255)))
    for session in begin(staging, "user alice", 5):
        send(staging, session, 5 * MIB)  # on the tmpfs, of which the volume has nothing


# The counts.


def test_what_is_counted_during_a_look_is_not_lost():
    counts = Counts()
    number = counts.begin_look(1)
    assert counts.begin_look(1) is None, "somebody looks already"
    assert [counts.begin(7, 3, 10) for _ in range(2)] == [None, None]
    counts.finish_look(number, [(7, 100)], [(8, 50)], 1)
    assert (counts.sessions(7), counts.sessions(8), counts.sessions()) == (3, 1, 4)
    assert counts.begin(7, 3, 10) == "owner"
    assert counts.begin(8, 3, 4) == "all"
    assert (counts.volume_bytes(7), counts.volume_bytes(8), counts.volume_bytes()) == (0, 50, 50)
    assert (counts.tmpfs_bytes(), counts.most_sessions_of_one()) == (100, 1)
    number = counts.begin_look(-1)
    counts.finish_look(number, [(7, 100)] * 3, [], 1)
    assert (counts.sessions(7), counts.sessions(8), counts.sessions()) == (3, 0, 3)


def test_a_look_that_nobody_finished_loses_nothing():
    counts = Counts()
    counts.finish_look(counts.begin_look(-1), [], [], 1)
    counts.begin(7, 10, 10)
    counts.begin_look(-1)
    counts.begin(7, 10, 10)
    counts.begin_look(-1)
    counts.begin(7, 10, 10)
    number = counts.begin_look(-1)
    assert counts.sessions(7) == 3
    counts.begin(7, 10, 10)
    counts.finish_look(number - 1, [], [], 1)
    assert counts.sessions(7) == 4, "an overtaken look is of no use"
    counts.finish_look(number, [(7, 0)] * 3, [], 1)
    assert counts.sessions(7) == 4


def test_many_uploads_are_looked_at_less_often(monkeypatch):
    counts = Counts()
    number = counts.begin_look(1)
    ticks = time.monotonic_ns
    monkeypatch.setattr(time, "monotonic_ns", lambda: ticks() + 500_000_000)  # a look took half a second
    counts.finish_look(number, [], [], 1)
    monkeypatch.setattr(time, "monotonic_ns", lambda: ticks() + 9_000_000_000)
    assert counts.begin_look(1) is None
    monkeypatch.setattr(time, "monotonic_ns", lambda: ticks() + 11_000_000_000)
    assert counts.begin_look(1) is not None


def test_the_lock_of_a_writer_is_one_that_room_is_not_made_from(make, clock, monkeypatch):
    """Another process's, too."""
    staging = make(principal_sessions=1)
    begin(staging, "user robot")
    (path,) = Path(staging._folders()[0]).iterdir()
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        later(clock, 5000, monkeypatch)
        assert full(staging, "user robot") >= 1
