"""Clients that read too slowly."""

import pytest
from brokers import SecuredBroker, SlowBroker, busy_worker, counters, failed
from cores import MDP02, ManualBroker

from gmdp.core.broker.access import Access, Rules
from gmdp.core.broker.backlogs import BATCH, FIRST_RETRY, LAST_RETRY
from gmdp.protocol.extension import Status


def test_an_answer_with_a_hole_in_it_goes_no_further():
    broker = ManualBroker()
    address, _ = busy_worker(broker)
    broker.core.feed([b"W1", *MDP02.partial(address, b"1")], broker.now)
    (outgoing,) = broker.decided()
    broker.core.send_failed(outgoing, full=False, now=broker.now)
    broker.feed(b"W1", MDP02.partial(address, b"2"))
    broker.feed(b"W1", MDP02.final(address, b"3"))
    assert broker.take(b"client") == []
    assert counters(broker).drops == {"client_gone": 1, "abandoned": 2}
    assert counters(broker).replies == 1


def test_the_rest_of_an_answer_is_not_sent_after_a_part_was_not():
    """Also where all of it was decided before the first was sent."""
    broker = ManualBroker()
    address, _ = busy_worker(broker)
    for frames in (MDP02.partial(address, b"1"), MDP02.partial(address, b"2"), MDP02.final(address, b"3")):
        broker.core.feed([b"W1", *frames], broker.now)
    first, *rest = broker.decided()
    assert not broker.core.backlogs.hold_back(first, broker.now)
    broker.core.send_failed(first, full=False, now=broker.now)
    assert [broker.core.backlogs.hold_back(outgoing, broker.now) for outgoing in rest] == [True, True]
    assert counters(broker).drops == {"client_gone": 1, "abandoned": 2}


def test_B3_answers_wait_in_order_until_the_client_reads():
    broker = SlowBroker()
    broker.register(b"W", *range(1, 11))
    broker.socket.room[b"slow"] = 2
    for number in range(10):
        broker.call(b"slow", number, b"%d" % number)
    broker.answer_all(b"W")
    assert broker.socket.bodies(b"slow") == [b"0", b"1"]
    now = broker.core.statistics(broker.now)
    assert (now.backlogs, now.slow_clients, now.replies) == (1, 1, 10)
    assert now.queued_bytes > 0
    # Others are served meanwhile.
    broker.call(b"other", 1, b"quick")
    broker.answer_all(b"W")
    assert broker.answered(b"other") == [(1, Status.OK, 1, [b"quick"])]
    # It is tried again after a while, then again after twice as long, and so on.
    tries = []
    broker.socket.room[b"slow"] = 0
    for _ in range(12):
        before = broker.now
        deadline = broker.core.deadline()
        broker.advance(deadline - broker.now)
        tries.append(broker.now - before)
    assert tries[0] == pytest.approx(FIRST_RETRY)
    assert max(tries) == pytest.approx(LAST_RETRY)
    broker.socket.room[b"slow"] = 4
    broker.advance(2 * LAST_RETRY)
    assert broker.socket.bodies(b"slow") == [b"2", b"3", b"4", b"5"]
    # What is decided meanwhile does not overtake.
    broker.call(b"slow", 99, b"late")
    broker.answer_all(b"W")
    del broker.socket.room[b"slow"]
    broker.advance(2 * LAST_RETRY)
    assert broker.socket.bodies(b"slow") == [b"6", b"7", b"8", b"9", b"late"]
    broker.advance(LAST_RETRY)
    now = broker.core.statistics(broker.now)
    assert (now.backlogs, now.queued_bytes) == (0, 0)
    assert not broker.core._accounts.clients


def test_B3_past_its_bytes_a_slow_client_s_calls_end_as_overloaded():
    broker = SlowBroker(max_queue_bytes=46_000)
    broker.register(b"W", *range(1, 21))
    broker.socket.room[b"slow"] = 0
    for number in range(20):
        broker.call(b"slow", number, b"?")
    broker.answer_all(b"W", b"x" * 7_000)
    assert broker.core.counters.drops["client_full"] == 18
    # News of a call's end takes less room than its request took: every caller hears.
    assert broker.core.held_bytes < 46_000 / 2
    del broker.socket.room[b"slow"]
    broker.advance(1.0)
    answers = broker.answered(b"slow")
    assert sorted(status for _, status, _, _ in answers) == [Status.OK] * 2 + [Status.OVERLOADED] * 18
    assert len({number for number, *_ in answers}) == 20
    assert broker.core.held_bytes == 0


def test_B3_statuses_for_a_slow_client_stay_within_the_bound_too():
    """It may hold more for news than for answers, but nothing that is not free."""
    broker = SlowBroker(max_queue_bytes=10_000)
    broker.register(b"W", 1)
    broker.socket.room[b"slow"] = 0
    broker.call(b"slow", 1, b"?")
    broker.ask(MDP02, b"one", b"x" * 3_498, service=b"nobody")
    broker.ask(MDP02, b"two", b"x" * 1_249, service=b"nobody")
    broker.answer_all(b"W", b"x" * 3_000)
    assert broker.core.counters.drops == {"client_full": 1}
    assert broker.core.held_bytes <= 10_000


def test_B3_an_answer_that_lost_a_part_ends_there():
    broker = SlowBroker(max_queue_bytes=10_000)
    broker.register(b"W", 1)
    broker.socket.room[b"slow"] = 0
    broker.call(b"slow", 1, b"?")
    broker.answer_all(b"W", b"1" * 2000, b"2" * 9000, b"3", b"end")
    del broker.socket.room[b"slow"]
    broker.advance(1.0)
    assert broker.answered(b"slow") == [failed(1, Status.OVERLOADED, 1)]
    assert broker.core.counters.drops == {"client_full": 1, "abandoned": 3}


def test_B3_the_backlog_of_a_client_that_is_gone_is_dropped():
    broker = SlowBroker()
    broker.register(b"W", 1, 2, 3)
    broker.socket.room[b"slow"] = 0
    for number in range(3):
        broker.call(b"slow", number)
    broker.answer_all(b"W")
    assert broker.core.held_bytes > 0
    broker.socket.room[b"slow"] = "gone"
    broker.advance(1.0)
    now = broker.core.statistics(broker.now)
    assert (now.backlogs, now.queued_bytes, now.drops) == (0, 0, {"client_gone": 3})


def test_B3_abandoned_answers_are_dropped_from_the_backlog():
    broker = SlowBroker()
    broker.register(b"W", 1, 2, 3)
    broker.socket.room[b"slow"] = 0
    broker.call(b"slow", 1, time_left=1.0)
    broker.call(b"slow", 2, time_left=60.0)
    broker.answer_all(b"W")
    broker.advance(2.0)
    broker.call(b"slow", 3, time_left=60.0)
    del broker.socket.room[b"slow"]
    broker.advance(1.0)
    assert [number for number, *_ in broker.answered(b"slow")] == [2]
    assert broker.core.counters.drops == {"late": 1}


def test_B3_a_late_answer_in_a_backlog_ends_its_call_at_the_deadline():
    """The rest of a streamed answer is dropped; once its worker is lost, the request ended at its deadline."""
    broker = SlowBroker()
    broker.register(b"W", 1)
    broker.socket.room[b"slow"] = 0
    broker.call(b"slow", 1, time_left=1.0)
    ((address, _),) = broker.requests(b"W").values()
    broker.session(b"W", 1, b"\x03", address, b"", b"part")
    broker.advance(2.0)
    assert broker.core.counters.drops == {"late": 1}
    broker.feed(b"W", MDP02.disconnect)
    assert broker.core.counters.ended == {"deadline": 1}


def test_S8_a_backlog_that_another_user_voids_ends_its_call_as_gone():
    """Another user speaks under the routing id; once the worker is lost, the request's client is gone."""
    broker = SlowBroker(access=Access(Rules([{"user": "*", "serve": "*", "call": "*"}]), 1000.0))
    broker.register(b"W", 1)
    broker.socket.room[b"slow"] = 0
    broker.call(b"slow", 1, user="one")
    ((address, _),) = broker.requests(b"W").values()
    broker.session(b"W", 1, b"\x03", address, b"", b"part")
    broker.call(b"slow", 2, user="two")
    assert broker.core.counters.drops == {"other_user": 1}
    broker.feed(b"W", MDP02.disconnect)
    assert broker.core.counters.ended == {"client_gone": 1}


def test_B3_a_long_backlog_is_sent_in_batches():
    """However much waits, a pass sends no more than a batch of it."""
    broker = SlowBroker(max_in_flight=10_000)
    broker.register(b"W", 1)
    broker.socket.room[b"slow"] = 0
    for number in range(5 * BATCH):
        broker.call(b"slow", number, b"%d" % number)
        broker.answer_all(b"W")
    del broker.socket.room[b"slow"]
    sizes = []
    while broker.core.statistics(broker.now).backlogs:
        broker.advance(broker.core.deadline() - broker.now)
        sizes.append(len(broker.socket.bodies(b"slow")))
    assert max(sizes) == BATCH
    assert sum(sizes) == 5 * BATCH


def test_S8_a_backlog_is_not_read_by_another_user():
    broker = SecuredBroker(Rules([{"user": "*", "serve": "*", "call": "*"}]))
    broker.ready(b"w", "worker")
    broker.ask(b"c", "client", b"x")
    ((*_, token, _, _),) = broker.take(b"w")
    broker.core.feed([b"w", *MDP02.final(token, b"answer")], broker.now, "worker")
    (outgoing,) = broker.decided()
    broker.core.send_failed(outgoing, True, broker.now)
    assert broker.core.statistics(broker.now).backlogs == 1
    broker.feed(b"c", MDP02.client_request(b"mmi.gmdp", b""), "thief")
    assert [frames[2] for frames in broker.take(b"c")] == [b"mmi.gmdp"]
    assert (broker.core.statistics(broker.now).backlogs, broker.core.held_bytes) == (0, 0)
    broker.advance(1.0)
    assert broker.take(b"c") == []


def test_a_revoked_users_backlog_is_dropped():
    broker = SecuredBroker(policy=None)
    broker.ready(b"w", "worker")
    broker.call(b"c", "leaver", 1)
    token = broker.take(b"w")[0][2]
    broker.core.feed([b"w", *MDP02.final(token, b"answer")], broker.now, "worker")
    outgoing = broker.decided()[-1]
    broker.core.send_failed(outgoing, True, broker.now)
    broker.core.reconsider(broker.now, {"leaver"})
    broker.advance(1.0)
    assert broker.take(b"c") == []
    assert (broker.core.held_bytes, broker.core._accounts.clients) == (0, {})


def test_X5_clients_that_do_not_read_cost_an_idle_broker_next_to_nothing():
    """Each costs a try of one message now and then, and all are tried in one pass."""
    clients, answers = 45, 150
    broker = SlowBroker()
    for number in range(clients):
        client = b"slow%d" % number
        broker.socket.room[client] = 0
        for at in range(answers):
            broker.ask(MDP02, client, b"%d" % at, service=b"mmi.nothing")
        broker.advance(0.001)
    broker.advance(2.0)
    assert broker.core.statistics(broker.now).backlogs == clients
    handled, times = [], []
    core, send_failed, hold_back = broker.core, broker.core.send_failed, broker.core.backlogs.hold_back

    def failed(outgoing, full, now):
        times.append(now)
        send_failed(outgoing, full, now)

    def asked(outgoing, now):
        handled.append(outgoing)
        return hold_back(outgoing, now)

    core.send_failed, core.backlogs.hold_back = failed, asked
    broker.advance(1.0)
    assert len(times) == len(handled) <= 9 * clients
    assert len(set(times)) <= 9


def test_X5_a_client_that_reads_again_gets_more_at_each_try():
    broker = SlowBroker()
    broker.socket.room[b"slow"] = 0
    for at in range(500):
        broker.ask(MDP02, b"slow", b"%d" % at, service=b"mmi.nothing")
    broker.advance(2.0)
    del broker.socket.room[b"slow"]
    broker.advance(LAST_RETRY + 12 * FIRST_RETRY)
    assert len(broker.socket.bodies(b"slow")) == 500
