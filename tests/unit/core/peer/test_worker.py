"""Brokers, workers and clients coupled back to back, in virtual time and without a socket (`gmdp.testing`)."""

import itertools
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import DIALECTS, client_reply, worker_command

from gmdp.core.outcomes import Outcome
from gmdp.core.peer.calls import Call, CallState
from gmdp.core.peer.client import ClientCore
from gmdp.core.peer.connector import Close, Open, Phase
from gmdp.core.peer.reasons import CloseReason
from gmdp.core.peer.reconnect import MAX_FACTOR, Reconnect
from gmdp.core.peer.sessions import SessionState
from gmdp.core.peer.statistics import ClientCounters, WorkerCounters
from gmdp.core.peer.worker import WorkerCore
from gmdp.protocol.dialects import RFC7, RFC18, Command
from gmdp.testing import Simulation

STEADY = settings(derandomize=False, deadline=None, database=None)

#: (dialect, does it know gmdp's extension?): every way to speak to a broker.
PEERS = [(dialect, True) for dialect in DIALECTS] + [(RFC7, False), (RFC18, False)]


def echo(request):
    return request.body


class Installation(Simulation):
    """One broker, and workers and clients that speak as they are told to."""

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

    def nobody_was_lost(self):
        assert not self.one.counters.lost_workers
        for worker in self.workers:
            assert worker.counters.reconnects == 0
            assert all(session.registered for session in worker.core.sessions)
        assert self.one.core.worker_count == sum(len(worker.core.sessions) for worker in self.workers)


# Without faults


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
def test_C10_without_faults_everybody_gets_the_own_reply(seed, latency, clients, workers, calls, takes, parts):
    """C4, too: every call is run once, and its reply is whole."""
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
    simulation.nobody_was_lost()


def _ask(client, uid, timeout=60.0, **more):
    return client.request("s", [uid, b"body"], timeout=timeout, **more)


def asked(client, count, **more):
    return [_ask(client, b"uid%d" % number, **more) for number in range(count)]


# With faults: see test_simulation.py


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
    # A gmdp broker was told that nobody waits any more.
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
        # It was given to nobody who would not have it: that was no attempt.
        assert simulation.one.core.queued == 1
        assert simulation.one.counters.redeliveries == 0


# Heartbeats

PAIRS = [(mine, theirs) for mine in (0.5, 1.0, 2.4, 2.5, 2.6, 5.0, 7.5, 60.0) for theirs in (2.5, 0.5, 60.0)]


def watch(hours, mine, theirs, *, latency=0.05, seed=0, peers=PEERS, ask=False, handler=echo, **work):
    """Heartbeats only, for so long."""
    simulation = Installation(seed, latency, heartbeat_interval=theirs, request_ttl=1e6, busy_timeout=1e6)
    for peer in peers:
        simulation.works(handler, peer, heartbeat_interval=mine, **work)
    if ask:
        asked(simulation.asks(), len(peers), timeout=1e6)
    simulation.run(hours * 3600)
    simulation.nobody_was_lost()
    return simulation


def check_heartbeats(simulation, least, most):
    for direction in ("received", "sent"):
        assert least <= simulation.heartbeats[direction] <= most


@pytest.mark.parametrize(("mine", "theirs"), PAIRS)
def test_heartbeats_keep_everybody_and_do_not_storm(mine, theirs):
    """ "Mismatched intervals then do no harm, and nobody answers for ever\""""
    seconds = 600
    simulation = watch(seconds / 3600, mine, theirs)
    least = seconds / max(mine, theirs) / 2 - 2
    check_heartbeats(simulation, least, (seconds / min(mine, theirs) + 2) * len(PEERS))


@settings(STEADY, max_examples=25)
@given(
    mine=st.floats(0.5, 60), theirs=st.floats(0.5, 60), latency=st.sampled_from([0.0, 0.01, 0.1]), seed=st.integers(0)
)
def test_any_intervals_do(mine, theirs, latency, seed):
    minutes = 20
    simulation = watch(minutes / 60, mine, theirs, latency=latency, seed=seed, peers=[(RFC18, True)])
    check_heartbeats(simulation, 0, minutes * 60 / min(mine, theirs) + 2)


def test_heartbeats_keep_everybody_for_hours():
    simulation = watch(3, 2.5, 2.5)
    check_heartbeats(simulation, 0, len(PEERS) * (3 * 3600 / 2.5 + 2))


def test_liveness_is_the_connection_s_however_many_sessions_it_has():
    simulation = watch(0.5, 2.5, 2.5, peers=[(RFC18, False)], concurrency=50)
    check_heartbeats(simulation, 0, 1800 / 2.5 + 2)


@pytest.mark.parametrize(("mine", "theirs"), PAIRS)
def test_heartbeats_keep_those_who_work(mine, theirs):
    """Work of eight minutes, a worker that sends nothing else meanwhile."""
    simulation = watch(1 / 6, mine, theirs, ask=True, takes=(480, 480))
    assert simulation.one.counters.replies == len(PEERS)
    assert simulation.one.counters.redeliveries == 0


@pytest.mark.parametrize("peer", [(RFC18, True), (RFC18, False)])
@pytest.mark.parametrize(("mine", "theirs"), PAIRS)
def test_heartbeats_keep_those_who_stream(mine, theirs, peer):
    """Work that sends a part every 0.2 s for two minutes: neither the worker is silent, nor may the broker be."""
    handler = lambda request: iter([b"part"] * 600)  # noqa: E731
    simulation = watch(0.1, mine, theirs, peers=[peer], ask=True, handler=handler, every=0.2)
    assert simulation.one.counters.replies == 1
    check_heartbeats(simulation, 0, 0.1 * 3600 / min(mine, theirs) + 2)


# Hubs that are blocked


@pytest.mark.parametrize("blocked", [8.0, 20.0, 60.0])
def test_B11_a_blocked_broker_loses_nobody_who_was_heard_meanwhile(blocked):
    """It reads its backlog in bursts, and judges nobody before it has read all."""
    simulation = Installation()
    for peer in PEERS:
        simulation.works(peer=peer, concurrency=5, liveness=40)
    simulation.run(30)
    simulation.one.block(blocked)
    simulation.run(blocked + 30)
    simulation.nobody_was_lost()


@pytest.mark.parametrize("blocked", [8.0, 20.0, 60.0])
def test_B11_a_blocked_worker_does_not_leave_a_broker_that_was_heard_meanwhile(blocked):
    """B11, from the other side."""
    simulation = Installation(liveness=40)
    for peer in PEERS:
        simulation.works(peer=peer, concurrency=5)
    simulation.run(30)
    for worker in simulation.workers:
        worker.block(blocked)
    simulation.run(blocked + 30)
    simulation.nobody_was_lost()


def test_B11_those_who_died_while_the_broker_was_blocked_are_found_out():
    """A gap is no pardon."""
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
def test_B11_a_blocked_broker_loses_nobody_who_waited_for_its_heartbeat(mine):
    """With mismatched intervals: a worker with a long one answers heartbeats, and got none to answer."""
    simulation = Installation()
    for peer in PEERS:
        simulation.works(peer=peer, heartbeat_interval=mine, liveness=100)
    simulation.run(31)
    simulation.one.block(9)
    simulation.run(60)
    simulation.nobody_was_lost()


# Reconnecting


@settings(STEADY, max_examples=100)
@given(
    count=st.integers(1, 4), interval=st.floats(0.01, 10), jitters=st.lists(st.floats(0, 1), min_size=1, max_size=60)
)
def test_reconnecting_doubles_its_delay_up_to_a_bound(count, interval, jitters):
    """W3: each endpoint in turn, a wait after each round, with jitter."""
    endpoints = [f"endpoint {number}" for number in range(count)]
    reconnect = Reconnect(endpoints, interval)
    for failures, jitter in enumerate(jitters, 1):
        assert reconnect.endpoint == endpoints[(failures - 1) % count]
        delay = reconnect.on_lost(0.0, jitter)
        rounds, rest = divmod(failures, count)
        if rest:
            assert delay == 0.0
        else:
            longest = interval * min(2 ** (rounds - 1), MAX_FACTOR)
            assert longest / 2 <= delay <= longest
            assert delay == pytest.approx(longest * (0.5 + jitter / 2))


def test_reconnecting_starts_anew_once_a_broker_has_answered():
    reconnect = Reconnect(["one"], 1.0)
    delays = [reconnect.on_lost(0.0, 1.0) for _ in range(8)]
    assert delays == [1, 2, 4, 8, 16, 16, 16, 16]
    reconnect.on_answer(10.0)
    assert reconnect.on_lost(11.0, 1.0) == 1.0
    assert reconnect.on_lost(11.0, 0.0) == 1.0
    many = Reconnect(["one"], 1.0)
    for _ in range(100_000):
        last = many.on_lost(0.0, 0.0)
    assert last == MAX_FACTOR / 2


@pytest.mark.parametrize("count", [1, 2, 3])
def test_brokers_that_answer_and_drop_at_once_are_not_tried_without_end(count):
    reconnect = Reconnect([f"endpoint {number}" for number in range(count)], 1.0)
    now = waited = 0.0
    for _ in range(6 * count):
        reconnect.on_answer(now)
        reconnect.on_answer(now)
        delay = reconnect.on_lost(now + 0.01, 1.0)
        now += 0.01 + delay
        waited += delay
    assert waited == 1 + 2 + 4 + 8 + 16 + 16


def test_the_endpoint_that_answered_is_used_until_it_is_lost():
    reconnect = Reconnect(["one", "two", "three"], 1.0)
    assert reconnect.on_lost(0.0, 0.5) == 0.0
    assert reconnect.endpoint == "two"
    reconnect.on_answer(0.0)
    assert reconnect.endpoint == "two"
    assert [reconnect.on_lost(9.0, 1.0) for _ in range(3)] == [0.0, 0.0, 1.0]
    assert reconnect.endpoint == "two"


def test_W2_a_refusal_by_one_who_had_answered_is_no_loss():
    """It was thought dead, is told DISCONNECT, and registers again, there."""
    reconnect = Reconnect(["one", "two"], 1.0)
    reconnect.on_answer(0.0)
    assert 0.5 <= reconnect.on_disconnect(0.1, 0.3) <= 1.0
    assert reconnect.endpoint == "one"
    # Refused again before it had answered: the next one may have room.
    reconnect.on_disconnect(0.2, 0.3)
    assert reconnect.endpoint == "two"


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_a_refusal_at_every_try_is_waited_for_longer_and_longer(jitter):
    reconnect = Reconnect(["one"], 1.0)
    delays = [reconnect.on_disconnect(0.0, jitter) for _ in range(8)]
    assert delays == [factor * (0.5 + jitter / 2) for factor in (1, 2, 4, 8, 16, 16, 16, 16)]


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


# Calls, one by one


def one_call(retries=0, dialect=RFC18, **more):
    """A client with one call out: (core, call, connection)."""
    core = a_client(["one"], dialect)
    call = Call(b"s", [b"body"], timeout=10.0, retries=retries, **more)
    core.submit(call, 0.0)
    (opened,) = core.actions
    connected(core, opened.connection, 0.0)
    core.actions.clear()
    return core, call, opened.connection


def a_client(endpoints, dialect=RFC18):
    return ClientCore(dialect, Reconnect(endpoints, 0.5), 3, ClientCounters(), nonce=bytes(16), max_in_flight=1000)


def connected(core, connection, now):
    """It stands, and the probe is answered as a broker of the RFC's does."""
    core.on_connected(connection, now)
    if connection.phase is Phase.PROBING:
        core.feed(connection, client_reply(core.dialect, b"mmi.gmdp", [b"501"]), now, 0.5)


@pytest.mark.parametrize("retries", [0, 1])
def test_what_comes_on_a_lost_connection_is_for_nobody(retries):
    """C3: whatever the owner still reads from it."""
    core, _, connection = one_call(retries)
    core.on_disconnected(connection, CloseReason.CONNECTION_CLOSED, 1.0, 0.5)
    core.events.clear()
    core.feed(connection, client_reply(RFC18, b"s", [b"late"]), 1.0, 0.5)
    assert core.events == []
    assert core.counters.replies == 0
    assert core.statistics().waiting == retries


def test_what_comes_after_close_is_for_nobody():
    """C6"""
    core, _, connection = one_call()
    core.close(1.0)
    assert [event.outcome for event in core.events] == [Outcome.CLOSED]
    core.feed(connection, client_reply(RFC18, b"s", [b"late"]), 1.0, 0.5)
    assert len(core.events) == 1
    assert core.counters.replies == 0


def test_what_comes_after_a_timeout_is_for_nobody():
    """C3"""
    core, _, connection = one_call()
    core.tick(10.0, 0.5)
    assert [event.outcome for event in core.events] == [Outcome.TIMEOUT]
    assert core.actions == [Close(connection, CloseReason.CALL_WITHDRAWN)]
    core.feed(connection, client_reply(RFC18, b"s", [b"late"]), 11.0, 0.5)
    assert len(core.events) == 1


def test_an_answer_that_began_is_not_asked_for_again():
    """W1: once a part went out, the loss is told."""
    core, call, connection = one_call(retries=3)
    core.feed(connection, client_reply(RFC18, b"s", [b"part"], final=False), 1.0, 0.5)
    core.on_disconnected(connection, CloseReason.CONNECTION_CLOSED, 2.0, 0.5)
    assert [event.outcome for event in core.events[1:]] == [Outcome.BROKER_LOST]
    assert call.tries == 1


def test_a_reply_that_names_another_service_is_no_reply():
    core, call, connection = one_call()
    core.feed(connection, client_reply(RFC18, b"other", [b"body"]), 1.0, 0.5)
    assert core.events == []
    assert core.counters.malformed == 1
    assert call.state is CallState.SENT


def test_connections_that_are_lost_together_are_one_loss():
    """B1: the next endpoint is tried, not the one after it, after one delay; without being asked again."""
    core = a_client(["one", "two", "three"])
    calls = [Call(b"s", [b"body"], timeout=60.0, retries=1) for _ in range(3)]
    for call in calls:
        core.submit(call, 0.0)
    connections = []
    while opened := [action.connection for action in core.actions if isinstance(action, Open)]:
        core.actions.clear()
        connections += opened
        for connection in opened:
            connected(core, connection, 0.0)
    assert [connection.endpoint for connection in connections] == ["one"] * 3
    core.actions.clear()
    for connection in connections:
        core.on_disconnected(connection, CloseReason.CONNECTION_CLOSED, 1.0, 0.5)
    assert core.endpoint == "two"
    for endpoint in ("two", "three"):
        (opened,) = [action.connection for action in core.actions if isinstance(action, Open)]
        assert opened.endpoint == endpoint
        core.actions.clear()
        core.on_disconnected(opened, CloseReason.CONNECTION_REFUSED, 1.0, 0.5)
    # Each was tried once: now there is a delay, which ends by itself.
    assert core.actions == [Close(opened, CloseReason.CONNECTION_REFUSED)]
    assert 1.0 < core.deadline() <= 1.5
    core.actions.clear()
    core.tick(core.deadline(), 0.5)
    assert [(type(action), action.connection.endpoint) for action in core.actions] == [(Open, "one")]


def test_a_connection_that_is_never_made_is_given_up():
    """C3: a broker that is silent, not absent; the next endpoint is tried, the call goes on."""
    core = a_client(["one", "two"])
    core.submit(Call(b"s", [b"body"], timeout=60.0), 0.0)
    (first,) = core.actions
    assert core.deadline() == core.connect_timeout
    core.actions.clear()
    core.tick(core.connect_timeout, 0.5)
    assert core.actions[0] == Close(first.connection, CloseReason.NO_CONNECTION_IN_TIME)
    assert (type(core.actions[1]), core.actions[1].connection.endpoint) == (Open, "two")
    # Too late: it is closed.
    core.actions.clear()
    core.on_connected(first.connection, core.connect_timeout)
    assert core.actions == []
    assert core.counters.disconnects == 0


def test_a_stream_of_many_parts_costs_no_memory():
    """A call's timer is armed at every part; what that leaves behind is bounded."""
    core, call, connection = one_call(deadline=60.0)
    for part in range(20_000):
        core.feed(connection, client_reply(RFC18, b"s", [b"part"], final=False), part / 1000, 0.5)
        core.events.clear()
    assert call.parts == 20_000
    assert len(core._timers._heap) <= 5_000


# Sessions, one by one


def a_worker(dialect=RFC18):
    """A worker with one session on a strict connection: (core, session, connection)."""
    core = WorkerCore(
        b"s",
        dialect,
        Reconnect(["one"], 0.5),
        WorkerCounters(),
        concurrency=1,
        heartbeat_interval=1.0,
        liveness=3,
        error_reply=[b"500"],
        now=0.0,
    )
    core.start(0.0)
    (opened,) = core.actions
    connected(core, opened.connection, 0.0)
    core.actions.clear()
    return core, core.sessions[0], opened.connection


@pytest.mark.parametrize("dialect", DIALECTS)
def test_W2_a_reply_of_an_earlier_connection_is_dropped(dialect):
    """The handler runs on, its reply is late; only then is a new connection made."""
    core, session, connection = a_worker(dialect)
    core.feed(connection, dialect.worker(Command.REQUEST, b"address", b"", b"body"), 0.0, 0.5)
    (work,) = core.events
    core.feed(connection, dialect.worker(Command.DISCONNECT), 0.0, 0.5)
    assert session.state is SessionState.DETACHED
    core.tick(100.0, 0.5)
    assert session.state is SessionState.DETACHED
    assert core.deadline() == math.inf
    core.actions.clear()
    assert not core.partial(work, [b"part"], 100.0)
    assert core.actions == []
    assert not core.final(work, [b"late"], None, 100.0)
    assert core.counters.late_replies == 1
    (opened,) = core.actions
    assert isinstance(opened, Open)
    connected(core, opened.connection, 100.0)
    assert session.state is SessionState.IDLE
    count = len(core.actions)
    assert not core.final(work, [b"late again"], None, 101.0)
    assert len(core.actions) == count


@pytest.mark.parametrize("garbage", [[], [b"garbage"], [b"MDPW02", b"\x09"], [b"MDPW02", b"\x02", b"address", b"no"]])
def test_garbage_ends_a_session_s_connection(garbage):
    core, session, connection = a_worker()
    core.feed(connection, garbage, 1.0, 0.5)
    assert core.counters.malformed == 1
    assert session.state is SessionState.DETACHED
    assert core.actions[-1].connection is connection


def test_a_late_answer_to_a_probe_is_no_garbage():
    """A broker that took more than a second to say what it does not speak."""
    core, session, connection = a_worker()
    core.feed(connection, client_reply(RFC18, b"mmi.gmdp", [b"501"]), 1.0, 0.5)
    assert core.counters.malformed == 0
    assert session.state is SessionState.IDLE
