"""The ledger: what is noted, once; where it lies; what is read back, also from files that crashes and strangers have been at."""

from __future__ import annotations

import errno
import json
import logging
import math
import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from noraflask.services.curation import ledger as module
from noraflask.services.curation.ledger import Entry, Ledger, parse, read
from noraflask.services.curation.model import Package
from tests.clock import Clock

NOON = 1_750_075_200.25  # 2025-06-16T12:00:00.250Z
DAY = 86400
ALWAYS = -math.inf
DIGEST = "sha256:" + "0" * 64
APP = Package("docker", "team/app", "1.0", "docker")


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "var" / "ledger"


@pytest.fixture
def ledger(folder: Path, clock: Clock) -> Ledger:
    return Ledger(folder, 30, clock)


def entries(folder: Path) -> list[Entry]:
    return list(read(folder, ALWAYS))


def versions(folder: Path) -> list[str]:
    return [entry.version for entry in entries(folder)]


def package(version: str | None, **fields: Any) -> Package:
    return Package("npm", "left-pad", version, "npm", **fields)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def line(*, moment: Any = int(NOON), version: Any = "1.0", rest: tuple[Any, ...] = ()) -> bytes:
    return json.dumps([moment, "npm", "npm", "left-pad", version, DIGEST, "joe", "token", "", *rest]).encode() + b"\n"


def put(folder: Path, data: bytes, day: str = "2025-06-16", name: str = "host-1-2.jsonl") -> Path:
    path = folder / day / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_an_entry_is_read_as_it_was_noted(ledger, folder):
    ledger.served(Package("npm", "left-pad", "1.3.0", "npm-main", published=5.9, seen=7.0, hosted=False), DIGEST, "joe", "oidc", "gh:org/repo@main")
    ledger.flush()
    assert entries(folder) == [
        Entry(int(NOON), "npm", "npm-main", "left-pad", "1.3.0", DIGEST, "joe", "oidc", "gh:org/repo@main", hosted=False, published=5, seen=7)
    ]


def test_the_line_is_the_compact_array_of_the_documentation(ledger, folder):
    ledger.served(APP, DIGEST, "joe", "token", "é")
    ledger.flush()
    (name,) = files(folder)
    text = (folder / name).read_text()
    assert text == f'[1750075200,"docker","docker","team/app","1.0","{DIGEST}","joe","token","\\u00e9",1,null,null]\n'
    assert name.startswith("2025-06-16/")
    assert name.endswith(f"-{os.getpid()}-1750075200250.jsonl")
    assert (folder / name).stat().st_mode & 0o007 == 0


@pytest.mark.parametrize(
    ("package", "digest", "version", "noted"),
    [
        (package(None), DIGEST, "", DIGEST),
        (package("1.0", digests=(DIGEST, "sha512:1")), "", "1.0", DIGEST),
        (package("1.0", digests=("sha512:1",)), DIGEST, "1.0", DIGEST),
        (package("1.0"), "", "1.0", ""),
    ],
)
def test_what_is_not_known_is_empty(ledger, folder, package, digest, version, noted):
    ledger.served(package, digest, "", "anonymous")
    ledger.flush()
    assert [(entry.version, entry.digest, entry.principal) for entry in entries(folder)] == [(version, noted, "")]


def test_an_index_is_not_noted(ledger, folder):
    ledger.served(package(None, is_index=True), "", "joe", "token")
    ledger.flush()
    assert not folder.exists()


def test_switched_off_it_does_nothing(folder, clock):
    ledger = Ledger(folder, 30, clock, enabled=False)
    ledger.start()
    ledger.served(APP, DIGEST, "joe", "token")
    ledger.stop()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("after", "change", "lines"),
    [
        (0, {}, 1),
        (599, {}, 1),
        (600, {}, 2),
        (-599, {}, 1),
        (-601, {}, 2),
        (1, {"principal": "ann"}, 2),
        (1, {"ci": "gh:a"}, 2),
        (1, {"digest": "sha256:1"}, 2),
        (1, {"package": Package("docker", "team/app", "1.1", "docker")}, 2),
        (1, {"package": Package("docker", "team/app", "1.0", "other")}, 2),
        (1, {"package": Package("npm", "team/app", "1.0", "docker")}, 2),
        (1, {"package": Package("docker", "team/app", None, "docker")}, 2),
        (1, {"source": "password"}, 1),
    ],
)
def test_the_same_is_noted_once_in_ten_minutes(ledger, folder, clock, after, change, lines):
    first = {"package": APP, "digest": DIGEST, "principal": "joe", "source": "token"}
    ledger.served(**first)
    clock.now += after
    ledger.served(**first | change)
    ledger.flush()
    assert len(entries(folder)) == lines


def test_what_it_remembers_is_bounded(ledger, folder):
    for number in range(10_000):
        ledger.served(package(str(number)), "", "j" * 600 + f"{number}", "token")
        assert ledger._recent.bytes <= module.RECENT_BYTES
    assert 1000 < len(ledger._recent) < 5000
    ledger.flush()
    assert len(entries(folder)) == 10_000


def test_lines_are_written_when_256_wait(ledger, folder):
    for number in range(module.FLUSH_LINES - 1):
        ledger.served(package(str(number)), "", "joe", "token")
    assert not folder.exists()
    ledger.served(package("last"), "", "joe", "token")
    assert len(entries(folder)) == module.FLUSH_LINES


def test_what_waits_is_bounded_and_the_rest_is_counted(ledger, folder, monkeypatch):
    monkeypatch.setattr(module, "MOST_WAITING", 10)
    for number in range(15):
        ledger.served(package(str(number)), "", "joe", "token")
    ledger.flush()
    assert versions(folder) == [str(number) for number in range(10)]
    assert ledger.lost == 5


def test_the_thread_writes_by_itself_and_at_the_end(ledger, folder, monkeypatch):
    written, flush = threading.Event(), ledger.flush

    def observed() -> None:
        flush()
        if folder.exists():
            written.set()

    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.001)
    monkeypatch.setattr(ledger, "flush", observed)
    ledger.start()
    ledger.served(package("1"), "", "joe", "token")
    assert written.wait(10)
    ledger.served(package("2"), "", "joe", "token")
    ledger.stop()
    assert versions(folder) == ["1", "2"]
    ledger.served(package("after"), "", "joe", "token")
    ledger.stop()
    assert versions(folder) == ["1", "2", "after"]


def test_many_lines_wake_the_thread_and_no_request_writes_them(ledger, folder, monkeypatch):
    written, flush = threading.Event(), ledger.flush
    writers: list[str] = []

    def observed() -> None:
        writers.append(threading.current_thread().name)
        flush()
        written.set()

    monkeypatch.setattr(module, "FLUSH_SECONDS", 3600)
    monkeypatch.setattr(ledger, "flush", observed)
    ledger.start()
    for number in range(module.FLUSH_LINES):
        ledger.served(package(str(number)), "", "joe", "token")
    assert written.wait(10)
    assert writers == ["ledger"]
    ledger.stop()
    assert len(entries(folder)) == module.FLUSH_LINES


def test_each_day_has_a_folder_and_a_line_lies_in_its_own_day(ledger, folder, clock):
    clock.now = NOON + DAY / 2 - 1  # 23:59:59.250
    ledger.served(package("monday"), "", "joe", "token")
    clock.now += 1
    ledger.served(package("tuesday"), "", "joe", "token")
    ledger.flush()
    clock.now -= 0.5  # the clock was set back over midnight
    ledger.served(package("again"), "", "joe", "token")
    ledger.flush()
    assert [name.partition("/")[0] for name in files(folder)] == ["2025-06-16", "2025-06-17"]
    assert versions(folder) == ["monday", "again", "tuesday"]


def test_a_forked_worker_writes_a_file_of_its_own_and_nothing_of_its_parent(ledger, folder):
    ledger.served(package("flushed"), "", "parent", "token")
    ledger.flush()
    ledger.served(package("waiting"), "", "parent", "token")

    def work() -> None:
        ledger.served(package("waiting"), "", "parent", "token")
        ledger.served(package("flushed"), "", "parent", "token")
        ledger.stop()

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert sorted(versions(folder)) == ["flushed", "flushed", "waiting"]
    ledger.flush()
    assert sorted(versions(folder)) == ["flushed", "flushed", "waiting", "waiting"]
    assert len(files(folder)) == 2


def test_a_folder_that_somebody_removed_is_made_anew(ledger, folder, clock):
    ledger.served(package("1"), "", "joe", "token")
    ledger.flush()
    (name,) = files(folder)
    (folder / name).unlink()
    (folder / name).parent.rmdir()
    ledger.served(package("2"), "", "joe", "token")
    ledger.flush()
    assert versions(folder) == ["2"]
    assert ledger.lost == 0


class Disk:
    """os.write with so many bytes of room."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.write = os.write

    def __call__(self, descriptor: int, data: Any) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = self.write(descriptor, bytes(data)[: self.room])
        self.room -= done
        return done


@pytest.mark.parametrize(("room", "whole"), [(0, 0), (1, 0), (50, 0), (170, 1), (10_000, 3)])
def test_a_full_disk_costs_the_lines_that_found_no_room_and_no_other(ledger, folder, clock, monkeypatch, caplog, room, whole):
    disk = Disk(room)
    monkeypatch.setattr(module.os, "write", disk)
    for number in range(3):
        ledger.served(package(str(number)), DIGEST, "joe", "token")
    ledger.flush()
    assert ledger.lost == 3 - whole
    disk.room = 1 << 20
    clock.now += 61
    ledger.served(package("after"), DIGEST, "joe", "token")
    ledger.flush()
    assert versions(folder) == [*map(str, range(whole)), "after"]
    assert [record.levelno for record in caplog.records] == ([logging.ERROR] if whole < 3 else [])
    assert not caplog.records or "No space left on device; check free space and permissions there" in caplog.text


def test_a_line_that_was_cut_off_harms_none_when_its_file_is_opened_again(ledger, folder, clock, monkeypatch):
    disk = Disk(50)
    monkeypatch.setattr(module.os, "write", disk)
    ledger.served(package("cut off"), "", "joe", "token")
    ledger.flush()
    disk.room = 1 << 20
    for version, days in (("tuesday", 1), ("monday", 0)):  # the clock was set, and set back
        clock.now = NOON + days * DAY
        ledger.served(package(version), "", "joe", "token")
        ledger.flush()
    assert versions(folder) == ["monday", "tuesday"]


def test_no_descriptor_is_left(ledger, clock):
    before = os.listdir("/proc/self/fd")
    for number in range(5):
        clock.now = NOON + number * DAY
        ledger.served(APP, DIGEST, "joe", "token")
        ledger.flush()
    assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    ledger.stop()
    assert os.listdir("/proc/self/fd") == before


def test_what_was_lost_is_noted_when_it_is_served_again(ledger, folder, monkeypatch):
    disk = Disk(0)
    monkeypatch.setattr(module.os, "write", disk)
    ledger.served(APP, DIGEST, "joe", "token")
    ledger.flush()
    disk.room = 1 << 20
    ledger.served(APP, DIGEST, "joe", "token")
    ledger.flush()
    assert versions(folder) == ["1.0"]


def test_failures_are_logged_once_a_minute_and_the_end_of_them_too(ledger, clock, folder, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    disk = Disk(0)
    monkeypatch.setattr(module.os, "write", disk)
    for number in range(150):
        ledger.served(package(str(number)), "", "joe", "token")
        ledger.flush()
        clock.now += 1
    assert ledger.lost == 150
    disk.room = 1 << 20
    clock.now += 60
    ledger.served(package("after"), "", "joe", "token")
    ledger.flush()
    said = [record.getMessage() for record in caplog.records]
    assert [text.partition("; ")[2].rpartition("; ")[2] or text for text in said[:3]] == [
        f"{lines} lines were lost since the last such message" for lines in (1, 60, 60)
    ]
    assert said[3:] == [f"the ledger ({folder}) is written again; 29 lines were lost since the last such message"]


@pytest.mark.parametrize(
    "arguments",
    [
        (APP, b"bytes", "joe", "token"),
        (APP, object(), "joe", "token"),
        (APP, ["x"], "joe", "token"),
        (APP, DIGEST, None, "token"),
        (APP, DIGEST, "joe", b"token"),
        (APP, DIGEST, "joe", "token", {}),
        (None, DIGEST, "joe", "token"),
        (Package("npm", "x", "1", published=math.nan), DIGEST, "joe", "token"),
        (Package("npm", "x", "1", seen=math.inf), DIGEST, "joe", "token"),
    ],
)
def test_nonsense_is_counted_and_costs_no_other_line(ledger, folder, arguments):
    ledger.served(package("before"), "", "joe", "token")
    ledger.served(*arguments)
    ledger.served(package("after"), "", "joe", "token")
    ledger.flush()
    assert versions(folder) == ["before", "after"]
    assert ledger.lost == 1


def test_no_text_can_end_a_line_or_make_it_endless(ledger, folder):
    odd = 'a"b\n\r\u2028\0\ud800\\é'
    ledger.served(Package("raw", odd, odd, odd), odd, odd * 1000, odd, odd * 1000)
    ledger.served(package("next"), "", "joe", "token")
    ledger.flush()
    first, second = entries(folder)
    assert (first.repository, first.name, first.version, first.digest, first.source) == (odd,) * 5
    assert first.principal == first.ci == (odd * 1000)[: module.LONGEST_TEXT]
    assert second.version == "next"


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"\n",
        b"\0\0\0\0\n",
        b"\xff\xfe\n",
        b"{}\n",
        b"null\n",
        b"[" * 100_000 + b"\n",
        b"[1]\n",
        line(moment="now"),
        line(moment=True),
        line(moment=math.nan),
        line(moment=math.inf),
        line(moment=10**30),
        line(moment=-(10**30)),
        b"[" + b"9" * 5000 + b"]\n",
        line(version=None),
        line(version=1),
        line()[:40] + b"\n",
        b"x" * (3 * module.LONGEST_LINE_BYTES) + line(),
    ],
)
def test_broken_lines_are_skipped_and_the_others_are_read(folder, broken):
    put(folder, line(version="before") + broken + line(version="after") + line(version="cut")[:-1])
    assert [entry.version for entry in read(folder, 0)] == ["before", "after"]


@pytest.mark.parametrize(
    ("rest", "hosted", "published", "seen"),
    [
        ((), True, None, None),
        ((0,), False, None, None),
        ((1, 5), True, 5, None),
        ((0, 5, 7.5), False, 5, 7.5),
        ((0, 5, 7, "later"), False, 5, 7),
        ((0, "x", math.nan), False, None, None),
    ],
)
def test_what_comes_after_the_ci_identity_may_be_absent(rest, hosted, published, seen):
    entry = parse(line(rest=rest))
    assert entry is not None
    assert (entry.hosted, entry.published, entry.seen) == (hosted, published, seen)


@pytest.mark.parametrize(
    ("since", "until", "found"),
    [
        (ALWAYS, None, "abcd"),
        (0, math.inf, "abcd"),
        (NOON - DAY, None, "bcd"),
        (int(NOON), None, "bcd"),
        (int(NOON), int(NOON), "b"),
        (int(NOON) + 1, None, "cd"),
        (0, int(NOON), "ab"),
        (int(NOON), int(NOON) + DAY, "bc"),
        (NOON + 30 * DAY, None, ""),
        (0, -1, ""),
        (1e300, None, ""),
        (NOON, 0, ""),
    ],
)
def test_reading_takes_what_lies_between(folder, since, until, found):
    noon = int(NOON)
    put(folder, line(moment=noon - 2 * DAY, version="a"), "2025-06-14")
    put(folder, line(moment=noon, version="b") + line(moment=noon + 1, version="c"))
    put(folder, line(moment=noon + DAY + 1, version="d"), "2025-06-17")
    assert "".join(entry.version for entry in read(folder, since, until)) == found


def test_reading_opens_no_file_of_another_day(folder):
    put(folder, line(version="good"))
    for day in ("2025-06-15", "2025-06-17"):
        (folder / day / "a-folder-cannot-be-opened.jsonl").mkdir(parents=True)
    assert [entry.version for entry in read(folder, NOON - 60, NOON + 60)] == ["good"]
    with pytest.raises(IsADirectoryError):
        entries(folder)


def test_reading_leaves_alone_what_is_not_of_the_ledger(folder):
    put(folder, line(version="good"))
    for day, name in (("2025-06-16", "notes.txt"), ("2025-6-16", "a.jsonl"), ("20250616", "a.jsonl"), ("2025-02-30", "a.jsonl"), ("old", "a.jsonl")):
        put(folder, line(version="bad"), day, name)
    (folder / "2025-06-15").write_bytes(line(version="bad"))
    assert versions(folder) == ["good"]


def test_a_ledger_that_has_nothing_yet_is_empty(folder):
    assert entries(folder) == []


def test_a_day_that_is_swept_while_others_are_read_is_no_error(folder):
    put(folder, line(version="1"), "2025-06-15")
    second = put(folder, line(version="2"))
    reading = read(folder, 0)
    assert next(reading).version == "1"
    second.unlink()
    second.parent.rmdir()
    assert list(reading) == []


def test_a_file_that_is_swept_while_others_are_read_is_no_error(folder):
    put(folder, line(version="1"), name="a.jsonl")
    second = put(folder, line(version="2"), name="b.jsonl")
    reading = read(folder, 0)
    assert next(reading).version == "1"
    second.unlink()
    assert list(reading) == []


@pytest.mark.parametrize(
    ("days", "gone"),
    [(0, ["2025-06-13", "2025-06-14", "2025-06-15"]), (1, ["2025-06-13", "2025-06-14"]), (2, ["2025-06-13"]), (3, []), (10**6, [])],
)
def test_sweeping_removes_whole_days_that_are_over_long_enough(folder, clock, caplog, days, gone):
    kept = ["2025-06-16", "2025-06-17", "1999-1-1", "19990101", "1999-02-30", "backup"]
    for day in ["2025-06-13", "2025-06-14", "2025-06-15", *kept]:
        put(folder, line(), day)
    put(folder, line(), "elsewhere")
    (folder / "1999-01-01").symlink_to(folder / "elsewhere")
    (folder / "1999-01-02").write_bytes(b"a file")
    before = {path.name for path in folder.iterdir()}
    assert Ledger(folder, days, clock).sweep() == len(gone)
    assert before - {path.name for path in folder.iterdir()} == set(gone)
    assert (folder / "elsewhere" / "host-1-2.jsonl").exists()
    assert not caplog.records


def test_sweeping_nothing_is_no_error(ledger):
    assert ledger.sweep() == 0


def test_a_day_that_cannot_be_removed_is_said(ledger, folder, monkeypatch, caplog):
    put(folder, line(), "2025-01-01")
    monkeypatch.setattr(module.shutil, "rmtree", lambda path, ignore_errors: None)
    assert ledger.sweep() == 0
    assert "2025-01-01) cannot be removed; check the permissions there" in caplog.text


def test_the_thread_sweeps_when_a_worker_starts(ledger, folder):
    put(folder, line(), "2025-01-01")
    ledger.start()
    ledger.stop()
    assert not (folder / "2025-01-01").exists()


@pytest.mark.parametrize(
    ("name", "file"), [("web-1.example", "web-1.example"), ("../../etc", "_.._etc"), ("…", "_"), ("", "host"), ("x" * 300, "x" * 64)]
)
def test_the_name_of_the_host_cannot_lead_elsewhere(ledger, folder, monkeypatch, name, file):
    monkeypatch.setattr(module.socket, "gethostname", lambda: name)
    ledger.served(APP, DIGEST, "joe", "token")
    ledger.flush()
    (found,) = files(folder)
    assert found.startswith(f"2025-06-16/{file}-{os.getpid()}-")


def test_what_artifacts_are_made_of_is_told_apart(ledger, folder):
    """By a last field that an artifact's line does not have."""
    ledger.served(Package("docker", "app", "sha256:1", "docker", digests=("sha256:1",), is_part=True), "sha256:1", "joe", "token")
    ledger.served(Package("docker", "app", "1", "docker", digests=("sha256:2",)), "sha256:2", "joe", "token")
    ledger.flush()
    assert [entry.part for entry in entries(folder)] == [True, False]
    part, artifact = (line.split(b",") for path in folder.rglob("*.jsonl") for line in path.read_bytes().splitlines())
    assert (len(part), part[-1], len(artifact)) == (13, b"1]", 12)


@pytest.mark.parametrize(
    ("field", "part"), [("1", True), ("0", False), ("null", False), ("true", True), ('"1"', False), ("[1]", False), ("{}", False)]
)
def test_odd_last_fields(field, part):
    line = f'[1,"docker","docker","app","1","sha256:1","joe","token","",1,null,null,{field}]\n'
    assert parse(line.encode()).part is part
