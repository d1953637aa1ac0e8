"""Whether clients are served in turn: no client again and again while another waits."""

from __future__ import annotations

from collections import Counter
from typing import Any

from .broker import BrokerNode
from .failures import require


class Turns:
    """Whose requests were given to workers, one after the other, at one start of a broker."""

    #: How many of one client may be, while another's wait: one more than in turn, since
    #: what is given back goes first, and one for what happened within a step.
    MOST = 3

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self._seen: set[bytes] = set()
        #: Per service and priority: who waits, and how often each other was served since.
        self._served: dict[Any, dict[Any, Counter[Any]]] = {}

    def check(self, node: BrokerNode) -> None:
        """Look at what was assigned since the last time, then at who waits now."""
        given = [
            worker.request
            for worker in node.core.workers
            if worker.request is not None and worker.assigned_at == node.schedule.now and worker.token not in self._seen
        ]
        self._seen.update(request.worker.token for request in given if request.worker is not None)
        for request in given:
            waiting = self._served.get((request.service.name, request.priority), {})
            waiting.pop(request.lane, None)
            if request.attempts == 1:
                for lane, others in waiting.items():
                    others[request.lane] += 1
                    require(
                        others[request.lane] <= self.MOST, "one client is served again and again, another waits:", lane
                    )
        present: dict[Any, dict[Any, Counter[Any]]] = {}
        for service in node.core.services.values():
            for request in service.queue if service.queue else ():
                if not request.suspect:
                    key = (service.name, request.priority)
                    earlier = self._served.get(key, {}).get(request.lane)
                    present.setdefault(key, {})[request.lane] = earlier if earlier is not None else Counter()
        self._served = present
