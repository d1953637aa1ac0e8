"""What a broker, a worker and a client in virtual time have in common: they run a core."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .network import Network


class Node:
    """The stand-in for an owner: reads a burst, does what is due, and sends."""

    #: Messages that are read before the node does anything else.
    burst = 3

    def __init__(self, network: Network, name: str) -> None:
        self.network = network
        self.schedule = network.schedule
        self.name = name
        self.inbox: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        #: True while the node's hub is blocked, or its process is frozen.
        self.blocked = False
        self.dead = False
        #: Set by each run; the simulation resets it after its checks.
        self.ran = False
        self._wake_at = math.inf

    def __repr__(self) -> str:
        return self.name

    # What subclasses provide

    def on_wake(self, now: float) -> None:
        """Take note that a pass begins."""

    def on_caught_up(self, now: float) -> None:
        """Take note that nothing is left to read."""

    def deadline(self) -> float:
        """Return when `tick` is needed next; infinity if never."""
        return math.inf

    def tick(self, now: float) -> None:
        """Do what is due."""

    def flush(self, now: float) -> None:
        """Carry out the core's decisions."""

    # Running

    def post(self, function: Callable[..., None], *args: Any) -> None:
        """Have the node call `function(*args)` when the node reads next."""
        if not self.dead:
            self.inbox.append((function, args))
            self.run()

    def block(self, seconds: float) -> None:
        """Keep the node from running for `seconds`; messages wait meanwhile."""
        if not self.blocked and not self.dead:
            self.schedule.record(self, f"does not run for {seconds:.3f} s")
            self.blocked = True
            self.schedule.after(seconds, self.unblock)

    def unblock(self) -> None:
        """Let the node run again."""
        if self.blocked:
            self.blocked = False
            self.run()

    def has_died(self) -> bool:
        """Return True once the process is dead."""
        return self.dead

    def run(self) -> None:
        """Make passes until nothing is left to do now."""
        self.ran = True
        if self.blocked or self.dead:
            return
        now = self.schedule.now
        # A message that could not be sent may leave something due at once, but not again and again.
        spins = 20
        while True:
            self.on_wake(now)
            for function, args in self.inbox[: self.burst]:
                function(*args)
                if self.has_died():
                    return
            del self.inbox[: self.burst]
            if not self.inbox:
                self.on_caught_up(now)
            if now >= self.deadline():
                self.tick(now)
            self.flush(now)
            if self.has_died():
                return
            if not self.inbox:
                when = self.deadline()
                if when > now:
                    break
                spins -= 1
                if not spins:
                    raise AssertionError(f"{self} spins")
        if when < self._wake_at or self._wake_at <= now:
            self._wake_at = when
            if when < math.inf:
                self.schedule.at(when, self._wake, when)

    def _wake(self, when: float) -> None:
        if when == self._wake_at:
            self._wake_at = math.inf
            self.run()
