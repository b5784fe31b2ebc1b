"""The bank of numbers (services/metrics/bank.py) and what is counted in it."""

from __future__ import annotations

import errno
import json
import os
import threading
from dataclasses import fields
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

from noraflask.errors import AlreadyExists, NotFound, Unavailable
from noraflask.keys import Key
from noraflask.services.curation import policy
from noraflask.services.metrics import bank as bank_module
from noraflask.services.metrics import catalogue
from noraflask.services.metrics.bank import Bank, sweep
from noraflask.services.metrics.catalogue import COUNTER, FAMILIES, Family
from noraflask.services.metrics.counting import MOST_SERIES, Metrics
from noraflask.services.metrics.measured import Measured
from noraflask.storage import Abilities, Storage
from noraflask.storage.disk import DiskStorage
from noraflask.storage.memory import MemoryStorage

A_COUNTER = Family("nora_things_total", COUNTER, "Things.", ("kind",), None)


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    return Metrics(Bank(tmp_path), ("docker",))


def read(metrics: Metrics, name: str, **labels: str) -> float | None:
    """A sample as a scrape would find it, of all processes."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(metrics.bank.folder))
    return registry.get_sample_value(name, labels)


# ---- the files


def test_the_files_are_those_of_prometheus_client(metrics):
    metrics.count(A_COUNTER, 'odd "kind" é', by=2)
    metrics.count(A_COUNTER, "1234", by=3)
    file = next(metrics.bank.folder.glob("counter_*.db"))
    found = {key: value for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file)) if "nora_things" in key}
    assert found == {
        json.dumps(["nora_things", "nora_things_total", {"kind": kind}, "Things."], sort_keys=True): value
        for kind, value in (('odd "kind" é', 2.0), ("1234", 3.0))
    }


@pytest.mark.parametrize("length", range(1, 18))
def test_keys_of_every_length_are_found_again(metrics, length):
    """The padding depends on it."""
    metrics.count(A_COUNTER, "x" * length)
    metrics.count(A_COUNTER, "after")
    assert read(metrics, "nora_things_total", kind="x" * length) == 1
    assert read(metrics, "nora_things_total", kind="after") == 1


def test_who_takes_the_place_of_a_dead_worker_goes_on_with_its_numbers(metrics):
    metrics.bank.move("0")
    metrics.count(catalogue.DOWNLOADS, "docker", by=5)
    metrics.observe(catalogue.HTTP_LAST_BYTE, 0.2, "docker")
    metrics.request_began()
    files = sorted(path.name for path in metrics.bank.folder.iterdir())

    metrics.bank.forget("0")
    metrics.bank.move("0")
    metrics.count(catalogue.DOWNLOADS, "docker")
    metrics.observe(catalogue.HTTP_LAST_BYTE, 0.2, "docker")

    assert read(metrics, "nora_downloads_total", registry="docker") == 6
    assert read(metrics, "nora_http_last_byte_seconds_count", registry="docker") == 2
    assert read(metrics, "nora_http_requests_in_flight") == 0, "what the dead one was doing is not under way any more"
    assert sorted(path.name for path in metrics.bank.folder.iterdir()) == files


def test_series_made_later_keep_their_places(metrics):
    """The next worker makes them in another order."""
    metrics.bank.move("0")
    for kind in ("b", "a"):
        metrics.count(A_COUNTER, kind)
    other = Metrics(Bank(metrics.bank.folder.parent), ("docker",))
    other.count(A_COUNTER, "a", by=10)
    other.bank.folder = metrics.bank.folder
    other.bank.move("0")
    other.count(A_COUNTER, "b")
    other.count(A_COUNTER, "a")
    assert (read(metrics, "nora_things_total", kind="a"), read(metrics, "nora_things_total", kind="b")) == (2, 2)


def test_a_worker_that_is_not_replaced_leaves_its_counts_and_no_gauge(metrics):
    metrics.bank.move("3")
    metrics.count(catalogue.DOWNLOADS, "docker")
    metrics.request_began()
    metrics.bank.forget("3")
    assert read(metrics, "nora_downloads_total", registry="docker") == 1
    assert read(metrics, "nora_http_requests_in_flight") == 0


def test_threads_lose_nothing(metrics):
    def work() -> None:
        for _ in range(2000):
            metrics.count(catalogue.DOWNLOADS, "docker")
            metrics.request_began()
            metrics.request_answered("docker", "GET", "200", 0.001, "allow")
            metrics.request_done("docker", "GET", "200", 0.002, 3, 7, True)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(metrics, "nora_downloads_total", registry="docker") == 16000
    assert read(metrics, "nora_http_request_bytes_total", registry="docker") == 24000
    assert read(metrics, "nora_http_requests_in_flight") == 0


def test_a_full_file_refuses_new_series_and_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(bank_module, "CAPACITY_BYTES", 200_000)
    metrics = Metrics(Bank(tmp_path), ("docker",))
    for number in range(2000):
        metrics.count(A_COUNTER, f"{number:0200}")
    metrics.count(catalogue.DOWNLOADS, "docker")
    assert read(metrics, "nora_downloads_total", registry="docker") == 1
    assert caplog.messages == ["there are more series of metrics than there is room for; new ones are not counted"]


def test_what_a_killed_server_left_is_swept_and_what_lives_is_not(tmp_path):
    alive = Bank(tmp_path)
    left = tmp_path / "nora-metrics-left"
    left.mkdir()
    (left / "counter_0.db").write_bytes(b"x")
    others = tmp_path / "nora-metrics-file"
    others.write_text("no folder")
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted((alive.folder, others))


def test_only_the_process_that_made_it_removes_it(tmp_path):
    bank = Bank(tmp_path)
    child = os.fork()
    if not child:
        del bank
        os._exit(0)
    os.waitpid(child, 0)
    assert bank.folder.is_dir()
    folder = bank.folder
    del bank
    assert not folder.exists()


def test_where_the_tmpfs_is_full_counting_ends_and_the_process_does_not(tmp_path, monkeypatch, caplog):
    """Without the reservation it would be killed by SIGBUS."""
    metrics = Metrics(Bank(tmp_path), ("docker",))

    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    for number in range(500):
        metrics.count(A_COUNTER, f"{number:0200}")
    metrics.count(catalogue.DOWNLOADS, "docker")
    assert read(metrics, "nora_downloads_total", registry="docker") == 1
    metrics.bank.move("7")
    metrics.count(catalogue.DOWNLOADS, "docker")
    assert read(metrics, "nora_downloads_total", registry="docker") == 1, "that of the place 7 is not told"
    assert "what this process counts is not told" in caplog.text


# ---- what is counted


def test_series_are_there_from_the_start(metrics):
    for name, labels in (
        ("nora_http_requests_total", {"registry": "docker", "method": "PUT", "status": "503"}),
        ("nora_auth_logins_total", {"method": "password", "result": "failed"}),
        ("nora_curation_decisions_total", {"decision": "block"}),
        ("nora_storage_operations_total", {"operation": "get", "status": "integrity_fail"}),
        ("nora_http_request_duration_seconds_count", {"registry": "other", "method": "GET"}),
    ):
        assert read(metrics, name, **labels) == 0, name


def test_a_request_counts_once_in_all_places(metrics):
    metrics.request_began()
    assert read(metrics, "nora_http_requests_in_flight") == 1
    metrics.request_answered("docker", "GET", "206", 0.003, "audit")
    metrics.request_done("docker", "GET", "206", 20.0, 0, 1000, True)
    expected = {
        ("nora_http_requests_total", (("method", "GET"), ("registry", "docker"), ("status", "206"))): 1,
        ("nora_http_response_bytes_total", (("registry", "docker"),)): 1000,
        ("nora_http_request_bytes_total", (("registry", "docker"),)): 0,
        ("nora_downloads_total", (("registry", "docker"),)): 1,
        ("nora_cache_requests_total", (("registry", "docker"), ("result", "hit"))): 1,
        ("nora_curation_decisions_total", (("decision", "audit"),)): 1,
        ("nora_http_request_duration_seconds_bucket", (("le", "0.001"), ("method", "GET"), ("registry", "docker"))): 0,
        ("nora_http_request_duration_seconds_bucket", (("le", "0.005"), ("method", "GET"), ("registry", "docker"))): 1,
        ("nora_http_last_byte_seconds_bucket", (("le", "15.0"), ("registry", "docker"))): 0,
        ("nora_http_last_byte_seconds_bucket", (("le", "60.0"), ("registry", "docker"))): 1,
        ("nora_http_last_byte_seconds_sum", (("registry", "docker"),)): 20,
        ("nora_http_requests_in_flight", ()): 0,
    }
    assert {key: read(metrics, key[0], **dict(key[1])) for key in expected} == expected


@pytest.mark.parametrize(
    ("registry", "method", "labels"),
    [
        ("docker", "BREW", {"registry": "docker", "method": "other"}),
        ("unheard-of", "GET", {"registry": "other", "method": "GET"}),
        ("other", "GET", {"registry": "other", "method": "GET"}),
    ],
)
def test_labels_are_bounded(metrics, registry, method, labels):
    metrics.request_began()
    metrics.request_answered(registry, method, "404", 0, None)
    assert read(metrics, "nora_http_requests_total", status="404", **labels) == 1


def test_a_label_that_runs_wild_is_stopped(metrics):
    for number in range(MOST_SERIES + 50):
        metrics.count(A_COUNTER, str(number))
    assert read(metrics, "nora_things_total", kind=str(MOST_SERIES - 1)) == 1
    assert read(metrics, "nora_things_total", kind=str(MOST_SERIES)) is None
    assert read(metrics, "nora_things_total", kind="other") == 50


def test_names_are_unique_and_of_one_form():
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    assert [family.name for family in FAMILIES if not family.name.startswith("nora_")] == []
    assert [family.name for family in FAMILIES if family.kind == COUNTER and not family.name.endswith("_total")] == []


# ---- the storage


class Broken(MemoryStorage):
    def stat(self, key):
        raise Unavailable("broken")


def test_operations_of_the_storage_are_counted_by_outcome(metrics):
    storage = Measured(MemoryStorage(), metrics, ("docker",))
    storage.create("a/b", b"12")
    with pytest.raises(AlreadyExists):
        storage.create("a/b", b"12")
    with pytest.raises(NotFound):
        storage.open("a/c")
    storage.open("a/b").close()
    storage.open("a/b", 1).close()
    assert storage.stat("a/c") is None
    assert storage.stat("a/b").size == 2
    storage.delete("a/b")
    with pytest.raises(Unavailable):
        Measured(Broken(), metrics, ()).stat("a/b")
    rows = [("put", "ok", 2), ("get_reader", "not_found", 1), ("get_reader", "ok", 1), ("get_range", "ok", 1), ("delete", "ok", 1)]
    for operation, status, count in [*rows, ("stat", "ok", 1), ("stat", "not_found", 1), ("stat", "error", 1)]:
        assert read(metrics, "nora_storage_operations_total", operation=operation, status=status) == count, (operation, status)
    assert read(metrics, "nora_storage_operation_duration_seconds_count", backend="memory", operation="put") == 2


def test_what_the_storage_can_besides_stays(metrics):
    plain = MemoryStorage()
    measured = Measured(plain, metrics, ())
    assert measured.backend == plain.backend
    abilities = {field.name for field in fields(Abilities) if getattr(plain.abilities, field.name) is not getattr(measured.abilities, field.name)}
    assert abilities == {"create_soon"}, "it writes, so it is counted"
    verbs = [name for name in vars(Storage) if name[0] != "_"]
    assert [name for name in verbs if not callable(getattr(measured, name))] == []


def test_sizes_of_reads_into_memory_are_told_by_repository(metrics, tmp_path):
    storage = Measured(DiskStorage(tmp_path / "storage"), metrics, ("docker",))
    for key, size in (("docker/team/app/tags/1", 100), ("blobs/sha256/ab/abcd", 3000)):
        storage.create(Key.trusted(key), b"x" * size)
        storage.whole(Key.trusted(key))
    assert read(metrics, "nora_storage_get_bytes_sum", registry="docker") == 100
    assert read(metrics, "nora_storage_get_bytes_sum", registry="other") == 3000


def test_refusals_are_there_from_the_start_under_the_names_that_the_gate_gives_them():
    (_, rules, modes) = catalogue.CURATION_BLOCKS.values
    assert set(rules) == {policy.OWN, *policy._NAMES, "freeze"}
    assert set(modes) == {"enforce", "audit"}
