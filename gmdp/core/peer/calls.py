"""One call of a client: what it asks, where it is, how it may end.

A call moves through these states, each once per try:

==========  =============================  =================================
state       left when                      for
==========  =============================  =================================
waiting     a connection is free           sent
            time is up, cancelled, closed  done
            it is too large; no broker     done
            lets this client in
sent        FINAL, or the last try failed  done
            lost, or the broker stops;     waiting (first in line)
            tries left, and no part was
            delivered yet
            silent; the same               waiting; on an extended connection
                                           it is sent again, under its old id
done
==========  =============================  =================================
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ...protocol import extension
from ...protocol.dialects import EMPTY
from ..outcomes import Outcome
from .connector import Connection


class CallState(enum.Enum):
    """Where a call is; see the table above."""

    __hash__ = object.__hash__  # Enum's own is slow, and each call changes its state twice

    WAITING = "waiting"
    SENT = "sent"
    DONE = "done"


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


class Call:
    """One request and what is to be done about it.

    `timeout`: seconds in all, or for a stream per part; `deadline`: seconds in
    all for a stream; `retries`: further tries; `flags`, `priority`, `traceparent`:
    as in a call frame, for gmdp brokers; `owner`: whoever wants to hear.
    """

    __slots__ = (
        "answered_try",
        "body",
        "connection",
        "deadline",
        "deadline_at",
        "deliveries",
        "flags",
        "identity",
        "number",
        "parts",
        "priority",
        "retries",
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
        sink: Any = None,
    ) -> None:
        self.service = service
        self.body = body
        self.timeout = timeout
        self.deadline = deadline
        self.retries = retries
        self.flags = flags
        self.priority = priority
        self.traceparent = traceparent
        self.sink = sink
        self.state = CallState.WAITING
        #: Its number among the client's calls, and its request id: set when it is submitted.
        self.number = 0
        self.identity = EMPTY
        self.submitted_at = 0.0
        #: When its deadline is: set when it is submitted.
        self.deadline_at = math.inf
        #: Tries begun.
        self.tries = 0
        #: How often a worker had it, as far as the broker told.
        self.deliveries = 0
        #: Parts delivered, and the try they answer, as far as the broker told.
        self.parts = 0
        self.answered_try = 0
        self.connection: ClientConnection | None = None
        self.try_ends_at = math.inf
        self.timer: list[Any] | None = None

    def become(self, state: CallState) -> None:
        """Go to `state`; ValueError if :data:`TRANSITIONS` does not allow it."""
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"no change from {self.state.value} to {state.value}")
        self.state = state


class ClientConnection(Connection):
    """A client's connection; a strict one has one call or none."""

    __slots__ = ("calls",)

    def __init__(self, endpoint: str, epoch: int) -> None:
        super().__init__(endpoint, epoch)
        #: By number.
        self.calls: dict[int, Call] = {}


class Part(NamedTuple):
    """A part of an answer, or all of it."""

    call: Call
    body: list[bytes]
    final: bool


class Ended(NamedTuple):
    """A call ended without its answer's FINAL."""

    call: Call
    outcome: Outcome
    detail: str
    #: What came with a failure: an error's type name and message, perhaps.
    body: Sequence[bytes] = ()
