"""Heartbeats, and the time that peers get after a gap in one's own running."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmdp.core.liveness import Gap, Pulse

STEADY = settings(derandomize=False, deadline=None, database=None)


def test_a_gap_is_to_run_late_by_half_an_interval():
    gap = Gap(interval=1.0, grace=3.0, now=10.0)
    gap.on_wake(11.4, due=11.0)
    assert gap.may_judge(11.4)
    gap.on_wake(12.5, due=11.9)
    assert not gap.may_judge(12.5)
    # A flooded socket is never read empty: the grace ends all the same.
    for now in (12.9, 13.3, 13.7, 14.1, 14.5, 14.9, 15.3):
        gap.on_wake(now, due=12.0)
        assert not gap.may_judge(now)
    gap.on_wake(15.5, due=12.0)
    assert gap.may_judge(15.5)


def test_after_a_gap_peers_have_two_intervals_to_answer():
    gap = Gap(interval=1.0, grace=3.0, now=10.0)
    gap.on_wake(20.0, due=11.0)
    gap.on_caught_up(20.0)
    assert gap.until == 22.0
    assert not gap.may_judge(21.9)
    gap.on_caught_up(21.9)
    assert gap.may_judge(22.0)


@pytest.mark.parametrize("pause", [0.1, 1.01, 1.4, 100.0])
def test_an_owner_that_runs_when_it_has_to_has_no_gaps(pause):
    """Timers are a little late, always; and where nothing was due, no pause is too long."""
    gap = Gap(interval=1.0, grace=3.0, now=0.0)
    for number in range(1, 100):
        due = pause * number if pause < 100 else math.inf
        gap.on_wake(pause * number + 0.02, due)
        assert gap.may_judge(pause * number + 0.02)
        gap.on_caught_up(pause * number + 0.02)
        assert gap.may_judge(pause * number + 0.02)


# What is heard and sent


def test_a_heartbeat_is_answered_where_nothing_else_was_sent():
    pulse = Pulse(0.0)
    assert pulse.on_heartbeat()
    pulse.on_sent(1.0)
    assert pulse.sent_at == 1.0
    assert not pulse.on_heartbeat()
    assert pulse.on_heartbeat()
    pulse.on_sent(2.0)
    pulse.on_sent(3.0)
    assert not pulse.on_heartbeat()
    assert pulse.on_heartbeat()


@settings(STEADY, max_examples=100)
@given(st.lists(st.sampled_from(["left beats", "right beats", "left speaks", "right speaks"]), max_size=60))
def test_heartbeats_are_not_answered_for_ever(script):
    """One heartbeat makes at most one answer, whatever went before."""
    pulses = {"left": Pulse(0.0), "right": Pulse(0.0)}
    for line in script:
        side, verb = line.split()
        other = "right" if side == "left" else "left"
        pulses[side].on_sent(1.0)
        answers = 0
        while verb == "beats" and pulses[other].on_heartbeat():
            answers += 1
            pulses[other].on_sent(1.0)
            side, other = other, side
        assert answers <= 1
