from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from noraflask.services.auth.users import hash_password
from tests.protocol.curated import Curated
from tests.protocol.oci import Registry


@pytest.fixture(scope="session", autouse=True)
def _one_hash_of_a_password() -> Iterator[None]:
    """Hundreds of tests have the same few users, and even the cheapest hash takes a millisecond."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.conftest.hash_password", cache(hash_password))
        yield


@pytest.fixture
def registry(client: FlaskClient) -> Registry:
    return Registry(client)


@pytest.fixture
def curated(tmp_path: Path, app_with: Callable[..., Flask]) -> Curated:
    return Curated(tmp_path, app_with).fill()
