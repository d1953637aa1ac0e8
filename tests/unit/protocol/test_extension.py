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


versions = st.sampled_from([1, 2])


fields = st.dictionaries(st.integers(2, 255), st.binary(max_size=20), max_size=3)


sessions = st.builds(
    extension.session_frame,
    st.integers(0, extension.MAX_SESSION),
    st.integers(0, 255),
    fields=fields.map(lambda further: extension.field_bytes(further.items())),
    version=versions,
)


calls = st.builds(
    extension.call_frame,
    identities,
    version=versions,
    fields=fields.map(dict.items),
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
    versions,
    fields,
)
def test_a_call_frame_says_what_was_written(
    nonce, number, flags, priority, attempt, time_left, trace, version, further
):
    identity = extension.request_id(nonce, number)
    frame = extension.call_frame(
        identity,
        flags=flags,
        priority=priority,
        attempt=attempt,
        time_left=time_left,
        traceparent=trace,
        version=version,
        fields=further.items(),
    )
    assert extension.is_call(frame)
    assert not extension.is_session(frame)
    assert extension.version_of(frame) == version
    reading = extension.read_call(frame)
    assert (reading.status, reading.flags, reading.id, reading.traceparent) == (0, flags, identity, trace)
    assert reading.priority == min(priority, 3)
    assert reading.attempt == min(attempt, 255)
    if version == 1:
        assert reading.fields == {}
    else:
        assert reading.fields == ({1: trace} if trace else {}) | further
    if time_left is None:
        assert reading.time_left is None
    else:
        assert reading.time_left == pytest.approx(min(time_left, (2**32 - 2) / 1000), abs=0.001)
    assert extension.call_number(reading.id, nonce) == number
    assert extension.call_number(reading.id, bytes(16)) == (number if nonce == bytes(16) else None)


@STEADY
@given(calls, st.sampled_from(extension.Status), st.integers(0, 255), st.integers(0, 1000), fields)
def test_an_answer_carries_its_request_s_frame(frame, status, taken, attempts, further):
    bare = extension.bare_call(frame)
    answered = extension.answer_frame(bare, status, taken, attempts)
    before, after = extension.read_call(frame), extension.read_call(answered)
    old = extension.version_of(frame) == 1
    trace = before.traceparent if old else b""
    expected = before._replace(status=status, flags=taken, attempt=min(attempts, 255), traceparent=trace, fields={})
    assert after == expected
    assert len(answered) == (len(frame) if old else 39)
    told = extension.read_call(extension.with_fields(answered, extension.field_bytes(further.items())))
    assert told == (expected if old else expected._replace(fields=further))


@STEADY
@given(st.integers(0, extension.MAX_SESSION), st.integers(0, 255), st.integers(0, 255), versions, fields)
def test_a_session_frame_says_what_was_written(number, flags, other_flags, version, further):
    further_bytes = extension.field_bytes(further.items())
    frame = extension.session_frame(number, flags, version=version, fields=further_bytes)
    assert extension.is_session(frame)
    assert not extension.is_call(frame)
    assert extension.read_session(frame) == (flags, number)
    assert extension.session_fields(frame) == ({} if version == 1 else further)
    assert extension.mark_session(frame, other_flags) == extension.session_frame(number, other_flags, version=version)
    assert extension.mark_session(frame, flags, further_bytes) == frame


@STEADY
@given(
    st.one_of(
        st.binary(max_size=100),
        st.builds(
            bytes.__add__,
            st.sampled_from([b"\x89MDC\x01", b"\x89MDC\x02", b"\x89MDW\x01", b"\x89MDW\x02"]),
            st.binary(max_size=100),
        ),
        calls,
        sessions,
    )
)
def test_only_what_has_magic_version_and_length_is_one(frame):
    def says(at):
        """True if the two bytes at `at` say how many follow."""
        return len(frame) >= at + 2 and frame[at] * 256 + frame[at + 1] == len(frame) - at - 2

    right = frame[:5] == b"\x89MDC\x01" and len(frame) in (37, 92)
    right = right or (frame[:5] == b"\x89MDC\x02" and says(37))
    assert extension.is_call(frame) is right
    if right:
        extension.read_call(frame)
    right = frame[:5] == b"\x89MDW\x01" and len(frame) == 10
    right = right or (frame[:5] == b"\x89MDW\x02" and says(10))
    assert extension.is_session(frame) is right
    if right:
        extension.session_fields(frame)


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (b"", {}),
        (b"\x09", {}),
        (b"\x09\x00", {}),
        (b"\x09\x00\x00", {9: b""}),
        (b"\x09\x00\x02a", {}),
        (b"\x09\x00\x01a\x0a\x00\x01", {9: b"a"}),
        (b"\x09\x00\x01a\x09\x00\x01b", {9: b"b"}),
        (b"\x09\xff\xff" + b"a" * 100, {}),
        (b"\x00\x00\x01z\xff\x00\x02yy", {0: b"z", 255: b"yy"}),
        (b"\x09\x00\x00" * 63 + b"\x09\x00\x01a" + b"\x09\x00\x01b", {9: b"a"}),
        (b"\xff\x00\x00" * 21_845, {255: b""}),
    ],
)
def test_optional_fields_are_read_as_far_as_they_make_sense(rest, expected):
    length = len(rest).to_bytes(2, "big")
    call = extension.call_frame(bytes(24))[:37] + length + rest
    session = extension.session_frame(1)[:10] + length + rest
    assert extension.read_call(call).fields == extension.session_fields(session) == expected


def test_a_traceparent_of_another_length_is_none():
    frame = extension.call_frame(bytes(24), fields=[(extension.Field.TRACEPARENT, b"short")])
    assert extension.read_call(frame).traceparent == b""


@pytest.mark.parametrize("features", [0, extension.Feature.CREDITS, sum(extension.Feature)])
def test_an_offer_is_read_as_it_was_written(features):
    offer = extension.Offer(5, 6, 7, 8, 2.5, features=features)
    assert extension.read_offer(extension.offer_body(offer)) == offer
    old = offer._replace(version=1, features=0)
    assert extension.read_offer(extension.offer_body(old)) == old
    assert extension.read_probe(extension.probe_body(2, features)) == features
    assert extension.read_probe(extension.probe_body(1, features)) == 0


def test_the_names_of_the_features_on_the_wire():
    names = ["credits", "begun", "not-run", "leaving", "reasons", "stated", "parts"]
    probe = json.loads(extension.probe_body(2, sum(extension.Feature))[0])
    assert probe == {"extension": 2, "features": names}


#: The numbers of an offer, without which there is none.
LIMITS = {"max_in_flight": 1, "max_sessions": 2, "max_frames": 3, "max_frame_size": 4, "heartbeat_interval": 5}


def test_features_that_are_not_known_are_skipped():
    for names in (["telepathy", "credits", 1, None], ["credits", "credits"]):
        offer = json.dumps({"extension": 2, "features": names, **LIMITS}).encode()
        assert extension.read_offer([b"200", offer]) == extension.Offer(1, 2, 3, 4, 5, 2, extension.Feature.CREDITS)
    for version, names in ((2, "credits"), (2, None), (2, {"credits": 1}), (1, ["credits"])):
        offer = json.dumps({"extension": version, "features": names, **LIMITS}).encode()
        assert extension.read_offer([b"200", offer]) == extension.Offer(1, 2, 3, 4, 5, version, 0)


@pytest.mark.parametrize(
    "value", ["1e400", "Infinity", "NaN", str(10**400), "-1", "0", "1000000001", "true", '"5"', "[]"]
)
def test_an_offer_names_only_numbers_with_which_a_core_can_calculate(value):
    content = (
        '{"extension": 2, "max_in_flight": 1, "max_sessions": 2, "max_frames": 3, "max_frame_size": 4, '
        '"heartbeat_interval": %s, "stream_stall_timeout": %s}'
    )
    offer = extension.Offer(1, 2, 3, 4, 5, 2)
    assert extension.read_offer([b"200", (content % (5, value)).encode()]) == offer
    assert extension.read_offer([b"200", (content % (value, 30)).encode()]) is None
    most = (content % (10**9, 10**9)).encode()
    assert extension.read_offer([b"200", most]) == offer._replace(heartbeat_interval=1e9, stream_stall_timeout=1e9)
    for number in (10**400, 2**63):
        assert extension.read_offer([b"200", (content % (5, 30)).replace(": 4", f": {number}").encode()]) is None


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


@STEADY
@given(
    st.one_of(
        st.lists(st.binary(max_size=20), max_size=3),
        st.tuples(st.just(b"200"), st.binary(max_size=50)).map(list),
        st.dictionaries(
            st.sampled_from(["extension", *extension.Offer._fields[:5], "features", "leaving", "stream_stall_timeout"]),
            json_values,
        ).map(lambda offer: [b"200", json.dumps({**LIMITS, **offer}).encode()]),
    )
)
def test_any_answer_to_a_probe_is_an_offer_or_none(body):
    offer = extension.read_offer(body)
    if offer is not None:
        assert all(type(value) is int and 1 <= value < 2**63 for value in offer[:4])
        assert 0 < offer.heartbeat_interval <= 1e9
        assert 0 < offer.stream_stall_timeout <= 1e9


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
