"""Small documents in storage that belong to the access system, below a prefix of their own."""

from __future__ import annotations

from collections.abc import Iterator

from noraflask.errors import NotFound
from noraflask.keys import Key
from noraflask.storage import ObjectInfo, Storage


class Documents:
    """What storage keeps below a prefix, `_auth/` for one; the storage's atomic verbs are what several workers and nodes agree by."""

    def __init__(self, storage: Storage, prefix: str = "") -> None:
        self._storage = storage
        self._prefix = prefix

    def below(self, folder: str) -> Documents:
        return Documents(self._storage, f"{self._prefix}{folder}/")

    def read(self, name: str) -> bytes | None:
        try:
            reader = self._storage.open(self._key(name))
        except NotFound:
            return None
        try:
            return reader.read()
        finally:
            reader.close()

    def stat(self, name: str) -> ObjectInfo | None:
        return self._storage.stat(self._key(name))

    def create(self, name: str, data: bytes) -> None:
        """Raises AlreadyExists."""
        self._storage.create(self._key(name), data)

    def replace(self, name: str, data: bytes) -> None:
        self._storage.replace(self._key(name), data)

    def delete(self, name: str) -> None:
        self._storage.delete(self._key(name))

    def names(self) -> Iterator[str]:
        """All below the prefix, without it; nested ones with their slashes."""
        for key in self._storage.list(self._prefix):
            yield key[len(self._prefix) :]

    def _key(self, name: str) -> Key:
        return Key(self._prefix + name)
