"""A file of lines that several processes append to, such as the audit log. Each append is one write, so lines of two processes never mix."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from noraflask.config.other_users import open_own

MOVED_SECONDS = 1.0
"""How often it is looked whether the path is another file by now: to rotate a file is to rename it."""
TAIL_LOOKS = 10
TAIL_PAUSE_SECONDS = 0.002
MODE = 0o640


class AppendFile:
    """Opened by each process for itself, when its first line comes. Not safe among threads."""

    def __init__(self) -> None:
        self.whole_lines = 0
        """How many lines of the last append were written to their ends."""
        self._path: Path | None = None
        self._descriptor = -1
        self._opened_by = 0  # process id
        self._looked_at = 0.0
        self._failed = False

    def __del__(self) -> None:
        self.close()

    def append(self, path: Path, lines: bytes, now: float) -> None:
        """`lines` end with a newline. Folders that are missing are made. Raises OSError; `whole_lines` says what was written."""
        self.whole_lines = 0
        looks = 1 if self._failed else 0
        if self._descriptor < 0 or self._path != path or self._opened_by != os.getpid() or self._was_moved(path, now):
            self._open(path, now)
            looks = TAIL_LOOKS
        cut_off = bool(looks) and not _ends_whole(self._descriptor, looks)
        self._failed = True
        self._write(b"\n" + lines if cut_off else lines, int(cut_off))  # ends what a crash or a full disk cut off, so that it spoils no other line
        self._failed = False

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def _open(self, path: Path, now: float) -> None:
        self.close()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = open_own(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, MODE)
        self._path, self._opened_by, self._looked_at = path, os.getpid(), now

    def _was_moved(self, path: Path, now: float) -> bool:
        opened = os.fstat(self._descriptor)
        if not opened.st_nlink:
            return True
        if abs(now - self._looked_at) < MOVED_SECONDS:
            return False
        self._looked_at = now
        try:
            return not os.path.samestat(os.stat(path), opened)
        except FileNotFoundError:
            return True

    def _write(self, data: bytes, lines_before: int) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        finally:
            self.whole_lines = max(0, data.count(b"\n", 0, len(data) - len(rest)) - lines_before)


def _ends_whole(descriptor: int, looks: int) -> bool:
    """Whether a file is empty or ends with a newline. Another process may be in the middle of a long line, so there may be a second look."""
    for look in range(looks):
        if look:
            time.sleep(TAIL_PAUSE_SECONDS)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not status.st_size or os.pread(descriptor, 1, status.st_size - 1) == b"\n":
            return True
    return False
