"""The files of uploads, and how much they take together."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

USAGE_FRESH_SECONDS = 1.0
SUFFIX = ".upload"


def file_name(scope: str, session: str) -> str:
    """The scope is in the name, so that a session is known only under the name it was started for."""
    return f"{session}.{hashlib.sha256(scope.encode()).hexdigest()[:16]}{SUFFIX}"


def uploads_in(folder: str) -> list[os.DirEntry[str]]:
    """Empty when the folder cannot be read."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return [entry for entry in entries if entry.name.endswith(SUFFIX)]
    return []


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0


def modified(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except OSError:
        return float("inf")


@dataclass(frozen=True, slots=True)
class Unfinished:
    session: str
    offset: int
    """Bytes that came in so far."""
    modified: float
    """Seconds since the epoch, when somebody wrote to it last."""


def unfinished_in(folders: Iterable[str], scope: str, start: str) -> Iterator[Unfinished]:
    """Uploads of a scope whose sessions begin so."""
    for folder in folders:
        for entry in uploads_in(folder):
            session = entry.name.partition(".")[0]
            if entry.name.startswith(start) and entry.name == file_name(scope, session):
                with contextlib.suppress(OSError):  # it has just ended
                    found = entry.stat(follow_symlinks=False)
                    yield Unfinished(session, found.st_size, found.st_mtime)


class Usage:
    """How much the uploads of all workers take on the tmpfs: a look at the folder once a second, plus what this process wrote since.

    It may be behind by what other workers wrote in that second; a full tmpfs is met by spilling too, so this is a courtesy to /tmp, not the guard.
    """

    def __init__(self, tmpfs: str | None, incoming: str) -> None:
        self._folders = [folder for folder in (tmpfs, incoming) if folder]
        self._tmpfs = tmpfs
        self._looked = 0.0
        self._bytes = 0
        self._sessions = 0
        self._lock = threading.Lock()

    def bytes(self) -> int:
        """Taken on the tmpfs."""
        self._look()
        return self._bytes

    def sessions(self) -> int:
        """Open uploads, wherever they are."""
        self._look()
        return self._sessions

    def grown(self, size_bytes: int) -> None:
        self._bytes += size_bytes

    def begun(self) -> None:
        self._sessions += 1

    def _look(self) -> None:
        now = time.monotonic()
        with self._lock:
            if now - self._looked < USAGE_FRESH_SECONDS:
                return
            self._looked = now
            taken = sessions = 0
            for folder in self._folders:
                for entry in uploads_in(folder):
                    sessions += 1
                    taken += _size(entry) if folder == self._tmpfs else 0
            self._bytes, self._sessions = taken, sessions
