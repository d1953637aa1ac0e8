"""The cores together: whole installations in virtual time (`gmdp.testing`)."""

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import DIALECTS, worker_command

from gmdp.core.outcomes import Outcome
from gmdp.protocol.dialects import RFC7, RFC18
from gmdp.testing import Simulation

pytestmark = pytest.mark.once

STEADY = settings(derandomize=False, deadline=None, database=None)

#: Every way to speak to a broker: the dialect, and whether it goes without gmdp's extension.
PEERS = [(dialect, True) for dialect in DIALECTS] + [(RFC7, False), (RFC18, False)]


def echo(request):
    return request.body


class Installation(Simulation):
    """One broker, and workers and clients of the dialects that a test names."""

    def __init__(self, seed=0, latency=0.01, **options):
        super().__init__(seed, latency=latency)
        #: (direction) -> HEARTBEATs between broker and workers.
        self.heartbeats = Counter()
        self.one = self.broker(**options)
        self.one.on_traffic = self.on_traffic

    def on_traffic(self, broker, direction, frames):
        self.invariants.on_traffic(broker, direction, frames)
        if any(frames[1:] == worker_command(dialect, "HEARTBEAT") for dialect in DIALECTS):
            self.heartbeats[direction] += 1

    def works(self, handler=echo, peer=(RFC18, False), **options):
        return self.worker("s", handler, version=peer[0], strict=peer[1], **options)

    def asks(self, peer=(RFC18, False), **options):
        return self.client(version=peer[0], strict=peer[1], **options)

    def check_no_peer_was_lost(self):
        assert not self.one.counters.lost_workers
        for worker in self.workers:
            assert worker.counters.reconnects == 0
            assert all(session.registered for session in worker.core.sessions)
        assert self.one.core.worker_count == sum(len(worker.core.sessions) for worker in self.workers)


@settings(STEADY, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    latency=st.sampled_from([0.0001, 0.01, 0.2]),
    clients=st.lists(st.sampled_from(PEERS), min_size=1, max_size=4),
    workers=st.lists(st.tuples(st.sampled_from(PEERS), st.integers(1, 3)), min_size=1, max_size=3),
    calls=st.integers(1, 40),
    takes=st.sampled_from([(0.0, 0.0), (0.001, 0.3), (0.0, 9.0)]),
    parts=st.sampled_from([0, 3]),
)
def test_C10_without_faults_every_caller_gets_its_own_reply(seed, latency, clients, workers, calls, takes, parts):
    """C4, too: every call runs once, and its reply is whole."""
    runs = Counter()

    def handler(request):
        runs[request.body[0]] += 1
        for part in range(parts):
            yield [request.body[0], b"part%d" % part]
        return [request.body[0], b"final"]

    simulation = Installation(seed, latency, request_ttl=10_000.0)
    for peer, sessions in workers:
        simulation.works(handler, peer, concurrency=sessions, takes=takes)
    uids = (b"uid%d" % number for number in itertools.count())
    for peer in clients:
        client = simulation.asks(peer)
        for _ in range(calls):
            simulation.at(simulation.schedule.random.uniform(0, 5), _ask, client, next(uids), 5_000.0)
    simulation.run(10)
    while simulation.now < 5_000 and any(client.open_calls for client in simulation.clients):
        simulation.run(10)
    for client in simulation.clients:
        assert len(client.calls) == calls
        for asked in client.calls:
            uid = asked.call.body[0]
            parts_of_it = [b"part%d" % part for part in range(parts)]
            assert asked.reply == [frame for part in [*parts_of_it, b"final"] for frame in (uid, part)]
    assert set(runs.values()) == {1}
    counters = simulation.one.counters
    assert counters.replies == len(runs) == calls * len(clients)
    assert not counters.drops
    simulation.check_no_peer_was_lost()


def _ask(client, uid, timeout=60.0, **more):
    return client.request("s", [uid, b"body"], timeout=timeout, **more)


def asked(client, count, **more):
    return [_ask(client, b"uid%d" % number, **more) for number in range(count)]


@pytest.mark.parametrize("strict", [False, True])
def test_C6_close_ends_what_waits_and_what_is_out(strict):
    simulation = Installation()
    client = simulation.asks((RFC18, strict), max_connections=3, max_in_flight=5)
    calls = asked(client, 10)
    simulation.run(1)
    now = client.core.statistics()
    assert (now.in_flight, now.waiting, now.sockets) == ((3, 7, 3) if strict else (5, 5, 1))
    client.close()
    assert {call.outcome for call in calls} == {Outcome.CLOSED}
    simulation.run(10)
    assert client.core.statistics().sockets == 0
    # A gmdp broker has heard that no caller waits any more.
    assert simulation.one.core.queued == (3 if strict else 0)


@pytest.mark.parametrize("strict", [False, True])
def test_W15_drained_sessions_answer_and_leave(strict):
    simulation = Installation()
    worker = simulation.works(peer=(RFC18, strict), concurrency=3, takes=(5, 5))
    calls = asked(simulation.asks((RFC7, False)), 4)
    simulation.run(2)
    assert simulation.one.core.assigned == 3
    worker.drain()
    simulation.run(20)
    assert worker.core.closed
    assert worker.core.sockets == 0
    assert simulation.one.counters.lost_workers == {"disconnect": 3}
    assert [call.outcome for call in calls[:3]] == ["reply"] * 3
    if not strict:
        # The fourth request went to no worker that would not take it: that was no attempt.
        assert simulation.one.core.queued == 1
        assert simulation.one.counters.redeliveries == 0


PAIRS = [(mine, theirs) for mine in (0.5, 1.0, 2.4, 2.5, 2.6, 5.0, 7.5, 60.0) for theirs in (2.5, 0.5, 60.0)]


def watch(hours, mine, theirs, *, latency=0.05, seed=0, peers=PEERS, ask=False, handler=echo, **work):
    """Run workers that send heartbeats only, for some hours."""
    simulation = Installation(seed, latency, heartbeat_interval=theirs, request_ttl=1e6, busy_timeout=1e6)
    for peer in peers:
        simulation.works(handler, peer, heartbeat_interval=mine, **work)
    if ask:
        asked(simulation.asks(), len(peers), timeout=1e6)
    simulation.run(hours * 3600)
    simulation.check_no_peer_was_lost()
    return simulation


def check_heartbeats(simulation, least, most):
    for direction in ("received", "sent"):
        assert least <= simulation.heartbeats[direction] <= most


@pytest.mark.parametrize(("mine", "theirs"), PAIRS)
def test_heartbeats_keep_every_peer_and_do_not_storm(mine, theirs):
    """ "Mismatched intervals then do no harm, and nobody answers for ever\""""
    seconds = 600
    simulation = watch(seconds / 3600, mine, theirs)
    least = seconds / max(mine, theirs) / 2 - 2
    check_heartbeats(simulation, least, (seconds / min(mine, theirs) + 2) * len(PEERS))


@settings(STEADY, max_examples=25)
@given(
    mine=st.floats(0.5, 60), theirs=st.floats(0.5, 60), latency=st.sampled_from([0.0, 0.01, 0.1]), seed=st.integers(0)
)
def test_heartbeats_of_any_intervals_do(mine, theirs, latency, seed):
    minutes = 20
    simulation = watch(minutes / 60, mine, theirs, latency=latency, seed=seed, peers=[(RFC18, True)])
    check_heartbeats(simulation, 0, minutes * 60 / min(mine, theirs) + 2)


def test_heartbeats_keep_every_peer_for_hours():
    simulation = watch(3, 2.5, 2.5)
    check_heartbeats(simulation, 0, len(PEERS) * (3 * 3600 / 2.5 + 2))


def test_liveness_is_the_connection_s_however_many_sessions_it_has():
    simulation = watch(0.5, 2.5, 2.5, peers=[(RFC18, False)], concurrency=50)
    check_heartbeats(simulation, 0, 1800 / 2.5 + 2)


@pytest.mark.parametrize(("mine", "theirs"), PAIRS)
def test_heartbeats_keep_busy_workers(mine, theirs):
    """The work takes eight minutes, and the worker sends nothing else meanwhile."""
    simulation = watch(1 / 6, mine, theirs, ask=True, takes=(480, 480))
    assert simulation.one.counters.replies == len(PEERS)
    assert simulation.one.counters.redeliveries == 0


@pytest.mark.parametrize("peer", [(RFC18, True), (RFC18, False)])
@pytest.mark.parametrize(("mine", "theirs"), PAIRS)
def test_heartbeats_keep_streaming_workers(mine, theirs, peer):
    """The worker sends a part every 0.2 s for two minutes; the broker must not be silent meanwhile."""
    handler = lambda request: iter([b"part"] * 600)  # noqa: E731
    simulation = watch(0.1, mine, theirs, peers=[peer], ask=True, handler=handler, every=0.2)
    assert simulation.one.counters.replies == 1
    check_heartbeats(simulation, 0, 0.1 * 3600 / min(mine, theirs) + 2)


@pytest.mark.parametrize("blocked", [8.0, 20.0, 60.0])
def test_B11_a_blocked_broker_keeps_the_workers_that_spoke_meanwhile(blocked):
    """The broker reads its backlog in bursts, and expires no worker before it has read all."""
    simulation = Installation()
    for peer in PEERS:
        simulation.works(peer=peer, concurrency=5, liveness=40)
    simulation.run(30)
    simulation.one.block(blocked)
    simulation.run(blocked + 30)
    simulation.check_no_peer_was_lost()


@pytest.mark.parametrize("blocked", [8.0, 20.0, 60.0])
def test_B11_a_blocked_worker_keeps_the_broker_that_spoke_meanwhile(blocked):
    """B11, from the other side."""
    simulation = Installation(liveness=40)
    for peer in PEERS:
        simulation.works(peer=peer, concurrency=5)
    simulation.run(30)
    for worker in simulation.workers:
        worker.block(blocked)
    simulation.run(blocked + 30)
    simulation.check_no_peer_was_lost()


def test_B11_workers_that_die_while_the_broker_is_blocked_are_found_out():
    """A gap of the broker's own does not excuse dead workers."""
    simulation = Installation()
    for peer in PEERS:
        simulation.works(peer=peer, liveness=40)
    simulation.run(30)
    simulation.one.block(20)
    for wire in list(simulation.one.peers.values())[:2]:
        wire.cut_silently(noticed_after=1000)
    simulation.run(20 + 2 * simulation.one.options.expiry + 1)
    assert simulation.one.counters.lost_workers == {"expired": 2}
    assert simulation.one.core.worker_count == len(PEERS) - 2


@pytest.mark.parametrize("mine", [2.5, 10.0, 60.0])
def test_B11_a_blocked_broker_keeps_the_workers_that_wait_for_its_heartbeat(mine):
    """A worker with a long interval answers heartbeats, and a blocked broker sends none to answer."""
    simulation = Installation()
    for peer in PEERS:
        simulation.works(peer=peer, heartbeat_interval=mine, liveness=100)
    simulation.run(31)
    simulation.one.block(9)
    simulation.run(60)
    simulation.check_no_peer_was_lost()


@pytest.mark.parametrize("peer", [(RFC18, True), (RFC18, False)])
def test_a_worker_that_is_never_let_in_asks_less_and_less_often(peer):
    """Though the broker answers its probe each time."""
    simulation = Installation(max_workers=1)
    simulation.works()
    simulation.run(1)
    simulation.works(peer=peer)
    simulation.run(300)
    refused = simulation.one.counters.drops["workers_full"]
    assert 300 / 8 <= refused <= 300 / 4 + 8
