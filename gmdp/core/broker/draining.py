"""How a broker stops.

The rules of this module:

* From the beginning of a drain on, new requests and registrations are refused.  Each gmdp peer is told once
  that the broker leaves (:mod:`~.notices`).
* A queued request that no worker has had is ended at once, if its client knows the status *not run*: the client
  sends it elsewhere.  Other queued requests go on to the workers as these become free.
* A worker that is idle, and for whose service nothing waits, is let go with DISCONNECT.  An extended connection's
  sessions are let go one by one if the worker knows that the broker leaves, else all together, as
  a worker of version 1 would register each of them again.
* Once no worker has a request, the requests that are left are ended.
* Then clients that read too slowly get what waits for them (:mod:`~.backlogs`), and requests that are on their way
  are refused: the drain ends when none has come for :data:`LAME_DUCK`, or no peer is connected any more.
* When its time is up, a drain ends at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from ...protocol.extension import Feature
from ..outcomes import EndReason
from .backlogs import Backlogs
from .delivery import Delivery
from .notices import Notices
from .reasons import LossReason
from .records import Connection, Request, Worker
from .registry import Registry
from .services import BURST, Services
from .state import BrokerState

#: Seconds without a request after which none is on its way any more.
LAME_DUCK = 0.5
#: Seconds at least between two searches for workers that have become idle.
RELEASE_INTERVAL = 0.02


class Draining:
    """One broker's last work."""

    def __init__(
        self,
        state: BrokerState,
        backlogs: Backlogs,
        services: Services,
        delivery: Delivery,
        registry: Registry,
        notices: Notices,
    ) -> None:
        self._state = state
        self._backlogs = backlogs
        self._services = services
        self._delivery = delivery
        self._registry = registry
        self._notices = notices
        #: When the drain ends at the latest.
        self._until = math.inf
        #: The peers that are still to be told that the broker leaves; None before the first step.
        self._to_tell: Iterator[tuple[bytes, ...]] | None = None
        #: The requests that may run elsewhere and are still to be ended; None before the peers were told.
        self._to_refuse: Iterator[Request | None] | None = None
        #: True once no request is queued that may run elsewhere.
        self._sent_elsewhere = False
        #: The connections whose idle workers are still to be let go, in this search; None: there is no search.
        self._to_release: Iterator[Connection] | None = None
        #: How many workers were let go.
        self._released = 0
        #: What :meth:`_counts` returned when the last search began.
        self._released_counts = (-1, -1, -1)
        #: When the next search may begin.
        self._release_at = -math.inf
        #: The connections that are still to be sent DISCONNECT at the end, as far as they stand.
        self._to_end: Iterator[Connection] = iter(())
        #: True from the first request on that is ended for good; true once all requests have ended.
        self._finishing = self._finished = False
        #: True once nothing is left to send.
        self.ended = False

    def begin(self, until: float) -> None:
        """Take no new work from now on; a second call may shorten the time."""
        self._state.draining = True
        self._until = min(self._until, until)

    def deadline(self, connections: int) -> float:
        """When :meth:`proceed` is needed next; `connections`: those to the broker's socket."""
        if self.ended or not self._state.draining:
            return math.inf
        if not self._sent_elsewhere:
            return 0.0
        if not self._finished:
            if self._finishing or not self._delivery.assigned or self._to_release is not None:
                return 0.0
            return min(self._until, self._release_at) if self._released_counts != self._counts() else self._until
        if self._backlogs.count:
            return self._until
        return min(self._until, self._state.refused_at + LAME_DUCK) if connections else 0.0

    def proceed(self, now: float, connections: int) -> None:
        """Take the next steps, if it is time for them."""
        if self._finished:
            # Not in the step that ended the last request: what it decided has not been sent yet.
            quiet = not connections or now >= self._state.refused_at + LAME_DUCK
            self.ended = now >= self._until or (quiet and not self._backlogs.count)
        elif self._finishing or now >= self._until:
            self.finish(now)
        elif not self._sent_elsewhere:
            self._announce(now)
        elif not self._delivery.assigned:
            self.finish(now)
        elif self._to_release is not None or (now >= self._release_at and self._released_counts != self._counts()):
            self._release_idle_workers(now)

    def finish(self, now: float) -> bool:
        """End all requests, and send every worker DISCONNECT: up to :data:`~.services.BURST` of them in a call.

        Returns True once nothing is left.
        """
        self._sent_elsewhere = self._finishing = True
        left = BURST - self._services.end_queues(now)
        connections = self._registry.connections
        while left > 0 and connections:
            connection = next(self._to_end, None)
            if connection is None:
                self._to_end = iter(list(connections.values()))
                continue
            if not connection.registered:
                continue
            left -= 1 + len(connection.workers)
            for worker in list(connection.workers.values()):
                if worker.request is not None:
                    self._delivery.abort(worker, now)
            self._registry.lose_connection(connection, LossReason.STOPPED, now, disconnect=True)
        self._finished = not self._services.queued and not connections
        return self._finished

    def _announce(self, now: float) -> None:
        """Tell some peers that the broker leaves; then end some of the requests that may run elsewhere."""
        if self._to_tell is None:
            self._state.refused_at = now
            self._to_tell = self._state.peers.having(Feature.LEAVING)
        if self._to_refuse is None:
            some_peers = list(itertools.islice(self._to_tell, BURST))
            if some_peers:
                self._notices.tell_leaving(some_peers, self._registry.connections, now)
                return
            self._to_refuse = self._requests_for_elsewhere()
        some_requests = list(itertools.islice(self._to_refuse, BURST))
        for request in filter(None, some_requests):
            self._services.withdraw(request, EndReason.STOPPED, now)
        self._sent_elsewhere = len(some_requests) < BURST

    def _requests_for_elsewhere(self) -> Iterator[Request | None]:
        """Walk all queues: a request that no worker has had, and whose client knows what to do with it; else None."""
        for service in list(self._services.by_name.values()):
            for request in service.queue.walk():
                features = self._state.peers.features_of(request.address, request.terms.frame)
                yield request if features & Feature.NOT_RUN and not request.attempts else None

    def _counts(self) -> tuple[int, int, int]:
        """Numbers of which one changes whenever a worker becomes idle."""
        return self._registry.count + self._released, self._delivery.assigned, self._state.counters.replies

    def _release_idle_workers(self, now: float) -> None:
        """Let some of the workers go that will get no request any more."""
        if self._to_release is None:
            self._released_counts = self._counts()
            self._to_release = iter(list(self._registry.connections.values()))
        left = BURST
        for connection in self._to_release:
            if not connection.registered:
                continue
            left -= 1 + len(connection.workers)
            idle = [worker for worker in connection.workers.values() if self._is_idle(worker)]
            if len(idle) == len(connection.workers):
                self._released += len(idle)
                self._registry.lose_connection(connection, LossReason.STOPPED, now, disconnect=True)
            elif connection.features & Feature.LEAVING:
                self._released += len(idle)
                for worker in idle:
                    self._registry.lose_worker(worker, LossReason.STOPPED, now, disconnect=True)
            if left <= 0:
                return
        self._to_release = None
        self._release_at = now + RELEASE_INTERVAL

    @staticmethod
    def _is_idle(worker: Worker) -> bool:
        return worker.request is None and not worker.service.queue
