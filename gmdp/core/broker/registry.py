"""What workers say to a broker (RFC 7 and RFC 18, MDP/Worker; the extension).

The rules of this module:

* A worker has at most one request; a reply counts only if it carries the token
  of that very assignment, whoever sent it and whatever else it says.
* What a registered worker may say, and what comes of it:

  ============  ======================  ===================================
  command       worker idle             worker busy
  ============  ======================  ===================================
  READY         lost, DISCONNECT        lost, DISCONNECT, redelivery
  PARTIAL       lost, DISCONNECT        right token: forwarded or joined;
                                        wrong one: lost, DISCONNECT,
                                        redelivery
  FINAL         lost, DISCONNECT        right token: answered, then idle;
                                        wrong one as above
  HEARTBEAT     alive                   alive
  DISCONNECT    lost                    lost, redelivery
  malformed     lost, DISCONNECT        lost, DISCONNECT, redelivery
  any, in       lost, DISCONNECT        lost, DISCONNECT, redelivery
  another
  dialect
  ============  ======================  ===================================

* Whoever is not registered may say READY; to anything else, the first answer
  is DISCONNECT and there is no second one.
* In the extension each session of a connection is such a worker.  Its number is
  never used again after a DISCONNECT, from either side: what still comes of it is
  dropped.  Liveness is the connection's: one that is silent, malformed, unreachable
  or says DISCONNECT without a session is lost with all its sessions.
* One that is unreachable is lost once there is nothing more to read: one that leaves has
  answered, and said so, before it closed.
* A connection is a user's: a message of another user under its routing id voids it
  without a word to the newcomer, and the newcomer is a stranger.  READY needs the right
  to serve that service.
* Every table has a bound, and beside it what happens to the newcomer.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Hashable, Iterable

from ...protocol import extension, token
from ...protocol.dialects import EMPTY, EXTENDED, MMI_PREFIX, Command, Dialect
from ...protocol.extension import Status
from ...protocol.wire import Message
from . import access
from .accounts import Accounts
from .decisions import Event, Outgoing, Refusal
from .delivery import Delivery
from .records import Connection, Request, Worker
from .replies import Replies
from .state import BrokerState

#: Peers that were told DISCONNECT and hear nothing more until READY; past this
#: number the longest known is forgotten (and may hear a second DISCONNECT).
MAX_REJECTED = 10_000

# For each reply: a member of an Enum is slow to look up in Python 3.11.
_FINAL = Command.FINAL
_OK = Status.OK
_NONE: frozenset[Request] = frozenset()
_PLAIN = {extended: plain for plain, extended in EXTENDED.items()}


class Workers:
    """Connections of workers, and who is registered."""

    def __init__(
        self, state: BrokerState, accounts: Accounts, delivery: Delivery, replies: Replies, max_sessions: int
    ) -> None:
        self._state = state
        self._delivery = delivery
        self._accounts = accounts
        self._replies = replies
        self.connections: dict[Hashable, Connection] = {}
        #: Workers registered.
        self.count = 0
        self._by_user: dict[str, int] = {}
        self._max_sessions = max_sessions
        self._rejected: OrderedDict[Hashable, float] = OrderedDict()
        #: Connections that took no message any more, with the requests that did not get there.
        #: What they had said before is still to be read.
        self.unreachable: dict[Connection, set[Request]] = {}

    def all(self) -> Iterable[Worker]:
        """All registered workers."""
        return (worker for connection in self.connections.values() for worker in connection.workers.values())

    # What a worker says

    def said(self, routing_id: bytes, message: Message, now: float, user: str) -> None:
        """One message, of whatever kind."""
        command, dialect, _, stack, _, _, session = message
        key: Hashable = (routing_id, *stack) if stack else routing_id
        connection = self.connections.get(key)
        if connection is None:
            self._stranger_said(key, (routing_id, *stack), message, now, user)
            return
        # "Any received command except DISCONNECT acts as a heartbeat."
        connection.pulse.heard = now
        if dialect is not connection.dialect:
            self._connection_said(connection, message, now)
            return
        worker = connection.workers.get(session)
        if worker is None:
            self._session_said(connection, message, now)
        elif command is _FINAL:
            self._final(worker, message, now)
        elif command is Command.HEARTBEAT:
            self._heartbeat(connection, now)
        elif command is Command.PARTIAL:
            self._partial(worker, message, now)
        elif command is Command.DISCONNECT:
            # "When the broker receives DISCONNECT from a worker it MUST send no
            # further commands to that worker."
            self.lose(worker, "disconnect", now)
        else:
            # "The worker MUST NOT send a further READY."
            self.lose(worker, "second_ready", now, disconnect=True)

    def malformed(self, key: Hashable, now: float) -> None:
        """ "The broker SHOULD respond to invalid messages by dropping them and
        treating that peer as invalid." """
        connection = self.connections.get(key)
        if connection is not None:
            self.lose_connection(connection, "malformed", now, disconnect=True)

    def _connection_said(self, connection: Connection, message: Message, now: float) -> None:
        """A message in another dialect than that of READY."""
        extended = connection.dialect.extended and message.dialect is connection.base_dialect
        if extended and message.command is Command.HEARTBEAT:
            self._heartbeat(connection, now)
        elif extended and message.command is Command.DISCONNECT:
            self.lose_connection(connection, "disconnect", now)
        else:
            self.lose_connection(connection, "other_dialect", now, disconnect=True)

    def _session_said(self, connection: Connection, message: Message, now: float) -> None:
        """A message of a session that is not registered."""
        flags, number = extension.read_session(message.extra)
        worker = connection.workers.get(extension.session_frame(number)) if flags == extension.LAST else None
        if worker is not None and message.command is Command.FINAL:
            self._final(worker, message, now, last=True)
            return
        if worker is not None and message.command is Command.DISCONNECT:
            self.lose(worker, "disconnect", now, unsent=worker.request)
            return
        if flags and (worker is not None or flags != extension.LAST):
            self._state.counters.count("drops", "malformed")
            self.lose_connection(connection, "malformed", now, disconnect=True)
            return
        if number <= connection.highest_session:
            self._state.counters.count("drops", "retired_session")
            return
        if message.command is Command.READY:
            self._ready(connection.key, connection.address, message, now, connection.user)
            return
        connection.highest_session = number
        self._state.counters.count("drops", "unregistered")
        if message.command is not Command.DISCONNECT:
            self._say_disconnect((*connection.address, message.extra), connection.dialect)

    def _stranger_said(
        self, key: Hashable, address: tuple[bytes, ...], message: Message, now: float, user: str
    ) -> None:
        if message.command is Command.READY:
            self._ready(key, address, message, now, user)
            return
        self._state.counters.count("drops", "unregistered")
        # "The broker MUST respond to any valid but unexpected command by sending
        # DISCONNECT and then no further commands to that worker."
        if message.command is not Command.DISCONNECT and self._rejected.get(key, now) <= now:
            self._say_disconnect(address, _PLAIN.get(message.dialect, message.dialect))
        self._reject(key, now)  # remembered for as long as it talks on

    def _ready(self, key: Hashable, address: tuple[bytes, ...], message: Message, now: float, user: str) -> None:
        """A READY of somebody who is not registered."""
        state = self._state
        service = None
        connection = self.connections.get(key)
        if message.subject.startswith(MMI_PREFIX):
            # RFC 8: "It MUST disconnect any workers that attempt to register
            # services in this namespace."
            reason = "reserved_name"
        elif state.access is not None and (why := self._why_not(state.access, user, message.subject, now)):
            reason = why
            state.refusals.append(Refusal(access.SERVE, user, message.subject, reason))
        elif state.draining:
            reason = "draining"
        elif max(self.count, len(self.connections)) >= state.options.max_workers:
            reason = "workers_full"
        elif connection is not None and len(connection.workers) >= self._max_sessions:
            reason = "sessions_full"
        elif message.extra and extension.read_session(message.extra)[0]:
            reason = "malformed"
        else:
            reason = "services_full"
            service = self._delivery.open(message.subject, now, user, for_worker=True)
            if service is None and self._delivery.has_opened_too_many(user):
                reason = "user_services_full"
                state.refusals.append(Refusal(access.SERVE, user, message.subject, reason))
        if service is None:
            state.counters.count("drops", reason)
            if connection is not None:
                # The session's number is used up, the connection stands.
                connection.highest_session = extension.read_session(message.extra)[1]
                self._say_disconnect((*address, message.extra), connection.dialect)
            else:
                self._say_disconnect(address, _PLAIN.get(message.dialect, message.dialect))
                self._reject(key, now)
            return
        if connection is None:
            self._rejected.pop(key, None)
            dialect = message.dialect
            connection = Connection(key, address, dialect, _PLAIN.get(dialect, dialect), now, user)
            self.connections[key] = connection
            state.timers.arm(connection, now + state.options.heartbeat_interval)
        if message.extra:
            connection.highest_session = extension.read_session(message.extra)[1]
        worker = Worker(connection, message.extra, service, now)
        connection.workers[message.extra] = worker
        self.count += 1
        if user:
            self._by_user[user] = self._by_user.get(user, 0) + 1
        state.counters.registrations += 1
        state.events.append(Event("registered", service.name, message.dialect.name))
        self._delivery.join(worker, now)

    def _why_not(self, rights: access.Access, user: str, service: bytes, now: float) -> str:
        """Why `user` may not register for `service`; empty if he may."""
        if user and not rights.in_time(user, now):
            return "rate_full"
        if not rights.allows(user, access.SERVE, service):
            return "revoked" if user == access.REVOKED else "not_allowed"
        if user and self._by_user.get(user, 0) >= self._state.options.max_user_workers:
            return "user_workers_full"
        return ""

    def _current(self, worker: Worker, message: Message, now: float) -> Request | None:
        """The request `message` answers, or None if it answers none: then the
        worker is lost ("valid but unexpected command")."""
        request = worker.request
        if request is not None and message.subject[: token.PREFIX_SIZE] == worker.token:
            return request
        self._state.counters.count("drops", "stray_reply")
        self.lose(worker, "stray_reply", now, disconnect=True)
        return None

    def _partial(self, worker: Worker, message: Message, now: float) -> None:
        request = self._current(worker, message, now)
        if request is None:
            return
        self._state.counters.partials += 1
        if request.dialect.streams:
            request.partial_sent = True
            self._replies.answer(request, message.body, Status.PARTIAL, now)
        else:
            self._replies.keep_part(request, message.body, now)

    def _final(self, worker: Worker, message: Message, now: float, last: bool = False) -> None:
        request = self._current(worker, message, now)
        if request is None:
            return
        counters = self._state.counters
        counters.replies += 1
        worker.service.replies += 1
        worker.served += 1
        status = _OK
        _, _, _, _, address, body, _ = message
        if token.says_failed(address):
            counters.handler_failures += 1
            status = Status.HANDLER_FAILED
        elif request.joined_parts is not None:
            body = request.joined_parts + body
        self._replies.answer(request, body, status, now)
        self._delivery.done(worker)
        if last:
            self.lose(worker, "disconnect", now)
        else:
            self._delivery.free(worker, now)
        if request.suspect:
            self._delivery.relieve(worker.connection, now)
        self._accounts.release(request)

    def _heartbeat(self, connection: Connection, now: float) -> None:
        if not connection.dialect.extended:
            worker = connection.workers[EMPTY]
            # The first one of a piece of work may have been sent before it began.
            if worker.request is not None and now >= worker.assigned_at + self._state.options.heartbeat_interval:
                connection.heartbeat_while_busy = True
        if connection.pulse.heartbeat_due():
            self._send_heartbeat(connection, now)

    # Rights

    def void(self, routing_id: bytes, reason: str, now: float) -> None:
        """Whoever had this routing id is gone: what its connections held is lost, and whoever
        has it next is not taken for him."""
        for connection in list(self.connections.values()):
            if connection.address[0] == routing_id:
                self.lose_connection(connection, reason, now)
        self._rejected.pop(routing_id, None)

    def reconsider(self, rights: access.Access, revoked: Collection[str], now: float) -> None:
        """Rights may have changed: whoever may not serve any more is told DISCONNECT."""
        for connection in list(self.connections.values()):
            if connection.user in revoked:
                self.lose_connection(connection, "revoked", now, disconnect=True)
                continue
            for worker in list(connection.workers.values()):
                if not rights.allows(connection.user, access.SERVE, worker.service.name):
                    self.lose(worker, "not_allowed", now, disconnect=True)

    # Losing them

    def lose(
        self, worker: Worker, reason: str, now: float, disconnect: bool = False, unsent: Request | None = None
    ) -> None:
        """One worker is lost; a strict one is its connection.  `unsent`: a request it had that never ran."""
        connection = worker.connection
        if not connection.dialect.extended:
            self.lose_connection(connection, reason, now, disconnect)
            return
        del connection.workers[worker.session]
        if disconnect:
            self._say_disconnect(worker.head, connection.dialect)
        had_suspect = worker.request is not None and worker.request is connection.suspect
        nowhere = self.unreachable.get(connection, _NONE)
        self._lost([worker], reason, now, nowhere if unsent is None else {*nowhere, unsent})
        if had_suspect:
            self._delivery.relieve(connection, now)

    def caught_up(self, now: float) -> None:
        """There was nothing more to read: those that are unreachable said no more."""
        while self.unreachable:
            connection = next(iter(self.unreachable))
            self.lose_connection(connection, "unreachable", now)

    def lose_connection(self, connection: Connection, reason: str, now: float, disconnect: bool = False) -> None:
        """A connection is lost, with all its workers."""
        del self.connections[connection.key]
        unsent = self.unreachable.pop(connection, _NONE)
        self._state.timers.disarm(connection)
        workers = list(connection.workers.values())
        connection.workers.clear()
        if disconnect:
            self._say_disconnect(connection.address, connection.base_dialect)
        if disconnect or reason == "disconnect":
            self._reject(connection.key, now)
        self._lost(workers, reason, now, unsent)

    def _lost(self, workers: list[Worker], reason: str, now: float, unsent: Collection[Request] = _NONE) -> None:
        state = self._state
        for worker in workers:
            worker.registered = False
            state.counters.count("lost_workers", reason)
            user = worker.connection.user
            if user:
                left = self._by_user[user] = self._by_user[user] - 1
                if not left:
                    del self._by_user[user]
        self.count -= len(workers)
        for service, number in Counter(worker.service for worker in workers).items():
            state.events.append(Event("lost", service.name, reason if number == 1 else f"{reason} ({number} workers)"))
        self._delivery.leave(workers, now, unsent)

    def _say_disconnect(self, address: tuple[bytes, ...], dialect: Dialect) -> None:
        self._state.outbox.append(Outgoing([*address, *dialect.worker(Command.DISCONNECT)], None, False))

    def _reject(self, key: Hashable, now: float) -> None:
        rejected = self._rejected
        rejected[key] = now + self._state.options.expiry
        rejected.move_to_end(key)
        while len(rejected) > MAX_REJECTED or next(iter(rejected.values())) <= now:
            rejected.popitem(last=False)

    # Liveness

    def due(self, connection: Connection, now: float) -> None:
        """A connection's timer: is it silent, does it need a HEARTBEAT?"""
        options = self._state.options
        pulse = connection.pulse
        lost_at = pulse.heard + options.expiry
        if not connection.dialect.extended:
            worker = connection.workers[EMPTY]
            if worker.request is not None:
                # Workers that fall silent while they work get the time work may take.
                allowance = options.expiry if connection.heartbeat_while_busy else worker.service.options.busy_timeout
                lost_at = max(pulse.heard, worker.assigned_at) + allowance
        if now >= lost_at:
            gap = self._state.gap
            if gap.may_judge(now):
                self.lose_connection(connection, "expired", now)
                return
            lost_at = gap.until
        # "Peers SHOULD NOT send HEARTBEAT commands while also sending other commands."
        if now >= pulse.beat_at(options.heartbeat_interval):
            self._send_heartbeat(connection, now)
        self._state.timers.arm(connection, min(lost_at, pulse.beat_at(options.heartbeat_interval)))

    def _send_heartbeat(self, connection: Connection, now: float) -> None:
        connection.pulse.beating(now)
        self._state.outbox.append(Outgoing(connection.command(Command.HEARTBEAT), connection, False))

    def unsent(self, outgoing: Outgoing, full: bool, now: float) -> None:
        """A message to a worker could not be sent: it is `full`, or gone."""
        target = outgoing.target
        if isinstance(target, Worker):
            if target.registered:
                unsent = self.unreachable.setdefault(target.connection, set())
                if target.request is not None:
                    unsent.add(target.request)
                if full:
                    self.lose_connection(target.connection, "unreachable", now)
        elif isinstance(target, Connection) and not full and self.connections.get(target.key) is target:
            # A full worker that is sent a HEARTBEAT has no need of it.
            self.unreachable.setdefault(target, set())
