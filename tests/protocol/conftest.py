from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from tests.protocol.oci import Registry


@pytest.fixture
def registry(client: FlaskClient) -> Registry:
    return Registry(client)
