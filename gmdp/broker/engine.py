"""Between a broker's core, its sockets and who may connect to them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

import zmq
import zmq.green

from ..core.broker.access import REVOKED, SERVE
from ..core.broker.core import BrokerCore
from ..core.broker.decisions import DeadLetter, Waited
from ..io.census import PeerCensus
from ..io.frames import LARGE
from ..io.link import Link, milliseconds
from ..io.owner import Owner
from ..io.slots import Slot, start_thread
from ..security.gate import Gate, RefusedConnection, credential_owner
from ..tracing import can_trace, tracer
from .audit import CALL_REFUSED, CONNECTION_REFUSED, LIST_RELOADED, REGISTRATION_REFUSED, Auditor

if TYPE_CHECKING:
    from .broker import Broker

_log = logging.getLogger("gmdp.broker")

#: Frames of a question of libzmq's that are read; it sends eleven at most.
_QUESTION_FRAMES = 16

#: Descriptors that a context and a broker's sockets take.
_DESCRIPTORS = 16


def _make_sure_of_descriptors() -> None:
    """ZMQError if there are not enough: libzmq ends the process where a context finds none."""
    taken = []
    try:
        for _ in range(_DESCRIPTORS):
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        raise zmq.ZMQError(error.errno) from None
    finally:
        for descriptor in taken:
            os.close(descriptor)


def _terminate(context: zmq.Context[Any], ended: Slot) -> None:
    context.term()
    ended.set(None)


class BrokerEngine:
    """What the owner of a broker's sockets drives."""

    #: Seconds the last messages have to leave, in the background.
    linger = 1.0

    owner: Owner
    link: Link

    def __init__(self, shell: Broker, core: BrokerCore, gate: Gate | None) -> None:
        self._shell = shell
        self._core = core
        self._gate = gate
        self._auditor = Auditor(shell.audit)
        self._census = PeerCensus(core.options.handshake_timeout)
        self._until: float | None = None
        if can_trace():
            core.trace()
        self._links: list[Link] = []
        #: Where the gate is asked, and the context that is this broker's own.
        self._asked: Link | None = None
        self._own_context: zmq.green.Context[Any] | None = None
        self.on_wake = core.awake

    def open(self, owner: Owner, context: zmq.green.Context[Any], hwm: int, ipv6: bool) -> None:
        """Make the socket, ready to be bound; ZMQError if there are no descriptors left.

        Where there is a gate, in a context of its own: a context has one place only where
        libzmq asks.
        """
        self.owner = owner
        gate = self._gate
        if gate is not None:
            _make_sure_of_descriptors()
            context = self._own_context = zmq.green.Context()
        options = self._core.options
        socket = context.socket(zmq.ROUTER)
        self.link = owner.add_link(socket, options.max_frames)
        self.link.large = LARGE  # the core looks at heads only
        self._links.append(self.link)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.ROUTER_MANDATORY, 1)
        socket.set(zmq.SNDHWM, hwm)
        socket.set(zmq.RCVHWM, hwm)
        socket.set(zmq.BACKLOG, 1024)
        socket.set(zmq.MAXMSGSIZE, options.max_frame_size)
        socket.set(zmq.HEARTBEAT_IVL, milliseconds(options.heartbeat_interval))
        socket.set(zmq.HEARTBEAT_TIMEOUT, milliseconds(options.expiry))
        socket.set(zmq.HANDSHAKE_IVL, milliseconds(options.handshake_timeout))
        if ipv6:
            socket.set(zmq.IPV6, 1)
        self.link.watch_peers(self._census)
        if gate is not None:
            self._asked = owner.add_link(gate.secure(socket, context), _QUESTION_FRAMES)
            self._links.append(self._asked)
            self.link.has_users = gate.authenticates
            gate.open(self, options.heartbeat_interval)

    def end(self) -> None:
        """Close whatever is open, at once; also if it was never started."""
        for link in self._links:
            link.close()
        if self._gate is not None:
            self._gate.close()
        self._auditor.flush()
        context, self._own_context = self._own_context, None
        if context is not None:
            # It waits for what lingers, which a hub must not: in a real thread.
            ended = Slot()
            start_thread(_terminate, (context, ended))
            ended.wait(self.linger + Link.patience)

    # What the owner calls

    def on_message(self, link: Link, frames: list[bytes], now: float) -> None:
        """One whole message was read: a peer's, or a question of libzmq's."""
        core = self._core
        gate = self._gate
        if gate is None:
            core.feed(frames, now)
        elif link is self._asked:
            gate.on_zap_request(frames, now)
            return
        elif not link.has_users:
            core.feed(frames, now)
        else:
            if self._census.on_message(link.descriptor, frames[0]):
                core.gone(frames[0], now)
            core.feed(frames, now, gate.user_of(link.user_id))
        if core.refusals:
            self._tell_refusals(link, now)

    def on_caught_up(self, now: float) -> None:
        """There was nothing more to read: now it is known who is gone."""
        core, census = self._core, self._census
        core.caught_up(now)
        if census.changed:
            census.changed = False
            for routing_id in census.take_gone():
                core.gone(routing_id, now)
            self._count_connections(now)
            core.connections = len(census)

    def on_connected(self, link: Link, now: float) -> None:
        """Bound sockets do not connect."""

    def on_disconnected(self, link: Link, reason: str, now: float) -> None:
        """Bound sockets do not connect."""

    def deadline(self) -> float:
        """When `tick` is needed next."""
        deadline = self._core.deadline()
        if self._until is not None:
            return 0.0 if self._core.drained else min(deadline, self._until)
        return deadline

    def tick(self, now: float) -> None:
        """Do what is due."""
        core = self._core
        core.tick(now)
        if self._until is not None and (core.drained or now >= self._until):
            core.finish(now)
            self.flush(now)
            self.link.close_bound(self._shell.endpoints, self.linger)
            self.end()
            self.owner.finish()
            self._shell._on_owner_ended()

    def flush(self, now: float) -> None:
        """Carry out what was decided."""
        core = self._core
        send = self.link.send
        # What cannot be sent, and what a hook does, may lead to more that is to be sent.
        while core.outbox or core.events:
            outbox = core.outbox[:]
            core.outbox.clear()
            for outgoing in outbox:
                if core.withheld(outgoing, now):
                    continue
                why_not = send(outgoing.frames)
                if why_not is not None:
                    core.unsent(outgoing, why_not == "full", now)
            events = core.events[:]
            core.events.clear()
            for event in events:
                if isinstance(event, DeadLetter):
                    self._bury(event)
                elif isinstance(event, Waited):
                    traced = tracer()
                    if traced is not None:
                        traced.waited(*event)
                else:
                    level = logging.DEBUG if event.kind == "registered" or self._until is not None else logging.INFO
                    _log.log(level, "%s %.100r: %s", event.kind, event.service, event.reason)

    def _bury(self, letter: DeadLetter) -> None:
        try:
            self._shell.dead_letter(letter, self._shell)
        except Exception:
            _log.exception("the dead-letter hook failed for a request of %.100r", letter.service)

    def drain(self, until: float) -> None:
        """Take no new work; end when there is none, at `until` at the latest."""
        self._core.drain()
        self._until = until if self._until is None else min(until, self._until)

    def on_owner_died(self, error: BaseException) -> None:
        """The owner ends by a defect."""
        self.end()
        self._shell._on_owner_ended(error)

    # What the gate calls

    def count_established(self, now: float) -> int:
        """Return the number of connections whose handshake is complete."""
        self.link.poll_peers(now)
        return self._census.established(now)

    def send_zap_reply(self, frames: list[bytes]) -> None:
        """Send a reply to libzmq."""
        if self._asked is not None and not self._asked.closed:
            self._asked.send(frames)

    def on_connection_refused(self, refused: RefusedConnection) -> None:
        """A connection was refused."""
        reason = refused.reason.value
        self._core.counters.count("refused_connections", reason)
        self._auditor.tell(
            monotonic(), CONNECTION_REFUSED, user=refused.claimed_user, address=refused.address, reason=reason
        )

    def post(self, function: Callable[..., Any], *args: Any) -> None:
        """Have the owner call `function`; from any greenlet."""
        self.owner.post(function, *args)

    def on_lists_changed(self, revoked: frozenset[str]) -> None:
        """A list was read again.  `revoked`: the users who lost a key or password."""
        now = monotonic()
        self._core.reconsider(now, revoked)
        self._auditor.tell(now, LIST_RELOADED, reason=f"{len(revoked)} revoked" if revoked else "")

    # What is told

    def _tell_refusals(self, link: Link, now: float) -> None:
        for refusal in self._core.refusals:
            self._auditor.tell(
                now,
                REGISTRATION_REFUSED if refusal.action == SERVE else CALL_REFUSED,
                user=credential_owner(link.user_id) if refusal.user == REVOKED else refusal.user,
                address=link.address,
                service=refusal.service,
                reason=refusal.reason,
            )
        self._core.refusals.clear()

    def _count_connections(self, now: float) -> None:
        census, counters = self._census, self._core.counters
        counters.connections_accepted += census.accepted
        counters.handshakes += census.handshakes
        census.accepted = census.handshakes = 0
        for reason, count in census.failures.items():
            counters.count("refused_connections", reason, count)
            self._auditor.tell(now, CONNECTION_REFUSED, count=count, reason=reason)
        census.failures.clear()
