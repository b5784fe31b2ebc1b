"""Looking into a storage from tests."""

from __future__ import annotations

from typing import Any

from noraflask.storage import Storage


def keys_in(storage: Storage, prefix: str = "", after: str = "", **more: Any) -> list[str]:
    return [entry.key for entry in storage.list(prefix, after, **more)]
