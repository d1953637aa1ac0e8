"""A worker's core: its sessions one by one."""

import math

import pytest
from cores import connect
from hypothesis import given, settings
from hypothesis import strategies as st
from models import (
    DIALECTS,
    bodies,
    client_reply,
    dialects,
    frames_of_any_kind,
    near_misses,
    worker_command,
)

from gmdp.core.peer.connector import Open, Phase
from gmdp.core.peer.reasons import CloseReason
from gmdp.core.peer.reconnect import Reconnect
from gmdp.core.peer.sessions import CallerGone, Resumed, SessionState, Work
from gmdp.core.peer.statistics import WorkerCounters
from gmdp.core.peer.worker import WorkerCore
from gmdp.protocol import extension, token
from gmdp.protocol.dialects import RFC18, Command
from gmdp.protocol.extension import Feature, Offer

STEADY = settings(derandomize=False, deadline=None, database=None)


def a_worker(dialect=RFC18, offer=None, concurrency=1):
    """A worker, on a strict connection without `offer`: (core, its first session, connection)."""
    core = WorkerCore(
        b"s",
        dialect,
        Reconnect(["one"], 0.5),
        WorkerCounters(),
        concurrency=concurrency,
        heartbeat_interval=1.0,
        liveness=3,
        error_reply=[b"500"],
        now=0.0,
    )
    core.start(0.0)
    (opened,) = core.actions
    connect(core, opened.connection, 0.0, offer)
    core.actions.clear()
    return core, core.sessions[0], opened.connection


@pytest.mark.parametrize("dialect", DIALECTS)
def test_W2_a_reply_of_an_earlier_connection_is_dropped(dialect):
    """The handler runs on, and its reply is late.  Only then is a new connection made."""
    core, session, connection = a_worker(dialect)
    core.feed(connection, dialect.worker_command(Command.REQUEST, b"address", b"", b"body"), 0.0, 0.5)
    (work,) = core.take()[1]
    core.feed(connection, dialect.worker_command(Command.DISCONNECT), 0.0, 0.5)
    assert session.state is SessionState.DETACHED
    core.tick(100.0, 0.5)
    assert session.state is SessionState.DETACHED
    assert core.deadline() == math.inf
    core.actions.clear()
    assert not core.partial(work, [b"part"], 100.0)
    assert core.actions == []
    assert not core.final(work, [b"late"], None, 100.0)
    assert core.counters.late_replies == 1
    (opened,) = core.actions
    assert isinstance(opened, Open)
    connect(core, opened.connection, 100.0)
    assert session.state is SessionState.IDLE
    count = len(core.actions)
    assert not core.final(work, [b"late again"], None, 101.0)
    assert len(core.actions) == count


@pytest.mark.parametrize("paused", [True, False])
def test_L2_what_the_broker_takes_back_before_it_has_begun_never_begins(paused):
    """A worker that has not run for a while reads everything before it begins anything."""
    core, session, connection = a_worker()
    core.take()
    core.on_wake(0.001)
    if paused:
        core.on_wake(5.0)
    core.feed(connection, RFC18.worker_command(Command.REQUEST, b"address", b"", b"body"), 5.0, 0.5)
    assert bool(core.take()[1]) is not paused
    core.feed(connection, RFC18.worker_command(Command.DISCONNECT), 5.0, 0.5)
    assert session.handling is not paused
    core.on_caught_up(5.0)
    assert not [event for event in core.take()[1] if isinstance(event, Work)]


def test_L2_held_work_begins_once_everything_was_read_or_the_expiry_is_over():
    for read in (True, False):
        core, _, connection = a_worker()
        core.take()
        core.on_wake(5.0)
        core.feed(connection, RFC18.worker_command(Command.REQUEST, b"address", b"", b"body"), 5.0, 0.5)
        assert core.take()[1] == []
        if read:
            core.on_caught_up(5.0)
        else:
            now = 5.0
            while now < 8.1:  # the socket is never empty
                now += 0.01
                core.on_wake(now)
        (work,) = core.take()[1]
        assert work.address == b"address"


def test_L2_what_begins_beside_other_work_is_said_and_what_begins_alone_is_not():
    core, _, connection = a_worker(offer=Offer(1, 3, 16, 300, 1.0, 2, sum(Feature)), concurrency=3)
    frames = list(connection.sessions)

    def given(*numbers):
        """These sessions get requests in one pass: (the work, the numbers that the broker is told)."""
        for number in numbers:
            address = token.prefix(token.start(b"nonce-of"), number) + token.tail(1)
            request = core.extended.worker_command(Command.REQUEST, address, b"", b"body")
            core.feed(connection, [frames[number], *request], 0.1, 0.5)
        actions, events = core.take()
        told = [extension.read_begun(action.frames[0]) for action in actions]
        return events, [number for numbers in told for (number,) in numbers]

    (first,), told = given(0)
    assert told == []
    (second,), told = given(1)
    assert told == [2]
    for work in (first, second):
        core.final(work, [b""], None, 0.2)
    core.take()
    (first,), told = given(2)
    assert told == []
    # A session that the broker takes back has no work any more.
    core.feed(connection, [frames[2], *core.extended.worker_command(Command.DISCONNECT)], 0.3, 0.5)
    core.take()
    _, told = given(0)
    assert told == []
    core.take()
    _, told = given(1)
    assert told == [2]


class CountingList(list):
    """Counts the items that iterations look at."""

    looks = 0

    def __iter__(self):
        for item in super().__iter__():
            self.looks += 1
            yield item


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("all_begun", [False, True])
def test_a_loss_looks_once_at_what_was_decided(closed, all_begun):
    """Not once for each session that loses its work."""
    core, _, connection = a_worker(offer=Offer(1, 300, 16, 300, 1.0, 2, sum(Feature)), concurrency=300)
    core.take()
    sessions = list(connection.sessions.values())
    request = core.extended.worker_command(Command.REQUEST, b"client", b"", b"x")
    for session in sessions:
        if session is sessions[-1]:
            core.take()  # the others' work begins
        core.feed(connection, [session.frame, *request], 0.0, 0.5)
    if all_begun:
        core.take()
    core.events = CountingList(core.events)
    if closed:
        core.close(0.0)
    else:
        core.on_disconnected(connection, CloseReason.CONNECTION_CLOSED, 0.0, 0.5)
    assert core.events.looks <= 2
    _, events = core.take()
    begun = sessions if all_begun else sessions[:-1]
    assert [(type(event), event.work.session) for event in events] == [(Resumed, session) for session in begun]
    assert [session for session in sessions if session.handling] == begun


def held_work_of_an_extended_worker():
    """A worker that has been given work in its first pass after a pause: (core, connection, session frame)."""
    core, _, connection = a_worker(offer=Offer(1, 1, 16, 300, 1.0, 2, sum(Feature)))
    core.take()
    core.on_wake(5.0)
    (session,) = connection.sessions
    address = token.prefix(token.start(b"nonce-of"), 1) + token.tail(1, None, token.CREDITS)
    request = core.extended.worker_command(Command.REQUEST, address, b"", b"body")
    core.feed(connection, [session, *request], 5.0, 0.5)
    assert core.take()[1] == []
    return core, connection, session


@pytest.mark.parametrize("what", ["the caller has gone", "more credit"])
def test_L2_news_of_held_work_comes_after_the_work_has_begun(what):
    """A handler that has not begun could not be told."""
    core, connection, session = held_work_of_an_extended_worker()
    frame = extension.mark_session(session, extension.CALLER_GONE)
    if what == "more credit":
        frame = extension.mark_session(session, 0, extension.credit_bytes(2 * extension.INITIAL_CREDIT))
    core.feed(connection, [frame, *core.extended.worker_command(Command.HEARTBEAT)], 5.0, 0.5)
    assert core.take()[1] == []
    core.on_caught_up(5.0)
    work, news = core.take()[1]
    assert isinstance(work, Work)
    assert isinstance(news, CallerGone if what == "the caller has gone" else Resumed)
    assert news.work is work


def test_L2_there_is_no_news_of_work_that_never_begins():
    core, connection, session = held_work_of_an_extended_worker()
    gone = [extension.mark_session(session, extension.CALLER_GONE), *core.extended.worker_command(Command.HEARTBEAT)]
    core.feed(connection, gone, 5.0, 0.5)
    core.feed(connection, [session, *core.extended.worker_command(Command.DISCONNECT)], 5.0, 0.5)
    core.on_caught_up(5.0)
    assert core.take()[1] == []


@pytest.mark.parametrize("garbage", [[], [b"garbage"], [b"MDPW02", b"\x09"], [b"MDPW02", b"\x02", b"address", b"no"]])
def test_garbage_ends_a_session_s_connection(garbage):
    core, session, connection = a_worker()
    core.feed(connection, garbage, 1.0, 0.5)
    assert core.counters.malformed == 1
    assert session.state is SessionState.DETACHED
    assert core.actions[-1].connection is connection


def test_a_late_answer_to_a_probe_is_no_garbage():
    """The broker took more than a second to answer that it has no such service."""
    core, session, connection = a_worker()
    core.feed(connection, client_reply(RFC18, b"mmi.gmdp", [b"501"]), 1.0, 0.5)
    assert core.counters.malformed == 0
    assert session.state is SessionState.IDLE


def a_worker_in(dialect, state):
    """A worker with one session, in this state; and its connection."""
    core = WorkerCore(
        b"s",
        dialect,
        Reconnect(["one", "two"], 0.5),
        WorkerCounters(),
        concurrency=1,
        heartbeat_interval=1.0,
        liveness=3,
        error_reply=[b"500"],
        now=0.0,
    )
    core.start(0.0)
    connection = core.actions[0].connection
    if state is not SessionState.DETACHED:
        core.on_connected(connection, 0.0)
        if connection.phase is Phase.PROBING:
            core.feed(connection, dialect.reply(b"mmi.gmdp", [b"501"]), 0.0, 0.5)
    if state is SessionState.BUSY:
        core.feed(connection, worker_command(dialect, "REQUEST", b"address", b"", b"body"), 0.0, 0.5)
    if state is SessionState.CLOSED:
        core.close(0.0)
    assert core.sessions[0].state is state
    core.actions.clear()
    core.counters.malformed = 0
    return core, connection


broker_says = st.one_of(
    st.lists(frames_of_any_kind, max_size=8),
    st.builds(client_reply, dialects, st.just(b"s"), bodies),
    st.builds(lambda d, b: worker_command(d, "REQUEST", b"address", b"", *b), dialects, bodies),
    st.builds(worker_command, dialects, st.sampled_from(["HEARTBEAT", "DISCONNECT", "READY"])),
)


@settings(STEADY, max_examples=400)
@given(dialects, st.sampled_from(SessionState), st.one_of(broker_says, near_misses(broker_says)))
def test_a_worker_reads_or_counts_any_frames(dialect, state, frames):
    """B4, on the worker's side."""
    core, connection = a_worker_in(dialect, state)
    (session,) = core.sessions
    core.feed(connection, frames, 1.0, 0.5)
    if state not in (SessionState.IDLE, SessionState.BUSY):
        assert session.state is state
        assert not core.actions
    elif dialect.parse_for_worker(frames) is None:
        assert core.counters.malformed == 1
    else:
        command = dialect.parse_for_worker(frames)[0]
        again = command is Command.REQUEST and state is SessionState.BUSY
        assert core.counters.malformed == (1 if again else 0)
        expected = SessionState.DETACHED if again or command is Command.DISCONNECT else state
        assert session.state is (SessionState.BUSY if command is Command.REQUEST and not again else expected)
