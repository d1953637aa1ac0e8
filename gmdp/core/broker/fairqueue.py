"""A queue with priorities that is fair between the clients that fill it.

RFC 7: "The broker SHOULD serve clients on a fair basis".  The rules:

* A more urgent request goes first, but each priority that waits has a turn after
  :data:`PATIENCE` more urgent ones in a row.
* Within a priority each client has a lane; lanes are served in turn, one item
  each, so that one client's backlog delays another's single request by at most
  one round.
* What is given back goes before what was not, in the order in which it came, and its
  lane is next.
* Suspects (see :mod:`~.delivery`) may be passed over.
* Where something has to go, it is the newest of the least urgent items of the
  client with the longest backlog, all its priorities together.
"""

from __future__ import annotations

import bisect
import heapq
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from typing import Generic, Protocol, TypeVar

from ...protocol.extension import NORMAL_PRIORITY, PRIORITIES

#: More urgent items that may be served in a row while a less urgent one waits.
PATIENCE = 16

_SLACK = 1024
_SWEEP_AT = 64


class Queued(Protocol):
    """What can stand in a :class:`FairQueue`."""

    lane: Hashable
    priority: int
    suspect: bool
    #: The higher, the later it came.
    number: int
    #: True while it stands in a queue; the queue's to set.
    waiting: bool


Q = TypeVar("Q", bound=Queued)


class _Lane(Generic[Q]):
    """One client's items of one priority.  Those taken out of the middle stay, not
    `waiting`, until their turn comes or they are too many."""

    __slots__ = ("items", "length", "suspects")

    def __init__(self) -> None:
        self.items: deque[Q] = deque()
        #: Given back ones that may be passed over: they come before `items`.
        self.suspects: deque[Q] | None = None
        #: How many wait.
        self.length = 0

    def pop(self, suspects: bool) -> Q | None:
        """The first one that waits; None if there is none but suspects, and they may not go."""
        if suspects:
            while self.suspects:
                item = self.suspects.popleft()
                if item.waiting:
                    return item
        while self.items:
            item = self.items.popleft()
            if item.waiting:
                return item
        return None

    def pop_newest(self) -> Q:
        for part in (self.items, self.suspects):
            while part:
                item = part.pop()
                if item.waiting:
                    return item
        raise IndexError("the lane is empty")

    def sweep(self) -> None:
        """Forget what no longer waits, if that is most of it."""
        if len(self.items) + len(self.suspects or ()) > 2 * self.length + _SWEEP_AT:
            self.items = deque(item for item in self.items if item.waiting)
            if self.suspects:
                self.suspects = deque(item for item in self.suspects if item.waiting)

    def __iter__(self) -> Iterator[Q]:
        for part in (self.suspects, self.items):
            for item in part or ():
                if item.waiting:
                    yield item


class FairQueue(Generic[Q]):
    """Items in lanes by priority; first in, first out within a lane."""

    __slots__ = ("_counts", "_lanes", "_longest", "_passed", "_pushes", "_relax_at", "length", "suspects")

    def __init__(self) -> None:
        #: For each priority its lanes, the next to be served first.
        self._lanes: list[OrderedDict[Hashable, _Lane[Q]]] = [OrderedDict() for _ in PRIORITIES]
        self._counts = [0] * len(PRIORITIES)
        #: How many wait, and how many of them are suspects.
        self.length = 0
        self.suspects = 0
        #: How often each priority was passed over since its last turn.
        self._passed = [0] * len(PRIORITIES)
        self._pushes = 0
        # A heap of (-length, -when, lane), built when the longest backlog is first
        # asked for and thrown away when the queue has emptied to half of that:
        # a queue that never overflows pays nothing for it.
        self._longest: list[tuple[int, int, Hashable]] | None = None
        self._relax_at = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Q]:
        for lanes in self._lanes:
            for lane in lanes.values():
                yield from lane

    def heads(self) -> Iterator[Q]:
        """The first item of each lane."""
        return (next(iter(lane)) for lanes in self._lanes for lane in lanes.values())

    def push(self, item: Q) -> None:
        """Add `item` at the end of its lane; a new lane is served last."""
        self._add(item).items.append(item)
        if self._longest is not None:
            self._note(item.lane, newest=True)

    def push_front(self, item: Q) -> None:
        """Give `item` back: it is the first of its lane, or comes after such as were given
        back, too, and came earlier; and the lane is next."""
        lane = self._add(item)
        if item.suspect:
            if lane.suspects is None:
                lane.suspects = deque()
            bisect.insort(lane.suspects, item, key=lambda one: one.number)
            self.suspects += 1
        else:
            bisect.insort(lane.items, item, key=lambda one: one.number)  # they came in order, and stay so
        self._lanes[item.priority].move_to_end(item.lane, last=False)
        if self._longest is not None:
            self._note(item.lane, newest=False)

    def pop(self, suspects: bool = True) -> Q | None:
        """The next item; None if there is none, or none but suspects and they may not go."""
        if not self.length:
            return None
        if not self.suspects and self._counts[NORMAL_PRIORITY] == self.length:
            return self._pop_plain()
        if suspects or not self.suspects:
            return self._pop_from(self._choose([p for p in PRIORITIES if self._counts[p]]), True)
        able = [p for p in PRIORITIES if any(lane.length > self._suspects_of(lane) for lane in self._lanes[p].values())]
        return self._pop_from(self._choose(able), False) if able else None

    def remove(self, item: Q) -> None:
        """Take `item` out, wherever it stands, for good; ValueError if it is not there."""
        lane = self._lanes[item.priority].get(item.lane) if item.waiting else None
        if lane is None:
            raise ValueError("no such item in the queue")
        self._taken(item, lane)
        lane.sweep()

    def evict(self) -> Q:
        """Take out the item that gives way; IndexError if there is none.

        Among backlogs of one length, the one last added to gives way.
        """
        if not self.length:
            raise IndexError("the queue is empty")
        while True:
            if not self._longest:
                lanes = OrderedDict.fromkeys(key for lanes in reversed(self._lanes) for key in reversed(lanes))
                self._longest = [(-self._backlog(key), at, key) for at, key in enumerate(lanes)]
                heapq.heapify(self._longest)
                self._relax_at = self.length // 2
                self._pushes = len(lanes)
            length, when, key = heapq.heappop(self._longest)
            backlog = self._backlog(key)
            if backlog == -length:
                break
            if 0 < backlog < -length:
                heapq.heappush(self._longest, (-backlog, when, key))
        lane = next(lanes[key] for lanes in self._lanes if key in lanes)
        item = lane.pop_newest()
        self._taken(item, lane)
        if backlog > 1 and self._longest is not None:
            heapq.heappush(self._longest, (1 - backlog, when, key))
        return item

    @staticmethod
    def _suspects_of(lane: _Lane[Q]) -> int:
        return sum(item.waiting for item in lane.suspects or ())

    def _choose(self, able: list[int]) -> int:
        """Which of these priorities is served: the most urgent, or one that has been patient."""
        chosen = able[-1]
        passed = self._passed
        for priority in able[:-1]:
            if passed[priority] >= PATIENCE:
                chosen = priority
                break
        for priority in able:
            if priority <= chosen:
                passed[priority] = 0 if priority == chosen else passed[priority] + 1
        return chosen

    def _pop_plain(self) -> Q:
        """The next item where all are of the normal priority and none is a suspect."""
        lanes = self._lanes[NORMAL_PRIORITY]
        key, lane = lanes.popitem(last=False)
        item = lane.items.popleft()
        while not item.waiting:
            item = lane.items.popleft()
        item.waiting = False
        lane.length -= 1
        if lane.length:
            lanes[key] = lane
        self.length -= 1
        self._counts[NORMAL_PRIORITY] -= 1
        if self._longest is not None and self.length < self._relax_at:
            self._longest = None
        return item

    def _pop_from(self, priority: int, suspects: bool) -> Q:
        lanes = self._lanes[priority]
        passed_over = []
        while True:
            key, lane = lanes.popitem(last=False)
            item = lane.pop(suspects)
            if item is not None:
                break
            passed_over.append((key, lane))
        self._taken(item, lane)
        if lane.length:
            lanes[key] = lane
        for key, lane in reversed(passed_over):
            lanes[key] = lane
            lanes.move_to_end(key, last=False)
        return item

    def _taken(self, item: Q, lane: _Lane[Q]) -> None:
        item.waiting = False
        lane.length -= 1
        self.length -= 1
        self._counts[item.priority] -= 1
        if item.suspect:
            self.suspects -= 1
        if not lane.length:
            self._lanes[item.priority].pop(item.lane, None)
        if self._longest is not None and self.length < self._relax_at:
            self._longest = None

    def _add(self, item: Q) -> _Lane[Q]:
        lanes = self._lanes[item.priority]
        lane = lanes.get(item.lane)
        if lane is None:
            lane = lanes[item.lane] = _Lane()
        item.waiting = True
        lane.length += 1
        self.length += 1
        self._counts[item.priority] += 1
        return lane

    def _backlog(self, key: Hashable) -> int:
        return sum(lanes[key].length for lanes in self._lanes if key in lanes)

    def _note(self, key: Hashable, newest: bool) -> None:
        assert self._longest is not None  # callers looked
        if len(self._longest) >= 2 * self.length + _SLACK:
            self._longest = None  # mostly stale: built anew when it is needed
            return
        self._pushes += 1
        when = -self._pushes if newest else self._pushes
        heapq.heappush(self._longest, (-self._backlog(key), when, key))
