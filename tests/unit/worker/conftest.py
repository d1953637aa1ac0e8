"""Fixtures of the worker's tests."""

import pytest

from gmdp import AsyncClient


@pytest.fixture
def client(broker):
    with AsyncClient(broker.endpoint) as client:
        yield client
