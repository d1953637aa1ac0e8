"""Connections in memory, with their delays and misfortunes.

A wire behaves as ZeroMQ's sockets were measured to: messages are whole and in
order; what is sent to a peer that is gone is refused only once that is known; a
peer that does not read has room for a number of messages and no more; when a
connection breaks, some of what was under way arrives, the rest does not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, MutableMapping
from typing import Any, Protocol

from ...core.peer.connector import Connection
from ...protocol.dialects import Command, Dialect
from ...protocol.extension import PROBE_SERVICE
from .schedule import Schedule

#: Messages of a wire that may arrive a second time after it broke.
_REMEMBERED = 4


def _holds(frames: list[bytes], part: list[bytes]) -> bool:
    """Does a message hold these frames, one after the other, among its first ones?"""
    return any(frames[at : at + len(part)] == part for at in range(4))


class BrokerEnd(Protocol):
    """What a wire needs of a broker."""

    #: False while the broker is down.
    up: bool
    #: Counts the broker's starts and ends.
    generation: int

    @property
    def peers(self) -> MutableMapping[bytes, Wire]:
        """The wires the broker knows, by routing id."""

    def post(self, function: Callable[..., None], *args: Any) -> None:
        """Have the broker call `function(*args)` when it reads next."""

    def received(self, frames: list[bytes]) -> None:
        """Take one message, routing id first."""


class PeerEnd(Protocol):
    """What a wire needs of a client or worker."""

    name: str
    #: True if brokers appear to the node as speaking an RFC only; "silent" if they do not
    #: even answer its probe.
    strict: bool | str
    dead: bool

    @property
    def dialect(self) -> Dialect:
        """What the node speaks."""

    def post(self, function: Callable[..., None], *args: Any) -> None:
        """Have the node call `function(*args)` when it reads next."""

    def connected(self, wire: Wire) -> None:
        """Hear that `wire` stands."""

    def lost(self, wire: Wire) -> None:
        """Hear that `wire` is gone."""

    def received(self, wire: Wire, frames: list[bytes]) -> None:
        """Take one message."""


class Network:
    """Who listens where, and how long messages take."""

    def __init__(self, schedule: Schedule, latency: float = 0.01) -> None:
        self.schedule = schedule
        #: The most seconds a message takes.
        self.latency = latency
        #: Brokers by endpoint.
        self.brokers: dict[str, BrokerEnd] = {}
        #: All connections ever made that were not forgotten.
        self.wires: list[Wire] = []
        self._made = 0

    def routing_id(self) -> bytes:
        """One that no wire had before."""
        self._made += 1
        return b"\0%08d" % self._made

    def delay(self) -> float:
        """How long the next message takes."""
        return self.schedule.random.uniform(0.1, 1.0) * self.latency

    def connect(self, node: PeerEnd, connection: Connection) -> Wire:
        """A new wire from `node` to where `connection` goes."""
        self.wires = [wire for wire in self.wires if wire.open or wire.there]
        wire = Wire(self, node, connection, self.brokers.get(connection.endpoint))
        self.wires.append(wire)
        return wire


class Wire:
    """One connection of a client or worker to a broker."""

    def __init__(self, network: Network, node: PeerEnd, connection: Connection, broker: BrokerEnd | None) -> None:
        self.network = network
        self.schedule = network.schedule
        self.node = node
        self.connection = connection
        self.broker = broker
        self.routing_id = network.routing_id()
        #: False as soon as the node has closed it, or heard that it is lost.
        self.open = True
        #: False as soon as the broker knows that nobody is there.
        self.there = False
        self.silent = False
        self.broken = False
        #: True once its broker has said that it stops.
        self.is_left = False
        #: Which start of the broker it goes to.
        self.generation = -1
        #: Messages to the node that it has not read.
        self.unread = 0
        self._last = {True: 0.0, False: 0.0}
        #: Messages sent each way, and the last of them that arrives once it is broken.
        self._sent = {True: 0, False: 0}
        self._last_to_arrive = {True: 0, False: 0}
        self._arrived = {True: 0, False: 0}
        self._history: deque[list[bytes]] = deque(maxlen=_REMEMBERED)
        self._in_order(True, self._reach)

    def __repr__(self) -> str:
        return f"{self.node.name}/{int(self.routing_id[1:])}"

    def _in_order(self, inward: bool, function: Callable[..., None], *args: Any) -> None:
        when = max(self.schedule.now + self.network.delay(), self._last[inward] + 1e-6)
        self._last[inward] = when
        self.schedule.at(when, function, *args)

    def _reach(self) -> None:
        broker = self.broker
        if broker is not None and broker.up and not self.silent and not self.broken:
            self.there = True
            self.generation = broker.generation
            broker.peers[self.routing_id] = self
            self._in_order(False, self._tell_connected)
        else:
            self._in_order(False, self._tell_lost)

    def _tell_connected(self) -> None:
        if self.open and not self.silent and not self.broken:
            self.node.post(self.node.connected, self)

    def _tell_lost(self) -> None:
        if self.open:
            self.open = False
            self.node.post(self.node.lost, self)

    # The node's end

    def send(self, frames: list[bytes]) -> None:
        """Send one message to the broker."""
        if not self.open:
            return
        if self.node.strict and PROBE_SERVICE in frames:
            # A broker of the RFC's, as far as this node can tell: with or without RFC 8.
            if self.node.strict == "silent":
                return
            self._in_order(False, self._read, self.node.dialect.reply(PROBE_SERVICE, [b"501"]), 0)
            return
        self._sent[True] += 1
        self._in_order(True, self._arrive, frames, self._sent[True])

    def close(self) -> None:
        """The node closes it; what was sent still arrives."""
        self.open = False
        self._in_order(True, self._gone)

    # The broker's end

    def _survives(self, inward: bool, number: int) -> bool:
        if self.silent or (self.broken and number > self._last_to_arrive[inward]):
            return False
        self._arrived[inward] = number
        return True

    def _arrive(self, frames: list[bytes], number: int) -> None:
        broker = self.broker
        if broker is None or not self.there or self.generation != broker.generation:
            return
        if self._survives(True, number):
            if self.schedule.trace is not None:
                self.schedule.tell(self, "->", broker, frames)
            self._history.append(frames)
            broker.post(broker.received, [self.routing_id, *frames])

    def _gone(self) -> None:
        self.there = False
        if self.broker is not None and self.broker.peers.get(self.routing_id) is self:
            del self.broker.peers[self.routing_id]

    def deliver(self, frames: list[bytes], hwm: int) -> str | None:
        """Send one message to the node; None, or why not: "full" or "gone"."""
        if not self.there:
            return "gone"
        if self.unread >= hwm:
            return "full"
        if self.schedule.trace is not None:
            self.schedule.tell(self.broker, "->", self, frames)
        self.unread += 1
        self._sent[False] += 1
        self._in_order(False, self._read, frames, self._sent[False])
        return None

    def _read(self, frames: list[bytes], number: int) -> None:
        if self.open and (not number or self._survives(False, number)):
            self.node.post(self._received, frames, number)

    def _received(self, frames: list[bytes], number: int) -> None:
        if number:
            self.unread -= 1
        if self.open:
            self.node.received(self, frames)

    # Misfortune

    def cut(self) -> None:
        """It breaks, and both ends notice."""
        if self.broken:
            return
        self.schedule.tell("cut", self)
        self.broken = True
        for inward in (True, False):
            self._last_to_arrive[inward] = self.schedule.random.randint(self._arrived[inward], self._sent[inward])
        self._in_order(True, self._gone)
        self._in_order(False, self._tell_lost)

    def cut_silently(self, noticed_after: float) -> None:
        """Nothing passes any more; both ends are told after a while, if they have not noticed."""
        if self.silent or self.broken:
            return
        self.schedule.tell("cut in silence", self)
        self.silent = True
        self.schedule.after(noticed_after, self._gone)
        self.schedule.after(noticed_after, self._tell_lost)

    def stall(self, seconds: float) -> None:
        """Whatever is sent from now on waits for so long."""
        self.schedule.tell(f"stalls for {seconds:.3f} s:", self)
        for inward in (True, False):
            self._last[inward] = max(self._last[inward], self.schedule.now + seconds)

    def repeat(self, count: int) -> None:
        """The last messages it brought come once more, as from a peer that is gone.

        Not the parts of an answer: MDP does not number them, and ZeroMQ repeats nothing.
        """
        dialect = self.node.dialect
        part = dialect.worker(Command.PARTIAL)[-2:] if dialect.streams else [PROBE_SERVICE]
        whole = [frames for frames in self._history if not _holds(frames, part)]
        for frames in whole[-count:]:
            self.schedule.tell("a message comes twice:", self)
            self.schedule.after(self.network.delay(), self._once_more, frames)

    def _once_more(self, frames: list[bytes]) -> None:
        if self.broker is not None and self.broker.up:
            self.broker.post(self.broker.received, [self.routing_id, *frames])
