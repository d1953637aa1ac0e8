"""The fair queue, against a naive one and by itself."""

import itertools
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from models import (
    NaiveQueue,
)

from gmdp.core.broker import fairqueue

STEADY = settings(derandomize=False, deadline=None, database=None, max_examples=150)


class Item(SimpleNamespace):
    """What stands in a fair queue."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


class FairQueueMachine(RuleBasedStateMachine):
    """The fair queue and lists that do the same."""

    def __init__(self):
        super().__init__()
        self.slack, self.sweep_at = fairqueue._SLACK, fairqueue._SWEEP_AT
        fairqueue._SLACK, fairqueue._SWEEP_AT = 4, 2
        self.queue = fairqueue.FairQueue()
        self.model = NaiveQueue(fairqueue.PATIENCE)
        self.numbers = itertools.count(100)
        #: The most items since the queue made its order of lanes by length.
        self.most = 0

    def teardown(self):
        fairqueue._SLACK, fairqueue._SWEEP_AT = self.slack, self.sweep_at

    lanes = st.sampled_from("abcde")
    priorities = st.sampled_from([1, 1, 1, 0, 2, 3])

    @rule(lane=lanes, priority=priorities, count=st.integers(1, 4))
    def push(self, lane, priority, count):
        for _ in range(count):
            item = Item(lane=lane, priority=priority, suspect=False, waiting=0, number=next(self.numbers))
            self.queue.push(item)
            self.model.push(item)
            assert item.waiting == len(self.model)

    @rule(lane=lanes, priority=priorities, suspect=st.booleans(), number=st.integers(0, 99))
    def push_front(self, lane, priority, suspect, number):
        number += next(self.numbers) / 1e6  # no two are the same
        item = Item(lane=lane, priority=priority, suspect=suspect, waiting=0, number=number)
        self.queue.push_front(item)
        self.model.push_front(item)

    @rule(count=st.integers(1, 6), suspects=st.sampled_from([True, True, False]))
    def pop(self, count, suspects):
        for _ in range(count):
            popped = self.queue.pop(suspects)
            assert popped is self.model.pop(suspects)
            assert popped is None or not popped.waiting

    @rule(count=st.integers(1, 30))
    def one_in_one_out(self, count):
        for number in range(count):
            self.push("abcde"[number % 5], 1, 1)
            self.pop(1, True)

    @precondition(lambda self: len(self.model))
    @rule(data=st.data(), count=st.integers(1, 5))
    def remove(self, data, count):
        for _ in range(min(count, len(self.model))):
            item = data.draw(st.sampled_from(self.model.items()))
            self.queue.remove(item)
            self.model.remove(item)
            assert not item.waiting

    @precondition(lambda self: len(self.model))
    @rule(data=st.data(), lane=lanes, count=st.integers(1, 5))
    def move(self, data, lane, count):
        for item in data.draw(st.lists(st.sampled_from(self.model.items()), min_size=1, max_size=count)):
            before, waiting = item.lane, item.waiting
            self.queue.move(item, lane)
            assert (item.waiting, item.lane) == (waiting, lane)
            item.lane = before
            self.model.move(item, lane)

    @rule(lane=lanes)
    def remove_what_is_not_there(self, lane):
        with pytest.raises(ValueError):
            self.queue.remove(Item(lane=lane, priority=1, suspect=False, waiting=0))

    @rule(count=st.integers(1, 3))
    def evict(self, count):
        for _ in range(count):
            if len(self.model):
                victim = self.queue.evict()
                assert victim in self.model.victims()
                assert not victim.waiting
                self.model.remove(victim)
            else:
                with pytest.raises(IndexError):
                    self.queue.evict()

    @invariant()
    def same(self):
        assert len(self.queue) == len(self.model)
        assert list(self.queue) == self.model.items()
        assert list(self.queue.heads()) == self.model.heads()
        assert self.queue.suspects == sum(item.suspect for item in self.model.items())
        for lanes, counted in zip(self.queue._lanes, self.queue._suspect_counts, strict=True):
            of_lanes = [lane.suspects.waiting for lane in lanes.values() if lane.suspects is not None]
            assert of_lanes == [
                sum(item.suspect for item in lane) for lane in lanes.values() if lane.suspects is not None
            ]
            assert counted == sum(of_lanes)

    @invariant()
    def what_it_remembers_is_bounded(self):
        """The order of lanes by length takes no more room than the queue did since it was made, and a constant."""
        longest = self.queue._longest
        self.most = len(self.queue) if longest is None else max(self.most, len(self.queue))
        assert longest is None or len(longest) <= 2 * self.most + 20
        for lanes in self.queue._lanes:
            for lane in lanes.values():
                assert len(lane.items) + len(lane.suspects or ()) <= 2 * lane.length + 3 + 4


# Each of the tox environments has other examples.
FairQueueMachine.TestCase.settings = settings(STEADY, max_examples=120, stateful_step_count=50)
test_fair_queue = FairQueueMachine.TestCase


def items(*lanes, priority=1):
    return [
        Item(lane=lane, priority=priority, suspect=False, waiting=0, number=number) for number, lane in enumerate(lanes)
    ]


def test_a_fair_queue_that_stays_half_full_forgets_what_it_does_not_need():
    """B6: a queue that overflowed once does not grow with every push from then on."""
    queue = fairqueue.FairQueue()
    for item in items(*(number % 7 for number in range(200))):
        queue.push(item)
    queue.evict()
    for item in items(*(number % 7 for number in range(20_000))):
        queue.push(item)
        queue.pop()
    assert len(queue) == 199
    assert len(queue._longest or ()) <= 2 * len(queue) + fairqueue._SLACK + 1


@pytest.mark.parametrize("overflowed", [False, True])
def test_an_item_given_back_is_not_the_newest_of_equal_backlogs(overflowed):
    """ "When a queue is full, the newest request of the longest backlog is refused": not one that is redelivered."""
    queue = fairqueue.FairQueue()
    newest, older = items("b", "a")
    if overflowed:
        x, y, z = items("x", "y", "z")
        for item in (x, y, z):
            queue.push(item)
        assert queue.evict() is z
        assert queue.pop() is x
        queue.push(newest)
        assert queue.pop() is y
    else:
        queue.push(newest)
    queue.push_front(older)
    assert queue.evict() is newest


def test_an_item_given_back_finds_its_place_without_a_walk():
    """B12: thousands of workers lost one after the other, the oldest request first."""
    looks = 0

    class Numbered(Item):
        @property
        def number(self):
            nonlocal looks
            looks += 1
            return self.at

    queue = fairqueue.FairQueue()
    for at in range(5_000):
        queue.push_front(Numbered(lane="a", priority=1, suspect=at % 2 == 0, waiting=0, at=at))
    assert looks <= 5_000 * 16
    assert [item.at for item in queue] == [*range(0, 5_000, 2), *range(1, 5_000, 2)]


def test_urgent_requests_go_first_and_the_others_have_a_turn_all_the_same():
    """A priority that waits has a turn after so many more urgent ones in a row, whatever comes."""
    queue = fairqueue.FairQueue()
    for priority in range(4):
        for item in items(*(["lane"] * 100), priority=priority):
            queue.push(item)
    served = [queue.pop().priority for _ in range(200)]
    assert served[: fairqueue.PATIENCE] == [3] * fairqueue.PATIENCE
    for priority in range(3):
        turns = [at for at, served_priority in enumerate(served) if served_priority == priority]
        gaps = [second - first for first, second in zip([-1, *turns], turns, strict=False)]
        assert max(gaps) <= fairqueue.PATIENCE + 3
        assert len(turns) >= 9
    assert served.count(3) >= 100  # no more urgent item is held up for longer


def test_the_longest_backlog_is_that_of_a_client_over_all_its_priorities():
    """C8: no client gets more room by calling everything urgent: its least urgent request goes first."""
    queue = fairqueue.FairQueue()
    flood = [*items("flooder", "flooder", "flooder", priority=3), *items("flooder", priority=2)]
    for item in (*flood, *items("modest", "modest", "modest", priority=0)):
        queue.push(item)
    assert queue.evict() is flood[3]
    assert queue.evict() in (flood[2], flood[2])


def test_taking_out_the_middle_of_a_long_backlog_costs_nothing_that_grows():
    """B12: a client that cancels everything it has queued, the newest first."""
    queue = fairqueue.FairQueue()
    flood = items(*["flooder"] * 10_000)
    for item in flood:
        queue.push(item)
    for item in reversed(flood[1:]):
        queue.remove(item)
    (lane,) = queue._lanes[1].values()
    assert len(lane.items) <= 2 + fairqueue._SWEEP_AT
    assert queue.pop() is flood[0]


@pytest.mark.parametrize("behind", [0, 50])
def test_B12_suspects_are_passed_over_without_a_count(behind):
    """Thousands wait, on each of whose connections a suspect runs: an idle session there asks for other requests."""
    looks = 0

    class Watched(Item):
        @property
        def waiting(self):
            nonlocal looks
            looks += 1
            return self.place

        @waiting.setter
        def waiting(self, place):
            self.place = place

    queue = fairqueue.FairQueue()
    for at in range(3_000):
        queue.push_front(Watched(lane=at % 3, priority=1, suspect=True, waiting=0, number=at))
    innocent = items(*["a"] * behind)
    for item in innocent:
        queue.push(item)
    looks = 0
    assert [queue.pop(False) for _ in range(behind)] == innocent
    assert [queue.pop(False) for _ in range(1_000)] == [None] * 1_000
    assert looks == 0
