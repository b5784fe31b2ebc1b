"""Documents: small things that several workers and nodes read and change, below a prefix of their own in storage."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

from noraflask.errors import Changed, NotFound, Unavailable
from noraflask.keys import Key
from noraflask.storage import ObjectInfo, Storage

FIRST_PAUSE_SECONDS = 0.002
LONGEST_PAUSE_SECONDS = 0.2
UPDATE_SECONDS = 20.0


class Documents:
    """What storage keeps below a prefix, `_auth/` for one."""

    def __init__(self, storage: Storage, prefix: str = "") -> None:
        self._storage = storage
        self._prefix = prefix

    def below(self, folder: str) -> Documents:
        return Documents(self._storage, f"{self._prefix}{folder}/")

    def read(self, name: str) -> bytes | None:
        try:
            return self._storage.whole(self._key(name))
        except NotFound:
            return None

    def stat(self, name: str) -> ObjectInfo | None:
        return self._storage.stat(self._key(name))

    def create(self, name: str, data: bytes) -> None:
        """Raises AlreadyExists."""
        self._storage.create(self._key(name), data)

    def replace(self, name: str, data: bytes) -> None:
        """Whatever it was. Where the new one is made from the old one, this would lose another writer's change: that is for update()."""
        self._storage.replace(self._key(name), data)

    def delete(self, name: str) -> None:
        self._storage.delete(self._key(name))

    def names(self) -> Iterator[str]:
        """All below the prefix, without it; nested ones with their slashes."""
        for entry in self._storage.list(self._prefix):
            yield entry.key[len(self._prefix) :]

    def update(self, name: str, change: Callable[[bytes | None], bytes | None]) -> bytes | None:
        """Change a document so that no other writer's change is lost; returns what it is now.

        `change` makes the new one from the old one; None stands for no document, before and after. It is called again when somebody else was faster,
        so it does nothing else; what it raises ends the update. Raises Unavailable when others were faster for UPDATE_SECONDS.
        """
        key, pause, deadline = self._key(name), FIRST_PAUSE_SECONDS, time.monotonic() + UPDATE_SECONDS
        while True:
            old, version = self._read(key)
            new = change(old)
            if new == old:
                return old
            try:
                if new is not None:
                    self._storage.swap(key, new, version)
                else:
                    self._storage.delete(key, version)
                return new
            except Changed:
                if time.monotonic() > deadline:
                    raise Unavailable("too many change the same thing at this moment; try again later") from None
            time.sleep(random.uniform(0, pause))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _read(self, key: Key) -> tuple[bytes | None, str | None]:
        """Bytes and their version."""
        try:
            reader = self._storage.open(key)
        except NotFound:
            return None, None
        try:
            return reader.read(), reader.version
        finally:
            reader.close()

    def _key(self, name: str) -> Key:
        return Key(self._prefix + name)
