"""A broker's counters, and the immutable snapshots of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..outcomes import EndReason
from ..snapshots import Measure, counter, gauge, snapshot_of
from .reasons import DropReason, LossReason


@dataclass(slots=True)
class BrokerCounters:
    """What a broker's core counts.

    ``requests`` is always the sum of ``replies``, the values of ``ended``, and the requests
    that are queued or assigned at the moment.
    """

    requests: int = field(default=0, metadata=counter("Requests accepted.", "requests"))
    replies: int = field(default=0, metadata=counter("Requests answered: a worker's FINAL was accepted.", "requests"))
    partials: int = field(default=0, metadata=counter("PARTIALs accepted.", "messages"))
    redeliveries: int = field(
        default=0, metadata=counter("Requests given to a worker again after another was lost.", "requests")
    )
    handler_failures: int = field(
        default=0, metadata=counter("Handler failures that gmdp workers reported.", "requests")
    )
    joins: int = field(
        default=0, metadata=counter("Retries that joined a request still queued or running.", "requests")
    )
    dead_letters: int = field(
        default=0, metadata=counter("Requests given up after workers were lost over them.", "requests")
    )
    slow_clients: int = field(
        default=0, metadata=counter("How often a client was found not to read its answers.", "times")
    )
    stalled_streams: int = field(
        default=0, metadata=counter("Streams ended because their reader took nothing for too long.", "streams")
    )
    management: int = field(default=0, metadata=counter("Answers of the management interface (RFC 8).", "requests"))
    registrations: int = field(default=0, metadata=counter("Workers registered, ever.", "workers"))
    ended: dict[str, int] = field(
        default_factory=dict,
        metadata=counter("Requests that ended unanswered, by reason.", "requests", "reason"),
    )
    lost_workers: dict[str, int] = field(
        default_factory=dict, metadata=counter("Workers lost, by reason.", "workers", "reason")
    )
    drops: dict[str, int] = field(
        default_factory=dict, metadata=counter("Messages dropped, by reason.", "messages", "reason")
    )
    connections_accepted: int = field(
        default=0, metadata=counter("Connections the socket has accepted.", "connections")
    )
    handshakes: int = field(default=0, metadata=counter("Connections whose handshake succeeded.", "connections"))
    refused_connections: dict[str, int] = field(
        default_factory=dict, metadata=counter("Connections refused, by reason.", "connections", "reason")
    )

    def count_end(self, reason: EndReason) -> None:
        """Count a request that ended without an answer."""
        table, key = self.ended, reason._value_  # `value` is a property, which a flood would pay for twice
        table[key] = table.get(key, 0) + 1

    def count_lost(self, reason: LossReason) -> None:
        """Count a lost worker."""
        table, key = self.lost_workers, reason._value_
        table[key] = table.get(key, 0) + 1

    def count_drop(self, reason: DropReason) -> None:
        """Count a dropped message, or a refused newcomer."""
        table, key = self.drops, reason._value_
        table[key] = table.get(key, 0) + 1

    def count_refused_connections(self, reason: str, number: int = 1) -> None:
        """Count connections that the broker's gate or socket refused."""
        self.refused_connections[reason] = self.refused_connections.get(reason, 0) + number


@dataclass(frozen=True)
class ServiceStatistics:
    """One service as it is now."""

    workers: int = field(metadata=gauge("Workers registered for the service.", "workers"))
    idle: int = field(metadata=gauge("Workers without a request that may get one.", "workers"))
    mute: int = field(
        metadata=gauge("Workers without a request that say nothing, and get none until they do.", "workers")
    )
    busy: int = field(metadata=gauge("Workers with a request.", "workers"))
    queued: int = field(metadata=gauge("Requests that wait for a worker.", "requests"))
    requests: int = field(metadata=counter("Requests accepted while the service was known.", "requests"))
    replies: int = field(metadata=counter("Requests answered while the service was known.", "requests"))
    oldest: float = field(metadata=gauge("Age of the oldest queued request, since it was accepted.", "seconds"))


@snapshot_of(BrokerCounters)
@dataclass(frozen=True)
class BrokerStatistics:
    """A broker as it is now: an immutable copy."""

    #: The declaration of each field.
    measures: ClassVar[Mapping[str, Measure]]

    uptime: float = field(metadata=gauge("Time since the broker started.", "seconds"))
    services: Mapping[bytes, ServiceStatistics] = field(metadata=gauge("The known services.", "", "service"))
    workers: int = field(metadata=gauge("Workers registered.", "workers"))
    idle: int = field(metadata=gauge("Workers without a request, mute ones included.", "workers"))
    busy: int = field(metadata=gauge("Workers with a request.", "workers"))
    queued: int = field(metadata=gauge("Requests that wait for a worker.", "requests"))
    queued_bytes: int = field(metadata=gauge("Bytes that count in max_queue_bytes.", "bytes"))
    assigned: int = field(metadata=gauge("Requests that a worker has.", "requests"))
    backlogs: int = field(metadata=gauge("Clients that do not read their answers.", "clients"))
    connections: int = field(
        metadata=gauge("Connections, those in their handshake included; inproc is not counted.", "connections")
    )
    requests: int
    replies: int
    partials: int
    redeliveries: int
    handler_failures: int
    joins: int
    dead_letters: int
    slow_clients: int
    stalled_streams: int
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
        """The numbers as plain types, as ``mmi.statistics`` sends them; without the services."""
        values = {name: getattr(self, name) for name in self.measures if name != "services"}
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
