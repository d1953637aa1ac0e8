"""What the owner of a broker's sockets drives: core, sockets, gate and auditor.

The rules of this module:

* The core decides; the engine sends, calls hooks and logs.
* The engine knows no :class:`gmdp.Broker`: it is given values and two callbacks.
* A secured broker has a ZeroMQ context of its own: in each context, one handler alone tells libzmq
  which connections are allowed.
* Draining ends when the core has nothing left to do, or when its time is up.  Until then the
  socket stays bound: unbinding would cut the peers off.
* A graceful stop then waits until the last messages have arrived, for what is left of its time, and for
  :attr:`BrokerEngine.linger` at least.  An abrupt one waits only until its endpoints are free.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from time import monotonic
from typing import Any

from ..core.broker.access import REVOKED, SERVE
from ..core.broker.complaints import Complaint
from ..core.broker.core import BrokerCore
from ..core.broker.decisions import DeadLetter, QueueWait
from ..core.liveness import zmtp_heartbeat
from ..core.peer.reasons import CloseReason
from ..io import guarded, logs
from ..io.census import PeerCensus
from ..io.contexts import Context, new_context, terminate
from ..io.link import Link
from ..io.owner import Owner
from ..io.router import open_router
from ..protocol.text import show_name
from ..security.gate import Gate, RefusedConnection, credential_owner
from ..tracing import can_trace, log_failure, record_wait
from .audit import CALL_REFUSED, CONNECTION_REFUSED, LIST_RELOADED, REGISTRATION_REFUSED, AuditHook, Auditor

_log = logs.QueuedLogger("gmdp.broker")

#: Seconds from a connection's end until mute workers are sent a HEARTBEAT.  ZeroMQ reports the end
#: about a millisecond before sending fails.
PROBE_DELAY = 0.05
#: Frames of a ZAP request that are received; libzmq sends eleven at most.
_ZAP_FRAMES = 16
#: The most routing ids of peers that are gone that are remembered, beside one for each connection.
MAX_STALE = 1_000


class BrokerEngine:
    """Drives one broker from :meth:`open` to its end.  For its owner only.

    Args:
        core: decides what becomes of each message.
        gate: decides which connections are allowed; None: all.
        audit: called with each audit record, at a bounded rate.
        on_dead_letter: called with each dead letter; must not raise.
        on_ended: called once every socket is closed, with the bug that ended the owner, or None.
    """

    #: Seconds that the last messages have at least.
    linger = 1.0

    owner: Owner
    link: Link
    #: Where the socket is bound, with wildcards resolved; the broker sets this before the owner starts.
    endpoints: tuple[str, ...] = ()

    def __init__(
        self,
        core: BrokerCore,
        gate: Gate | None,
        audit: AuditHook,
        on_dead_letter: Callable[[DeadLetter], None],
        on_ended: Callable[[BaseException | None], None],
    ) -> None:
        self._core = core
        self._gate = gate
        self._auditor = Auditor(audit)
        self._on_dead_letter = on_dead_letter
        self._on_ended = on_ended
        self._census = PeerCensus(core.options.handshake_timeout)
        #: Routing ids of peers whose messages tell their connection; for a while those that are gone, too.
        self._heard: set[bytes] = set()
        #: When draining ends at the latest; None while not draining.
        self._drain_until: float | None = None
        #: True if the last messages are not waited for.
        self._abrupt = False
        if can_trace():
            core.trace()
        #: When mute workers are sent a HEARTBEAT; None: at the usual time.
        self._probe_at: float | None = None
        #: When a tick first found the census changed, since its changes were last taken; infinity: none has.
        self._changed_since = math.inf
        self._links: list[Link] = []
        #: The link on which libzmq asks the gate (ZAP); the context that belongs to this broker alone.
        self._zap_link: Link | None = None
        self._own_context: Context | None = None

    def open(self, owner: Owner, context: Context | None, hwm: int) -> None:
        """Open the socket, ready to be bound.  SocketError if no descriptors are left.

        Args:
            owner: the owner of the broker's sockets.
            context: the context to use; None: the one that the process shares.  A secured broker
                makes its own.
            hwm: whole messages that ZeroMQ may hold per peer, each way.
        """
        self.owner = owner
        gate = self._gate
        own_context = None
        if gate is not None:
            context = own_context = self._own_context = new_context()
        options = self._core.options
        self.link = open_router(
            owner,
            context,
            self._census,
            max_frames=options.max_frames,
            max_frame_size=options.max_frame_size,
            hwm=hwm,
            zmtp_heartbeat=(
                zmtp_heartbeat(options.heartbeat_interval, options.expiry) if options.zmtp_heartbeats else None
            ),
            handshake_timeout=options.handshake_timeout,
        )
        self._links.append(self.link)
        if gate is not None and own_context is not None:
            self._zap_link = owner.add_link(gate.secure(self.link.socket, own_context), _ZAP_FRAMES)
            self._links.append(self._zap_link)
            self.link.has_users = self.link.checks_descriptors = gate.authenticates
            gate.open(self, options.heartbeat_interval)

    def close(self) -> None:
        """Close everything that is open, at once.  The owner need not have started."""
        for link in self._links:
            link.close()
        if self._gate is not None:
            self._gate.close()
        self._auditor.flush()
        context, self._own_context = self._own_context, None
        if context is not None:
            terminate(context, self.linger + Link.patience)

    # What the owner calls

    def on_wake(self, now: float) -> None:
        """A pass begins."""
        self._core.on_wake(now)

    def on_message(self, link: Link, frames: list[bytes], now: float) -> None:
        """A peer's message was received, or a ZAP request of libzmq's."""
        core = self._core
        gate = self._gate
        if gate is None:
            routing_id = frames[0]
            if routing_id not in self._heard:
                # The census has to know which connections speak without a report of their handshake: theirs have
                # no descriptor, here.
                link.poll_new_peers(now)
                if link.descriptor >= 0:
                    self._heard.add(routing_id)
            core.feed(frames, now)
            if link.checks_descriptors and link.descriptor < 0:
                self._census.on_unreported(routing_id)
        elif link is self._zap_link:
            gate.on_zap_request(frames, now)
            return  # the core takes no part in this
        elif not link.has_users:
            core.feed(frames, now)  # the gate looks at addresses only: peers are anonymous
        else:
            # A routing id may come again on another connection, and for another user: the
            # core has to lose the old peer before it hears the new one.
            if self._census.on_message(link.descriptor, frames[0]):
                core.on_connection_closed(frames[0], now)
            core.feed(frames, now, gate.user_of(link.user_id))
        if core.refusals:
            self._audit_refusals(link, now)

    def on_caught_up(self, now: float) -> None:
        """Everything was read: connections that are closed by now have no message left to read."""
        self._core.on_caught_up(now)
        # The frame may be large; what is decided later concerns no message in particular.
        self.link.last_frame = None
        if self._census.changed:
            self._take_changes(now)

    def _take_changes(self, now: float) -> None:
        """Tell the core which connections are closed, and count them all."""
        core, census = self._core, self._census
        census.changed = False
        self._changed_since = math.inf
        if len(self._heard) > len(census) + MAX_STALE:
            self._heard.clear()
        if census.closed and core.awaits_mute and self._probe_at is None:
            self._probe_at = now + PROBE_DELAY
        census.closed = False
        for routing_id in census.take_gone():
            core.on_connection_closed(routing_id, now)
        self._count_connections(now)
        core.connections = len(census)

    def on_transport_connected(self, link: Link, now: float) -> None:
        """Never called: bound sockets do not connect."""

    def on_connected(self, link: Link, now: float) -> None:
        """Never called: bound sockets do not connect."""

    def on_disconnected(self, link: Link, reason: CloseReason, now: float) -> None:
        """Never called: bound sockets do not connect."""

    def deadline(self) -> float:
        """When `tick` is needed next."""
        if self._census.undecided:
            return 0.0
        deadline = self._core.deadline()
        return deadline if self._probe_at is None else min(deadline, self._probe_at)

    def tick(self, now: float) -> None:
        """Do what is due."""
        census = self._census
        if census.undecided and not self.owner.ready:
            census.judge()
            self._count_connections(now)
        if census.changed:
            # Other peers may send so much that there is always something more to read.
            self._changed_since = min(self._changed_since, now)
            if self._core.has_waited(self._changed_since, now):
                self._take_changes(now)
        self._core.tick(now)
        if self._probe_at is not None and now >= self._probe_at:
            self._probe_at = None
            self._core.probe_mute(now)

    def flush(self, now: float) -> None:
        """Carry out what the core decided."""
        if self._drain_until is not None and self.link.closed:
            self._end_unless_it_lingers()
            return
        core = self._core
        send = self.link.send
        # A message that cannot be sent may lead to further messages, and so may a hook.
        hold_back = core.backlogs.hold_back
        if core.refusals:
            self._audit_refusals(self.link, now)
        while True:
            outbox, events = core.take()
            if not outbox and not events:
                break
            for outgoing in outbox:
                if hold_back(outgoing, now):
                    continue
                why_not = send(outgoing.frames)
                if why_not is not None:
                    core.send_failed(outgoing, why_not == "full", now)
            for event in events:
                if isinstance(event, DeadLetter):
                    self._on_dead_letter(event)
                elif isinstance(event, QueueWait):
                    guarded.call(record_wait, *event, default=None, on_error=log_failure)
                else:
                    level = (
                        logging.DEBUG if event.kind == "registered" or self._drain_until is not None else logging.INFO
                    )
                    _log.log(level, "%s %s: %s", event.kind, show_name(event.service), event.reason)
        if self._drain_until is not None and core.drained:
            self._close_socket(now)
            self._end_unless_it_lingers()

    def drain(self, until: float) -> None:
        """Take no new requests, and end when none is left, at `until` (monotonic seconds) at the latest."""
        self._abrupt = self._abrupt or until <= monotonic()
        self._drain_until = until if self._drain_until is None else min(until, self._drain_until)
        self._core.drain(self._drain_until)
        self.owner.limit_lingering(self._drain_until)

    def _close_socket(self, now: float) -> None:
        """Close the broker's socket, and have the owner wait until its endpoints are free, or its messages arrived."""
        assert self._drain_until is not None  # the core was told to drain
        left = max(self.linger, self._drain_until - now)
        until = now + (Link.patience if self._abrupt else left)
        listeners = self.link.unbind_inproc(self.endpoints)
        self.owner.linger(self.link, self.linger if self._abrupt else left, until, listeners, not self._abrupt)

    def _end_unless_it_lingers(self) -> None:
        """End with this pass if nothing is left to wait for."""
        if not self.owner.lingers:
            self.close()
            self.owner.finish()
            self._on_ended(None)

    def on_owner_died(self, error: BaseException) -> None:
        """A bug ends the owner."""
        try:
            self.close()
        finally:
            self._on_ended(error)

    # What the gate calls

    def count_established(self, now: float) -> int:
        """Return the number of connections whose handshake is complete."""
        self.link.poll_peers(now)
        return self._census.established(now)

    def send_zap_reply(self, frames: list[bytes]) -> None:
        """Send a reply to libzmq."""
        if self._zap_link is not None and not self._zap_link.closed:
            self._zap_link.send(frames)

    def on_connection_refused(self, refused: RefusedConnection) -> None:
        """A connection was refused."""
        reason = refused.reason.value
        self._core.counters.count_refused_connections(reason)
        self._auditor.record(
            monotonic(), CONNECTION_REFUSED, user=refused.claimed_user, address=refused.address, reason=reason
        )

    def post(self, function: Callable[..., Any], *args: Any) -> None:
        """Have the owner call `function`; from any greenlet."""
        self.owner.post(function, *args)

    def on_lists_changed(self, revoked: frozenset[str]) -> None:
        """A list was read again.  `revoked`: the users who lost a key or password."""
        now = monotonic()
        self._core.reconsider(now, revoked)
        self._auditor.record(now, LIST_RELOADED, reason=f"{len(revoked)} revoked" if revoked else "")

    # Records for the audit hook

    def _audit_refusals(self, link: Link, now: float) -> None:
        for refusal in self._core.take_refusals():
            if isinstance(refusal, Complaint):
                self._warn(refusal, link.address)
                continue
            self._auditor.record(
                now,
                REGISTRATION_REFUSED if refusal.action == SERVE else CALL_REFUSED,
                user=credential_owner(link.user_id) if refusal.user == REVOKED else refusal.user,
                address=link.address,
                service=refusal.service,
                reason=refusal.reason.value,
            )

    def _warn(self, complaint: Complaint, address: str) -> None:
        """Log what is wrong with a peer that cannot be told."""
        where = f"{address or 'a peer'} (user {complaint.user!r})" if complaint.user else address or "a peer"
        left_out = ""
        if complaint.same_peer or complaint.other_peers:
            left_out = f" (left out since the last warning: {complaint.same_peer} of this peer, "
            left_out += f"{complaint.other_peers} of others)"
        _log.warning("%.300s: %.2000s%s", where, complaint.text, left_out)

    def _count_connections(self, now: float) -> None:
        census, counters = self._census, self._core.counters
        counters.connections_accepted += census.accepted
        counters.handshakes += census.handshakes
        census.accepted = census.handshakes = 0
        for reason, count in census.failures.items():
            counters.count_refused_connections(reason, count)
            self._auditor.record(now, CONNECTION_REFUSED, count=count, reason=reason)
        census.failures.clear()
