"""The audit log: whole lines, whatever is in them, however many write and whatever happens to the file."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import random
import stat
import threading
from pathlib import Path

import pytest

from noraflask.config import AuditConfig
from noraflask.services import audit as module
from noraflask.services.audit import Audit, Record
from tests.clock import Clock

NOON = 1_750_075_200.25  # 2025-06-16T12:00:00.250Z


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "log" / "audit.jsonl"


@pytest.fixture
def audit(path: Path, clock: Clock) -> Audit:
    return Audit(AuditConfig(), path, clock)


def records(path: Path) -> list[dict[str, str]]:
    data = path.read_bytes()
    assert data.endswith(b"\n")
    return [json.loads(line) for line in data.removesuffix(b"\n").split(b"\n")]


def test_a_record_has_the_fields_of_nora_and_then_ours(audit, path):
    audit.record(
        Record(
            "push",
            "joe",
            artifact="team/app:1",
            registry="docker",
            detail="sha256:0",
            outcome="denied",
            source="token",
            client="192.0.2.1",
            request_id="r1",
        )
    )
    assert path.read_text() == (
        '{"ts":"2025-06-16T12:00:00.250Z","action":"push","actor":"joe","artifact":"team/app:1","registry":"docker","detail":"sha256:0",'
        '"outcome":"denied","source":"token","client":"192.0.2.1","request_id":"r1"}\n'
    )


def test_of_empty_fields_those_of_nora_alone_are_written(audit, path):
    audit.record(Record("reload", "cli"))
    assert list(records(path)[0].items())[1:] == [
        ("action", "reload"),
        ("actor", "cli"),
        ("artifact", ""),
        ("registry", ""),
        ("detail", ""),
        ("outcome", "ok"),
    ]


@pytest.mark.parametrize(
    ("now", "text"), [(0.0, "1970-01-01T00:00:00.000Z"), (NOON, "2025-06-16T12:00:00.250Z"), (NOON - 0.25, "2025-06-16T12:00:00.000Z")]
)
def test_time_is_utc_with_milliseconds(now, text):
    assert module.timestamp(now) == text


def test_file_and_folder_are_made_and_the_file_is_not_for_everyone(audit, path):
    before = os.umask(0)
    try:
        audit.record(Record("login", "joe"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_configured_path_goes_before_the_default(tmp_path, path):
    Audit(AuditConfig(path=tmp_path / "own"), path).record(Record("login", "joe"))
    assert records(tmp_path / "own")
    assert not path.exists()


@pytest.mark.parametrize(("mode", "in_file", "on_stdout"), [("file", 1, 0), ("stdout", 0, 1), ("both", 1, 1), ("off", 0, 0)])
def test_modes(mode, in_file, on_stdout, path, capfd):
    Audit(AuditConfig(mode=mode), path).record(Record("login", "joe"))
    printed = capfd.readouterr().out
    assert (len(records(path)) if path.exists() else 0, printed.count("\n")) == (in_file, on_stdout)
    assert not printed or json.loads(printed)["actor"] == "joe"


def test_when_it_is_off_nothing_at_all_is_done(path, monkeypatch):
    Audit(AuditConfig(mode="off"), path, clock=lambda: pytest.fail("asked for the time")).record(Record("login", "joe"))


def test_on_stdout_a_record_is_no_longer_than_a_pipe_takes_in_one_piece(path, capfd):
    Audit(AuditConfig(mode="both"), path).record(Record("login", "joe", detail="x" * 9999))
    assert len(capfd.readouterr().out) == 4096
    assert records(path)[0]["detail"] == "x" * 9999


def test_a_detail_is_cut_before_longer_names_are():
    found = json.loads(module.render({"artifact": "a" * 3000, "detail": "d" * 2000}, 4096))
    assert found["artifact"] == "a" * 3000
    assert len(found["detail"]) > 1000


@pytest.mark.parametrize("hostile", ['x"}\n{"actor":"root"}', "\r\n", "\x00\x1b[2J", "\u2028\u2029\x85", "\ud800", "\\", "😀" * 9])
@pytest.mark.parametrize("field", ["action", "actor", "artifact", "registry", "detail", "outcome", "source", "client", "request_id"])
def test_no_value_breaks_the_line_or_makes_another(hostile, field, audit, path):
    audit.record(Record(**{"action": "login", "actor": "joe", field: hostile}))
    assert path.read_bytes().count(b"\n") == 1
    assert path.read_bytes().isascii()
    assert not set(path.read_bytes()[:-1]) & set(range(32))
    assert records(path)[0][field] == hostile


@pytest.mark.parametrize("character", ["x", '"', "\n", "é", "😀"])
@pytest.mark.parametrize("limit", [module.LONGEST_ON_STDOUT_BYTES, module.LONGEST_RECORD_BYTES])
def test_a_long_detail_is_cut_and_nothing_else(character, limit):
    line = module.render({"action": "push", "actor": "joe", "detail": character * 200_000, "client": "192.0.2.1"}, limit)
    assert limit - 20 < len(line) <= limit
    found = json.loads(line)
    assert set(found["detail"].removesuffix("…")) == {character}
    assert found["detail"].endswith("…")
    assert (found["action"], found["actor"], found["client"]) == ("push", "joe", "192.0.2.1")


@pytest.mark.parametrize("limit", [module.LONGEST_ON_STDOUT_BYTES, module.LONGEST_RECORD_BYTES])
def test_a_record_is_short_enough_whatever_is_long(limit):
    names = ("ts", "action", "actor", "artifact", "registry", "detail", "outcome", "source", "client", "request_id")
    line = module.render(dict.fromkeys(names, "\x7f\n" * 99_999), limit)
    assert len(line) <= limit
    assert list(json.loads(line)) == list(names)


def test_a_detail_that_just_fits_is_left_alone():
    room = 4096 - len(module.render({"detail": ""}, 4096))
    assert json.loads(module.render({"detail": "x" * room}, 4096))["detail"] == "x" * room
    assert json.loads(module.render({"detail": "x" * (room + 1)}, 4096))["detail"].endswith("…")


def test_after_a_rename_the_next_second_goes_to_a_new_file(audit, path, clock):
    audit.record(Record("login", "before"))
    old = path.rename(path.with_suffix(".1"))
    audit.record(Record("login", "same second"))
    assert not path.exists()
    clock.now += 1
    audit.record(Record("login", "after"))
    assert [record["actor"] for record in records(old)] == ["before", "same second"]
    assert [record["actor"] for record in records(path)] == ["after"]


def test_a_new_file_in_place_of_the_open_one_is_noticed_too(audit, path, clock):
    audit.record(Record("login", "before"))
    path.rename(path.with_suffix(".1"))
    path.touch()
    clock.now += 1
    audit.record(Record("login", "after"))
    assert [record["actor"] for record in records(path)] == ["after"]


def test_the_path_is_looked_at_once_a_second_at_most(audit, clock, monkeypatch):
    audit.record(Record("login", "joe"))
    looks = []
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "stat", lambda path, real=os.stat, **options: looks.append(path) or real(path, **options))
        for _ in range(30):
            clock.now += 0.125
            audit.record(Record("login", "joe"))
    assert len(looks) == 3  # in 3.75 seconds


def test_rotation_leaves_no_descriptor_open(audit, path, clock):
    audit.record(Record("login", "joe"))
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        path.rename(path.with_suffix(f".{number}"))
        clock.now += 1
        audit.record(Record("login", "joe"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_line_that_a_crash_cut_off_takes_no_other_with_it(audit, path):
    path.parent.mkdir(parents=True)
    path.write_text('{"ts":"2025-')
    audit.record(Record("login", "joe"))
    audit.record(Record("login", "ann"))
    broken, *whole = path.read_text().splitlines()
    assert broken == '{"ts":"2025-'
    assert [json.loads(line)["actor"] for line in whole] == ["joe", "ann"]


def test_a_short_write_is_completed(audit, path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "write", lambda descriptor, data, real=os.write: real(descriptor, data[:7]))
        audit.record(Record("login", "joe", detail="x" * 100))
    assert records(path)[0]["detail"] == "x" * 100


def test_a_line_that_a_full_disk_cut_off_takes_no_other_with_it(audit, path, monkeypatch, caplog):
    written = []

    def full_after_seven(descriptor: int, data: bytes, real=os.write) -> int:
        if written:
            raise OSError(28, "No space left on device")
        written.append(1)
        return real(descriptor, data[:7])

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "write", full_after_seven)
        audit.record(Record("login", "joe"))
    audit.record(Record("login", "ann"))
    broken, whole = path.read_text().splitlines()
    assert broken == '{"ts":"'
    assert json.loads(whole)["actor"] == "ann"
    assert audit.lost == 1


def test_a_full_disk_is_counted_and_logged_once_a_minute_with_what_was_lost(tmp_path, clock, caplog):
    audit = Audit(AuditConfig(path=Path("/dev/full")), tmp_path, clock)
    for _ in range(10):
        audit.record(Record("push", "joe"))
        clock.now += 6
    assert audit.lost == 10
    assert len(caplog.records) == 1
    audit.record(Record("push", "joe"))
    assert [record.getMessage().partition("; ")[2] for record in caplog.records] == [
        "1 records were lost since the last such message",
        "10 records were lost since the last such message",
    ]
    assert "No space left on device" in caplog.text


def test_what_was_lost_is_told_when_it_works_again(path, clock, caplog):
    path.mkdir(parents=True)  # a folder cannot be written, by root neither
    audit = Audit(AuditConfig(), path, clock)
    audit.record(Record("push", "lost"))
    audit.record(Record("push", "lost"))
    path.rmdir()
    audit.record(Record("push", "kept"))
    assert len(caplog.records) == 1
    clock.now += 60
    audit.record(Record("push", "kept"))
    assert "is written again; 1 records were lost" in caplog.records[-1].getMessage()
    clock.now += 60
    audit.record(Record("push", "kept"))
    assert len(caplog.records) == 2
    assert len(records(path)) == 3


@pytest.mark.parametrize("bad", [{"detail": object()}, {"detail": b"bytes"}])
def test_a_value_that_cannot_be_written_raises_nothing(bad, audit, caplog):
    audit.record(Record("push", "joe", **bad))
    assert audit.lost == 1
    assert caplog.records[0].levelno == logging.ERROR


def test_one_output_that_fails_does_not_hinder_the_other(clock, tmp_path, capfd):
    audit = Audit(AuditConfig(mode="both", path=Path("/dev/full")), tmp_path, clock)
    audit.record(Record("push", "joe"))
    assert json.loads(capfd.readouterr().out)["actor"] == "joe"
    assert audit.lost == 1


def test_nothing_is_opened_before_the_first_record(path):
    Audit(AuditConfig(), path)
    assert not path.parent.exists()


def test_each_process_opens_the_file_for_itself(audit, path):
    audit.record(Record("login", "parent"))
    size = path.stat().st_size
    child = multiprocessing.get_context("fork").Process(target=audit.record, args=(Record("login", "child"),))
    child.start()
    child.join()
    assert [record["actor"] for record in records(path)] == ["parent", "child"]
    (descriptor,) = (int(link.name) for link in Path("/proc/self/fd").iterdir() if os.path.realpath(link) == str(path))
    assert os.lseek(descriptor, 0, os.SEEK_CUR) == size  # a descriptor that both share would stand at the end


EACH = 2000


def write_many(audit: Audit, writer: str, threads: int = 2) -> None:
    def run(thread: int) -> None:
        dice = random.Random(f"{writer} {thread}")
        for number in range(EACH):
            audit.record(Record("push", f"{writer}.{thread}.{number}", detail="d" * int(min(dice.paretovariate(0.8) * 10, 100_000))))

    running = [threading.Thread(target=run, args=(thread,)) for thread in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def test_many_threads_of_many_processes_lose_nothing_and_break_no_line(path):
    audit = Audit(AuditConfig(), path)
    workers = [multiprocessing.get_context("fork").Process(target=write_many, args=(audit, f"w{number}")) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = records(path)
    assert {record["actor"] for record in found} == {
        f"w{worker}.{thread}.{number}" for worker in range(4) for thread in range(2) for number in range(EACH)
    }
    assert len(found) == 4 * 2 * EACH
    assert any(record["detail"].endswith("…") for record in found)  # some were longer than a record may be
