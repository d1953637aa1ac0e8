"""The management interface (RFC 8) and what gmdp adds to it.

==================  ====================  ====================================
service             request               reply
==================  ====================  ====================================
``mmi.service``     a service name        ``200``: it has a worker; or ``404``
``mmi.services``    a name, or empty      ``200``, JSON: the services
``mmi.workers``     a name, or empty      ``200``, JSON: the workers
``mmi.statistics``  anything              ``200``, JSON: the broker's counters
``mmi.broker``      anything              ``200``, JSON: its name, state and limits
``mmi.gmdp``        JSON: what a gmdp     ``200``, JSON: what the broker offers to
                    peer speaks; or       gmdp peers (:mod:`gmdp.protocol.extension`)
                    anything
any other           anything              ``501``
any of the JSON     beyond the asker's    ``503``; a gmdp client hears the status
                    :data:`REPORT_RATE`   *overloaded*
any but mmi.gmdp    from a user whom the  ``403``; a gmdp client hears the status
                    policy does not       *not allowed*
                    allow to inspect it
==================  ====================  ====================================

A list holds at most :data:`MAX_ROWS` rows; ``total`` says how many there are.  A report costs what
its rows cost, and the clients that were looked at for it, and is charged to its asker: its user, or
its connection.  A long report about everything is made anew only after :data:`FRESH` seconds.  No
report contains a routing id.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ...protocol.extension import PROBE_SERVICE, SUPPORTED, VERSION, Feature, Offer, offer_body
from ...protocol.text import plain_name
from ..rates import Rates
from .options import BrokerOptions
from .records import Service, Worker
from .statistics import BrokerStatistics

FOUND = b"200"
FORBIDDEN = b"403"
NOT_FOUND = b"404"
NOT_IMPLEMENTED = b"501"
OVERLOADED = b"503"

#: The most rows of a list, which bound the cost of a reply.
MAX_ROWS = 1_000
#: A report of more bytes than this is kept, and sent again for FRESH seconds.
COSTLY = 10_000
FRESH = 0.1
#: Rows a second that one asker may have in its reports.
REPORT_RATE = 10_000.0
#: The cost of a report besides its rows, in rows.
REPORT_COST = 10
#: So many clients that wait for a service cost as much as a row.
CLIENTS_PER_ROW = 10


@dataclass(frozen=True)
class About:
    """What a broker says about itself."""

    name: str = "gmdp"
    version: str = ""
    #: Messages its socket holds for a peer.
    hwm: int = 1_000
    #: The version of gmdp's extension that it speaks, and the features; version 1 has none.
    extension: int = VERSION
    features: int = SUPPORTED

    @property
    def max_sessions(self) -> int:
        """Sessions that a worker's connection may have.

        So few that the socket always has room for a request to each of them, however much was sent
        and not read before: ZeroMQ notices reads in steps of half a high-water mark.
        """
        return max(1, self.hwm // 2)


class BrokerView(Protocol):
    """What reports read of a broker's core."""

    @property
    def options(self) -> BrokerOptions:
        """The options in force."""

    @property
    def about(self) -> About:
        """What the broker says about itself."""

    @property
    def started(self) -> float:
        """When the broker started (monotonic seconds)."""

    @property
    def draining(self) -> bool:
        """True while the broker takes no new work."""

    @property
    def services(self) -> Mapping[bytes, Service]:
        """The known services, by name."""

    @property
    def workers(self) -> Iterable[Worker]:
        """The workers that are registered."""

    @property
    def worker_count(self) -> int:
        """How many workers are registered."""

    def statistics(self, now: float, with_services: bool = True) -> BrokerStatistics:
        """All counters and gauges."""


class Reports:
    """Answers for the ``mmi.`` services."""

    def __init__(self, view: BrokerView) -> None:
        self._view = view
        #: The features that the broker offers.
        self.features = view.about.features if view.about.extension > 1 else 0
        #: The costly reports made a moment ago, by service: (when, JSON).
        self._recent: dict[bytes, tuple[float, bytes]] = {}
        #: The rows that each asker may still have.
        self._rates = Rates(REPORT_RATE)

    def answer(self, service: bytes, body: list[bytes], now: float, asker: Hashable) -> list[bytes]:
        """The body of the reply to a request of `asker` for an ``mmi.`` service."""
        view = self._view
        if service == b"mmi.service":
            # RFC 8: "responds with "200" (Found) if there is at least one worker
            # registered for the service, or "404" (Not found) if there are no workers".
            found = view.services.get(body[0])
            return [FOUND] if found is not None and found.workers else [NOT_FOUND]
        if service == PROBE_SERVICE:
            return self.offer()
        report = _REPORTS.get(service)
        if report is None:
            # RFC 8: "Any unimplemented services in the "mmi." namespace MUST result in
            # a reply "501" (Not implemented)."
            return [NOT_IMPLEMENTED]
        if not self._rates.take(asker, now, REPORT_COST):
            return [OVERLOADED]
        name = body[0]
        if not name and service in self._recent:
            made_at, encoded = self._recent[service]
            if now < made_at + FRESH:
                return [FOUND, encoded]
        made, cost = report(view, name, now)
        self._rates.charge(asker, now, cost)
        encoded = json.dumps(made, separators=(",", ":")).encode()
        if not name and len(encoded) > COSTLY:
            self._recent[service] = (now, encoded)
        return [FOUND, encoded]

    def offer(self) -> list[bytes]:
        """The body of the answer to a probe."""
        view = self._view
        options = view.options
        return offer_body(
            Offer(
                options.max_in_flight,
                view.about.max_sessions,
                options.max_frames,
                options.max_frame_size,
                options.heartbeat_interval,
                view.about.extension,
                self.features,
                leaving=view.draining and bool(self.features & Feature.LEAVING),
                stream_stall_timeout=options.stream_stall_timeout,
            )
        )


def _services(view: BrokerView, name: bytes, now: float) -> tuple[dict[str, Any], int]:
    """The service `name`, or all of them.  The oldest request of each is looked for among its clients."""
    chosen: Collection[Service] = view.services.values()
    if name:
        chosen = [view.services[name]] if name in view.services else []
    shown = list(itertools.islice(chosen, MAX_ROWS))
    rows = [{"name": plain_name(service.name), **vars(service.statistics(now))} for service in shown]
    clients = sum(service.queue.lane_count for service in shown)
    return {"total": len(chosen), "services": rows}, len(rows) + clients // CLIENTS_PER_ROW


def _workers(view: BrokerView, name: bytes, now: float) -> tuple[dict[str, Any], int]:
    """The workers of the service `name`, or all of them."""
    service = view.services.get(name)
    total = view.worker_count if not name else service.workers if service is not None else 0
    chosen = service.members if service is not None else view.workers if not name else ()
    rows = [
        {
            "service": plain_name(worker.service.name),
            "protocol": worker.connection.dialect.name,
            "state": state,
            "state_seconds": round(now - since, 3),
            "registered_seconds": round(now - worker.registered_at, 3),
            "heard_seconds": round(now - worker.connection.pulse.heard_at, 3),
            "served": worker.replies,
        }
        for worker in itertools.islice(chosen, MAX_ROWS)
        for state, since in [_state_of(worker)]
    ]
    return {"total": total, "workers": rows}, len(rows)


def _state_of(worker: Worker) -> tuple[str, float]:
    """The state of a worker, and since when."""
    if worker.request is not None:
        return "busy", worker.assigned_at
    service = worker.service
    return ("mute", service.mute[worker]) if worker in service.mute else ("idle", service.idle[worker])


def _statistics(view: BrokerView, name: bytes, now: float) -> tuple[dict[str, Any], int]:
    return view.statistics(now, with_services=False).as_dict(), 0


def _broker(view: BrokerView, name: bytes, now: float) -> tuple[dict[str, Any], int]:
    about = {
        "name": view.about.name,
        "version": view.about.version,
        "state": "draining" if view.draining else "running",
        "uptime": round(now - view.started, 3),
        "protocols": ["MDP/0.1", "MDP/0.2"],
        "heartbeat_interval": view.options.heartbeat_interval,
        "liveness": view.options.liveness,
        "max_frames": view.options.max_frames,
        "max_frame_size": view.options.max_frame_size,
    }
    return about, 0


#: What makes each report: the report, and what it costs in rows beside REPORT_COST.
_REPORTS: dict[bytes, Callable[[BrokerView, bytes, float], tuple[dict[str, Any], int]]] = {
    b"mmi.services": _services,
    b"mmi.workers": _workers,
    b"mmi.statistics": _statistics,
    b"mmi.broker": _broker,
}
