"""One session of a worker, which by the RFCs is one worker, and the connection it is on.

A session moves through the states of :class:`SessionState`:

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
import math
from typing import Any, NamedTuple, Protocol

from ...protocol import extension, token
from ...protocol.dialects import EMPTY
from ..liveness import Pulse
from .connector import Connection
from .reasons import GoneReason


class SessionState(enum.Enum):
    """The state of a session; :data:`TRANSITIONS` has the changes."""

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
    """A request for which the handler is to be run."""

    session: Session
    #: The client address, to be sent back with each part of the answer.
    address: bytes
    body: list[bytes]
    #: What a gmdp broker says about the request; None from any other broker.
    hints: token.Reading | None


class Resumed(NamedTuple):
    """Reports that this work has more credit, or is lost: its handler may wait in its ``yield``."""

    work: Work


class CallerGone(NamedTuple):
    """Reports that no caller waits for the answer of this work any more."""

    work: Work
    reason: GoneReason


class Failure(NamedTuple):
    """How a handler failed."""

    type_name: str
    message: str


class SessionDispatcher(Protocol):
    """Runs the handlers of one session; :class:`gmdp.worker.dispatch.Dispatcher` is one."""

    def dispatch(self, work: Work) -> None:
        """Have the handler run for `work`; does not wait."""

    def cancel(self, gone: CallerGone, kill: bool) -> None:
        """Tell the handler that its caller has gone; stop it if `kill`."""

    def resume(self, work: Work) -> None:
        """Let the handler of `work`, which may wait in its ``yield``, go on or end."""


class Session:
    """One worker by the RFC: registered at most once, with one request at a time."""

    __slots__ = (
        "connection",
        "credit",
        "dispatcher",
        "frame",
        "handling",
        "oversize",
        "parts",
        "refusals",
        "sent",
        "state",
        "timer",
        "unwanted",
        "work",
    )

    #: Set by the shell before the worker starts.  The core keeps it for its shell.
    dispatcher: SessionDispatcher

    def __init__(self) -> None:
        self.state = SessionState.DETACHED
        self.connection: WorkerConnection | None = None
        #: Its session frame; empty on a strict connection.
        self.frame = EMPTY
        #: True while a handler runs, for the present work or an earlier one.
        self.handling = False
        #: The work of the present handler.  Only its own answer may end it.
        self.work: Work | None = None
        #: Parts of the answer that wait for its end; over MDP/0.1 only.
        self.parts: list[bytes] | None = None
        #: True once a part of the answer was larger than the broker takes.
        self.oversize = False
        #: True once no caller waits for the answer to the present work.
        self.unwanted = False
        #: The weight of all parts that may be sent, and of those sent; see :mod:`gmdp.protocol.extension`.
        self.credit = math.inf
        self.sent = 0
        #: How often in a row the broker said DISCONNECT to it before any request.
        self.refusals = 0
        self.timer: list[Any] | None = None

    @property
    def registered(self) -> bool:
        """True from READY until the session is detached."""
        return self.state is SessionState.IDLE or self.state is SessionState.BUSY

    def become(self, state: SessionState) -> None:
        """Go to `state`; ValueError if :data:`TRANSITIONS` does not allow it."""
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"no change from {self.state.value} to {state.value}")
        self.state = state


class WorkerConnection(Connection):
    """A worker's connection and its sessions."""

    __slots__ = ("busy", "last_number", "leaving", "pulse", "sessions")

    def __init__(self, endpoint: str, epoch: int) -> None:
        super().__init__(endpoint, epoch)
        #: The sessions registered on it, by session frame, which is empty on a strict connection.
        self.sessions: dict[bytes, Session] = {}
        #: The session number used last; none is used twice.
        self.last_number = 0
        self.pulse = Pulse(0.0)
        #: How many of its sessions have work.
        self.busy = 0
        #: True once the broker has said that it drains.
        self.leaving = False

    @property
    def room(self) -> int:
        """How many further sessions the connection can have."""
        if self.leaving:
            return 0
        most = 1 if self.offer is None else min(self.offer.max_sessions, extension.MAX_SESSION - self.last_number)
        return most - len(self.sessions)
