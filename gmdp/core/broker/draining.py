"""How a broker stops.

The rules of this module:

* From the beginning of a drain on, new requests and registrations are refused.
* Once no worker has a request, the requests that are left are ended, and every worker is sent DISCONNECT.
* Then clients that read too slowly get what waits for them (:mod:`~.backlogs`).
* The drain ends when nothing of that is left, or when its time is up.
"""

from __future__ import annotations

import math

from .backlogs import Backlogs
from .delivery import Delivery
from .reasons import LossReason
from .registry import Registry
from .services import BURST, Services
from .state import BrokerState


class Draining:
    """One broker's last work."""

    def __init__(
        self, state: BrokerState, backlogs: Backlogs, services: Services, delivery: Delivery, registry: Registry
    ) -> None:
        self._state = state
        self._backlogs = backlogs
        self._services = services
        self._delivery = delivery
        self._registry = registry
        #: When the drain ends at the latest.
        self._until = math.inf
        #: True from the first request on that is ended; true once all requests have ended.
        self._finishing = self._finished = False
        #: True once nothing is left to send.
        self.ended = False

    def begin(self, until: float) -> None:
        """Take no new work from now on; a second call may shorten the time."""
        self._state.draining = True
        self._until = min(self._until, until)

    def deadline(self) -> float:
        """When :meth:`proceed` is needed next."""
        if self.ended or not self._state.draining:
            return math.inf
        busy = self._backlogs.count if self._finished else self._delivery.assigned and not self._finishing
        return self._until if busy else 0.0

    def proceed(self, now: float) -> None:
        """Take the next steps, if it is time for them."""
        time_up = now >= self._until
        if self._finished:
            # Not in the step that ended the last request: what it decided has not been sent yet.
            self.ended = time_up or not self._backlogs.count
        elif self._finishing or time_up or not self._delivery.assigned:
            self.finish(now)

    def finish(self, now: float) -> bool:
        """End all requests, and send every worker DISCONNECT: up to :data:`~.services.BURST` of them in a call.

        Returns True once nothing is left.
        """
        self._finishing = True
        left = BURST - self._services.end_queues(now)
        connections = self._registry.connections
        while left > 0 and connections:
            connection = next(iter(connections.values()))
            left -= 1 + len(connection.workers)
            for worker in list(connection.workers.values()):
                if worker.request is not None:
                    self._delivery.abort(worker, now)
            self._registry.lose_connection(connection, LossReason.STOPPED, now, disconnect=True)
        self._finished = not self._services.queued and not connections
        return self._finished
