"""What a broker reads from any frames at all."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import (
    DIALECTS,
    as_frames,
    bodies,
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

from gmdp.protocol import extension, wire
from gmdp.protocol.dialects import DELIMITED, EXTENDED, MAJORTOMO, RFC7, RFC18, Command

STEADY = settings(derandomize=False, deadline=None, database=None, max_examples=200)


KINDS = {
    "request": Command.REQUEST,
    "REQUEST": Command.REQUEST,
    "READY": Command.READY,
    "PARTIAL": Command.PARTIAL,
    "FINAL": Command.FINAL,
    "HEARTBEAT": Command.HEARTBEAT,
    "DISCONNECT": Command.DISCONNECT,
}


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
    rest, subject, expected_body = [], b"", []
    if name == "READY":
        rest, subject = [service], service
    elif name in ("PARTIAL", "FINAL"):
        rest, subject, expected_body = [address, b"", *body], address, body
    built = dialect.worker_command(KINDS[name], *rest)
    assert built == worker_command(dialect, name, *rest)
    parsed = wire.parse([b"routing id", *stack, *built])
    assert parsed == (KINDS[name], dialect, False, stack, subject, expected_body, b"")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_return_address_has_up_to_eight_frames(dialect):
    said = worker_command(dialect, "HEARTBEAT")
    for count in range(1, 12):
        stack = tuple(b"hop %d" % hop for hop in range(count))
        parsed = wire.parse([b"id", *stack, *said])
        if dialect is RFC18 or count > 8:
            assert parsed is None
        else:
            assert parsed.stack == stack


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("rest", [[], [b"service"], [b"address", b"", b"body"]])
def test_a_broker_s_command_is_malformed_from_a_worker(dialect, rest):
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
    """B4: every field that is read was in the frames."""
    before = list(frames)
    parsed = wire.parse(frames)
    assert frames == before
    if parsed is not None:
        kind = "request" if parsed.from_client else parsed.command.name
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


TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


identities = st.binary(min_size=24, max_size=24)


traces = st.sampled_from([b"", TRACEPARENT, b"x" * 55])


calls = st.builds(
    extension.call_frame,
    identities,
    flags=st.integers(0, 255),
    priority=st.integers(0, 255),
    attempt=st.integers(1, 1000),
    time_left=st.one_of(st.none(), st.floats(0, 1e9)),
    traceparent=traces,
    version=st.sampled_from([1, 2]),
    fields=st.sampled_from([(), ((9, b"later"),)]),
)


sessions = st.builds(
    extension.session_frame,
    st.integers(0, extension.MAX_SESSION),
    st.integers(0, 255),
    version=st.sampled_from([1, 2]),
    fields=st.sampled_from([extension.NO_FIELDS, extension.field_bytes([(9, b"later")])]),
)


hops = st.lists(st.binary(min_size=1, max_size=8), max_size=7).filter(
    lambda stack: not stack or stack[0] not in (b"MDPC02", b"MDPW02")
)


@STEADY
@given(st.sampled_from([RFC7, RFC18]), hops, calls, service_names, bodies)
def test_a_gmdp_client_s_request_is_read_by_the_broker(plain, stack, frame, service, body):
    dialect = EXTENDED[plain]
    parsed = wire.parse([b"id", *stack, frame, *dialect.request(service, body)])
    assert parsed == (Command.REQUEST, dialect, True, tuple(stack), service, body, frame)


@STEADY
@given(st.sampled_from([RFC7, RFC18]), hops, sessions, service_names, st.binary(max_size=30), bodies)
def test_a_session_s_commands_are_read_by_the_broker(plain, stack, frame, service, address, body):
    dialect = EXTENDED[plain]
    for command, rest, expected in (
        (Command.READY, [service], (service, [])),
        (Command.FINAL, [address, b"", *body], (address, body)),
        (Command.HEARTBEAT, [], (b"", [])),
        (Command.DISCONNECT, [], (b"", [])),
    ):
        parsed = wire.parse([b"id", *stack, frame, *dialect.worker_command(command, *rest)])
        assert parsed == (command, dialect, False, tuple(stack), *expected, frame)


@pytest.mark.parametrize("frame", [extension.call_frame(bytes(24)), extension.session_frame(1)])
@pytest.mark.parametrize("head", [b"MDPC01", b"MDPC02", b"MDPW01", b"MDPW02"])
def test_a_frame_of_the_wrong_side_is_malformed(frame, head):
    of_worker = head.startswith(b"MDPW")
    codes = {b"MDPC01": [], b"MDPC02": [b"\x01"], b"MDPW01": [b"\x01"], b"MDPW02": [b"\x01"]}[head]
    body = [] if of_worker else [b"body"]
    parsed = wire.parse([b"id", frame, b"", head, *codes, b"service", *body])
    assert (parsed is not None) is (extension.is_session(frame) is of_worker)


def test_the_extension_uses_the_rfc_s_own_codes():
    """It does not use those of the majortomo package, whose header stands in the same place."""
    frame = extension.call_frame(bytes(24))
    assert wire.parse([b"id", frame, b"", b"MDPC02", b"\x02", b"service", b"body"]) is None
    parsed = wire.parse([b"id", b"hop", b"", b"MDPC02", b"\x01", b"service", b"body"])
    assert parsed is not None
    assert (parsed.dialect, parsed.stack, parsed.extra) == (DELIMITED, (b"hop",), b"")


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([b"", b"MDPW01", b"\x03", b"token", b"a", b"b"], (Command.FINAL, RFC7, (), b"token", [b"a", b"b"])),
        ([b"", b"MDPW01", b"\x03", b"token", b""], (Command.FINAL, RFC7, (), b"token", [b""])),
        ([b"MDPW02", b"\x03", b"token", b"a"], (Command.PARTIAL, RFC18, (), b"token", [b"a"])),
        ([b"hop", b"", b"MDPW02", b"\x04", b"token", b"a"], (Command.FINAL, MAJORTOMO, (b"hop",), b"token", [b"a"])),
        ([b"", b"MDPW01", b"\x03", b"token"], None),
        ([b"", b"MDPW01", b"\x04", b"token", b"a"], None),
        ([b"", b"MDPC01", b"echo", b"token", b"a"], None),
        ([extension.session_frame(1), b"", b"MDPW02", b"\x04", b"token", b"a"], None),
        ([b"a", b"b", b"c"], None),
        ([], None),
    ],
)
def test_F10_a_reply_that_lacks_the_empty_frame(frames, expected):
    parsed = wire.parse_without_delimiter([b"id", *frames])
    found = parsed and (parsed.command, parsed.dialect, parsed.stack, parsed.subject, parsed.body)
    assert found == expected


def test_the_frame_counts_among_the_eight_of_a_return_address():
    frame = extension.call_frame(bytes(24))
    rest = EXTENDED[RFC18].request(b"service", [b"body"])
    assert wire.parse([b"id", *[b"hop"] * 7, frame, *rest]) is not None
    assert wire.parse([b"id", *[b"hop"] * 8, frame, *rest]) is None
