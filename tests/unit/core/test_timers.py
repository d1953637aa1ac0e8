"""The heap of timers, against a table that is searched."""

import math
from types import SimpleNamespace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gmdp.core import timers

STEADY = settings(derandomize=False, deadline=None, database=None, max_examples=150)


class TimersMachine(RuleBasedStateMachine):
    """The timers and a table that is searched."""

    def __init__(self):
        super().__init__()
        self.sweep_at = timers._SWEEP_AT
        timers._SWEEP_AT = 8
        self.timers = timers.Timers()
        self.items = [SimpleNamespace(name=name, timer=None) for name in range(6)]
        self.model = {}
        self.now = 0

    def teardown(self):
        timers._SWEEP_AT = self.sweep_at

    indices = st.integers(0, 5)

    @rule(index=indices, after=st.integers(0, 4))
    def arm(self, index, after):
        self.timers.arm(self.items[index], self.now + after)
        self.model[index] = self.now + after

    @rule(index=indices, after=st.integers(0, 4), times=st.integers(2, 40))
    def arm_again_and_again(self, index, after, times):
        for _ in range(times):
            self.arm(index, after)

    @rule(index=indices)
    def disarm(self, index):
        self.timers.disarm(self.items[index])
        self.model.pop(index, None)

    @rule(after=st.integers(0, 4))
    def advance(self, after):
        self.now += after
        while (item := self.timers.pop_due(self.now)) is not None:
            earliest = min(self.model.values())
            assert earliest <= self.now
            assert self.model.pop(item.name) == earliest
            assert item.timer is None
        assert all(when > self.now for when in self.model.values())

    @invariant()
    def same(self):
        assert self.timers.next_due() == min(self.model.values(), default=math.inf)
        assert {item.name: item.timer[0] for item in self.items if item.timer is not None} == self.model

    @invariant()
    def its_length_is_what_is_armed(self):
        assert len(self.timers) == len(self.model)

    @invariant()
    def its_heap_is_bounded(self):
        """ "the heap never holds more than twice the live entries and a constant\""""
        assert len(self.timers._heap) <= 2 * len(self.model) + 2 * timers._SWEEP_AT


TimersMachine.TestCase.settings = settings(STEADY, max_examples=80, stateful_step_count=40)
test_timers = TimersMachine.TestCase


def test_a_timer_that_is_armed_for_one_time_over_and_over_costs_nothing():
    """A stream of many parts with a deadline arms its call's timer for that deadline at each part."""
    waiting = timers.Timers()
    item = SimpleNamespace(timer=None)
    for _ in range(10_000):
        waiting.arm(item, 60.0)
    assert len(waiting) == 1
    assert len(waiting._heap) <= 2 * timers._SWEEP_AT + 2
    assert waiting.pop_due(60.0) is item
    assert waiting.pop_due(1e9) is None
