"""Which worker gets which request, and again after a loss.

The rules of this module:

* A request is always in exactly one :class:`~.records.Place`.
* Workers are chosen least recently used, requests in the order of
  :mod:`~.fairqueue`.  Where a worker is idle, no request waits that it may have.
* What a lost worker had goes back to the head of its client's part of the queue, in
  the order in which it came, and is delivered again, ``attempts`` in all.  It is a
  *suspect* from then on: a connection has at most one, so that a request that kills
  its worker, and with it the worker's other sessions, takes no other down twice.
* It is not delivered again once a PARTIAL went out, or when nobody waits.
* ``request_ttl`` bounds a request's time in the queue, all its waits together;
  the caller's deadline bounds everything.

  ================  =======================================  ==================
  it ends           when                                     the client hears
  ================  =======================================  ==================
  ``expired``       it waited for ``request_ttl``            expired
  ``deadline``      its caller's time is up                  nothing
  ``cancelled``     its caller gave it up                    nothing
  ``client_gone``   a part of its answer could not be sent,  nothing
                    for its client is unreachable; or its
                    connection is known to be closed
  ``client_full``   the same: its client reads too slowly    overloaded
  ``too_large``     the parts of its answer are too large    too large
                    to be joined
  ``no_worker``     no worker is registered, and it is to    no worker
                    fail then
  ``overloaded``    its queue is full                        overloaded
  ``evicted``       its service gave way to a worker's       overloaded
  ``attempts``      workers were lost, and no attempt is     worker lost
                    left
  ``worker_lost``   its worker was lost after a PARTIAL      worker lost
  ``not_allowed``   its user may not call any more, or is    not allowed
                    none any more
  ``stopped``       the broker stops                         shutting down
  ================  =======================================  ==================
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from ...protocol import token
from ...protocol.dialects import EMPTY
from ..outcomes import DEAD_LETTER_REASONS, STATUS_OF_REASON, EndReason
from .access import CALL, Access
from .accounts import Accounts
from .decisions import DeadLetter, Outgoing, Waited, new_tuple
from .records import ANSWERED, ASSIGNED, QUEUED, Connection, Place, Request, Service, Worker
from .replies import Replies
from .state import BrokerState

#: What follows most tokens' prefix.
_FIRST_ATTEMPT = token.tail(1)


class Delivery:
    """Services, their queues, and who works on what."""

    def __init__(self, state: BrokerState, accounts: Accounts, replies: Replies, nonce: bytes) -> None:
        self._state = state
        self._accounts = accounts
        self._replies = replies
        self._token_start = token.start(nonce)
        self._assignments = 0
        self.services: dict[bytes, Service] = {}
        #: Services without a worker, the longest known first.
        self._unserved: dict[bytes, None] = {}
        #: How many of them each user was the first to name.
        self._opened: dict[str, int] = {}
        #: Requests workers have, and requests that wait.
        self.assigned = 0
        self.queued = 0

    # Services

    def open(self, name: bytes, now: float, user: str, for_worker: bool = False) -> Service | None:
        """The service `name`, made if need be; None if there are too many, or `user` may open no more."""
        service = self.services.get(name)
        if service is not None:
            return service
        options = self._state.options
        if self.has_opened_too_many(user):
            return None
        if len(self.services) >= options.max_services:
            # A READY may push out a service that has no worker.
            if not for_worker or not self._unserved:
                return None
            oldest = self.services[next(iter(self._unserved))]
            self._end_queue(oldest, EndReason.EVICTED, now)
        service = self.services[name] = Service(name, options.for_service(name), user)
        if user:
            self._opened[user] = self._opened.get(user, 0) + 1
        self._unserved[name] = None
        return service

    def collect(self, service: Service) -> None:
        """Forget a service that has neither workers nor requests."""
        if not service.members and not service.queue and self.services.get(service.name) is service:
            del self.services[service.name]
            del self._unserved[service.name]
            if service.opener:
                opened = self._opened[service.opener] = self._opened[service.opener] - 1
                if not opened:
                    del self._opened[service.opener]

    def has_opened_too_many(self, user: str) -> bool:
        """Has this user opened as many services as a user may?"""
        return bool(user) and self._opened.get(user, 0) >= self._state.options.max_user_services

    # Workers

    def join(self, worker: Worker, now: float) -> None:
        """A worker is registered."""
        service = worker.service
        service.members[worker] = None
        self._unserved.pop(service.name, None)
        self.free(worker, now)

    def leave(self, workers: Sequence[Worker], now: float, unsent: Collection[Request] = ()) -> None:
        """Workers of one connection are lost; what they had is delivered again.

        `unsent`: requests they had that could not be sent, or never ran.
        """
        requests = []
        for worker in workers:
            service = worker.service
            del service.members[worker]
            service.idle.pop(worker, None)
            if not service.members:
                self._unserved[service.name] = None
            if worker.request is not None:
                if self._recall(worker) or worker.request in unsent:
                    worker.request.attempts -= 1  # it never reached anybody
                else:
                    worker.request.suspect = True
                requests.append((worker.assigned_at, self.unassign(worker)))
        # The oldest first to the idle, the rest so that the oldest ends up first in line.
        requests.sort(key=lambda entry: entry[0])
        waiting = []
        for _, request in requests:
            if not self._deliver_again(request, now):
                waiting.append(request)
        for request in reversed(waiting):
            self._enqueue(request, now, again=True)
        for worker in workers:
            self._desert(worker.service, now)
            self.collect(worker.service)

    def free(self, worker: Worker, now: float) -> None:
        """Give an idle worker its next request, or let it wait for one."""
        service = worker.service
        queue = service.queue
        while queue.length:
            request = queue.pop(worker.connection.suspect is None)
            if request is None:
                break
            self._unqueue(request, now)
            client = request.client
            if client is not None and client.gone:
                self._end(request, EndReason.CLIENT_GONE, now)
                continue
            if request.ttl_left > 0 and now < request.deadline:
                self._assign(request, worker, now)
                return
            # Its time was up before the tick that would say so.
            self._end(request, EndReason.DEADLINE if now >= request.deadline else EndReason.EXPIRED, now)
        service.idle[worker] = None

    def done(self, worker: Worker) -> None:
        """A worker has answered its request."""
        self.unassign(worker).move(ANSWERED)

    def relieve(self, connection: Connection, now: float) -> None:
        """A connection's suspect was answered: it may have another now, whichever of
        its workers is idle."""
        for other in connection.workers.values():
            if connection.suspect is None and other.service.queue.suspects and other in other.service.idle:
                del other.service.idle[other]
                self.free(other, now)

    # Requests

    def submit(self, request: Request, now: float) -> None:
        """A request is accepted."""
        service = request.service
        self._state.counters.requests += 1
        request.number = self._state.counters.requests
        service.requests += 1
        if service.idle:
            self._assign(request, service.idle.popitem(last=False)[0], now)
        else:
            self._enqueue(request, now)
            self.collect(service)  # it may be one that was to fail

    def withdraw(self, request: Request, reason: EndReason, now: float) -> None:
        """End a request that is queued."""
        request.service.queue.remove(request)
        self._unqueue(request, now)
        self._end(request, reason, now)
        self.collect(request.service)

    def due(self, request: Request, now: float) -> None:
        """A queued request's timer."""
        self.withdraw(request, EndReason.DEADLINE if now >= request.deadline else EndReason.EXPIRED, now)

    def postpone(self, request: Request) -> None:
        """A queued request's deadline was moved."""
        self._state.timers.arm(request, min(request.queued_at + request.ttl_left, request.deadline))

    def stop(self, now: float) -> None:
        """End what is queued."""
        for service in list(self.services.values()):
            self._end_queue(service, EndReason.STOPPED, now)

    def abort(self, worker: Worker, now: float) -> None:
        """End what a worker has: the broker stops."""
        self._end(self.unassign(worker), EndReason.STOPPED, now)

    def reconsider(self, rights: Access, revoked: Collection[str], workers: Iterable[Worker], now: float) -> None:
        """Rights may have changed: end what is open of whoever may not call any more."""

        def allowed(request: Request) -> bool:
            client = request.client
            if client is None or not request.address:
                return True
            return client.user not in revoked and rights.allows(client.user, CALL, request.service.name)

        queued = [request for service in self.services.values() for request in service.queue if not allowed(request)]
        for request in queued:
            self.withdraw(request, EndReason.NOT_ALLOWED, now)
        for worker in workers:
            if worker.request is not None and not allowed(worker.request):
                self._replies.end_early(worker.request, EndReason.NOT_ALLOWED, now)

    # Decisions

    def _idle_for(self, request: Request) -> Worker | None:
        """Take an idle worker for `request`, which lost its own, if it may have one."""
        service = request.service
        if not service.idle:
            return None
        if not request.suspect:
            return service.idle.popitem(last=False)[0]
        if not service.queue.suspects:  # else there is none it may have
            for worker in service.idle:
                if worker.connection.suspect is None:
                    del service.idle[worker]
                    return worker
        return None

    def _assign(self, request: Request, worker: Worker, now: float) -> None:
        request.move(ASSIGNED)
        attempts = request.attempts = request.attempts + 1
        if attempts > 1:
            self._state.counters.redeliveries += 1
        self.assigned += 1
        number = self._assignments = self._assignments + 1
        terms = request.terms
        if terms.frame:
            left = None if request.deadline == math.inf else request.deadline - now
            tail = token.tail(attempts, left, token.TYPED_FAILURES, terms.traceparent)
            if terms.traceparent and self._state.traced:
                waited = Waited(request.service.name, terms.traceparent, now - request.accepted_at, attempts)
                self._state.events.append(waited)
        else:
            tail = _FIRST_ATTEMPT if attempts == 1 else token.tail(attempts)
        connection = worker.connection
        if request.suspect:
            connection.suspect = request
        request.worker = worker
        worker.request = request
        worker.assigned_at = now
        address = worker.token = token.prefix(self._token_start, number)
        pulse = connection.pulse
        pulse.sent = now
        pulse.answered = True
        frames = [*worker.request_head, address + tail, EMPTY, *request.body]
        self._state.outbox.append(new_tuple(Outgoing, (frames, worker, True)))

    def unassign(self, worker: Worker) -> Request:
        """Take its request from a worker that has one."""
        request = worker.request
        assert request is not None  # ours, not a peer's: callers looked
        worker.request = None
        worker.token = EMPTY
        request.worker = None
        if request is worker.connection.suspect:
            worker.connection.suspect = None
        self.assigned -= 1
        return request

    def _recall(self, worker: Worker) -> bool:
        """Take back the request that is about to be sent to a worker, if it is: one that
        says FINAL and DISCONNECT in one breath has not got it."""
        outbox = self._state.outbox
        for at, outgoing in enumerate(outbox):
            if outgoing.target is worker:
                del outbox[at]
                return True
        return False

    def _deliver_again(self, request: Request, now: float) -> bool:
        """Find another worker for a request that lost its own, or end it; False if
        it is to wait for one."""
        reason: EndReason | None = None
        if request.abandon_reason is not None:
            reason = request.abandon_reason
        elif request.client is not None and request.client.gone:
            reason = EndReason.CLIENT_GONE
        elif request.partial_sent:
            reason = EndReason.WORKER_LOST  # a PARTIAL went out: not run again
        elif request.attempts >= request.service.options.attempts:
            reason = EndReason.ATTEMPTS
        elif now >= request.deadline:
            reason = EndReason.DEADLINE
        if reason is not None:
            self._end(request, reason, now)
            return True
        self._replies.drop_joined(request)
        worker = self._idle_for(request)
        if worker is None:
            return False
        self._assign(request, worker, now)
        return True

    def _enqueue(self, request: Request, now: float, again: bool = False) -> None:
        service = request.service
        request.move(QUEUED)
        if request.terms.fail_without_worker:
            if not service.members:
                self._end(request, EndReason.NO_WORKER, now)
                return
            service.failing_without_worker += 1
        self.queued += 1
        request.queued_at = now
        until = now + request.ttl_left
        self._state.timers.arm(request, until if until < request.deadline else request.deadline)
        queue = service.queue
        if again:
            queue.push_front(request)
        else:
            queue.push(request)
        # The newest request of the longest backlog gives way.
        if queue.length > service.options.max_queue:
            victim = queue.evict()
            self._unqueue(victim, now)
            self._end(victim, EndReason.OVERLOADED, now)

    def _unqueue(self, request: Request, now: float) -> None:
        """It has left its queue."""
        self.queued -= 1
        if request.terms.fail_without_worker:
            request.service.failing_without_worker -= 1
        request.ttl_left -= now - request.queued_at
        self._state.timers.disarm(request)

    def _desert(self, service: Service, now: float) -> None:
        """Without a worker, what is to fail then fails."""
        if service.failing_without_worker and not service.members:
            for request in [request for request in service.queue if request.terms.fail_without_worker]:
                self.withdraw(request, EndReason.NO_WORKER, now)

    def _end_queue(self, service: Service, reason: EndReason, now: float) -> None:
        while (request := service.queue.pop()) is not None:
            self._unqueue(request, now)
            self._end(request, reason, now)
        self.collect(service)

    def _end(self, request: Request, reason: EndReason, now: float) -> None:
        request.move(Place.ENDED)
        state = self._state
        state.counters.count("ended", reason.value)
        if request.attempts and reason in DEAD_LETTER_REASONS:
            name = request.service.name
            state.counters.dead_letters += 1
            body = list(map(bytes, request.body))
            age = now - request.accepted_at
            state.events.append(DeadLetter(name, body, request.attempts, reason.value, age, request.user))
        status = STATUS_OF_REASON[reason]
        if status is not None:
            self._replies.send_status(request, status, now)
        self._accounts.release(request)
