"""Checks of connections that take time: a few run at once, and lanes take turns.

The rules of this module:

* A check waits in its lane, and lanes take turns.  An address is a lane, and so is each known user
  at an address.  Many connections from one address thus delay a connection from another by one
  round, and so do strangers a known user.
* When too many checks wait, the newest check of the longest lane is refused.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

import gevent
import gevent.pool


class Checks:
    """Runs checks in greenlets of their own.

    Args:
        max_running: Checks that run at once.
        max_waiting: Checks that may wait for their turn.
    """

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._lanes: OrderedDict[str, deque[tuple[Callable[[], None], Callable[[], None]]]] = OrderedDict()
        self._waiting = 0
        self._running = gevent.pool.Group()

    def submit(self, lane: str, check: Callable[[], None], refuse: Callable[[], None]) -> None:
        """Have `check` run in its turn.  If too many checks wait, `refuse` may be called instead."""
        self._lanes.setdefault(lane, deque()).append((check, refuse))
        self._waiting += 1
        if self._waiting > self._max_waiting:
            longest = max(self._lanes, key=lambda key: len(self._lanes[key]))
            _, refuse_newest = self._lanes[longest].pop()
            self._on_removed(longest)
            refuse_newest()
        if len(self._running) < self._max_running:
            self._running.spawn(self._run_waiting)

    def close(self) -> None:
        """End at once; running checks are not waited for."""
        self._lanes.clear()
        self._running.kill(block=False)

    def _on_removed(self, lane: str) -> None:
        """One check was removed from a lane."""
        self._waiting -= 1
        if not self._lanes[lane]:
            del self._lanes[lane]

    def _run_waiting(self) -> None:
        while self._lanes:
            lane, waiting = next(iter(self._lanes.items()))
            check, _ = waiting.popleft()
            self._lanes.move_to_end(lane)
            self._on_removed(lane)
            try:
                check()
            except BaseException:
                if self._lanes:  # what waits does not go with this greenlet
                    self._running.spawn(self._run_waiting)
                raise
