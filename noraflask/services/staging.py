"""Staging: uploads on their way. An upload is its file: the file's name is the session, its size the offset.

So any worker can go on with an upload, and a restart loses none. The file begins on the tmpfs and moves ("spills") to the data volume before it
would take more than its share there, or all uploads together more than the budget, or when the tmpfs is full. A writer holds the file's lock.

Nobody fills it alone: each owner (a principal, or a client's address) may have so many uploads unfinished, and so many bytes in them. Who has more
makes room by what lies idle, and is refused only when all of it is at work: jobs that were killed leave uploads behind, and the next job must go on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

from noraflask.config import StagingConfig
from noraflask.errors import UploadBusy, UploadUnknown
from noraflask.recording import spoil
from noraflask.services.hashing import HashCache, Hashes
from noraflask.services.metrics.counting import NullMetrics
from noraflask.services.private_folder import PrivateFolder
from noraflask.services.resumable_sha256 import is_available
from noraflask.services.shared_hashes import SharedHashes
from noraflask.services.staging_room import Room
from noraflask.services.staging_usage import Share, Unfinished, Usage, file_name, owner_mark, owner_number, owner_of, unfinished_in
from noraflask.services.upload import Upload, read_document
from noraflask.storage.disk_files import explain
from noraflask.suspension import LATER_SECONDS, Later, Steps

LOCK_WAIT_SECONDS = 2.0
PROBE = ".tmp"
"""Storage removes such files at its start, should one be left."""

log = logging.getLogger(__name__)


class Staging:
    def __init__(
        self, config: StagingConfig, incoming: str, max_sessions: int, clock: Callable[[], float] = time.time, metrics: NullMetrics | None = None
    ) -> None:
        """`incoming`: a folder on the data volume, to spill to."""
        self._config = config
        self.session_ttl_seconds = config.session_ttl_seconds
        self._incoming = incoming
        self.max_sessions = max_sessions
        self.budget_bytes = config.budget_bytes
        self._metrics = metrics or NullMetrics()
        # A folder of our own below the shared temporary one, the same for all processes that serve one storage.
        owner = hashlib.sha256(os.fsencode(os.path.realpath(incoming))).hexdigest()[:12]
        self._private = PrivateFolder(config.path / f"noraflask-{owner}")
        self._hashes: Hashes = SharedHashes() if is_available() else HashCache()
        self._usage = Usage(self._private.current, incoming)
        self._room = Room(config, max_sessions, self._usage, self._folders, clock, self._metrics)

    def _folders(self) -> list[str]:
        """Where uploads are, the first one first. The one on the tmpfs is missing while there can be none."""
        spoil("uploads come and go")
        tmpfs = self._private.current()
        return [tmpfs, self._incoming] if tmpfs else [self._incoming]

    def begin(self, scope: str, start: str = "", owner: str = "") -> str:
        """Start an upload in a scope (a repository and a name); returns its session. Raises TooManyUploads, StorageFull, StorageReadOnly.

        `start`: at most 16 hex digits that the session begins with, for who wants to find it again without having been told of it: unfinished().
        `owner`: for whom it counts; nobody's are bounded with those of all others alone.
        """
        session, file = self._create(scope, start, owner)
        file.close()
        return session

    def upload(self, scope: str, start: str = "", owner: str = "") -> Upload:
        """begin() and resume() in one, for who has the bytes already. Raises what the two raise."""
        session, file = self._create(scope, start, owner)
        return self._at_work(self._lock(scope, session, file), session)

    def _create(self, scope: str, start: str, owner: str) -> tuple[str, BinaryIO]:
        number = owner_number(owner)
        self._room.take(number)
        mark = owner_mark(number)
        session = start + secrets.token_hex(16)[len(start) + len(mark) :] + mark
        try:
            return session, self._new_file(file_name(scope, session))
        except BaseException:
            self._usage.counts.ended(number)
            raise

    def _new_file(self, name: str) -> BinaryIO:
        for folder in self._folders()[:-1]:
            try:
                return _create_in(folder, name)
            except OSError as problem:
                log.warning("staging folder refuses a new upload, it goes to the data volume: %s", problem)
        with explained():
            return _create_in(self._incoming, name)

    def unfinished(self, scope: str, start: str = "", owner: str = "") -> list[Unfinished]:
        """Uploads of a scope whose sessions begin so, those that somebody writes to included, the one that was written to last first.

        `owner`: only his.
        """
        end = owner_mark(owner_number(owner)) if owner else ""
        return sorted(unfinished_in(self._folders(), scope, start, end), key=lambda upload: -upload.modified)

    def open_sessions(self) -> int:
        """Unfinished uploads, as of a second ago."""
        return self._usage.sessions()

    def open_sessions_of_one(self) -> int:
        """Of the owner who has most."""
        return self._usage.most_sessions_of_one()

    @property
    def max_sessions_of_one(self) -> int:
        return self._room.most_of_one

    def taken_bytes(self) -> int:
        """What they take on the tmpfs."""
        return self._usage.bytes()

    def offset(self, scope: str, session: str) -> int:
        """Bytes received so far, also while somebody writes. Raises UploadUnknown."""
        with explained():
            for path in self._paths(scope, session):
                with contextlib.suppress(FileNotFoundError):
                    return os.lstat(path).st_size
        raise UploadUnknown()

    def resume(self, scope: str, session: str) -> Upload:
        """Go on with an upload, alone. To be closed. Raises UploadUnknown, and UploadBusy when another request is writing to it."""
        return self._at_work(self._lock(scope, session), session)

    def claim(self, scope: str, session: str) -> Steps[Upload]:
        """As resume(), waiting some seconds for the other request, without a thread: it may be one whose client is gone already."""
        deadline, pause = time.monotonic() + LOCK_WAIT_SECONDS, LATER_SECONDS
        while True:
            try:
                return self.resume(scope, session)
            except UploadBusy:
                if time.monotonic() > deadline:
                    raise
            yield Later(pause)
            pause *= 2

    def document(self, max_bytes: int, expected_bytes: int | None) -> Steps[bytes]:
        """A small document that a request brings (upload.py)."""
        return read_document(self._incoming, max_bytes, expected_bytes)

    def _at_work(self, file: BinaryIO, session: str) -> Upload:
        share = Share(self._usage, session, self._room.admit)
        return Upload(file, session, self._config, self._incoming, share, self._hashes, self._metrics)

    def cancel(self, scope: str, session: str) -> None:
        """End an upload, also one that another request is writing to: that one finds it gone. Raises UploadUnknown."""
        with explained():
            sizes = []
            for path in self._paths(scope, session):  # a crash in the middle of a move may have left two
                with contextlib.suppress(FileNotFoundError):
                    size = 0 if path.startswith(self._incoming) else os.lstat(path).st_size
                    os.unlink(path)
                    sizes.append(size)
        if not sizes:
            raise UploadUnknown()
        self._usage.counts.ended(owner_of(session), sum(sizes))
        self._hashes.forget(session)

    def sweep(self) -> int:
        """Remove uploads that nobody has written to for the configured time; returns how many."""
        return self._room.sweep()

    def probe(self) -> None:
        """Can an upload's file be made? Raises StorageFull, StorageReadOnly, Unavailable. How many uploads there are does not matter."""
        with self._new_file(f".probe-{secrets.token_hex(8)}{PROBE}") as file, explained():
            os.unlink(file.name)

    def _paths(self, scope: str, session: str) -> list[str]:
        """Where an upload may be. One that is just moving to the data volume is found in one place or the other, looked at in this order."""
        if len(session) != 32 or not session.isalnum() or not session.isascii():
            raise UploadUnknown()
        name = file_name(scope, session)
        return [os.path.join(folder, name) for folder in self._folders()]

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
                    return open(path, "r+b", buffering=0, opener=_open_existing)
        raise UploadUnknown()


def _create_in(folder: str, name: str) -> BinaryIO:
    return open(os.path.join(folder, name), "x+b", buffering=0, opener=_open_new)


def _open_new(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o640)


def _open_existing(path: str, flags: int) -> int:
    """Nothing but a file: no link is followed, and no pipe waited for."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UploadUnknown()
    return descriptor


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """The operating system's errors as ours; a file that is gone, or what is no file, is an upload that has ended."""
    try:
        yield
    except FileNotFoundError:
        raise UploadUnknown() from None
    except OSError as problem:
        if problem.errno == errno.ELOOP:
            raise UploadUnknown() from None
        raise explain(problem) from problem
