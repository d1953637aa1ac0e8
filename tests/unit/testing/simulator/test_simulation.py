"""The simulator, as its users see it."""

import pytest

from gmdp.core.outcomes import Outcome
from gmdp.protocol.dialects import RFC7
from gmdp.testing import Crash, Simulation, SimulationFailed


def upper(request):
    return request.body[0].upper()


def test_W1_a_worker_that_dies_and_one_that_takes_over():
    """The example of the documentation."""
    simulation = Simulation(seed=7)
    simulation.broker()
    worker = simulation.worker("upper", upper, takes=(0.5, 0.5))
    client = simulation.client()
    call = client.request("upper", b"hello", timeout=10.0)
    simulation.after(0.2, worker.crash)
    simulation.after(1.0, simulation.worker, "upper", upper)
    simulation.run(20)
    assert call.reply == [b"HELLO"]
    assert call.call.deliveries == 2


def test_a_handler_that_kills_its_process_and_what_becomes_of_the_others():
    """W5: among workers with many sessions on one connection, only the deadly request ends."""

    def handler(request):
        if request.body == [b"poison"]:
            raise Crash
        return request.body

    simulation = Simulation(seed=1)
    broker = simulation.broker(attempts=3)
    for number in range(6):
        simulation.after(number, simulation.worker, "it", handler, takes=(1.0, 2.0), concurrency=20)
    client = simulation.client()
    innocent = [client.request("it", b"%d" % number, timeout=60.0) for number in range(30)]
    poison = client.request("it", b"poison", timeout=60.0)
    innocent += [client.request("it", b"%d" % number, timeout=60.0) for number in range(30, 60)]
    simulation.run(60)
    assert poison.outcome is Outcome.WORKER_LOST
    assert poison.call.deliveries == 3
    assert [call.reply for call in innocent] == [[b"%d" % number] for number in range(60)]
    (letter,) = broker.letters
    assert (letter.service, letter.body, letter.attempts, letter.reason) == (b"it", [b"poison"], 3, "attempts")


def test_handlers_may_stream_fail_and_read_the_clock():
    seen = []

    def handler(request):
        seen.append((request.remaining(), request.age, request.metadata))
        if request.body == [b"fail"]:
            raise ValueError("no")
        yield b"one"
        yield b"two"

    simulation = Simulation()
    simulation.broker()
    simulation.worker("it", handler)
    client = simulation.client()
    fine, failed = client.request("it", b"go", timeout=5.0), client.request("it", b"fail", timeout=5.0)
    simulation.run(5)
    assert fine.reply == [b"one", b"two"]
    assert fine.parts == [[b"one"], [b"two"], [b""]]
    assert failed.outcome is Outcome.HANDLER_FAILED
    assert failed.failure == [b"ValueError", b"no"]
    with pytest.raises(AssertionError, match="has no reply"):
        _ = failed.reply
    assert all(4.9 < remaining < 5 and age == 0 for remaining, age, _ in seen)


def test_strict_peers_and_several_brokers():
    simulation = Simulation(seed=3)
    first, second = simulation.broker("one"), simulation.broker("two")
    for endpoint in ("one", "two"):
        simulation.worker("upper", upper, endpoints=[endpoint], strict=True)
    client = simulation.client(version=RFC7, strict=True, endpoints=["one", "two"])
    before = client.request("upper", b"a", timeout=5.0)
    simulation.run(1)
    first.kill()
    after = client.request("upper", b"b", timeout=30.0, retries=3)
    simulation.run(20)
    assert (before.reply, after.reply) == ([b"A"], [b"B"])
    assert client.core.speaks_extension is False
    assert (first.counters.replies, second.counters.replies) == (1, 1)


def test_a_broken_invariant_is_reported_with_the_seed():
    simulation = Simulation(seed=42)
    broker = simulation.broker()
    simulation.worker("upper", upper)
    simulation.client().request("upper", b"x")

    def lose_count():
        broker.core.counters.requests += 1

    simulation.after(0.5, lose_count)
    with pytest.raises(SimulationFailed, match=r"seed 42, after \d+\.\d+ s: requests do not add up"):
        simulation.run(10)
