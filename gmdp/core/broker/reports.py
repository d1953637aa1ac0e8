"""The management interface (RFC 8) and what gmdp adds to it.

==================  ====================  ====================================
service             request               reply
==================  ====================  ====================================
``mmi.service``     a service name        ``200``: it has a worker; or ``404``
``mmi.services``    a name, or empty      ``200``, JSON: the services
``mmi.workers``     a name, or empty      ``200``, JSON: the workers
``mmi.statistics``  anything              ``200``, JSON: the broker's counters
``mmi.broker``      anything              ``200``, JSON: what this broker is
``mmi.gmdp``        anything              ``200``, JSON: what it offers to gmdp
                                          peers (:mod:`~.extension`)
any other           anything              ``501``
any but mmi.gmdp    of whom the policy    ``403``; a gmdp client is told that it is
                    does not allow it     not allowed
==================  ====================  ====================================

Lists hold at most :data:`MAX_ROWS` rows; ``total`` tells how many there are.  A long
one about everything is made anew after :data:`FRESH` seconds: it costs more than a request.
Routing ids are never told.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ...protocol.extension import PROBE_SERVICE, Offer, offer_body

if TYPE_CHECKING:
    from .core import BrokerCore

FOUND = b"200"
FORBIDDEN = b"403"
NOT_FOUND = b"404"
NOT_IMPLEMENTED = b"501"

#: Rows of a list: what a reply may cost is bounded.
MAX_ROWS = 1_000
#: Bytes of a report that has cost so much that it is told again, and for how many seconds.
COSTLY = 10_000
FRESH = 0.1


@dataclass(frozen=True)
class About:
    """What a broker says of itself."""

    name: str = "gmdp"
    version: str = ""
    #: Messages its socket holds for a peer.
    hwm: int = 1_000

    @property
    def max_sessions(self) -> int:
        """Sessions a worker's connection may have: so many that a request for one of them
        always finds room, whatever else was sent and not yet read.  (ZeroMQ takes note of
        what was read half a high-water mark at a time.)"""
        return max(1, self.hwm // 2)


def text(name: bytes) -> str:
    """A service name as JSON can carry it."""
    return name.decode("utf-8", "backslashreplace")


def answer(core: BrokerCore, service: bytes, body: list[bytes], now: float) -> list[bytes]:
    """The body of the reply to a request for an ``mmi.`` service."""
    if service == b"mmi.service":
        # RFC 8: "responds with "200" (Found) if there is at least one worker
        # registered for the service, or "404" (Not found) if there are no workers".
        known = core.services.get(body[0])
        return [FOUND] if known is not None and known.workers else [NOT_FOUND]
    if service == PROBE_SERVICE:
        options = core.options
        return offer_body(
            Offer(
                options.max_in_flight,
                core.about.max_sessions,
                options.max_frames,
                options.max_frame_size,
                options.heartbeat_interval,
            )
        )
    report = _REPORTS.get(service)
    if report is None:
        # RFC 8: "Any unimplemented services in the "mmi." namespace MUST result in
        # a reply "501" (Not implemented)."
        return [NOT_IMPLEMENTED]
    only = body[0]
    made_at, told = (-math.inf, b"") if only else core.reports.get(service, (-math.inf, b""))
    if now >= made_at + FRESH:
        told = json.dumps(report(core, only, now), separators=(",", ":")).encode()
        if not only and len(told) > COSTLY:
            core.reports[service] = (now, told)
    return [FOUND, told]


def _services(core: BrokerCore, only: bytes, now: float) -> dict[str, Any]:
    chosen = [core.services[only]] if only in core.services else [] if only else core.services.values()
    shown = core.service_statistics(itertools.islice(chosen, MAX_ROWS), now)
    rows = [{"name": text(name), **asdict(service)} for name, service in shown.items()]
    return {"total": len(chosen), "services": rows}


def _workers(core: BrokerCore, only: bytes, now: float) -> dict[str, Any]:
    service = core.services.get(only)
    total = core.worker_count if not only else service.workers if service is not None else 0
    chosen = service.members if service is not None else core.workers if not only else ()
    rows = [
        {
            "service": text(worker.service.name),
            "protocol": worker.connection.dialect.name,
            "state": "idle" if worker.request is None else "busy",
            "state_seconds": None if worker.request is None else round(now - worker.assigned_at, 3),
            "registered_seconds": round(now - worker.since, 3),
            "heard_seconds": round(now - worker.connection.pulse.heard, 3),
            "served": worker.served,
        }
        for worker in itertools.islice(chosen, MAX_ROWS)
    ]
    return {"total": total, "workers": rows}


def _statistics(core: BrokerCore, only: bytes, now: float) -> dict[str, Any]:
    return core.statistics(now, with_services=False).as_dict()


def _broker(core: BrokerCore, only: bytes, now: float) -> dict[str, Any]:
    return {
        "name": core.about.name,
        "version": core.about.version,
        "state": "draining" if core.draining else "running",
        "uptime": round(now - core.started, 3),
        "protocols": ["MDP/0.1", "MDP/0.2"],
        "heartbeat_interval": core.options.heartbeat_interval,
        "liveness": core.options.liveness,
        "max_frames": core.options.max_frames,
        "max_frame_size": core.options.max_frame_size,
    }


_REPORTS: dict[bytes, Callable[[BrokerCore, bytes, float], dict[str, Any]]] = {
    b"mmi.services": _services,
    b"mmi.workers": _workers,
    b"mmi.statistics": _statistics,
    b"mmi.broker": _broker,
}
