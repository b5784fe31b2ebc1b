"""The backends that the contract is asked of."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from noraflask.storage import Storage
from noraflask.storage.disk import DiskStorage
from noraflask.storage.memory import MemoryStorage


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """On a disk, also where `./scripts/test quick` keeps the folders of other tests in memory."""
    with tempfile.TemporaryDirectory(prefix="noraflask-contract-", dir=os.environ.get("TMPDIR", "/tmp")) as folder:
        yield Path(folder)


@pytest.fixture(params=["disk", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "memory":
        yield MemoryStorage()
        return
    found = DiskStorage(tmp_path / "storage")
    yield found
    found.close()
