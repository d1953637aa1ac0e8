"""How a broker's core stops."""

import json
import math

import pytest
from brokers import GmdpBroker, SecuredBroker, SlowBroker, failed, running
from cores import MDP02

from gmdp.core.broker.services import BURST
from gmdp.protocol.extension import Status


def test_nothing_is_due_before_a_drain():
    broker = GmdpBroker()
    assert broker.core.deadline() == math.inf
    broker.advance(100)
    assert not broker.core.draining
    assert not broker.core.drained


def test_L7_what_waits_for_a_slow_reader_counts_as_undrained():
    broker = SlowBroker()
    broker.register(b"W", 1, 2)
    broker.socket.room[b"client"] = 0
    for number in (1, 2):
        broker.call(b"client", number)
    broker.core.drain(broker.now + 60)
    broker.answer_all(b"W")
    broker.advance(30)
    assert not broker.core.drained
    broker.socket.room[b"client"] = 1
    broker.advance(1)
    assert not broker.core.drained
    broker.socket.room[b"client"] = 1
    broker.advance(1)
    assert broker.core.drained
    assert [status for _, status, _, _ in broker.answered(b"client")] == [Status.OK, Status.OK]
    assert broker.core.deadline() == math.inf


def test_L7_a_drain_ends_when_its_time_is_up():
    broker = SlowBroker()
    broker.register(b"W", 1)
    broker.socket.room[b"client"] = 0
    broker.call(b"client", 1)
    broker.core.drain(broker.now + 5)
    broker.answer_all(b"W")
    broker.advance(4.9)
    assert not broker.core.drained
    broker.advance(0.2)
    assert broker.core.drained


def test_L7_a_second_drain_may_shorten_the_time_and_not_lengthen_it():
    broker = GmdpBroker()
    broker.register(b"W", 1)
    broker.call(b"client", 1)
    broker.core.drain(broker.now + 5)
    broker.core.drain(broker.now + 9)
    broker.core.drain(broker.now + 3)
    broker.advance(2.9)
    assert (broker.core.drained, broker.core.assigned) == (False, 1)
    broker.advance(0.2)
    assert (broker.core.drained, broker.core.assigned) == (True, 0)
    assert broker.answered(b"client") == [failed(1, Status.SHUTTING_DOWN, 1)]


PROBE = [b"MDPC02", b"\x01", b"mmi.gmdp", b'{"extension":2,"features":["not-run","leaving"]}']


def is_leaving(frames):
    """True if this is the broker's offer, and says that the broker drains; False if it does not say so."""
    assert frames[:4] == [b"MDPC02", b"\x03", b"mmi.gmdp", b"200"]
    return json.loads(frames[4]).get("leaving", False)


def probed(broker, *peers):
    for peer in peers:
        broker.feed(peer, PROBE)
        assert [is_leaving(frames) for frames in broker.take(peer)] == [False]


def test_L8_each_gmdp_peer_is_told_once_and_idle_workers_are_let_go():
    broker = GmdpBroker()
    broker.core.connections = 3
    probed(broker, b"W", b"client")
    broker.register(b"W", 1, 2)
    broker.register(b"V", 1)
    broker.call(b"old", 1)
    broker.call(b"old", 2)
    requests = broker.requests(b"W")
    assert set(requests) == {1, 2}
    broker.core.drain(broker.now + 60)
    broker.advance(0.1)
    told, *rest = broker.take(b"W")
    assert is_leaving(told)
    assert [frames[-1] for frames in rest] == []  # both of its sessions are busy
    assert [frames[-1] for frames in broker.take(b"V")] == [b"\x06"]
    assert [is_leaving(frames) for frames in broker.take(b"client")] == [True]
    assert broker.take(b"old") == []
    for number, (address, body) in requests.items():
        broker.session(b"W", number, b"\x04", address, b"", *body)
    broker.advance(0.1)
    assert broker.core.worker_count == 0
    assert len(broker.answered(b"old")) == 2


def test_L8_what_no_worker_has_had_is_refused_as_not_run():
    broker = GmdpBroker()
    broker.core.connections = 2
    probed(broker, b"new")
    broker.register(b"W", 1)
    broker.call(b"new", 1)
    ((address, body),) = broker.requests(b"W").values()
    broker.call(b"new", 2)
    broker.call(b"old", 1)
    broker.core.drain(broker.now + 60)
    broker.advance(0.1)
    assert is_leaving(broker.take(b"new")[0])
    broker.call(b"new", 3)
    broker.call(b"old", 2)
    assert broker.answered(b"new") == [failed(3, Status.NOT_RUN)]
    assert broker.answered(b"old") == [failed(2, Status.SHUTTING_DOWN)]
    # The queued request of the client that would not understand it goes on to the worker.
    broker.session(b"W", 1, b"\x04", address, b"", *body)
    ((address, body),) = broker.requests(b"W").values()
    broker.session(b"W", 1, b"\x04", address, b"", *body)
    assert [status for _, status, _, _ in broker.answered(b"old")] == [Status.OK]
    # Requests within half a second are still refused; then the broker ends.
    broker.advance(0.4)
    broker.call(b"new", 4)
    broker.advance(0.4)
    assert not broker.core.drained
    broker.advance(0.2)
    assert broker.core.drained


def test_L8_a_probe_of_a_broker_that_drains_is_told_so():
    broker = GmdpBroker()
    broker.core.drain(broker.now + 60)
    broker.feed(b"client", PROBE)
    assert is_leaving(broker.take(b"client")[0])


def test_L8_what_a_worker_has_had_is_delivered_again_and_not_refused_as_not_run():
    broker = GmdpBroker()
    broker.core.connections = 2
    probed(broker, b"new")
    broker.register(b"W", 1)
    broker.register(b"V", 1)
    broker.call(b"new", 1, b"one")
    broker.call(b"old", 1, b"two")
    broker.feed(b"W", MDP02.disconnect)
    assert broker.core.queued == 1
    ((address, body),) = broker.requests(b"V").values()
    broker.core.drain(broker.now + 60)
    broker.advance(0.1)
    assert broker.core.queued == 1
    broker.session(b"V", 1, b"\x04", address, b"", *body)
    ((address, body),) = broker.requests(b"V").values()
    assert body == [b"one"]
    broker.session(b"V", 1, b"\x04", address, b"", *body)
    assert is_leaving(broker.take(b"new").pop(0))


@pytest.mark.parametrize("knows", [True, False])
def test_L8_a_worker_that_does_not_know_that_the_broker_leaves_is_let_go_whole(knows):
    """It would register again each session that is let go alone."""
    broker = GmdpBroker()
    if knows:
        probed(broker, b"W")
    broker.register(b"W", 1, 2)
    broker.call(b"c", 1)
    broker.core.drain(broker.now + 60)
    broker.advance(0.1)
    assert broker.core.worker_count == (1 if knows else 2)
    (request,) = running(broker)
    frames = broker.take(b"W")
    address = next(frames[4] for frames in frames if frames[3:4] == [b"\x02"])
    assert [frames[-1] for frames in frames if frames[-1] == b"\x06"] == [b"\x06"] * knows
    broker.session(b"W", 1, b"\x04", address, b"", *request.body)
    broker.advance(0.1)
    assert broker.core.worker_count == 0
    assert broker.take(b"W") == [MDP02.disconnect]


# G19: whatever there is much of is done in bursts


def passes(broker, done):
    """Let the broker pass until `done()`; returns the most messages that one pass decided, and the passes."""
    most = count = 0
    while not done():
        assert broker.core.deadline() <= broker.now
        broker.core.tick(broker.now)
        most = max(most, len(broker.decided()))
        count += 1
    return most, count


@pytest.mark.parametrize("strict", [True, False])
def test_G19_idle_workers_are_let_go_in_bursts(strict):
    broker = GmdpBroker()
    broker.register(b"X", 1, service=b"slow")
    broker.call(b"c", 1, service=b"slow")
    count = BURST + 10
    for number in range(count if strict else 1):
        peer = b"W%d" % number
        if strict:
            broker.ready(MDP02, peer)
        else:
            probed(broker, peer)
            broker.register(peer, *range(1, 100))
    for number in range(BURST):
        broker.ready(MDP02, b"V%d" % number, service=b"slow")
    broker.core.drain(broker.now + 60)
    most, count = passes(broker, lambda: broker.core.worker_count == 1)
    assert most <= BURST
    assert count >= 4
    passes(broker, lambda: broker.core.deadline() > broker.now)
    # What let go was all there is: no search follows.
    assert broker.core.deadline() > broker.now + 1


def test_G19_peers_are_told_and_requests_refused_in_bursts():
    broker = GmdpBroker(max_in_flight=10_000)
    broker.core.connections = 1
    broker.register(b"W", 1)
    broker.call(b"old", 1)
    for number in range(BURST + 1):
        probed(broker, b"c%d" % number)
    for number in range(BURST):
        broker.call(b"old", 2 + number)
    for number in range(BURST):
        broker.call(b"c%d" % number, 1)
    broker.core.drain(broker.now + 60)
    most, count = passes(broker, lambda: broker.core.queued == BURST)
    assert most <= BURST
    assert count >= 4
    assert broker.core.counters.ended == {"stopped": BURST}


def test_G19_the_queues_of_clients_that_are_gone_are_dropped_in_bursts():
    broker = GmdpBroker(max_in_flight=10_000)
    for peer in (b"one", b"two", b"three"):
        for number in range(BURST):
            broker.call(peer, number)
    for peer in (b"one", b"two"):
        broker.core.on_connection_closed(peer, broker.now)
    assert broker.core.queued >= 2 * BURST
    # A worker that becomes idle gets none of them, and a retry takes its own away.
    broker.call(b"back", BURST - 1, nonce=b"two".ljust(16, b"."), attempt=2)
    _, count = passes(broker, lambda: broker.core.deadline() > broker.now)
    assert count in (2, 3)
    assert broker.core.queued == BURST + 1
    assert broker.core.counters.ended == {"client_gone": 2 * BURST - 1}


def test_X8_a_client_with_nothing_queued_closes_at_once_among_any_number_of_services():
    broker = GmdpBroker(max_in_flight=10_000)
    for number in range(BURST):
        broker.call(b"other", number, service=b"%d" % number)
    broker.register(b"W", 1)
    broker.call(b"running", 1)
    broker.core.on_connection_closed(b"running", broker.now)
    assert broker.core.deadline() > broker.now
    assert broker.core.queued == BURST


@pytest.mark.parametrize("secured", [False, True])
def test_X8_no_service_is_looked_at_after_the_last_request_of_a_client_that_is_gone(secured):
    """Also where others of its user wait in the same place in the queue, and where a retry has moved its requests."""
    broker = GmdpBroker(max_in_flight=10_000)
    user = "alice" if secured else ""
    for peer in (b"first", b"gone"):
        broker.call(peer, 1, service=b"0", user=user, nonce=peer.ljust(16, b"."))
    broker.call(b"first", 2, service=b"0", user=user, nonce=b"first".ljust(16, b"."))
    broker.call(b"gone", 2, service=b"0", user=user, nonce=b"first".ljust(16, b"."), attempt=2)
    for number in range(BURST):
        broker.call(b"other", number, service=b"%d" % number)
    broker.core.on_connection_closed(b"gone", broker.now)
    assert broker.core.deadline() > broker.now
    assert broker.core.counters.ended == {"client_gone": 2}
    broker.core.on_connection_closed(b"first", broker.now)
    assert broker.core.deadline() > broker.now
    assert broker.core.counters.ended == {"client_gone": 3}


def test_G19_waiting_clients_are_looked_at_in_bursts():
    broker = GmdpBroker()
    for number in range(BURST + 1):
        probed(broker, b"c%d" % number)
        broker.call(b"c%d" % number, 1)
    broker.now += 2.5
    assert passes(broker, lambda: broker.core.deadline() > broker.now) == (0, 2)
    broker.now += 2.5
    assert passes(broker, lambda: broker.core.deadline() > broker.now) == (BURST, 2)
    # Those that have gone between two bursts are told nothing.
    broker.now += 2.5
    broker.core.tick(broker.now)
    broker.decided()
    broker.core.on_connection_closed(b"c%d" % BURST, broker.now)
    assert passes(broker, lambda: broker.core.deadline() > broker.now) == (0, 1)


def test_L9_the_queue_of_a_client_that_is_gone_is_dropped_and_runs_nowhere():
    """At the second heartbeat interval the client gets the broker's offer again, which cannot be sent."""
    broker = SlowBroker()
    broker.feed(b"client", PROBE)
    broker.register(b"W", *range(1, 5))
    for number in range(50):
        broker.call(b"client", number)
    broker.call(b"other", 1)
    assert broker.core.queued == 47
    broker.socket.room[b"client"] = "gone"
    broker.advance(5.1)
    assert (broker.core.queued, broker.core.counters.ended["client_gone"]) == (1, 46)


def test_L9_one_answer_that_cannot_be_sent_is_enough():
    broker = SlowBroker()
    broker.register(b"W", 1)
    for number in range(5):
        broker.call(b"client", number)
    broker.socket.room[b"client"] = "gone"
    broker.answer_all(b"W")
    assert broker.core.queued == 0


@pytest.mark.parametrize("place", ["queued", "assigned"])
def test_L9_a_request_whose_retry_came_on_another_connection_goes_with_that_connection(place):
    broker = GmdpBroker(liveness=1000)
    if place == "assigned":
        broker.register(b"W", 1)
    for peer in (b"first", b"second"):
        broker.call(peer, 1, nonce=b"n" * 16, attempt=1 + (peer == b"second"), time_left=80_000.0)
    broker.call(b"other", 1, nonce=b"o" * 16)
    if place == "assigned":
        broker.feed(b"W", MDP02.disconnect)
    assert broker.core.queued == 2
    broker.core.on_connection_closed(b"first", broker.now)
    assert broker.core.queued == 2
    broker.core.on_connection_closed(b"second", broker.now)
    assert (broker.core.queued, broker.core.counters.ended) == (1, {"client_gone": 1})


@pytest.mark.parametrize(("features", "offers"), [(b'["leaving"]', 1), (b'["reasons","not-run"]', 0)])
def test_a_client_that_has_not_named_the_feature_gets_no_second_offer(features, offers):
    broker = GmdpBroker()
    broker.feed(b"client", [b"MDPC02", b"\x01", b"mmi.gmdp", b'{"extension":2,"features":%b}' % features])
    broker.take(b"client")
    broker.call(b"client", 1)
    broker.advance(5.0)
    assert [is_leaving(frames) for frames in broker.take(b"client")] == [False] * offers


def test_L9_another_connection_of_the_same_user_keeps_its_queue():
    broker = SecuredBroker(policy=None)
    for peer in (b"one", b"two"):
        for number in (1, 2):
            broker.call(peer, "ann", number)
    broker.core.on_connection_closed(b"one", broker.now)
    assert (broker.core.queued, broker.core.counters.ended) == (2, {"client_gone": 2})
