"""Hashing uploads from their files: while they grow, and on from wherever an earlier request of the same upload came to."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Protocol

from noraflask.digest import new_hash
from noraflask.services.resumable_sha256 import ResumableSha256, is_available

PIECE_BYTES = 1024 * 1024
HASHES_KEPT = 1024
HASH_AHEAD_BYTES = 4 * 1024 * 1024
"""A body of which so much has come in is hashed in a second thread from then on."""
HASH_LAG_BYTES = 64 * 1024 * 1024
SPARE_BUFFERS = 4
LAG_SECONDS = 0.05
"""A step of a body waits so long for a hash that is far behind, and goes on then: its thread serves others as well."""
TURN_BYTES = 16 * 1024 * 1024
"""The threads that hash go from one body to the next after so many bytes: some that come as fast as they are hashed would have all of them."""


class RunningHash:
    """The hash of a file's first `offset` bytes. The file only grows, so that it can go on from there at any time."""

    def __init__(self, algorithm: str = "sha256", saved: tuple[int, bytes] = (0, b"")) -> None:
        """`saved`: the offset and the state() of another one, by SHA-256."""
        self.offset, state = saved
        self.saved = self.offset
        """Up to here another process could go on from what was saved of it."""
        self._hash = ResumableSha256(state or None) if algorithm == "sha256" and is_available() else new_hash(algorithm)

    def follow(self, descriptor: int, stop: int) -> None:
        """Hash what the file holds up to `stop`. Raises OSError, also when it holds less."""
        with _buffer() as view:
            while self.offset < stop:
                size = os.preadv(descriptor, [view[: stop - self.offset]], self.offset)
                if not size:
                    raise OSError(errno.EIO, "the upload's file is shorter than what was received")
                self._hash.update(view[:size])
                self.offset += size

    def hexdigest(self) -> str:
        return str(self._hash.hexdigest())

    def is_worth_saving(self) -> bool:
        return self.offset - self.saved >= HASH_AHEAD_BYTES

    def state(self) -> bytes:
        """Where SHA-256 is resumable."""
        return bytes(self._hash.state())


_spare: list[memoryview] = []
"""Buffers that nobody reads into. One for each thread would be a MiB for each, and uploads end on any of them."""


@contextlib.contextmanager
def _buffer() -> Iterator[memoryview]:
    try:
        view = _spare.pop()
    except IndexError:
        view = memoryview(bytearray(PIECE_BYTES))
    yield view
    if len(_spare) < SPARE_BUFFERS:
        _spare.append(view)


class HashAhead:
    """Hashes a large body beside the thread that takes it in; a small one is left for later, as its bytes are at hand then.

    It reads the file that the body goes to, so what is hashed is what was kept, and it needs no copy of its own of what is under way. A few threads
    do it for all bodies of the process, and none waits for a body: a slow one costs none.
    """

    def __init__(self, running: RunningHash, descriptor: Callable[[], int]) -> None:
        """`descriptor` tells the file's, which changes when the upload moves."""
        self._running = running
        self._descriptor = descriptor
        self._goal = running.offset
        self._at_work = False
        self._problem: OSError | None = None
        self._changed = threading.Condition()

    def __enter__(self) -> HashAhead:
        return self

    def __exit__(self, *raised: object) -> None:
        with self._changed:
            if any(raised):
                self._goal = 0
            while self._at_work:
                self._changed.wait()
        if self._problem and not any(raised):
            raise self._problem

    def advance(self, offset: int) -> None:
        """There are bytes up to `offset` now. Waits a little when the hash is far behind, so that what it reads is still in memory."""
        with self._changed:
            self._goal = offset
            if not self._at_work and not self._problem and offset - self._running.offset >= HASH_AHEAD_BYTES:
                self._at_work = True
                _hashers().submit(self._run)
            if self._at_work and self._goal - self._running.offset > HASH_LAG_BYTES:
                self._changed.wait(LAG_SECONDS)

    def _run(self) -> None:
        """A turn, and another one after all others that wait, up to where the body is: what comes later asks anew."""
        try:
            self._running.follow(self._descriptor(), min(self._goal, self._running.offset + TURN_BYTES))
        except OSError as problem:
            self._problem = problem
        except BaseException as error:  # such as memory: whoever waits must be told
            self._problem = OSError(errno.EIO, f"hashing failed: {error}")
        with self._changed:
            self._at_work = not self._problem and self._goal - self._running.offset >= min(PIECE_BYTES, HASH_AHEAD_BYTES)
            if self._at_work:
                _hashers().submit(self._run)
            self._changed.notify_all()


@cache
def _hashers() -> ThreadPoolExecutor:
    """Made on first use, so in the worker, after the fork."""
    return ThreadPoolExecutor(max(2, os.cpu_count() or 1), thread_name_prefix="hash")


class Hashes(Protocol):
    """Running hashes by session, so that the next request of an upload need not read all of it again."""

    def take(self, session: str, size: int) -> RunningHash:
        """As far as it is known, of an upload that is so long. It is the caller's then, who holds the upload's lock."""

    def put(self, session: str, running: RunningHash) -> None: ...

    def forget(self, session: str, beyond: int = 0) -> None:
        """What is known of more bytes than so many. To be called before an upload is cut to that length."""


class HashCache:
    """Those of this process alone, for where no hash can be handed on. When it is cold or behind, the hash follows the file from where it is."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, RunningHash] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, session: str, size: int) -> RunningHash:
        with self._lock:
            known = self._entries.pop(session, None)
        return known if known and known.offset <= size else RunningHash()

    def put(self, session: str, running: RunningHash) -> None:
        if not running.offset:
            return
        with self._lock:
            self._entries[session] = running
            if len(self._entries) > HASHES_KEPT:
                self._entries.popitem(last=False)

    def forget(self, session: str, beyond: int = 0) -> None:
        with self._lock:
            known = self._entries.get(session)
            if known and known.offset > beyond:
                del self._entries[session]
