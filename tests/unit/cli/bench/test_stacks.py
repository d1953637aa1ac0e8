"""gmdp's own client, as it is measured."""

import pytest

from gmdp import Broker, Worker
from gmdp.cli.bench.load import Point
from gmdp.cli.bench.stacks import call_gmdp, echo

pytestmark = pytest.mark.once


def test_the_calls_of_the_client_are_echoed_and_counted():
    with Broker("tcp://127.0.0.1:*") as broker, Worker(broker.endpoint, "it", echo):
        measured = call_gmdp(Point("gmdp", "0.2", 5, 2, 0.2, 0.0, 10.0), broker.endpoint, "it")
    assert measured.requests > 0
    assert measured.errors == {}
