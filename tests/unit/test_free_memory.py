"""What large documents took does not stay with a process."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, sys, threading
from noraflask.serve.master import keep_little_free_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

def use():
    for size in (1, 4, 8, 16):  # MiB; each that is freed makes the allocator keep more of the next ones
        b"x" * (size << 20)
    kept = [b"x" * (3 << 20) for _ in range(6)]
    small = [b"y" * 1000]
    barrier.wait()
    del kept
    barrier.wait()

if sys.argv[1] == "bounded":
    keep_little_free_memory()
barrier = threading.Barrier(12)
before = resident()
threads = [threading.Thread(target=use) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(resident() - before)
"""


def kept_mib(how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True).stdout)


def test_free_memory_goes_back_to_the_system() -> None:
    assert kept_mib("bounded") < 30
