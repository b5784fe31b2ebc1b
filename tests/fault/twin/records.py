"""What a server has written beside its answers, in a form in which two of them can be compared: log, audit log, ledger, metrics."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

REQUEST_LINE = b'"message": "request"'
_SENT = b'nora_http_response_bytes_total{registry="other"} '
_MADE = re.compile(rb'("request_id": ?")[0-9a-f]{24}"')
_MOMENT = re.compile(rb'"(?:time": "[^"]*"|ms": [0-9.]+), ')
"""Of a request's line, which may be written a moment after its answer was read."""
_PIDS = re.compile(rb"\((?:pid )?[0-9]+\)|pid:? ?[0-9]+")

NOT_COMPARED = (
    "nora_storage_",  # how often storage is asked is what plans save
    "nora_http_repeated_",  # what was answered by plans
    "nora_process_",
    "nora_worker_",
    "nora_uptime_",
    "nora_disk_",
    "nora_memory_",
    "nora_inventory_",
    "nora_reload_seconds",
    "process_",
    "python_",
)
"""Families of which twins may differ."""
DURATIONS = ("nora_http_request_duration_seconds", "nora_http_last_byte_seconds")
"""Of these the counts must be the same, not the sums and the buckets."""


class Tail:
    """A file that grows, or all files of a folder that do, from where it was looked at last. Whole lines alone."""

    def __init__(self, path: Path, pattern: str = "") -> None:
        self._path, self._pattern = path, pattern
        self._read: dict[Path, int] = {}

    def lines(self) -> list[bytes]:
        return [line for path in self._files() for line in self._of(path)]

    def _files(self) -> Iterator[Path]:
        if self._pattern:
            yield from sorted(self._path.glob(self._pattern))
        elif self._path.exists():
            yield self._path

    def _of(self, path: Path) -> list[bytes]:
        with open(path, "rb") as file:
            file.seek(self._read.get(path, 0))
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]
        self._read[path] = self._read.get(path, 0) + len(data)
        return data.splitlines()


def comparable(line: bytes, names: dict[bytes, bytes]) -> bytes:
    """A line of the log or of the audit log, without what no two servers share. `names`: words of this server, and what stands for them."""
    line = _MADE.sub(rb'\1made"', line)
    if REQUEST_LINE in line:
        return _MOMENT.sub(b"", line, count=2)
    for own, common in names.items():
        line = line.replace(own, common)
    return _PIDS.sub(b"(pid)", line)


def difference(first: list[bytes], second: list[bytes]) -> str:
    """Lines that one of them has and the other one has not, in any order; empty when there are none."""
    if first == second:
        return ""
    left, right = Counter(first), Counter(second)
    only, others = left - right, right - left
    if not only and not others:
        return ""
    shown = [f"only the first: {line!r} {count} times" for line, count in list(only.items())[:8]]
    shown += [f"only the second: {line!r} {count} times" for line, count in list(others.items())[:8]]
    return "\n".join(shown)


def figures(exposition: bytes, scraped: int) -> list[bytes]:
    """Lines of /metrics that must be the same. `scraped`: bytes of earlier scrapes, which count as well and have another length in each server."""
    lines = [line for line in exposition.splitlines() if not line.startswith(b"#") and _is_compared(line.decode())]
    return [_SENT + str(float(line.rpartition(b" ")[2]) - scraped).encode() if line.startswith(_SENT) else line for line in lines]


def planned(exposition: bytes) -> int:
    """How many requests were answered by plans."""
    match = re.search(rb"^nora_http_repeated_total ([0-9.e+]+)", exposition, re.MULTILINE)
    return int(float(match[1])) if match else 0


def _is_compared(line: str) -> bool:
    if line.startswith(NOT_COMPARED):
        return False
    return not line.startswith(tuple(f"{family}_{part}" for family in DURATIONS for part in ("sum", "bucket", "created")))
