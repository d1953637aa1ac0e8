"""The extension's frames: what is written is read, and anything else is refused or harmless."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import bodies, service_names

from gmdp.protocol import extension, wire
from gmdp.protocol.dialects import EXTENDED, RFC7, RFC18, Command

STEADY = settings(derandomize=False, deadline=None, database=None, max_examples=200)

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
)
sessions = st.builds(extension.session_frame, st.integers(0, extension.MAX_SESSION), st.integers(0, 255))
hops = st.lists(st.binary(min_size=1, max_size=8), max_size=7).filter(
    lambda stack: not stack or stack[0] not in (b"MDPC02", b"MDPW02")
)


@STEADY
@given(
    st.binary(min_size=16, max_size=16),
    st.integers(0, 2**64 - 1),
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(1, 1000),
    st.one_of(st.none(), st.floats(0, 1e9)),
    traces,
)
def test_a_call_frame_says_what_was_written(nonce, number, flags, priority, attempt, time_left, trace):
    identity = extension.request_id(nonce, number)
    frame = extension.call_frame(
        identity, flags=flags, priority=priority, attempt=attempt, time_left=time_left, traceparent=trace
    )
    assert extension.is_call(frame)
    assert not extension.is_session(frame)
    told = extension.read_call(frame)
    assert (told.status, told.flags, told.id, told.traceparent) == (0, flags, identity, trace)
    assert told.priority == min(priority, 3)
    assert told.attempt == min(attempt, 255)
    if time_left is None:
        assert told.time_left is None
    else:
        assert told.time_left == pytest.approx(min(time_left, (2**32 - 2) / 1000), abs=0.001)
    assert extension.call_number(told.id, nonce) == number
    assert extension.call_number(told.id, bytes(16)) == (number if nonce == bytes(16) else None)


@STEADY
@given(calls, st.sampled_from(extension.Status), st.integers(0, 255), st.integers(0, 1000))
def test_an_answer_carries_its_request_s_frame(frame, status, taken, attempts):
    answered = extension.answer_frame(frame, status, taken, attempts)
    before, after = extension.read_call(frame), extension.read_call(answered)
    assert after == before._replace(status=status, flags=taken, attempt=min(attempts, 255))
    assert len(answered) == len(frame)


@STEADY
@given(st.integers(0, extension.MAX_SESSION), st.integers(0, 255))
def test_a_session_frame_says_what_was_written(number, flags):
    frame = extension.session_frame(number, flags)
    assert extension.is_session(frame)
    assert not extension.is_call(frame)
    assert extension.read_session(frame) == (flags, number)


@STEADY
@given(st.one_of(st.binary(max_size=100), st.builds(bytes.__add__, st.just(b"\x89MDC\x01"), st.binary(max_size=100))))
def test_only_what_has_magic_version_and_length_is_one(frame):
    right = frame[:5] == b"\x89MDC\x01" and len(frame) in (37, 92)
    assert extension.is_call(frame) is right
    if right:
        extension.read_call(frame)
    assert extension.is_session(frame) is (frame[:5] == b"\x89MDW\x01" and len(frame) == 10)


# Whole messages


@STEADY
@given(st.sampled_from([RFC7, RFC18]), hops, calls, service_names, bodies)
def test_a_client_s_request_is_read_by_the_broker(plain, stack, frame, service, body):
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
        parsed = wire.parse([b"id", *stack, frame, *dialect.worker(command, *rest)])
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
    """Not those of the majortomo package, whose header stands in the same place."""
    frame = extension.call_frame(bytes(24))
    assert wire.parse([b"id", frame, b"", b"MDPC02", b"\x02", b"service", b"body"]) is None
    assert wire.parse([b"id", b"hop", b"", b"MDPC02", b"\x01", b"service", b"body"]) is None


def test_the_frame_counts_among_the_eight_of_a_return_address():
    frame = extension.call_frame(bytes(24))
    rest = EXTENDED[RFC18].request(b"service", [b"body"])
    assert wire.parse([b"id", *[b"hop"] * 7, frame, *rest]) is not None
    assert wire.parse([b"id", *[b"hop"] * 8, frame, *rest]) is None


# The offer


def test_an_offer_is_read_as_it_was_written():
    offer = extension.Offer(5, 6, 7, 8, 2.5)
    assert extension.read_offer(extension.offer_body(offer)) == offer


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


@STEADY
@given(
    st.one_of(
        st.lists(st.binary(max_size=20), max_size=3),
        st.tuples(st.just(b"200"), st.binary(max_size=50)).map(list),
        st.dictionaries(st.sampled_from(["extension", *extension.Offer._fields]), json_values).map(
            lambda told: [b"200", json.dumps(told).encode()]
        ),
    )
)
def test_any_answer_to_a_probe_is_an_offer_or_none(body):
    offer = extension.read_offer(body)
    if offer is not None:
        assert all(type(value) is int and value >= 1 for value in offer[:-1])
        assert offer.heartbeat_interval > 0


@pytest.mark.parametrize(
    ("value", "right"),
    [
        (TRACEPARENT, True),
        (TRACEPARENT.upper(), False),
        (b"", False),
        (TRACEPARENT[:-1], False),
        (TRACEPARENT + b"0", False),
        (b"ff" + TRACEPARENT[2:], False),
        (b"01" + TRACEPARENT[2:], True),
        (b"00-" + b"0" * 32 + TRACEPARENT[35:], False),
        (TRACEPARENT[:36] + b"0" * 16 + b"-01", False),
        (TRACEPARENT + b"\n", False),
    ],
)
def test_what_a_traceparent_is(value, right):
    """W3C Trace Context, 3.2."""
    assert extension.is_traceparent(value) is right
