"""Flow control of streams in the cores of clients and workers."""

import math

import pytest
from cores import ClientBench, deadlines

from gmdp.core.outcomes import Outcome
from gmdp.core.peer.calls import Call, Ended
from gmdp.core.peer.client import MOST_LOOK, ClientCore
from gmdp.core.peer.connector import Send
from gmdp.core.peer.reasons import GoneReason
from gmdp.core.peer.reconnect import Reconnect
from gmdp.core.peer.sessions import CallerGone, Failure, Resumed, Work
from gmdp.core.peer.statistics import ClientCounters, WorkerCounters
from gmdp.core.peer.worker import WorkerCore
from gmdp.protocol import extension, token
from gmdp.protocol.dialects import RFC7, RFC18
from gmdp.protocol.extension import INITIAL_CREDIT, Feature, Offer, Status, offer_body

WINDOW = 4 * INITIAL_CREDIT
#: A part of this size, with its frame, weighs 10,000.
SIZE = 10_000 - 64


class StreamBench(ClientBench):
    """A client core with an extended connection."""

    def __init__(self, dialect=RFC18, features=Feature.CREDITS, shared=10**9, stall=40.0):
        super().__init__(dialect)
        self.now = 0.0
        self.core = ClientCore(
            dialect,
            Reconnect(["a"], 1.0),
            4,
            ClientCounters(),
            nonce=bytes(16),
            max_in_flight=1000,
            stream_window=WINDOW,
            stream_bytes=shared,
        )
        self.offer = Offer(100, 100, 1000, 10**7, 1.0, 2, features, stream_stall_timeout=stall)

    def begin(self, **limits):
        """A call that was sent."""
        first = not self.opened
        call = self.call(self.now, **limits)
        self.act()
        if first:
            (self.connection,) = self.opened
            self.core.on_connected(self.connection, 0.0)
            offer = self.core.dialect.reply(b"mmi.gmdp", offer_body(self.offer))
            self.feed(self.connection, offer, 0.0)
            self.act()
        return call

    def frames(self):
        """The call frames sent since the last time, read."""
        sent, self.sent = self.sent, []
        return [extension.read_call(frames[0]) for _, frames in sent]

    def part(self, call, size=SIZE, count=1):
        """`count` parts of the answer come."""
        for _ in range(count):
            frame = extension.call_frame(call.identity)
            frame = extension.answer_frame(frame, Status.PARTIAL, 1, 1)
            self.feed(self.connection, [frame, b"", b"MDPC02", b"\x02", b"it", b"x" * size], self.now)
        self.events = self.act()

    def take(self, call, weight):
        """The reader takes so much; the credits that are granted then."""
        call.consumed += weight
        if call.consumed >= call.grant_at:
            call.grant_at = math.inf
            self.core.grant(call, self.now)
        return self.granted(call)

    def granted(self, call):
        self.act()
        grants = self.frames()
        assert all(grant.flags == extension.GRANT and grant.id == call.identity for grant in grants)
        return [extension.read_credit(grant.fields) for grant in grants]

    def advance(self, seconds):
        events = []
        end = self.now + seconds
        for now in deadlines(self.core, self.now, end):
            self.now = now
            self.core.tick(now, 0.5)
            events += self.act()
        self.now = end
        return events


@pytest.mark.parametrize(
    ("dialect", "features", "flags"),
    [
        (RFC18, Feature.CREDITS, extension.GRANTS_CREDITS),
        (RFC18, 0, 0),
        (RFC7, Feature.CREDITS, 0),
    ],
    ids=["0.2", "a broker without credits", "0.1: one reply"],
)
def test_a_call_says_whether_its_reader_grants_credits(dialect, features, flags):
    bench = StreamBench(dialect, features)
    call = bench.begin()
    (sent,) = bench.frames()
    assert sent.flags == flags
    assert (call.credit == INITIAL_CREDIT) is (flags != 0)


def test_X9_credits_follow_the_reader_up_to_the_window():
    bench = StreamBench()
    call = bench.begin()
    bench.frames()
    bench.part(call, count=6)
    assert bench.granted(call) == []
    assert bench.take(call, 30_000) == []
    assert bench.take(call, 10_000) == [40_000 + WINDOW]
    # Half a window later, and not before.
    bench.part(call, count=20)
    assert bench.take(call, WINDOW // 2 - 1) == []
    assert bench.take(call, 1) == [40_000 + WINDOW // 2 + WINDOW]


def test_X9_a_part_larger_than_the_window_is_followed_by_another():
    bench = StreamBench()
    call = bench.begin()
    bench.frames()
    for number in range(1, 4):
        bench.part(call, 10 * WINDOW - 64)
        assert bench.granted(call) == []
        assert bench.take(call, 10 * WINDOW) == [10 * WINDOW * number + WINDOW]


def test_X9_two_streams_read_one_after_the_other_do_not_wait_for_each_other():
    """The first holds all that streams may share; the second still gets one part after the other."""
    bench = StreamBench(shared=WINDOW - INITIAL_CREDIT)
    first, second = bench.begin(), bench.begin()
    bench.frames()
    bench.part(first, count=7)
    assert bench.take(first, 40_000) == [40_000 + WINDOW]
    bench.part(first, count=24)
    bench.part(second, count=7)
    # Only the second is read now.
    for number in range(1, 20):
        assert bench.take(second, 70_000) == [number * 70_000 + INITIAL_CREDIT]
        bench.part(second, count=7)
    # Once the first has ended, the second gets what it had.
    bench.core.cancel(first, Outcome.CANCELLED, bench.now)
    bench.act()
    bench.frames()
    assert bench.take(second, 70_000) == [20 * 70_000 + WINDOW]
    bench.core.cancel(second, Outcome.CANCELLED, bench.now)
    assert bench.core._shared_credit == WINDOW - INITIAL_CREDIT


def test_X9_the_time_for_a_part_does_not_run_while_the_handler_waits_for_the_reader():
    bench = StreamBench()
    call = bench.begin(timeout=10.0)
    bench.frames()
    bench.part(call, count=7)
    assert bench.advance(100.0) == []
    # From the grant on, the handler is expected to go on.
    assert bench.take(call, 70_000) == [70_000 + WINDOW]
    assert bench.advance(9.9) == []
    (ended,) = bench.advance(0.2)
    assert isinstance(ended, Ended)
    assert ended.outcome is Outcome.TIMEOUT


def test_X9_the_deadline_runs_on_while_the_handler_waits():
    bench = StreamBench()
    call = bench.begin(timeout=10.0, deadline=30.0)
    bench.part(call, count=7)
    assert bench.advance(29.9) == []
    (ended,) = bench.advance(0.2)
    assert ended.outcome is Outcome.TIMEOUT


@pytest.mark.parametrize(("stall", "interval"), [(40.0, MOST_LOOK), (8.0, 2.0), (1e-9, 0.1)])
def test_X9_a_reader_that_takes_little_at_a_time_grants_that(stall, interval):
    """The broker must see that it reads, whatever its patience."""
    bench = StreamBench(stall=stall)
    call = bench.begin()
    bench.frames()
    bench.part(call, count=7)
    assert bench.take(call, 1) == []
    bench.advance(interval - 0.01)
    assert bench.granted(call) == []
    bench.advance(0.02)
    assert bench.granted(call) == [1 + WINDOW]
    bench.part(call, count=30)
    # A reader that takes nothing grants nothing.
    bench.advance(3 * interval)
    assert bench.granted(call) == []


@pytest.mark.parametrize(("stall", "interval"), [(40.0, MOST_LOOK), (8.0, 2.0)])
def test_X9_a_reader_behind_a_slow_link_grants_what_it_has_taken(stall, interval):
    """The handler waits, but its parts take long to get here: the broker must see that each is read."""
    bench = StreamBench(stall=stall)
    call = bench.begin(timeout=100.0)
    bench.frames()
    bench.part(call, count=7)
    assert bench.take(call, 70_000) == [70_000 + WINDOW]
    bench.advance(interval)  # of what was granted, the parts come now, one a second
    taken = 70_000
    grants = []
    for _ in range(int(4 * interval)):
        bench.part(call)
        grants += bench.granted(call)
        assert bench.take(call, 10_000) == []
        taken += 10_000
        bench.advance(1.0)
    bench.part(call)
    # The reader takes a part after it has come, so the first look finds nothing new.
    assert len(grants) in (3, 4)
    assert grants == [70_000 + WINDOW + int(interval) * 10_000 * number for number in range(1, len(grants) + 1)]
    # A call without credits has nothing to grant.
    old = StreamBench(features=0)
    call = old.begin(timeout=100.0)
    old.frames()
    for _ in range(3):
        old.part(call)
        old.advance(MOST_LOOK)
    assert old.frames() == []


def test_a_stalled_stream_ends_its_call():
    bench = StreamBench()
    call = bench.begin()
    bench.part(call, count=7)
    frame = extension.answer_frame(extension.call_frame(call.identity), Status.STALLED, 1, 1)
    bench.feed(bench.connection, [frame, b"", b"MDPC02", b"\x03", b"it", b""], 0.0)
    (ended,) = bench.act()
    assert (ended.call, ended.outcome) == (call, Outcome.STALLED)


def test_a_grant_for_a_call_that_has_ended_is_not_sent():
    bench = StreamBench()
    call = bench.begin()
    bench.part(call, count=7)
    bench.core.cancel(call, Outcome.CANCELLED, 0.0)
    bench.act()
    bench.frames()
    assert bench.take(call, 70_000) == []


# The worker


class WorkerBench:
    """A worker core with one extended session, and its work."""

    def __init__(self, credits=True, **options):
        self.core = WorkerCore(
            b"it",
            RFC18,
            Reconnect(["a"], 0.5),
            WorkerCounters(),
            concurrency=1,
            heartbeat_interval=1.0,
            liveness=3,
            error_reply=[b"500"],
            now=0.0,
            **options,
        )
        self.core.start(0.0)
        self.connection = self.core.take()[0][0].connection
        self.core.on_connected(self.connection, 0.0)
        offer = offer_body(Offer(100, 100, 1000, 10**7, 1.0, 2, Feature.CREDITS))
        self.core.feed(self.connection, RFC18.reply(b"mmi.gmdp", offer), 0.0, 0.5)
        (self.session,) = self.core.sessions
        self.frame = self.session.frame
        self.core.take()
        flags = token.TYPED_FAILURES | (token.CREDITS if credits else 0)
        self.address = token.prefix(token.start(b"nonce-of"), 1) + token.tail(1, None, flags)
        self.say(b"\x02", self.address, b"", b"body")
        (self.work,) = self.core.take()[1]
        assert isinstance(self.work, Work)

    def say(self, *command, flags=0, credit=None):
        fields = extension.NO_FIELDS if credit is None else extension.credit_bytes(credit)
        frame = extension.mark_session(self.frame, flags, fields)
        self.core.feed(self.connection, [frame, b"", b"MDPW02", *command], 0.0, 0.5)

    def part(self, size=SIZE):
        """(Whether the part is wanted, and whether the handler may go on)."""
        wanted = self.core.partial(self.work, [b"x" * size], 0.0)
        return wanted, self.session.sent < self.session.credit

    def decided(self):
        actions, events = self.core.take()
        return [action.frames for action in actions if isinstance(action, Send)], events


def test_X9_a_handler_may_send_while_it_has_credit():
    bench = WorkerBench()
    assert [bench.part() for _ in range(7)] == [(True, True)] * 6 + [(True, False)]
    bench.decided()
    bench.say(b"\x05", credit=100_000)
    # It is asked nothing: a HEARTBEAT with a credit needs no answer.
    assert bench.decided() == ([], [Resumed(bench.work)])
    assert [bench.part() for _ in range(3)] == [(True, True)] * 2 + [(True, False)]
    # A credit that is no greater changes nothing.
    bench.decided()
    bench.say(b"\x05", credit=100_000)
    bench.say(b"\x05", credit=1)
    assert bench.decided() == ([], [])
    assert bench.session.credit == 100_000


def test_X9_one_part_of_any_size_may_be_sent():
    bench = WorkerBench()
    assert bench.part(9_000_000) == (True, False)


def test_a_handler_whose_caller_grants_no_credits_needs_none():
    bench = WorkerBench(credits=False)
    assert [bench.part(1_000_000) for _ in range(50)] == [(True, True)] * 50


def test_credits_are_those_of_the_present_work():
    bench = WorkerBench()
    bench.part(1_000_000)
    bench.core.final(bench.work, [b"end"], None, 0.0)
    bench.say(b"\x05", credit=10**9)  # was on its way
    bench.say(b"\x02", bench.address, b"", b"body")
    bench.work = bench.session.work
    assert [bench.part() for _ in range(7)] == [(True, True)] * 6 + [(True, False)]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (extension.CALLER_GONE, GoneReason.CALLER_GONE),
        (extension.CALLER_GONE | extension.STALLED, GoneReason.STALLED),
    ],
)
def test_X9_nobody_wants_the_parts_of_a_caller_that_has_gone(flags, reason):
    bench = WorkerBench()
    bench.part(1_000_000)
    bench.say(b"\x05", flags=flags)
    assert bench.decided()[1] == [CallerGone(bench.work, reason)]
    assert bench.part()[0] is False
    # Its FINAL frees the session.
    assert bench.core.final(bench.work, None, Failure("StreamStalled", ""), 0.0)
    assert bench.session.registered


@pytest.mark.parametrize("how", ["session", "connection", "close"])
def test_X9_a_handler_that_waits_hears_that_its_work_is_lost(how):
    bench = WorkerBench()
    bench.part(1_000_000)
    bench.decided()
    if how == "session":
        bench.say(b"\x06")
    elif how == "connection":
        bench.core.feed(bench.connection, [b"MDPW02", b"\x06"], 0.0, 0.5)
    else:
        bench.core.close(0.0)
    assert Resumed(bench.work) in bench.decided()[1]
    assert bench.session.work is None


def test_a_call_has_no_credit_before_it_is_sent():
    assert Call(b"it", [b""], timeout=1.0).credit == math.inf
