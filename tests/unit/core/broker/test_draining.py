"""How a broker's core stops."""

import math

from brokers import GmdpBroker, SlowBroker, failed

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
