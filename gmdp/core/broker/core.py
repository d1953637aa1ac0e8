"""The broker's decisions (RFC 7 and RFC 18, both sub-protocols; RFC 8; the extension).

Here the parts are put together, and stand in the order in which each uses those before it:

====================  ===========================================================
module                decides
====================  ===========================================================
:mod:`~.accounts`     how much of the broker's memory each client holds
:mod:`~.backlogs`     which messages wait for clients that read too slowly
:mod:`~.replies`      which answers and statuses clients get
:mod:`~.flows`        how far the handlers of streams may run ahead of their readers
:mod:`~.services`     which services are known, and how queued requests end
:mod:`~.delivery`     which worker gets which request
:mod:`~.registry`     which workers are registered, and when they are lost
:mod:`~.conversation` how a worker's message is handled
:mod:`~.reports`      what the management interface answers
:mod:`~.intake`       how a client's message is handled
:mod:`~.notices`      what gmdp peers are told unasked
:mod:`~.draining`     how the broker stops
====================  ===========================================================

Decisions collect in the core until the owner of the socket takes them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from ...protocol.diagnosis import diagnose
from ...protocol.extension import Status
from ...protocol.text import show_beginning
from ...protocol.wire import parse, parse_without_delimiter
from ..snapshots import FrozenDict, copy_counts
from .access import Access
from .accounts import Accounts
from .backlogs import Backlogs
from .complaints import Complaint
from .conversation import Conversation
from .decisions import DeadLetter, Event, Outgoing, QueueWait, Refusal
from .delivery import Delivery
from .draining import Draining
from .flows import Flows, Grant
from .intake import Intake
from .notices import Notices
from .options import BrokerOptions
from .reasons import DropReason, LossReason
from .records import Backlog, Connection, Request, Service, Worker
from .registry import Registry
from .replies import Replies
from .reports import About, Reports
from .services import BURST, Services
from .state import BrokerState
from .statistics import BrokerCounters, BrokerStatistics

#: Routing ids whose users are remembered before the unused routing ids are forgotten.
SWEEP_AT = 10_000


class BrokerCore:
    """One broker, without its socket, clock and randomness.

    Args:
        options: The options in force.
        nonce: 8 bytes never used before.
        now: When the broker starts (monotonic seconds).
        counters: Those of an earlier core, to go on counting; None: new ones.
        about: What the broker says about itself.
        socket_checks_size: True if the socket gives messages with too large frames more than ``max_frames``
            frames, so the core need not check their size.
        access: What users may do.  None: everybody may do everything, and users count only
            where they are given.
        in_process: True if all peers are in the broker's own process.
    """

    def __init__(
        self,
        options: BrokerOptions,
        nonce: bytes,
        now: float,
        counters: BrokerCounters | None = None,
        about: About | None = None,
        socket_checks_size: bool = False,
        access: Access | None = None,
        in_process: bool = False,
    ) -> None:
        self.options = options
        self.counters = counters if counters is not None else BrokerCounters()
        self.about = about if about is not None else About()
        self.started = now
        #: Connections to the broker's socket; the owner counts them.
        self.connections = 0
        state = self._state = BrokerState(options, self.counters, now, access, in_process)
        self._accounts = Accounts(state)
        #: Clients that read too slowly.  The owner asks `hold_back` about each message before it is sent.
        self.backlogs = Backlogs(state, self._accounts)
        self._replies = Replies(state, self._accounts, self.backlogs)
        self._flows = Flows(state, self._accounts, self._replies)
        self._services = Services(state, self._accounts, self._replies)
        self._delivery = Delivery(state, self._replies, self._services, nonce)
        self._registry = Registry(state, self._services, self._delivery, self.about.max_sessions)
        self._conversation = Conversation(
            state, self._accounts, self._replies, self._flows, self._delivery, self._registry
        )
        clients, is_worker = self._accounts.clients, self._registry.has_routing_id
        state.peers.is_in_use = lambda routing_id: routing_id in clients or is_worker(routing_id)
        reports = Reports(self)
        self._intake = Intake(
            state, self._accounts, self._replies, self._flows, self._services, self._delivery, reports
        )
        self._notices = Notices(state, self._accounts, self._replies, reports)
        self._draining = Draining(state, self.backlogs, self._services, self._delivery, self._registry, self._notices)
        self._sweep_at = SWEEP_AT
        # Needed for each message, so bound here.
        self._checks_size = not socket_checks_size
        self._has_users = access is not None
        self._max_frames = options.max_frames
        #: Refusals not yet reported; if there are any, the owner calls :meth:`take_refusals`.
        self.refusals: list[Refusal | Complaint] = state.refusals

    def trace(self) -> None:
        """Report from now on how long traced requests have waited (:class:`~.decisions.QueueWait`)."""
        self._state.trace_waits = True

    # What the owner calls

    def on_wake(self, now: float) -> None:
        """The owner begins a pass."""
        self._state.gap.on_wake(now, self._state.timers.next_due())

    def on_caught_up(self, now: float) -> None:
        """The owner has read everything that was there."""
        self._state.gap.on_caught_up(now)
        if self._registry.unreachable:
            self._registry.lose_unreachable(now)

    def has_waited(self, since: float, now: float) -> bool:
        """True if what has waited `since` for the socket to be read empty need wait no longer."""
        return self._state.gap.has_waited(since, now)

    def feed(self, frames: list[bytes], now: float, user: str = "") -> None:
        """Take one whole message as received, routing id first, from a connection of `user`.

        `user` is empty if the user is not known.  A large frame may be any object that has a
        length, items, slices and ``bytes()``.
        """
        if self._has_users and frames and self._state.users.get(frames[0]) != user:
            self._on_other_user(frames[0], user, now)
        if len(frames) > self._max_frames:
            self._on_malformed(frames, DropReason.TOO_MANY_FRAMES, now, user)
        elif self._checks_size and len(frames) > 2 and max(map(len, frames)) > self.options.max_frame_size:
            self._on_malformed(frames, DropReason.FRAME_TOO_LARGE, now, user)
        elif (message := parse(frames)) is None:
            self._on_malformed(frames, DropReason.MALFORMED, now, user)
        elif message[2]:  # a client's
            self._intake.handle(frames[0], message, now, user)
        else:
            self._conversation.handle(frames[0], message, now, user)

    def take(self) -> tuple[list[Outgoing], list[Event | DeadLetter | QueueWait]]:
        """Return the decisions since the last call, (messages to send, events), and clear them."""
        state = self._state
        decided = state.outbox, state.events
        state.outbox, state.events, state.unsent = [], [], None
        return decided

    def take_refusals(self) -> list[Refusal | Complaint]:
        """Return the refusals, and the complaints about peers that cannot be told, since the last call, and clear them.

        They are no part of :meth:`take`, since the owner knows the peer's address only until it
        reads the next message.
        """
        refusals = self.refusals[:]
        self.refusals.clear()
        return refusals

    def send_failed(self, outgoing: Outgoing, full: bool, now: float) -> None:
        """`outgoing` could not be sent: its peer's socket is `full`, or the connection is closed."""
        target = outgoing.target
        if isinstance(target, Grant):
            if full:
                self._flows.send_failed(target, now)
                return
            outgoing = outgoing._replace(target=target.connection)
        if outgoing.essential and not isinstance(target, Worker):
            self.backlogs.send_failed(outgoing, full, now)
            if not full:
                self._forget_client(outgoing.frames[0], DropReason.CLIENT_GONE, now)
        else:
            self._registry.send_failed(outgoing, full, now)

    def tick(self, now: float) -> None:
        """Do what is due by `now`, up to :data:`~.services.BURST` things; the rest stays due."""
        timers = self._state.timers
        if self._services.ending:
            self._services.end_in_bursts(now)
        if self._registry.unreachable:
            self._registry.lose_long_unreachable(now)
        for _ in range(BURST):
            item = timers.pop_due(now)
            if item is None:
                break
            if isinstance(item, Connection):
                self._registry.on_timer(item, now)
            elif isinstance(item, Request):
                if item.worker is not None:
                    self._flows.on_timer(item, now)
                else:
                    self._services.on_timer(item, now)
            else:
                assert isinstance(item, Backlog)  # nothing else is armed here
                self.backlogs.on_timer(item, now)
        if self._accounts.clients and now >= self._accounts.check_at:
            self._notices.check_clients(now)
        if self._state.draining:
            self._draining.proceed(now, self.connections)

    def deadline(self) -> float:
        """Return when the owner's next pass is needed; infinity if never.

        0 while a connection is unreachable: that connection is lost once everything is read.  0 while
        requests are ended in bursts.
        """
        if self._registry.unreachable or self._services.ending:
            return 0.0
        due_at = self._state.timers.next_due()
        if self._accounts.clients and self._accounts.check_at < due_at:
            due_at = self._accounts.check_at
        return due_at if not self._state.draining else min(due_at, self._draining.deadline(self.connections))

    @property
    def awaits_mute(self) -> bool:
        """True if a worker's connection is mute: :meth:`probe_mute` is worth a call."""
        return bool(self._registry.mute)

    def probe_mute(self, now: float) -> None:
        """Find out which mute workers' processes have ended, because a connection to the socket was closed."""
        self._registry.probe_mute(now)

    def inject(self, service: bytes, body: list[bytes], now: float) -> bool:
        """Accept a request of the broker's own; False if it has no room, or the broker stops."""
        return self._intake.inject(service, body, now)

    def drain(self, until: float = math.inf) -> None:
        """Take no new work from now on, and end by `until`; a second call may shorten the time."""
        self._draining.begin(until)

    @property
    def draining(self) -> bool:
        """True from :meth:`drain` on."""
        return self._state.draining

    @property
    def drained(self) -> bool:
        """True once a drain has ended: the owner may close the socket, and let the last messages arrive."""
        return self._draining.ended

    def finish(self, now: float) -> bool:
        """End all requests, and send every worker DISCONNECT: up to :data:`~.services.BURST` of them in a call.

        Returns True once nothing is left.
        """
        return self._draining.finish(now)

    def on_connection_closed(self, routing_id: bytes, now: float) -> None:
        """The connection of this routing id is closed, and every message from it was read."""
        self._registry.forget_routing_id(routing_id, LossReason.UNREACHABLE, now)
        self._forget_client(routing_id, DropReason.CLIENT_GONE, now)
        self._state.users.pop(routing_id, None)

    def reconsider(self, now: float, revoked: Collection[str] = ()) -> None:
        """End all work that is not allowed any more, because the policy's answers may have changed.

        The `revoked` users may do nothing from now on.
        """
        access = self._state.access
        if access is not None:
            access.forget()
            self._replies.reconsider(revoked, now)
            self._registry.reconsider(access, revoked, now)
            self._delivery.reconsider(access, revoked, self._registry.workers(), now)

    def _on_other_user(self, routing_id: bytes, user: str, now: float) -> None:
        """A user speaks under a routing id for the first time, or after another user."""
        users = self._state.users
        if routing_id in users:
            # Rights go with the user; any peer may choose a routing id that another had.
            self._registry.forget_routing_id(routing_id, LossReason.OTHER_USER, now)
            self._forget_client(routing_id, DropReason.OTHER_USER, now)
        elif len(users) >= self._sweep_at and not self._state.outbox:
            # Forget the routing ids that hold nothing.  The outbox is empty: no message is on its way to them.
            clients, is_worker = self._accounts.clients, self._registry.has_routing_id
            self._state.users = users = {key: name for key, name in users.items() if key in clients or is_worker(key)}
            self._sweep_at = 2 * len(users) + SWEEP_AT
        users[routing_id] = user

    def _forget_client(self, routing_id: bytes, counted_as: DropReason, now: float) -> None:
        """Drop what a client that is gone has queued, and what is on its way to it."""
        client = self._accounts.clients.get(routing_id)
        self._replies.forget_routing_id(routing_id, counted_as, now)
        if client is not None and client.queued:
            self._services.drop_requests_of(client, now)
        self._state.peers.forget_routing_id(routing_id)

    def _on_malformed(self, frames: list[bytes], reason: DropReason, now: float, user: str) -> None:
        """Drop a message that is not MDP, or too large.  A gmdp client hears why; a worker is lost.

        One fault is forgiven: a reply without the empty frame before its body, if its token is right.
        """
        complaints = self._state.complaints
        if (
            reason is DropReason.TOO_MANY_FRAMES
            and not self._checks_size
            and max(map(len, frames)) > self.options.max_frame_size
        ):
            reason = DropReason.FRAME_TOO_LARGE  # the socket gives such messages more frames than are allowed
        if reason is DropReason.MALFORMED:
            reply = parse_without_delimiter(frames)
            if reply is not None and self._conversation.expects(frames[0], reply):
                complaints.complain("no_delimiter", frames[0], user, now, _describe_forgiven, frames)
                self._conversation.handle(frames[0], reply, now, user)
                return
        message = parse(frames) if reason is not DropReason.MALFORMED else None
        if message is not None and message.from_client and message.extra:
            self._intake.refuse((frames[0], *message.stack), message, reason, Status.TOO_LARGE, now)
        else:
            self.counters.count_drop(reason)
            if frames:
                complaints.complain(reason.value, frames[0], user, now, _DESCRIPTIONS[reason], frames, self.options)
        if frames:
            self._conversation.on_malformed(frames[0], now)

    # The present state

    @property
    def services(self) -> dict[bytes, Service]:
        """The known services, by name."""
        return self._services.by_name

    @property
    def workers(self) -> Iterable[Worker]:
        """The workers that are registered."""
        return self._registry.workers()

    @property
    def worker_count(self) -> int:
        """How many workers are registered."""
        return self._registry.count

    @property
    def queued(self) -> int:
        """How many requests wait for a worker."""
        return self._services.queued

    @property
    def assigned(self) -> int:
        """How many requests workers have."""
        return self._delivery.assigned

    @property
    def held_bytes(self) -> int:
        """Bytes that count in ``max_queue_bytes``."""
        return self._state.held_bytes

    def statistics(self, now: float, with_services: bool = True) -> BrokerStatistics:
        """Everything as it is now, as an immutable copy."""
        services = {name: service.statistics(now) for name, service in self.services.items()} if with_services else {}
        counts = copy_counts(self.counters)
        for table in ("ended", "lost_workers", "drops", "refused_connections"):
            counts[table] = FrozenDict(counts[table])
        return BrokerStatistics(
            uptime=now - self.started,
            services=FrozenDict(services),
            workers=self.worker_count,
            idle=self.worker_count - self.assigned,
            busy=self.assigned,
            queued=self.queued,
            queued_bytes=self.held_bytes,
            assigned=self.assigned,
            backlogs=self.backlogs.count,
            connections=self.connections,
            **counts,
        )


def _describe_malformed(frames: list[bytes], options: BrokerOptions) -> str:
    return f"a message was dropped: {diagnose(frames)}"


def _describe_too_many(frames: list[bytes], options: BrokerOptions) -> str:
    return f"a message of more than max_frames={options.max_frames} frames was dropped ({show_beginning(frames[1:])})"


def _describe_too_large(frames: list[bytes], options: BrokerOptions) -> str:
    largest = max(map(len, frames))
    # The socket adds frames to such a message: no more are shown than those up to the first that is too large.
    sent = next((at for at, frame in enumerate(frames) if at and len(frame) > options.max_frame_size), len(frames))
    return (
        f"a message with a frame of {largest} bytes was dropped: max_frame_size={options.max_frame_size}; "
        f"send several frames, or raise the option ({show_beginning(frames[1 : sent + 1])})"
    )


def _describe_forgiven(frames: list[bytes]) -> str:
    return f"a reply was taken although it breaks the protocol: {diagnose(frames)}"


_DESCRIPTIONS = {
    DropReason.MALFORMED: _describe_malformed,
    DropReason.TOO_MANY_FRAMES: _describe_too_many,
    DropReason.FRAME_TOO_LARGE: _describe_too_large,
}
