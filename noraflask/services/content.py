"""Content: bytes kept once, under their digest, for all formats; pointer documents that lead to them.

    blobs/<algorithm>/<first two hex digits>/<hex>     verified bytes
    <repository>/…                                     a format's pointers; each format's `protocol.py` draws its own tree

A pointer is written after its content. So content without a pointer may exist (a crash came between); a pointer without content counts as absent.
Whoever relies on content being there holds a lease on it until the pointer is durable: `together(digest)`, `lease(digest)`.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Literal

from noraflask.digest import Digest
from noraflask.errors import AlreadyExists, Changed, DigestMismatch, NotFound, Unavailable
from noraflask.keys import Key
from noraflask.pointer import Pointer
from noraflask.recording import aside, spoil
from noraflask.services.bounded_memory import BoundedMemory, bytes_of
from noraflask.services.documents import Documents
from noraflask.services.upload import Upload
from noraflask.storage import Entry, ObjectInfo, Reader, Storage

REMEMBERED_BYTES = 4 * 1024 * 1024
"""Memory for small content that was read before, in each process."""
SMALL_BYTES = 16 * 1024
TOUCH_SECONDS = 60.0
TOUCHED_KEPT = 4096
UNMARKING = b"somebody looks whether this name is still needed\n"

log = logging.getLogger(__name__)


def content_key(digest: Digest) -> Key:
    return Key.trusted(f"blobs/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}")


class Content:
    def __init__(self, storage: Storage, clock: Callable[[], float] = time.time) -> None:
        self._storage = storage
        self._documents = Documents(storage)
        self._abilities = storage.abilities
        self._clock = clock
        self.backend = storage.backend
        self.changing = storage.abilities.revisions.changing
        """`with changing(name):` around all that writes or deletes pointers of a name."""
        self.revision = storage.abilities.revisions.revision
        """`revision(name)`, taken before a name's pointers are read, tells later whether what was worked out from them holds. None: keep nothing."""
        self._touched: dict[Digest, float] = {}
        """Seconds of the monotonic clock."""
        self._remembered: BoundedMemory[Digest, bytes] = BoundedMemory(REMEMBERED_BYTES)
        storage.abilities.prepare(f"blobs/sha256/{prefix:02x}" for prefix in range(256))

    def now(self) -> float:
        """For the dates in pointers."""
        spoil("the time was asked")
        return self._clock()

    # Bytes.

    def keep(self, upload: Upload, expected: Digest) -> None:
        """Keep a finished upload and end its session. The same bytes twice is no error. To be called within a lease.

        Raises DigestMismatch, after which the session is gone as well: its bytes are of no use.
        """
        actual = upload.digest(expected.algorithm)
        if actual != expected:
            upload.discard()
            raise DigestMismatch(detail={"expected": str(expected), "received": str(actual), "bytes": upload.offset})
        upload.check_current()
        try:
            self._storage.create(content_key(expected), upload.file)
        except AlreadyExists:
            pass
        except Unavailable:
            upload.check_current()  # cancelled in the last moment?
            raise
        upload.discard()

    def keep_bytes(self, data: bytes, digest: Digest) -> None:
        """Keep bytes that the caller has hashed. To be called within a lease."""
        with contextlib.suppress(AlreadyExists):
            self._storage.create(content_key(digest), data)

    def open(self, digest: Digest, start: int = 0, stop: int | None = None) -> Reader:
        """Raises NotFound."""
        return self._storage.open(content_key(digest), start, stop)

    def read(self, digest: Digest) -> bytes:
        """All bytes of small content. Raises NotFound.

        What is named by its digest never changes, so it is read once; whether a name may still lead there is asked of storage each time.
        """
        known = self._remembered.get(digest)
        if known is not None:
            return known
        data = self._storage.whole(content_key(digest))
        if len(data) <= SMALL_BYTES:
            self._remembered.put(digest, data, bytes_of(data))
        return data

    def stat(self, digest: Digest) -> ObjectInfo | None:
        return self._storage.stat(content_key(digest))

    # Leases (storage.Leases has the contract).

    def lease(self, *digests: Digest) -> AbstractContextManager[None]:
        """Content that is there, or is kept inside, stays until the block ends. Look whether it is there inside, and write the pointer inside."""
        return self._abilities.leases.hold(*map(content_key, digests))

    def touch(self, *digests: Digest) -> None:
        """Before somebody who may push is told that content is there: he will link to it later, and sends nothing until then.

        What this process touched less than TOUCH_SECONDS ago has most of its grace before it, and a HEAD is a hot read.
        """
        with aside() as recording:
            now, stale = time.monotonic(), self._untouched(digests)
            if stale:
                self._abilities.leases.touch(*map(content_key, stale))
                if len(self._touched) >= TOUCHED_KEPT:
                    self._touched = {}
                self._touched.update(dict.fromkeys(stale, now))
        if recording is not None:
            recording.questions.append(lambda now: not self._untouched(digests))

    def _untouched(self, digests: Iterable[Digest]) -> list[Digest]:
        """Not lately."""
        lately = time.monotonic() - TOUCH_SECONDS
        return [digest for digest in digests if self._touched.get(digest, lately) <= lately]

    @contextlib.contextmanager
    def together(self, *digests: Digest) -> Iterator[None]:
        """Keep and point to several things, in order, durable when the block ends: content before what points to it; under a lease on the digests.

        A power cut in the middle may leave a pointer to content that is not there, or half a pointer. Nobody was told of it, readers take it for
        absent, and point() writes it again. So not for pointers that may replace older ones: those come after the block.
        """
        with self._abilities.leases.hold(*map(content_key, digests)), self._abilities.together():
            yield

    # Pointers.

    def point(self, key: Key, pointer: Pointer) -> Pointer:
        """Write a pointer that never changes; the one that is there stays, and is returned."""
        document = pointer.render()
        try:
            self._abilities.create_soon(key, document)
            return pointer
        except AlreadyExists:
            there = self.pointer(key)
        if there is None:  # half of one, after a power cut, or deleted just now
            self._storage.replace(key, document)
            return pointer
        return there

    def create(self, key: Key, pointer: Pointer) -> None:
        """Write a pointer where there is none. Raises AlreadyExists. Within together(), durable when the block ends."""
        self._abilities.create_soon(key, pointer.render())

    def change(self, key: Key, change: Callable[[Pointer | None], Pointer | None]) -> Pointer | None:
        """Make a pointer's next state from the one it has, so that no other writer's change is lost; returns it.

        None stands for no pointer, before and after. As Documents.update(): `change` may be called again, and what it raises ends the change.
        """
        current: list[Pointer | None] = []

        def changed(document: bytes | None) -> bytes | None:
            before = _readable(key, document)
            current[:] = [change(before)]
            if current[0] is None:
                return None
            return document if current[0] == before else current[0].render()

        self._documents.update(key, changed)
        return current[0]

    def repoint(self, key: Key, pointer: Pointer) -> None:
        """Write a pointer that may change, such as a tag."""
        self._storage.replace(key, pointer.render())

    def pointer(self, key: Key) -> Pointer | None:
        """None when there is none, or none that can be read."""
        try:
            document = self._storage.whole(key)
        except NotFound:
            return None
        return _readable(key, document)

    def pointers(self, folder: str, after: str = "", limit: int | None = None) -> Iterator[tuple[str, Pointer]]:
        """Names directly or further below a folder and the pointers there, in the order of the names' bytes; `limit` counts what can be read."""
        found = ((name, self.pointer(Key.trusted(f"{folder}/{name}"))) for name in self.names(folder, after))
        readable = ((name, pointer) for name, pointer in found if pointer is not None)
        if limit is None:
            yield from readable
        else:
            for _, entry in zip(range(limit), readable, strict=False):
                yield entry

    def mark(self, key: Key) -> None:
        """Note that a name exists: an object that leads nowhere, and is empty. To be called when what is of the name can be found."""
        while True:
            with contextlib.suppress(AlreadyExists):
                self._storage.create(key, b"")
            info = self._storage.stat(key)
            if info is None:  # taken back just now
                continue
            if not info.size:
                return
            with contextlib.suppress(Changed):
                self._storage.swap(key, b"", info.version)

    def unmark(self, key: Key, is_needed: Callable[[], bool]) -> None:
        """Take such a note back, unless `is_needed` finds something of the name.

        Who takes it back says so first, by another version, and looks afterwards; who marks has put there what is to be found, and then undoes that
        version. So one of them sees the other, and a server that is killed in between leaves the note.
        """
        info = self._storage.stat(key)
        if info is None or is_needed():
            return
        with contextlib.suppress(Changed):  # somebody needs it, or took it back himself
            version = info.version if info.size else self._storage.swap(key, UNMARKING, info.version)
            if is_needed():
                self._storage.swap(key, b"", version)
            else:
                self._storage.delete(key, version)

    def exists(self, key: Key) -> bool:
        return self._storage.stat(key) is not None

    def version(self, key: Key) -> str | None:
        info = self._storage.stat(key)
        return info.version if info else None

    def remove(self, key: Key, expected: str | None = None) -> None:
        """`expected`: only the pointer of that version; quiet when it is another one by now."""
        with contextlib.suppress(Changed):
            self._storage.delete(key, expected)

    def list(self, folder: str, after: str = "", limit: int | None = None, delimiter: Literal["", "/"] = "") -> Iterator[Entry]:
        """One page of what is below a folder of pointers, as Storage.list: whole keys, with sizes and versions. `after`: a name below the folder."""
        prefix = folder + "/"
        return self._storage.list(prefix, prefix + after if after else "", limit, delimiter)

    def names(self, folder: str, after: str = "", limit: int | None = None) -> Iterator[str]:
        """Names directly or further below a folder of pointers, in the order of their bytes, without the folder's own part."""
        start = len(folder) + 1
        for entry in self.list(folder, after, limit):
            yield entry.key[start:]

    # What nobody needs.

    def sweep(self, needed: Callable[[], Iterable[Digest]]) -> int:
        """Delete content that `needed` does not name; returns how many. `needed` gathers what pointers lead to. What is leased stays."""
        leases = self._abilities.leases
        mark = leases.mark()
        used = {content_key(digest) for digest in needed()}
        unused = (Key.trusted(entry.key) for entry in self._storage.list("blobs/") if entry.key not in used)
        return sum(leases.reap(key, mark, lambda: False) for key in unused)


def _readable(key: Key, document: bytes | None) -> Pointer | None:
    """Half a document, as a power cut leaves it, counts as none."""
    if not document:
        return None
    try:
        return Pointer.parse(document)
    except ValueError as problem:
        log.error("%s cannot be read and counts as absent: %s", key, problem)
        return None
