"""What runs a core in virtual time: a stand-in for the owner of a socket."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .network import Network


class Node:
    """What an owner does: read a burst, do what is due, send."""

    #: Messages read before anything else is done.
    burst = 3

    def __init__(self, network: Network, name: str) -> None:
        self.network = network
        self.schedule = network.schedule
        self.name = name
        self.inbox: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        #: True while its hub does something else, or the process is frozen.
        self.blocked = False
        self.dead = False
        #: True if it ran since somebody reset this.
        self.ran = False
        self._wake_at = math.inf

    def __repr__(self) -> str:
        return self.name

    # What subclasses provide

    def awake(self, now: float) -> None:
        """A pass begins."""

    def caught_up(self, now: float) -> None:
        """There was nothing more to read."""

    def deadline(self) -> float:
        """When `tick` is needed next; infinity if never."""
        return math.inf

    def tick(self, now: float) -> None:
        """Do what is due."""

    def flush(self, now: float) -> None:
        """Carry out what was decided."""

    # Running

    def post(self, function: Callable[..., None], *args: Any) -> None:
        """Have the node call `function(*args)` when it reads next."""
        if not self.dead:
            self.inbox.append((function, args))
            self.run()

    def block(self, seconds: float) -> None:
        """It does not run for so long; what comes waits."""
        if not self.blocked and not self.dead:
            self.schedule.tell(self, f"does not run for {seconds:.3f} s")
            self.blocked = True
            self.schedule.after(seconds, self.unblock)

    def unblock(self) -> None:
        """It runs again."""
        if self.blocked:
            self.blocked = False
            self.run()

    def has_died(self) -> bool:
        """True once the process is dead."""
        return self.dead

    def run(self) -> None:
        """Pass after pass, until there is nothing more to do now."""
        self.ran = True
        if self.blocked or self.dead:
            return
        now = self.schedule.now
        # What could not be sent may leave something that is due at once; but not for ever.
        spins = 20
        while True:
            self.awake(now)
            for function, args in self.inbox[: self.burst]:
                function(*args)
                if self.has_died():
                    return
            del self.inbox[: self.burst]
            if not self.inbox:
                self.caught_up(now)
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
