"""A heap of deadlines for items that mostly do not reach them.

Rules: an item has at most one entry, its ``timer`` attribute.  An entry that was disarmed has
no item; it is stale and skipped.  Stale entries are swept when they outnumber the live ones,
so the heap never holds more than twice the live entries and a constant.
"""

from __future__ import annotations

import heapq
import math
from typing import Any, Protocol

_SWEEP_AT = 1024


class Timed(Protocol):
    """An item that can wait in :class:`Timers`."""

    #: The item's entry, whose first element is when it is due (monotonic seconds), or None.
    timer: list[Any] | None


class Timers:
    """Deadlines of :class:`Timed` items, earliest first."""

    __slots__ = ("_heap", "_sequence", "_stale")

    def __init__(self) -> None:
        #: Entries: [when, number, item].
        self._heap: list[list[Any]] = []
        self._sequence = 0
        self._stale = 0

    def __len__(self) -> int:
        return len(self._heap) - self._stale

    def arm(self, item: Timed, when: float) -> None:
        """Make `item` due at `when`, and at no other time."""
        if item.timer is not None:
            self.disarm(item)
        self._sequence += 1
        item.timer = entry = [when, self._sequence, item]
        heapq.heappush(self._heap, entry)

    def disarm(self, item: Timed) -> None:
        """Forget `item`; nothing happens if it was not armed."""
        entry = item.timer
        if entry is None:
            return
        item.timer = entry[2] = None
        self._stale += 1
        if self._stale > _SWEEP_AT and self._stale * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2] is not None]
            heapq.heapify(self._heap)
            self._stale = 0

    def items(self) -> list[Any]:
        """Return every item that is armed, in no order."""
        return [entry[2] for entry in self._heap if entry[2] is not None]

    def next_due(self) -> float:
        """When the earliest item is due; infinity if there is none."""
        heap = self._heap
        while heap:
            when: float
            when, _, item = heap[0]
            if item is not None:
                return when
            heapq.heappop(heap)
            self._stale -= 1
        return math.inf

    def pop_due(self, now: float) -> Any:
        """Take out one item that is due by `now`; None if there is none."""
        if self.next_due() > now:
            return None
        item = heapq.heappop(self._heap)[2]
        item.timer = None
        return item
