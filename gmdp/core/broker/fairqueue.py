"""A queue with priorities that is fair between the clients that fill it.

RFC 7: "The broker SHOULD serve clients on a fair basis".  The rules:

* A more urgent request goes first, but a waiting priority has a turn after
  :data:`PATIENCE` more urgent requests in a row.
* Within a priority each client has a lane; lanes are served in turn, one item
  each, so that one client's backlog delays another's single request by at most
  one round.
* Requests that are given back go before the others of their lane, in the order in which they
  first came, and their lane is next.
* Requests whose client has come back on another connection move to its lane, in the same order.
* Suspects (see :mod:`~.delivery`) may be passed over.
* When a request must give way, the client with the longest backlog loses one: the newest of
  its least urgent requests.  All priorities of a client count in its backlog.
"""

from __future__ import annotations

import bisect
import heapq
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from typing import Generic, Protocol, TypeVar

from ...protocol.extension import NORMAL_PRIORITY, PRIORITIES

#: How many items of more urgent priorities may be served in a row while a less urgent one waits.
PATIENCE = 16

#: Entries that the heap of longest backlogs may have beyond two for each item.
_SLACK = 1024
#: Items no longer waiting that a lane may keep, beyond one for each item that waits.
_SWEEP_AT = 64


class Queued(Protocol):
    """An item that can stand in a :class:`FairQueue`."""

    lane: Hashable
    priority: int
    suspect: bool
    #: The later the item came, the higher.
    number: int
    #: How many items waited when it joined the queue, itself included; 0 while it stands in none.  The queue sets it.
    waiting: int


Q = TypeVar("Q", bound=Queued)


def _number(item: Queued) -> int:
    return item.number


class _Suspects(deque[Q]):
    """One lane's suspects."""

    #: How many of them wait.
    waiting = 0


class _Lane(Generic[Q]):
    """One client's items of one priority.

    An item that is removed out of turn stays in the lane with `waiting` 0, until its turn
    comes or :meth:`sweep` forgets it.
    """

    __slots__ = ("items", "length", "suspects")

    def __init__(self) -> None:
        self.items: deque[Q] = deque()
        #: Suspects that were given back; they come before `items` and may be passed over.
        self.suspects: _Suspects[Q] | None = None
        #: How many items wait.
        self.length = 0

    def pop(self, suspects: bool) -> Q | None:
        """Take the first item that waits; None if only suspects wait, and `suspects` is False."""
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
        """Take the last item that waits; suspects last of all."""
        for part in (self.items, self.suspects):
            while part:
                item = part.pop()
                if item.waiting:
                    return item
        raise IndexError("the lane is empty")

    def sweep(self) -> None:
        """Forget the items that no longer wait, if they are most of the lane."""
        if len(self.items) + len(self.suspects or ()) > 2 * self.length + _SWEEP_AT:
            self.items = deque(item for item in self.items if item.waiting)
            if self.suspects:
                self.suspects = _Suspects(item for item in self.suspects if item.waiting)
                self.suspects.waiting = len(self.suspects)

    def __iter__(self) -> Iterator[Q]:
        for part in (self.suspects, self.items):
            for item in part or ():
                if item.waiting:
                    yield item


class FairQueue(Generic[Q]):
    """Items in lanes by priority; first in, first out within a lane."""

    __slots__ = (
        "_counts",
        "_lanes",
        "_longest",
        "_passed",
        "_pushes",
        "_relax_at",
        "_suspect_counts",
        "length",
        "suspects",
    )

    def __init__(self) -> None:
        #: The lanes of each priority, the next to be served first.
        self._lanes: list[OrderedDict[Hashable, _Lane[Q]]] = [OrderedDict() for _ in PRIORITIES]
        #: How many items of each priority wait, and how many of them are suspects.
        self._counts = [0] * len(PRIORITIES)
        self._suspect_counts = [0] * len(PRIORITIES)
        #: How many items wait, and how many of them are suspects.
        self.length = 0
        self.suspects = 0
        #: How often each priority was passed over since its last turn.
        self._passed = [0] * len(PRIORITIES)
        self._pushes = 0
        # A heap of (-length, -when, lane).  It is built when the longest backlog is first asked
        # for, and thrown away when the queue has emptied to half of its length at that time: a
        # queue that never overflows pays nothing for it.
        self._longest: list[tuple[int, int, Hashable]] | None = None
        self._relax_at = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Q]:
        for lanes in self._lanes:
            for lane in lanes.values():
                yield from lane

    def walk(self, lane: Hashable = None) -> Iterator[Q]:
        """Return the items that wait, while others come and go between two steps; `lane`: those of one client."""
        for lanes in self._lanes:
            keys = list(lanes) if lane is None else [lane]
            for found in filter(None, map(lanes.get, keys)):
                for part in (found.suspects, found.items):
                    for item in list(part or ()):
                        if item.waiting:
                            yield item

    @property
    def lane_count(self) -> int:
        """How many lanes there are, of all priorities."""
        return sum(map(len, self._lanes))

    def heads(self) -> Iterator[Q]:
        """The first item of each lane."""
        return (next(iter(lane)) for lanes in self._lanes for lane in lanes.values())

    def push(self, item: Q) -> None:
        """Add `item` at the end of its lane; a new lane is served last."""
        self._add(item).items.append(item)
        if self._longest is not None:
            self._note_backlog(item.lane, newest=True)

    def push_front(self, item: Q) -> None:
        """Put `item` back at the head of its lane, by its number, and have that lane served next.

        So the order in which items are put back matters only between lanes.
        """
        self._insert(item)
        self._lanes[item.priority].move_to_end(item.lane, last=False)

    def move(self, item: Q, lane: Hashable) -> None:
        """Have an item that waits go on waiting in another lane, by its number; a new lane is served last."""
        old = self._lanes[item.priority][item.lane]
        part = old.suspects if item.suspect else old.items
        assert part  # an item that waits stands there
        del part[bisect.bisect_left(part, item.number, key=_number)]
        waiting = item.waiting
        self._count_out(item, old)
        item.lane = lane
        self._insert(item)
        item.waiting = waiting

    def pop(self, suspects: bool = True) -> Q | None:
        """Take the next item; None if there is none, or only suspects wait and `suspects` is False."""
        if not self.length:
            return None
        if not self.suspects and self._counts[NORMAL_PRIORITY] == self.length:
            return self._pop_plain()
        if suspects or not self.suspects:
            return self._pop_from(self._choose_priority([p for p in PRIORITIES if self._counts[p]]), True)
        eligible = [priority for priority in PRIORITIES if self._counts[priority] > self._suspect_counts[priority]]
        return self._pop_from(self._choose_priority(eligible), False) if eligible else None

    def remove(self, item: Q) -> None:
        """Take `item` out, wherever it stands; ValueError if it is not in the queue."""
        lane = self._lanes[item.priority].get(item.lane) if item.waiting else None
        if lane is None:
            raise ValueError("no such item in the queue")
        self._count_out(item, lane)
        lane.sweep()

    def evict(self) -> Q:
        """Take out the item that gives way; IndexError if there is none.

        Among backlogs of the same length, the one to which an item was added last gives way.
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
        self._count_out(item, lane)
        if backlog > 1 and self._longest is not None:
            heapq.heappush(self._longest, (1 - backlog, when, key))
        return item

    def _choose_priority(self, eligible: list[int]) -> int:
        """Choose which of these priorities is served: the most urgent, or one that was passed over often enough."""
        chosen = eligible[-1]
        passed = self._passed
        for priority in eligible[:-1]:
            if passed[priority] >= PATIENCE:
                chosen = priority
                break
        for priority in eligible:
            if priority <= chosen:
                passed[priority] = 0 if priority == chosen else passed[priority] + 1
        return chosen

    def _pop_plain(self) -> Q:
        """Take the next item of a queue in which all are of the normal priority and none is a suspect."""
        lanes = self._lanes[NORMAL_PRIORITY]
        key, lane = lanes.popitem(last=False)
        item = lane.items.popleft()
        while not item.waiting:
            item = lane.items.popleft()
        item.waiting = 0
        lane.length -= 1
        if lane.length:
            lanes[key] = lane
        self.length -= 1
        self._counts[NORMAL_PRIORITY] -= 1
        if self._longest is not None and self.length < self._relax_at:
            self._longest = None
        return item

    def _pop_from(self, priority: int, suspects: bool) -> Q:
        """Take the next item of one priority; lanes that have only suspects keep their turn."""
        lanes = self._lanes[priority]
        if suspects:
            key, lane = lanes.popitem(last=False)
        else:
            key = next(key for key, lane in lanes.items() if not lane.suspects or lane.length > lane.suspects.waiting)
            lane = lanes.pop(key)
        item = lane.pop(suspects)
        assert item is not None  # the caller has looked at the counts
        self._count_out(item, lane)
        if lane.length:
            lanes[key] = lane
        return item

    def _count_out(self, item: Q, lane: _Lane[Q]) -> None:
        """Count an item that has left its lane, and forget a lane that is empty."""
        item.waiting = 0
        lane.length -= 1
        self.length -= 1
        self._counts[item.priority] -= 1
        if item.suspect:
            assert lane.suspects is not None  # it stood there
            lane.suspects.waiting -= 1
            self._suspect_counts[item.priority] -= 1
            self.suspects -= 1
        if not lane.length:
            self._lanes[item.priority].pop(item.lane, None)
        if self._longest is not None and self.length < self._relax_at:
            self._longest = None

    def _add(self, item: Q) -> _Lane[Q]:
        """Count an item that is about to wait, and return its lane.  The caller puts the item there."""
        lanes = self._lanes[item.priority]
        lane = lanes.get(item.lane)
        if lane is None:
            lane = lanes[item.lane] = _Lane()
        lane.length += 1
        item.waiting = self.length = self.length + 1
        self._counts[item.priority] += 1
        return lane

    def _insert(self, item: Q) -> None:
        """Put `item` into its lane by its number: the lane is in order, and stays so."""
        lane = self._add(item)
        if item.suspect:
            if lane.suspects is None:
                lane.suspects = _Suspects()
            bisect.insort(lane.suspects, item, key=_number)
            lane.suspects.waiting += 1
            self._suspect_counts[item.priority] += 1
            self.suspects += 1
        else:
            bisect.insort(lane.items, item, key=_number)
        if self._longest is not None:
            self._note_backlog(item.lane, newest=False)

    def _backlog(self, key: Hashable) -> int:
        """How many items of a client wait, all its priorities together."""
        return sum(lanes[key].length for lanes in self._lanes if key in lanes)

    def _note_backlog(self, key: Hashable, newest: bool) -> None:
        """Note the length of a client's backlog; `newest`: the last item was added behind the others."""
        assert self._longest is not None  # each caller has checked
        if len(self._longest) >= 2 * self.length + _SLACK:
            self._longest = None  # mostly stale: it is built again when it is needed
            return
        self._pushes += 1
        when = -self._pushes if newest else self._pushes
        heapq.heappush(self._longest, (-self._backlog(key), when, key))
