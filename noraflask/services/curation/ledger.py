"""The ledger: what was served, to whom. A new policy is replayed over it (replay.py), and an incident finds in it who got what.

`<folder>/<YYYY-MM-DD>/<host>-<pid>-<start>.jsonl`: a folder for each day (UTC), in it a file for each worker, which alone writes it. A line is

    [unix seconds, format, repository, name, version, digest, principal, source, ci, hosted, published, seen, part]

where the version is "" when it is not known, `hosted` is 0 or 1, and the two after it are seconds or null. `part` is 1 for bytes that artifacts are
made of, such as an image's layer, and is left out for an artifact. Lines that end after `ci` are good as well.
The same artifact to the same principal is recorded once in ten minutes. A crash loses the last second, and no other line.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from noraflask.services.append_file import AppendFile
from noraflask.services.bounded_memory import BoundedMemory, bytes_of
from noraflask.services.curation.model import Package

AGAIN_SECONDS = 600
"""The same is recorded once in this time."""
RECENT_BYTES = 4 * 1024 * 1024
FLUSH_SECONDS = 1.0
FLUSH_LINES = 256
MOST_WAITING = 16384
"""Lines that wait while the disk is slow; what comes after them is lost."""
REPORT_SECONDS = 60.0
LONGEST_TEXT = 512
"""Of a principal or a CI identity, in characters."""
LONGEST_LINE_BYTES = 1 << 18
DAY_SECONDS = 86400
LAST_SECOND = 253402300799
"""Of the year 9999, the last with a folder."""
SUFFIX = ".jsonl"

TYPES = [int, *[str] * 8]
"""Of the fields that each line has."""

_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().raw_decode

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    time: int
    """Unix seconds."""
    format: str
    repository: str
    name: str
    version: str
    """Empty: it was not known."""
    digest: str
    principal: str
    source: str
    """By what the principal was recognised: anonymous, password, token, oidc."""
    ci: str = ""
    hosted: bool = True
    published: float | None = None
    seen: float | None = None
    part: bool = False
    """Bytes that artifacts are made of: judged with those, so that it has no coordinate of its own."""


class Ledger:
    """Made before the workers are forked or after; safe to use from any thread of any of them. Nothing that it does for a request raises."""

    def __init__(self, folder: Path, days: int, clock: Callable[[], float] = time.time, enabled: bool = True) -> None:
        """`days`: how many whole days before today are kept."""
        self.enabled = enabled
        self.lost = 0
        """How many lines this process could not write."""
        self._folder = folder
        self._days = days
        self._clock = clock
        self._file = AppendFile()
        self._file_name, self._named_by = "", 0  # process id
        self._pid = os.getpid()
        self._recent: BoundedMemory[tuple[str | None, ...], float] = BoundedMemory(RECENT_BYTES)
        self._waiting: list[tuple[Any, ...]] = []
        self._lock = threading.Lock()  # of the lines that wait; never held while something is written
        self._writing = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._unreported = 0
        self._reported_at: float | None = None

    def served(self, package: Package, digest: str, principal: str, source: str, ci: str = "") -> None:
        """Record it, unless the same was recorded within ten minutes. An index is not recorded: it is no artifact."""
        if not self.enabled:
            return
        try:
            if package.is_index:
                return
            digest = digest or (package.digests[0] if package.digests else "")
            key = (package.format, package.repository, package.name, package.version, digest, principal[:LONGEST_TEXT], ci[:LONGEST_TEXT])
            now = self._clock()
            last = self._recent.get(key)
            if last is None or abs(now - last) >= AGAIN_SECONDS or self._pid != os.getpid():
                self._note(key, package, source, now)
        except Exception as error:  # whatever it is, the request goes on
            self._failed(1, error)

    def _note(self, key: tuple[str | None, ...], package: Package, source: str, now: float) -> None:
        with self._lock:
            self._adopt()
            last = self._recent.get(key)
            if last is not None and abs(now - last) < AGAIN_SECONDS:
                return  # another thread was quicker
            if len(self._waiting) >= MOST_WAITING:
                raise BufferError("the disk does not keep up")
            self._recent.put(key, now, bytes_of(*key))
            self._waiting.append((int(now), key, source, package))
            full = len(self._waiting) % FLUSH_LINES == 0
        if full and self._thread is not None:
            self._wake.set()
        elif full:
            self.flush()

    def _adopt(self) -> None:
        """Under the lock. What a parent process recorded is the parent's to write; a fork does not copy its thread."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._recent, self._waiting, self._thread = BoundedMemory(RECENT_BYTES), [], None

    def flush(self) -> None:
        """Write what waits. Never raises: lines that cannot be written are counted, and logged once a minute."""
        if not self._waiting:
            return
        with self._writing:
            with self._lock:
                self._adopt()
                batch, self._waiting = self._waiting, []
            for day, noted in groupby(batch, key=lambda note: note[0] // DAY_SECONDS):
                self._write(day, [_line(*note) for note in noted])

    def _write(self, day: int, lines: list[bytes]) -> None:
        good = [line for line in lines if line]
        try:
            lost = len(lines) - len(good)
            if lost:
                self._failed(lost, ValueError("it cannot be written as JSON"))
            lost = len(good)
            self._file.append(self._path(day), b"".join(good), self._clock())
        except Exception as error:
            self._recent.clear()  # what was lost is recorded when it is served again
            self._failed(lost - self._file.whole_lines, error)
        else:
            if self._unreported and good:
                self._report("is written again", logging.INFO)

    def _path(self, day: int) -> Path:
        """This process's file of that day."""
        if self._named_by != os.getpid():
            self._file_name, self._named_by = f"{_host()}-{os.getpid()}-{int(self._clock() * 1000)}{SUFFIX}", os.getpid()
        return self._folder / _day_name(day) / self._file_name

    def _failed(self, lines: int, error: Exception) -> None:
        self.lost += lines
        self._unreported += lines
        self._report(f"cannot be written: {getattr(error, 'strerror', None) or error}; check free space and permissions there", logging.ERROR)

    def _report(self, what: str, level: int) -> None:
        now = self._clock()
        if self._reported_at is None or abs(now - self._reported_at) >= REPORT_SECONDS:
            log.log(level, "the ledger (%s) %s; %d lines were lost since the last such message", self._folder, what, self._unreported)
            self._reported_at = now
            self._unreported = 0

    def start(self) -> None:
        """Begin to write once a second; called in each worker, after the fork, and again when a reload has switched it on."""
        with self._lock:
            self._adopt()
        if self.enabled and self._thread is None:
            self._stopping = False
            self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Write what waits and close the file. What is served afterwards is recorded all the same."""
        thread, self._thread = self._thread, None
        if thread is not None and self._pid == os.getpid():
            self._stopping = True
            self._wake.set()
            thread.join(5.0)
        self.flush()
        self._file.close()

    def _run(self) -> None:
        swept = -1
        while True:
            today = int(self._clock()) // DAY_SECONDS
            if today != swept:
                swept = today
                self.sweep()
            if self._stopping:
                return
            self._wake.wait(FLUSH_SECONDS)
            self._wake.clear()
            self.flush()

    def sweep(self) -> int:
        """Remove the folders of days that lie more than `days` back, each as a whole; returns how many. Nothing else in the folder is touched."""
        first_kept = _day_name(int(self._clock()) // DAY_SECONDS - self._days)
        gone = 0
        try:
            for day in _days(self._folder):
                if day.name < first_kept and not day.is_symlink():
                    shutil.rmtree(day, ignore_errors=True)  # another worker may be at it as well
                    left = day.exists()
                    gone += not left
                    if left:
                        log.warning("an old day of the ledger (%s) cannot be removed; check the permissions there, or remove it yourself", day)
        except OSError as error:
            log.warning("the ledger (%s) cannot be searched for old days: %s; check the permissions there", self._folder, error.strerror or error)
        return gone


def read(folder: Path, since: float, until: float | None = None) -> Iterator[Entry]:
    """All entries from `since` to `until`, both inclusive: day by day, within a day worker by worker. Lines that make no sense are skipped.

    Raises OSError for a file that may not be read: an answer without it would look whole.
    """
    last = LAST_SECOND if until is None else until
    first_day, last_day = (_day_name(int(min(max(moment, 0), LAST_SECOND)) // DAY_SECONDS) for moment in (since, last))
    for day in _days(folder):
        if first_day <= day.name <= last_day:
            for path in _files(day):
                yield from (entry for entry in _entries(path) if since <= entry.time <= last)


def _files(day: Path) -> list[Path]:
    try:
        return sorted(path for path in day.iterdir() if path.suffix == SUFFIX)
    except FileNotFoundError:
        return []  # swept meanwhile


def _entries(path: Path) -> Iterator[Entry]:
    try:
        file = open(path, "rb")  # noqa: SIM115 (the with statement follows)
    except FileNotFoundError:
        return  # swept meanwhile
    with file:
        whole = True
        while line := file.readline(LONGEST_LINE_BYTES):
            begins, whole = whole, line.endswith(b"\n")
            entry = parse(line) if begins and whole else None
            if entry is not None:
                yield entry


def parse(line: bytes) -> Entry | None:
    """None: the line is not one of ours, or was cut off."""
    try:
        text = line.decode()
        fields, end = _decode(text)
    except (ValueError, RecursionError):
        return None
    if text[end:] != "\n" or type(fields) is not list or len(fields) < 9 or list(map(type, fields[:9])) != TYPES or not 0 <= fields[0] <= LAST_SECOND:
        return None
    if len(fields) < 12:
        fields += (1, None, None)[len(fields) - 9 :]
    return Entry(*fields[:9], *_facts(*fields[9:13]))


def _facts(hosted: object, published: object, seen: object, part: object = 0) -> tuple[Any, ...]:
    return hosted != 0, _moment(published), _moment(seen), part == 1


def _moment(field: object) -> float | None:
    return field if isinstance(field, int | float) and -LAST_SECOND <= field <= LAST_SECOND else None


def _line(moment: int, key: tuple[str | None, ...], source: str, package: Package) -> bytes:
    """ASCII alone, so no character can end it. Empty when there is no way to write it."""
    format, repository, name, version, digest, principal, ci = key
    fields: list[Any] = [moment, format, repository, name, version or "", digest, principal, source, ci]
    try:
        fields += [int(package.hosted), *(None if moment_of is None else int(moment_of) for moment_of in (package.published, package.seen))]
        return _encode([*fields, 1] if package.is_part else fields).encode() + b"\n"
    except (TypeError, ValueError, OverflowError):
        return b""


def _days(folder: Path) -> list[Path]:
    """Folders of days, oldest first; nothing else."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _is_day(path.name) and path.is_dir())


def _is_day(name: str) -> bool:
    try:
        return date.fromisoformat(name).isoformat() == name
    except ValueError:
        return False


def _day_name(day: int) -> str:
    """Of the day with this number, counted from 1970-01-01."""
    return datetime.fromtimestamp(max(day, 0) * DAY_SECONDS, UTC).date().isoformat()


def _host() -> str:
    name = "".join(character if character.isascii() and (character.isalnum() or character in ".-") else "_" for character in socket.gethostname())
    return name[:64].lstrip(".") or "host"
