"""The broker's core as a whole, in virtual time."""

import gc
import math
import sys

import pytest
from brokers import GmdpBroker, SecuredBroker, counters, failed
from cores import MDP01, MDP02, ManualBroker
from hypothesis import given, settings
from hypothesis import strategies as st
from models import (
    as_frames,
    client_request,
    frames_of_any_kind,
    huge,
    near_misses,
    valid_messages,
    worker_command,
)

from gmdp.core.broker.access import REVOKED, Rules
from gmdp.core.broker.core import BrokerCore
from gmdp.core.broker.options import BrokerOptions
from gmdp.protocol import wire
from gmdp.protocol.dialects import RFC7, RFC18
from gmdp.protocol.extension import Status

STEADY = settings(derandomize=False, deadline=None, database=None)


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
        profiling = sys.getprofile()
        sys.setprofile(profile)
        try:
            broker.ask(MDP02, b"client", b"x")
            address, _ = broker.assignment(MDP02, b"worker")
            broker.feed(b"worker", MDP02.final(address, b"answer"))
        finally:
            sys.setprofile(profiling)
            gc.enable()
        return count

    assert calls(5000) == calls(4)


def test_the_counters_of_an_earlier_core_go_on():
    from gmdp.core.broker.core import BrokerCore
    from gmdp.core.broker.options import BrokerOptions

    first = ManualBroker()
    first.ask(MDP02, b"client", b"x")
    second = BrokerCore(BrokerOptions(), b"87654321", 0.0, counters(first))
    second.feed([b"client", *MDP02.client_request(b"echo", b"x")], 0.0)
    assert second.statistics(0.0).requests == 2
    assert second.statistics(0.0).queued == 1


def test_B2_a_broker_that_stops_tells_gmdp_clients():
    broker = GmdpBroker()
    broker.register(b"W", 1)
    for number in (1, 2):
        broker.call(b"client", number)
    broker.core.drain()
    broker.call(b"client", 3)
    assert broker.answered(b"client") == [failed(3, Status.SHUTTING_DOWN)]
    broker.core.finish(broker.now)
    broker.collect()
    assert sorted(broker.answered(b"client")) == [failed(1, Status.SHUTTING_DOWN, 1), failed(2, Status.SHUTTING_DOWN)]
    assert broker.core.held_bytes == 0


def test_S8_a_worker_under_anothers_routing_id_gets_nothing_of_it():
    """What the one before held is delivered again elsewhere; the newcomer is a stranger."""
    broker = SecuredBroker()
    broker.ready(b"w", "worker1")
    broker.ask(b"c", "client", b"secret")
    ((*_, token, _, _),) = broker.take(b"w")
    broker.feed(b"w", MDP02.final(token, b"forged"), "worker2")
    assert broker.take(b"w") == [MDP02.disconnect]
    assert broker.take(b"c") == []
    assert broker.core.counters.lost_workers == {"other_user": 1}
    broker.ready(b"v", "worker1")
    assert broker.take(b"v")[0][-1] == b"secret"


@pytest.mark.parametrize(
    "message", [MDP02.heartbeat, MDP02.client_request(b"echo", b"x"), [b"junk"], [b"a", b"b", b"c"]]
)
def test_S8_any_message_of_another_user_ends_the_old_connection(message):
    """Also a message that no worker could send, or no peer at all."""
    broker = SecuredBroker(Rules([{"user": "*", "serve": "*", "call": "*"}]))
    broker.ready(b"x", "one")
    broker.feed(b"x", message, "two")
    assert broker.workers == {}
    broker.ask(b"c", "three", b"secret")
    assert not any(b"secret" in frames for frames in broker.take(b"x"))


def test_S8_behind_a_proxy_too():
    broker = SecuredBroker(Rules([{"user": "*", "serve": "*"}]))
    broker.feed(b"proxy", [b"stack", *MDP01.ready(b"echo")], "one")
    assert len(broker.workers) == 1
    broker.feed(b"proxy", MDP02.heartbeat, "two")
    assert broker.workers == {}


def test_S8_the_same_user_goes_on_under_its_routing_id():
    broker = SecuredBroker()
    broker.ready(b"w", "worker1")
    broker.ask(b"c", "client", b"x")
    ((*_, token, _, _),) = broker.take(b"w")
    broker.feed(b"w", MDP02.final(token, b"answer"), "worker1")
    assert broker.answers(MDP02, b"c") == [[b"answer"]]


def test_the_user_of_a_routing_id_is_remembered_as_long_as_it_matters(monkeypatch):
    """A million connections leave nothing; a peer that holds something is not forgotten."""
    monkeypatch.setattr("gmdp.core.broker.core.SWEEP_AT", 100)
    broker = SecuredBroker(Rules([{"user": "*", "serve": "*", "call": "*"}]))
    broker.core._sweep_at = 100
    broker.ready(b"w", "worker")
    broker.ask(b"c", "client", b"x", service=b"nobody serves this")
    for number in range(5_000):
        broker.feed(b"%d" % number, MDP02.client_request(b"mmi.gmdp", b""), "passing")
        assert len(broker.core._state.users) <= 205
    broker.feed(b"w", MDP02.heartbeat, "thief")
    broker.feed(b"c", MDP02.heartbeat, "thief")
    assert broker.workers == {}
    assert broker.core._accounts.clients == {}


def test_S6_the_open_requests_of_a_revoked_user_are_ended():
    """Its workers hear DISCONNECT; its calls, queued or running, end as not allowed; no other peer notices."""
    broker = SecuredBroker(policy=None)
    broker.ready(b"w", "leaver")
    broker.ready(b"v", "stayer", service=b"other")
    broker.call(b"c", "client", 1)
    broker.call(b"d", "leaver", 1, service=b"other")
    broker.call(b"d", "leaver", 2, service=b"other")
    broker.call(b"e", "client", 2, service=b"other")
    given = broker.take(b"v")[0][2]
    broker.take(b"w")
    broker.core.reconsider(broker.now, {"leaver"})
    broker.collect()
    assert broker.take(b"w") == [MDP02.disconnect]
    assert broker.statuses(b"d") == [Status.NOT_ALLOWED] * 2
    assert broker.core.counters.lost_workers == {"revoked": 1}
    assert broker.core.counters.ended == {"not_allowed": 1}
    broker.feed(b"v", MDP02.final(given, b"nobody waits"), "stayer")
    assert broker.statuses(b"d") == []
    assert broker.take(b"v")[0][-1] == b"x"  # the client's
    broker.ready(b"u", "stayer")
    assert len(broker.take(b"u")) == 1  # what the leaver had


def test_S6_a_connection_whose_key_is_not_valid_any_more_may_do_nothing():
    """Its messages come under no user: the next one ends all that it holds."""
    broker = SecuredBroker(policy=None)
    broker.ready(b"w", "leaver")
    broker.feed(b"w", MDP02.heartbeat, REVOKED)
    assert broker.take(b"w") == [MDP02.disconnect]
    broker.ready(b"w", REVOKED)
    assert broker.take(b"w") == [MDP02.disconnect]
    assert broker.workers == {}


def test_a_policy_that_changed_its_mind_is_heard_when_it_is_reconsidered():
    allowed = {("worker", b"echo"), ("client", b"echo")}
    broker = SecuredBroker(lambda user, action, service: (user, service) in allowed)
    broker.ready(b"w", "worker")
    broker.call(b"c", "client", 1)
    broker.call(b"c", "client", 2)
    allowed.discard(("client", b"echo"))
    broker.call(b"c", "client", 3)
    assert broker.statuses(b"c") == []  # what it message once is remembered
    broker.core.reconsider(broker.now)
    broker.collect()
    assert broker.statuses(b"c") == [Status.NOT_ALLOWED] * 3
    assert len(broker.workers) == 1
    allowed.clear()
    broker.core.reconsider(broker.now)
    assert broker.workers == {}
    assert broker.core.counters.lost_workers == {"not_allowed": 1}
    assert broker.core.statistics(broker.now).ended == {"not_allowed": 3}


def test_S8_a_peer_that_takes_the_routing_id_of_a_closed_connection_gets_no_later_answer():
    """The broker hears that the connection is closed before it gives the worker anything more."""
    broker = SecuredBroker()
    broker.ready(b"w", "worker1")
    broker.call(b"c", "client", 1)
    broker.take(b"w")
    broker.core.on_connection_closed(b"w", broker.now)
    assert broker.core.counters.lost_workers == {"unreachable": 1}
    broker.call(b"c", "client", 2)
    assert broker.take(b"w") == []
    broker.core.on_connection_closed(b"c", broker.now)
    broker.ready(b"v", "worker1")
    assert broker.take(b"v") == []
    assert broker.core.counters.ended == {"client_gone": 2}
    assert (broker.core.held_bytes, broker.core._state.users) == (0, {b"v": "worker1"})


def test_waiting_clients_are_looked_for_an_interval_after_the_first_one_came():
    """A deadline in the past would cost a pass."""
    broker = GmdpBroker()
    assert broker.core.deadline() == math.inf
    broker.now += 100.0
    broker.ask(MDP02, b"c", b"x")
    assert broker.core.deadline() == broker.now + broker.core.options.heartbeat_interval


def test_S8_a_heartbeat_that_was_decided_for_a_closed_connection_goes_to_nobody():
    """Another peer may have its routing id by now."""
    broker = SecuredBroker()
    for peer in (b"v", b"w"):
        broker.ready(peer, "worker1")
    broker.take(b"w")
    core = broker.core
    core.tick(core.deadline())
    assert [outgoing.frames[0] for outgoing in core._state.outbox] == [b"v", b"w"]
    core.on_connection_closed(b"w", broker.now)
    assert [outgoing.frames[0] for outgoing in core._state.outbox] == [b"v"]


any_messages = st.one_of(
    st.lists(frames_of_any_kind, max_size=12),
    near_misses(st.builds(as_frames, st.binary(max_size=4), valid_messages())),
)


def small_broker():
    """Return a broker with low bounds, a busy and an idle worker, and a queued request."""
    core = BrokerCore(BrokerOptions(max_frames=40, max_frame_size=280), b"noncenon", 0.0)
    core.feed([b"busy", *worker_command(RFC18, "READY", b"s")], 0.0)
    core.feed([b"client", *client_request(RFC7, b"s", [b"1"])], 0.0)
    core.feed([b"client", *client_request(RFC7, b"s", [b"2"])], 0.0)
    core.feed([b"idle", *worker_command(RFC7, "READY", b"other")], 0.0)
    core.take()
    return core


def counted(core):
    """Return how many messages were counted, as dropped or as accepted."""
    counters = core.counters
    return (
        sum(counters.drops.values())
        + counters.requests
        + counters.management
        + counters.registrations
        + counters.partials
        + counters.replies
    )


@settings(STEADY, max_examples=400)
@given(st.sampled_from([b"busy", b"idle", b"client", b"stranger"]), st.data())
def test_a_broker_drops_and_counts_what_it_cannot_read(routing_id, data):
    """B4: each message is counted once, and a malformed one as dropped."""
    core = small_broker()
    frames = data.draw(any_messages.map(lambda frames: [routing_id, *frames[1:]]))
    before = counted(core)
    lost = sum(core.counters.lost_workers.values())
    core.feed(frames, 1.0)
    reasons = core.counters.drops
    if len(frames) > 40:
        assert reasons == {"too_many_frames": 1}
    elif len(frames) >= 3 and max(map(len, frames)) > 280:
        assert reasons == {"frame_too_large": 1}
    elif wire.parse(frames) is None:
        assert reasons == {"malformed": 1}
    if reasons:
        assert counted(core) == before + 1
    else:
        lost_now = sum(core.counters.lost_workers.values()) > lost
        # A registered worker's HEARTBEAT, DISCONNECT and second READY have no counter of their own.
        assert counted(core) == before + 1 or lost_now or routing_id in (b"busy", b"idle")
    if reasons.keys() & {"malformed", "too_many_frames", "frame_too_large"}:
        # "treating that peer as invalid"
        assert routing_id not in core._registry.connections
    counters = core.counters
    assert counters.requests == counters.replies + sum(counters.ended.values()) + core.queued + core.assigned


@settings(STEADY, max_examples=15)
@given(st.sampled_from([b"busy", b"idle", b"stranger"]), huge)
def test_a_broker_drops_messages_of_very_many_frames(routing_id, frames):
    """B4"""
    core = small_broker()
    frames = [routing_id, *frames]
    core.feed(frames, 1.0)
    if len(frames) > 40:
        assert core.counters.drops == {"too_many_frames": 1}
        assert routing_id not in core._registry.connections


@pytest.mark.parametrize("frames", [[], [b""], [b"busy"], [b"busy", b""], [b"", b"", b""]])
def test_a_broker_counts_messages_without_frames(frames):
    """B4"""
    core = small_broker()
    core.feed(frames, 1.0)
    assert core.counters.drops == {"malformed": 1}
    assert (b"busy" in core._registry.connections) == (not frames or frames[0] != b"busy")


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ([b"MDPC02", b"\x01", b"echo", b"x" * 11, b"more"], r"'MDPC02' '\x01' 'echo' 'xxxxxxxxxxx' …)"),
        ([b"MDPC02", b"\x01", b"echo", *[b"x"] * 10, b"x" * 11], r"'MDPC02' '\x01' 'echo' 'x' 'x' 'x' 'x' 'x' …)"),
    ],
)
def test_B7_F2_the_warning_of_a_frame_that_is_too_large_shows_what_was_sent(sent, shown):
    """The socket adds frames, until a message has more than are allowed."""
    broker = ManualBroker(max_frame_size=10, max_frames=20)
    broker.core._checks_size = False
    broker.feed(b"client", [*sent, *[b""] * 20])
    (complaint,) = broker.core.take_refusals()
    assert complaint.text.startswith("a message with a frame of 11 bytes was dropped: max_frame_size=10; ")
    assert complaint.text.endswith(f"or raise the option (it begins: {shown}")
