"""The extension's frames: what is written is read, and any other frame is refused or harmless."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmdp.protocol import extension

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
    reading = extension.read_call(frame)
    assert (reading.status, reading.flags, reading.id, reading.traceparent) == (0, flags, identity, trace)
    assert reading.priority == min(priority, 3)
    assert reading.attempt == min(attempt, 255)
    if time_left is None:
        assert reading.time_left is None
    else:
        assert reading.time_left == pytest.approx(min(time_left, (2**32 - 2) / 1000), abs=0.001)
    assert extension.call_number(reading.id, nonce) == number
    assert extension.call_number(reading.id, bytes(16)) == (number if nonce == bytes(16) else None)


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
            lambda offer: [b"200", json.dumps(offer).encode()]
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
def test_a_traceparent_is_recognized(value, right):
    """W3C Trace Context, 3.2."""
    assert extension.is_traceparent(value) is right
