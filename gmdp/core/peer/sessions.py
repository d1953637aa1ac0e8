"""One session of a worker: one worker by the RFCs, and the connection it is on.

Where a session is, by :class:`SessionState`:

==============  =====================================  ========================
state           left when                              for
==============  =====================================  ========================
detached        a connection has room, no handler      idle: READY sent
                runs any more, the delay is over
                the worker closes, or drains           closed
idle            REQUEST                                busy
                DISCONNECT, or its connection is lost  detached
                the worker closes, or drains:          detached, then closed
                DISCONNECT sent
busy            FINAL sent                             idle; detached, then
                                                       closed, if draining
                DISCONNECT, or its connection is lost  detached; the handler
                                                       runs on, its reply is
                                                       dropped
                the worker closes: DISCONNECT sent     detached, then closed
==============  =====================================  ========================
"""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

from ...protocol import extension, token
from ...protocol.dialects import EMPTY
from ..liveness import Pulse
from .connector import Connection
from .reasons import GoneReason


class SessionState(enum.Enum):
    """Where a session is; see the table above."""

    __hash__ = object.__hash__  # Enum's own is slow, and each request changes it twice

    DETACHED = "detached"
    IDLE = "idle"
    BUSY = "busy"
    CLOSED = "closed"


#: Every change of state, and when it happens.
TRANSITIONS: dict[SessionState, frozenset[SessionState]] = {
    SessionState.DETACHED: frozenset(
        {
            SessionState.IDLE,  # a connection has room: READY is sent
            SessionState.CLOSED,  # the worker drains or closes; a registered session is detached first
        }
    ),
    SessionState.IDLE: frozenset(
        {
            SessionState.BUSY,  # REQUEST
            SessionState.DETACHED,  # DISCONNECT, either way, or the connection is lost
        }
    ),
    SessionState.BUSY: frozenset(
        {
            SessionState.IDLE,  # FINAL is sent
            SessionState.DETACHED,  # DISCONNECT, either way, or the connection is lost; the handler runs on
        }
    ),
    SessionState.CLOSED: frozenset(),
}


class Work(NamedTuple):
    """Run the handler."""

    session: Session
    address: bytes
    body: list[bytes]
    #: What the broker told besides, if it is one of ours.
    hints: token.Reading | None


class CallerGone(NamedTuple):
    """Nobody waits for the answer of this work any more."""

    work: Work
    reason: GoneReason


class Failure(NamedTuple):
    """How a handler failed."""

    type_name: str
    message: str


class Session:
    """One worker by the RFC: registered at most once, with one request at a time."""

    __slots__ = (
        "connection",
        "dispatcher",
        "frame",
        "handling",
        "oversize",
        "parts",
        "refusals",
        "state",
        "timer",
        "work",
    )

    def __init__(self) -> None:
        self.state = SessionState.DETACHED
        self.connection: WorkerConnection | None = None
        #: Its session frame; empty on a strict connection.
        self.frame = EMPTY
        #: True while a handler runs, for the present work or an earlier one.
        self.handling = False
        #: What is being worked on.  Only its own answer may end it.
        self.work: Work | None = None
        #: Parts that wait for the FINAL, over MDP/0.1.
        self.parts: list[bytes] | None = None
        #: True once a part was larger than the broker takes.
        self.oversize = False
        #: How often in a row it was told DISCONNECT before any request.
        self.refusals = 0
        self.timer: list[Any] | None = None
        #: Whatever the owner knows it by.
        self.dispatcher: Any = None

    @property
    def registered(self) -> bool:
        """True while READY was sent on a connection that stands."""
        return self.state is SessionState.IDLE or self.state is SessionState.BUSY

    def become(self, state: SessionState) -> None:
        """Go to `state`; ValueError if :data:`TRANSITIONS` does not allow it."""
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"no change from {self.state.value} to {state.value}")
        self.state = state


class WorkerConnection(Connection):
    """A worker's connection and its sessions."""

    __slots__ = ("last_number", "pulse", "sessions")

    def __init__(self, endpoint: str, epoch: int) -> None:
        super().__init__(endpoint, epoch)
        #: By session frame; a strict connection's one by an empty one.
        self.sessions: dict[bytes, Session] = {}
        #: Session numbers used.
        self.last_number = 0
        self.pulse = Pulse(0.0)

    @property
    def room(self) -> int:
        """How many sessions more it can have."""
        most = 1 if self.offer is None else min(self.offer.max_sessions, extension.MAX_SESSION - self.last_number)
        return most - len(self.sessions)
