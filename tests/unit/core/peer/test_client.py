"""A client's core in virtual time: each call's tries and time, and what ends a call."""

import math
import sys

import pytest
from cores import ClientBench, core_with_call
from hypothesis import given, settings
from hypothesis import strategies as st
from models import (
    bodies,
    client_reply,
    dialects,
    frames_of_any_kind,
    near_misses,
    worker_command,
)

from gmdp.client.errors import error_of
from gmdp.core.outcomes import Outcome
from gmdp.core.peer.calls import Call, CallState, Ended, Part
from gmdp.core.peer.client import ClientCore
from gmdp.core.peer.connector import Close, Open, Phase
from gmdp.core.peer.reasons import CloseReason
from gmdp.core.peer.reconnect import Reconnect
from gmdp.core.peer.statistics import ClientCounters
from gmdp.protocol import extension
from gmdp.protocol.dialects import RFC7, RFC18
from gmdp.protocol.extension import CANCEL, Offer, Status, answer_frame, offer_body

PARTIAL = [b"MDPC02", b"\x02", b"it", b"part"]


FINAL = [b"MDPC02", b"\x03", b"it", b"end"]


def test_nothing_is_sent_before_the_connection_stands():
    bench = ClientBench()
    bench.call()
    bench.act()
    assert len(bench.opened) == 1
    assert bench.sent == []
    bench.connected(bench.opened[0], 0.5)
    bench.act()
    assert bench.sent == [(bench.opened[0], [b"MDPC02", b"\x01", b"it", b"x"])]


def test_each_part_of_a_stream_starts_its_timeout_anew():
    bench = ClientBench()
    _call, connection = bench.connected_call(timeout=10.0)
    for now in (9.0, 18.0, 27.0):
        bench.core.tick(now, 0.5)
        bench.feed(connection, PARTIAL, now)
        assert [type(event) for event in bench.act()] == [Part]
    bench.core.tick(36.9, 0.5)
    assert bench.act() == []
    bench.core.tick(37.0, 0.5)
    (ended,) = bench.act()
    assert ended.outcome is Outcome.TIMEOUT


@pytest.mark.parametrize("retries", [10**6, sys.maxsize, 10**400])
@pytest.mark.parametrize(("timeout", "tries"), [(2.0, 20), (0.3, 3), (0.15, 1), (0.05, 1)])
@pytest.mark.parametrize("bounded", [True, False])
def test_X1_a_try_lasts_at_least_a_tenth_of_a_second(retries, timeout, tries, bounded):
    bench = ClientBench()
    call, _ = bench.extended_call(timeout=timeout, retries=retries, deadline=timeout if bounded else math.inf)
    at = []
    while call.state is not CallState.DONE:
        now = bench.core.deadline()
        bench.core.tick(now, 0.5)
        at.append(now)
        (ended,) = bench.act() or (None,)
    assert [now - earlier for earlier, now in zip([0.0, *at], at, strict=False)] == pytest.approx(
        [timeout / tries] * tries
    )
    assert ended.outcome is Outcome.TIMEOUT
    assert call.tries == tries == len(bench.sent) - (bench.sent[-1][1][0][6] == CANCEL)
    assert "(a try lasts at least 0.1 s)" in str(error_of(ended, at[-1]))


def test_X1_retries_that_fit_into_the_timeout_are_all_made():
    bench = ClientBench()
    call, _ = bench.extended_call(timeout=1.0, retries=9)
    assert (call.retries, call.retries_cut) == (9, False)
    assert (Call(b"it", [b"x"], timeout=0.01).retries, Call(b"it", [b"x"], timeout=0.01).retries_cut) == (0, False)


def test_the_deadline_of_a_stream_holds_while_parts_come():
    bench = ClientBench()
    _call, connection = bench.connected_call(timeout=10.0, deadline=15.0)
    bench.feed(connection, PARTIAL, 9.0)
    bench.act()
    assert bench.core.deadline() == 15.0
    bench.core.tick(15.0, 0.5)
    (ended,) = bench.act()
    assert ended.outcome is Outcome.TIMEOUT
    assert bench.closed == [connection]


def test_a_call_given_up_takes_its_connection_with_it():
    """So a late reply reaches no other call (C3)."""
    bench = ClientBench()
    _call, connection = bench.connected_call(timeout=1.0)
    bench.core.tick(1.0, 0.5)
    bench.act()
    assert bench.closed == [connection]
    other = bench.call(now=1.0)
    bench.act()
    bench.feed(connection, FINAL, 1.1)
    assert bench.act() == []
    bench.connected(bench.opened[-1], 1.2)
    bench.act()
    bench.feed(bench.opened[-1], FINAL, 1.3)
    assert bench.act() == [Part(other, [b"end"], True)]


def test_each_try_has_its_share_of_the_time():
    bench = ClientBench()
    call, _ = bench.connected_call(timeout=9.0, retries=2)
    for now, tries in ((3.0, 2), (6.0, 3)):
        bench.core.tick(now - 0.01, 0.5)
        assert call.tries == tries - 1
        bench.core.tick(now, 0.5)
        assert bench.act() == []
        assert call.tries == tries
        bench.connected(bench.opened[-1], now)
        bench.act()
    bench.core.tick(9.0, 0.5)
    assert [event.outcome for event in bench.act()] == [Outcome.TIMEOUT]
    assert len(bench.sent) == 3
    assert len({id(connection) for connection, _ in bench.sent}) == 3


def test_no_retry_after_a_part_was_delivered():
    bench = ClientBench()
    _call, connection = bench.connected_call(timeout=9.0, retries=5)
    bench.feed(connection, PARTIAL, 0.1)
    bench.act()
    bench.core.on_disconnected(connection, CloseReason.CONNECTION_CLOSED, 0.2, 0.5)
    (ended,) = bench.act()
    assert ended.outcome is Outcome.BROKER_LOST


def test_B3_an_answer_is_not_put_together_from_two_runs():
    """The client read too slowly, so the end of the first run's answer was lost, and its retry had gone
    out by then.  The call ends with that, and gets no parts of another run."""
    bench = ClientBench()
    call, connection = bench.extended_call(timeout=9.0, retries=2)
    bench.core.tick(3.0, 0.5)
    bench.act()
    assert [extension.read_call(frames[0]).attempt for _, frames in bench.sent] == [1, 2]

    def part(of):
        frame = answer_frame(bench.sent[0][1][0], Status.PARTIAL, of, 1)
        bench.feed(connection, [frame, b"", *PARTIAL], 3.1)
        return bench.act()

    assert [type(event) for event in part(1) + part(1)] == [Part, Part]
    (ended,) = part(2)
    assert (ended.call, ended.outcome) == (call, Outcome.OVERLOADED)
    assert "read too slowly" in ended.detail
    assert extension.read_call(bench.sent[-1][1][0]).flags == CANCEL
    assert part(2) == []


@pytest.mark.parametrize("late", [False, True])
def test_a_handler_that_fails_because_the_time_is_up_did_not_fail(late):
    """The worker stops the handler at the very moment (`enforce_deadline`), and reports a failure."""
    bench = ClientBench()
    call, connection = bench.extended_call(timeout=3.0, deadline=3.0)
    ((_, (frame, *_)),) = bench.sent
    bench.feed(
        connection, [answer_frame(frame, Status.HANDLER_FAILED, 1, 1), b"", *FINAL[:3], b""], 3.0 if late else 2.9
    )
    (ended,) = bench.act()
    assert (ended.call, ended.outcome) == (call, Outcome.TIMEOUT if late else Outcome.HANDLER_FAILED)


@pytest.mark.parametrize(("now", "outcome"), [(7.7, Outcome.EXPIRED), (7.8, Outcome.TIMEOUT), (8.0, Outcome.TIMEOUT)])
def test_L4_what_expires_shortly_before_the_caller_gives_up_is_a_timeout_with_the_broker_s_words(now, outcome):
    bench = ClientBench()
    _, connection = bench.extended_call(timeout=8.0, deadline=8.0)
    words = extension.reason_bytes("it was queued all that time")
    frame = extension.with_fields(answer_frame(bench.sent[0][1][0], Status.EXPIRED, 1, 0), words)
    bench.feed(connection, [frame, b"", *FINAL[:3], b""], now)
    (ended,) = bench.act()
    assert (ended.outcome, ended.detail) == (outcome, "it was queued all that time")


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"MDPC02"],
        [b"MDPC02", b"\x01", b"it", b"x"],
        [b"MDPC02", b"\x03", b"other", b"x"],
        [b"MDPC02", b"\x03", b"it"],
        [b"", b"MDPC01", b"it", b"x"],
        [b"MDPW02", b"\x03", b"it", b"x"],
    ],
)
def test_a_message_that_answers_no_call_is_counted_and_dropped(frames):
    bench = ClientBench()
    call, connection = bench.connected_call()
    bench.feed(connection, frames, 0.1)
    assert bench.act() == []
    assert bench.core.counters.malformed == 1
    bench.feed(connection, FINAL, 0.2)
    assert bench.act() == [Part(call, [b"end"], True)]


def test_a_reply_of_0_1_is_one_part():
    bench = ClientBench(dialect=RFC7)
    call, connection = bench.connected_call()
    bench.feed(connection, [b"", b"MDPC01", b"it", b"a", b"b"], 0.1)
    assert bench.act() == [Part(call, [b"a", b"b"], True)]


def test_counters_add_up_whatever_happens():
    bench = ClientBench(most=2)
    calls = [bench.call(timeout=5.0) for _ in range(6)]
    bench.act()
    bench.connected(bench.opened[0], 0.0)
    bench.act()
    bench.feed(bench.opened[0], FINAL, 0.1)
    bench.act()
    bench.core.cancel(calls[3], Outcome.CANCELLED, 0.2)
    bench.core.tick(5.0, 0.5)
    bench.call(now=5.0)
    bench.core.close(5.1)
    ended = [event for event in bench.act() if isinstance(event, Ended)]
    assert {event.outcome for event in ended} == {Outcome.CANCELLED, Outcome.TIMEOUT, Outcome.CLOSED}
    now = bench.core.statistics()
    assert now.requests == 7 == now.replies + now.timeouts + now.cancelled + now.errors
    assert (now.in_flight, now.waiting, now.sockets) == (0, 0, 0)
    assert bench.core.deadline() == math.inf


@pytest.mark.parametrize("retries", [0, 1])
def test_a_message_on_a_lost_connection_reaches_no_call(retries):
    """C3: messages that the owner still reads from it reach no call."""
    core, _, connection = core_with_call(retries)
    core.on_disconnected(connection, CloseReason.CONNECTION_CLOSED, 1.0, 0.5)
    core.events.clear()
    core.feed(connection, client_reply(RFC18, b"s", [b"late"]), 1.0, 0.5)
    assert core.events == []
    assert core.counters.replies == 0
    assert core.statistics().waiting == retries


def test_a_message_after_close_reaches_no_call():
    """C6"""
    core, _, connection = core_with_call()
    core.close(1.0)
    assert [event.outcome for event in core.events] == [Outcome.CLOSED]
    core.feed(connection, client_reply(RFC18, b"s", [b"late"]), 1.0, 0.5)
    assert len(core.events) == 1
    assert core.counters.replies == 0


def test_a_message_after_a_timeout_reaches_no_call():
    """C3"""
    core, _, connection = core_with_call()
    core.tick(10.0, 0.5)
    assert [event.outcome for event in core.events] == [Outcome.TIMEOUT]
    assert core.actions == [Close(connection, CloseReason.CALL_WITHDRAWN)]
    core.feed(connection, client_reply(RFC18, b"s", [b"late"]), 11.0, 0.5)
    assert len(core.events) == 1


def test_a_call_that_has_a_part_is_not_tried_again():
    """W1: once a part went out, the call ends with the loss."""
    core, call, connection = core_with_call(retries=3)
    core.feed(connection, client_reply(RFC18, b"s", [b"part"], final=False), 1.0, 0.5)
    core.on_disconnected(connection, CloseReason.CONNECTION_CLOSED, 2.0, 0.5)
    assert [event.outcome for event in core.events[1:]] == [Outcome.BROKER_LOST]
    assert call.tries == 1


def test_a_reply_that_names_another_service_is_no_reply():
    core, call, connection = core_with_call()
    core.feed(connection, client_reply(RFC18, b"other", [b"body"]), 1.0, 0.5)
    assert core.events == []
    assert core.counters.malformed == 1
    assert call.state is CallState.SENT


def leaves(bench, connection, call, how):
    """The broker says that it takes no more calls: in an answer to this call, or by its offer."""
    if how == "leaving":
        offer = offer_body(Offer(100, 100, 100, 10_000, 1.0, leaving=True))
        bench.feed(connection, [b"MDPC02", b"\x03", b"mmi.gmdp", *offer], 1.0)
    else:
        frame = answer_frame(extension.call_frame(call.identity), Status[how], 1, 0)
        bench.feed(connection, [frame, b"", b"MDPC02", b"\x03", b"it", b""], 1.0)
    return bench.act()


@pytest.mark.parametrize("how", ["NOT_RUN", "SHUTTING_DOWN", "leaving"])
@pytest.mark.parametrize("others", [0, 1])
def test_L8_a_connection_to_a_broker_that_leaves_is_closed_after_its_last_call(how, others):
    """Also if the broker said so in the answer to a call that has ended already."""
    bench = ClientBench()
    call, connection = bench.extended_call()
    other = bench.call() if others else None
    bench.core.cancel(call, Outcome.CANCELLED, 0.5)
    bench.act()
    assert leaves(bench, connection, call, how) == []
    if other is not None:
        assert (bench.closed, bench.core.statistics().sockets) == ([], 1)
        bench.core.cancel(other, Outcome.CANCELLED, 2.0)
        bench.act()
    assert bench.closed == [connection]
    assert bench.core.statistics().sockets == 0


def test_a_stream_of_many_parts_costs_no_memory():
    """A call's timer is armed at every part; the stale entries are bounded."""
    core, call, connection = core_with_call(deadline=60.0)
    for part in range(20_000):
        core.feed(connection, client_reply(RFC18, b"s", [b"part"], final=False), part / 1000, 0.5)
        core.events.clear()
    assert call.parts == 20_000
    assert len(core._timers._heap) <= 5_000


STEADY = settings(derandomize=False, deadline=None, database=None, max_examples=150)


broker_says = st.one_of(
    st.lists(frames_of_any_kind, max_size=8),
    st.builds(client_reply, dialects, st.just(b"s"), bodies),
    st.builds(lambda d, b: worker_command(d, "REQUEST", b"address", b"", *b), dialects, bodies),
    st.builds(worker_command, dialects, st.sampled_from(["HEARTBEAT", "DISCONNECT", "READY"])),
)


@settings(STEADY, max_examples=400)
@given(dialects, st.booleans(), st.lists(st.one_of(broker_says, near_misses(broker_says)), max_size=4))
def test_a_client_reads_or_counts_any_frames(dialect, asked, messages):
    """B4, from the other side: at most one outcome, and every message is counted."""
    core = ClientCore(dialect, Reconnect(["one"], 0.5), 3, ClientCounters(), nonce=bytes(16), max_in_flight=10)
    call = Call(b"s", [b"body"], timeout=10.0)
    core.submit(call, 0.0)
    (connection,) = [action.connection for action in core.actions if isinstance(action, Open)]
    core.on_connected(connection, 0.0)
    if connection.phase is Phase.PROBING:
        core.feed(connection, dialect.reply(b"mmi.gmdp", [b"501"]), 0.0, 0.5)
    if not asked:
        core.cancel(call, Outcome.CANCELLED, 0.0)
        messages = []  # its connection is closed
    core.events.clear()
    for frames in messages:
        core.feed(connection, frames, 1.0, 0.5)
    counters = core.counters
    assert counters.malformed + counters.partials + counters.replies == len(messages)
    assert len(core.events) == counters.partials + counters.replies
    assert counters.replies <= (1 if asked else 0)
    if counters.replies:
        assert core.events[-1].final


def detail_of_timeout(bench, now):
    """Why the only open call has no answer, once its time is up at `now`."""
    bench.core.tick(now, 0.5)
    (ended,) = bench.act()
    assert ended.outcome is Outcome.TIMEOUT
    return ended.detail


def test_F9_a_timeout_says_at_which_endpoint_no_broker_answered():
    bench = ClientBench()
    bench.call(timeout=3.0)
    assert detail_of_timeout(bench, 3.0) == "no broker answered at tcp://a:1: not connected yet"

    bench = ClientBench(endpoints=("tcp://a:1", "tcp://b:2"))
    bench.call(timeout=3.0)
    for number in range(2):
        bench.act()
        bench.core.on_disconnected(bench.opened[number], CloseReason.CONNECTION_REFUSED, 1.0, 0.5)
    at_b = "no broker answered at tcp://b:2: connection refused (the last that was tried of 2 endpoints)"
    assert detail_of_timeout(bench, 3.0) == at_b


def test_F9_a_timeout_says_that_a_broker_had_answered_before():
    bench = ClientBench()
    _, connection = bench.extended_call(timeout=3.0)
    assert detail_of_timeout(bench, 3.0) == "no reply, though the broker at tcp://a:1 has answered before"

    bench.core.on_disconnected(connection, CloseReason.CONNECTION_CLOSED, 4.0, 0.5)
    bench.call(now=4.0, timeout=3.0)
    bench.core.tick(5.0, 0.5)
    bench.act()
    bench.core.on_disconnected(bench.opened[-1], CloseReason.CONNECTION_REFUSED, 5.0, 0.5)
    refused = "no broker answered at tcp://a:1: connection refused; a broker had answered before"
    assert detail_of_timeout(bench, 7.0) == refused


def test_L8_a_timeout_says_that_the_broker_had_announced_its_stop():
    bench = ClientBench()
    call, connection = bench.extended_call(timeout=3.0)
    assert leaves(bench, connection, call, "leaving") == []
    assert detail_of_timeout(bench, 3.0) == "no reply; the broker at tcp://a:1 had announced its stop"

    bench.call(now=3.0, timeout=3.0)
    bench.core.tick(5.0, 0.5)
    bench.act()
    bench.core.on_disconnected(bench.opened[-1], CloseReason.CONNECTION_REFUSED, 5.0, 0.5)
    announced = (
        "the broker at tcp://a:1 had announced its stop, and no broker answered at tcp://a:1: connection refused"
    )
    assert detail_of_timeout(bench, 6.0) == announced

    # A broker that is back has announced nothing.
    bench.call(now=6.0, timeout=3.0)
    bench.core.tick(8.0, 0.5)
    bench.act()
    bench.connected(bench.opened[-1], 8.0)
    assert detail_of_timeout(bench, 9.0) == "no reply, though the broker at tcp://a:1 has answered before"
    bench.call(now=9.0, timeout=3.0)
    bench.act()
    bench.core.on_disconnected(bench.opened[-1], CloseReason.CONNECTION_REFUSED, 9.0, 0.5)
    assert "announced" not in detail_of_timeout(bench, 12.0)


FAIL = extension.FAIL_WITHOUT_WORKER


def ends(bench):
    """How calls have ended since the last time: (call, outcome, detail)."""
    return [(event.call, event.outcome, event.detail) for event in bench.act() if isinstance(event, Ended)]


@pytest.mark.parametrize("how", ["NOT_RUN", "leaving"])
def test_L8_a_call_that_is_to_fail_without_a_worker_does_not_wait_for_a_lone_broker_s_return(how):
    """Neither do those that come later, during the drain; others wait."""
    bench = ClientBench()
    call, connection = bench.extended_call(flags=FAIL, timeout=60.0)
    doomed = (Outcome.SHUTTING_DOWN, "every broker has announced its stop")
    patient = bench.call(timeout=60.0)
    events = leaves(bench, connection, call, how)
    if how == "leaving":  # the broker has accepted the call, and may still answer
        assert events == []
        bench.core.cancel(call, Outcome.CANCELLED, 1.0)
        bench.act()
    else:
        assert [(event.call, event.outcome, event.detail) for event in events] == [(call, *doomed)]
    later = bench.call(now=1.1, flags=FAIL, timeout=60.0)
    assert ends(bench) == [(later, *doomed)]
    # Once the broker may be tried again, its answer to the probe decides.
    bench.core.cancel(patient, Outcome.CANCELLED, 1.2)
    bench.core.tick(9.0, 0.5)
    bench.act()
    last = bench.call(now=9.0, flags=FAIL, timeout=60.0)
    patient = bench.call(now=9.0, timeout=60.0)
    assert ends(bench) == []
    bench.core.on_connected(bench.opened[-1], 9.0)
    offer = offer_body(Offer(100, 100, 100, 10_000, 1.0, leaving=True))
    bench.feed(bench.opened[-1], [b"MDPC02", b"\x03", b"mmi.gmdp", *offer], 9.1)
    assert ends(bench) == [(last, *doomed)]
    assert patient.state is CallState.WAITING


def trying_again(endpoints=("tcp://a:1",)):
    """A client whose brokers have announced their stop, and which tries them again for a call; the time is 100.0."""
    bench = ClientBench(endpoints=endpoints)
    bench.call(timeout=1.0)
    bench.act()
    for _ in endpoints:
        bench.core.on_connected(bench.opened[-1], 0.0)
        offer = offer_body(Offer(100, 100, 100, 10_000, 1.0, leaving=True))
        bench.feed(bench.opened[-1], [b"MDPC02", b"\x03", b"mmi.gmdp", *offer], 0.0)
        bench.act()
    bench.core.tick(99.0, 0.5)
    bench.act()
    call = bench.call(now=100.0, flags=FAIL, timeout=60.0)
    assert ends(bench) == []
    assert bench.opened[-1].phase is Phase.CONNECTING
    return bench, call


def known_as(bench, addresses, now=0.0):
    """Answer the look-up of the name of the connection opened last."""
    bench.core.on_lookup(bench.opened[-1], now)
    bench.core.on_looked_up(bench.opened[-1], addresses, "", now, 0.5)
    bench.act()


STOPPED = (Outcome.SHUTTING_DOWN, "every broker has announced its stop")


def test_L8_a_call_that_is_to_fail_waits_for_one_try_of_a_broker_that_has_left():
    """However long the broker has been away."""
    bench, call = trying_again()
    bench.core.on_disconnected(bench.opened[-1], CloseReason.CONNECTION_REFUSED, 100.1, 0.5)
    assert ends(bench) == [(call, *STOPPED)]
    # Calls that come soon after the try need no other; the first that comes later makes one, before its wait is over.
    for now in (100.2, 101.0):
        call = bench.call(now=now, flags=FAIL, timeout=60.0)
        assert ends(bench) == [(call, *STOPPED)]
    opened = len(bench.opened)
    call = bench.call(now=101.15, flags=FAIL, timeout=60.0)
    assert ends(bench) == []
    assert len(bench.opened) == opened + 1
    bench.core.on_disconnected(bench.opened[-1], CloseReason.NO_CONNECTION_IN_TIME, 106.2, 0.5)
    assert ends(bench) == [(call, *STOPPED)]


def test_L8_a_call_that_is_to_fail_is_sent_to_the_broker_that_is_back():
    bench, call = trying_again()
    bench.core.on_connected(bench.opened[-1], 100.1)
    offer = offer_body(Offer(100, 100, 100, 10_000, 1.0))
    bench.feed(bench.opened[-1], [b"MDPC02", b"\x03", b"mmi.gmdp", *offer], 100.1)
    assert ends(bench) == []
    assert call.state is CallState.SENT
    # It has announced nothing since: where it is lost, calls wait for its return.
    bench.core.on_disconnected(bench.opened[-1], CloseReason.CONNECTION_CLOSED, 200.0, 0.5)
    bench.act()
    call = bench.call(now=200.1, flags=FAIL, timeout=60.0)
    assert ends(bench) == []
    assert call.state is CallState.WAITING


def test_L8_a_call_that_is_to_fail_waits_for_a_try_of_each_broker():
    bench, call = trying_again(("tcp://a:1", "tcp://b:1"))
    bench.core.on_disconnected(bench.opened[-1], CloseReason.CONNECTION_REFUSED, 100.1, 0.5)
    assert ends(bench) == []
    bench.core.on_disconnected(bench.opened[-1], CloseReason.CONNECTION_REFUSED, 100.1, 0.5)
    assert ends(bench) == [(call, *STOPPED)]


ADDRESSES = ("tcp://127.0.0.1:1", "tcp://[::1]:1")


@pytest.mark.parametrize("addresses", [ADDRESSES, ADDRESSES[::-1]])
def test_L8_a_broker_that_leaves_has_left_though_its_name_has_another_address(addresses):
    """Nobody listens at the other one, be it tried before or after."""
    bench = ClientBench(endpoints=("tcp://name:1",))
    call = bench.call(flags=FAIL, timeout=60.0)
    bench.act()
    ended = []
    for _ in addresses:
        assert ended == []
        known_as(bench, addresses)
        connection = bench.opened[-1]
        if connection.address == ADDRESSES[0]:
            bench.core.on_connected(connection, 0.0)
            offer = offer_body(Offer(100, 100, 100, 10_000, 1.0, leaving=True))
            bench.feed(connection, [b"MDPC02", b"\x03", b"mmi.gmdp", *offer], 0.0)
        else:
            bench.core.on_disconnected(connection, CloseReason.CONNECTION_REFUSED, 0.0, 0.5)
        ended = ends(bench)
    assert ended == [(call, *STOPPED)]


def test_L8_a_call_that_is_to_fail_goes_to_the_name_s_other_broker():
    """The name stands for two brokers, and one leaves."""
    bench = ClientBench(endpoints=("tcp://name:1",))
    call = bench.call(flags=FAIL, timeout=60.0)
    bench.act()
    for leaving in (True, False):
        known_as(bench, ADDRESSES)
        bench.core.on_connected(bench.opened[-1], 0.0)
        offer = offer_body(Offer(100, 100, 100, 10_000, 1.0, leaving=leaving))
        bench.feed(bench.opened[-1], [b"MDPC02", b"\x03", b"mmi.gmdp", *offer], 0.0)
        assert ends(bench) == []
    assert (call.state, call.connection.address) == (CallState.SENT, ADDRESSES[1])
    # The first one's stop is forgotten.
    bench.core.on_disconnected(bench.opened[-1], CloseReason.CONNECTION_CLOSED, 9.0, 0.5)
    bench.act()
    call = bench.call(now=9.0, flags=FAIL, timeout=60.0)
    known_as(bench, ADDRESSES, 9.0)
    bench.core.on_disconnected(bench.opened[-1], CloseReason.CONNECTION_REFUSED, 9.0, 0.5)
    assert ends(bench) == []
    assert call.state is CallState.WAITING


def test_L8_a_call_that_is_to_fail_goes_to_the_broker_that_stays():
    bench = ClientBench(endpoints=("tcp://a:1", "tcp://b:2"))
    call, connection = bench.extended_call(flags=FAIL, timeout=60.0)
    assert leaves(bench, connection, call, "NOT_RUN") == []
    bench.core.on_connected(bench.opened[-1], 1.0)
    offer = offer_body(Offer(100, 100, 100, 10_000, 1.0))
    bench.feed(bench.opened[-1], [b"MDPC02", b"\x03", b"mmi.gmdp", *offer], 1.0)
    bench.act()
    assert call.connection is bench.opened[-1]
    assert call.connection.endpoint == "tcp://b:2"


def test_L8_a_call_that_is_to_fail_waits_for_a_broker_that_has_announced_nothing():
    """One broker leaves, the other cannot be reached at present."""
    bench = ClientBench(endpoints=("tcp://a:1", "tcp://b:2"))
    call = bench.call(flags=FAIL, timeout=60.0)
    bench.act()
    bench.core.on_disconnected(bench.opened[0], CloseReason.CONNECTION_REFUSED, 0.0, 0.5)
    bench.act()
    bench.core.on_connected(bench.opened[1], 0.0)
    offer = offer_body(Offer(100, 100, 100, 10_000, 1.0, leaving=True))
    bench.feed(bench.opened[1], [b"MDPC02", b"\x03", b"mmi.gmdp", *offer], 0.0)
    assert ends(bench) == []
    assert call.state is CallState.WAITING


def test_L8_a_call_lost_at_a_broker_that_had_announced_its_stop_says_so():
    bench = ClientBench()
    call, connection = bench.extended_call(timeout=60.0)
    leaves(bench, connection, call, "leaving")
    bench.core.on_disconnected(connection, CloseReason.CONNECTION_CLOSED, 2.0, 0.5)
    lost = "tcp://a:1: the connection was closed; the broker had announced its stop"
    assert ends(bench) == [(call, Outcome.BROKER_LOST, lost)]
