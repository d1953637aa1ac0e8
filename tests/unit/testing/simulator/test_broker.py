"""A broker in virtual time: its starts, its ends, and what it reports."""

from gmdp.core.outcomes import Outcome
from gmdp.testing import Crash, Simulation


def echo(request):
    return request.body


def die(request):
    raise Crash


def test_a_killed_broker_starts_again_with_a_new_core():
    simulation = Simulation()
    broker = simulation.broker()
    simulation.worker("echo", echo)
    client = simulation.client()
    simulation.run(5)
    core, generation = broker.core, broker.generation
    broker.kill()
    broker.kill()
    assert (broker.up, broker.peers, broker.deadline()) == (False, {}, float("inf"))
    broker.stop(1.0)
    broker.start()
    broker.start()
    assert broker.core is not core
    assert broker.generation == generation + 2
    call = client.request("echo", b"x")
    simulation.run(20)
    assert call.reply == [b"x"]


def test_a_broker_that_stops_waits_for_its_workers():
    simulation = Simulation()
    broker = simulation.broker()
    simulation.worker("echo", echo, takes=(3.0, 3.0))
    call = simulation.client().request("echo", b"x")
    simulation.run(1)
    broker.stop(10.0)
    broker.stop(1.0)
    simulation.run(1)
    assert broker.up
    simulation.run(4)
    assert not broker.up
    assert call.reply == [b"x"]


def test_a_broker_that_stops_waits_no_longer_than_it_may():
    simulation = Simulation()
    broker = simulation.broker()
    simulation.worker("echo", echo, takes=(30.0, 30.0))
    simulation.client().request("echo", b"x")
    simulation.run(1)
    broker.stop(2.0)
    simulation.run(2.5)
    assert not broker.up


def test_dead_letters_are_kept():
    simulation = Simulation()
    broker = simulation.broker(attempts=1)
    simulation.worker("it", die)
    call = simulation.client().request("it", b"deadly")
    simulation.run(20)
    assert call.outcome is Outcome.WORKER_LOST
    assert [letter.body for letter in broker.letters] == [[b"deadly"]]


def test_traffic_is_reported():
    simulation = Simulation()
    broker = simulation.broker()
    words, check = set(), broker.on_traffic

    def on_traffic(node, word, frames):
        words.add(word)
        check(node, word, frames)

    broker.on_traffic = on_traffic
    simulation.worker("it", echo, takes=(1.0, 1.0))
    client = simulation.client()
    client.request("it", b"x")
    simulation.run(0.5)
    client.crash()
    simulation.run(5)
    assert words == {"received", "sent", "unsent"}
    broker.on_traffic = None
    simulation.client().request("it", b"x")
    simulation.run(5)


def test_a_connection_that_is_lost_though_its_message_waits_is_reported():
    simulation = Simulation()
    broker = simulation.broker()
    simulation.worker("it", echo)
    simulation.run(1)
    lost = []
    broker.on_traffic = lambda node, word, frames: lost.append(word) if word == "lost" else None
    (worker,) = broker.core.workers
    broker.inbox.append((broker.on_message, ([worker.head[0]],)))
    broker.core.on_wake(1000.0)
    broker.core.on_caught_up(1000.0)
    broker.tick(2000.0)
    assert lost == ["lost"]


def test_a_client_that_does_not_read_has_a_backlog_in_small_batches():
    simulation = Simulation()
    broker = simulation.broker(hwm=2)
    simulation.worker("it", echo, concurrency=20)
    client = simulation.client()
    simulation.run(1)
    calls = [client.request("it", b"%d" % number) for number in range(10)]
    simulation.run(0.05)
    client.block(3.0)
    simulation.run(1)
    simulation.run(20)
    assert [call.reply for call in calls] == [[b"%d" % number] for number in range(10)]
    assert broker.core.held_bytes == 0
