"""Which worker gets which request, and again after a loss."""

from collections import OrderedDict

import pytest
from brokers import GmdpBroker, counters, every_dialect, failed
from cores import MDP01, MDP02, ManualBroker

from gmdp.core.broker.decisions import DeadLetter
from gmdp.protocol import extension, token
from gmdp.protocol.extension import FAIL_WITHOUT_WORKER, Status


def test_a_request_that_never_reached_a_worker_was_no_attempt():
    """A row of dead workers does not use up a request's attempts."""
    broker = ManualBroker(attempts=1)
    for number in range(5):
        broker.ready(MDP02, b"W%d" % number)
    broker.core.feed([b"client", *MDP02.client_request(b"echo", b"x")], broker.now)
    for _ in range(4):
        (outgoing,) = broker.decided()
        broker.core.send_failed(outgoing, full=True, now=broker.now)
    broker.collect()
    address, body = broker.assignment(MDP02, b"W4")
    assert body == [b"x"]
    assert token.read(address).attempt == 1
    assert counters(broker).lost_workers == {"unreachable": 4}
    assert counters(broker).redeliveries == 0


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_W5_a_request_that_kills_its_workers_ends_after_its_attempts(attempts):
    broker = ManualBroker(attempts=attempts)
    broker.ask(MDP02, b"client", b"poison")
    for number in range(attempts):
        broker.ready(MDP02, b"W%d" % number)
        address, _ = broker.assignment(MDP02, b"W%d" % number)
        assert token.read(address).attempt == number + 1
        broker.feed(b"W%d" % number, MDP02.disconnect)
    broker.ready(MDP02, b"last")
    assert broker.take(b"last") == []
    assert counters(broker).ended == {"attempts": 1}
    (letter,) = [event for event in broker.events if isinstance(event, DeadLetter)]
    assert letter == DeadLetter(b"echo", [b"poison"], attempts, "attempts", 0.0, "")
    assert counters(broker).dead_letters == 1
    assert broker.core.held_bytes == 0


def test_attempts_may_differ_per_service():
    broker = ManualBroker(attempts=3, services={"once.*": {"attempts": 1}})
    for service, ended in ((b"once.only", {"attempts": 1}), (b"echo", {"attempts": 1})):
        broker.ask(MDP02, b"client", b"x", service=service)
        broker.ready(MDP02, b"W" + service, service=service)
        broker.feed(b"W" + service, MDP02.disconnect)
        assert counters(broker).ended == ended
    assert broker.core.queued == 1


@every_dialect
def test_a_streamed_request_is_not_run_again(mdp):
    """Once a PARTIAL has gone out; but what only waits to be joined has not."""
    broker = ManualBroker()
    broker.ready(MDP02, b"W1")
    broker.ask(mdp, b"client", b"x")
    address, _ = broker.assignment(MDP02, b"W1")
    broker.feed(b"W1", MDP02.partial(address, b"part"))
    broker.feed(b"W1", MDP02.disconnect)
    broker.ready(MDP02, b"W2")
    if mdp is MDP01:
        address, _ = broker.assignment(MDP02, b"W2")
        broker.feed(b"W2", MDP02.final(address, b"whole"))
        assert broker.answers(mdp, b"client") == [[b"whole"]]
    else:
        assert broker.take(b"W2") == []
        assert counters(broker).ended == {"worker_lost": 1}


def test_C8_one_clients_flood_does_not_shut_out_another():
    broker = ManualBroker(max_queue=100)
    for number in range(150):
        broker.ask(MDP02, b"flooder", b"%d" % number)
    assert (broker.core.queued, counters(broker).ended) == (100, {"overloaded": 50})
    broker.ask(MDP02, b"modest", b"mine")
    assert (broker.core.queued, counters(broker).ended) == (100, {"overloaded": 51})
    served = []
    broker.ready(MDP02, b"W1")
    for _ in range(3):
        address, body = broker.assignment(MDP02, b"W1")
        served += body
        broker.feed(b"W1", MDP02.final(address, b"answer"))
    assert served == [b"0", b"mine", b"1"]
    # The flooder lost its newest.
    left = [request.body[0] for request in broker.core.services[b"echo"].queue]
    assert left[-1] == b"98"


def test_a_request_whose_time_is_up_is_not_delivered_before_the_tick_either():
    broker = ManualBroker(request_ttl=10.0)
    broker.ask(MDP02, b"client", b"late")
    broker.now += 60.0
    broker.ask(MDP02, b"client", b"fresh")
    broker.ready(MDP02, b"W1")
    assert broker.assignment(MDP02, b"W1")[1] == [b"fresh"]
    assert counters(broker).ended == {"expired": 1}


def test_W5_a_connection_that_is_lost_makes_suspects_and_each_has_at_most_one():
    broker = GmdpBroker(attempts=3)
    for number in range(3):
        broker.call(b"client", number, b"%d" % number)
    broker.register(b"first", 1, 2, 3)
    assert len(broker.requests(b"first")) == 3
    broker.feed(b"first", MDP02.disconnect)
    # Three suspects: a connection of five sessions gets one, and serves others besides.
    broker.register(b"second", 1, 2, 3, 4, 5)
    assert [body for _, body in broker.requests(b"second").values()] == [[b"0"]]
    broker.call(b"client", 7, b"fresh")
    assert [body for _, body in broker.requests(b"second").values()] == [[b"fresh"]]
    broker.register(b"third", 1, 2)
    requests = broker.requests(b"third")
    assert [body for _, body in requests.values()] == [[b"1"]]
    assert token.read(requests[1][0]).attempt == 2
    # When a suspect is answered its connection may have the next, on whichever session is idle.
    broker.session(b"third", 1, b"\x04", requests[1][0], b"", b"done")
    assert [body for _, body in broker.requests(b"third").values()] == [[b"2"]]


def test_W5_when_the_session_that_has_the_suspect_ends_another_may_have_the_next():
    """Not only when it is answered: the connection stands, and an idle session of it waits for nothing else."""
    broker = GmdpBroker(attempts=9)
    for number in range(2):
        broker.call(b"client", number, b"%d" % number)
    broker.register(b"first", 1, 2)
    broker.feed(b"first", MDP02.disconnect)
    broker.take(b"first")
    broker.register(b"second", 1, 2)
    assert [(number, body) for number, (_, body) in broker.requests(b"second").items()] == [(1, [b"0"])]
    broker.session(b"second", 1, b"\x06")
    assert list(broker.requests(b"second")) == [2]


def test_B12_a_lost_connection_looks_once_for_an_idle_worker_that_may_have_a_suspect():
    """However many requests it had: each idle worker's connection has a suspect of another service."""
    broker = GmdpBroker(attempts=3)
    for number in range(3):
        broker.call(b"client", number, service=b"other")
        broker.register(b"first%d" % number, 1, service=b"other")
    for number in range(3):
        broker.feed(b"first%d" % number, MDP02.disconnect)
    for number in range(3):
        broker.register(b"idle%d" % number, 1, service=b"other")
        broker.register(b"idle%d" % number, *range(2, 30))
    service = broker.core.services[b"echo"]
    broker.register(b"lost", *range(1, 50))
    for worker in broker.core._registry.connections[b"lost"].workers.values():
        service.idle.move_to_end(worker, last=False)
    for number in range(49):
        broker.call(b"caller", number, b"%d" % number)
    assert len(broker.requests(b"lost")) == 49

    looks = 0

    class Idle(OrderedDict):
        def __iter__(self):
            nonlocal looks
            for worker in super().__iter__():
                looks += 1
                yield worker

    service.idle = Idle(service.idle)
    assert len(service.idle) == 3 * 28
    looks = 0
    broker.feed(b"lost", MDP02.disconnect)
    assert looks == 3 * 28
    assert [request.body for request in service.queue] == [[b"%d" % number] for number in range(49)]
    # A worker of another connection gets the first of them.
    broker.register(b"next", 1)
    assert [body for _, body in broker.requests(b"next").values()] == [[b"0"]]


def test_W5_an_innocent_request_survives_any_number_of_poisoned_ones_on_its_connection_s_neighbours():
    """The innocent was lost once with the poison; the poison never takes it down again."""
    broker = GmdpBroker(attempts=3)
    broker.call(b"client", 1, b"poison")
    broker.call(b"client", 2, b"innocent")
    for number in range(3):
        peer = b"W%d" % number
        broker.register(peer, 1, 2)
        requests = broker.requests(peer)
        bodies = [body for _, body in requests.values()]
        assert [b"poison"] in bodies
        assert number == 0 or [b"innocent"] not in bodies
        broker.feed(peer, MDP02.disconnect)
    assert broker.answered(b"client") == [failed(1, Status.WORKER_LOST, 3)]
    assert [letter.body for letter in broker.letters()] == [[b"poison"]]
    broker.register(b"last", 1)
    assert broker.requests(b"last")[1][1] == [b"innocent"]


def test_requests_lost_together_come_back_in_their_order():
    broker = GmdpBroker()
    for number in range(5):
        broker.call(b"client", number, b"%d" % number)
    broker.register(b"W", *range(1, 5))
    broker.take(b"W")
    broker.feed(b"W", MDP02.disconnect)
    served = []
    for number in range(5):
        broker.register(b"V%d" % number, 1)
        served += [body[0] for _, body in broker.requests(b"V%d" % number).values()]
    assert served == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("flags", [0, extension.LAST], ids=["suspects", "never ran"])
def test_requests_given_back_one_by_one_go_in_the_order_in_which_they_came(flags):
    """Whoever is lost first: the client that asked for one thing before another gets it first."""
    broker = GmdpBroker()
    for number in range(5):
        broker.call(b"client", number, b"%d" % number)
    for peer in (b"A", b"B", b"C"):
        broker.register(peer, 1)
    for peer in (b"B", b"A", b"C"):
        broker.session(peer, 1, b"\x06", flags=flags)
    served = []
    for number in range(5):
        broker.register(b"V%d" % number, 1)
        served += [body[0] for _, body in broker.requests(b"V%d" % number).values()]
    assert served == [b"0", b"1", b"2", b"3", b"4"]


def test_after_the_deadline_nothing_is_delivered_again_and_no_reply_is_sent():
    broker = GmdpBroker(attempts=5)
    broker.register(b"W", 1, 2)
    broker.call(b"client", 1, time_left=4.0)
    broker.call(b"client", 2, time_left=4.0)
    requests = broker.requests(b"W")
    assert token.read(requests[1][0]).time_left == 4.0
    broker.advance(4.1)
    broker.session(b"W", 1, b"\x04", requests[1][0], b"", b"late")
    broker.feed(b"W", MDP02.disconnect)
    assert broker.answered(b"client") == []
    assert broker.core.counters.drops == {"late": 1}
    assert broker.core.counters.ended == {"deadline": 1}
    assert broker.core.held_bytes == 0


def test_a_request_tells_its_worker_the_time_that_is_left_at_its_delivery():
    broker = GmdpBroker()
    broker.call(b"client", 1, time_left=10.0)
    broker.advance(6.0)
    broker.register(b"W", 1)
    assert token.read(broker.requests(b"W")[1][0]).time_left == 4.0


def test_C1_a_request_that_is_not_to_wait_fails_at_once_without_a_worker():
    broker = GmdpBroker()
    broker.call(b"client", 1, flags=FAIL_WITHOUT_WORKER)
    assert broker.answered(b"client") == [failed(1, Status.NO_WORKER)]
    assert not broker.core.services
    broker.register(b"W", 1)
    for number in (2, 3):
        broker.call(b"client", number, flags=FAIL_WITHOUT_WORKER)
    # One runs, one waits: there is a worker.  When there is none any more, neither waits.
    assert broker.answered(b"client") == []
    broker.feed(b"W", MDP02.disconnect)
    assert sorted(broker.answered(b"client")) == [failed(2, Status.NO_WORKER, 1), failed(3, Status.NO_WORKER)]
    assert broker.core.counters.ended == {"no_worker": 3}
    assert not broker.core.services


def test_more_urgent_requests_go_first_and_strict_clients_count_as_normal():
    broker = GmdpBroker()
    broker.call(b"client", 0, b"background", priority=0)
    broker.ask(MDP02, b"strict", b"strict")
    broker.call(b"client", 1, b"urgent", priority=3)
    broker.call(b"client", 2, b"beyond", priority=200)
    served = []
    for number in range(4):
        broker.register(b"V%d" % number, 1)
        served += [body[0] for _, body in broker.requests(b"V%d" % number).values()]
    assert served == [b"urgent", b"beyond", b"strict", b"background"]


# How long a request may wait in the queue

STATED = extension.TIME_STATED


@pytest.mark.parametrize(("flags", "ended"), [(0, {"expired": 1}), (STATED, {})])
def test_L4_a_request_waits_as_long_as_its_caller_states(flags, ended):
    """`timeout=600`, and the service is busy for 40 s."""
    broker = GmdpBroker()
    broker.register(b"W", 1)
    broker.call(b"other", 1, time_left=600.0)
    ((address, _),) = broker.requests(b"W").values()
    broker.call(b"client", 1, b"waits", flags=flags, time_left=600.0)
    for _ in range(10):
        broker.advance(4.0)
        broker.session(b"W", 1, b"\x05")
    broker.take(b"W")  # HEARTBEATs
    broker.session(b"W", 1, b"\x04", address, b"", b"done")
    assert broker.core.counters.ended == ended
    assert [body for _, body in broker.requests(b"W").values()] == ([] if ended else [[b"waits"]])


def test_L4_max_request_ttl_bounds_what_may_be_stated():
    broker = GmdpBroker(max_request_ttl=100.0)
    broker.call(b"client", 1, flags=STATED)  # a stream: its time in all is not known
    broker.call(b"client", 2, flags=STATED, time_left=600.0)
    broker.call(b"client", 3, flags=STATED, time_left=50.0)
    broker.advance(51.0)
    assert broker.core.counters.ended == {"deadline": 1}
    broker.advance(48.0)
    assert broker.core.queued == 2
    broker.advance(2.0)
    assert broker.core.counters.ended == {"deadline": 1, "expired": 2}


def test_L4_a_request_ttl_set_for_a_service_binds_everybody():
    broker = GmdpBroker(services={"echo": {"request_ttl": 20.0}, "ec*": {"request_ttl": 1.0}, "bulk": {"attempts": 1}})
    broker.call(b"client", 1, flags=STATED, time_left=600.0)
    broker.call(b"client", 2, flags=STATED, time_left=600.0, service=b"bulk")
    broker.advance(19.0)
    assert broker.core.queued == 2
    broker.advance(2.0)
    assert broker.core.counters.ended == {"expired": 1}
    broker.advance(500.0)
    assert broker.core.queued == 1


def test_L4_all_waits_of_a_redelivered_request_count_against_what_was_stated():
    broker = GmdpBroker(max_request_ttl=100.0)
    broker.call(b"client", 1, flags=STATED)
    broker.advance(60.0)
    broker.register(b"W", 1)
    broker.feed(b"W", [b"MDPW02", b"\x06"])
    broker.advance(39.0)
    assert broker.core.queued == 1
    broker.advance(2.0)
    assert broker.core.counters.ended == {"expired": 1}
