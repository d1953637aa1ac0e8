"""What a broker, a worker and a client in virtual time have in common: they run a core."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .network import Network, Wire


class Node:
    """The stand-in for an owner: reads a burst, does what is due, and sends."""

    #: Messages that are read before the node does anything else.
    burst = 3

    def __init__(self, network: Network, name: str) -> None:
        self.network = network
        self.schedule = network.schedule
        self.name = name
        self.inbox: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        #: True while the node's hub does not run: the process computes, or is frozen.
        self.blocked = False
        #: True while the process is frozen, as by SIGSTOP.
        self.frozen = False
        #: The reasons why the node does not run now.
        self._holds: set[object] = set()
        #: The reasons why the process is frozen now.
        self._freezes: set[object] = set()
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

    #: Seconds between the ZMTP heartbeats of the node's sockets, and seconds without an answer that end
    #: a connection.
    zmtp_heartbeat = (1.25, 5.625)

    @property
    def open_wires(self) -> list[Wire]:
        """The wires to other nodes that are open."""
        return []

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
        """Keep the node's hub from running for `seconds`; messages wait meanwhile.

        The process computes: its sockets answer ZMTP heartbeats.
        """
        if not self.dead:
            self.schedule.record(self, f"computes for {seconds:.3f} s")
            self._hold(seconds)

    def freeze(self, seconds: float) -> None:
        """Freeze the node's process for `seconds`, as by SIGSTOP: its sockets do not answer ZMTP heartbeats either."""
        if self.dead:
            return
        self.schedule.record(self, f"is frozen for {seconds:.3f} s")
        hold = self._hold(seconds)
        self._freezes.add(hold)
        self.frozen = True
        for wire in self.open_wires:
            wire.freeze(self, hold)

    def is_frozen_by(self, hold: object) -> bool:
        """Return whether the process has been frozen since `hold`."""
        return hold in self._freezes

    def _hold(self, seconds: float) -> object:
        hold = object()
        self._holds.add(hold)
        self.blocked = True
        self.schedule.after(seconds, self._release, hold)
        return hold

    def _release(self, hold: object) -> None:
        if hold in self._holds:
            self._holds.discard(hold)
            self._freezes.discard(hold)
            self._run_again()

    def unblock(self) -> None:
        """Let the node run again."""
        self._holds.clear()
        self._freezes.clear()
        self._run_again()

    def _run_again(self) -> None:
        self.frozen = bool(self._freezes)
        if self.blocked and not self._holds:
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
            if self.has_died() or self.blocked:
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
