"""The backends that the contract is asked of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from noraflask.storage import Storage
from noraflask.storage.disk import DiskStorage
from noraflask.storage.memory import MemoryStorage


@pytest.fixture(params=["disk", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "memory":
        yield MemoryStorage()
        return
    found = DiskStorage(tmp_path / "storage")
    yield found
    found.close()
