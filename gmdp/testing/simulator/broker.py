"""A broker in virtual time."""

from __future__ import annotations

import math
from collections.abc import Callable

from ...core.broker.core import BrokerCore
from ...core.broker.decisions import DeadLetter
from ...core.broker.options import BrokerOptions
from ...core.broker.reports import About
from ...core.broker.statistics import BrokerCounters
from ...protocol.token import NONCE_SIZE
from . import internals
from .network import Network, Wire
from .node import Node


class BrokerNode(Node):
    """A broker, which can be killed and started again at its endpoint."""

    def __init__(self, network: Network, endpoint: str, options: BrokerOptions, hwm: int = 1000) -> None:
        super().__init__(network, endpoint)
        self.options = options
        self.hwm = hwm
        self.generation = 0
        self.up = False
        self.peers: dict[bytes, Wire] = {}
        self.letters: list[DeadLetter] = []
        #: Sees what is "received", "sent", and "unsent" since its peer is gone, and who is
        #: "lost" while something of his waits unread.
        self.watch: Callable[[BrokerNode, str, list[bytes]], None] | None = None
        self._until: float | None = None
        network.brokers[endpoint] = self
        self.start()

    def start(self) -> None:
        """Start, with empty hands."""
        if self.up:
            return
        self.schedule.tell(self, "starts")
        self.generation += 1
        self.up = True
        self._until = None
        self.peers = {}
        self.inbox.clear()
        self.counters = BrokerCounters()
        nonce = self.schedule.random.randbytes(NONCE_SIZE)
        about = About(hwm=self.hwm)
        self.core = BrokerCore(self.options, nonce, self.schedule.now, self.counters, about)
        # So that where there is room for few messages, backlogs of few are many batches.
        internals.limit_batch(self.core, self.hwm)
        self._wake_at = math.inf
        self.run()

    def kill(self) -> None:
        """End at once, as after ``kill -9``."""
        if self.up:
            self.schedule.tell(self, "is killed")
            self._down()

    def stop(self, timeout: float) -> None:
        """Drain for up to `timeout` seconds, and end."""
        if self.up and self._until is None:
            self.schedule.tell(self, "drains")
            self.core.drain()
            self._until = self.schedule.now + timeout
            self.run()

    def _down(self) -> None:
        self.up = False
        self.generation += 1
        for wire in list(self.peers.values()):
            wire.cut()
        self.peers = {}
        self.inbox.clear()

    def run(self) -> None:
        """Run, unless it is down."""
        if self.up:
            super().run()

    def awake(self, now: float) -> None:
        """A pass begins."""
        self.core.awake(now)

    def caught_up(self, now: float) -> None:
        """There was nothing more to read."""
        self.core.caught_up(now)

    def deadline(self) -> float:
        """When `tick` is needed next."""
        if not self.up:
            return math.inf
        when = self.core.deadline()
        if self._until is not None:
            return 0.0 if self.core.drained else min(when, self._until)
        return when

    def received(self, frames: list[bytes]) -> None:
        """One message was read."""
        if self.watch is not None:
            self.watch(self, "received", frames)
        self.core.feed(frames, self.schedule.now)

    def tick(self, now: float) -> None:
        """Do what is due."""
        unread = {args[0][0] for function, args in self.inbox if function == self.received}
        alive = unread & internals.worker_connections(self.core).keys()
        self.core.tick(now)
        if self.watch is not None:
            for key in alive - internals.worker_connections(self.core).keys():
                self.watch(self, "lost", [key])
        if self._until is not None and (self.core.drained or now >= self._until):
            self.core.finish(now)
            self.flush(now)
            self.schedule.tell(self, "has stopped")
            self._down()

    def flush(self, now: float) -> None:
        """Send what was decided."""
        core = self.core
        while core.outbox or core.events:
            outbox = core.outbox[:]
            core.outbox.clear()
            for outgoing in outbox:
                if core.backlogs.hold_back(outgoing, now):
                    continue
                routing_id, *frames = outgoing.frames
                wire = self.peers.get(routing_id)
                why_not = wire.deliver(frames, self.hwm) if wire is not None else "gone"
                if why_not is not None:
                    if self.watch is not None and why_not == "gone":
                        self.watch(self, "unsent", outgoing.frames)
                    core.unsent(outgoing, why_not == "full", now)
                elif self.watch is not None:
                    self.watch(self, "sent", outgoing.frames)
            for event in core.events:
                if isinstance(event, DeadLetter):
                    self.letters.append(event)
            core.events.clear()
