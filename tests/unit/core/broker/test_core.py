"""The broker's core in virtual time: what is promised beyond the RFCs."""

import gc
import json
import sys

import pytest
from cores import EXPIRY, INTERVAL, MDP01, MDP02, Majortomo, ManualBroker

from gmdp.core.broker.decisions import DeadLetter, Outgoing
from gmdp.core.broker.records import Place
from gmdp.protocol import token

DIALECTS = [MDP01, MDP02, Majortomo]
every_dialect = pytest.mark.parametrize("mdp", DIALECTS, ids=lambda mdp: mdp.dialect.name)


def counters(broker):
    return broker.core.counters


# Workers that are lost


@every_dialect
@pytest.mark.parametrize("how", ["expires", "disconnects", "unreachable", "second ready", "malformed", "stray reply"])
def test_W1_however_a_worker_is_lost_its_request_goes_to_the_next_first_in_line(mdp, how):
    broker = ManualBroker(busy_timeout=60.0, request_ttl=1e6)
    broker.ready(mdp, b"W1")
    for body in (b"first", b"second"):
        broker.ask(mdp, b"client", body)
    broker.take(b"W1")
    if how == "expires":
        broker.advance(60.0)
    elif how == "unreachable":
        broker.core.awake(broker.now)
        broker.advance(INTERVAL)
        broker.core.send_failed(lost_heartbeat(broker), full=False, now=broker.now)
        broker.core.caught_up(broker.now)
    elif how == "malformed":
        broker.feed(b"W1", [*mdp.heartbeat, b"too many"])
    else:
        said = {"disconnects": mdp.disconnect, "second ready": mdp.ready(b"echo")}
        broker.feed(b"W1", said.get(how, mdp.final(b"not the address", b"x")))
    broker.ready(mdp, b"W2")
    address, body = broker.assignment(mdp, b"W2")
    assert body == [b"first"]
    broker.feed(b"W2", mdp.final(address, b"answer"))
    assert broker.answers(mdp, b"client") == [[b"answer"]]
    assert broker.assignment(mdp, b"W2")[1] == [b"second"]
    assert counters(broker).redeliveries == 1
    assert sum(counters(broker).lost_workers.values()) == 1


def lost_heartbeat(broker):
    (worker,) = broker.workers.values()
    return Outgoing([b"W1"], worker.connection, False)


def test_a_request_that_never_reached_anybody_was_no_attempt():
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


def test_a_heartbeat_to_a_full_peer_is_skipped_to_a_gone_one_tells_of_its_loss():
    broker = ManualBroker()
    broker.ready(MDP02, b"W1")
    broker.core.send_failed(lost_heartbeat(broker), full=True, now=broker.now)
    assert len(broker.workers) == 1
    broker.core.send_failed(lost_heartbeat(broker), full=False, now=broker.now)
    assert broker.core.deadline() <= broker.now  # it is looked at once more, with all that is to be read
    broker.core.caught_up(broker.now)
    assert len(broker.workers) == 0


@pytest.mark.parametrize("told", ["heartbeat", "request"])
def test_what_a_worker_that_left_had_said_counts_before_its_loss(told):
    """ZeroMQ says that a peer is gone while its last messages are still to be read."""
    broker = ManualBroker(attempts=1)
    numbers = [b"\x89MDW\x01\x00" + number.to_bytes(4, "big") for number in (1, 2)]
    for number in numbers:
        broker.feed(b"W", [number, b"", *MDP02.ready(b"echo")])
    broker.ask(MDP02, b"client", b"done")
    ((first, _, *request),) = broker.take(b"W")
    if told == "request":
        # A second one does not get there; it is given to another, and that was no attempt.
        broker.core.feed([b"client", *MDP02.client_request(b"echo", b"next")], broker.now)
        (outgoing,) = broker.decided()
    else:
        (connection,) = broker.core._registry.connections.values()
        outgoing = Outgoing([b"W"], connection, False)
    broker.core.send_failed(outgoing, full=False, now=broker.now)
    broker.core.feed([b"W", first, b"", *MDP02.final(request[MDP02.address_at], b"answer")], broker.now)
    broker.core.caught_up(broker.now)
    broker.collect()
    assert broker.answers(MDP02, b"client") == [[b"answer"]]
    assert broker.workers == {}
    assert counters(broker).redeliveries == 0
    broker.ready(MDP02, b"W2")
    assert len(broker.take(b"W2")) == (told == "request")
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


def test_W8_second_ready_is_the_end_of_the_first_registration():
    broker = ManualBroker()
    broker.ready(MDP02, b"W1", b"W2")
    broker.ask(MDP02, b"client", b"x")
    broker.take(b"W1")
    broker.feed(b"W1", MDP02.ready(b"echo"))
    assert broker.take(b"W1") == [MDP02.disconnect]
    assert broker.assignment(MDP02, b"W2")[1] == [b"x"]
    assert counters(broker).redeliveries == 1
    assert len(broker.workers) == 1


@every_dialect
def test_W9_a_stranger_is_told_disconnect_once_until_ready_and_not_for_ever(mdp):
    broker = ManualBroker()
    said = [mdp.heartbeat, mdp.final(b"a", b"x"), mdp.heartbeat]
    for frames in said:
        broker.feed(b"W1", frames)
    assert broker.take(b"W1") == [mdp.disconnect]
    assert counters(broker).drops == {"unregistered": 3}
    broker.ready(mdp, b"W1")
    broker.ask(mdp, b"client", b"x")
    assert broker.assignment(mdp, b"W1")[1] == [b"x"]
    broker.feed(b"W2", mdp.heartbeat)
    broker.now += EXPIRY + 0.1
    broker.feed(b"W2", mdp.heartbeat)
    assert broker.take(b"W2") == [mdp.disconnect] * 2


def test_W9_the_memory_of_strangers_is_bounded(monkeypatch):
    monkeypatch.setattr("gmdp.core.broker.registry.MAX_REJECTED", 10)
    broker = ManualBroker()
    for number in range(1000):
        broker.feed(b"%d" % number, MDP02.heartbeat)
    assert len(broker.core._registry._rejected) == 10
    broker.now += EXPIRY + 0.1
    broker.feed(b"one more", MDP02.heartbeat)
    assert len(broker.core._registry._rejected) == 1


@every_dialect
@pytest.mark.parametrize("when", ["idle", "busy", "stranger"])
def test_W10_disconnect_is_a_clean_removal(mdp, when):
    broker = ManualBroker()
    if when != "stranger":
        broker.ready(mdp, b"W1")
    if when == "busy":
        broker.ask(mdp, b"client", b"x")
        broker.take(b"W1")
    broker.feed(b"W1", mdp.disconnect)
    broker.feed(b"W1", mdp.heartbeat)
    assert broker.take(b"W1") == []
    assert broker.workers == {}
    broker.ready(mdp, b"W2")
    assert len(broker.take(b"W2")) == (when == "busy")


def test_W11_ready_for_the_management_namespace():
    broker = ManualBroker()
    broker.feed(b"W1", MDP02.ready(b"mmi.service"))
    assert broker.take(b"W1") == [MDP02.disconnect]
    broker.ask(MDP02, b"client", b"mmi.service", service=b"mmi.service")
    assert broker.answers(MDP02, b"client", service=b"mmi.service") == [[b"404"]]


@every_dialect
@pytest.mark.parametrize("forged", ["the client's identity", "another worker's token", "an earlier token", "a guess"])
def test_W12_a_reply_to_something_else_reaches_nobody(mdp, forged):
    broker = ManualBroker()
    broker.ready(mdp, b"W1", b"W2")
    broker.ask(mdp, b"victim", b"x")
    address, _ = broker.assignment(mdp, b"W1")
    broker.ask(mdp, b"other", b"y")
    mine, _ = broker.assignment(mdp, b"W2")
    if forged == "an earlier token":
        broker.feed(b"W2", mdp.final(mine, b"fine"))
        broker.answers(mdp, b"other")
        broker.ask(mdp, b"other", b"z")
        broker.take(b"W2")
    guess = mine[:20] + bytes([mine[20] ^ 1]) + mine[21:]
    wrong = {"the client's identity": b"victim", "another worker's token": address, "an earlier token": mine}
    broker.feed(b"W2", mdp.final(wrong.get(forged, guess), b"forged"))
    assert broker.take(b"W2") == [mdp.disconnect]
    assert broker.take(b"victim") == []
    assert broker.take(b"other") == []
    assert counters(broker).drops == {"stray_reply": 1}
    broker.feed(b"W1", mdp.final(address, b"right"))
    assert broker.answers(mdp, b"victim") == [[b"right"]]


@every_dialect
def test_W13_the_same_reply_twice_counts_once(mdp):
    broker = ManualBroker()
    broker.ready(mdp, b"W1")
    broker.ask(mdp, b"client", b"x")
    address, _ = broker.assignment(mdp, b"W1")
    for _ in range(2):
        broker.feed(b"W1", mdp.final(address, b"answer"))
    assert broker.answers(mdp, b"client") == [[b"answer"]]
    assert broker.take(b"W1") == [mdp.disconnect]
    assert broker.core.services == {}


@pytest.mark.parametrize("dead", [{0}, {4}, {2}, {0, 1, 4}, {0, 1, 2, 3, 4}, set()])
def test_W14_every_dead_worker_is_purged_and_no_live_one(dead):
    broker = ManualBroker()
    names = [b"W%d" % number for number in range(5)]
    broker.ready(MDP02, *names)
    for _ in range(4):
        broker.advance(INTERVAL)
        for number, name in enumerate(names):
            if number not in dead:
                broker.feed(name, MDP02.heartbeat)
    assert set(broker.workers) == {name for number, name in enumerate(names) if number not in dead}
    alive = [name for number, name in enumerate(names) if number not in dead]
    for name in alive:
        broker.take(name)
    for _ in alive:
        broker.ask(MDP02, b"client", b"x")
    assert [len(broker.take(name)) for name in alive] == [1] * len(alive)


# How long a busy worker may be silent


def busy_worker(broker, mdp=MDP02):
    broker.ready(mdp, b"W1")
    broker.ask(mdp, b"client", b"x")
    return broker.assignment(mdp, b"W1")


def test_a_worker_never_heard_while_busy_gets_the_busy_timeout():
    broker = ManualBroker(busy_timeout=100.0)
    busy_worker(broker)
    broker.advance(99.9)
    assert b"W1" in broker.workers
    broker.advance(0.2)
    assert counters(broker).lost_workers == {"expired": 1}


def test_a_heartbeat_sent_before_the_work_began_does_not_tell_how_the_worker_works():
    broker = ManualBroker(busy_timeout=100.0)
    busy_worker(broker)
    broker.advance(INTERVAL / 2)
    broker.feed(b"W1", MDP02.heartbeat)
    broker.advance(90.0)
    assert b"W1" in broker.workers


def test_a_worker_once_heard_while_busy_gets_the_normal_expiry_from_then_on():
    broker = ManualBroker(busy_timeout=100.0)
    address, _ = busy_worker(broker)
    for _ in range(8):
        broker.advance(INTERVAL)
        broker.feed(b"W1", MDP02.heartbeat)
    broker.feed(b"W1", MDP02.final(address, b"answer"))
    broker.ask(MDP02, b"client", b"y")
    broker.advance(EXPIRY - 0.1)
    assert b"W1" in broker.workers
    broker.advance(0.2)
    assert counters(broker).lost_workers == {"expired": 1}


def test_each_partial_starts_a_silent_workers_time_anew():
    broker = ManualBroker(busy_timeout=20.0)
    address, _ = busy_worker(broker)
    for _ in range(5):
        broker.advance(15.0)
        broker.feed(b"W1", MDP02.partial(address, b"part"))
    assert b"W1" in broker.workers


def test_the_busy_timeout_may_differ_per_service():
    broker = ManualBroker(busy_timeout=100.0, services={"ech?": {"busy_timeout": 10.0}})
    busy_worker(broker)
    broker.advance(10.1)
    assert counters(broker).lost_workers == {"expired": 1}


def test_B11_after_a_gap_nobody_is_lost_before_the_socket_was_read():
    broker = ManualBroker()
    broker.ready(MDP02, b"W1")
    broker.now += 10 * EXPIRY
    broker.core.awake(broker.now)
    broker.core.tick(broker.now)
    assert b"W1" in broker.workers
    broker.core.feed([b"W1", *MDP02.heartbeat], broker.now)
    broker.core.caught_up(broker.now)
    broker.core.tick(broker.now)
    assert b"W1" in broker.workers
    # And who said nothing meanwhile is lost soon after.
    broker.advance(EXPIRY + INTERVAL)
    assert broker.workers == {}


def test_a_flooded_socket_that_is_never_empty_does_not_keep_the_dead():
    broker = ManualBroker()
    broker.ready(MDP02, b"W1")
    for _ in range(200):
        broker.now += 0.1
        broker.core.awake(broker.now)
        broker.core.feed([b"client", *MDP02.client_request(b"nobody", b"x")], broker.now)
        broker.core.tick(broker.now)
    assert counters(broker).lost_workers == {"expired": 1}


# Queues


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


def test_B6_bytes_are_bounded_too_and_a_client_may_hold_as_many_as_are_free():
    broker = ManualBroker(max_queue_bytes=1000)
    for _ in range(20):
        broker.ask(MDP02, b"client", b"x" * 100)
    assert (broker.core.held_bytes, broker.core.queued) == (500, 5)
    assert counters(broker).drops == {"bytes_full": 15}
    # Whoever comes later finds room all the same.
    for client, held in ((b"second", 800), (b"third", 900)):
        for _ in range(20):
            broker.ask(MDP02, client, b"x" * 100)
        assert broker.core.held_bytes == held
    broker.ready(MDP02, b"W1")
    address, _ = broker.assignment(MDP02, b"W1")
    assert broker.core.held_bytes == 900  # what is assigned is held, too
    broker.feed(b"W1", MDP02.final(address, b"answer"))
    assert broker.core.held_bytes == 800


def test_what_waits_to_be_joined_is_bounded():
    broker = ManualBroker(max_queue_bytes=1000)
    broker.ready(MDP02, b"W1")
    broker.ask(MDP01, b"client", b"x")
    address, _ = broker.assignment(MDP02, b"W1")
    for _ in range(20):
        broker.feed(b"W1", MDP02.partial(address, b"y" * 100))
    assert broker.core.held_bytes == 0  # what is not wanted any more is not kept
    broker.feed(b"W1", MDP02.final(address, b"end"))
    assert broker.take(b"client") == []  # not with a hole in it
    assert counters(broker).drops == {"reply_too_large": 1, "abandoned": 17}
    assert broker.core.held_bytes == 0
    broker.ask(MDP01, b"client", b"next")
    assert broker.assignment(MDP02, b"W1")[1] == [b"next"]


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


def test_workers_are_bounded():
    broker = ManualBroker(max_workers=2)
    broker.ready(MDP02, b"W1", b"W2", b"W3")
    assert broker.take(b"W3") == [MDP02.disconnect]
    assert counters(broker).drops == {"workers_full": 1}
    broker.feed(b"W1", MDP02.disconnect)
    broker.ready(MDP02, b"W3")
    assert set(broker.workers) == {b"W2", b"W3"}


@pytest.mark.parametrize(
    ("options", "frames", "reason"),
    [
        ({"max_frames": 10}, [b"MDPC02", b"\x01", b"echo", *[b""] * 7], "too_many_frames"),
        ({"max_frame_size": 10}, [b"MDPC02", b"\x01", b"echo", b"x" * 11], "frame_too_large"),
        ({}, [b"MDPC02", b"\x01", b"x" * 256, b""], "malformed"),
        ({}, [b"MDPC02", b"\x01", b"", b"x"], "malformed"),
        ({"max_frame_size": 10}, [b"x" * 11], "malformed"),
        ({"max_frame_size": 10}, [], "malformed"),
    ],
)
def test_B4_messages_beyond_a_bound_are_dropped_and_counted(options, frames, reason):
    broker = ManualBroker(**options)
    broker.feed(b"client", frames)
    assert counters(broker).drops == {reason: 1}
    assert counters(broker).requests == 0


def test_B12_idle_workers_and_services_cost_a_request_nothing():
    """No step of a request's way walks over them: the same number of Python calls."""

    def calls(workers):
        broker = ManualBroker(max_workers=100_000)
        for number in range(workers):
            broker.feed(b"W%d" % number, MDP02.ready(b"service %d" % (number // 2)))
        broker.ready(MDP02, b"worker")
        count = 0

        def profile(frame, event, argument):
            nonlocal count
            count += event in ("call", "c_call")

        gc.disable()  # others may have it call them
        sys.setprofile(profile)
        try:
            broker.ask(MDP02, b"client", b"x")
            address, _ = broker.assignment(MDP02, b"worker")
            broker.feed(b"worker", MDP02.final(address, b"answer"))
        finally:
            sys.setprofile(None)
            gc.enable()
        return count

    assert calls(5000) == calls(4)


def test_a_request_moves_only_where_it_may():
    """What was answered or has ended stays there; nothing is answered that no worker has."""
    allowed = {
        None: {Place.QUEUED, Place.ASSIGNED},
        Place.QUEUED: {Place.ASSIGNED, Place.ENDED},
        Place.ASSIGNED: {Place.QUEUED, Place.ASSIGNED, Place.ANSWERED, Place.ENDED},
        Place.ANSWERED: set(),
        Place.ENDED: set(),
    }
    broker = ManualBroker()
    broker.ask(MDP02, b"client", b"x")
    (request,) = broker.core.services[b"echo"].queue
    for start in allowed:
        for place in Place:
            request.place = start
            if place in allowed[start]:
                request.move(place)
                assert request.place is place
            else:
                with pytest.raises(ValueError, match="no move from"):
                    request.move(place)
                assert request.place is start


# Telling


def test_the_reports_of_the_management_interface():
    broker = ManualBroker()
    broker.ready(MDP02, b"W1", b"W2")
    broker.ready(MDP01, b"W3", service=b"\xff\x00")
    broker.ask(MDP02, b"client", b"x")
    broker.advance(1.0)

    def report(service, *body):
        broker.ask(MDP01, b"asker", *body, service=service)
        ((code, text),) = broker.answers(MDP01, b"asker", service=service)
        assert code == b"200"
        return json.loads(text)

    services = report(b"mmi.services", b"")
    assert services["total"] == 2
    assert {row["name"]: (row["workers"], row["idle"], row["busy"]) for row in services["services"]} == {
        "echo": (2, 1, 1),
        "\\xff\x00": (1, 1, 0),
    }
    assert [row["name"] for row in report(b"mmi.services", b"echo")["services"]] == ["echo"]
    assert report(b"mmi.services", b"nobody") == {"total": 0, "services": []}
    workers = report(b"mmi.workers", b"echo")
    assert (workers["total"], sorted(row["state"] for row in workers["workers"])) == (2, ["busy", "idle"])
    assert report(b"mmi.workers", b"")["total"] == 3
    assert report(b"mmi.workers", b"nobody") == {"total": 0, "workers": []}
    assert report(b"mmi.statistics", b"")["assigned"] == 1
    about = report(b"mmi.broker", b"")
    assert (about["name"], about["state"], about["uptime"]) == ("gmdp", "running", 1.0)


def test_reports_are_bounded(monkeypatch):
    monkeypatch.setattr("gmdp.core.broker.reports.MAX_ROWS", 3)
    broker = ManualBroker()
    for number in range(10):
        broker.ready(MDP02, b"W%d" % number, service=b"%d" % number)
    for name, rows in ((b"mmi.services", "services"), (b"mmi.workers", "workers")):
        broker.ask(MDP02, b"asker", b"", service=name)
        ((_, text),) = broker.answers(MDP02, b"asker", service=name)
        assert json.loads(text)["total"] == 10
        assert len(json.loads(text)[rows]) == 3


def test_the_counters_of_an_earlier_core_go_on():
    from gmdp.core.broker.core import BrokerCore
    from gmdp.core.broker.options import BrokerOptions

    first = ManualBroker()
    first.ask(MDP02, b"client", b"x")
    second = BrokerCore(BrokerOptions(), b"87654321", 0.0, counters(first))
    second.feed([b"client", *MDP02.client_request(b"echo", b"x")], 0.0)
    assert second.statistics(0.0).requests == 2
    assert second.statistics(0.0).queued == 1


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


def test_a_request_whose_time_is_up_is_not_handed_out_before_the_tick_either():
    broker = ManualBroker(request_ttl=10.0)
    broker.ask(MDP02, b"client", b"late")
    broker.now += 60.0
    broker.ask(MDP02, b"client", b"fresh")
    broker.ready(MDP02, b"W1")
    assert broker.assignment(MDP02, b"W1")[1] == [b"fresh"]
    assert counters(broker).ended == {"expired": 1}
