"""What RFC 7 (MDP/0.1) and RFC 18 (MDP/0.2) say alike of heartbeats; see test_rfc7_and_18.py."""

import itertools

import pytest
from cores import EXPIRY, INTERVAL, MDP01, MDP02, START, ManualBroker, ManualWorker

from gmdp.core.peer import connector as connections

pytestmark = pytest.mark.parametrize("mdp", [MDP01, MDP02], ids=["0.1", "0.2"])


def gaps(times):
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def test_heartbeats_are_valid_at_any_time_after_ready(mdp):
    """RFC 7 and 18, Heartbeating: "HEARTBEAT commands are valid at any time, after a READY command." """
    broker = ManualBroker()
    broker.ready(mdp, b"worker")
    for _ in range(3):
        broker.feed(b"worker", mdp.heartbeat)
    broker.ask(mdp, b"client", b"question")
    address = broker.take(b"worker")[-1][mdp.address_at]
    for _ in range(3):
        broker.feed(b"worker", mdp.heartbeat)
    broker.feed(b"worker", mdp.final(address, b"answer"))
    broker.feed(b"worker", mdp.heartbeat)
    assert broker.answers(mdp, b"client") == [[b"answer"]]
    assert mdp.disconnect not in broker.take(b"worker")
    assert len(broker.workers) == 1


def test_a_worker_takes_heartbeats_at_any_time(mdp):
    """RFC 7 and 18, Heartbeating: "HEARTBEAT commands are valid at any time, after a READY command." """
    session = ManualWorker(mdp)
    session.register()
    session.feed(mdp.heartbeat)
    session.take()
    work = session.work(b"question")
    session.feed(mdp.heartbeat)
    session.feed(mdp.heartbeat)
    session.final(work, b"answer")
    assert [frames for frames in session.sent() if frames != mdp.heartbeat] == [mdp.final(b"client", b"answer")]
    assert session.counters.malformed == 0


def test_a_reply_acts_as_a_heartbeat_of_its_worker(mdp):
    """RFC 7 and 18, Heartbeating: "Any received command except DISCONNECT acts as a heartbeat." """
    broker = ManualBroker()
    broker.ready(mdp, b"worker")
    broker.ask(mdp, b"client", b"question")
    address, _ = broker.assignment(mdp, b"worker")
    broker.advance(EXPIRY - 0.1)
    broker.feed(b"worker", mdp.final(address, b"answer"))
    broker.advance(EXPIRY - 0.1)
    assert len(broker.workers) == 1
    broker.advance(0.1)
    assert broker.workers == {}


def test_a_request_acts_as_a_heartbeat_of_the_broker(mdp):
    """RFC 7 and 18, Heartbeating: "Any received command except DISCONNECT acts as a heartbeat." """
    session = ManualWorker(mdp)
    session.register()
    session.advance(EXPIRY - 0.1)
    session.feed(mdp.request(b"client", b"question"))
    session.advance(0.1)
    assert session.session.registered


def test_the_broker_sends_no_heartbeats_while_it_sends_requests(mdp):
    """RFC 7 and 18, Heartbeating: "Peers SHOULD NOT send HEARTBEAT commands while also sending other commands." """
    broker = ManualBroker()
    broker.ready(mdp, b"worker")
    for _ in range(10):
        broker.ask(mdp, b"client", b"question")
        address, _ = broker.assignment(mdp, b"worker")
        broker.advance(INTERVAL - 0.1)
        broker.feed(b"worker", mdp.final(address, b"answer"))
        # A worker whose heartbeats are due in between gets none in return.
        broker.feed(b"worker", mdp.heartbeat)
    assert broker.take(b"worker") == []


def test_F11_a_worker_sends_heartbeats_at_regular_intervals_whatever_else_it_sends(mdp):
    """RFC 7 and 18, Heartbeating: "Both broker and worker MUST send heartbeats at regular and agreed-upon
    intervals."
    """
    session = ManualWorker(mdp)
    session.register()
    sent = []
    for _ in range(20):
        session.advance(INTERVAL / 2 - 0.01)
        session.feed(mdp.request(b"client", b"question"))
        actions = session.take()
        sent += [action.frames for action in actions if isinstance(action, connections.Send)]
        session.final(actions[-1], b"answer")
        sent += session.sent()
    assert sent.count(mdp.final(b"client", b"answer")) == 20
    assert sent.count(mdp.heartbeat) == 9  # in 9.9 intervals


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_the_broker_sends_heartbeats_at_regular_intervals(mdp, state):
    """RFC 7 and 18, Heartbeating: "Both broker and worker MUST send heartbeats at regular and agreed-upon intervals."
    RFC 7 and 18, MDP/Worker: "an asynchronous heartbeat dialog that operates independently in both directions"
    """
    broker = ManualBroker(busy_timeout=1000.0)
    broker.ready(mdp, b"worker")
    if state == "busy":
        broker.ask(mdp, b"client", b"question")
    for _ in range(4):
        # An idle worker must be heard; what is due then is sent at its own time.
        broker.advance(INTERVAL * 2)
        if state == "idle":
            broker.feed(b"worker", mdp.heartbeat)
    times = [START, *(when for when, peer, frames in broker.log if frames == mdp.heartbeat)]
    assert len(times) > 8
    assert max(gaps(times)) == INTERVAL


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_a_worker_sends_heartbeats_at_regular_intervals(mdp, state):
    """RFC 7 and 18, Heartbeating: "Both broker and worker MUST send heartbeats at regular and agreed-upon intervals."
    RFC 7 and 18, MDP/Worker: "an asynchronous heartbeat dialog that operates independently in both directions"
    """
    session = ManualWorker(mdp)
    session.register()
    if state == "busy":
        session.work(b"question")
    for _ in range(4):
        session.advance(INTERVAL * 2)
        session.feed(mdp.heartbeat)
    times = [when for when, action in session.log if isinstance(action, connections.Send)]
    assert {tuple(frames) for frames in session.sent()} == {tuple(mdp.heartbeat)}
    assert len(times) > 8
    assert max(gaps(times)) == INTERVAL


@pytest.mark.parametrize("liveness", [3, 4, 5])
def test_the_broker_considers_a_silent_worker_disconnected(mdp, liveness):
    """RFC 7 and 18, Heartbeating: "A peer MUST consider the other peer "disconnected" if no heartbeat arrives within
    some multiple of that interval (usually 3-5)."
    RFC 7 and 18, Heartbeating: "If the broker detects that the worked has disconnected, it SHOULD stop sending it
    messages of any type."
    """
    broker = ManualBroker(liveness=liveness)
    broker.ready(mdp, b"worker")
    broker.advance(INTERVAL)
    broker.feed(b"worker", mdp.heartbeat)
    broker.advance(INTERVAL * liveness - 0.1)
    assert len(broker.workers) == 1
    broker.advance(0.1)
    assert broker.workers == {}
    assert set(map(tuple, broker.take(b"worker"))) == {tuple(mdp.heartbeat)}
    broker.ask(mdp, b"client", b"question")
    broker.advance(100)
    broker.core.finish(broker.now)
    broker.collect()
    assert broker.take(b"worker") == []


@pytest.mark.parametrize("heard", [True, False], ids=["heartbeats while busy", "never heard while busy"])
def test_L1_the_broker_considers_a_silent_busy_worker_disconnected(mdp, heard):
    """RFC 7 and 18, Heartbeating: "A peer MUST consider the other peer "disconnected" if no heartbeat arrives within
    some multiple of that interval (usually 3-5)."
    """
    # A worker that cannot send heartbeats while it works has a multiple of its own, from its last message on.
    broker = ManualBroker(busy_timeout=20 * INTERVAL)
    broker.ready(mdp, b"worker")
    broker.ask(mdp, b"client", b"question")
    broker.assignment(mdp, b"worker")
    if heard:
        broker.advance(INTERVAL)
        broker.feed(b"worker", mdp.heartbeat)
    broker.advance(20 * INTERVAL - 0.1)
    assert len(broker.workers) == 1
    broker.advance(0.1)
    assert broker.workers == {}


@pytest.mark.parametrize("liveness", [3, 4, 5])
@pytest.mark.parametrize("state", ["idle", "busy before"])
def test_L3_a_worker_considers_a_silent_broker_disconnected_and_begins_anew(mdp, liveness, state):
    """RFC 7 and 18, Heartbeating: "A peer MUST consider the other peer "disconnected" if no heartbeat arrives within
    some multiple of that interval (usually 3-5)."
    RFC 7 and 18, Heartbeating: "If the worker detects that the broker has disconnected, it SHOULD restart a new
    conversation."
    """
    session = ManualWorker(mdp, endpoints=("tcp://one", "tcp://two"), liveness=liveness)
    session.register()
    session.advance(INTERVAL)
    session.feed(mdp.heartbeat)
    session.take()
    if state == "busy before":
        # Many brokers send heartbeats to idle workers only: silence counts from the answer on.
        work = session.work(b"question")
        session.advance(100 * INTERVAL)
        session.final(work, b"answer")
    session.advance(INTERVAL * liveness - 0.1)
    assert session.session.registered
    session.sent()
    session.advance(0.1)
    assert not session.session.registered
    closed, opened = session.take()
    assert isinstance(closed, connections.Close)
    assert opened.connection.endpoint == "tcp://two"
    session.connected()
    assert session.sent() == [mdp.ready(b"echo")]
