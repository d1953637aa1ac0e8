"""Connections in memory, with their delays and faults.

A wire has these properties, which ZeroMQ's sockets were measured to have:

* Messages arrive whole and in order.
* A message to a peer that is gone is refused only once the sender knows of the loss.
* A peer that does not read has room for a fixed number of messages.
* When a connection breaks, some of the messages under way arrive, and the rest do not.
* Each end asks the other's process whether it is alive (ZMTP heartbeats), while the nodes themselves need not
  run.  An end that gets no answer for its time ends the connection: the other process is frozen, nothing
  passes, or a large message takes too long.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, MutableMapping
from typing import Any, Protocol

from ...core.peer.connector import Connection
from ...protocol.dialects import EXTENDED, Command, Dialect
from ...protocol.extension import PROBE_SERVICE
from .schedule import Schedule

#: Messages of a wire that may arrive a second time after the wire broke.
_REMEMBERED = 4


def _contains(frames: list[bytes], run: list[bytes]) -> bool:
    """Return whether a message contains the frames `run`, in a row, near its beginning."""
    return any(frames[at : at + len(run)] == run for at in range(4))


class BrokerEnd(Protocol):
    """What a wire needs of a broker."""

    #: False while the broker is down.
    up: bool
    #: True while its process is frozen.
    frozen: bool
    zmtp_heartbeat: tuple[float, float]
    #: Counts the broker's starts and ends.
    generation: int

    @property
    def peers(self) -> MutableMapping[bytes, Wire]:
        """The wires that the broker knows, by routing id."""

    def post(self, function: Callable[..., None], *args: Any) -> None:
        """Have the broker call `function(*args)` when the broker reads next."""

    def on_message(self, frames: list[bytes]) -> None:
        """Take one message, routing id first."""


class PeerEnd(Protocol):
    """What a wire needs of a client or worker."""

    name: str
    #: True if brokers appear to the node as speaking an RFC only; "silent" if they do not
    #: even answer its probe.
    strict: bool | str
    #: The version of gmdp's extension that the node speaks.
    extension: int
    #: The most bytes a second of its wires, in each direction.
    bandwidth: float
    dead: bool
    zmtp_heartbeat: tuple[float, float]

    @property
    def dialect(self) -> Dialect:
        """The dialect of MDP that the node speaks."""

    def post(self, function: Callable[..., None], *args: Any) -> None:
        """Have the node call `function(*args)` when the node reads next."""

    def on_connected(self, wire: Wire) -> None:
        """Take note that `wire` has connected."""

    def on_disconnected(self, wire: Wire) -> None:
        """Take note that `wire` is lost."""

    def on_message(self, wire: Wire, frames: list[bytes]) -> None:
        """Take one message."""


class Network:
    """The brokers by endpoint, all wires, and how long messages take."""

    def __init__(self, schedule: Schedule, latency: float = 0.01) -> None:
        self.schedule = schedule
        #: The most seconds a message takes.
        self.latency = latency
        #: Bytes a second of wires made from now on.
        self.bandwidth = math.inf
        #: Brokers by endpoint.
        self.brokers: dict[str, BrokerEnd] = {}
        #: The wires that one of their ends still uses.
        self.wires: list[Wire] = []
        self._routing_ids = 0

    def routing_id(self) -> bytes:
        """Return a routing id that no wire had before."""
        self._routing_ids += 1
        return b"\0%08d" % self._routing_ids

    def delay(self) -> float:
        """Draw how many seconds the next message takes."""
        return self.schedule.random.uniform(0.1, 1.0) * self.latency

    def connect(self, node: PeerEnd, connection: Connection) -> Wire:
        """Return a new wire from `node` to the endpoint of `connection`."""
        self.wires = [wire for wire in self.wires if wire.open or wire.attached]
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
        #: Bytes a second, in each direction.
        self.bandwidth = min(network.bandwidth, node.bandwidth)
        #: False once the node has closed the wire, or knows of its loss.
        self.open = True
        #: True while the broker counts the wire among its peers.
        self.attached = False
        #: True once nothing passes any more, though neither end knows.
        self.silent = False
        #: True once the wire is cut.
        self.broken = False
        #: The messages to the broker that were decided, and not sent, when it said that it stops; None before.
        self.decided_before_stop: list[list[bytes]] | None = None
        #: The generation of the broker that the wire is attached to.
        self.generation = -1
        #: Messages to the node that the node has not read.
        self.unread = 0
        #: Per direction (True: to the broker), when the last message arrives.
        self._last = {True: 0.0, False: 0.0}
        #: Per direction: messages sent, the last one that arrives once the wire is broken, and the last that arrived.
        self._sent = {True: 0, False: 0}
        self._last_to_arrive = {True: 0, False: 0}
        self._arrived = {True: 0, False: 0}
        self._history: deque[list[bytes]] = deque(maxlen=_REMEMBERED)
        self._deliver_in_order(True, self._attach)

    def __repr__(self) -> str:
        return f"{self.node.name}/{int(self.routing_id[1:])}"

    def _deliver_in_order(self, inward: bool, function: Callable[..., None], *args: Any, seconds: float = 0.0) -> None:
        when = max(self.schedule.now + self.network.delay(), self._last[inward] + 1e-6) + seconds
        self._last[inward] = when
        self.schedule.at(when, function, *args)

    def _transmit(self, inward: bool, function: Callable[..., None], frames: list[bytes], number: int) -> None:
        """Let a message arrive as soon as the wire's bandwidth allows, unless ZMTP heartbeats end the wire before."""
        if self.bandwidth < math.inf:
            patience = self._patience(inward)
            if max(map(len, frames)) / self.bandwidth > patience:
                # ZeroMQ notices a frame when it is complete, and PONG waits behind it.
                begins = max(self.schedule.now, self._last[inward])
                self.schedule.at(begins + patience, self._end_slow, inward, number)
        self._deliver_in_order(inward, function, frames, number, seconds=sum(map(len, frames)) / self.bandwidth)

    # ZMTP heartbeats

    def _patience(self, at_broker: bool) -> float:
        """Draw for how long the broker, or the node, goes without an answer from now on before it ends the wire."""
        end = self.broker if at_broker else self.node
        assert end is not None  # nothing passes on a wire without a broker
        interval, timeout = end.zmtp_heartbeat
        return self.schedule.random.uniform(0, interval) + timeout

    def freeze(self, process: Any, hold: object) -> None:
        """The process at one end is frozen: the other end notices that while it is."""
        self.schedule.after(self._patience(process is self.node), self._end_unanswered, process, hold)

    def _end_slow(self, inward: bool, number: int) -> None:
        """A message took too long: end the wire, and let that message never arrive."""
        self.cut()
        self._last_to_arrive[inward] = min(self._last_to_arrive[inward], number - 1)

    def _end_unanswered(self, process: Any, hold: object) -> None:
        """ZMTP heartbeats were not answered: end the wire, unless the `process` was thawed meanwhile."""
        if process is None or process.is_frozen_by(hold):
            self.cut()

    def _attach(self) -> None:
        broker = self.broker
        if broker is not None and broker.frozen:
            return  # the handshake is not answered
        if broker is not None and broker.up and not self.silent and not self.broken:
            self.attached = True
            self.generation = broker.generation
            broker.peers[self.routing_id] = self
            self._deliver_in_order(False, self._report_connected)
        else:
            self._deliver_in_order(False, self._report_lost)

    def _report_connected(self) -> None:
        if self.open and not self.silent and not self.broken:
            self.node.post(self.node.on_connected, self)

    def _report_lost(self) -> None:
        if self.open:
            self.open = False
            self.node.post(self.node.on_disconnected, self)

    # The node's end

    def send(self, frames: list[bytes]) -> None:
        """Send one message to the broker."""
        if not self.open:
            return
        if self.node.strict and PROBE_SERVICE in frames:
            # To this node the broker seems to speak an RFC only, with RFC 8 or without.
            if self.node.strict == "silent":
                return
            self._deliver_in_order(False, self._arrive_at_node, self.node.dialect.reply(PROBE_SERVICE, [b"501"]), 0)
            return
        self._sent[True] += 1
        self._transmit(True, self._arrive_at_broker, frames, self._sent[True])

    def close(self) -> None:
        """Close the wire at the node's end; messages that were sent still arrive."""
        self.open = False
        self._deliver_in_order(True, self._detach)

    # The broker's end

    def _survives(self, inward: bool, number: int) -> bool:
        if self.silent or (self.broken and number > self._last_to_arrive[inward]):
            return False
        self._arrived[inward] = number
        return True

    def _arrive_at_broker(self, frames: list[bytes], number: int) -> None:
        broker = self.broker
        if broker is None or not self.attached or self.generation != broker.generation:
            return
        if self._survives(True, number):
            if self.schedule.trace is not None:
                self.schedule.record(self, "->", broker, frames)
            self._history.append(frames)
            broker.post(broker.on_message, [self.routing_id, *frames])

    def _detach(self) -> None:
        self.attached = False
        if self.broker is not None and self.broker.peers.get(self.routing_id) is self:
            del self.broker.peers[self.routing_id]

    def deliver(self, frames: list[bytes], hwm: int) -> str | None:
        """Send one message to the node.  Returns None, or why that failed: "full" or "gone"."""
        if not self.attached:
            return "gone"
        if self.unread >= hwm:
            return "full"
        if self.schedule.trace is not None:
            self.schedule.record(self.broker, "->", self, frames)
        self.unread += 1
        self._sent[False] += 1
        self._transmit(False, self._arrive_at_node, frames, self._sent[False])
        return None

    def _arrive_at_node(self, frames: list[bytes], number: int) -> None:
        if self.open and (not number or self._survives(False, number)):
            self.node.post(self._read, frames, number)

    def _read(self, frames: list[bytes], number: int) -> None:
        if number:
            self.unread -= 1
        if self.open:
            self.node.on_message(self, frames)

    # Faults

    def cut(self) -> None:
        """Break the wire; both ends notice."""
        if self.broken:
            return
        self.schedule.record("cut", self)
        self.broken = True
        for inward in (True, False):
            self._last_to_arrive[inward] = self.schedule.random.randint(self._arrived[inward], self._sent[inward])
        self._deliver_in_order(True, self._detach)
        self._deliver_in_order(False, self._report_lost)

    def end(self) -> None:
        """Close the wire at the broker's end; all messages that the broker sent still arrive."""
        if not self.broken:
            self.broken = True
            self._last_to_arrive = {True: self._arrived[True], False: self._sent[False]}
            self._detach()
            self._deliver_in_order(False, self._report_lost)

    def cut_silently(self, noticed_after: float | None = None) -> None:
        """Let nothing pass any more.

        `noticed_after`: seconds after which both ends notice, if not before; None: as soon as ZMTP heartbeats tell.
        """
        if self.silent or self.broken:
            return
        self.schedule.record("cut silently", self)
        self.silent = True
        for at_broker, function in ((True, self._detach), (False, self._report_lost)):
            self.schedule.after(self._patience(at_broker) if noticed_after is None else noticed_after, function)

    def stall(self, seconds: float) -> None:
        """Hold up all messages that are sent within the next `seconds`; ZMTP heartbeats as well."""
        self.schedule.record(f"stalls for {seconds:.3f} s:", self)
        patience = min(self._patience(True), self._patience(False)) if self.broker is not None else math.inf
        if patience < seconds:
            self.schedule.after(patience, self._end_unanswered, None, None)
        for inward in (True, False):
            self._last[inward] = max(self._last[inward], self.schedule.now + seconds)

    def repeat(self, count: int) -> None:
        """Let the last `count` messages to the broker arrive once more, as from a peer that is gone.

        Parts of an answer are left out: MDP does not number parts, and ZeroMQ repeats no message.
        """
        dialect = EXTENDED.get(self.node.dialect, self.node.dialect)  # MDP/0.1 has parts in the extension only
        part = dialect.worker_command(Command.PARTIAL)[-2:]
        repeatable = [frames for frames in self._history if not _contains(frames, part)]
        for frames in repeatable[-count:]:
            self.schedule.record("a message arrives twice:", self)
            self.schedule.after(self.network.delay(), self._repeat_message, frames)

    def _repeat_message(self, frames: list[bytes]) -> None:
        if self.broker is not None and self.broker.up:
            self.broker.post(self.broker.on_message, [self.routing_id, *frames])
