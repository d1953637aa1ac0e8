"""One call of a client, its connection, and the events that its answer makes.

A call moves through the states of :class:`CallState`, once per try:

==========  =============================  =================================
state       left when                      for
==========  =============================  =================================
waiting     a connection is free           sent
            time is up, cancelled, closed  done
            it is too large; no broker     done
            lets this client in
sent        FINAL came, or the last try    done
            failed
            its connection is lost, or     waiting (first in line)
            the broker stops; a try is
            left, and no part was
            delivered yet
            no answer came in the try's    waiting (first in line); on an
            time; a try is left, and no    extended connection sent again,
            part was delivered yet         under its old id
done
==========  =============================  =================================
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from ...protocol import extension
from ...protocol.dialects import EMPTY
from ..outcomes import Outcome
from .connector import Connection

#: The least seconds of a try, unless the whole call may take less.
LEAST_TRY = 0.1


class CallState(enum.Enum):
    """The state of a call; :data:`TRANSITIONS` has the changes."""

    __hash__ = object.__hash__  # Enum's own is slow, and each call changes its state twice

    WAITING = "waiting"
    SENT = "sent"
    DONE = "done"


_WAITING, _NO_BOUND = CallState.WAITING, math.inf

#: Every change of state, and when it happens.
TRANSITIONS: dict[CallState, frozenset[CallState]] = {
    CallState.WAITING: frozenset(
        {
            CallState.SENT,  # a connection is free
            CallState.DONE,  # time is up, cancelled, closed, too large, or no broker lets the client in
        }
    ),
    CallState.SENT: frozenset(
        {
            CallState.WAITING,  # the connection is lost or the broker stops, and a try is left
            CallState.SENT,  # the broker is silent: sent again, under its old id, on an extended connection
            CallState.DONE,  # its FINAL came, or its last try failed
        }
    ),
    CallState.DONE: frozenset(),
}


class Sink(Protocol):
    """Takes the parts and the end of a call's answer; :class:`gmdp.client.answers.Answer` is one."""

    #: The call's span, where calls are traced.
    span: Any

    def add_part(self, part: Part, now: float) -> bool:
        """Take a part; False if too many lie unread."""

    def fail(self, error: Any) -> None:
        """Take the error with which the call ended, an exception of the shell's."""


class Call:
    """A call: its request, its tries, and the connection it is on.

    Args:
        service: The service that is asked.
        body: The frames of the request, at least one.
        timeout: Seconds until the first part of the answer, which the tries share, and from each
            part to the next.
        deadline: Seconds in all.
        retries: How many further tries the call has: at most as many as leave each try :data:`LEAST_TRY`.
        flags: The flags of its call frame, for gmdp brokers.
        priority: The priority in its call frame.
        traceparent: The traceparent in its call frame, or nothing.
        sink: Where the answer goes.  The core keeps it for its shell.
    """

    __slots__ = (
        "answered_try",
        "body",
        "connection",
        "consumed",
        "credit",
        "deadline",
        "deadline_at",
        "deliveries",
        "extra_credit",
        "flags",
        "grant_at",
        "identity",
        "look_at",
        "number",
        "parts",
        "priority",
        "received",
        "retries",
        "retries_cut",
        "service",
        "sink",
        "state",
        "submitted_at",
        "timeout",
        "timer",
        "traceparent",
        "tries",
        "try_ends_at",
    )

    sink: Sink
    #: When it was submitted, and its deadline (monotonic seconds), from `submit` on.
    submitted_at: float
    deadline_at: float
    #: When its present try ends (monotonic seconds), from its first try on.
    try_ends_at: float

    def __init__(
        self,
        service: bytes,
        body: Sequence[bytes],
        *,
        timeout: float,
        deadline: float = math.inf,
        retries: int = 0,
        flags: int = 0,
        priority: int = extension.NORMAL_PRIORITY,
        traceparent: bytes = EMPTY,
        sink: Sink | None = None,
    ) -> None:
        self.service = service
        self.body = body
        self.timeout = timeout
        self.deadline = deadline
        self.retries = retries
        #: True if `timeout` is too short for so many retries.
        self.retries_cut = False
        if retries and timeout / LEAST_TRY < retries + 1:
            self.retries_cut = True
            # Rounded: as a float, 0.3 / 0.1 is less than 3.
            self.retries = max(0, int(timeout / LEAST_TRY + 1e-9) - 1)
        self.flags = flags
        self.priority = priority
        self.traceparent = traceparent
        if sink is not None:
            self.sink = sink
        self.state = _WAITING
        #: Its number among the client's calls, and its request id, from `submit` on.
        self.number = 0
        self.identity = EMPTY
        #: How many tries have begun.
        self.tries = 0
        #: How often a worker had the request, as far as the broker said.
        self.deliveries = 0
        #: How many parts were delivered, and which try they answer, as far as the broker said.
        self.parts = 0
        self.answered_try = 0
        #: The weight of the parts before the last that have come, of those that the reader has taken,
        #: and of all that it grants (:mod:`gmdp.protocol.extension`).  The reader, in any
        #: thread, adds to `consumed`; the core adds to the others.
        self.received = self.consumed = 0
        self.credit = _NO_BOUND
        #: How much of the credit comes out of what the calls of a client share.
        self.extra_credit = 0
        #: Once the reader has taken so much, it calls :meth:`.client.ClientCore.grant`.
        self.grant_at = _NO_BOUND
        #: When a part comes after this time, what the reader has taken by then is granted.
        self.look_at = 0.0
        self.connection: ClientConnection | None = None
        self.timer: list[Any] | None = None

    def become(self, state: CallState) -> None:
        """Go to `state`; ValueError if :data:`TRANSITIONS` does not allow it."""
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"no change from {self.state.value} to {state.value}")
        self.state = state


class ClientConnection(Connection):
    """A client's connection; a strict one has one call or none."""

    __slots__ = ("calls", "first_credit", "first_grant", "known_flags", "own_flags")

    def __init__(self, endpoint: str, epoch: int) -> None:
        super().__init__(endpoint, epoch)
        #: A mask of the flags of call frames that the broker knows, and the flags of every request.
        self.known_flags, self.own_flags = ~0, 0
        #: The credit that comes with a request, and once the reader has taken how much it grants more.
        self.first_credit = self.first_grant = _NO_BOUND
        #: The calls on this connection, by number.
        self.calls: dict[int, Call] = {}


class Part(NamedTuple):
    """A part of an answer, or all of it."""

    call: Call
    body: list[bytes]
    final: bool


class Ended(NamedTuple):
    """A call ended without the FINAL of its answer."""

    call: Call
    outcome: Outcome
    detail: str
    #: The frames that came with a failure; a handler's are its error's type name and message.
    body: Sequence[bytes] = ()
