"""Which workers are registered, and when they are lost."""

import sys

import pytest
from brokers import GmdpBroker, SecuredBroker, busy_worker, counters, every_dialect, lost_heartbeat
from cores import EXPIRY, INTERVAL, MDP01, MDP02, NONCE, START, ManualBroker

from gmdp.core.broker.access import SERVE, Rules
from gmdp.core.broker.core import BrokerCore
from gmdp.core.broker.decisions import Outgoing, Refusal
from gmdp.core.broker.options import BrokerOptions
from gmdp.core.broker.reasons import DropReason
from gmdp.core.broker.registry import MAX_PROBES
from gmdp.core.broker.services import BURST
from gmdp.protocol import extension, token


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
        broker.core.on_wake(broker.now)
        broker.advance(INTERVAL)
        broker.core.send_failed(lost_heartbeat(broker), full=False, now=broker.now)
        broker.core.on_caught_up(broker.now)
    elif how == "malformed":
        broker.feed(b"W1", [*mdp.heartbeat, b"too many"])
    else:
        messages = {"disconnects": mdp.disconnect, "second ready": mdp.ready(b"echo")}
        broker.feed(b"W1", messages.get(how, mdp.final(b"not the address", b"x")))
    broker.ready(mdp, b"W2")
    address, body = broker.assignment(mdp, b"W2")
    assert body == [b"first"]
    broker.feed(b"W2", mdp.final(address, b"answer"))
    assert broker.answers(mdp, b"client") == [[b"answer"]]
    assert broker.assignment(mdp, b"W2")[1] == [b"second"]
    assert counters(broker).redeliveries == 1
    assert sum(counters(broker).lost_workers.values()) == 1


def test_a_heartbeat_to_a_full_peer_is_skipped_to_a_gone_one_tells_of_its_loss():
    broker = ManualBroker()
    broker.ready(MDP02, b"W1")
    broker.core.send_failed(lost_heartbeat(broker), full=True, now=broker.now)
    assert len(broker.workers) == 1
    broker.core.send_failed(lost_heartbeat(broker), full=False, now=broker.now)
    assert broker.core.deadline() <= broker.now  # it is looked at once more, with all that is to be read
    broker.core.on_caught_up(broker.now)
    assert len(broker.workers) == 0


@pytest.mark.parametrize("sent", ["heartbeat", "request"])
def test_messages_of_a_closed_connection_count_before_its_loss(sent):
    """ZeroMQ says that a peer is gone while its last messages are still to be read."""
    broker = ManualBroker(attempts=1)
    numbers = [b"\x89MDW\x01\x00" + number.to_bytes(4, "big") for number in (1, 2)]
    for number in numbers:
        broker.feed(b"W", [number, b"", *MDP02.ready(b"echo")])
    broker.ask(MDP02, b"client", b"done")
    ((first, _, *request),) = broker.take(b"W")
    if sent == "request":
        # A second one does not get there; it is given to another, and that was no attempt.
        broker.core.feed([b"client", *MDP02.client_request(b"echo", b"next")], broker.now)
        (outgoing,) = broker.decided()
    else:
        (connection,) = broker.core._registry.connections.values()
        outgoing = Outgoing([b"W"], connection, False)
    broker.core.send_failed(outgoing, full=False, now=broker.now)
    broker.core.feed([b"W", first, b"", *MDP02.final(request[MDP02.address_at], b"answer")], broker.now)
    broker.core.on_caught_up(broker.now)
    broker.collect()
    assert broker.answers(MDP02, b"client") == [[b"answer"]]
    assert broker.workers == {}
    assert counters(broker).redeliveries == 0
    broker.ready(MDP02, b"W2")
    assert len(broker.take(b"W2")) == (sent == "request")
    assert counters(broker).redeliveries == 0


@every_dialect
def test_W9_an_unregistered_peer_hears_disconnect_once_until_ready_and_not_for_ever(mdp):
    broker = ManualBroker()
    messages = [mdp.heartbeat, mdp.final(b"a", b"x"), mdp.heartbeat]
    for frames in messages:
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


def test_W9_the_memory_of_unregistered_peers_is_bounded(monkeypatch):
    monkeypatch.setattr("gmdp.core.broker.registry.MAX_REFUSED", 10)
    broker = ManualBroker()
    for number in range(1000):
        broker.feed(b"%d" % number, MDP02.heartbeat)
    assert len(broker.core._registry._refused) == 10
    broker.now += EXPIRY + 0.1
    broker.feed(b"one more", MDP02.heartbeat)
    assert len(broker.core._registry._refused) == 1


def test_W11_ready_for_the_management_namespace():
    broker = ManualBroker()
    broker.feed(b"W1", MDP02.ready(b"mmi.service"))
    assert broker.take(b"W1") == [MDP02.disconnect]
    broker.ask(MDP02, b"client", b"mmi.service", service=b"mmi.service")
    assert broker.answers(MDP02, b"client", service=b"mmi.service") == [[b"404"]]


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


def test_a_worker_never_heard_while_busy_gets_the_busy_timeout():
    broker = ManualBroker(busy_timeout=100.0)
    busy_worker(broker)
    broker.advance(99.9)
    assert b"W1" in broker.workers
    broker.advance(0.2)
    assert counters(broker).lost_workers == {"busy_timeout": 1}


def test_a_heartbeat_sent_before_the_work_began_does_not_tell_how_the_worker_works():
    broker = ManualBroker(busy_timeout=100.0)
    busy_worker(broker)
    broker.advance(INTERVAL / 2)
    broker.feed(b"W1", MDP02.heartbeat)
    broker.advance(90.0)
    assert b"W1" in broker.workers


def test_L1_a_worker_once_heard_while_busy_gets_the_busy_timeout_all_the_same():
    """Its process is alive, even if it says nothing."""
    broker = ManualBroker(busy_timeout=100.0)
    address, _ = busy_worker(broker)
    for _ in range(8):
        broker.advance(INTERVAL)
        broker.feed(b"W1", MDP02.heartbeat)
    broker.feed(b"W1", MDP02.final(address, b"answer"))
    broker.ask(MDP02, b"client", b"y")
    broker.advance(99.9)
    assert b"W1" in broker.workers
    broker.advance(0.2)
    assert counters(broker).lost_workers == {"busy_timeout": 1}


@pytest.mark.parametrize("heard", [True, False])
@pytest.mark.parametrize(
    ("stack", "options"), [([b"proxy", b""], {}), ([], {"zmtp_heartbeats": False})], ids=["proxy", "no ZMTP heartbeats"]
)
def test_F5_a_worker_whose_process_is_unknown_is_lost_by_its_expiry(stack, options, heard):
    """ZMTP heartbeats end at a proxy.  An RFC-only worker that is silent from the first has the busy_timeout."""
    broker = ManualBroker(busy_timeout=100.0, **options)
    broker.feed(b"W1", [*stack, *MDP02.ready(b"echo")])
    broker.ask(MDP02, b"client", b"x")
    if heard:
        broker.advance(INTERVAL)
        broker.feed(b"W1", [*stack, *MDP02.heartbeat])
    broker.advance((EXPIRY if heard else 100.0) - 0.1)
    assert broker.core.worker_count == 1
    broker.advance(0.2)
    assert counters(broker).lost_workers == {"expired" if heard else "busy_timeout": 1}


@pytest.mark.parametrize("direct", [True, False])
def test_L1_a_connection_with_sessions_is_left_to_its_work(direct):
    broker = GmdpBroker(busy_timeout=100.0)
    stack = [] if direct else [b"proxy"]
    for number in (1, 2):
        broker.feed(b"W", [*stack, extension.session_frame(number), b"", *MDP02.ready(b"echo")])
    broker.call(b"client", 1)
    broker.advance((100.0 if direct else EXPIRY) - 0.1)
    assert broker.core.worker_count == 2
    broker.advance(0.2)
    assert broker.core.counters.lost_workers == {"busy_timeout" if direct else "expired": 2}


class Reporting(GmdpBroker):
    """A broker whose workers say which sessions are about to begin."""

    def register(self, peer, *numbers, service=b"echo"):
        self.feed(peer, [b"MDPC02", b"\x01", b"mmi.gmdp", b'{"extension":2,"features":["begun"]}'])
        super().register(peer, *numbers, service=service)
        self.take(peer)

    def begin(self, peer, *numbers):
        """`peer` says that the requests of these sessions are about to begin."""
        (frame,) = extension.begun_frames([extension.session_frame(number) for number in numbers])
        self.feed(peer, [frame, b"", *MDP02.heartbeat])


@pytest.mark.parametrize("begun", [(), (2,), (2, 3), (1, 2, 3)])
def test_L2_what_a_mute_worker_has_not_begun_goes_to_others_and_counts_no_attempt(begun):
    """What it was given first counts as begun."""
    broker = Reporting(busy_timeout=1e6, attempts=2)
    broker.register(b"mute", 1, 2, 3)
    for number in (1, 2, 3):
        broker.call(b"client", number)
    if begun:
        broker.begin(b"mute", *begun)
    broker.take(b"mute")
    broker.register(b"other", 1, 2, 3)
    broker.advance(2 * INTERVAL - 0.1)
    broker.feed(b"other", MDP02.heartbeat)
    assert broker.core.worker_count == 6
    broker.advance(0.2)
    recalled = [number for number in (2, 3) if number not in begun]
    told = [frames for frames in broker.take(b"mute") if frames[-1] == b"\x06"]
    assert told == [[extension.session_frame(number), b"", b"MDPW02", b"\x06"] for number in recalled]
    again = [frames for frames in broker.take(b"other") if len(frames) > 4]
    assert [token.read(frames[4]).attempt for frames in again] == [1] * len(recalled)
    assert counters(broker).lost_workers == ({"recalled": len(recalled)} if recalled else {})
    # What was recalled first came first.
    assert [frames[-1] for frames in again] == [b"x"] * len(recalled)


def test_L2_once_the_first_is_answered_the_next_counts_as_begun():
    broker = Reporting(busy_timeout=1e6)
    broker.register(b"mute", 1, 2, 3)
    for number in (1, 2, 3):
        broker.call(b"client", number)
    first = next(frames for frames in broker.take(b"mute") if len(frames) > 4)
    broker.feed(b"mute", [first[0], b"", *MDP02.final(first[4], b"done")])
    broker.advance(4 * INTERVAL)
    assert (broker.core.assigned, broker.core.queued) == (1, 1)


def test_L2_what_was_given_a_moment_ago_is_recalled_an_interval_later():
    broker = Reporting(busy_timeout=1e6)
    broker.register(b"mute", 1, 2)
    broker.call(b"client", 1)
    broker.begin(b"mute", 1)
    broker.advance(2 * INTERVAL - 0.5)
    broker.call(b"client", 2)
    broker.advance(INTERVAL - 0.1)
    assert (broker.core.assigned, broker.core.queued) == (2, 0)
    broker.advance(INTERVAL / 2)
    assert (broker.core.assigned, broker.core.queued) == (1, 1)


def test_L2_at_most_once_is_at_most_once():
    """A worker that wakes may begin while its DISCONNECT is on its way: then the request would be run twice."""
    broker = Reporting(busy_timeout=1e6, attempts=1)
    broker.register(b"mute", 1, 2)
    broker.call(b"client", 1)
    broker.advance(10 * EXPIRY)
    assert (broker.core.assigned, broker.core.queued) == (1, 0)


def test_L2_a_worker_that_does_not_say_what_it_begins_has_begun_everything():
    broker = GmdpBroker(busy_timeout=100.0)
    broker.register(b"mute", 1, 2)
    broker.call(b"client", 1)
    broker.advance(10 * EXPIRY)
    assert (broker.core.assigned, broker.core.queued) == (1, 0)


def test_L2_nonsense_about_what_begins_does_nothing():
    broker = Reporting(busy_timeout=1e6)
    broker.register(b"mute", 1)
    broker.call(b"client", 1)
    for value in (b"", b"\0", b"\0\0\0\1\0", b"\0\0\0\7", b"\xff" * 4):
        frame = extension.session_frame(0, fields=extension.field_bytes([(extension.Field.BEGUN, value)]))
        broker.feed(b"mute", [frame, b"", *MDP02.heartbeat])
    assert (counters(broker).lost_workers, counters(broker).drops, broker.core.worker_count) == ({}, {}, 1)


def test_L1_on_inproc_the_process_is_the_broker_s_own():
    options = BrokerOptions(heartbeat_interval=INTERVAL, zmtp_heartbeats=False, busy_timeout=100.0)
    for in_process, lost in ((True, {}), (False, {"expired": 1})):
        core = BrokerCore(options, NONCE, START, in_process=in_process)
        core.feed([b"W", extension.session_frame(1), b"", *MDP02.ready(b"echo")], START)
        core.feed([b"client", *MDP02.client_request(b"echo", b"x")], START)
        core.tick(START + 2 * INTERVAL)
        core.tick(START + EXPIRY)
        assert core.counters.lost_workers == lost


def test_L1_a_mute_worker_gets_no_request_until_it_speaks():
    broker = ManualBroker(busy_timeout=100.0)
    broker.ready(MDP02, b"W1")
    broker.advance(2 * INTERVAL - 0.1)
    broker.ask(MDP02, b"client", b"to W1")
    assert b"to W1" in broker.take(b"W1")[-1]
    broker = ManualBroker(busy_timeout=100.0)
    broker.ready(MDP02, b"W1")
    broker.advance(2 * INTERVAL)
    broker.take(b"W1")
    broker.ask(MDP02, b"client", b"waits")
    assert broker.take(b"W1") == []
    service = broker.core.statistics(broker.now).services[b"echo"]
    assert (service.workers, service.idle, service.mute, service.busy, service.queued) == (1, 0, 1, 0, 1)
    broker.feed(b"W1", MDP02.heartbeat)
    assert b"waits" in broker.take(b"W1")[-1]
    service = broker.core.statistics(broker.now).services[b"echo"]
    assert (service.idle, service.mute, service.busy, service.queued) == (0, 0, 1, 0)


def test_L1_what_waits_goes_to_a_worker_that_speaks_though_a_mute_one_was_idle_for_longer():
    broker = ManualBroker()
    broker.ready(MDP02, b"mute")
    broker.advance(INTERVAL)
    broker.ready(MDP02, b"speaks")
    broker.advance(INTERVAL)
    for _ in range(2):
        broker.ask(MDP02, b"client", b"x")
    assert [frames for frames in broker.take(b"mute") if frames != MDP02.heartbeat] == []
    assert [frames for frames in broker.take(b"speaks") if frames != MDP02.heartbeat] != []
    assert broker.core.queued == 1


def test_L1_a_mute_worker_that_says_disconnect_is_given_nothing_before():
    broker = ManualBroker()
    broker.ready(MDP02, b"W1")
    broker.advance(2 * INTERVAL)
    broker.ask(MDP02, b"client", b"x")
    broker.take(b"W1")
    broker.feed(b"W1", MDP02.disconnect)
    assert broker.take(b"W1") == []
    assert (counters(broker).redeliveries, counters(broker).lost_workers) == (0, {"disconnect": 1})


def test_L1_a_mute_worker_s_process_is_probed_when_a_connection_ends_but_not_for_ever():
    broker = ManualBroker(busy_timeout=1e6)
    busy_worker(broker)
    assert not broker.core.awaits_mute
    broker.advance(2 * INTERVAL)
    assert broker.core.awaits_mute
    broker.take(b"W1")
    for _ in range(3 * MAX_PROBES):
        broker.core.probe_mute(broker.now)
    broker.collect()
    assert broker.take(b"W1") == [MDP02.heartbeat] * MAX_PROBES


@pytest.mark.parametrize("after", [2 * INTERVAL, EXPIRY, 60.0])
def test_L1_a_mute_worker_whose_process_has_ended_is_lost_by_its_next_heartbeat(after):
    broker = ManualBroker(busy_timeout=1e6)
    busy_worker(broker)
    broker.advance(after)
    broker.core.probe_mute(broker.now)
    (heartbeat,) = broker.decided()
    broker.core.send_failed(heartbeat, False, broker.now)
    broker.core.on_caught_up(broker.now)
    assert counters(broker).lost_workers == {"unreachable": 1}
    assert not broker.core.awaits_mute
    assert broker.core.queued == 1


def flooded(broker, seconds):
    """Let time pass while other peers send so much that the socket is never read empty."""
    until = broker.now + seconds
    while broker.now < until:
        broker.now = min(until, broker.now + 0.1)
        broker.core.on_wake(broker.now)
        broker.core.feed([b"stranger", b"junk"], broker.now)
        broker.core.tick(broker.now)


def fail_heartbeat(broker):
    """A HEARTBEAT to the one worker fails: its process has ended."""
    broker.core.send_failed(lost_heartbeat(broker), full=False, now=broker.now)


def test_W1_a_flood_does_not_keep_a_busy_worker_whose_process_has_ended():
    broker = ManualBroker(busy_timeout=1e6)
    busy_worker(broker)
    broker.advance(2 * INTERVAL)
    fail_heartbeat(broker)
    flooded(broker, EXPIRY - 0.2)
    fail_heartbeat(broker)  # it is no later for that
    assert list(broker.workers) == [b"W1"]
    flooded(broker, 0.2)
    assert counters(broker).lost_workers == {"unreachable": 1}
    assert broker.core.queued == 1


@pytest.mark.parametrize("count", [BURST, BURST + 1])
def test_W1_a_flood_does_not_keep_many_workers_whose_connections_have_ended(count):
    """A tick does only so much; the rest is due at once."""
    broker = ManualBroker()
    for number in range(count):
        broker.ready(MDP02, b"%d" % number)
    for connection in list(broker.core._registry.connections.values()):
        broker.core.send_failed(Outgoing([*connection.address], connection, False), full=False, now=broker.now)
    flooded(broker, INTERVAL)
    for number in range(count):
        broker.core.feed([b"%d" % number, *MDP02.heartbeat], broker.now)  # it was on its way
    flooded(broker, EXPIRY - INTERVAL - 0.2)
    assert len(broker.workers) == count
    broker.now += 0.2
    broker.core.on_wake(broker.now)
    broker.core.tick(broker.now)
    assert len(broker.workers) == count - BURST
    assert count == BURST or broker.core.deadline() <= broker.now
    broker.core.tick(broker.now)
    assert broker.workers == {}


def test_B11_a_blocked_broker_reads_what_a_worker_said_before_its_connection_ended():
    broker = ManualBroker(busy_timeout=1e6)
    address, _ = busy_worker(broker)
    fail_heartbeat(broker)
    broker.now += 10 * EXPIRY
    broker.core.on_wake(broker.now)
    broker.core.tick(broker.now)
    broker.core.feed([b"W1", *MDP02.final(address, b"answer")], broker.now)
    broker.core.on_caught_up(broker.now)
    broker.collect()
    assert broker.answers(MDP02, b"client") == [[b"answer"]]
    assert counters(broker).lost_workers == {"unreachable": 1}


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
    assert counters(broker).lost_workers == {"busy_timeout": 1}


def test_B11_after_a_gap_no_peer_is_lost_before_the_socket_was_read():
    broker = ManualBroker()
    broker.ready(MDP02, b"W1")
    broker.now += 10 * EXPIRY
    broker.core.on_wake(broker.now)
    broker.core.tick(broker.now)
    assert b"W1" in broker.workers
    broker.core.feed([b"W1", *MDP02.heartbeat], broker.now)
    broker.core.on_caught_up(broker.now)
    broker.core.tick(broker.now)
    assert b"W1" in broker.workers
    # A worker that said nothing meanwhile is lost soon after.
    broker.advance(EXPIRY + INTERVAL)
    assert broker.workers == {}


def test_a_flooded_socket_that_is_never_empty_does_not_keep_dead_workers():
    broker = ManualBroker()
    broker.ready(MDP02, b"W1")
    for _ in range(200):
        broker.now += 0.1
        broker.core.on_wake(broker.now)
        broker.core.feed([b"client", *MDP02.client_request(b"nobody", b"x")], broker.now)
        broker.core.tick(broker.now)
    assert counters(broker).lost_workers == {"expired": 1}


def test_workers_are_bounded():
    broker = ManualBroker(max_workers=2)
    broker.ready(MDP02, b"W1", b"W2", b"W3")
    assert broker.take(b"W3") == [MDP02.disconnect]
    assert counters(broker).drops == {"workers_full": 1}
    broker.feed(b"W1", MDP02.disconnect)
    broker.ready(MDP02, b"W3")
    assert set(broker.workers) == {b"W2", b"W3"}


def test_W2_a_silent_connection_is_lost_with_all_its_sessions_busy_or_not():
    broker = GmdpBroker(busy_timeout=900.0)
    broker.register(b"W", *range(1, 6))
    for number in range(3):
        broker.call(b"client", number)
    broker.take(b"W")
    broker.advance(900.0)
    assert broker.core.worker_count == 0
    assert broker.core.counters.lost_workers == {"busy_timeout": 5}
    assert broker.core.queued == 3
    # Thawed, the worker speaks: it hears DISCONNECT, once, on the connection.
    broker.take(b"W")
    for number in range(1, 4):
        broker.session(b"W", number, b"\x05")
    assert broker.take(b"W") == [MDP02.disconnect]
    assert broker.core.counters.drops == {"unregistered": 3}


def test_one_session_s_heartbeat_is_all_sessions():
    broker = GmdpBroker()
    broker.register(b"W", 1, 2, 3)
    for _ in range(10):
        broker.advance(INTERVAL)
        broker.session(b"W", 2, b"\x05")
    assert broker.core.worker_count == 3
    assert broker.now == START + 10 * INTERVAL


def test_a_connection_without_sessions_is_forgotten_when_it_is_silent():
    broker = GmdpBroker()
    broker.register(b"W", 1)
    broker.session(b"W", 1, b"\x06")
    assert len(broker.core._registry.connections) == 1
    broker.advance(EXPIRY)
    assert not broker.core._registry.connections
    assert broker.core.counters.lost_workers == {"disconnect": 1}


def test_W16_sessions_that_come_and_go_leave_nothing():
    broker = GmdpBroker()
    for number in range(1, 10_001):
        broker.session(b"W", number, b"\x01", b"echo")
        broker.session(b"W", number, b"\x06")
    broker.feed(b"W", MDP02.disconnect)
    core = broker.core
    assert (core.worker_count, len(core.services), len(core._state.timers)) == (0, 0, 0)
    assert not core._registry.connections
    assert core.counters.registrations == 10_000


@pytest.mark.parametrize("mdp", [MDP01, MDP02])
def test_S3_a_worker_that_may_not_serve_hears_disconnect(mdp):
    broker = SecuredBroker()
    broker.ready(b"w", "client", mdp=mdp)
    assert broker.take(b"w") == [mdp.disconnect]
    assert broker.refused() == [Refusal(SERVE, "client", b"echo", DropReason.NOT_ALLOWED)]
    assert (broker.drops, broker.workers) == ({"not_allowed": 1}, {})
    broker.ready(b"w", "worker1", service=b"echo", mdp=mdp)
    assert list(broker.workers) == [b"w"]
    assert broker.refused() == []


def test_S3_a_session_that_may_not_serve_is_refused_and_the_connection_stands():
    broker = SecuredBroker(Rules([{"user": "w", "serve": "echo"}]))
    first, second = extension.session_frame(1), extension.session_frame(2)
    broker.feed(b"w", [first, b"", b"MDPW02", b"\x01", b"echo"], "w")
    broker.feed(b"w", [second, b"", b"MDPW02", b"\x01", b"other"], "w")
    assert broker.take(b"w") == [[second, b"", b"MDPW02", b"\x06"]]
    assert list(broker.workers) == [(b"w", first)]


def test_S8_a_newcomer_is_not_taken_for_a_peer_that_was_rejected_before():
    """It hears DISCONNECT as any stranger does, though the one before under its routing id has heard it."""
    broker = SecuredBroker()
    for user in ("one", "two"):
        for _ in range(2):
            broker.feed(b"x", MDP02.heartbeat, user)
        assert broker.take(b"x") == [MDP02.disconnect]


def test_a_user_may_register_so_many_workers_and_a_connection_has_so_many_sessions():
    broker = SecuredBroker(policy=None, max_user_workers=3)
    for number in range(5):
        broker.feed(b"w", [b"stack %d" % number, b"", *MDP02.ready(b"echo")] if number else MDP02.ready(b"echo"), "one")
    assert len(broker.workers) == 3
    assert broker.drops == {"user_workers_full": 2}
    broker.ready(b"v", "two")
    assert len(broker.workers) == 4
    broker.feed(b"w", MDP02.disconnect, "one")
    broker.ready(b"x", "one")
    assert len(broker.workers) == 4


def test_a_connection_has_no_more_sessions_than_were_offered():
    broker = ManualBroker()
    most = broker.core.about.max_sessions
    for number in range(1, most + 3):
        broker.feed(b"w", [extension.session_frame(number), b"", b"MDPW02", b"\x01", b"echo"])
    assert len(broker.workers) == most
    assert broker.core.counters.drops == {"sessions_full": 2}


def test_X8_a_connection_that_closes_costs_the_same_among_any_number():
    """The same number of lines run, for a worker's connection, a client's and a stranger's."""

    def lines(workers):
        broker = SecuredBroker(rate=1e6, max_workers=100_000)
        for number in range(workers):
            broker.feed(b"W%d" % number, MDP02.ready(b"echo"), "worker1")
        broker.feed(b"client", MDP02.client_request(b"echo", b"x"), "client")
        count = 0

        def trace(frame, event, argument):
            nonlocal count
            count += event == "line"
            return trace

        tracing = sys.gettrace()
        sys.settrace(trace)
        try:
            for routing_id in (b"W1", b"client", b"stranger"):
                broker.core.on_connection_closed(routing_id, broker.now)
        finally:
            sys.settrace(tracing)  # coverage goes on
        broker.core.take()
        assert len(broker.workers) == workers - 1
        return count

    assert lines(2000) == lines(4)


def test_X8_all_connections_of_a_routing_id_close_with_it():
    broker = SecuredBroker()
    for stack in ([], [b"behind"], [b"a", b"proxy"]):
        broker.feed(b"proxy", [*stack, b"", *MDP02.ready(b"echo")] if stack else MDP02.ready(b"echo"), "worker1")
    broker.feed(b"other", MDP02.ready(b"echo"), "worker1")
    assert len(broker.workers) == 4
    broker.core.on_connection_closed(b"proxy", broker.now)
    assert list(broker.workers) == [b"other"]
    assert not broker.core._registry.has_routing_id(b"proxy")
