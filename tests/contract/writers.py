"""A process that works on a disk storage together with others, until it is done or killed: `python -m tests.contract.writers <work> <root> …`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from noraflask.keys import Key
from noraflask.services.documents import Documents
from noraflask.storage.disk import DiskStorage
from noraflask.storage.disk_cells import DiskLeases

SPEED = 7200.0
"""So many seconds go by in one, for leases: their grace is half a second then."""
THREADS = 8
HALVES = Key("name/a"), Key("name/b")


def fast_clock() -> float:
    """One for all processes of a machine; it begins with its boot."""
    return 1e6 + time.clock_gettime(time.CLOCK_BOOTTIME) * SPEED


def leases_of(storage: DiskStorage) -> DiskLeases:
    return DiskLeases(os.path.join(storage.root, ".shared"), storage.delete, fast_clock)


def start(work: str, root: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "tests.contract.writers", work, str(root), *more], stdout=subprocess.PIPE, text=True)


def note(said: str) -> None:
    """In one write, so that a kill leaves whole lines."""
    os.write(1, f"{said}\n".encode())


def add(documents: Documents, entry: str) -> None:
    """One more entry in the list that is the document."""
    documents.update("list", lambda old: json.dumps([*json.loads(old or b"[]"), entry]).encode())


def entries(documents: Documents) -> list[str]:
    return list(json.loads(documents.read("list") or b"[]"))


def in_threads(work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def append(storage: DiskStorage, name: str, times: str) -> None:
    """Every thread adds entries; each is named on the output once it was acknowledged."""
    documents = Documents(storage)

    def work(number: int) -> None:
        for turn in range(int(times)):
            add(documents, f"{name}.{number}.{turn}")
            note(f"{name}.{number}.{turn}")

    in_threads(work)


def change(storage: DiskStorage, name: str) -> None:
    """Two objects of one name, which are equal when nobody is at work."""
    for turn in range(1_000_000):
        with storage.abilities.revisions.changing("name"):
            for key in HALVES:
                storage.replace(key, f"{name}.{turn}".encode())
        if not turn:
            note("begun")


def collect(storage: DiskStorage) -> None:
    """Delete content to which no pointer leads, again and again; each deletion is named on the output."""
    leases = leases_of(storage)
    while True:
        mark = leases.mark()
        needed = {entry.key.rpartition("/")[2].partition(".")[0] for entry in storage.list("pointers/")}
        for entry in list(storage.list("blobs/")):
            if entry.key.removeprefix("blobs/") not in needed and leases.reap(Key(entry.key), mark, lambda: False):
                note(entry.key)


def hold(storage: DiskStorage, key: str) -> None:
    with leases_of(storage).hold(key):
        note("held")
        time.sleep(60)


if __name__ == "__main__":
    signal.alarm(120)
    {"append": append, "change": change, "collect": collect, "hold": hold}[sys.argv[1]](DiskStorage(Path(sys.argv[2])), *sys.argv[3:])
