from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """On a disk, also where `./scripts/test quick` keeps the folders of other tests in memory."""
    with tempfile.TemporaryDirectory(prefix="noraflask-contract-", dir=os.environ.get("TMPDIR", "/tmp")) as folder:
        yield Path(folder)
