"""What a broker remembers: services, workers, requests."""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Hashable

from .fairqueue import FairQueue
from .liveness import Pulse
from .options import ServiceOptions
from .wire import Command, Dialect


class Place(enum.Enum):
    """Where an accepted request is; always in exactly one of these."""

    QUEUED = "queued"
    ASSIGNED = "assigned"
    ANSWERED = "answered"
    ENDED = "ended"


#: Every move a request can make.
MOVES: dict[Place | None, frozenset[Place]] = {
    None: frozenset({Place.QUEUED, Place.ASSIGNED}),
    Place.QUEUED: frozenset({Place.ASSIGNED, Place.ENDED}),
    Place.ASSIGNED: frozenset({Place.ANSWERED, Place.QUEUED, Place.ENDED}),
    Place.ANSWERED: frozenset(),
    Place.ENDED: frozenset(),
}


#: What a frame beyond the first of a body counts besides its bytes: a body of many
#: empty frames takes memory, too.
FRAME_COST = 64


def weight(body: list[bytes]) -> int:
    """What a body counts in ``max_queue_bytes``."""
    return sum(map(len, body)) + FRAME_COST * (len(body) - 1)


class Service:
    """A name, its workers and the requests that wait for one."""

    __slots__ = ("idle", "name", "options", "queue", "replies", "requests", "workers")

    def __init__(self, name: bytes, options: ServiceOptions) -> None:
        self.name = name
        self.options = options
        self.queue: FairQueue[Request] = FairQueue()
        #: Workers without a request, the least recently used first.
        self.idle: OrderedDict[Worker, None] = OrderedDict()
        #: All workers, idle or busy.
        self.workers = 0
        self.requests = 0
        self.replies = 0


class Request:
    """One accepted request."""

    __slots__ = (
        "abandoned",
        "accepted",
        "address",
        "attempts",
        "body",
        "dialect",
        "joined",
        "joined_size",
        "place",
        "service",
        "size",
        "streamed",
        "timer",
        "ttl_left",
    )

    def __init__(
        self, service: Service, address: tuple[bytes, ...], dialect: Dialect, body: list[bytes], now: float
    ) -> None:
        self.service = service
        #: Routing id and return address: what a reply begins with.
        self.address = address
        self.dialect = dialect
        self.body = body
        self.size = weight(body)
        self.accepted = now
        self.place: Place | None = None
        #: How often it was given to a worker.
        self.attempts = 0
        #: Seconds it may still wait in the queue.
        self.ttl_left = service.options.request_ttl
        #: True once a PARTIAL went out: it is never run again.
        self.streamed = False
        #: True if the rest of its answer is dropped: part of it was.
        self.abandoned = False
        #: PARTIALs that wait for the FINAL, for a client that gets one reply.
        self.joined: list[bytes] | None = None
        self.joined_size = 0
        self.timer: tuple[float, int] | None = None

    @property
    def lane(self) -> Hashable:
        """Whose turn it takes in a fair queue: its connection's."""
        return self.address[0]

    def move(self, place: Place) -> None:
        """Go to `place`; ValueError if the table above does not allow it."""
        if place not in MOVES[self.place]:
            raise ValueError(f"no move from {self.place} to {place}")
        self.place = place


class Worker:
    """One registered worker."""

    __slots__ = (
        "address",
        "assigned_at",
        "dialect",
        "heard_busy",
        "key",
        "pulse",
        "registered",
        "request",
        "request_head",
        "served",
        "service",
        "since",
        "timer",
        "token",
    )

    def __init__(
        self, key: Hashable, address: tuple[bytes, ...], dialect: Dialect, service: Service, now: float
    ) -> None:
        self.key = key
        self.address = address
        self.dialect = dialect
        self.service = service
        self.pulse = Pulse(now)
        self.since = now
        #: False as soon as it is lost.
        self.registered = True
        self.request: Request | None = None
        #: The prefix of the token of its present request.
        self.token = b""
        self.assigned_at = now
        #: True once it sent a HEARTBEAT in the middle of its work.
        self.heard_busy = False
        self.request_head = self.command(Command.REQUEST)
        self.served = 0
        self.timer: tuple[float, int] | None = None

    def command(self, command: Command) -> list[bytes]:
        """A message to it that has no more frames than its command."""
        return [*self.address, *self.dialect.worker(command)]
