"""A broker in virtual time."""

from __future__ import annotations

import math
from collections.abc import Callable

from ...core.broker.core import BrokerCore
from ...core.broker.decisions import DeadLetter, Event
from ...core.broker.options import BrokerOptions
from ...core.broker.reasons import LossReason
from ...core.broker.reports import About
from ...core.broker.statistics import BrokerCounters
from ...core.liveness import zmtp_heartbeat
from ...protocol.extension import VERSION
from ...protocol.token import NONCE_SIZE
from . import internals
from .failures import require
from .network import Network, Wire
from .node import Node


class BrokerNode(Node):
    """A broker that can be killed, and started again at its endpoint.

    Attributes:
        options: The :class:`~gmdp.core.broker.options.BrokerOptions` of each start.
        hwm: Messages that may wait for a peer that does not read.
        extension: The version of gmdp's extension that the broker speaks from its next start on.
        up: False while the broker is down.
        generation: Counts the broker's starts and ends.
        core: The core of the latest start.
        counters: What that core counted.
        peers: The wires to the broker, by routing id.
        letters: All dead letters so far.
        recalls: When requests that a mute worker had not begun were given to others.
        on_traffic: Called with the node, one of four words and frames: a message was "received", or "sent", or
            was "unsent" since its peer is gone, or the connection with this key was "lost" while a message of
            its worker waited unread.
    """

    def __init__(
        self, network: Network, endpoint: str, options: BrokerOptions, hwm: int = 1000, extension: int = VERSION
    ) -> None:
        super().__init__(network, endpoint)
        self.options = options
        self.zmtp_heartbeat = zmtp_heartbeat(options.heartbeat_interval, options.expiry)
        self.hwm = hwm
        self.extension = extension
        self.generation = 0
        self.up = False
        self.peers: dict[bytes, Wire] = {}
        self.letters: list[DeadLetter] = []
        self.recalls: list[float] = []
        self.on_traffic: Callable[[BrokerNode, str, list[bytes]], None] | None = None
        #: When a drain ends at the latest.
        self._drain_until = math.inf
        network.brokers[endpoint] = self
        self.start()

    @property
    def open_wires(self) -> list[Wire]:
        """The wires of the broker's peers."""
        return list(self.peers.values())

    def start(self) -> None:
        """Start with a new core; no effect if the broker is up."""
        if self.up:
            return
        self.schedule.record(self, "starts")
        self.generation += 1
        self.up = True
        self.peers = {}
        self.inbox.clear()
        self.counters = BrokerCounters()
        nonce = self.schedule.random.randbytes(NONCE_SIZE)
        about = About(hwm=self.hwm, extension=self.extension)
        self.core = BrokerCore(self.options, nonce, self.schedule.now, self.counters, about)
        # Where there is room for few messages, even a short backlog then takes several batches.
        internals.limit_batch(self.core, self.hwm)
        self._wake_at = math.inf
        self.run()

    def kill(self) -> None:
        """End at once, as after ``kill -9``; no effect if the broker is down."""
        if self.up:
            self.schedule.record(self, "is killed")
            self._go_down()

    def stop(self, timeout: float) -> None:
        """Drain for up to `timeout` seconds, then end."""
        if self.up and not self.core.draining:
            self.schedule.record(self, "drains")
            self._drain_until = self.schedule.now + timeout
            self.core.drain(self._drain_until)
            self.run()

    def _go_down(self, gracefully: bool = False) -> None:
        self.up = False
        self.generation += 1
        for wire in list(self.peers.values()):
            if gracefully:
                wire.end()
            else:
                wire.cut()
        self.peers = {}
        self.inbox.clear()

    def run(self) -> None:
        """Run, unless the broker is down."""
        if self.up:
            super().run()

    def on_wake(self, now: float) -> None:
        """Take note that a pass begins."""
        self.core.on_wake(now)

    def on_caught_up(self, now: float) -> None:
        """Take note that nothing is left to read."""
        self.core.connections = len(self.peers)
        self.core.on_caught_up(now)

    def deadline(self) -> float:
        """Return when `tick` is needed next."""
        if not self.up:
            return math.inf
        return self.core.deadline()

    def on_message(self, frames: list[bytes]) -> None:
        """Take one message, routing id first."""
        if self.on_traffic is not None:
            self.on_traffic(self, "received", frames)
        self.core.feed(frames, self.schedule.now)

    def tick(self, now: float) -> None:
        """Do what is due."""
        senders = {args[0][0] for function, args in self.inbox if function == self.on_message}
        unread = senders & internals.worker_connections(self.core).keys()
        self.core.tick(now)
        stopped = LossReason.STOPPED.value in self.counters.lost_workers
        if self.on_traffic is not None and not stopped:
            for key in unread - internals.worker_connections(self.core).keys():
                self.on_traffic(self, "lost", [key])

    def flush(self, now: float) -> None:
        """Send the messages that the core decided on, and collect dead letters."""
        core = self.core
        while True:
            outbox, events = core.take()
            if not outbox and not events:
                break
            for outgoing in outbox:
                if core.backlogs.hold_back(outgoing, now):
                    continue
                routing_id, *frames = outgoing.frames
                wire = self.peers.get(routing_id)
                obstacle = wire.deliver(frames, self.hwm) if wire is not None else "gone"
                if obstacle is not None:
                    if self.on_traffic is not None and obstacle == "gone":
                        self.on_traffic(self, "unsent", outgoing.frames)
                    core.send_failed(outgoing, obstacle == "full", now)
                elif self.on_traffic is not None:
                    self.on_traffic(self, "sent", outgoing.frames)
            self.letters += [event for event in events if isinstance(event, DeadLetter)]
            if any(isinstance(event, Event) and event.reason.startswith("recalled") for event in events):
                self.recalls.append(now)
        if core.drained:
            in_time = now < self._drain_until
            self.schedule.record(self, "has stopped", "in time" if in_time else "since its time is up")
            require(not (in_time and core.backlogs.count), "a stop has left messages though there was time")
            self._go_down(gracefully=in_time)
