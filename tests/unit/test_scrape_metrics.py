"""What a scrape works out of the processes: sums that alerts can rely on."""

from __future__ import annotations

import os

from noraflask.app import SCRAPE_METRICS
from noraflask.services.metrics import scrape_metrics as module
from noraflask.services.metrics.scrape_metrics import Usage
from noraflask.services.reloads import WorkerState

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_processes(make_app, monkeypatch):
    figures = make_app(metrics={"enabled": True}).extensions[SCRAPE_METRICS]
    usages = {
        1: Usage(cpu_seconds=3, children_cpu_seconds=100, memory_bytes=10, descriptors=7),
        os.getpid(): Usage(cpu_seconds=5, children_cpu_seconds=1000, memory_bytes=20, descriptors=50),
        2: Usage(cpu_seconds=6, children_cpu_seconds=0, memory_bytes=30, descriptors=40),
    }
    monkeypatch.setattr(module.Usage, "of", usages.get)
    monkeypatch.setattr(figures.reloads, "master", 1)
    monkeypatch.setattr(figures.reloads, "workers", lambda: [WorkerState(pid, "", "", 0) for pid in (os.getpid(), 2, 3)])
    found = {(sample.name, *sample.labels.values()): sample.value for metric in figures.collect() for sample in metric.samples}
    assert found["process_cpu_seconds_total", "master"] == 3
    assert found["process_cpu_seconds_total", "worker"] == 111, "workers that ended stay counted: the sum never falls"
    assert found["process_resident_memory_bytes",] == 60
    assert found["process_open_fds",] == 50, "to be compared with what one process may open"
    assert found["nora_workers",] == 2, "one of them is gone by now"
    assert 0 < found["nora_memory_limit_bytes",] <= MACHINE


def test_processor_time_of_a_child_that_has_ended():
    before = Usage.of(os.getpid())
    child = os.fork()
    if not child:
        while os.times().user < 0.1:
            pass
        os._exit(0)
    os.waitpid(child, 0)
    after = Usage.of(os.getpid())
    assert after.children_cpu_seconds - before.children_cpu_seconds >= 0.09
