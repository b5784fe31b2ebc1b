"""A folder of our own below one that others may write to, such as /tmp.

It is held by a descriptor and everything in it is reached through that, so whatever becomes of its name, nobody can put another folder, or a link, in
its place. When it was removed, it is made and looked at anew.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from threading import Lock

WARN_SECONDS = 60.0

log = logging.getLogger(__name__)


class PrivateFolder:
    def __init__(self, path: Path) -> None:
        """Made at once, if it can be."""
        self._path = path
        self._descriptor = -1
        self._lock = Lock()
        self._warned_at: float | None = None
        self.current()

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def current(self) -> str | None:
        """A path to it by way of the descriptor; None while there can be no such folder, of which the log is told once a minute."""
        if self._is_there():
            return inside(self._descriptor)
        with self._lock:
            if not self._is_there():
                try:
                    self._take(open_private(self._path))
                except OSError as problem:
                    self._warn(problem)
                    return None
        return inside(self._descriptor)

    def _is_there(self) -> bool:
        return self._descriptor >= 0 and os.fstat(self._descriptor).st_nlink > 0

    def _take(self, descriptor: int) -> None:
        if self._descriptor < 0:
            self._descriptor = descriptor
            return
        os.dup2(descriptor, self._descriptor, inheritable=False)  # the number stays: paths by way of it may be in use, and must not lead elsewhere
        os.close(descriptor)

    def _warn(self, problem: OSError) -> None:
        now = time.monotonic()
        if self._warned_at is None or now - self._warned_at > WARN_SECONDS:
            self._warned_at = now
            log.warning("staging folder cannot be used, uploads go to the data volume at once: %s", problem)


def open_private(path: Path) -> int:
    """A descriptor of the folder, which is made when it is missing. Raises OSError, also when it is a link or somebody else's."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            raise PermissionError(f"{path} belongs to somebody else")
        if found.st_mode & 0o777 != 0o700:
            os.fchmod(descriptor, 0o700)
        if not os.path.samestat(found, os.stat(inside(descriptor))):
            raise FileNotFoundError("/proc is not what it should be")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def inside(descriptor: int) -> str:
    """A path to an open folder, whatever its name is by now (proc(5), /proc/pid/fd)."""
    return f"/proc/self/fd/{descriptor}"
