"""The known services, and how requests end without an answer.

The rules of this module:

* A service is known as long as it has a worker or a queued request.
* There are at most ``max_services``; a newcomer is refused.  A READY may push out the
  service that has been without a worker for the longest.
* A user may have opened at most ``max_user_services``: a service counts for the user who was
  the first to name it.
* A request that ends tells its client why (:mod:`gmdp.core.outcomes`), and becomes a dead
  letter if workers were lost over it.

  ================  =======================================  ===================
  it ends           when                                     a gmdp client hears
  ================  =======================================  ===================
  ``expired``       it waited for ``request_ttl``            expired
  ``deadline``      its caller's time is up, or nearly up    expired, if it is
                    and it still waits in a queue            nearly up; else
                                                             nothing
  ``cancelled``     its caller gave it up                    nothing
  ``client_gone``   its client's connection is closed, or    nothing
                    has another user; or its retry came on
                    another connection, too late to join
  ``client_full``   a part of its answer was dropped: its    overloaded
                    client reads too slowly
  ``too_large``     the parts of its answer are too large    too large
                    to be joined
  ``no_worker``     no worker is registered, and its client  no worker
                    asked that it fail then
  ``overloaded``    its queue is full                        overloaded
  ``evicted``       its service gave way to that of a new    overloaded
                    worker
  ``attempts``      workers were lost, and no attempt is     worker lost
                    left
  ``worker_lost``   its worker was lost after a PARTIAL      worker lost
  ``not_allowed``   its user may not call any more, or was   not allowed
                    revoked
  ``stopped``       the broker stops                         shutting down; not
                                                             run, if no worker
                                                             has had the request
  ``stalled``       its reader granted no credits for        stalled
                    ``stream_stall_timeout``
  ================  =======================================  ===================
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ...protocol.extension import Feature, Status
from ...protocol.text import show_name
from ..outcomes import DEAD_LETTER_REASONS, STATUS_OF_REASON, EndReason, notice_time
from .accounts import Accounts
from .decisions import DeadLetter
from .reasons import LossReason
from .records import Client, Place, Request, Service
from .replies import Replies
from .state import BrokerState
from .wording import describe_end

_REASONS = int(Feature.REASONS)  # an IntFlag's own operators are Python functions
#: Requests that end at once.  More end in bursts, between which others have their turn.
BURST = 500


class Services:
    """All services, and how requests leave their queues without a worker."""

    def __init__(self, state: BrokerState, accounts: Accounts, replies: Replies) -> None:
        self._state = state
        self._timers = state.timers
        self._accounts = accounts
        self._replies = replies
        self.by_name: dict[bytes, Service] = {}
        #: Services without a worker, the longest without one first.
        self.without_worker: dict[bytes, None] = {}
        #: How many services each user was the first to name.
        self._opened_by_user: dict[str, int] = {}
        #: Requests that wait for a worker.
        self.queued = 0
        #: Why and which queued requests end in bursts: those that are to fail, of services that have lost their last
        #: worker, all of services that have given way, which are not known any more, and those of clients that are
        #: gone.  None: one that was looked at stays.
        self.ending: dict[Service | Client, tuple[EndReason, Iterator[Request | None]]] = {}
        #: How many requests may end, or be looked at, before the next tick.
        self._burst_left = BURST

    # Services

    def open(self, name: bytes, now: float, user: str, for_worker: bool = False) -> Service | None:
        """The service `name`, made if it is not known; None if there are too many, or `user` may open no more."""
        service = self.by_name.get(name)
        if service is not None:
            return service
        options = self._state.options
        if self.has_opened_too_many(user):
            return None
        if len(self.by_name) >= options.max_services:
            if not for_worker or not self.without_worker:
                return None
            oldest = self.by_name[next(iter(self.without_worker))]
            self._evict(oldest, now)
        service = self.by_name[name] = Service(name, options.for_service(name), user)
        service.stated_ttl = options.stated_ttl(name)
        if user:
            self._opened_by_user[user] = self._opened_by_user.get(user, 0) + 1
        self.without_worker[name] = None
        return service

    def forget_if_unused(self, service: Service) -> None:
        """Forget a service that has neither workers nor requests."""
        if not service.members and not service.queue and self.by_name.get(service.name) is service:
            self._forget(service)

    def _forget(self, service: Service) -> None:
        del self.by_name[service.name]
        del self.without_worker[service.name]
        if service.opener:
            opened = self._opened_by_user[service.opener] = self._opened_by_user[service.opener] - 1
            if not opened:
                del self._opened_by_user[service.opener]

    def has_opened_too_many(self, user: str) -> bool:
        """True if this user has opened as many services as a user may."""
        return bool(user) and self._opened_by_user.get(user, 0) >= self._state.options.max_user_services

    # Queued requests

    def unqueue(self, request: Request, now: float) -> Client | None:
        """Note that a request has left its queue; returns its client."""
        self.queued -= 1
        client = request.client
        if client is not None:
            client.queued -= 1
        if request.terms.fail_without_worker:
            request.service.failing_without_worker -= 1
        request.ttl_left -= now - request.queued_at
        self._timers.disarm(request)
        return client

    def withdraw(self, request: Request, reason: EndReason, now: float) -> None:
        """Take a request out of its queue and end it."""
        behind = request.waiting - 1
        request.service.queue.remove(request)
        self.unqueue(request, now)
        self.end_request(request, reason, now, behind=behind)
        self.forget_if_unused(request.service)

    def on_timer(self, request: Request, now: float) -> None:
        """A queued request has waited for too long."""
        expires_at = request.queued_at + request.ttl_left
        self.withdraw(request, EndReason.EXPIRED if expires_at <= now < request.deadline else EndReason.DEADLINE, now)

    def arm(self, request: Request, now: float) -> None:
        """Arm the timer of a queued request, whose deadline may have changed.

        A caller that understands words hears that its request still waits shortly before the caller gives up.
        """
        until = request.deadline
        expires_at = request.queued_at + request.ttl_left
        if expires_at < until:
            until = expires_at
        if until != math.inf and self._state.peers.features_of(request.address, request.terms.frame) & _REASONS:
            noticed_at = request.deadline - notice_time(request.deadline - now)
            if noticed_at < until:
                until = noticed_at
        self._timers.arm(request, until)

    def fail_those_without_worker(self, service: Service, now: float) -> None:
        """If the service has no worker left, end the requests that are to fail then: many of them in bursts."""
        if service.failing_without_worker and not service.members:
            self.ending[service] = EndReason.NO_WORKER, self._failing(service)
            self._end_some(now)

    @staticmethod
    def _failing(service: Service) -> Iterator[Request | None]:
        """Walk the queue of a service without workers, until it has one."""
        for request in service.queue.walk():
            if service.members or not service.failing_without_worker:
                return
            yield request if request.terms.fail_without_worker else None

    def _evict(self, service: Service, now: float) -> None:
        """Forget a service without workers at once, and end its requests: many of them in bursts."""
        self._forget(service)
        self.ending[service] = EndReason.EVICTED, service.queue.walk()
        self._end_some(now)

    def drop_requests_of(self, client: Client, now: float) -> None:
        """End the queued requests of a client that is gone: many of them in bursts."""
        self.ending[client] = EndReason.CLIENT_GONE, self._queued_by(client)
        self._end_some(now)

    def _queued_by(self, client: Client) -> Iterator[Request | None]:
        """Walk what a client that is gone has queued, as long as it has anything there."""
        lane = client.user or client.key
        for service in list(self.by_name.values()):
            if not client.queued:
                return
            yield None
            for request in service.queue.walk(lane):
                if not client.queued:
                    return
                yield request if request.client is client else None

    def end_in_bursts(self, now: float) -> None:
        """Go on with what ends in bursts."""
        self._burst_left = BURST
        self._end_some(now)

    def _end_some(self, now: float) -> None:
        while self.ending:
            subject, (reason, requests) = next(iter(self.ending.items()))
            for request in requests:
                if request is not None:
                    self.withdraw(request, reason, now)
                self._burst_left -= 1
                if self._burst_left <= 0:
                    return
            del self.ending[subject]

    def end_queues(self, now: float, limit: int = BURST) -> int:
        """End up to `limit` queued requests, because the broker stops; returns how many."""
        ended = 0
        evicted = (subject for subject in self.ending if isinstance(subject, Service))
        for service in [*self.by_name.values(), *evicted] if self.queued else ():
            while ended < limit and (request := service.queue.pop()) is not None:
                self.unqueue(request, now)
                self.end_request(request, EndReason.STOPPED, now)
                ended += 1
            self.forget_if_unused(service)
            if ended >= limit:
                break
        return ended

    # The end

    def end_request(
        self,
        request: Request,
        reason: EndReason,
        now: float,
        *,
        behind: int | None = None,
        loss: LossReason | None = None,
    ) -> None:
        """End a request without its answer; no queue and no worker has it any more.

        `behind` and `loss` are those of :func:`~.wording.describe_end`.
        """
        request.move(Place.ENDED)
        state = self._state
        state.counters.count_end(reason)
        if request.attempts and reason in DEAD_LETTER_REASONS:
            name = request.service.name
            state.counters.dead_letters += 1
            body = list(map(bytes, request.body))
            age = now - request.accepted_at
            state.events.append(DeadLetter(name, body, request.attempts, reason.value, age, request.user))
        status = STATUS_OF_REASON[reason]
        if reason is EndReason.STOPPED and not request.attempts:  # no worker has had it
            features = state.peers.features_of(request.address, request.terms.frame)
            status = Status.NOT_RUN if features & Feature.NOT_RUN else status
        elif reason is EndReason.DEADLINE and now < request.deadline:
            status = Status.EXPIRED  # in the words of the notice
        if status is not None:
            self._replies.send_status(request, status, reason, now, behind=behind, loss=loss)
            if not request.terms.frame and request.address and reason in _SILENT_ENDS:
                state.complaints.complain(
                    reason.value, request.address[0], request.user, now, _describe_end, state, request, reason, behind
                )
        self._accounts.release(request)


#: Ends of strict clients' requests that only the log tells.
_SILENT_ENDS = frozenset({EndReason.EXPIRED, EndReason.OVERLOADED, EndReason.EVICTED})


def _describe_end(state: BrokerState, request: Request, reason: EndReason, behind: int | None) -> str:
    name = show_name(request.service.name)
    text = describe_end(state.options, request, reason, behind=behind)
    return f"a request of {request.dialect.name} for {name} ended without an answer: {text}"
