"""Which services there are, and how queued requests end."""

import pytest
from brokers import GmdpBroker, SecuredBroker, counters, failed
from cores import MDP02, ManualBroker

from gmdp.core.broker.decisions import DeadLetter
from gmdp.core.broker.reasons import DropReason
from gmdp.core.broker.services import BURST
from gmdp.protocol import extension
from gmdp.protocol.extension import CANCEL, FAIL_WITHOUT_WORKER, Status


def test_C1_a_request_without_a_worker_waits_expires_and_is_counted():
    broker = ManualBroker(request_ttl=30.0)
    broker.ask(MDP02, b"client", b"x")
    broker.advance(29.9)
    assert broker.core.queued == 1
    broker.advance(0.2)
    assert counters(broker).ended == {"expired": 1}
    assert (broker.core.queued, broker.core.held_bytes, broker.core.services) == (0, 0, {})


def test_the_time_to_live_is_of_the_queue_and_all_waits_together():
    broker = ManualBroker(request_ttl=30.0, busy_timeout=1e6)
    broker.ask(MDP02, b"client", b"x")
    broker.advance(20.0)
    broker.ready(MDP02, b"W1")
    broker.advance(1000.0)  # work is not counted
    broker.feed(b"W1", MDP02.disconnect)
    broker.advance(9.9)
    assert broker.core.queued == 1
    broker.advance(0.2)
    assert counters(broker).ended == {"expired": 1}


def test_B5_services_are_bounded_and_idle_ones_collected():
    broker = ManualBroker(max_services=10, request_ttl=5.0)
    for number in range(1000):
        broker.ask(MDP02, b"client", b"x", service=b"name %d" % number)
    assert len(broker.core.services) == 10
    assert counters(broker).drops == {"services_full": 990}
    broker.ready(MDP02, b"W1", service=b"real")  # pushes out the oldest that has no worker
    assert b"real" in broker.core.services
    assert b"name 0" not in broker.core.services
    assert counters(broker).ended == {"evicted": 1}
    broker.feed(b"W1", MDP02.disconnect)
    broker.advance(6.0)
    assert broker.core.services == {}
    assert counters(broker).ended == {"evicted": 1, "expired": 9}


def test_a_service_with_a_worker_is_not_pushed_out():
    broker = ManualBroker(max_services=1)
    broker.ready(MDP02, b"W1", service=b"one")
    broker.ready(MDP02, b"W2", service=b"two")
    assert broker.take(b"W2") == [MDP02.disconnect]
    assert set(broker.core.services) == {b"one"}
    assert counters(broker).drops == {"services_full": 1}


def test_a_request_whose_caller_s_time_is_up_leaves_the_queue_in_silence():
    broker = GmdpBroker()
    broker.call(b"client", 1, time_left=2.0)
    broker.call(b"client", 2, time_left=60.0)
    broker.advance(2.0)
    assert broker.core.counters.ended == {"deadline": 1}
    assert broker.core.queued == 1
    # The other waits as long as the broker allows; its caller hears of that.
    broker.advance(28.0)
    assert broker.answered(b"client") == [failed(2, Status.EXPIRED)]
    assert broker.core.counters.ended == {"deadline": 1, "expired": 1}


@pytest.mark.parametrize("reason", ["attempts", "worker_lost", "expired"])
def test_a_dead_letter_is_a_request_over_which_workers_were_lost(reason):
    broker = GmdpBroker(attempts=1 if reason == "attempts" else 3, request_ttl=5.0)
    broker.register(b"W", 1)
    broker.call(b"client", 1, b"body", b"more", user="alice")
    ((address, _),) = broker.requests(b"W").values()
    if reason == "worker_lost":
        broker.session(b"W", 1, b"\x03", address, b"", b"part")
    broker.advance(1.0)
    broker.feed(b"W", MDP02.disconnect)
    broker.advance(5.0)
    age = 1.0 if reason != "expired" else 6.0
    assert broker.letters() == [DeadLetter(b"echo", [b"body", b"more"], 1, reason, age, "alice")]
    assert broker.core.counters.dead_letters == 1


def test_a_request_that_no_worker_had_is_no_dead_letter():
    broker = GmdpBroker(request_ttl=5.0, max_queue=1)
    for number in (1, 2):
        broker.call(b"client", number)
    broker.call(b"client", 1, flags=CANCEL)
    broker.call(b"client", 3)
    broker.advance(5.0)
    assert broker.core.counters.ended == {"overloaded": 1, "cancelled": 1, "expired": 1}
    assert broker.letters() == []


def test_a_user_may_open_so_many_services():
    """The user may use services that others opened; a forgotten service is not counted."""
    broker = SecuredBroker(policy=None, max_user_services=2, request_ttl=5.0)
    broker.ready(b"w", "one", service=b"a")
    broker.call(b"c", "one", service=b"b")
    broker.call(b"c", "one", 2, service=b"c")
    assert broker.statuses(b"c") == [Status.OVERLOADED]
    broker.ready(b"v", "one", service=b"d")
    assert broker.take(b"v") == [MDP02.disconnect]
    assert broker.drops == {"user_services_full": 2}
    assert [refusal.reason for refusal in broker.refused()] == [DropReason.USER_SERVICES_FULL] * 2
    broker.ready(b"x", "two", service=b"c")
    broker.call(b"c", "one", 3, service=b"c")
    assert len(broker.take(b"x")) == 1
    broker.advance(6.0)
    assert set(broker.core.services) == {b"a", b"c"}
    broker.call(b"c", "one", 4, service=b"e")
    assert b"e" in broker.core.services


# G19: many requests end in bursts


def fill(broker, count, **call):
    """Queue `count` requests of gmdp clients."""
    for number in range(count):
        broker.call(b"c%d" % (number % 7), number, **call)
    broker.take(b"c0")
    assert broker.core.queued == count


def bursts(broker, step):
    """Call `step` until nothing is queued; returns how many requests each call ended."""
    ended = []
    while broker.core.queued:
        before = broker.core.queued
        step()
        ended.append(before - broker.core.queued)
        assert ended[-1], "no progress"
    return ended


def test_G19_many_requests_expire_in_bursts():
    broker = GmdpBroker(request_ttl=5.0)
    fill(broker, 3 * BURST + 1)
    broker.now += 6.0
    ended = bursts(broker, lambda: (broker.core.deadline() <= broker.now) and broker.core.tick(broker.now))
    assert ended == [BURST, BURST, BURST, 1]
    assert counters(broker).ended == {"expired": 3 * BURST + 1}


def test_G19_a_broker_that_stops_ends_its_requests_in_bursts():
    broker = GmdpBroker()
    fill(broker, 2 * BURST + 1)
    broker.core.drain()
    assert bursts(broker, lambda: broker.core.finish(broker.now)) == [BURST, BURST, 1]
    assert broker.core.finish(broker.now)
    assert counters(broker).ended == {"stopped": 2 * BURST + 1}


def test_G19_workers_are_told_of_the_end_in_bursts():
    broker = GmdpBroker(max_workers=10_000)
    for number in range(BURST):
        broker.feed(b"W%d" % number, MDP02.ready(b"echo"))
    broker.core.drain()
    calls = 0
    while not broker.core.finish(broker.now):
        calls += 1
    assert (calls, broker.core.worker_count) == (1, 0)
    assert sum(outgoing.frames[-1] == b"\x06" for outgoing in broker.decided()) == BURST


@pytest.mark.parametrize("comes_back", [False, True])
def test_G19_requests_that_fail_without_a_worker_fail_in_bursts(comes_back):
    broker = GmdpBroker()
    broker.register(b"W", 1)
    broker.call(b"c", 99_999)  # the worker has it
    fill_count = 2 * BURST + 1
    for number in range(fill_count):
        broker.call(b"c%d" % (number % 7), number, flags=FAIL_WITHOUT_WORKER)
    broker.core.feed([b"W", extension.session_frame(1), b"", *MDP02.disconnect], broker.now)
    first = BURST - 1  # the burst has looked at the one that waits, too
    assert counters(broker).ended == {"no_worker": first}
    assert broker.core.deadline() == 0.0
    if comes_back:  # the rest has a worker again, and waits for it
        broker.register(b"W", 2)
        broker.core.tick(broker.now)
        assert counters(broker).ended == {"no_worker": first}
    else:
        broker.core.tick(broker.now)
        broker.core.tick(broker.now)
        assert counters(broker).ended == {"no_worker": fill_count}
    assert broker.core.deadline() > broker.now


@pytest.mark.parametrize("stops", [False, True])
def test_G19_the_requests_of_a_service_that_gives_way_end_in_bursts(stops):
    broker = GmdpBroker(max_services=2)
    count = 2 * BURST + 1
    fill(broker, count, service=b"old")
    broker.call(b"other", 1, service=b"other")
    broker.core.feed([b"W", *MDP02.ready(b"new")], broker.now)
    assert set(broker.core.services) == {b"other", b"new"}
    assert counters(broker).ended == {"evicted": BURST}
    assert broker.core.deadline() == 0.0
    # Its name is free: who takes it has nothing to do with what ends.
    broker.core.feed([b"V", *MDP02.ready(b"old")], broker.now)
    assert set(broker.core.services) == {b"new", b"old"}
    assert broker.core.services[b"old"].statistics(broker.now).queued == 0
    broker.core.on_connection_closed(b"c0", broker.now)
    if stops:
        broker.core.drain()
        while broker.core.queued:
            before = broker.core.queued
            broker.core.finish(broker.now)
            assert 0 < before - broker.core.queued <= BURST
    else:
        assert max(bursts(broker, lambda: broker.core.tick(broker.now))) <= BURST
        broker.core.tick(broker.now)
        assert counters(broker).ended.get("stopped", 0) == 0
        assert broker.core.deadline() > broker.now
    assert sum(counters(broker).ended.values()) == count + 1
    assert (broker.core.queued, broker.core.held_bytes) == (0, 0)
