"""Properties of the codec and the token; any bytes at all for every core."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import (
    DIALECTS,
    as_frames,
    bodies,
    client_reply,
    client_request,
    dialects,
    frames_of_any_kind,
    huge,
    may_stand_before,
    near_misses,
    service_names,
    stacks,
    valid_messages,
    worker_command,
    worker_commands,
)

from gmdp.core.broker.core import BrokerCore
from gmdp.core.broker.options import BrokerOptions
from gmdp.core.outcomes import Outcome
from gmdp.core.peer.calls import Call
from gmdp.core.peer.client import ClientCore
from gmdp.core.peer.connector import Open, Phase
from gmdp.core.peer.reconnect import Reconnect
from gmdp.core.peer.sessions import SessionState
from gmdp.core.peer.statistics import ClientCounters, WorkerCounters
from gmdp.core.peer.worker import WorkerCore
from gmdp.protocol import token, wire
from gmdp.protocol.dialects import MAJORTOMO, RFC7, RFC18, Command

STEADY = settings(derandomize=False, deadline=None, database=None, max_examples=150)

KINDS = {
    "request": Command.REQUEST,
    "REQUEST": Command.REQUEST,
    "READY": Command.READY,
    "PARTIAL": Command.PARTIAL,
    "FINAL": Command.FINAL,
    "HEARTBEAT": Command.HEARTBEAT,
    "DISCONNECT": Command.DISCONNECT,
}


# The codec


@STEADY
@given(valid_messages(), st.binary(max_size=6))
def test_a_broker_reads_what_peers_say(message, routing_id):
    dialect, stack, kind, subject, body = message
    parsed = wire.parse(as_frames(routing_id, message))
    assert parsed == (KINDS[kind], dialect, kind == "request", stack, subject, body, b"")


@STEADY
@given(dialects, stacks, service_names, bodies)
def test_a_client_s_request_is_read_by_the_broker(dialect, stack, service, body):
    if not may_stand_before(dialect, stack):
        stack = ()
    built = dialect.request(service, body)
    assert built == client_request(dialect, service, body)
    parsed = wire.parse([b"routing id", *stack, *built])
    assert parsed == (Command.REQUEST, dialect, True, stack, service, body, b"")


@STEADY
@given(dialects, st.data(), stacks, service_names, st.binary(max_size=30), bodies)
def test_a_worker_s_commands_are_read_by_the_broker(dialect, data, stack, service, address, body):
    if not may_stand_before(dialect, stack):
        stack = ()
    name = data.draw(st.sampled_from([name for name in worker_commands(dialect) if name != "REQUEST"]))
    rest, subject, body_read = [], b"", []
    if name == "READY":
        rest, subject = [service], service
    elif name in ("PARTIAL", "FINAL"):
        rest, subject, body_read = [address, b"", *body], address, body
    built = dialect.worker(KINDS[name], *rest)
    assert built == worker_command(dialect, name, *rest)
    parsed = wire.parse([b"routing id", *stack, *built])
    assert parsed == (KINDS[name], dialect, False, stack, subject, body_read, b"")


@STEADY
@given(dialects, service_names, bodies, st.booleans())
def test_a_broker_s_answer_is_read_by_the_client(dialect, service, body, final):
    final = final or not dialect.streams
    built = dialect.reply(service, body, final)
    assert built == client_reply(dialect, service, body, final)
    named = None if dialect is MAJORTOMO else service
    assert dialect.parse_reply(built) == (Command.FINAL if final else Command.PARTIAL, named, body)


@STEADY
@given(dialects, st.sampled_from(["REQUEST", "HEARTBEAT", "DISCONNECT"]), st.binary(max_size=30), bodies)
def test_a_broker_s_commands_are_read_by_the_worker(dialect, name, address, body):
    rest = [address, b"", *body] if name == "REQUEST" else []
    built = dialect.worker(KINDS[name], *rest)
    assert built == worker_command(dialect, name, *rest)
    expected = (KINDS[name], address, body) if name == "REQUEST" else (KINDS[name], b"", [])
    assert dialect.parse_for_worker(built) == expected


@STEADY
@given(dialects, dialects, st.sampled_from(["HEARTBEAT", "DISCONNECT", "REQUEST"]), service_names, bodies)
def test_no_peer_reads_another_dialect(mine, other, name, service, body):
    rest = [b"address", b"", *body] if name == "REQUEST" else []
    if mine is not other:
        assert mine.parse_for_worker(other.worker(KINDS[name], *rest)) is None
        assert mine.parse_reply(other.reply(service, body)) is None


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_return_address_has_up_to_eight_frames(dialect):
    heartbeat = worker_command(dialect, "HEARTBEAT")
    for count in range(1, 12):
        stack = tuple(b"hop %d" % hop for hop in range(count))
        parsed = wire.parse([b"id", *stack, *heartbeat])
        if dialect is RFC18 or count > 8:
            assert parsed is None
        else:
            assert parsed.stack == stack


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("rest", [[], [b"service"], [b"address", b"", b"body"]])
def test_what_only_a_broker_says_is_malformed_from_a_worker(dialect, rest):
    assert wire.parse([b"id", *worker_command(dialect, "REQUEST", *rest)]) is None


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", ["request", "READY"])
def test_a_service_name_has_1_to_255_bytes(dialect, kind):
    for size in (0, 1, 255, 256):
        body = [b"body"] if kind == "request" else []
        parsed = wire.parse(as_frames(b"id", (dialect, (), kind, b"n" * size, body)))
        assert (parsed is not None) == (size in (1, 255))


hostile = st.one_of(
    st.lists(frames_of_any_kind, max_size=12),
    near_misses(st.builds(as_frames, st.binary(max_size=4), valid_messages())),
)


@settings(STEADY, max_examples=500)
@given(hostile)
def test_any_frames_are_read_or_refused(frames):
    """B4: whatever is read, was really there."""
    before = list(frames)
    parsed = wire.parse(frames)
    assert frames == before
    if parsed is not None:
        kind = "request" if parsed.client else parsed.command.name
        again = as_frames(frames[0], (parsed.dialect, parsed.stack, kind, parsed.subject, parsed.body))
        if parsed.dialect is MAJORTOMO and parsed.body == [b""] and again != frames:
            again.pop()  # that package leaves an empty body out
        assert again == frames


@settings(STEADY, max_examples=20)
@given(huge)
def test_any_number_of_frames_is_read_or_refused(frames):
    """B4"""
    parsed = wire.parse(frames)
    assert parsed is None or len(parsed.body) <= len(frames)


@settings(STEADY, max_examples=300)
@given(
    dialects,
    st.one_of(
        st.lists(frames_of_any_kind, max_size=8),
        near_misses(
            st.one_of(
                st.builds(client_reply, dialects.filter(lambda d: d.streams), service_names, bodies, st.booleans()),
                st.builds(client_reply, dialects, service_names, bodies),
                st.builds(lambda d, b: worker_command(d, "REQUEST", b"address", b"", *b), dialects, bodies),
                st.builds(worker_command, dialects, st.sampled_from(["HEARTBEAT", "DISCONNECT", "READY"])),
            )
        ),
    ),
)
def test_clients_and_workers_read_or_refuse_any_frames(dialect, frames):
    """B4: whatever is read, was really there."""
    reply = dialect.parse_reply(frames)
    if reply is not None:
        command, service, body = reply
        assert dialect.reply(service, body, command is Command.FINAL) == frames
    parsed = dialect.parse_for_worker(frames)
    if parsed is not None:
        command, address, body = parsed
        rest = [address, b"", *body] if command is Command.REQUEST else []
        assert dialect.worker(command, *rest) == frames


# The token


@STEADY
@given(
    st.binary(min_size=8, max_size=8),
    st.integers(0, 2**64 - 1),
    st.integers(1, 1000),
    st.one_of(st.none(), st.floats(0, 1e9)),
    st.booleans(),
    st.sampled_from([b"", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01"]),
)
def test_a_token_says_what_was_minted(nonce, number, attempt, time_left, typed, traceparent):
    flags = token.TYPED_FAILURES if typed else 0
    minted = token.prefix(token.start(nonce), number) + token.tail(attempt, time_left, flags, traceparent)
    reading = token.read(minted)
    assert (reading.typed_failures, reading.traceparent) == (typed, traceparent)
    assert reading.attempt == min(attempt, 255)
    if time_left is None:
        assert reading.time_left is None
    else:
        # Milliseconds, in 32 bits.
        assert reading.time_left == pytest.approx(min(time_left, (2**32 - 2) / 1000), abs=0.001)
    failed = token.mark_failed(minted)
    assert failed[: token.PREFIX_SIZE] == minted[: token.PREFIX_SIZE]
    assert failed[token.STATUS] == token.HANDLER_FAILED
    assert minted[token.STATUS] == token.OK
    assert token.read(failed) == reading
    assert token.says_failed(failed)
    assert not token.says_failed(minted)


@STEADY
@given(st.lists(st.tuples(st.binary(min_size=8, max_size=8), st.integers(0, 2**64 - 1)), unique=True, max_size=20))
def test_no_two_assignments_have_one_token(assignments):
    prefixes = {token.prefix(token.start(nonce), number) for nonce, number in assignments}
    assert {len(prefix) for prefix in prefixes} <= {token.PREFIX_SIZE}
    assert len(prefixes) == len(assignments)


@STEADY
@given(st.one_of(st.binary(max_size=40), st.binary(max_size=40).map(lambda rest: token.MAGIC + b"\x01" + rest)))
def test_any_address_is_read_or_passed_on(address):
    """B4"""
    reading = token.read(address)
    assert (reading is not None) == (len(address) >= 28 and address.startswith(token.MAGIC + b"\x01"))
    if reading is None:
        assert token.mark_failed(address) == address
    else:
        assert len(token.mark_failed(address)) == len(address)


# Any bytes for the cores


def a_broker():
    """A broker with a busy and an idle worker, and a request that waits."""
    core = BrokerCore(BrokerOptions(max_frames=40, max_frame_size=280), b"noncenon", 0.0)
    core.feed([b"busy", *worker_command(RFC18, "READY", b"s")], 0.0)
    core.feed([b"client", *client_request(RFC7, b"s", [b"1"])], 0.0)
    core.feed([b"client", *client_request(RFC7, b"s", [b"2"])], 0.0)
    core.feed([b"idle", *worker_command(RFC7, "READY", b"other")], 0.0)
    core.take()
    return core


def dispositions(core):
    """How many messages were counted: as dropped, or as one of the things a message may be."""
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
    """B4: every message is counted as one thing, and what is malformed as dropped."""
    core = a_broker()
    frames = data.draw(hostile.map(lambda frames: [routing_id, *frames[1:]]))
    before = dispositions(core)
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
        assert dispositions(core) == before + 1
    else:
        lost_now = sum(core.counters.lost_workers.values()) > lost
        # HEARTBEAT, DISCONNECT and a second READY of a registered worker count as nothing else.
        assert dispositions(core) == before + 1 or lost_now or routing_id in (b"busy", b"idle")
    if reasons.keys() & {"malformed", "too_many_frames", "frame_too_large"}:
        # "treating that peer as invalid"
        assert routing_id not in core._registry.connections
    counters = core.counters
    assert counters.requests == counters.replies + sum(counters.ended.values()) + core.queued + core.assigned


@settings(STEADY, max_examples=15)
@given(st.sampled_from([b"busy", b"idle", b"stranger"]), huge)
def test_a_broker_drops_messages_of_very_many_frames(routing_id, frames):
    """B4"""
    core = a_broker()
    frames = [routing_id, *frames]
    core.feed(frames, 1.0)
    if len(frames) > 40:
        assert core.counters.drops == {"too_many_frames": 1}
        assert routing_id not in core._registry.connections


@pytest.mark.parametrize("frames", [[], [b""], [b"busy"], [b"busy", b""], [b"", b"", b""]])
def test_a_broker_counts_messages_without_frames(frames):
    """B4"""
    core = a_broker()
    core.feed(frames, 1.0)
    assert core.counters.drops == {"malformed": 1}
    assert (b"busy" in core._registry.connections) == (not frames or frames[0] != b"busy")


def a_worker(dialect, state):
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
    """B4, from the other side."""
    core, connection = a_worker(dialect, state)
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
