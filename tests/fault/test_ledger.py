"""The ledger among many writers, under a kill, and on a disk that is really full."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from noraflask.services.curation.ledger import FLUSH_SECONDS, Ledger, read
from noraflask.services.curation.model import Package

Mounts = Callable[..., Path]

PROCESSES, THREADS, EACH = 4, 8, 1500


def served(ledger: Ledger, name: str, version: str) -> None:
    ledger.served(Package("npm", name, version, "npm"), "sha256:" + "0" * 64, "joe", "token", "gh:org/repo@main")


def work(ledger: Ledger) -> None:
    """What a worker does: all threads note versions of their own, and the same ones as all the others."""
    ledger.start()

    def note(number: int) -> None:
        for version in range(EACH):
            served(ledger, f"own-{os.getpid()}-{number}", str(version))
            served(ledger, "shared", str(version % 50))

    threads = [threading.Thread(target=note, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.stop()
    os._exit(1 if ledger.lost else 0)


def lines(folder: Path) -> list[bytes]:
    return [line for path in folder.rglob("*.jsonl") for line in path.read_bytes().splitlines(keepends=True)]


def test_many_processes_and_threads_write_whole_lines_and_each_once(folder):
    ledger = Ledger(folder / "ledger", 30)
    workers = [multiprocessing.get_context("fork").Process(target=work, args=(ledger,)) for _ in range(PROCESSES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * PROCESSES
    noted = Counter((entry.name, entry.version) for entry in read(folder / "ledger", 0))
    own = {key: times for key, times in noted.items() if key[0] != "shared"}
    assert len(own) == PROCESSES * THREADS * EACH
    assert set(own.values()) == {1}
    assert all(PROCESSES <= noted["shared", str(version)] <= 4 * PROCESSES for version in range(50))  # noted anew when the recent keys were forgotten
    assert sum(noted.values()) == len(lines(folder))
    assert len(list(folder.rglob("*.jsonl"))) in (PROCESSES, 2 * PROCESSES)  # twice at midnight


CHILD = """
import sys, time
from pathlib import Path
from noraflask.services.curation.ledger import Ledger
from noraflask.services.curation.model import Package
ledger = Ledger(Path(sys.argv[1]), 30)
ledger.start()
number = 0
for _ in sys.stdin:
    ledger.served(Package("npm", "left-pad", str(number), "npm"), "sha256:" + "0" * 64, "joe", "token")
    print(number, flush=True)
    number += 1
"""


def test_a_kill_costs_the_last_second_and_no_other_line(folder):
    """The child notes one version after each of our lines, so that we know when each was noted."""
    noted: list[float] = []
    with subprocess.Popen([sys.executable, "-c", CHILD, str(folder / "ledger")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        while not noted or time.monotonic() < noted[0] + 3.2 * FLUSH_SECONDS:
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline().strip() == str(len(noted))
            noted.append(time.monotonic())
        child.send_signal(signal.SIGKILL)
        killed = time.monotonic()
    safe = {str(number) for number, moment in enumerate(noted) if moment < killed - 2 * FLUSH_SECONDS}  # the machine may be busy
    kept = [entry.version for entry in read(folder / "ledger", 0)]
    assert safe
    assert safe <= set(kept)
    assert kept == [str(number) for number in range(len(kept))]
    assert len(lines(folder)) - len(kept) <= 1


def test_a_full_disk_costs_lines_and_nothing_else(mount: Mounts):
    disk = mount("small", "-t", "tmpfs", "-o", "size=64k", "tmpfs")
    ledger = Ledger(disk / "ledger", 30)
    for version in range(2000):
        served(ledger, "left-pad", str(version))
    ledger.flush()
    kept = [entry.version for entry in read(disk / "ledger", 0)]
    assert 0 < len(kept) < 2000
    assert ledger.lost == 2000 - len(kept)
    whole = [line for line in lines(disk) if line.endswith(b"\n")]
    assert [json.loads(line)[4] for line in whole] == kept
    subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
    served(ledger, "left-pad", "after")
    ledger.stop()
    assert [entry.version for entry in read(disk / "ledger", 0)] == [*kept, "after"]
    assert ledger.lost == 2000 - len(kept)
