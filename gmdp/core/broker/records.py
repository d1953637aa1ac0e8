"""What a broker remembers: services, requests, workers and their connections."""

from __future__ import annotations

import enum
import math
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Any, NamedTuple

from ...protocol import extension, token
from ...protocol.dialects import EMPTY, Command, Dialect
from ...protocol.extension import INITIAL_CREDIT, NORMAL_PRIORITY, Status
from ...protocol.token import TYPED_FAILURES
from ..liveness import Pulse
from ..outcomes import EndReason
from .decisions import Outgoing, Target
from .fairqueue import FairQueue
from .options import ServiceOptions
from .statistics import ServiceStatistics


class Place(enum.Enum):
    """Where an accepted request is; always in exactly one place."""

    # Enum's own hash goes through the name: a request's three moves would cost more than its token.
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

# Bound once, since each request needs them: in Python 3.11 a member of an Enum is slow to look up.
QUEUED, ASSIGNED, ANSWERED = Place.QUEUED, Place.ASSIGNED, Place.ANSWERED
_PARTIAL = Status.PARTIAL
_BEGUN = int(extension.Feature.BEGUN)  # an IntFlag's own operators are Python functions

#: Bytes that each request counts in addition to its frames.  Measured with CPython 3.11, an open
#: request takes 640 bytes if its client is strict, and 1,000 if its client speaks the extension.
REQUEST_COST = 1_000
#: Bytes that each frame of a return address, and each frame of a body beyond the first, counts in
#: addition to its own: even an empty frame takes memory.
FRAME_COST = 64
#: Seconds for which the age of a service's oldest request is believed.
OLDEST_FRESH = 0.1


def charged_bytes(body: list[bytes]) -> int:
    """How many bytes a body counts in ``max_queue_bytes``."""
    if len(body) == 1:
        return len(body[0])
    return sum(map(len, body)) + FRAME_COST * (len(body) - 1)


def envelope_bytes(address: tuple[bytes, ...]) -> int:
    """How many bytes a request's address counts; its routing id counts none beyond REQUEST_COST."""
    return sum(map(len, address[1:])) + FRAME_COST * (len(address) - 1) if len(address) > 1 else 0


class Service:
    """A name, its workers and the requests that wait for one."""

    __slots__ = (
        "_oldest_at",
        "_oldest_until",
        "failing_without_worker",
        "idle",
        "members",
        "mute",
        "name",
        "opener",
        "options",
        "queue",
        "replies",
        "requests",
        "stated_ttl",
    )

    def __init__(self, name: bytes, options: ServiceOptions, opener: str) -> None:
        self.name = name
        #: The user who was the first to name the service; empty if no user is known.
        self.opener = opener
        self.options = options
        #: The ``request_ttl`` of requests whose callers state how long they wait.
        self.stated_ttl = options.request_ttl
        self.queue: FairQueue[Request] = FairQueue()
        #: Workers without a request that may get one, the least recently used first, and since when.
        self.idle: OrderedDict[Worker, float] = OrderedDict()
        #: Workers without a request whose connections are mute, and since when: they get none.
        self.mute: dict[Worker, float] = {}
        #: All workers, idle, mute or busy.
        self.members: dict[Worker, None] = {}
        #: How many queued requests are to fail when no worker is left.
        self.failing_without_worker = 0
        self.requests = 0
        self.replies = 0
        #: When the oldest queued request was accepted, and until when that is believed.
        self._oldest_at, self._oldest_until = math.inf, 0.0

    @property
    def workers(self) -> int:
        """How many workers the service has."""
        return len(self.members)

    def statistics(self, now: float) -> ServiceStatistics:
        """The service as it is now; the age of its oldest request may be :data:`OLDEST_FRESH` seconds old."""
        if not self.queue.length:
            self._oldest_at, self._oldest_until = math.inf, 0.0
        elif now >= self._oldest_until:
            # Every client that waits is looked at: not for each report.
            self._oldest_at = min((request.accepted_at for request in self.queue.heads()), default=math.inf)
            self._oldest_until = now + OLDEST_FRESH
        return ServiceStatistics(
            workers=self.workers,
            idle=len(self.idle),
            mute=len(self.mute),
            busy=self.workers - len(self.idle) - len(self.mute),
            queued=len(self.queue),
            requests=self.requests,
            replies=self.replies,
            oldest=max(0.0, now - self._oldest_at),
        )


class Client:
    """One connection from which requests come; known while it has open requests or a backlog."""

    __slots__ = ("account", "backlog", "bytes", "gone", "key", "open", "queued", "user", "waits")

    def __init__(self, key: Hashable, user: str, account: Client | None = None) -> None:
        #: The connection's routing id; the user, for a user's account.
        self.key = key
        self.user = user
        #: How many requests are open; in a user's account, how many connections.
        self.open = 0
        #: How many of them wait for a worker.
        self.queued = 0
        #: The user's account, where the bytes are counted; None: they are counted here.
        self.account = account
        self.bytes = 0
        #: The messages that wait until the client reads; None: the client reads.
        self.backlog: Backlog | None = None
        #: True once the connection is closed, or another user spoke under its routing id.
        self.gone = False
        #: True once it had open requests at the end of a heartbeat interval.
        self.waits = False


class Backlog:
    """One client's messages that wait until the client reads."""

    __slots__ = ("blocked", "client", "delay", "front", "last_batch", "timer", "waiting")

    def __init__(self, client: Client, delay: float) -> None:
        self.client = client
        self.waiting: deque[Outgoing] = deque()
        #: Messages that were about to be sent and go back in front of `waiting`, in order.
        self.front: list[Outgoing] = []
        #: How many messages the last try took from the backlog.
        self.last_batch = 0
        #: True from a message that found no room until the next try.
        self.blocked = False
        #: Seconds until the next try.
        self.delay = delay
        self.timer: list[Any] | None = None


class CallTerms(NamedTuple):
    """What a gmdp client says besides the RFC's own frames."""

    #: The request's call frame.
    frame: bytes
    #: User and request id.
    identity: tuple[str, bytes] | None
    #: True if the request is to fail when no worker is registered.
    fail_without_worker: bool
    traceparent: bytes
    #: The client's try that the broker accepted; later tries joined it.
    joined_try: int
    #: The flags of its tokens, as far as the worker understands them.
    token_flags: int = TYPED_FAILURES


#: The terms of strict clients' requests.
STRICT = CallTerms(EMPTY, None, False, EMPTY, 0)


class Flow:
    """How much of a stream's answer has been sent, and how much may be; sums of weights of parts."""

    __slots__ = ("granted", "passed_on", "sent")

    def __init__(self) -> None:
        #: The credit that the reader has granted, and the part of it that the worker knows.
        self.granted = self.passed_on = INITIAL_CREDIT
        #: The weight of the parts that the worker has sent.
        self.sent = 0


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
        "flow",
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

    #: When the request last joined the queue.
    queued_at: float
    #: The request's number among those that the broker has accepted.
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
        #: Routing id and return address, with which a reply begins; empty for the broker's own requests.
        self.address = address
        self.dialect = dialect
        self.body = body
        #: Bytes that it counts in ``max_queue_bytes``, the parts of its answer excepted.
        self.size = REQUEST_COST + charged_bytes(body)
        #: The key of its lane in the fair queue: its user (a str) if there is one, else its
        #: connection's routing id.
        self.lane = lane
        self.accepted_at = now
        self.place: Place | None = None
        #: The client on whose account the request counts; None once the broker is done with it.
        self.client: Client | None = None
        #: The worker that has it, while it is assigned.
        self.worker: Worker | None = None
        #: How often it was given to a worker.
        self.attempts = 0
        self.priority = NORMAL_PRIORITY
        #: True once a worker was lost over it.
        self.suspect = False
        #: How many requests waited when it joined its service's queue, itself included; 0 while it stands in none.
        self.waiting = 0
        #: Seconds it may still wait in the queue, counted from `queued_at` while it waits.
        self.ttl_left = service.options.request_ttl
        #: When its caller stops waiting (monotonic seconds).
        self.deadline = math.inf
        #: True once a PARTIAL went out: the request is never run again.
        self.partial_sent = False
        #: Why the rest of the answer is dropped; None: it is not.
        self.abandon_reason: EndReason | None = None
        #: PARTIALs that wait for the FINAL, for a client that gets one reply.
        self.joined_parts: list[bytes] | None = None
        self.joined_bytes = 0
        #: Once a part of the answer came for a caller that grants credits, from a worker that heeds them.
        self.flow: Flow | None = None
        self.timer: list[Any] | None = None
        self.terms = STRICT

    @property
    def user(self) -> str:
        """The user who sent the request; empty if no user is known."""
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
    """A worker's connection.

    A strict connection has one worker.  An extended one has a worker for each session, and may
    have none.
    """

    __slots__ = (
        "address",
        "base_dialect",
        "begun",
        "dialect",
        "features",
        "heartbeat_while_busy",
        "highest_session",
        "is_direct",
        "key",
        "mute",
        "probes",
        "pulse",
        "registered",
        "suspect",
        "timer",
        "token_flags",
        "unreachable_since",
        "user",
        "workers",
    )

    def __init__(
        self, key: Hashable, address: tuple[bytes, ...], dialect: Dialect, base_dialect: Dialect, now: float, user: str
    ) -> None:
        self.key = key
        self.address = address
        #: The user of the connection; empty if no user is known.
        self.user = user
        self.dialect = dialect
        #: The dialect of messages that concern the connection itself and none of its sessions.
        self.base_dialect = base_dialect
        #: The :class:`~gmdp.protocol.extension.Feature` flags that it has named; 0 in version 1.
        self.features = 0
        #: By session frame; the frame of a strict connection's one worker is empty.
        self.workers: dict[bytes, Worker] = {}
        self.pulse = Pulse(now)
        #: True until the connection is lost.
        self.registered = True
        #: True if the connection leads to the peer itself.  Behind a proxy, ZMTP heartbeats end at the proxy.
        self.is_direct = len(address) == 1
        #: True while the peer is mute (:mod:`gmdp.core.liveness`).
        self.mute = False
        #: By session number, in a tuple: how many assignments the broker had made when the peer last said that the
        #: session's request begins.
        self.begun: dict[tuple[int], int] = {}
        #: How often the mute peer was sent a HEARTBEAT since another connection was closed.
        self.probes = 0
        #: The suspect that one of its workers has; None: none has.
        self.suspect: Request | None = None
        #: The highest session number that was used on it.
        self.highest_session = 0
        #: True once a strict worker has sent a HEARTBEAT while it worked.
        self.heartbeat_while_busy = False
        self.timer: list[Any] | None = None
        #: The flags of tokens that it understands.
        self.token_flags = TYPED_FAILURES
        #: When sending to it first failed; infinity: it has not.
        self.unreachable_since = math.inf

    def stands(self) -> bool:
        """Return True if it is registered."""
        return self.registered

    def first_assignment(self) -> int:
        """Return the number of what it was given first, of all that it has; 0 if it has nothing."""
        tokens = (worker.token for worker in self.workers.values() if worker.request is not None)
        return min(map(token.assignment_number, tokens), default=0)

    def command_frames(self, command: Command) -> list[bytes]:
        """The frames of a command that concerns the connection itself."""
        return [*self.address, *self.base_dialect.worker_command(command)]


class Worker(Target):
    """One registered worker, as the RFCs know it: it has one service, and one request at a time."""

    __slots__ = (
        "assigned_at",
        "connection",
        "head",
        "registered",
        "registered_at",
        "replies",
        "request",
        "request_head",
        "service",
        "session",
        "token",
    )

    def __init__(self, connection: Connection, session: bytes, service: Service, now: float) -> None:
        self.connection = connection
        self.session = session
        self.service = service
        self.registered_at = now
        #: False as soon as the worker is lost.
        self.registered = True
        self.request: Request | None = None
        #: The prefix of the token of its present request; empty while it is idle.
        self.token = EMPTY
        self.assigned_at = now
        self.head = (*connection.address, session) if session else connection.address
        self.request_head = self.command_frames(Command.REQUEST)
        self.replies = 0

    def stands(self) -> bool:
        """Return True if it is registered."""
        return self.registered

    def has_begun(self, first: int) -> bool:
        """Return True unless the peer says what begins, and has not said so of the worker's present request.

        `first`: the connection's :meth:`~Connection.first_assignment`, of which nothing need be said.
        """
        connection = self.connection
        if not connection.features & _BEGUN:
            return True
        _, number = extension.read_session(self.session)
        assignment = token.assignment_number(self.token)
        return assignment == first or connection.begun.get((number,), 0) >= assignment

    def command_frames(self, command: Command) -> list[bytes]:
        """The frames of a message up to its command, that included."""
        return [*self.head, *self.connection.dialect.worker_command(command)]
