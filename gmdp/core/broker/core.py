"""The broker's decisions (RFC 7 and RFC 18, both sub-protocols; RFC 8; the extension).

What clients may say stands in :mod:`~.clients`, what workers may say in
:mod:`~.workers`, what becomes of a request in :mod:`~.delivery`, what clients
are told in :mod:`~.replies`.  Here all of that is put together.

Decisions are appended to :attr:`BrokerCore.outbox` and
:attr:`BrokerCore.events`; the owner of the socket empties both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from types import MappingProxyType

from ...protocol.extension import Status
from ...protocol.wire import parse
from ..snapshots import copy_counts
from . import reports
from .access import Access
from .accounts import Accounts
from .backlogs import Backlogs
from .decisions import DeadLetter, Event, Outgoing, Refusal, Waited
from .delivery import Delivery
from .intake import Clients
from .options import BrokerOptions
from .records import Backlog, Connection, Request, Service, Worker
from .registry import Workers
from .replies import Replies
from .state import BrokerState
from .statistics import BrokerCounters, BrokerStatistics

#: Routing ids whose user is remembered before those of which there is nothing are forgotten.
SWEEP_AT = 10_000


class BrokerCore:
    """One broker, without its socket, clock and randomness.

    `nonce`: 8 bytes never used before, `now`: monotonic seconds.  `counters`
    may be those of an earlier core, to go on counting.  `sized`: True if frames
    that are too large never come here, since the socket refuses them.  `access`: who
    may do what; None: everybody everything, and users count only where they are told.
    """

    def __init__(
        self,
        options: BrokerOptions,
        nonce: bytes,
        now: float,
        counters: BrokerCounters | None = None,
        about: reports.About | None = None,
        sized: bool = False,
        access: Access | None = None,
    ) -> None:
        self.options = options
        self.counters = counters if counters is not None else BrokerCounters()
        self.about = about if about is not None else reports.About()
        self.started = now
        self._sized = sized
        self._sweep_at = SWEEP_AT
        #: Connections to its socket, as the owner counts them.
        self.connections = 0
        self._state = BrokerState(options, self.counters, now, access)
        #: What was not allowed; to be emptied by whoever tells it.
        self.refusals: list[Refusal] = self._state.refusals
        self._accounts = Accounts(self._state)
        #: Clients that read too slowly; asked about each message before it is sent.
        self.backlogs = Backlogs(self._state, self._accounts)
        self._replies = Replies(self._state, self._accounts, self.backlogs)
        self._delivery = Delivery(self._state, self._accounts, self._replies, nonce)
        self._workers = Workers(self._state, self._accounts, self._delivery, self._replies, self.about.max_sessions)
        self._clients = Clients(reports.Reports(self), self._state, self._accounts, self._delivery, self._replies)
        # What is looked up for each message.
        self._has_users = access is not None
        self._max_frames = options.max_frames
        self._client_said = self._clients.said
        self._worker_said = self._workers.said

    def trace(self) -> None:
        """Tell how long requests waited whose callers trace them."""
        self._state.traced = True

    # What the owner calls

    def awake(self, now: float) -> None:
        """A pass begins."""
        self._state.gap.awake(now, self._state.timers.next())

    def caught_up(self, now: float) -> None:
        """There was nothing more to read."""
        self._state.gap.caught_up(now)
        if self._workers.unreachable:
            self._workers.caught_up(now)

    def feed(self, frames: list[bytes], now: float, user: str = "") -> None:
        """One whole message as received, routing id first, from a connection of `user`
        (empty: not known).  A large frame may be anything that has its length, items, slices
        and ``bytes()``."""
        if self._has_users and frames and self._state.users.get(frames[0]) != user:
            self._meet(frames[0], user, now)
        if len(frames) > self._max_frames:
            self._malformed(frames, "too_many_frames", now)
        elif not self._sized and len(frames) > 2 and max(map(len, frames)) > self.options.max_frame_size:
            self._malformed(frames, "frame_too_large", now)
        elif (message := parse(frames)) is None:
            self._malformed(frames, "malformed", now)
        elif message[2]:  # a client's
            self._client_said(frames[0], message, now, user)
        else:
            self._worker_said(frames[0], message, now, user)

    def unsent(self, outgoing: Outgoing, full: bool, now: float) -> None:
        """`outgoing` could not be sent: its peer is `full`, or gone."""
        if outgoing.essential and not isinstance(outgoing.target, Worker):
            self.backlogs.send_failed(outgoing, full, now)
        else:
            self._workers.unsent(outgoing, full, now)

    def tick(self, now: float) -> None:
        """Do what is due by `now`."""
        timers = self._state.timers
        while (item := timers.due(now)) is not None:
            if isinstance(item, Connection):
                self._workers.due(item, now)
            elif isinstance(item, Request):
                self._delivery.due(item, now)
            else:
                assert isinstance(item, Backlog)  # ours, not a peer's
                self.backlogs.on_timer(item, now)

    def deadline(self) -> float:
        """When :meth:`tick` is needed next, with all read before; infinity if never."""
        return self._state.timers.next() if not self._workers.unreachable else 0.0

    def inject(self, service: bytes, body: list[bytes], now: float) -> bool:
        """Accept a request of the broker's own, whose answer nobody wants; False if there is no room."""
        return self._clients.inject(service, body, now)

    def drain(self) -> None:
        """Take no new work from now on."""
        self._state.draining = True

    @property
    def draining(self) -> bool:
        """True from :meth:`drain` on."""
        return self._state.draining

    @property
    def drained(self) -> bool:
        """True when no worker has a request; what is queued then has no worker."""
        return not self._delivery.assigned

    def finish(self, now: float) -> None:
        """Tell every worker DISCONNECT and end what is left."""
        self._delivery.stop(now)
        for worker in list(self._workers.all()):
            if worker.request is not None:
                self._delivery.abort(worker, now)
        for connection in list(self._workers.connections.values()):
            self._workers.lose_connection(connection, "stopped", now, disconnect=True)

    def gone(self, routing_id: bytes, now: float) -> None:
        """The connection of this routing id is closed, and what came on it was read."""
        self._workers.void(routing_id, "unreachable", now)
        self._replies.forget_routing_id(routing_id, "client_gone", now)
        self._state.users.pop(routing_id, None)

    def reconsider(self, now: float, revoked: Collection[str] = ()) -> None:
        """What users may do may have changed, and who is `revoked` may do nothing:
        end what is not allowed any more."""
        access = self._state.access
        if access is not None:
            access.forget()
            self._replies.reconsider(revoked, now)
            self._workers.reconsider(access, revoked, now)
            self._delivery.reconsider(access, revoked, self._workers.all(), now)

    def _meet(self, routing_id: bytes, user: str, now: float) -> None:
        """A user speaks under a routing id for the first time, or after another one."""
        users = self._state.users
        if routing_id in users:
            # Rights go with the user, whoever chose which routing id.
            self._workers.void(routing_id, "other_user", now)
            self._replies.forget_routing_id(routing_id, "other_user", now)
        elif len(users) >= self._sweep_at and not self.outbox:
            held = self._accounts.clients.keys() | {one.address[0] for one in self._workers.connections.values()}
            self._state.users = users = {one: who for one, who in users.items() if one in held}
            self._sweep_at = 2 * len(users) + SWEEP_AT
        users[routing_id] = user

    def _malformed(self, frames: list[bytes], reason: str, now: float) -> None:
        message = parse(frames) if reason != "malformed" else None
        if message is not None and message.client:
            self._clients.refuse((frames[0], *message.stack), message, reason, Status.TOO_LARGE, now)
        else:
            self.counters.count("drops", reason)
        if frames:
            self._workers.malformed(frames[0], now)

    # What there is

    @property
    def outbox(self) -> list[Outgoing]:
        """What to send, in order; to be emptied by whoever sends it."""
        return self._state.outbox

    @property
    def events(self) -> list[Event | DeadLetter | Waited]:
        """What to tell, in order; to be emptied by whoever tells it."""
        return self._state.events

    @property
    def services(self) -> dict[bytes, Service]:
        """The services there are."""
        return self._delivery.services

    @property
    def workers(self) -> Iterable[Worker]:
        """The workers that are registered."""
        return self._workers.all()

    @property
    def worker_count(self) -> int:
        """How many workers are registered."""
        return self._workers.count

    @property
    def queued(self) -> int:
        """Requests that wait for a worker."""
        return self._delivery.queued

    @property
    def assigned(self) -> int:
        """Requests that a worker has."""
        return self._delivery.assigned

    @property
    def held_bytes(self) -> int:
        """What counts in ``max_queue_bytes``."""
        return self._state.held_bytes

    def statistics(self, now: float, with_services: bool = True) -> BrokerStatistics:
        """Everything as it is now, as an immutable copy."""
        services = {name: service.statistics(now) for name, service in self.services.items()} if with_services else {}
        counts = copy_counts(self.counters)
        for table in ("ended", "lost_workers", "drops", "refused_connections"):
            counts[table] = MappingProxyType(counts[table])
        return BrokerStatistics(
            uptime=now - self.started,
            services=MappingProxyType(services),
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
