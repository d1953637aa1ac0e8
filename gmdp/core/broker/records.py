"""What a broker remembers: services, requests, workers and their connections."""

from __future__ import annotations

import enum
import math
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Any, NamedTuple

from ...protocol import extension
from ...protocol.dialects import EMPTY, Command, Dialect
from ...protocol.extension import NORMAL_PRIORITY, Status
from ..liveness import Pulse
from ..outcomes import EndReason
from .decisions import Outgoing, Target
from .fairqueue import FairQueue
from .options import ServiceOptions
from .statistics import ServiceStatistics


class Place(enum.Enum):
    """Where an accepted request is; always in exactly one of these."""

    # Enum's own goes through the name: three moves a request cost more than minting its token.
    __hash__ = object.__hash__

    QUEUED = "queued"
    ASSIGNED = "assigned"
    ANSWERED = "answered"
    ENDED = "ended"


#: Every move a request can make.
MOVES: dict[Place | None, frozenset[Place]] = {
    None: frozenset({Place.QUEUED, Place.ASSIGNED}),
    Place.QUEUED: frozenset({Place.ASSIGNED, Place.ENDED}),
    Place.ASSIGNED: frozenset({Place.ANSWERED, Place.QUEUED, Place.ASSIGNED, Place.ENDED}),
    Place.ANSWERED: frozenset(),
    Place.ENDED: frozenset(),
}

# For what happens to each request: a member of an Enum is slow to look up in Python 3.11.
QUEUED, ASSIGNED, ANSWERED = Place.QUEUED, Place.ASSIGNED, Place.ANSWERED
_PARTIAL = Status.PARTIAL

#: What a frame beyond the first of a body counts besides its bytes: a body of many
#: empty frames takes memory, too.
FRAME_COST = 64


def charged_bytes(body: list[bytes]) -> int:
    """What a body counts in ``max_queue_bytes``."""
    if len(body) == 1:
        return len(body[0])
    return sum(map(len, body)) + FRAME_COST * (len(body) - 1)


class Service:
    """A name, its workers and the requests that wait for one."""

    __slots__ = (
        "failing_without_worker",
        "idle",
        "members",
        "name",
        "opener",
        "options",
        "queue",
        "replies",
        "requests",
    )

    def __init__(self, name: bytes, options: ServiceOptions, opener: str) -> None:
        self.name = name
        #: The user who was the first to name it; empty if that is not known.
        self.opener = opener
        self.options = options
        self.queue: FairQueue[Request] = FairQueue()
        #: Workers without a request, the least recently used first.
        self.idle: OrderedDict[Worker, None] = OrderedDict()
        #: All workers, idle or busy.
        self.members: dict[Worker, None] = {}
        #: Queued requests that are to fail when there is no worker.
        self.failing_without_worker = 0
        self.requests = 0
        self.replies = 0

    @property
    def workers(self) -> int:
        """How many workers it has."""
        return len(self.members)

    def statistics(self, now: float) -> ServiceStatistics:
        """The service as it is now."""
        return ServiceStatistics(
            workers=self.workers,
            idle=len(self.idle),
            busy=self.workers - len(self.idle),
            queued=len(self.queue),
            requests=self.requests,
            replies=self.replies,
            oldest=max((now - request.accepted_at for request in self.queue.heads()), default=0.0),
        )


class Client:
    """One connection from which requests come; known while there is something of it."""

    __slots__ = ("account", "backlog", "bytes", "gone", "key", "open", "user")

    def __init__(self, key: Hashable, user: str, account: Client | None = None) -> None:
        #: Its routing id; or the user, for a user's account.
        self.key = key
        self.user = user
        #: Open requests; in a user's account, its connections.
        self.open = 0
        #: Where its bytes are counted, if not here: a user's account.
        self.account = account
        self.bytes = 0
        #: What it has not read yet.
        self.backlog: Backlog | None = None
        #: True once its connection is closed, or another user spoke under its routing id.
        self.gone = False


class Backlog:
    """Messages that wait until a client reads."""

    __slots__ = ("blocked", "client", "delay", "returned", "timer", "tried", "waiting")

    def __init__(self, client: Client, delay: float) -> None:
        self.client = client
        self.waiting: deque[Outgoing] = deque()
        #: Those that were about to be sent and have to go back, in order.
        self.returned: list[Outgoing] = []
        #: How many were tried the last time.
        self.tried = 0
        #: True from a message that found no room until the next try.
        self.blocked = False
        self.delay = delay
        self.timer: list[Any] | None = None


class CallTerms(NamedTuple):
    """What a gmdp client says besides."""

    #: The request's call frame.
    frame: bytes
    #: User and request id.
    identity: tuple[str, bytes] | None
    #: True if it is to fail when there is no worker.
    fail_without_worker: bool
    traceparent: bytes
    #: The client's try that was taken up; later ones joined it.
    joined_try: int


#: What strict clients say besides.
STRICT = CallTerms(EMPTY, None, False, EMPTY, 0)


class Request(Target):
    """One accepted request."""

    __slots__ = (
        "abandon_reason",
        "accepted_at",
        "address",
        "attempts",
        "body",
        "client",
        "deadline",
        "dialect",
        "joined_bytes",
        "joined_parts",
        "lane",
        "number",
        "partial_sent",
        "place",
        "priority",
        "queued_at",
        "service",
        "size",
        "suspect",
        "terms",
        "timer",
        "ttl_left",
        "waiting",
        "worker",
    )

    #: Since when it is in the queue, if it is.
    queued_at: float
    #: How many requests the broker had accepted with it.
    number: int

    def __init__(
        self,
        service: Service,
        address: tuple[bytes, ...],
        dialect: Dialect,
        body: list[bytes],
        lane: Hashable,
        now: float,
    ) -> None:
        self.service = service
        #: Routing id and return address: what a reply begins with.  Empty: nobody waits.
        self.address = address
        self.dialect = dialect
        self.body = body
        self.size = charged_bytes(body)
        #: Whose turn it takes in a fair queue: the user's (a str) if there is one, else
        #: the connection's.
        self.lane = lane
        self.accepted_at = now
        self.place: Place | None = None
        #: Where it counts; None once the broker is done with it.
        self.client: Client | None = None
        #: Who has it, while it is assigned.
        self.worker: Worker | None = None
        #: How often it was given to a worker.
        self.attempts = 0
        self.priority = NORMAL_PRIORITY
        #: True once a worker was lost over it.
        self.suspect = False
        #: True while it stands in its service's queue.
        self.waiting = False
        #: Seconds it may still wait in the queue: at `queued_at` if it does.
        self.ttl_left = service.options.request_ttl
        #: Until when its caller waits.
        self.deadline = math.inf
        #: True once a PARTIAL went out: it is never run again.
        self.partial_sent = False
        #: Why the rest of its answer is dropped, if it is: nobody waits, or part of it was lost.
        self.abandon_reason: EndReason | None = None
        #: PARTIALs that wait for the FINAL, for a client that gets one reply.
        self.joined_parts: list[bytes] | None = None
        self.joined_bytes = 0
        self.timer: list[Any] | None = None
        self.terms = STRICT

    @property
    def user(self) -> str:
        """The user it came from; empty if that is not known."""
        return self.lane if isinstance(self.lane, str) else ""

    def answer_frames(self, body: list[bytes], status: Status) -> list[bytes]:
        """The message that carries an answer, a part of one, or the status that says why there is none."""
        dialect, terms = self.dialect, self.terms
        head = dialect.partial_head if status is _PARTIAL else dialect.final_head
        if terms.frame:
            frame = extension.answer_frame(terms.frame, status, terms.joined_try, self.attempts)
            return [*self.address, frame, *head, self.service.name, *body]
        if dialect.reply_names_service:
            return [*self.address, *head, self.service.name, *body]
        return [*self.address, *head, *body]

    def move(self, place: Place) -> None:
        """Go to `place`; ValueError if the table above does not allow it."""
        if place not in MOVES[self.place]:
            raise ValueError(f"no move from {self.place} to {place}")
        self.place = place


class Connection(Target):
    """A worker's connection.  A strict one has one worker; an extended one has a
    worker for each session, and may have none."""

    __slots__ = (
        "address",
        "base_dialect",
        "dialect",
        "heartbeat_while_busy",
        "highest_session",
        "key",
        "pulse",
        "suspect",
        "timer",
        "user",
        "workers",
    )

    def __init__(
        self, key: Hashable, address: tuple[bytes, ...], dialect: Dialect, base_dialect: Dialect, now: float, user: str
    ) -> None:
        self.key = key
        self.address = address
        #: Whose it is; empty if that is not known.
        self.user = user
        self.dialect = dialect
        #: The dialect of messages that are the connection's and no session's.
        self.base_dialect = base_dialect
        #: By session frame; a strict worker's is empty.
        self.workers: dict[bytes, Worker] = {}
        self.pulse = Pulse(now)
        #: The suspect one of its workers has, if one has.
        self.suspect: Request | None = None
        #: The highest session number it has used.
        self.highest_session = 0
        #: True once a HEARTBEAT came in the middle of a strict worker's work.
        self.heartbeat_while_busy = False
        self.timer: list[Any] | None = None

    def command(self, command: Command) -> list[bytes]:
        """A message to the connection itself."""
        return [*self.address, *self.base_dialect.worker(command)]


class Worker(Target):
    """One registered worker, by the RFCs: it has one service and one request at a time."""

    __slots__ = (
        "assigned_at",
        "connection",
        "head",
        "registered",
        "registered_at",
        "request",
        "request_head",
        "served",
        "service",
        "session",
        "token",
    )

    def __init__(self, connection: Connection, session: bytes, service: Service, now: float) -> None:
        self.connection = connection
        self.session = session
        self.service = service
        self.registered_at = now
        #: False as soon as it is lost.
        self.registered = True
        self.request: Request | None = None
        #: The prefix of the token of its present request.
        self.token = EMPTY
        self.assigned_at = now
        self.head = (*connection.address, session) if session else connection.address
        self.request_head = self.command(Command.REQUEST)
        self.served = 0

    def command(self, command: Command) -> list[bytes]:
        """A message to it that has no more frames than its command."""
        return [*self.head, *self.connection.dialect.worker(command)]
