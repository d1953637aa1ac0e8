"""A call's states: each change that its table lists happens, and no other."""

import itertools

import pytest

from gmdp.core.peer.calls import TRANSITIONS, Call, CallState


def a_call(state):
    call = Call(b"echo", [b"body"], timeout=1.0)
    call.state = state
    return call


def test_every_state_is_in_the_table():
    assert set(TRANSITIONS) == set(CallState)


@pytest.mark.parametrize(("old", "new"), list(itertools.product(CallState, CallState)))
def test_a_call_makes_the_changes_of_the_table_only(old, new):
    call = a_call(old)
    if new in TRANSITIONS[old]:
        call.become(new)
        assert call.state is new
    else:
        with pytest.raises(ValueError, match=f"{old.value} to {new.value}"):
            call.become(new)
        assert call.state is old


def test_a_new_call_waits_and_one_that_is_done_stays_so():
    assert Call(b"echo", [b"body"], timeout=1.0).state is CallState.WAITING
    assert not TRANSITIONS[CallState.DONE]
