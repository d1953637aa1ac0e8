"""Which workers are registered, on which connections, and when they are lost.

The rules of this module:

* A worker is registered by READY, unless a bound, the user's rights or the broker's stopping
  forbid it.  A refused peer hears DISCONNECT.
* A connection belongs to one user.  A message of another user under its routing id ends the
  old connection, and the newcomer is not registered.  READY needs the right to serve the service.
* Liveness is the connection's: a connection that is silent, malformed, unreachable or says
  DISCONNECT without a session is lost with all its sessions.
* A connection without a word for two intervals is *mute* (:mod:`gmdp.core.liveness`).  Its workers
  get no request until it speaks.
* A mute connection without work is lost at the expiry.  One with work is left to it for ``busy_timeout``,
  from its last message on, while its process is alive.  The process is alive until a message to it
  cannot be sent: ZeroMQ ends the connection of a process that does not answer ZMTP heartbeats.
* Requests that a mute worker of several sessions got at least an interval ago, and has not begun, go to
  others: its sessions are *recalled*, with DISCONNECT, and the delivery counts no attempt.  A service with
  ``attempts=1`` is left out: a worker that wakes may begin while its DISCONNECT is on its way.  A worker
  that does not say what it begins is taken to have begun everything; any other, what it was given first.
* The process of a connection behind a proxy is unknown, since ZMTP heartbeats end at the proxy.  Such a
  connection is lost at the expiry, with or without work.  So is any where ``zmtp_heartbeats`` is off, except
  on inproc.  An RFC-only worker that was never heard while it worked has ``busy_timeout`` even then.
* An unreachable connection is lost once there is nothing more to read: a worker that leaves
  sends its answer and DISCONNECT before it closes.  Other peers may send so much that there is always more;
  then it is lost after an expiry.
* Every table has a bound; the rule for newcomers beyond the bound stands beside it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Hashable, Iterable
from itertools import islice

from ...protocol import extension, token
from ...protocol.dialects import EMPTY, EXTENDED, MMI_PREFIX, Command, Dialect
from ...protocol.extension import Feature
from ...protocol.text import show_name
from ...protocol.wire import Message
from ..liveness import MUTE_AFTER
from . import access
from .decisions import Event, Outgoing, Refusal
from .delivery import Delivery
from .options import BrokerOptions
from .reasons import AUDITED, TABLES_FULL, DropReason, LossReason
from .records import Connection, Request, Service, Worker
from .services import BURST, Services
from .state import BrokerState
from .wording import describe_refusal

#: How many refused peers are remembered.  Beyond this number, the one that has been silent for
#: the longest is forgotten, and may get a second DISCONNECT.
MAX_REFUSED = 10_000

#: HEARTBEATs beyond the usual ones that a mute peer is sent, in order to find out whether its process is
#: alive.  A peer reads them when it wakes, so they must not fill its socket.
MAX_PROBES = 50

_BEGUN = int(Feature.BEGUN)
_NO_REQUESTS: frozenset[Request] = frozenset()
#: The RFC's dialect of each extended one.
_BASE_DIALECTS = {extended: base for base, extended in EXTENDED.items()}


class Registry:
    """Connections of workers, and the workers registered on them."""

    def __init__(self, state: BrokerState, services: Services, delivery: Delivery, max_sessions: int) -> None:
        self._state = state
        self._services = services
        self._delivery = delivery
        self.connections: dict[Hashable, Connection] = {}
        #: The same by routing id; behind a proxy, several have one.
        self._by_routing_id: dict[bytes, dict[Connection, None]] = {}
        #: How many workers are registered.
        self.count = 0
        self._workers_by_user: dict[str, int] = {}
        self._max_sessions = max_sessions
        #: By unregistered peer: the time before which it gets no second DISCONNECT.
        self._refused: OrderedDict[Hashable, float] = OrderedDict()
        #: Mute connections: nothing was heard from them for two intervals.
        self.mute: dict[Connection, None] = {}
        #: Connections to which sending failed, the first one first, and the requests that could not be sent.
        #: Messages that their workers sent earlier are still to be read.
        self.unreachable: dict[Connection, set[Request]] = {}

    def workers(self) -> Iterable[Worker]:
        """All registered workers."""
        return (worker for connection in self.connections.values() for worker in connection.workers.values())

    def has_routing_id(self, routing_id: bytes) -> bool:
        """True if a connection of workers has this routing id."""
        return routing_id in self._by_routing_id

    # Registering

    def register(self, key: Hashable, address: tuple[bytes, ...], message: Message, now: float, user: str) -> None:
        """Register a worker by its READY, or refuse it."""
        state = self._state
        connection = self.connections.get(key)
        service = self._service_for(connection, message, now, user)
        if isinstance(service, DropReason):
            state.counters.count_drop(service)
            if service not in AUDITED and service is not DropReason.DRAINING:
                peer = EMPTY if service in TABLES_FULL else address[0]
                state.complaints.complain(
                    service.value, peer, user, now, _describe_refused, state.options, message, service
                )
            if connection is not None:
                # The session's number is used up; the connection stays.
                connection.highest_session = extension.read_session(message.extra)[1]
                self.send_disconnect((*address, extension.mark_session(message.extra, 0)), connection.dialect)
            else:
                self.send_disconnect(address, _BASE_DIALECTS.get(message.dialect, message.dialect))
                self._note_refused(key, now)
            return
        if connection is None:
            self._refused.pop(key, None)
            dialect = message.dialect
            connection = Connection(key, address, dialect, _BASE_DIALECTS.get(dialect, dialect), now, user)
            connection.features = state.peers.features_of(address, message.extra)
            if connection.features & Feature.CREDITS and dialect.streams:
                connection.token_flags |= token.CREDITS
            self.connections[key] = connection
            self._by_routing_id.setdefault(address[0], {})[connection] = None
            state.timers.arm(connection, now + state.options.heartbeat_interval)
        session = message.extra
        if session:
            connection.highest_session = extension.read_session(session)[1]
            session = extension.mark_session(session, 0)
        worker = Worker(connection, session, service, now)
        connection.workers[session] = worker
        self.count += 1
        if user:
            self._workers_by_user[user] = self._workers_by_user.get(user, 0) + 1
        state.counters.registrations += 1
        state.events.append(Event("registered", service.name, message.dialect.name))
        self._delivery.add_worker(worker, now)

    def _service_for(
        self, connection: Connection | None, message: Message, now: float, user: str
    ) -> Service | DropReason:
        """The service that a READY may register for, or why the READY is refused."""
        state = self._state
        name = message.subject
        if name.startswith(MMI_PREFIX):
            # RFC 8: "It MUST disconnect any workers that attempt to register
            # services in this namespace."
            return DropReason.RESERVED_NAME
        if state.access is not None and (refused := self._refusal_of(state.access, user, name, now)):
            state.refusals.append(Refusal(access.SERVE, user, name, refused))
            return refused
        if state.draining:
            return DropReason.DRAINING  # the broker gives out no more requests
        # Connections without sessions count, too: they take memory.
        if max(self.count, len(self.connections)) >= state.options.max_workers:
            return DropReason.WORKERS_FULL
        if connection is not None and len(connection.workers) >= self._max_sessions:
            return DropReason.SESSIONS_FULL  # a request for one more might find no room in the socket
        if message.extra and extension.read_session(message.extra)[0]:
            return DropReason.MALFORMED  # a READY has no flags
        service = self._services.open(name, now, user, for_worker=True)
        if service is not None:
            return service
        if self._services.has_opened_too_many(user):
            state.refusals.append(Refusal(access.SERVE, user, name, DropReason.USER_SERVICES_FULL))
            return DropReason.USER_SERVICES_FULL
        return DropReason.SERVICES_FULL

    def _refusal_of(self, rights: access.Access, user: str, service: bytes, now: float) -> DropReason | None:
        """Why `user` may not register for `service`; None if the user may."""
        if user and not rights.take_turn(user, now):
            return DropReason.RATE_FULL
        if not rights.allows(user, access.SERVE, service):
            return DropReason.REVOKED if user == access.REVOKED else DropReason.NOT_ALLOWED
        if user and self._workers_by_user.get(user, 0) >= self._state.options.max_user_workers:
            return DropReason.USER_WORKERS_FULL
        return None

    def refuse_peer(self, key: Hashable, address: tuple[bytes, ...], message: Message, now: float) -> None:
        """Answer an unregistered peer with DISCONNECT, once for as long as the peer goes on talking.

        "The broker MUST respond to any valid but unexpected command by sending
        DISCONNECT and then no further commands to that worker."
        """
        if message.command is not Command.DISCONNECT and self._refused.get(key, now) <= now:
            self.send_disconnect(address, _BASE_DIALECTS.get(message.dialect, message.dialect))
        self._note_refused(key, now)

    def _note_refused(self, key: Hashable, now: float) -> None:
        """Send this peer no further DISCONNECT until it has been silent for an expiry."""
        refused = self._refused
        refused[key] = now + self._state.options.expiry
        refused.move_to_end(key)
        while len(refused) > MAX_REFUSED or next(iter(refused.values())) <= now:
            refused.popitem(last=False)

    # Losing

    def lose_worker(
        self, worker: Worker, reason: LossReason, now: float, disconnect: bool = False, unsent: Request | None = None
    ) -> None:
        """Lose one worker, and a strict one's connection with it.  `unsent`: its request, if that never ran."""
        connection = worker.connection
        if not connection.dialect.extended:
            self.lose_connection(connection, reason, now, disconnect)
            return
        del connection.workers[worker.session]
        if disconnect:
            self.send_disconnect(worker.head, connection.dialect)
        had_suspect = worker.request is not None and worker.request is connection.suspect
        not_sent = self.unreachable.get(connection, _NO_REQUESTS)
        self._count_lost([worker], reason, now, not_sent if unsent is None else {*not_sent, unsent})
        if had_suspect:
            self._delivery.give_next_suspect(connection, now)

    def lose_connection(self, connection: Connection, reason: LossReason, now: float, disconnect: bool = False) -> None:
        """Lose a connection, with all its workers."""
        del self.connections[connection.key]
        connection.registered = False
        routing_id = connection.address[0]
        sharing = self._by_routing_id[routing_id]
        del sharing[connection]
        if not sharing:
            del self._by_routing_id[routing_id]
        if connection.mute:
            connection.mute = False
            del self.mute[connection]
        unsent = self.unreachable.pop(connection, _NO_REQUESTS)
        self._state.timers.disarm(connection)
        workers = list(connection.workers.values())
        connection.workers.clear()
        if disconnect:
            self.send_disconnect(connection.address, connection.base_dialect)
        if disconnect or reason is LossReason.DISCONNECT:
            self._note_refused(connection.key, now)
        self._count_lost(workers, reason, now, unsent)

    def _count_lost(self, workers: list[Worker], reason: LossReason, now: float, unsent: Collection[Request]) -> None:
        """Count lost workers of one connection, report them, and have their requests delivered again."""
        state = self._state
        for worker in workers:
            worker.registered = False
            state.counters.count_lost(reason)
            user = worker.connection.user
            if user:
                remaining = self._workers_by_user[user] = self._workers_by_user[user] - 1
                if not remaining:
                    del self._workers_by_user[user]
        self.count -= len(workers)
        for service, number in Counter(worker.service for worker in workers).items():
            state.events.append(
                Event("lost", service.name, reason.value if number == 1 else f"{reason.value} ({number} workers)")
            )
        self._delivery.workers_lost(workers, reason, now, unsent)

    def lose_unreachable(self, now: float) -> None:
        """Lose the unreachable connections: every message from them was read."""
        while self.unreachable:
            connection = next(iter(self.unreachable))
            self.lose_connection(connection, LossReason.UNREACHABLE, now)

    def lose_long_unreachable(self, now: float) -> None:
        """Lose connections that are unreachable for so long that unread messages are no excuse: a burst of them."""
        for connection in list(islice(self.unreachable, BURST)):
            if not self._state.gap.has_waited(connection.unreachable_since, now):
                return
            self.lose_connection(connection, LossReason.UNREACHABLE, now)

    def send_failed(self, outgoing: Outgoing, full: bool, now: float) -> None:
        """A message to a worker could not be sent: the worker's socket is `full`, or its connection is closed."""
        target = outgoing.target
        if isinstance(target, Worker):
            if target.registered:
                unsent = self._mark_unreachable(target.connection, now)
                if target.request is not None:
                    unsent.add(target.request)
                if full:
                    self.lose_connection(target.connection, LossReason.UNREACHABLE, now)
        elif isinstance(target, Connection) and not full and self.connections.get(target.key) is target:
            # A worker whose socket is full needs no HEARTBEAT: other messages are on their way to it.
            self._mark_unreachable(target, now)

    def _mark_unreachable(self, connection: Connection, now: float) -> set[Request]:
        """Sending to a connection has failed; returns the requests that could not be sent to it."""
        unsent = self.unreachable.get(connection)
        if unsent is None:
            unsent = self.unreachable[connection] = set()
            connection.unreachable_since = now
        return unsent

    # Rights

    def forget_routing_id(self, routing_id: bytes, reason: LossReason, now: float) -> None:
        """Lose the connections of this routing id; its next peer is a stranger."""
        for connection in list(self._by_routing_id.get(routing_id, ())):
            self.lose_connection(connection, reason, now)
        self._refused.pop(routing_id, None)

    def reconsider(self, rights: access.Access, revoked: Collection[str], now: float) -> None:
        """Lose the workers whose users may not serve any more, and send them DISCONNECT."""
        for connection in list(self.connections.values()):
            if connection.user in revoked:
                self.lose_connection(connection, LossReason.REVOKED, now, disconnect=True)
                continue
            for worker in list(connection.workers.values()):
                if not rights.allows(connection.user, access.SERVE, worker.service.name):
                    self.lose_worker(worker, LossReason.NOT_ALLOWED, now, disconnect=True)

    # Liveness

    def on_timer(self, connection: Connection, now: float) -> None:
        """Give no more work to a connection that is silent, then lose it; send a HEARTBEAT if one is due."""
        interval = self._state.options.heartbeat_interval
        pulse = connection.pulse
        gap = self._state.gap
        judged_at = pulse.heard_at + MUTE_AFTER * interval
        if not connection.mute and now >= judged_at and gap.may_judge(now):
            self._become_mute(connection, now)
        if connection.mute:
            if connection.features & _BEGUN:
                self._recall(connection, now)
            judged_at, reason = self._loss(connection)
            if now >= judged_at and gap.may_judge(now):
                self.lose_connection(connection, reason, now)
                return
        if now >= judged_at:
            judged_at = gap.until
        # "Peers SHOULD NOT send HEARTBEAT commands while also sending other commands."
        if now >= pulse.next_heartbeat(interval):
            self.send_heartbeat(connection, now)
        self._state.timers.arm(connection, min(judged_at, pulse.next_heartbeat(interval)))

    def _loss(self, connection: Connection) -> tuple[float, LossReason]:
        """When a mute connection is lost if it stays silent, and for which reason."""
        state = self._state
        heard_at = connection.pulse.heard_at
        lost_at, reason = heard_at + state.options.expiry, LossReason.EXPIRED
        process_is_known = connection.is_direct and state.knows_processes
        if process_is_known or not (connection.dialect.extended or connection.heartbeat_while_busy):
            for worker in connection.workers.values():
                if worker.request is not None:
                    until = max(heard_at, worker.assigned_at) + worker.service.options.busy_timeout
                    if until > lost_at:
                        lost_at, reason = until, LossReason.BUSY_TIMEOUT
        return lost_at, reason

    def _become_mute(self, connection: Connection, now: float) -> None:
        """Give a connection no request until it speaks."""
        connection.mute = True
        connection.probes = 0
        self.mute[connection] = None
        for worker in connection.workers.values():
            if worker.request is None:
                del worker.service.idle[worker]
                worker.service.mute[worker] = now

    def _recall(self, connection: Connection, now: float) -> None:
        """Give to others what a mute connection was given and has not begun."""
        given_before = now - self._state.options.heartbeat_interval
        first = connection.first_assignment()
        recalled = [
            worker
            for worker in connection.workers.values()
            if worker.request is not None
            and not worker.has_begun(first)
            and worker.assigned_at <= given_before
            and worker.service.options.attempts > 1
        ]
        for worker in recalled:
            del connection.workers[worker.session]
            self.send_disconnect(worker.head, connection.dialect)
        if recalled:
            requests = {worker.request for worker in recalled if worker.request is not None}
            self._count_lost(recalled, LossReason.RECALLED, now, requests)

    @staticmethod
    def forget_stale_begun(connection: Connection) -> None:
        """Forget what sessions have begun that the connection does not have any more."""
        numbers = {(extension.read_session(session)[1],) for session in connection.workers}
        connection.begun = {number: when for number, when in connection.begun.items() if number in numbers}

    def on_heard(self, connection: Connection, now: float) -> None:
        """A mute connection has said something, and still stands: its workers may have requests again."""
        connection.mute = False
        del self.mute[connection]
        for worker in list(connection.workers.values()):
            if worker in worker.service.mute:
                del worker.service.mute[worker]
                self._delivery.give_next(worker, now)

    def probe_mute(self, now: float) -> None:
        """Send mute connections that have work a HEARTBEAT, which fails if their processes have ended."""
        for connection in self.mute:
            if connection.probes < MAX_PROBES and any(worker.request for worker in connection.workers.values()):
                connection.probes += 1
                self.send_heartbeat(connection, now)

    # Messages of the broker's own

    def send_heartbeat(self, connection: Connection, now: float) -> None:
        """Send a HEARTBEAT."""
        connection.pulse.on_heartbeat_sent(now)
        self._state.outbox.append(Outgoing(connection.command_frames(Command.HEARTBEAT), connection, False))

    def send_disconnect(self, address: tuple[bytes, ...], dialect: Dialect) -> None:
        """Send a DISCONNECT; whether it arrives does not matter."""
        self._state.outbox.append(Outgoing([*address, *dialect.worker_command(Command.DISCONNECT)], None, False))


def _describe_refused(options: BrokerOptions, message: Message, reason: DropReason) -> str:
    text = describe_refusal(options, reason)
    return f"a worker of {message.dialect.name} for {show_name(message.subject)} was refused: {text}"
