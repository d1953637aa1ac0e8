"""The token: it says what was written, and any other address is passed on."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmdp.protocol import token

STEADY = settings(derandomize=False, deadline=None, database=None, max_examples=150)


@STEADY
@given(
    st.binary(min_size=8, max_size=8),
    st.integers(0, 2**64 - 1),
    st.integers(1, 1000),
    st.one_of(st.none(), st.floats(0, 1e9)),
    st.booleans(),
    st.sampled_from([b"", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01"]),
)
def test_a_token_says_what_was_written(nonce, number, attempt, time_left, typed, traceparent):
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
