"""Which worker gets which request, at first and after a loss.

The rules of this module:

* A request is always in exactly one :class:`~.records.Place`.
* Workers are chosen least recently used, requests in the order of :mod:`~.fairqueue`.
  While a worker is idle, no request waits that this worker may have.
* The requests of a lost worker go back to the head of their client's part of the queue, in
  the order in which they came, and are delivered again, up to ``attempts`` times in all.  Each is
  a *suspect* from then on: a connection has at most one, so that a request that kills its
  worker, and with it the worker's other sessions, takes no other request down twice.
* A request is not delivered again once a PARTIAL went out, or when nobody waits for
  its answer.
* ``request_ttl`` bounds the time of all a request's waits in the queue together; where the caller
  states how long it waits, ``max_request_ttl`` does, or the ``request_ttl`` that is set for the service.
  The caller's deadline bounds queue and work together.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from ...protocol import token
from ...protocol.dialects import EMPTY
from ..outcomes import EndReason
from .access import CALL, Access
from .decisions import Outgoing, QueueWait, new_tuple
from .reasons import LossReason
from .records import ANSWERED, ASSIGNED, QUEUED, Connection, Request, Service, Worker
from .replies import Replies
from .services import Services
from .state import BrokerState

#: What follows the prefix in the token of a strict client's first attempt.
_FIRST_ATTEMPT = token.tail(1)


class Delivery:
    """Assigns requests to workers, and takes them back.

    Two methods choose an idle worker: :meth:`submit` for a new request, and
    :meth:`_take_idle_for` for a request whose worker was lost.
    """

    def __init__(self, state: BrokerState, replies: Replies, services: Services, nonce: bytes) -> None:
        self._state = state
        self._timers = state.timers
        self._counters = state.counters
        self._replies = replies
        self._services = services
        self._token_start = token.start(nonce)
        #: How many assignments there were; each has the next number.
        self.assignments = 0
        #: Requests that workers have.
        self.assigned = 0

    # Workers

    def add_worker(self, worker: Worker, now: float) -> None:
        """Take a newly registered worker into its service."""
        service = worker.service
        service.members[worker] = None
        self._services.without_worker.pop(service.name, None)
        self.give_next(worker, now)

    def workers_lost(
        self, workers: Sequence[Worker], reason: LossReason, now: float, unsent: Collection[Request] = ()
    ) -> None:
        """Take workers of one connection, lost for `reason`, out of their services; deliver their requests again.

        `unsent`: those of their requests that could not be sent, or never ran.
        """
        requests = []
        for worker in workers:
            service = worker.service
            del service.members[worker]
            service.idle.pop(worker, None)
            service.mute.pop(worker, None)
            if not service.members:
                self._services.without_worker[service.name] = None
            if worker.request is not None:
                # A worker that says FINAL and DISCONNECT in one burst has not got its next request yet.
                if self._state.find_unsent().take_back(worker) or worker.request in unsent:
                    worker.request.attempts -= 1  # it never reached a worker
                else:
                    worker.request.suspect = True
                requests.append((worker.assigned_at, self.unassign(worker)))
        # The request that was assigned first goes first to an idle worker.  Queued ones are sorted
        # by FairQueue.push_front; the lane of the last one pushed is served first.
        requests.sort(key=lambda entry: entry[0])
        waiting = []
        no_room: set[Service] = set()
        for _, request in requests:
            if not self._deliver_again(request, reason, now, no_room):
                waiting.append(request)
        for request in reversed(waiting):
            self._enqueue(request, now, again=True)
        for worker in workers:
            self._services.fail_those_without_worker(worker.service, now)
            self._services.forget_if_unused(worker.service)

    def give_next(self, worker: Worker, now: float) -> None:
        """Give an idle worker its next request, or let it wait for one."""
        service = worker.service
        queue = service.queue
        while queue.length:
            request = queue.pop(worker.connection.suspect is None)
            if request is None:
                break  # suspects wait, and the connection has one
            client = self._services.unqueue(request, now)
            if client is not None and client.gone:
                self._services.end_request(request, EndReason.CLIENT_GONE, now)
                continue
            if request.ttl_left > 0 and now < request.deadline:
                self._assign(request, worker, now)
                return
            # The request's time was up before the tick that would have ended it.
            reason = EndReason.DEADLINE if now >= request.deadline else EndReason.EXPIRED
            self._services.end_request(request, reason, now)
        service.idle[worker] = now

    def mark_answered(self, worker: Worker) -> None:
        """Take from a worker the request that the worker has answered."""
        self.unassign(worker).move(ANSWERED)

    def give_next_suspect(self, connection: Connection, now: float) -> None:
        """Give a waiting suspect to an idle worker of a connection that has none any more."""
        for worker in connection.workers.values():
            if connection.suspect is None and worker.service.queue.suspects and worker in worker.service.idle:
                del worker.service.idle[worker]
                self.give_next(worker, now)

    # Requests

    def submit(self, request: Request, now: float) -> None:
        """Give an accepted request to a worker, or queue it."""
        service = request.service
        counters = self._counters
        request.number = counters.requests = counters.requests + 1
        service.requests += 1
        if service.idle:
            self._assign(request, service.idle.popitem(last=False)[0], now)
        else:
            self._enqueue(request, now)
            if request.place is not QUEUED:  # it has ended: no worker, or a full queue
                self._services.forget_if_unused(service)

    def abort(self, worker: Worker, now: float) -> None:
        """End the request of a worker, because the broker stops."""
        self._services.end_request(self.unassign(worker), EndReason.STOPPED, now)

    def reconsider(self, rights: Access, revoked: Collection[str], workers: Iterable[Worker], now: float) -> None:
        """End the open requests of users who may not call any more."""

        def allowed(request: Request) -> bool:
            client = request.client
            if client is None or not request.address:
                return True  # abandoned, or the broker's own
            return client.user not in revoked and rights.allows(client.user, CALL, request.service.name)

        services = self._services
        queued = [request for service in services.by_name.values() for request in service.queue if not allowed(request)]
        for request in queued:
            services.withdraw(request, EndReason.NOT_ALLOWED, now)
        for worker in workers:
            if worker.request is not None and not allowed(worker.request):
                self._replies.end_early(worker.request, EndReason.NOT_ALLOWED, now)

    def unassign(self, worker: Worker) -> Request:
        """Take the request from a worker that has one, and return it."""
        request = worker.request
        assert request is not None  # each caller has checked; no message of a peer leads here
        worker.request = None
        worker.token = EMPTY
        request.worker = None
        if request.flow is not None:
            self._state.timers.disarm(request)
        if request is worker.connection.suspect:
            worker.connection.suspect = None
        self.assigned -= 1
        return request

    # Decisions

    def _take_idle_for(self, request: Request, no_room: set[Service]) -> Worker | None:
        """Take an idle worker for a request whose worker was lost; None if no idle worker may have it.

        `no_room`: the services of whose idle workers none may have a suspect, as was found out.
        """
        service = request.service
        if not service.idle:
            return None
        if not request.suspect:
            return service.idle.popitem(last=False)[0]
        if not service.queue.suspects and service not in no_room:  # else no idle worker may have a suspect
            for worker in service.idle:
                if worker.connection.suspect is None:
                    del service.idle[worker]
                    return worker
            no_room.add(service)
        return None

    def _assign(self, request: Request, worker: Worker, now: float) -> None:
        """Send a request to a worker."""
        request.move(ASSIGNED)
        attempts = request.attempts = request.attempts + 1
        if attempts > 1:
            self._counters.redeliveries += 1
            if request.suspect:
                worker.connection.suspect = request
        self.assigned += 1
        number = self.assignments = self.assignments + 1
        terms = request.terms
        connection = worker.connection
        if terms.frame:
            time_left = None if request.deadline == math.inf else request.deadline - now
            tail = token.tail(attempts, time_left, terms.token_flags & connection.token_flags, terms.traceparent)
            if terms.traceparent and self._state.trace_waits:
                waited = QueueWait(request.service.name, terms.traceparent, now - request.accepted_at, attempts)
                self._state.events.append(waited)
        else:
            tail = _FIRST_ATTEMPT if attempts == 1 else token.tail(attempts)
        request.worker = worker
        worker.request = request
        worker.assigned_at = now
        address = worker.token = token.prefix(self._token_start, number)
        # Pulse.on_sent, inlined since this runs for each request.
        pulse = connection.pulse
        pulse.sent_at = now
        pulse.sent_since_heartbeat = True
        frames = [*worker.request_head, address + tail, EMPTY, *request.body]
        self._state.outbox.append(new_tuple(Outgoing, (frames, worker, True)))

    def _deliver_again(self, request: Request, loss: LossReason, now: float, no_room: set[Service]) -> bool:
        """Find another worker for a request whose worker was lost, or end the request; False if it must wait."""
        reason: EndReason | None = None
        if request.abandon_reason is not None:
            reason = request.abandon_reason
        elif request.client is not None and request.client.gone:
            reason = EndReason.CLIENT_GONE
        elif request.partial_sent:
            reason = EndReason.WORKER_LOST  # the client has a part of one run, and may get none of another
        elif request.attempts >= request.service.options.attempts:
            reason = EndReason.ATTEMPTS
        elif now >= request.deadline:
            reason = EndReason.DEADLINE
        if reason is not None:
            self._services.end_request(request, reason, now, loss=loss)
            return True
        self._replies.drop_joined(request)
        worker = self._take_idle_for(request, no_room)
        if worker is None:
            return False
        self._assign(request, worker, now)
        return True

    def _enqueue(self, request: Request, now: float, again: bool = False) -> None:
        """Have a request wait for a worker; `again`: in front, since a worker has had it."""
        service = request.service
        request.move(QUEUED)
        if request.terms.fail_without_worker:
            if not service.members:
                self._services.end_request(request, EndReason.NO_WORKER, now)
                return
            service.failing_without_worker += 1
        self._services.queued += 1
        if request.client is not None:
            request.client.queued += 1
        request.queued_at = now
        self._services.arm(request, now)
        queue = service.queue
        if again:
            queue.push_front(request)
        else:
            queue.push(request)
        # The newest request of the longest backlog gives way.
        if queue.length > service.options.max_queue:
            victim = queue.evict()
            self._services.unqueue(victim, now)
            self._services.end_request(victim, EndReason.OVERLOADED, now)
