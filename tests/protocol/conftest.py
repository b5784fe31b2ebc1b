from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
from flask.testing import FlaskClient

from noraflask.services.auth.users import hash_password
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
