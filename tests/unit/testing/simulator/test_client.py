"""A client in virtual time, and its calls."""

import math

import pytest

from gmdp.core.outcomes import Outcome
from gmdp.core.peer.calls import Ended
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


#: More than a stream may send before its reader grants more.
PARTS = [b"%d" % number * 20_000 for number in range(10)]


def stream(request):
    yield from PARTS


def test_a_reader_that_takes_its_time_holds_up_its_stream(simulation):
    simulation.worker("stream", stream, concurrency=2)
    client = simulation.client(stream_window=0)
    slow = client.request("stream", b"x", timeout=60.0, reads=(2.0, 2.0))
    fast = client.request("stream", b"x", timeout=60.0)
    simulation.run(5)
    assert (len(fast.parts), fast.outcome) == (len(PARTS) + 1, "reply")
    assert slow.unread
    assert len(slow.parts) < len(PARTS)
    simulation.run(30)
    assert slow.reply == PARTS
    assert 10 < slow.ended - slow.began < 2.0 * len(PARTS)


def test_a_reader_that_stops_ends_its_stream():
    simulation = Simulation()
    simulation.broker(stream_stall_timeout=5.0)
    worker = simulation.worker("stream", stream)
    call = simulation.client(stream_window=0).request("stream", b"x", timeout=60.0, reads=(0.0, math.inf))
    simulation.run(4)
    assert (call.outcome, len(worker.running)) == (None, 1)
    simulation.run(4)
    assert (call.outcome, len(worker.running)) == (Outcome.STALLED, 0)
    assert len(call.unread) == len(call.parts) < len(PARTS)


def test_a_call_that_ends_twice_is_an_error_of_the_core(simulation):
    client = simulation.client()
    call = client.request("echo", b"x")
    simulation.run(5)
    assert call.outcome == "reply"
    with pytest.raises(AssertionError, match="<call 1 of 'echo': reply> had ended before"):
        client.on_event(Ended(call.call, Outcome.CANCELLED, ""), simulation.now)
