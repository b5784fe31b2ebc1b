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
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from noraflask.config import StagingConfig
from noraflask.digest import Digest
from noraflask.errors import (
    BadRequest,
    ClientGone,
    SizeMismatch,
    StorageFull,
    StorageReadOnly,
    TooLarge,
    TooManyUploads,
    UploadBusy,
    UploadUnknown,
)
from noraflask.services.hashing import HashAhead, HashCache, RunningHash
from noraflask.services.metrics import catalogue
from noraflask.services.metrics.counting import NullMetrics
from noraflask.storage.disk import explain

PIECE_BYTES = 1024 * 1024
WRITE_BACK_BYTES = 32 * 1024 * 1024
"""After so many bytes the kernel is asked to begin writing them to the disk, so that the final sync has little left to wait for."""
LOCK_WAIT_SECONDS = 2.0
USAGE_FRESH_SECONDS = 1.0

log = logging.getLogger(__name__)


class BodyStream(Protocol):
    def read(self, size: int, /) -> bytes: ...


class FilesItself(BodyStream, Protocol):
    """A request's body that knows a shorter way into a file than through read(). Other servers than ours have none."""

    def into_file(self, descriptor: int, size: int, /) -> int:
        """Append at most `size` bytes at the file's position; 0 at the end of the body. An error of the body is a ClientGone or a BadRequest."""


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

    def begin(self, scope: str) -> str:
        """Start an upload in a scope (a repository and a name); returns its session. Raises TooManyUploads, StorageFull, StorageReadOnly."""
        if self._usage.sessions() >= self.max_sessions:
            self._metrics.count(catalogue.STAGING_REFUSED, "too_many_uploads")
            raise TooManyUploads()
        self._usage.begun()
        session = secrets.token_hex(16)
        name = _file_name(scope, session)
        if self._tmpfs:
            try:
                _create_in(self._tmpfs, name)
                return session
            except OSError as problem:
                log.warning("staging folder refuses a new upload, it goes to the data volume: %s", problem)
        with explained():
            _create_in(self._incoming, name)
        return session

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

    @contextlib.contextmanager
    def resume(self, scope: str, session: str) -> Iterator[Upload]:
        """Go on with an upload, alone. Raises UploadUnknown, or UploadBusy when another request keeps writing to it for some seconds."""
        file = self._lock(scope, session)
        upload = Upload(file, session, self._config, self._incoming, self._usage, self._hashes, self._metrics)
        try:
            yield upload
        finally:
            upload.close()

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
            for entry in _uploads_in(folder):
                if _modified(entry) < oldest:
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
        name = _file_name(scope, session)
        return [os.path.join(folder, name) for folder in (self._tmpfs, self._incoming) if folder]

    def _lock(self, scope: str, session: str) -> BinaryIO:
        deadline = time.monotonic() + LOCK_WAIT_SECONDS
        while True:
            file = self._open(self._paths(scope, session))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                if time.monotonic() > deadline:
                    raise UploadBusy() from None
                time.sleep(0.05)
                continue
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


def read_body(stream: BodyStream, max_bytes: int, expected_bytes: int | None = None) -> bytes:
    """A small body, whole, in memory. Raises TooLarge, before reading where the length is announced, SizeMismatch and ClientGone."""
    if (expected_bytes or 0) > max_bytes:
        raise TooLarge(detail={"limit_bytes": max_bytes})
    pieces, received = [], 0
    while piece := _next_piece(stream):
        received += len(piece)
        if received > max_bytes:
            raise TooLarge(detail={"limit_bytes": max_bytes})
        pieces.append(piece)
    if expected_bytes is not None and received != expected_bytes:
        raise SizeMismatch(detail={"announced_bytes": expected_bytes, "received_bytes": received})
    return b"".join(pieces)


class Upload:
    """One upload while one request works on it; made by Staging.resume()."""

    def __init__(
        self, file: BinaryIO, session: str, config: StagingConfig, incoming: str, usage: Usage, hashes: HashCache, metrics: NullMetrics | None = None
    ) -> None:
        self.file = file
        self.session = session
        self.offset = file.seek(0, os.SEEK_END)
        self._config = config
        self._incoming = incoming
        self._usage = usage
        self._hashes = hashes
        self._metrics = metrics or NullMetrics()
        self._on_tmpfs = os.path.dirname(file.name) != incoming
        self._open_files = [file]

    def receive(self, stream: BodyStream | FilesItself, max_bytes: int, expected_bytes: int | None = None) -> int:
        """Append a request's body; returns the bytes received. The one loop that drains a body to a file.

        `max_bytes` bounds the whole upload (TooLarge); `expected_bytes` is the announced length of this body, for the choice of the place and to
        notice a body that ended early (SizeMismatch). What came in before a broken connection stays, so that the client can go on.
        """
        start = self.offset
        if self.offset + (expected_bytes or 0) > max_bytes:
            raise TooLarge(detail={"limit_bytes": max_bytes})
        running = self._hashes.take(self.session)
        self._metrics.change(catalogue.UPLOADS_IN_FLIGHT, +1)
        try:
            self._make_room(expected_bytes or 0)
            with HashAhead(running, lambda: self.file.fileno()) as ahead:
                self._drain(stream, max_bytes, ahead)
        except (ClientGone, BadRequest):
            self._hashes.put(self.session, running)
            raise
        except TooLarge:
            self.discard()
            raise
        except OSError as problem:
            self._give_back(start)
            told = explain(problem)
            if isinstance(told, StorageFull | StorageReadOnly):
                self._metrics.count(catalogue.STAGING_REFUSED, "storage_full" if isinstance(told, StorageFull) else "read_only")
            raise told from problem
        finally:
            self._metrics.change(catalogue.UPLOADS_IN_FLIGHT, -1)
        self.check_current()
        self._hashes.put(self.session, running)
        received = self.offset - start
        if expected_bytes is not None and received != expected_bytes:
            raise SizeMismatch(detail={"announced_bytes": expected_bytes, "received_bytes": received})
        return received

    def digest(self, algorithm: str) -> Digest:
        """Of all bytes; most of it was computed while they came in."""
        running = self._hashes.take(self.session) if algorithm == "sha256" else RunningHash(algorithm)
        running.follow(self.file.fileno(), self.offset)
        return Digest(algorithm, running.hexdigest())

    def check_current(self) -> None:
        """Raises UploadUnknown when the session was cancelled meanwhile."""
        if not os.fstat(self.file.fileno()).st_nlink:
            raise UploadUnknown()

    def discard(self) -> None:
        """End the session; its file's bytes live on where they were linked to."""
        with contextlib.suppress(OSError):
            os.unlink(self.file.name)
        self._hashes.forget(self.session)

    def close(self) -> None:
        for file in self._open_files:
            file.close()

    def _drain(self, stream: BodyStream, max_bytes: int, ahead: HashAhead) -> None:
        written_back = self.offset
        into_file = getattr(stream, "into_file", None)
        while self._next(stream, into_file, max_bytes):
            ahead.advance(self.offset)
            if self.offset - written_back >= WRITE_BACK_BYTES and not self._on_tmpfs:
                os.posix_fadvise(self.file.fileno(), written_back, self.offset - written_back, os.POSIX_FADV_DONTNEED)
                written_back = self.offset

    def _next(self, stream: BodyStream, into_file: Callable[[int, int], int] | None, max_bytes: int) -> int:
        """Take in the next piece; its length, 0 at the end of the body."""
        if into_file and not self._on_tmpfs and self.offset + PIECE_BYTES <= max_bytes:
            moved = into_file(self.file.fileno(), PIECE_BYTES)
            self.offset += moved
            return moved
        piece = _next_piece(stream)
        if self.offset + len(piece) > max_bytes:
            raise TooLarge(detail={"limit_bytes": max_bytes})
        if piece:
            self._append(piece)
        return len(piece)

    def _append(self, piece: bytes) -> None:
        self._make_room(len(piece))
        try:
            _write(self.file, piece)
        except OSError as problem:
            if not self._on_tmpfs:
                raise
            log.warning("staging folder is full, the upload goes on on the data volume: %s", problem)
            self._spill()
            _write(self.file, piece[self.file.tell() - self.offset :])
        self.offset += len(piece)
        if self._on_tmpfs:
            self._usage.grown(len(piece))

    def _make_room(self, more_bytes: int) -> None:
        if self._on_tmpfs and (self.offset + more_bytes > self._config.share_bytes or self._usage.bytes() + more_bytes > self._config.budget_bytes):
            self._spill()

    def _spill(self) -> None:
        """Move to the data volume. Whoever looks for the session finds the old file until all of it is there; its lock is kept to the end, too."""
        old = self.file
        file = open(os.path.join(self._incoming, os.path.basename(old.name)), "w+b", buffering=0)  # noqa: SIM115 - close() does
        self._open_files.append(file)
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            old.seek(0)
            while piece := old.read(PIECE_BYTES):
                _write(file, piece)
            os.unlink(old.name)
        except OSError as problem:
            with contextlib.suppress(OSError):
                os.unlink(file.name)
            if isinstance(problem, FileNotFoundError):  # cancelled meanwhile
                raise UploadUnknown() from None
            raise
        self.file = file
        self._on_tmpfs = False
        self._metrics.count(catalogue.STAGING_SPILLS)

    def _give_back(self, start: int) -> None:
        """After a failed write: free what this request took; no answer has acknowledged it."""
        with contextlib.suppress(OSError):
            self.file.truncate(start)
        self._hashes.forget(self.session)


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
                for entry in _uploads_in(folder):
                    sessions += 1
                    taken += _size(entry) if folder == self._tmpfs else 0
            self._bytes, self._sessions = taken, sessions


SUFFIX = ".upload"


def _file_name(scope: str, session: str) -> str:
    """The scope is in the name, so that a session is known only under the name it was started for."""
    return f"{session}.{hashlib.sha256(scope.encode()).hexdigest()[:16]}{SUFFIX}"


def _create_in(folder: str, name: str) -> None:
    path, flags = os.path.join(folder, name), os.O_CREAT | os.O_EXCL | os.O_WRONLY
    try:
        descriptor = os.open(path, flags, 0o640)
    except FileNotFoundError:  # cleaners of /tmp remove what lies idle
        os.makedirs(folder, mode=0o700, exist_ok=True)
        descriptor = os.open(path, flags, 0o640)
    os.close(descriptor)


def _uploads_in(folder: str) -> list[os.DirEntry[str]]:
    """Empty when the folder cannot be read."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return [entry for entry in entries if entry.name.endswith(SUFFIX)]
    return []


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0


def _write(file: BinaryIO, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[file.write(view) :]


def _next_piece(stream: BodyStream) -> bytes:
    try:
        return stream.read(PIECE_BYTES)
    except (ClientGone, BadRequest):
        raise
    except Exception as problem:
        raise ClientGone(f"the request body could not be read: {problem}"[:300]) from problem


def _modified(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except OSError:
        return float("inf")


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """The operating system's errors as ours; a file that is gone is an upload that has ended."""
    try:
        yield
    except FileNotFoundError:
        raise UploadUnknown() from None
    except OSError as problem:
        raise explain(problem) from problem
