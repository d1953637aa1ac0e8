"""Checks of connections that take their time: a few at once, and in turn by address."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

import gevent
import gevent.pool


class Checks:
    """Runs checks in greenlets of its own: `at_once` at a time; `may_wait` wait.

    Addresses take turns, so that one from which many come delays another's by one round.
    When too many wait, the newest of the address with most of them gives way.
    """

    def __init__(self, at_once: int, may_wait: int) -> None:
        self._at_once = at_once
        self._may_wait = may_wait
        self._lanes: OrderedDict[str, deque[tuple[Callable[[], None], Callable[[], None]]]] = OrderedDict()
        self._waiting = 0
        self._running = gevent.pool.Group()

    def submit(self, address: str, check: Callable[[], None], refuse: Callable[[], None]) -> None:
        """Have `check` run, or, if there are too many, `refuse` called."""
        self._lanes.setdefault(address, deque()).append((check, refuse))
        self._waiting += 1
        if self._waiting > self._may_wait:
            longest = max(self._lanes, key=lambda lane: len(self._lanes[lane]))
            _, give_way = self._lanes[longest].pop()
            self._taken(longest)
            give_way()
        if len(self._running) < self._at_once:
            self._running.spawn(self._run)

    def close(self) -> None:
        """End, without waiting for what runs."""
        self._lanes.clear()
        self._running.kill(block=False)

    def _taken(self, address: str) -> None:
        self._waiting -= 1
        if not self._lanes[address]:
            del self._lanes[address]

    def _run(self) -> None:
        while self._lanes:
            address, lane = next(iter(self._lanes.items()))
            check, _ = lane.popleft()
            self._lanes.move_to_end(address)
            self._taken(address)
            check()
