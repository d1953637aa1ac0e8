"""The client's core in virtual time: whose time runs when, and what ends a call."""

import math

import pytest
from cores import MDP02, ManualClient

from gmdp.core.outcomes import Outcome
from gmdp.core.peer.calls import Call, CallState, Ended, Part
from gmdp.core.peer.client import ClientCore
from gmdp.core.peer.connector import Close, Open, Phase, Send
from gmdp.core.peer.reasons import CloseReason
from gmdp.core.peer.reconnect import Reconnect
from gmdp.core.peer.statistics import ClientCounters
from gmdp.protocol import extension
from gmdp.protocol.dialects import RFC7, RFC18
from gmdp.protocol.extension import CANCEL, Offer, Status, answer_frame, offer_body

PARTIAL = [b"MDPC02", b"\x02", b"it", b"part"]
FINAL = [b"MDPC02", b"\x03", b"it", b"end"]


class Bench:
    """A core, and the connections it opened to brokers that speak an RFC only."""

    def __init__(self, dialect=RFC18, endpoints=("tcp://a:1",), most=4):
        self.core = ClientCore(
            dialect, Reconnect(endpoints, 1.0), most, ClientCounters(), nonce=bytes(16), max_in_flight=1000
        )
        self.opened = []
        self.closed = []
        self.sent = []

    def act(self):
        actions, events = self.core.take()
        for action in actions:
            if isinstance(action, Open):
                self.opened.append(action.connection)
            elif isinstance(action, Close):
                self.closed.append(action.connection)
            elif isinstance(action, Send) and b"mmi.gmdp" not in action.frames:
                self.sent.append((action.connection, action.frames))
        return events

    def connected(self, connection, now):
        """It stands, and the probe is answered as a broker of the RFC's does."""
        self.core.on_connected(connection, now)
        if connection.phase is Phase.PROBING:
            self.feed(connection, self.core.dialect.reply(b"mmi.gmdp", [b"501"]), now)

    def feed(self, connection, frames, now):
        self.core.feed(connection, frames, now, 0.5)

    def call(self, now=0.0, **limits):
        call = Call(b"it", [b"x"], **{"timeout": 10.0, **limits})
        self.core.submit(call, now)
        return call

    def connected_call(self, **limits):
        call = self.call(**limits)
        self.act()
        self.connected(self.opened[-1], 0.0)
        self.act()
        return call, self.opened[-1]

    def extended_call(self, **limits):
        """The same, and its broker speaks the extension."""
        call = self.call(**limits)
        self.act()
        (connection,) = self.opened
        self.core.on_connected(connection, 0.0)
        offer = offer_body(Offer(100, 100, 100, 10_000, 1.0))
        self.feed(connection, [b"MDPC02", b"\x03", b"mmi.gmdp", *offer], 0.0)
        self.act()
        return call, connection


def test_nothing_is_sent_before_the_connection_stands():
    bench = Bench()
    bench.call()
    bench.act()
    assert len(bench.opened) == 1
    assert bench.sent == []
    bench.connected(bench.opened[0], 0.5)
    bench.act()
    assert bench.sent == [(bench.opened[0], [b"MDPC02", b"\x01", b"it", b"x"])]


def test_each_part_of_a_stream_starts_its_timeout_anew():
    bench = Bench()
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


def test_the_deadline_of_a_stream_holds_while_parts_come():
    bench = Bench()
    _call, connection = bench.connected_call(timeout=10.0, deadline=15.0)
    bench.feed(connection, PARTIAL, 9.0)
    bench.act()
    assert bench.core.deadline() == 15.0
    bench.core.tick(15.0, 0.5)
    (ended,) = bench.act()
    assert ended.outcome is Outcome.TIMEOUT
    assert bench.closed == [connection]


def test_a_call_given_up_takes_its_connection_with_it():
    """So a late reply finds nobody (C3)."""
    bench = Bench()
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
    bench = Bench()
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
    bench = Bench()
    _call, connection = bench.connected_call(timeout=9.0, retries=5)
    bench.feed(connection, PARTIAL, 0.1)
    bench.act()
    bench.core.on_disconnected(connection, CloseReason.CONNECTION_CLOSED, 0.2, 0.5)
    (ended,) = bench.act()
    assert ended.outcome is Outcome.BROKER_LOST


def test_B3_an_answer_is_not_put_together_from_two_runs():
    """The end of the first run's answer was lost on the way to a client that read too slowly, and
    its retry had gone out by then: it hears that, and no other run's parts."""
    bench = Bench()
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
    """The worker stops it at the very moment (`enforce_deadline`), and says so."""
    bench = Bench()
    call, connection = bench.extended_call(timeout=3.0, deadline=3.0)
    ((_, (frame, *_)),) = bench.sent
    bench.feed(
        connection, [answer_frame(frame, Status.HANDLER_FAILED, 1, 1), b"", *FINAL[:3], b""], 3.0 if late else 2.9
    )
    (ended,) = bench.act()
    assert (ended.call, ended.outcome) == (call, Outcome.TIMEOUT if late else Outcome.HANDLER_FAILED)


def test_while_no_broker_answers_one_connection_at_a_time_is_tried():
    bench = Bench(most=10)
    for _ in range(10):
        bench.call(timeout=100.0)
    bench.act()
    assert len(bench.opened) == 1
    now = 0.0
    for attempt in range(2, 6):
        bench.core.on_disconnected(bench.opened[-1], CloseReason.CONNECTION_REFUSED, now, 1.0)
        bench.act()
        now = bench.core.deadline()
        bench.core.tick(now, 1.0)
        bench.act()
        assert len(bench.opened) == attempt
    assert now == 1 + 2 + 4 + 8
    bench.connected(bench.opened[-1], now)
    bench.act()
    assert len(bench.opened) == 5 + 9


def test_a_connection_that_never_comes_is_given_up_and_the_next_endpoint_tried():
    bench = Bench(endpoints=("tcp://a:1", "tcp://b:1"))
    call = bench.call(timeout=100.0)
    bench.act()
    assert bench.core.deadline() == bench.core.connect_timeout
    bench.core.tick(bench.core.connect_timeout, 0.5)
    bench.act()
    assert [connection.endpoint for connection in bench.opened] == ["tcp://a:1", "tcp://b:1"]
    assert call.tries == 1


def test_one_lost_connection_retires_the_idle_ones_of_its_time():
    """They were of one broker: the next call goes where the next connection goes."""
    bench = Bench(endpoints=("tcp://a:1", "tcp://b:1"))
    first, connection = bench.connected_call()
    second = bench.call()
    bench.act()
    bench.connected(bench.opened[1], 0.1)
    bench.feed(bench.opened[1], FINAL, 0.2)
    assert [event.call for event in bench.act()] == [second]
    bench.core.on_disconnected(connection, CloseReason.CONNECTION_CLOSED, 0.3, 0.5)
    (ended,) = bench.act()
    assert (ended.call, ended.outcome) == (first, Outcome.BROKER_LOST)
    assert set(bench.closed) == {connection, bench.opened[1]}
    bench.call(now=0.3)
    bench.act()
    assert bench.opened[-1].endpoint == "tcp://b:1"


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
def test_what_is_no_answer_to_the_call_is_counted_and_dropped(frames):
    bench = Bench()
    call, connection = bench.connected_call()
    bench.feed(connection, frames, 0.1)
    assert bench.act() == []
    assert bench.core.counters.malformed == 1
    bench.feed(connection, FINAL, 0.2)
    assert bench.act() == [Part(call, [b"end"], True)]


def test_a_reply_of_0_1_is_one_part():
    bench = Bench(dialect=RFC7)
    call, connection = bench.connected_call()
    bench.feed(connection, [b"", b"MDPC01", b"it", b"a", b"b"], 0.1)
    assert bench.act() == [Part(call, [b"a", b"b"], True)]


def test_counters_add_up_whatever_happens():
    bench = Bench(most=2)
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


def test_a_connection_that_stands_when_its_broker_was_given_up_is_closed():
    """Two are being made to a broker that is silent; it is given up for another; then the second stands after all."""
    client = ManualClient(MDP02, connections=4, endpoints=("tcp://one", "tcp://two"))
    first = client.submit(b"echo", b"1", timeout=3.0)
    (opened,) = client.take()
    client.core.on_connected(opened.connection, client.now)
    client.advance(1.0)  # the probe is not answered
    second = client.submit(b"echo", b"2", timeout=30.0)
    (another,) = [action.connection for action in client.take() if isinstance(action, Open)]
    client.advance(2.0)  # nor is the call
    assert first.state is CallState.DONE
    client.core.on_connected(another, client.now)
    offer = offer_body(Offer(10, 10, 100, 1000, 2.5))
    client.core.feed(another, MDP02.client_final(b"mmi.gmdp", *offer), client.now, 0.5)
    assert another.phase is Phase.CLOSED
    assert client.core.deadline() > client.now
    ((connection, frames),) = client.connect()
    assert (connection.endpoint, frames) == ("tcp://two", MDP02.client_request(b"echo", b"2"))
    assert second.state is CallState.SENT
