"""One upload while one request works on it, and where request bodies go."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import tempfile
from typing import BinaryIO, Protocol

from noraflask.config import StagingConfig
from noraflask.digest import Digest, new_hash
from noraflask.errors import BadRequest, ClientGone, SizeMismatch, StorageFull, StorageReadOnly, TooLarge, TooManyUploads, UploadUnknown
from noraflask.services.hashing import HASH_AHEAD_BYTES, HashAhead, Hashes, RunningHash
from noraflask.services.metrics import catalogue
from noraflask.services.metrics.counting import NullMetrics
from noraflask.services.staging_usage import Share
from noraflask.storage.disk_files import explain
from noraflask.suspension import BodyStream, Steps

PIECE_BYTES = 1024 * 1024
WRITE_BACK_BYTES = 32 * 1024 * 1024
"""After so many bytes the kernel is asked to begin writing them to the disk, so that the final sync has little left to wait for."""

log = logging.getLogger(__name__)


MEMORY_BYTES = 64 * 1024
"""A small document stays in memory while it comes in; beyond that it goes to a nameless file, so that many slow ones take no memory. And an upload
that came in one piece of at most so many bytes is hashed from it."""


class FilesItself(BodyStream, Protocol):
    """A request's body that knows a shorter way into a file than through read(). Other servers than ours have none."""

    def into_file(self, descriptor: int, size: int, /) -> int:
        """Append at most `size` bytes at the file's position; 0 at the end of the body. Raises what read() raises, and the file's errors."""


def read_document(folder: str, max_bytes: int, expected_bytes: int | None = None) -> Steps[bytes]:
    """A document, whole, in memory once it is there; one that comes in slowly waits in a nameless file in `folder`.

    Raises TooLarge, before reading where the length is announced, SizeMismatch and ClientGone.
    """
    if (expected_bytes or 0) > max_bytes:
        raise TooLarge(detail={"limit_bytes": max_bytes})
    with tempfile.SpooledTemporaryFile(MEMORY_BYTES, dir=folder) as file:
        document = _Document(file, max_bytes)
        try:
            yield document
        except (ClientGone, BadRequest, TooLarge):
            raise
        except OSError as problem:
            raise explain(problem) from problem
        if expected_bytes is not None and document.received != expected_bytes:
            raise SizeMismatch(detail={"announced_bytes": expected_bytes, "received_bytes": document.received})
        file.seek(0)
        return file.read()


class _Document:
    """What read_document() waits for."""

    def __init__(self, file: tempfile.SpooledTemporaryFile[bytes], max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self.received = 0

    def take(self, body: BodyStream, /) -> bool:
        piece = _next_piece(body)
        self.received += len(piece)
        if self.received > self._max_bytes:
            raise TooLarge(detail={"limit_bytes": self._max_bytes})
        self._file.write(piece)
        return not piece


class Upload:
    """One upload while one request works on it; made by Staging.resume()."""

    def __init__(
        self, file: BinaryIO, session: str, config: StagingConfig, incoming: str, usage: Share, hashes: Hashes, metrics: NullMetrics | None = None
    ) -> None:
        self.file = file
        self.session = session
        self.offset = file.seek(0, os.SEEK_END)
        self._config = config
        self._incoming = incoming
        self._usage = usage
        self._hashes = hashes
        self._running: RunningHash | None = None
        self._metrics = metrics or NullMetrics()
        self._on_tmpfs = os.path.dirname(file.name) != incoming
        self._open_files = [file]
        self._written_back = self.offset
        self._last_piece: bytes | None = None

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def receive(self, max_bytes: int, expected_bytes: int | None = None) -> Steps[int]:
        """Append the request's body; returns the bytes received.

        `max_bytes` bounds the whole upload (TooLarge); `expected_bytes` is the announced length of this body, for the choice of the place and to
        notice a body that ended early (SizeMismatch). What came in before a broken connection stays, so that the client can go on.
        """
        start = self.offset
        if self.offset + (expected_bytes or 0) > max_bytes:
            raise TooLarge(detail={"limit_bytes": max_bytes})
        self._usage.admit(self.offset)
        self._metrics.change(catalogue.UPLOADS_IN_FLIGHT, +1)
        try:
            self._make_room(expected_bytes or 0)
            with HashAhead(self._hash(), lambda: self.file.fileno()) as ahead:
                yield _Inflow(self, max_bytes, ahead)
        except (ClientGone, BadRequest, TooManyUploads):
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
        received = self.offset - start
        if expected_bytes is not None and received != expected_bytes:
            raise SizeMismatch(detail={"announced_bytes": expected_bytes, "received_bytes": received})
        return received

    def digest(self, algorithm: str) -> Digest:
        """Of all bytes; most of it was computed while they came in."""
        if self._last_piece is not None and len(self._last_piece) == self.offset:
            return Digest.of(self._last_piece, algorithm)
        running = self._hash() if algorithm == "sha256" else RunningHash(algorithm)
        running.follow(self.file.fileno(), self.offset)
        return Digest(algorithm, running.hexdigest())

    def _hash(self) -> RunningHash:
        """As far as an earlier request came with it; close() leaves it for the next one."""
        if self._running is None:
            self._running = self._hashes.take(self.session, self.offset)
        return self._running

    def digest_from(self, start: int, algorithm: str) -> Digest:
        """Of the bytes from an offset to the end."""
        running, position = new_hash(algorithm), start
        while piece := os.pread(self.file.fileno(), PIECE_BYTES, position):
            running.update(piece)
            position += len(piece)
        return Digest(algorithm, running.hexdigest())

    def cut(self, offset: int) -> None:
        """Take back what came behind an offset."""
        self._give_back(offset)
        self.offset = self.file.seek(offset)

    def check_current(self) -> None:
        """Raises UploadUnknown when the session was cancelled meanwhile."""
        if not os.fstat(self.file.fileno()).st_nlink:
            raise UploadUnknown()

    def discard(self) -> None:
        """End the session; its file's bytes live on where they were linked to."""
        with contextlib.suppress(OSError):
            os.unlink(self.file.name)
            self._usage.ended(self.offset if self._on_tmpfs else 0)
        self._running = None
        if self.offset >= HASH_AHEAD_BYTES:  # of less nobody knows a hash
            self._hashes.forget(self.session)

    def close(self) -> None:
        """Before the answer leaves, so that whoever gets the next request finds the hash."""
        try:
            if self._running and self._running.offset and os.fstat(self.file.fileno()).st_nlink:
                self._hashes.put(self.session, self._running)
        finally:
            for file in self._open_files:
                file.close()

    def take(self, stream: BodyStream | FilesItself, max_bytes: int) -> int:
        """Take in the next piece; its length, 0 at the end of the body."""
        into_file = getattr(stream, "into_file", None)
        if into_file and not self._on_tmpfs and self.offset + PIECE_BYTES <= max_bytes:
            moved: int = into_file(self.file.fileno(), PIECE_BYTES)
            self.offset += moved
            self._write_back()
            return moved
        piece = _next_piece(stream)
        if self.offset + len(piece) > max_bytes:
            raise TooLarge(detail={"limit_bytes": max_bytes})
        if piece:
            self._append(piece)
        return len(piece)

    def _write_back(self) -> None:
        """Every so often: let the kernel begin to write, and ask whether the client may still go on."""
        if self.offset - self._written_back >= WRITE_BACK_BYTES:
            os.posix_fadvise(self.file.fileno(), self._written_back, self.offset - self._written_back, os.POSIX_FADV_DONTNEED)
            self._written_back = self.offset
            self._usage.admit(self.offset)

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
        self._last_piece = piece if len(piece) <= MEMORY_BYTES else None
        self.offset += len(piece)
        if self._on_tmpfs:
            self._usage.grown(len(piece))
        else:
            self._write_back()

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
        self._running = self._last_piece = None
        self._hashes.forget(self.session, start)
        with contextlib.suppress(OSError):
            self.file.truncate(start)


class _Inflow:
    """What an upload waits for: the one loop that takes a body to a file, step by step."""

    def __init__(self, upload: Upload, max_bytes: int, ahead: HashAhead) -> None:
        self._upload, self._max_bytes, self._ahead = upload, max_bytes, ahead

    def take(self, body: BodyStream, /) -> bool:
        moved = self._upload.take(body, self._max_bytes)
        self._ahead.advance(self._upload.offset)
        return not moved


def _write(file: BinaryIO, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[file.write(view) :]


def _next_piece(stream: BodyStream) -> bytes:
    try:
        return stream.read(PIECE_BYTES)
    except (ClientGone, BadRequest, BlockingIOError):
        raise
    except Exception as problem:
        raise ClientGone(f"the request body could not be read: {problem}"[:300]) from problem
