"""Virtual time, and what is going to happen in it."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any


class Schedule:
    """A clock that is moved by what is planned; all chance comes from `seed`.

    `trace`: called with a line for each thing that happens.
    """

    def __init__(self, seed: int = 0, trace: Callable[[str], None] | None = None) -> None:
        #: Seconds since the beginning.
        self.now = 0.0
        self.random = random.Random(seed)
        self.trace = trace
        #: Called after each step.
        self.after_step: Callable[[], None] | None = None
        self.steps = 0
        self._coming: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = itertools.count()

    def clock(self) -> float:
        """The present time, for whoever wants a clock."""
        return self.now

    def at(self, when: float, function: Callable[..., None], *args: Any) -> None:
        """Call `function(*args)` at `when`, or now if that is past."""
        heapq.heappush(self._coming, (max(when, self.now), next(self._sequence), function, args))

    def after(self, seconds: float, function: Callable[..., None], *args: Any) -> None:
        """Call `function(*args)` in `seconds`."""
        self.at(self.now + seconds, function, *args)

    def step(self, until: float) -> bool:
        """Let the next thing happen, if it is planned by `until`."""
        if not self._coming or self._coming[0][0] > until:
            return False
        self.now, _, function, args = heapq.heappop(self._coming)
        self.steps += 1
        function(*args)
        if self.after_step is not None:
            self.after_step()
        return True

    def run(self, seconds: float) -> None:
        """Let `seconds` go by."""
        until = self.now + seconds
        while self.step(until):
            pass
        self.now = until

    def tell(self, *what: object) -> None:
        """One line of the trace."""
        if self.trace is not None:
            self.trace(f"{self.now:12.6f}  {' '.join(map(str, what))}")
