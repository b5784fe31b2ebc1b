"""Staging: uploads on their way. An upload is its file: the file's name is the session, its size the offset.

So any worker can go on with an upload, and a restart loses none. The file begins on the tmpfs and moves ("spills") to the data volume before it
would take more than its share there, or all uploads together more than the budget, or when the tmpfs is full. A writer holds the file's lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from noraflask.config import StagingConfig
from noraflask.errors import (
    TooManyUploads,
    UploadBusy,
    UploadUnknown,
)
from noraflask.services.hashing import HashCache
from noraflask.services.metrics import catalogue
from noraflask.services.metrics.counting import NullMetrics
from noraflask.services.staging_usage import Unfinished, Usage, file_name, modified, unfinished_in, uploads_in
from noraflask.services.upload import Upload, read_document
from noraflask.storage.disk_files import explain
from noraflask.suspension import Later, Steps

LOCK_WAIT_SECONDS = 2.0

log = logging.getLogger(__name__)


class Staging:
    def __init__(
        self, config: StagingConfig, incoming: str, max_sessions: int, clock: Callable[[], float] = time.time, metrics: NullMetrics | None = None
    ) -> None:
        """`incoming`: a folder on the data volume, to spill to. Raises OSError when no folder can be made."""
        self._config = config
        self.session_ttl_seconds = config.session_ttl_seconds
        self._incoming = incoming
        self.max_sessions = max_sessions
        self.budget_bytes = config.budget_bytes
        self._clock = clock
        self._metrics = metrics or NullMetrics()
        self._tmpfs = self._private_folder(config.path, incoming)
        self._hashes = HashCache()
        self._usage = Usage(self._tmpfs, incoming)

    @staticmethod
    def _private_folder(path: Path, incoming: str) -> str | None:
        """A folder of our own below the (shared) temporary one, the same for all processes that serve one storage; None when there can be none."""
        owner = hashlib.sha256(os.fsencode(os.path.realpath(incoming))).hexdigest()[:12]
        folder = os.path.join(path, f"noraflask-{owner}")
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            found = os.lstat(folder)
            if found.st_uid != os.geteuid() or not os.path.isdir(folder) or os.path.islink(folder):
                raise PermissionError(f"{folder} belongs to somebody else")
            os.chmod(folder, 0o700)
        except OSError as problem:
            log.warning("staging folder cannot be used, uploads go to the data volume at once: %s", problem)
            return None
        return folder

    def begin(self, scope: str, start: str = "") -> str:
        """Start an upload in a scope (a repository and a name); returns its session. Raises TooManyUploads, StorageFull, StorageReadOnly.

        `start`: at most 16 hex digits that the session begins with, for who wants to find it again without having been told of it: unfinished().
        """
        session, file = self._create(scope, start)
        file.close()
        return session

    def upload(self, scope: str, start: str = "") -> Upload:
        """begin() and resume() in one, for who has the bytes already. Raises what the two raise."""
        session, file = self._create(scope, start)
        return self._at_work(self._lock(scope, session, file), session)

    def _create(self, scope: str, start: str) -> tuple[str, BinaryIO]:
        if self._usage.sessions() >= self.max_sessions:
            self._metrics.count(catalogue.STAGING_REFUSED, "too_many_uploads")
            raise TooManyUploads()
        self._usage.begun()
        session = start + secrets.token_hex(16)[len(start) :]
        name = file_name(scope, session)
        if self._tmpfs:
            try:
                return session, _create_in(self._tmpfs, name)
            except OSError as problem:
                log.warning("staging folder refuses a new upload, it goes to the data volume: %s", problem)
        with explained():
            return session, _create_in(self._incoming, name)

    def unfinished(self, scope: str, start: str = "") -> list[Unfinished]:
        """Uploads of a scope whose sessions begin so, those that somebody writes to included, the one that was written to last first."""
        folders = [folder for folder in (self._tmpfs, self._incoming) if folder]
        return sorted(unfinished_in(folders, scope, start), key=lambda upload: -upload.modified)

    def open_sessions(self) -> int:
        """Unfinished uploads, as of a second ago."""
        return self._usage.sessions()

    def taken_bytes(self) -> int:
        """What they take on the tmpfs."""
        return self._usage.bytes()

    def offset(self, scope: str, session: str) -> int:
        """Bytes received so far, also while somebody writes. Raises UploadUnknown."""
        with explained():
            for path in self._paths(scope, session):
                with contextlib.suppress(FileNotFoundError):
                    return os.stat(path).st_size
        raise UploadUnknown()

    def resume(self, scope: str, session: str) -> Upload:
        """Go on with an upload, alone. To be closed. Raises UploadUnknown, and UploadBusy when another request is writing to it."""
        return self._at_work(self._lock(scope, session), session)

    def claim(self, scope: str, session: str) -> Steps[Upload]:
        """As resume(), waiting some seconds for the other request, without a thread: it may be one whose client is gone already."""
        deadline = time.monotonic() + LOCK_WAIT_SECONDS
        while True:
            try:
                return self.resume(scope, session)
            except UploadBusy:
                if time.monotonic() > deadline:
                    raise
            yield Later()

    def document(self, max_bytes: int, expected_bytes: int | None) -> Steps[bytes]:
        """A small document that a request brings (upload.py)."""
        return read_document(self._incoming, max_bytes, expected_bytes)

    def _at_work(self, file: BinaryIO, session: str) -> Upload:
        return Upload(file, session, self._config, self._incoming, self._usage, self._hashes, self._metrics)

    def cancel(self, scope: str, session: str) -> None:
        """End an upload, also one that another request is writing to: that one finds it gone. Raises UploadUnknown."""
        with explained():
            removed = 0
            for path in self._paths(scope, session):  # a crash in the middle of a move may have left two
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                    removed += 1
        if not removed:
            raise UploadUnknown()
        self._hashes.forget(session)

    def sweep(self) -> int:
        """Remove uploads that nobody has written to for the configured time; returns how many."""
        removed, oldest = 0, self._clock() - self._config.session_ttl_seconds
        for folder in filter(None, (self._tmpfs, self._incoming)):
            for entry in uploads_in(folder):
                if modified(entry) < oldest:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(entry.path)
                        removed += 1
        return removed

    def probe(self) -> None:
        """Can an upload begin? Raises what `begin` raises."""
        self.cancel("probe", self.begin("probe"))

    def _paths(self, scope: str, session: str) -> list[str]:
        """Where an upload may be. One that is just moving to the data volume is found in one place or the other, looked at in this order."""
        if len(session) != 32 or not session.isalnum() or not session.isascii():
            raise UploadUnknown()
        name = file_name(scope, session)
        return [os.path.join(folder, name) for folder in (self._tmpfs, self._incoming) if folder]

    def _lock(self, scope: str, session: str, new: BinaryIO | None = None) -> BinaryIO:
        """The upload's file, locked. `new`: just made, and perhaps found by somebody else already. Raises UploadBusy, and what _open() raises."""
        while True:
            file, new = new or self._open(self._paths(scope, session)), None
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                raise UploadBusy() from None
            names = os.fstat(file.fileno()).st_nlink
            if names == 1:
                return file
            if names > 1:  # its bytes were kept, and a crash came before the session ended: they must not change
                os.unlink(file.name)
            file.close()  # else it moved or ended while we waited: look again

    @staticmethod
    def _open(paths: list[str]) -> BinaryIO:
        with explained():
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    return open(path, "r+b", buffering=0)
        raise UploadUnknown()


def _create_in(folder: str, name: str) -> BinaryIO:
    path = os.path.join(folder, name)
    try:
        return open(path, "x+b", buffering=0, opener=_opener)
    except FileNotFoundError:  # cleaners of /tmp remove what lies idle
        os.makedirs(folder, mode=0o700, exist_ok=True)
        return open(path, "x+b", buffering=0, opener=_opener)


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags, 0o640)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """The operating system's errors as ours; a file that is gone is an upload that has ended."""
    try:
        yield
    except FileNotFoundError:
        raise UploadUnknown() from None
    except OSError as problem:
        raise explain(problem) from problem
