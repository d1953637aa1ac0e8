"""A heap of deadlines for items that mostly do not reach them.

Rules: an item has at most one live entry, the one its ``timer`` attribute
names; everything else in the heap is stale and skipped.  Stale entries are
swept when they outnumber the live ones, so the heap never holds more than
twice the live entries and a constant.
"""

from __future__ import annotations

import heapq
import math
from typing import Any, Protocol

_SWEEP_AT = 1024


class Timed(Protocol):
    """What can wait in :class:`Timers`."""

    #: When it is due (monotonic seconds) and which entry says so, or None.
    timer: tuple[float, int] | None


def _live(entry: tuple[float, int, Any]) -> bool:
    timer = entry[2].timer
    return timer is not None and timer[1] == entry[1]


class Timers:
    """Deadlines of :class:`Timed` items, earliest first."""

    __slots__ = ("_heap", "_sequence", "_stale")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Any]] = []
        self._sequence = 0
        self._stale = 0

    def __len__(self) -> int:
        return len(self._heap) - self._stale

    def arm(self, item: Timed, when: float) -> None:
        """Make `item` due at `when`, instead of any earlier arrangement."""
        if item.timer is not None:
            self.disarm(item)
        self._sequence += 1
        item.timer = (when, self._sequence)
        heapq.heappush(self._heap, (when, self._sequence, item))

    def disarm(self, item: Timed) -> None:
        """Forget `item`; nothing happens if it was not armed."""
        if item.timer is None:
            return
        item.timer = None
        self._stale += 1
        if self._stale > _SWEEP_AT and self._stale * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if _live(entry)]
            heapq.heapify(self._heap)
            self._stale = 0

    def next(self) -> float:
        """When the earliest item is due; infinity if there is none."""
        heap = self._heap
        while heap and not _live(heap[0]):
            heapq.heappop(heap)
            self._stale -= 1
        return heap[0][0] if heap else math.inf

    def due(self, now: float) -> Any:
        """Take out one item that is due by `now`; None if there is none."""
        if self.next() > now:
            return None
        item = heapq.heappop(self._heap)[2]
        item.timer = None
        return item
