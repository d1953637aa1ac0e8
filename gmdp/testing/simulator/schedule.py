"""Virtual time, and the calls that are planned in it."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any


class Schedule:
    """A clock, and the calls that move it forward.

    Args:
        seed: The seed of :attr:`random`, from which all chance in a simulation comes.
        trace: Called with a line of text for each thing that happens.

    Attributes:
        now: Seconds since the beginning.
        steps: The number of planned calls that were made.
        on_step: Called after each step.
    """

    def __init__(self, seed: int = 0, trace: Callable[[str], None] | None = None) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.trace = trace
        self.on_step: Callable[[], None] | None = None
        self.steps = 0
        self._planned: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = itertools.count()

    def clock(self) -> float:
        """Return the present time, where a clock is expected."""
        return self.now

    def at(self, when: float, function: Callable[..., None], *args: Any) -> None:
        """Plan `function(*args)` for the time `when`, or for now if `when` is past."""
        heapq.heappush(self._planned, (max(when, self.now), next(self._sequence), function, args))

    def after(self, seconds: float, function: Callable[..., None], *args: Any) -> None:
        """Plan `function(*args)` for `seconds` from now."""
        self.at(self.now + seconds, function, *args)

    def step(self, until: float) -> bool:
        """Make the next planned call.  Returns False if none is planned up to `until`."""
        if not self._planned or self._planned[0][0] > until:
            return False
        self.now, _, function, args = heapq.heappop(self._planned)
        self.steps += 1
        function(*args)
        if self.on_step is not None:
            self.on_step()
        return True

    def run(self, seconds: float) -> None:
        """Let `seconds` go by, and make all calls planned for them."""
        until = self.now + seconds
        while self.step(until):
            pass
        self.now = until

    def record(self, *what: object) -> None:
        """Write one line of the trace."""
        if self.trace is not None:
            self.trace(f"{self.now:12.6f}  {' '.join(map(str, what))}")
