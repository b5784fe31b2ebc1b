"""The files of numbers (services/metrics/counter_files.py), what is counted in them, and that it is bounded however many repositories there are."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from noraflask.errors import AlreadyExists, NotFound, Unavailable
from noraflask.keys import Key
from noraflask.services.curation import filters, policy
from noraflask.services.metrics import catalogue, counter_files
from noraflask.services.metrics.catalogue import COUNTER, FAMILIES, HISTOGRAM, Family
from noraflask.services.metrics.counted_storage import CountedStorage
from noraflask.services.metrics.counter_files import MOST_OF_A_REPOSITORY, MOST_SERIES, CounterFiles, sweep
from noraflask.services.metrics.counting import Metrics
from noraflask.storage import Abilities, Storage
from noraflask.storage.disk import DiskStorage
from noraflask.storage.memory import MemoryStorage

A_COUNTER = Family("nora_things_total", COUNTER, "Things.", ("kind",), None)
A_HISTOGRAM = Family("nora_sizes", HISTOGRAM, "Sizes.", ("kind",), None, (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0))


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    return counting(tmp_path, "docker")


def counting(folder: Path, *names: str) -> Metrics:
    return Metrics(CounterFiles(folder, (*FAMILIES, A_COUNTER, A_HISTOGRAM)), lambda: names, ("docker",))


def read(metrics: Metrics, name: str, **labels: str) -> float | None:
    """A sample as a scrape would find it, of all processes."""
    registry = CollectorRegistry()
    registry.register(metrics)
    return registry.get_sample_value(name, labels)


def in_child(work: Callable[[], object]) -> None:
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


# ---- the files


@pytest.mark.parametrize("label", ['odd "kind" é\n', "", "x" * 500])
def test_every_label_is_found_again(metrics, label):
    metrics.count(A_COUNTER, label)
    metrics.count(A_COUNTER, "after")
    assert read(metrics, "nora_things_total", kind=label) == 1
    assert read(metrics, "nora_things_total", kind="after") == 1


def test_who_takes_the_place_of_a_dead_worker_goes_on_with_its_numbers(metrics):
    metrics.files.move("0")
    metrics.count(catalogue.DOWNLOADS, "docker", by=5)
    metrics.observe(catalogue.HTTP_LAST_BYTE, 0.2, "docker")
    metrics.request_began()
    files = sorted(path.name for path in metrics.files.folder.iterdir())

    metrics.files.forget("0")
    metrics.files.move("0")
    metrics.count(catalogue.DOWNLOADS, "docker")
    metrics.observe(catalogue.HTTP_LAST_BYTE, 0.2, "docker")

    assert read(metrics, "nora_downloads_total", registry="docker") == 6
    assert read(metrics, "nora_http_last_byte_seconds_count", registry="docker") == 2
    assert read(metrics, "nora_http_requests_in_flight") == 0, "what the dead one was doing is not under way any more"
    assert sorted(path.name for path in metrics.files.folder.iterdir()) == files


def test_workers_make_series_in_any_order(metrics):
    """Each finds those of the others, and the next worker in a place those of the one before."""

    def work(place: str, *kinds: str) -> None:
        metrics.files.move(place)
        for kind in kinds:
            metrics.count(A_COUNTER, kind)

    in_child(lambda: work("0", "b", "a"))
    in_child(lambda: work("1", "c", "a", "b"))
    in_child(lambda: work("0", "c", "b"))
    assert [read(metrics, "nora_things_total", kind=kind) for kind in "abc"] == [2, 3, 2]


def test_processes_that_make_series_at_one_time_lose_none(metrics):
    def work(place: int) -> None:
        metrics.files.move(str(place))
        for number in range(300):
            metrics.count(A_COUNTER, str((number * 7 + place * 31) % 300))

    children = []
    for place in range(6):
        child = os.fork()
        if not child:
            work(place)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
    assert {read(metrics, "nora_things_total", kind=str(number)) for number in (0, 1, 150, 299)} == {6}


def test_a_process_that_is_killed_between_name_and_head_harms_no_other(metrics):
    def die(*_: object) -> None:
        os._exit(1)

    def work() -> None:
        metrics.files.move("0")
        metrics.files._index._lock.__class__.__exit__ = die  # it holds the lock, and has written something
        os.pwrite(metrics.files._index.descriptor, b"half a record", metrics.files._index._read_to)
        metrics.count(A_COUNTER, "lost")

    in_child(work)
    metrics.count(A_COUNTER, "kept")
    assert read(metrics, "nora_things_total", kind="kept") == 1


def test_a_worker_that_is_not_replaced_leaves_its_counts_and_no_gauge(metrics):
    metrics.files.move("3")
    metrics.count(catalogue.DOWNLOADS, "docker")
    metrics.request_began()
    metrics.files.forget("3")
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


def test_full_files_refuse_new_series_and_go_on(metrics, monkeypatch, caplog):
    monkeypatch.setattr(counter_files, "MOST_CELLS", metrics.files._index.cells_used + counter_files.SPARE_CELLS + 10)
    for number in range(50):
        metrics.count(A_COUNTER, str(number))
    metrics.count(catalogue.DOWNLOADS, "docker")
    assert [read(metrics, "nora_things_total", kind=kind) for kind in ("9", "10")] == [1, None]
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("there is no room for more series of metrics, new ones are not counted: ")


def test_what_a_killed_server_left_is_swept_and_what_lives_is_not(tmp_path):
    alive = CounterFiles(tmp_path)
    left = tmp_path / "nora-metrics-left"
    left.mkdir()
    (left / "counter_0.db").write_bytes(b"x")
    others = tmp_path / "nora-metrics-file"
    others.write_text("no folder")
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted((alive.folder, others))


def test_only_the_process_that_made_it_removes_it(tmp_path):
    files = CounterFiles(tmp_path)
    child = os.fork()
    if not child:
        del files
        os._exit(0)
    os.waitpid(child, 0)
    assert files.folder.is_dir()
    folder = files.folder
    del files
    assert not folder.exists()


def test_where_the_tmpfs_is_full_counting_ends_and_the_process_does_not(tmp_path, monkeypatch, caplog):
    """Without the reservation it would be killed by SIGBUS."""
    metrics = counting(tmp_path, "docker")

    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    for number in range(1000):
        metrics.observe(A_HISTOGRAM, 1.0, str(number))
    metrics.count(catalogue.DOWNLOADS, "docker")
    assert read(metrics, "nora_downloads_total", registry="docker") == 1
    metrics.files.move("7")
    metrics.count(catalogue.DOWNLOADS, "docker")
    assert read(metrics, "nora_downloads_total", registry="docker") == 1, "that of the place 7 is in no file"
    assert "what this process counts does not appear in /metrics" in caplog.text


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


# ---- many repositories


def use(metrics: Metrics, name: str) -> None:
    for method, status in (("GET", "200"), ("GET", "404"), ("HEAD", "200"), ("POST", "202"), ("PUT", "201")):
        metrics.request_began()
        metrics.request_answered(name, method, status, 0.01, "allow")
        metrics.request_done(name, method, status, 0.02, 5, 7, method == "GET" and status == "200")
    for family in FAMILIES:
        if not family.by_repository:
            continue
        labels = [next((value for value in values if value != catalogue.REGISTRIES[0]), "") for values in family.values[1:]]
        if family.kind == HISTOGRAM:
            metrics.observe(family, 0.5, name, *labels)
        else:
            metrics.count(family, name, *labels)


def counts_of(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """Of one repository, by family and its other labels."""
    return {
        (sample.name, *(f"{label}={value}" for label, value in sorted(sample.labels.items()) if label != "registry")): sample.value
        for metric in metrics.collect()
        for sample in metric.samples
        if sample.labels.get("registry") == name and sample.value
    }


@pytest.mark.parametrize("many", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_last_of_many_repositories_is_counted_like_the_first(tmp_path, many):
    names = ["docker", *(f"team-{number}" for number in range(many - 1))]
    metrics = Metrics(CounterFiles(tmp_path), lambda: names, ("docker",))
    for name in names:
        use(metrics, name)
    names = [*names, "one-more"]  # by a reload
    use(metrics, "one-more")
    expected = counts_of(metrics, "docker")
    families = {family.name for family in FAMILIES if family.by_repository}
    assert {key[0] for key in expected} >= {name for name in families if name.endswith("_total")} | {
        f"{name}_sum" for name in families if name in HISTOGRAMS
    }
    samples = defaultdict(dict)
    for metric in metrics.collect():
        for sample in metric.samples:
            if sample.value and "registry" in sample.labels:
                rest = (sample.name, *(f"{label}={value}" for label, value in sorted(sample.labels.items()) if label != "registry"))
                samples[sample.labels["registry"]][rest] = sample.value
    assert set(samples) == set(names)
    assert [name for name in names if samples[name] != expected] == []
    assert "other" not in samples


HISTOGRAMS = {family.name for family in FAMILIES if family.kind == HISTOGRAM}


def test_the_files_stay_small_with_200_repositories_and_64_workers(tmp_path):
    names = [f"team-{number}" for number in range(200)]
    metrics = Metrics(CounterFiles(tmp_path), lambda: names)
    for name in names:
        use(metrics, name)
    for place in range(64):
        metrics.files.move(str(place))
    taken = sum(path.stat().st_blocks * 512 for path in metrics.files.folder.iterdir())
    assert taken < 32 * 1024 * 1024
    began = time.process_time()
    text = generate_latest(registry_of(metrics))
    assert time.process_time() - began < 5, "seconds, on a machine that is busy"
    assert len(text) < 16 * 1024 * 1024


def registry_of(metrics: Metrics) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(metrics)
    return registry


def test_a_repository_that_is_gone_keeps_its_counts_and_gets_no_more(tmp_path):
    names = ["docker", "team"]
    metrics = Metrics(CounterFiles(tmp_path), lambda: names)
    metrics.count(catalogue.DENIED, "team", "pull", "403")
    names = ["docker"]
    for number in range(1000):
        metrics.count(catalogue.DENIED, f"guess-{number}", "pull", "403")
    assert read(metrics, "nora_access_denied_total", registry="team", action="pull", status="403") == 1
    assert read(metrics, "nora_access_denied_total", registry="other", action="pull", status="403") == 1000
    assert {sample.labels["registry"] for metric in metrics.collect() for sample in metric.samples if "registry" in sample.labels} <= {
        "docker",
        "team",
        "other",
    }
    assert ("guess-1", "pull", "403") not in {labels for _, labels in metrics._numbers}


def test_a_name_that_was_unheard_of_is_counted_once_it_is_a_repository(tmp_path):
    names: list[str] = []
    metrics = Metrics(CounterFiles(tmp_path), lambda: names)
    metrics.observe(catalogue.STORAGE_GET_BYTES, 1, "team")
    names = ["team"]
    metrics.observe(catalogue.STORAGE_GET_BYTES, 1, "team")
    assert read(metrics, "nora_storage_get_bytes_count", registry="team") == 1
    assert read(metrics, "nora_storage_get_bytes_count", registry="other") == 1


def test_labels_that_run_wild_in_one_repository_take_no_room_from_another(tmp_path):
    metrics = counting(tmp_path, "docker", "team")
    there = len(list(catalogue.HTTP_REQUESTS.presets(("docker",), ()))) - len(list(catalogue.HTTP_REQUESTS.presets((), ())))
    for number in range(1000, 1000 + MOST_OF_A_REPOSITORY - there + 50):
        metrics.count(catalogue.HTTP_REQUESTS, "docker", "GET", str(number))
    metrics.count(catalogue.HTTP_REQUESTS, "team", "GET", "200")
    assert read(metrics, "nora_http_requests_total", registry="team", method="GET", status="200") == 1
    assert read(metrics, "nora_http_requests_total", registry="docker", method="other", status="other") == 50
    assert sum(family is catalogue.HTTP_REQUESTS for family, _ in metrics._numbers) < MOST_OF_A_REPOSITORY + 100


def test_zeros_are_there_for_all_of_the_repositories_and_in_full_for_default_ones(tmp_path):
    metrics = counting(tmp_path, "docker", "team")
    assert read(metrics, "nora_http_responses_cut_total", registry="team") == 0
    assert read(metrics, "nora_http_requests_total", registry="docker", method="GET", status="500") == 0
    assert read(metrics, "nora_http_requests_total", registry="team", method="GET", status="500") is None
    without = Metrics(CounterFiles(tmp_path), lambda: ("team",), ("docker",))
    assert read(without, "nora_http_requests_total", registry="docker", method="GET", status="500") is None, "the format is switched off"


def test_the_repository_is_the_first_label():
    assert [family.name for family in FAMILIES if "registry" in family.labels and not family.by_repository] == []


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
    storage = CountedStorage(MemoryStorage(), metrics)
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
        CountedStorage(Broken(), metrics).stat("a/b")
    rows = [("put", "ok", 2), ("get_reader", "not_found", 1), ("get_reader", "ok", 1), ("get_range", "ok", 1), ("delete", "ok", 1)]
    for operation, status, count in [*rows, ("stat", "ok", 1), ("stat", "not_found", 1), ("stat", "error", 1)]:
        assert read(metrics, "nora_storage_operations_total", operation=operation, status=status) == count, (operation, status)
    assert read(metrics, "nora_storage_operation_duration_seconds_count", backend="memory", operation="put") == 2


def test_what_the_storage_can_besides_stays(metrics):
    plain = MemoryStorage()
    measured = CountedStorage(plain, metrics)
    assert measured.backend == plain.backend
    abilities = {field.name for field in fields(Abilities) if getattr(plain.abilities, field.name) is not getattr(measured.abilities, field.name)}
    assert abilities == {"create_soon"}, "it writes, so it is counted"
    verbs = [name for name in vars(Storage) if name[0] != "_"]
    assert [name for name in verbs if not callable(getattr(measured, name))] == []


def test_sizes_of_reads_into_memory_are_told_by_repository(metrics, tmp_path):
    storage = CountedStorage(DiskStorage(tmp_path / "storage"), metrics)
    for key, size in (("docker/team/app/tags/1", 100), ("blobs/sha256/ab/abcd", 3000)):
        storage.create(Key.trusted(key), b"x" * size)
        storage.whole(Key.trusted(key))
    assert read(metrics, "nora_storage_get_bytes_sum", registry="docker") == 100
    assert read(metrics, "nora_storage_get_bytes_sum", registry="other") == 3000


def test_refusals_are_there_from_the_start_under_the_names_that_the_gate_gives_them():
    (_, rules, modes) = catalogue.CURATION_BLOCKS.values
    assert set(rules) == {policy.OWN, *filters.NAMES, "freeze"}
    assert set(modes) == {"enforce", "audit"}


def test_a_folder_that_another_server_sweeps_away_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    lock, swept = counter_files._lock, []

    def late(folder):
        if len(swept) < 2:
            swept.append(next(tmp_path.glob(f"{counter_files.PREFIX}*")))
            monkeypatch.setattr(counter_files, "_lock", lock)
            counter_files.sweep(tmp_path)  # as the other one does
            monkeypatch.setattr(counter_files, "_lock", late)
        return lock(folder)

    monkeypatch.setattr(counter_files, "_lock", late)
    files = CounterFiles(tmp_path)
    assert len(swept) == 2
    assert files.folder.is_dir()
    assert files.folder not in swept
