"""What a client and a worker in virtual time have in common: connections to brokers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ...core.peer.connector import Connector, Open, Send
from ...core.peer.reasons import CloseReason
from ...protocol.dialects import Dialect
from .network import Network, Wire
from .node import Node

K = TypeVar("K", bound=Connector[Any, Any])


class PeerNode(Node, Generic[K]):
    """A client or worker.

    Attributes:
        core: The core that the node runs.
        strict: True if brokers appear to the node as speaking an RFC only; "silent" if they do not even answer
            its probe.
        extension: The version of gmdp's extension that the node speaks.
        bandwidth: The most bytes a second of its wires, in each direction.
        wires: The connections to brokers that are open.
        on_traffic: Called with "received" or "sent", the wire and the frames of each message.
    """

    core: K

    def __init__(self, network: Network, name: str, strict: bool | str, extension: int, bandwidth: float) -> None:
        super().__init__(network, name)
        self.strict = strict
        self.extension = extension
        self.bandwidth = bandwidth
        self.on_traffic: Callable[[str, Wire, list[bytes]], None] | None = None
        self.wires: list[Wire] = []

    @property
    def open_wires(self) -> list[Wire]:
        """The connections to brokers that are open."""
        return [wire for wire in self.wires if wire.open]

    @property
    def dialect(self) -> Dialect:
        """The dialect of MDP that the node speaks."""
        return self.core.dialect

    def deadline(self) -> float:
        """Return when `tick` is needed next."""
        return self.core.deadline()

    def tick(self, now: float) -> None:
        """Do what is due."""
        self.core.tick(now, self.schedule.random.random())

    def on_connected(self, wire: Wire) -> None:
        """Take note that `wire` has connected."""
        if wire.open:
            self.core.on_connected(wire.connection, self.schedule.now)

    def on_disconnected(self, wire: Wire) -> None:
        """Take note that `wire` is lost."""
        reason = CloseReason.CONNECTION_CLOSED
        self.core.on_disconnected(wire.connection, reason, self.schedule.now, self.schedule.random.random())

    def on_message(self, wire: Wire, frames: list[bytes]) -> None:
        """Take one message."""
        if self.on_traffic is not None:
            self.on_traffic("received", wire, frames)
        self.core.feed(wire.connection, frames, self.schedule.now, self.schedule.random.random())

    def crash(self) -> None:
        """Let the process die; messages that were sent may still arrive."""
        if not self.dead:
            self.schedule.record(self, "dies")
            self.dead = True
            self.inbox.clear()
            for wire in self.wires:
                wire.cut()

    def flush(self, now: float) -> None:
        """Carry out the core's decisions."""
        core = self.core
        while core.actions or core.events:
            actions, events = core.take()
            for action in actions:
                if isinstance(action, Send):
                    if self.on_traffic is not None:
                        self.on_traffic("sent", action.connection.handle, action.frames)
                    action.connection.handle.send(action.frames)
                elif isinstance(action, Open):
                    wire = action.connection.handle = self.network.connect(self, action.connection)
                    self.wires = [*(wire for wire in self.wires if wire.open), wire]
                else:
                    action.connection.handle.close()
            for event in events:
                self.on_event(event, now)

    def on_event(self, event: Any, now: float) -> None:
        """Take what the core decided for a caller or handler."""
