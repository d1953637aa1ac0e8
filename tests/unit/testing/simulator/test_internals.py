"""The private parts of the cores that the simulator reads."""

import math

import pytest

from gmdp.core.outcomes import Outcome
from gmdp.protocol.extension import INITIAL_CREDIT
from gmdp.testing import Simulation
from gmdp.testing.simulator import internals


@pytest.fixture
def simulation():
    """A broker, a worker with two sessions, and a client that waits for an answer."""
    simulation = Simulation()
    simulation.broker()
    simulation.worker("it", lambda request: b"done", takes=(5.0, 5.0), concurrency=2)
    simulation.client(max_connections=3, stream_window=INITIAL_CREDIT + 1_000, stream_bytes=2_000).request("it", b"x")
    simulation.run(2)
    return simulation


def test_a_broker_s_connections_clients_and_calls(simulation):
    core = simulation.brokers[0].core
    (connection,) = internals.worker_connections(core).values()
    assert len(connection.workers) == 2
    assert len(internals.clients(core)) == len(internals.joinable_calls(core)) == 1
    assert internals.timers(core) > 0
    simulation.run(5)
    assert not internals.clients(core)
    simulation.workers[0].drain()
    simulation.run(1)
    assert not internals.worker_connections(core)
    assert internals.timers(core) == 0


def test_a_broker_s_backlogs_and_how_much_of_one_is_sent_at_a_time(simulation):
    core = simulation.brokers[0].core
    batch = core.backlogs.batch
    internals.limit_batch(core, batch + 1)
    assert core.backlogs.batch == batch
    internals.limit_batch(core, 2)
    assert core.backlogs.batch == 2
    assert internals.backlogs(core) == 0


def test_silence_while_a_core_did_not_run_counts_for_nothing(simulation):
    nodes = simulation.brokers[0], simulation.workers[0]
    assert [internals.gap_end(node.core) > simulation.now for node in nodes] == [False, False]
    for node in nodes:
        node.block(20.0)
    simulation.run(20.1)
    assert [internals.gap_end(node.core) > simulation.now for node in nodes] == [True, True]


def test_a_worker_s_connections_and_its_expiry(simulation):
    core = simulation.workers[0].core
    (connection,) = internals.usable_connections(core)
    assert connection in {session.connection for session in core.sessions}
    assert internals.expiry(core) == 7.5


def test_a_client_s_waiting_calls_and_bounds(simulation):
    client = simulation.clients[0]
    assert internals.stream_bounds(client.core) == (1_000, 2_000)
    assert internals.max_sockets(client.core) == 3
    assert not internals.waiting_calls(client.core)
    simulation.brokers[0].kill()
    simulation.run(1)
    call = client.request("it", b"y", timeout=1.0)
    simulation.run(0.5)
    assert call.call in internals.waiting_calls(client.core)
    simulation.run(1)
    assert call.outcome is Outcome.TIMEOUT
    assert call.ended < math.inf
    assert call.call not in internals.waiting_calls(client.core)
