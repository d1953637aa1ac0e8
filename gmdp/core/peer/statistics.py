"""The counters of workers and clients, and the immutable snapshots of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from ..snapshots import Measure, counter, gauge, snapshot_of


@dataclass(slots=True)
class WorkerCounters:
    """What a worker counts."""

    requests: int = field(default=0, metadata=counter("Requests received.", "requests"))
    replies: int = field(default=0, metadata=counter("Requests answered.", "requests"))
    partials: int = field(default=0, metadata=counter("Parts of answers before their last.", "parts"))
    errors: int = field(default=0, metadata=counter("Handlers that failed.", "requests"))
    reconnects: int = field(default=0, metadata=counter("Connections made after others were lost.", "connections"))
    callers_gone: int = field(
        default=0,
        metadata=counter("Requests whose caller had gone, or ran out of time, while a handler had them.", "requests"),
    )
    busy_time: float = field(default=0.0, metadata=counter("Time handlers have run, in all.", "seconds"))
    late_replies: int = field(
        default=0, metadata=counter("Replies that came too late: their session had lost its connection.", "requests")
    )
    malformed: int = field(default=0, metadata=counter("Messages of the broker that were no command.", "messages"))
    denied: int = field(
        default=0,
        metadata=counter("Connections that could not be made because no broker lets this worker in.", "connections"),
    )


@snapshot_of(WorkerCounters)
@dataclass(frozen=True)
class WorkerStatistics:
    """A worker as it is now: an immutable copy."""

    #: The declaration of each field.
    measures: ClassVar[Mapping[str, Measure]]

    uptime: float = field(metadata=gauge("Time since the worker started.", "seconds"))
    sockets: int = field(metadata=gauge("Sockets open.", "sockets"))
    sessions: int = field(metadata=gauge("Sessions, registered or not.", "sessions"))
    registered: int = field(metadata=gauge("Sessions registered with a broker.", "sessions"))
    busy: int = field(metadata=gauge("Sessions whose handler runs.", "sessions"))
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
    """What a client counts.

    ``requests`` is always the sum of ``replies``, ``timeouts``, ``cancelled``, ``errors``,
    and the calls that wait or are in flight.
    """

    requests: int = field(default=0, metadata=counter("Calls begun.", "calls"))
    replies: int = field(default=0, metadata=counter("Calls answered.", "calls"))
    partials: int = field(default=0, metadata=counter("Parts of answers before their last.", "parts"))
    timeouts: int = field(default=0, metadata=counter("Calls whose time was up.", "calls"))
    retries: int = field(default=0, metadata=counter("Further tries of calls.", "tries"))
    cancelled: int = field(default=0, metadata=counter("Calls whose caller went away.", "calls"))
    errors: int = field(default=0, metadata=counter("Calls that ended in another error.", "calls"))
    disconnects: int = field(default=0, metadata=counter("Connections lost after they had been made.", "connections"))
    late_replies: int = field(
        default=0, metadata=counter("Answers that came after their call was given up.", "messages")
    )
    malformed: int = field(default=0, metadata=counter("Messages that were no answer to a call.", "messages"))


@snapshot_of(ClientCounters)
@dataclass(frozen=True)
class ClientStatistics:
    """A client as it is now: an immutable copy."""

    #: The declaration of each field.
    measures: ClassVar[Mapping[str, Measure]]

    in_flight: int = field(metadata=gauge("Calls sent and not yet answered.", "calls"))
    waiting: int = field(metadata=gauge("Calls not yet sent.", "calls"))
    sockets: int = field(metadata=gauge("Sockets open.", "sockets"))
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
