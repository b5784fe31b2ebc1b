"""Content: bytes kept once, under their digest, for all formats; small documents that point to them.

    blobs/<algorithm>/<first two hex digits>/<hex>     verified bytes
    <repository>/…                                     a format's pointers; each format's `protocol.py` draws its own tree

A pointer is written after its content. So content without a pointer may exist (a crash came between); a pointer without content counts as absent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

from noraflask.digest import Digest
from noraflask.errors import AlreadyExists, DigestMismatch, NotFound, Unavailable
from noraflask.keys import Key
from noraflask.services.staging import Upload
from noraflask.storage import ObjectInfo, Reader, Storage


def content_key(digest: Digest) -> Key:
    return Key.trusted(f"blobs/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}")


REMEMBERED_BYTES = 4 * 1024 * 1024
"""Memory for small content that was read before, in each process."""
SMALL_BYTES = 16 * 1024
ENTRY_BYTES = 400  # what remembering costs beside the bytes


class Content:
    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.backend = storage.backend
        self._remembered: dict[Digest, bytes] = {}
        self._remembered_bytes = 0
        prepare = getattr(storage, "prepare", None)
        if prepare:
            prepare(f"blobs/sha256/{prefix:02x}" for prefix in range(256))

    # Bytes.

    def keep(self, upload: Upload, expected: Digest) -> None:
        """Keep a finished upload and end its session. The same bytes twice is no error.

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
        """Keep bytes that the caller has hashed."""
        try:
            self._storage.create(content_key(digest), data)
        except AlreadyExists:
            pass

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
        data = self._whole(content_key(digest))
        if len(data) <= SMALL_BYTES:
            if self._remembered_bytes + len(data) > REMEMBERED_BYTES:
                self._remembered, self._remembered_bytes = {}, 0
            self._remembered[digest] = data
            self._remembered_bytes += len(data) + ENTRY_BYTES
        return data

    def stat(self, digest: Digest) -> ObjectInfo | None:
        return self._storage.stat(content_key(digest))

    def together(self) -> AbstractContextManager[None]:
        """Keep and point to several things, in order, durable when the block ends: content before what points to it.

        A power cut in the middle may leave a pointer to content that is not there, on file systems that do not keep the order of names. Nobody was
        told of it, and readers take it for absent. So not for pointers that may replace older ones: those come after the block.
        """
        return getattr(self._storage, "together", contextlib.nullcontext)()

    def _whole(self, key: Key) -> bytes:
        whole = getattr(self._storage, "whole", None)
        if whole:
            return bytes(whole(key))
        reader = self._storage.open(key)
        try:
            return reader.read()
        finally:
            reader.close()

    # Pointers.

    def point(self, key: Key, document: bytes = b"") -> None:
        """Write a pointer that never changes; writing it again is no error."""
        try:
            self._storage.create(key, document)
        except AlreadyExists:
            pass

    def repoint(self, key: Key, document: bytes) -> None:
        """Write a pointer that may change, such as a tag."""
        self._storage.replace(key, document)

    def document(self, key: Key) -> bytes | None:
        """What a pointer holds; None when there is none."""
        try:
            return self._whole(key)
        except NotFound:
            return None

    def exists(self, key: Key) -> bool:
        return self._storage.stat(key) is not None

    def remove(self, key: Key) -> None:
        self._storage.delete(key)

    def stamp(self, *folders: str) -> object | None:
        """Something that differs when names directly below these folders were added, removed or written anew. None: that cannot be told."""
        stamp = getattr(self._storage, "stamp", None)
        return stamp(*folders) if stamp else None

    def modified(self, key: Key) -> float | None:
        """When a pointer was written, seconds since the epoch."""
        found = self._storage.stat(key)
        return found.modified if found else None

    def names(self, folder: str, after: str = "") -> Iterator[str]:
        """Names directly or further below a folder of pointers, in the order of their bytes, without the folder's own part."""
        prefix = folder + "/"
        for key in self._storage.list(prefix, prefix + after if after else ""):
            yield key[len(prefix) :]
