"""A client in virtual time, and its calls."""

import math

import pytest

from gmdp.core.outcomes import Outcome
from gmdp.testing import Simulation


@pytest.fixture
def simulation():
    simulation = Simulation()
    simulation.broker()
    simulation.worker("echo", lambda request: request.body, takes=(1.0, 1.0))
    return simulation


def test_a_call_tells_how_it_ended(simulation):
    client = simulation.client()
    call = client.request(b"echo", [b"a", b"b"])
    assert (call.outcome, call.ended, repr(call)) == (None, math.inf, "<call 1 of 'echo': None>")
    assert list(client.open_calls) == client.calls == [call]
    with pytest.raises(AssertionError, match="has no reply"):
        _ = call.reply
    simulation.run(5)
    assert (call.outcome, call.reply) == ("reply", [b"a", b"b"])
    assert call.began < call.ended < 5
    assert not client.open_calls


def test_a_call_may_time_out_be_cancelled_or_end_with_its_client(simulation):
    client = simulation.client()
    late, cancelled, closed = (client.request("echo", b"x", timeout=seconds) for seconds in (0.5, 9.0, 9.0))
    simulation.after(0.2, client.cancel, cancelled)
    simulation.run(1)
    client.close()
    simulation.run(1)
    assert (late.outcome, cancelled.outcome) == (Outcome.TIMEOUT, Outcome.CANCELLED)
    assert closed.outcome is Outcome.CLOSED


def test_the_calls_of_a_client_that_dies_have_crashed(simulation):
    client = simulation.client()
    call = client.request("echo", b"x")
    simulation.run(0.5)
    client.crash()
    client.crash()
    simulation.run(10)
    assert (call.outcome, client.dead, client.open_calls) == ("crashed", True, {})
