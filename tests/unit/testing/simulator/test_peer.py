"""Connections of clients and workers in virtual time."""

from gmdp.testing import Simulation


def test_a_lost_wire_is_followed_by_another_one():
    simulation = Simulation()
    simulation.broker()
    client = simulation.client()
    client.request("mmi.service", b"x")
    simulation.run(1)
    (wire,) = client.wires
    wire.cut()
    call = client.request("mmi.service", b"x", retries=3)
    simulation.run(10)
    assert call.reply == [b"404"]
    assert wire not in client.wires


def test_a_wire_that_was_closed_meanwhile_does_not_connect():
    simulation = Simulation()
    simulation.broker()
    client = simulation.client()
    client.request("mmi.service", b"x")
    (wire,) = client.wires
    client.block(1.0)
    simulation.run(0.5)
    wire.cut()
    simulation.run(20)
    assert client.calls[0].outcome is not None


def test_traffic_is_reported():
    simulation = Simulation()
    simulation.broker()
    client, words = simulation.client(), []
    client.on_traffic = lambda word, wire, frames: words.append(word)
    client.request("mmi.service", b"x")
    simulation.run(1)
    assert words[0] == "sent"
    assert "received" in words
    assert {wire.node for wire in client.wires} == {client}


def test_a_peer_that_dies_cuts_its_wires_and_forgets_its_messages():
    simulation = Simulation()
    broker = simulation.broker()
    worker = simulation.worker("it", lambda request: request.body)
    simulation.run(1)
    assert broker.core.worker_count == 1
    worker.block(10.0)
    worker.post(list)
    worker.crash()
    worker.crash()
    simulation.run(1)
    assert (worker.dead, worker.inbox, broker.peers) == (True, [], {})
    worker.run()
    simulation.run(20)
    assert broker.core.worker_count == 0
