"""A worker in virtual time: how it runs its handler."""

import math

import pytest

from gmdp.core.outcomes import Outcome
from gmdp.protocol.dialects import Command
from gmdp.testing import Crash, Simulation


@pytest.fixture
def simulation():
    simulation = Simulation()
    simulation.broker()
    return simulation


def test_an_answer_comes_after_the_time_it_takes(simulation):
    simulation.worker("it", lambda request: b"done", takes=(2.0, 3.0))
    call = simulation.client().request("it", b"x")
    simulation.run(10)
    assert call.reply == [b"done"]
    assert 2.0 < call.ended - call.began < 3.1


@pytest.mark.parametrize("last", [None, b"last"])
def test_a_generator_streams_and_its_parts_take_time(simulation, last):
    def handler(request):
        yield b"one"
        yield [b"two", b"more"]
        return last

    times = []
    simulation.worker("it", handler, every=1.0, takes=(0.5, 0.5))
    client = simulation.client()
    client.on_part = lambda call, part: times.append(simulation.now)
    call = client.request("it", b"x")
    simulation.run(10)
    assert call.parts == [[b"one"], [b"two", b"more"], [b"" if last is None else last]]
    assert times[1] - times[0] == pytest.approx(1.0, abs=0.1)
    assert times[2] - times[1] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("result", [ValueError("no"), 17])
def test_a_handler_that_fails_or_returns_no_body_fails_its_call(simulation, result):
    def handler(request):
        if isinstance(result, Exception):
            raise result
        return result

    simulation.worker("it", handler)
    call = simulation.client().request("it", b"x")
    simulation.run(10)
    assert call.outcome is Outcome.HANDLER_FAILED
    assert call.failure[0] == (b"ValueError" if isinstance(result, Exception) else b"TypeError")


def test_a_crash_takes_the_worker_with_it(simulation):
    def handler(request):
        raise Crash

    begun = []
    worker = simulation.worker("it", handler)
    worker.on_work = lambda node, request: begun.append((node, request.body))
    simulation.client().request("it", b"x")
    simulation.run(10)
    assert worker.dead
    assert begun == [(worker, [b"x"])]
    worker.drain()
    worker.crash()
    assert worker.inbox == []


@pytest.mark.parametrize("enforce", [True, False])
def test_a_caller_that_has_gone_ends_a_handler_that_enforces_its_deadline(simulation, enforce):
    worker = simulation.worker("it", lambda request: b"late", takes=(50.0, 50.0), enforce_deadline=enforce)
    client = simulation.client()
    call = client.request("it", b"x")
    simulation.run(1)
    assert len(worker.running) == 1
    client.cancel(call)
    simulation.run(5)
    assert call.outcome is Outcome.CANCELLED
    assert len(worker.running) == (0 if enforce else 1)


def test_a_worker_that_drains_takes_nothing_new(simulation):
    worker = simulation.worker("it", lambda request: b"done", takes=(1.0, 1.0))
    client = simulation.client()
    first = client.request("it", b"x")
    simulation.run(0.5)
    worker.drain()
    second = client.request("it", b"x", timeout=5.0)
    simulation.run(20)
    assert first.reply == [b"done"]
    assert second.outcome is not None
    assert second.outcome != "reply"


@pytest.mark.parametrize("strict", [True, "silent"])
def test_a_strict_worker_serves(simulation, strict):
    worker = simulation.worker("it", lambda request: b"done", strict=strict)
    call = simulation.client(strict=strict).request("it", b"x")
    simulation.run(30)
    assert call.reply == [b"done"]
    assert worker.dialect is worker.core.dialect


def test_a_handler_that_computes_keeps_its_worker_from_running(simulation):
    """With two sessions, too: two requests are computed one after the other."""
    worker = simulation.worker("it", lambda request: b"done", computes=(3.0, 3.0), concurrency=2)
    client = simulation.client()
    first, second = (client.request("it", b"%d" % number) for number in range(2))
    simulation.run(1)
    assert worker.blocked
    simulation.run(10)
    assert not worker.blocked
    assert (first.reply, second.reply) == ([b"done"], [b"done"])
    first_end, second_end = sorted(call.ended - call.began for call in (first, second))
    assert 3.0 < first_end < 6.0 < second_end


@pytest.mark.parametrize("end", ["cancel", "stall"])
@pytest.mark.parametrize("enforce", [True, False])
def test_a_handler_that_waits_for_its_reader_ends_with_its_call(end, enforce):
    """Without `enforce_deadline`, too."""
    simulation = Simulation()
    simulation.broker(stream_stall_timeout=5.0)

    def handler(request):
        for _ in range(10):
            yield b"x" * 50_000

    worker = simulation.worker("it", handler, enforce_deadline=enforce)
    client = simulation.client(stream_window=0)
    call = client.request("it", b"x", timeout=60.0, reads=(0.0, math.inf))
    simulation.run(3)
    (run,) = worker.running
    assert run.waits
    assert run.request.remaining() > 0
    if end == "cancel":
        client.cancel(call)
    simulation.run(3 if end == "stall" else 0.1)
    assert not worker.running
    assert run.request.remaining() == 0
    assert call.outcome is (Outcome.CANCELLED if end == "cancel" else Outcome.STALLED)


def test_a_handler_that_begins_though_its_request_was_taken_back_is_an_error(simulation):
    """A worker reads what its broker sent before it begins anything."""
    worker = simulation.worker("it", lambda request: b"done", takes=(1.0, 1.0))
    simulation.client().request("it", b"x")
    simulation.run(0.5)
    (run,) = worker.running
    worker.inbox.append((worker.on_message, (None, [b"", b"unrelated"])))
    worker._check_read_first(run.work)
    taken_back = [run.work.session.frame, *worker.core.extended.worker_command(Command.DISCONNECT)]
    worker.inbox.append((worker.on_message, (taken_back,)))
    with pytest.raises(AssertionError, match="a handler begins though its request was taken back"):
        worker._check_read_first(run.work)
