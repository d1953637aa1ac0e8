"""A queue that is fair between the clients that fill it.

RFC 7: "The broker SHOULD serve clients on a fair basis".  Each client has a
lane; lanes are served in turn, one item each, so that one client's backlog
delays another's single request by at most one round.  Where something has to
go, it is the newest item of the longest lane.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_SLACK = 1024


class FairQueue(Generic[T]):
    """Items in lanes, served round robin; first in, first out within a lane."""

    __slots__ = ("_count", "_lanes", "_longest", "_pushes", "_relax_at")

    def __init__(self) -> None:
        self._lanes: OrderedDict[Hashable, deque[T]] = OrderedDict()
        self._count = 0
        self._pushes = 0
        # A heap of (-length, -when, lane), built when the longest lane is first
        # asked for and thrown away when the queue has emptied to half of that:
        # a queue that never overflows pays nothing for it.
        self._longest: list[tuple[int, int, Hashable]] | None = None
        self._relax_at = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        for lane in self._lanes.values():
            yield from lane

    def heads(self) -> Iterator[T]:
        """The first item of each lane."""
        return (items[0] for items in self._lanes.values())

    def push(self, lane: Hashable, item: T) -> None:
        """Add `item` at the end of its lane; a new lane is served last."""
        self._lane(lane).append(item)
        self._note(lane, newest=True)

    def push_front(self, lane: Hashable, item: T) -> None:
        """Give `item` back: it is the first of its lane, and the lane is next."""
        self._lane(lane).appendleft(item)
        self._lanes.move_to_end(lane, last=False)
        self._note(lane, newest=False)

    def pop(self) -> T:
        """The next item; IndexError if there is none."""
        if not self._count:
            raise IndexError("the queue is empty")
        lane, items = self._lanes.popitem(last=False)
        item = items.popleft()
        if items:
            self._lanes[lane] = items
        self._count -= 1
        if self._longest is not None and self._count < self._relax_at:
            self._longest = None
        return item

    def remove(self, lane: Hashable, item: T) -> None:
        """Take `item` out, wherever it stands; ValueError if it is not there."""
        items = self._lanes.get(lane)
        if items is None:
            raise ValueError("no such item in the queue")
        items.remove(item)
        if not items:
            del self._lanes[lane]
        self._count -= 1

    def evict(self) -> T:
        """Take out the newest item of the longest lane; IndexError if there is none.

        Among lanes of one length, the one last added to gives way.
        """
        if not self._count:
            raise IndexError("the queue is empty")
        while True:
            if not self._longest:
                lanes = self._lanes
                self._longest = [(-len(lanes[lane]), at, lane) for at, lane in enumerate(reversed(lanes))]
                heapq.heapify(self._longest)
                self._relax_at = self._count // 2
                self._pushes = len(lanes)
            length, when, lane = heapq.heappop(self._longest)
            items = self._lanes.get(lane)
            if items is None:
                continue
            if len(items) == -length:
                break
            if len(items) < -length:
                heapq.heappush(self._longest, (-len(items), when, lane))
        item = items.pop()
        self._count -= 1
        if items:
            heapq.heappush(self._longest, (-len(items), when, lane))
        else:
            del self._lanes[lane]
        return item

    def _lane(self, lane: Hashable) -> deque[T]:
        items = self._lanes.get(lane)
        if items is None:
            items = self._lanes[lane] = deque()
        return items

    def _note(self, lane: Hashable, newest: bool) -> None:
        self._count += 1
        if self._longest is None:
            return
        if len(self._longest) >= 2 * self._count + _SLACK:
            self._longest = None  # mostly stale: built anew when it is needed
            return
        self._pushes += 1
        when = -self._pushes if newest else self._pushes
        heapq.heappush(self._longest, (-len(self._lanes[lane]), when, lane))
