"""Counters, and the immutable snapshots others see of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class BrokerCounters:
    """What a broker core counts.  ``requests`` is always the sum of ``replies``,
    the values of ``ended``, and what is queued or assigned at the moment."""

    #: Requests accepted.
    requests: int = 0
    #: Requests answered: a worker's FINAL was accepted.
    replies: int = 0
    #: PARTIALs accepted.
    partials: int = 0
    #: Requests given to a worker again after another was lost.
    redeliveries: int = 0
    #: Handler failures that gmdp workers reported.
    handler_failures: int = 0
    #: Retries that joined a request still queued or running.
    joins: int = 0
    #: Requests given up after workers were lost over them.
    dead_letters: int = 0
    #: How often a client was found not to read its answers.
    slow_clients: int = 0
    #: Answers of the management interface (RFC 8).
    management: int = 0
    #: Workers registered, ever.
    registrations: int = 0
    #: Requests that ended without an answer, by reason.
    ended: dict[str, int] = field(default_factory=dict)
    #: Workers lost, by reason.
    lost_workers: dict[str, int] = field(default_factory=dict)
    #: Messages dropped, by reason.
    drops: dict[str, int] = field(default_factory=dict)
    #: Connections taken by the socket, and those of them whose handshake succeeded.
    connections_accepted: int = 0
    handshakes: int = 0
    #: Connections refused, by reason.
    refused_connections: dict[str, int] = field(default_factory=dict)

    def count(self, table: str, reason: str, number: int = 1) -> None:
        """Add to `reason` in one of the tables."""
        counts: dict[str, int] = getattr(self, table)
        counts[reason] = counts.get(reason, 0) + number


@dataclass(frozen=True)
class ServiceStatistics:
    """One service as it is now."""

    workers: int
    idle: int
    busy: int
    #: Requests that wait for a worker.
    queued: int
    #: Requests accepted and answered while this service was known.
    requests: int
    replies: int
    #: Seconds the oldest queued request has been waiting since it was accepted.
    oldest: float


@dataclass(frozen=True)
class BrokerStatistics:
    """A broker as it is now: an immutable copy."""

    #: Seconds since it started.
    uptime: float
    services: Mapping[bytes, ServiceStatistics]
    workers: int
    idle: int
    busy: int
    queued: int
    queued_bytes: int
    #: Requests a worker has at the moment.
    assigned: int
    #: Clients that do not read their answers at the moment.
    backlogs: int
    #: Connections there are, those in their handshake included; inproc is not counted.
    connections: int
    requests: int
    replies: int
    partials: int
    redeliveries: int
    handler_failures: int
    joins: int
    dead_letters: int
    slow_clients: int
    management: int
    registrations: int
    ended: Mapping[str, int]
    lost_workers: Mapping[str, int]
    drops: Mapping[str, int]
    connections_accepted: int
    handshakes: int
    refused_connections: Mapping[str, int]

    @property
    def expiries(self) -> int:
        """Requests that waited longer than their ``request_ttl``."""
        return self.ended.get("expired", 0)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, as ``mmi.statistics`` sends them; without the services."""
        return {
            key: dict(value) if isinstance(value, Mapping) else value
            for key, value in vars(self).items()
            if key != "services"
        }


@dataclass(slots=True)
class WorkerCounters:
    """What a worker counts."""

    requests: int = 0
    replies: int = 0
    partials: int = 0
    #: Handlers that failed.
    errors: int = 0
    #: Connections made after others were lost.
    reconnects: int = 0
    #: Requests whose caller was gone, or out of time, while a handler had them.
    callers_gone: int = 0
    #: Seconds handlers have run, in all.
    busy_time: float = 0.0
    #: Replies that came too late: their connection was gone.
    late_replies: int = 0
    #: Messages of the broker that were no command.
    malformed: int = 0
    #: Connections that could not be made because no broker lets this worker in.
    denied: int = 0


@dataclass(frozen=True)
class WorkerStatistics:
    """A worker as it is now: an immutable copy."""

    uptime: float
    #: Sockets open.
    sockets: int
    #: Sessions there are, registered ones and busy ones.
    sessions: int
    registered: int
    busy: int
    requests: int
    replies: int
    partials: int
    errors: int
    reconnects: int
    callers_gone: int
    busy_time: float
    late_replies: int
    malformed: int
    denied: int


@dataclass(slots=True)
class ClientCounters:
    """What a client counts.  ``requests`` is always the sum of ``replies``,
    ``timeouts``, ``cancelled``, ``errors``, and what waits or is in flight."""

    requests: int = 0
    replies: int = 0
    partials: int = 0
    timeouts: int = 0
    retries: int = 0
    #: Calls whose caller went away.
    cancelled: int = 0
    #: Calls that ended in another error.
    errors: int = 0
    #: Connections lost after they had been made.
    disconnects: int = 0
    #: Answers that came after their call was given up.
    late_replies: int = 0
    #: Messages that were no answer to a call.
    malformed: int = 0


@dataclass(frozen=True)
class ClientStatistics:
    """A client as it is now: an immutable copy."""

    #: Calls sent and not yet answered.
    in_flight: int
    #: Calls not yet sent.
    waiting: int
    #: Sockets open.
    sockets: int
    requests: int
    replies: int
    partials: int
    timeouts: int
    retries: int
    cancelled: int
    errors: int
    disconnects: int
    late_replies: int
    malformed: int


def counted(counters: BrokerCounters | WorkerCounters | ClientCounters) -> dict[str, Any]:
    """The counters as keywords of a snapshot."""
    values = ((name, getattr(counters, name)) for name in type(counters).__slots__)
    return {name: dict(value) if type(value) is dict else value for name, value in values}
