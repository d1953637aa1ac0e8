"""The check that clients are served in turn: no client again and again while another waits."""

from __future__ import annotations

from collections import Counter
from typing import Any

from .broker import BrokerNode
from .failures import require


class Turns:
    """The order in which one start of a broker assigned the requests of its clients."""

    #: Requests of one client that may be assigned while another client waits: one in turn, one more since a
    #: request that comes back goes first, and one more for the order within a step.
    MOST = 3

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self._tokens: set[bytes] = set()
        #: Per service and priority, and per lane that waits: how often each other lane was served since.
        self._served: dict[Any, dict[Any, Counter[Any]]] = {}

    def check(self, node: BrokerNode) -> None:
        """Count the requests assigned since the last check, then note the clients that wait now."""
        assigned = [
            worker.request
            for worker in node.core.workers
            if worker.request is not None
            and worker.assigned_at == node.schedule.now
            and worker.token not in self._tokens
        ]
        self._tokens.update(request.worker.token for request in assigned if request.worker is not None)
        for request in assigned:
            waiting = self._served.get((request.service.name, request.priority), {})
            waiting.pop(request.lane, None)
            if request.attempts == 1:
                for lane, others in waiting.items():
                    others[request.lane] += 1
                    require(
                        others[request.lane] <= self.MOST,
                        "a client waits, another is served over and over:",
                        lane,
                    )
        present: dict[Any, dict[Any, Counter[Any]]] = {}
        for service in node.core.services.values():
            for request in service.queue if service.queue else ():
                if not request.suspect:
                    key = (service.name, request.priority)
                    earlier = self._served.get(key, {}).get(request.lane)
                    present.setdefault(key, {})[request.lane] = earlier if earlier is not None else Counter()
        self._served = present
