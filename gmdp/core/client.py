"""A client's calls and connections (RFC 7 and RFC 18, MDP/Client).

The rules of this module:

* RFC 7 and 18 call the client's dialog "strictly synchronous", and a reply
  does not say which request it answers.  So a connection carries one call at a
  time, and a call that is given up takes its connection with it: a late reply
  finds nobody.  Many calls at once use many connections, up to a bound; the
  rest wait in line.
* A request is sent on a connection that stands, never into the void: nothing
  that was queued for one broker reaches another.
* A call moves through these states, each once per try:

  ==========  =============================  =================================
  state       left when                      for
  ==========  =============================  =================================
  waiting     a connection is free           sent
              time is up, cancelled, closed  done
  sent        FINAL, or the last try failed  done
              lost or silent, tries left,    waiting (first in line)
              and no part was delivered yet
  done
  ==========  =============================  =================================

* While no broker has answered, one connection at a time is tried.
"""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

from .reconnect import Reconnect
from .statistics import ClientCounters, ClientStatistics, counted
from .timers import Timers
from .wire import Command, Dialect


class CallState(enum.Enum):
    """Where a call is; see the table above."""

    WAITING = "waiting"
    SENT = "sent"
    DONE = "done"


class Outcome(enum.Enum):
    """How a call ended."""

    REPLY = "reply"
    TIMEOUT = "timeout"
    BROKER_LOST = "broker lost"
    OVERFLOW = "overflow"
    CANCELLED = "cancelled"
    CLOSED = "closed"


class Call:
    """One request and what is to be done about it.

    `timeout`: seconds in all, or for a stream per part; `deadline`: seconds in
    all for a stream; `retries`: further tries; `owner`: whoever wants to hear.
    """

    __slots__ = (
        "body",
        "connection",
        "deadline",
        "owner",
        "parts",
        "retries",
        "service",
        "state",
        "submitted",
        "timeout",
        "timer",
        "tries",
        "try_until",
        "until",
    )

    def __init__(
        self,
        service: bytes,
        body: Sequence[bytes],
        *,
        timeout: float,
        deadline: float = math.inf,
        retries: int = 0,
        owner: Any = None,
    ) -> None:
        self.service = service
        self.body = body
        self.timeout = timeout
        self.deadline = deadline
        self.retries = retries
        self.owner = owner
        self.state = CallState.WAITING
        self.submitted = 0.0
        #: When its deadline is: set when it is submitted.
        self.until = math.inf
        #: Tries begun.
        self.tries = 0
        #: Parts delivered.
        self.parts = 0
        self.connection: Connection | None = None
        self.try_until = math.inf
        self.timer: tuple[float, int] | None = None


class Connection:
    """One socket: being connected, idle, or with one call."""

    __slots__ = ("call", "endpoint", "epoch", "handle", "opened", "ready")

    def __init__(self, endpoint: str, epoch: int, now: float) -> None:
        self.endpoint = endpoint
        self.epoch = epoch
        self.opened = now
        self.ready = False
        self.call: Call | None = None
        #: The owner's socket.
        self.handle: Any = None


class Open(NamedTuple):
    """Open a new socket and connect it."""

    connection: Connection


class Send(NamedTuple):
    """Send these frames."""

    connection: Connection
    frames: list[bytes]


class Close(NamedTuple):
    """Close this socket."""

    connection: Connection


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


class ClientCore:
    """All calls of one client.

    Decisions are appended to :attr:`actions` (for sockets) and :attr:`events`
    (for callers).  ``jitter`` arguments are random numbers from 0 to 1.
    """

    #: Seconds a connection may take to be made.
    connect_timeout = 5.0

    def __init__(self, dialect: Dialect, reconnect: Reconnect, max_connections: int, counters: ClientCounters) -> None:
        self.dialect = dialect
        self.counters = counters
        self.actions: list[Open | Send | Close] = []
        self.events: list[Part | Ended] = []
        self._reconnect = reconnect
        self._max_connections = max_connections
        self._waiting: OrderedDict[Call, None] = OrderedDict()
        self._connections: set[Connection] = set()
        self._idle: list[Connection] = []
        self._connecting = 0
        self._timers = Timers()
        # Connections of one epoch share a fate: the first loss ends the epoch.
        self._epoch = 0
        self._answered = False
        self._open_at = -math.inf
        self._trouble = "not connected yet"

    @property
    def endpoint(self) -> str:
        """The broker in use, or tried at present."""
        return self._reconnect.endpoint

    # What the owner calls

    def submit(self, call: Call, now: float) -> None:
        """Begin a call."""
        self.counters.requests += 1
        call.submitted = now
        call.until = now + call.deadline
        self._try(call, now)
        self._waiting[call] = None
        self._pump(now)

    def cancel(self, call: Call, outcome: Outcome, now: float) -> None:
        """The caller went away (CANCELLED), or cannot keep up (OVERFLOW)."""
        if call.state is CallState.DONE:
            return
        self._abandon(call, now)
        self._end(call, outcome, "")
        self._pump(now)

    def connected(self, connection: Connection, now: float) -> None:
        """The connection stands."""
        if connection not in self._connections or connection.ready:
            return
        connection.ready = True
        self._connecting -= 1
        if connection.epoch == self._epoch:
            self._reconnect.answered()
            self._answered = True
        self._idle.append(connection)
        self._pump(now)

    def disconnected(self, connection: Connection, reason: str, now: float, jitter: float) -> None:
        """The connection is gone, or could not be made."""
        if connection not in self._connections:
            return
        if connection.ready:
            self.counters.disconnects += 1
        self._remove(connection)
        if connection.epoch == self._epoch:
            self._epoch += 1
            self._answered = False
            self._trouble = f"{connection.endpoint}: {reason}"
            self._open_at = now + self._reconnect.lost(jitter)
            for other in self._idle[:]:
                self._remove(other)
        call, connection.call = connection.call, None
        if call is not None:
            call.connection = None
            if self._may_retry(call, now):
                self._retry(call, now)
            else:
                self._end(call, Outcome.BROKER_LOST, f"{connection.endpoint}: {reason}")
        self._pump(now)

    def feed(self, connection: Connection, frames: list[bytes], now: float) -> None:
        """One whole message from a broker."""
        call = connection.call
        parsed = self.dialect.parse_reply(frames)
        if parsed is None or call is None or (parsed[1] is not None and parsed[1] != call.service):
            self.counters.malformed += 1
            return
        command, _, body = parsed
        final = command is Command.FINAL
        call.parts += 1
        self.events.append(Part(call, body, final))
        if final:
            self._finish(call)
            self.counters.replies += 1
            connection.call = None
            if connection.epoch == self._epoch:
                self._idle.append(connection)
            else:
                self._remove(connection)
            self._pump(now)
        else:
            self.counters.partials += 1
            call.try_until = now + call.timeout
            self._timers.arm(call, min(call.try_until, call.until))

    def tick(self, now: float, jitter: float) -> None:
        """Do what is due by `now`."""
        while (call := self._timers.due(now)) is not None:
            if self._may_retry(call, now):
                if call.state is CallState.SENT:
                    self._abandon(call, now)
                    self._retry(call, now)
                else:
                    self._try(call, now)
            else:
                sent = call.state is CallState.SENT
                self._abandon(call, now)
                self._end(call, Outcome.TIMEOUT, "no reply" if sent else self._why_not_sent())
        for connection in [c for c in self._connections if not c.ready] if self._connecting else ():
            if now >= connection.opened + self.connect_timeout:
                self.disconnected(connection, "no connection in time", now, jitter)
        self._pump(now)

    def deadline(self) -> float:
        """When :meth:`tick` is needed next; infinity if never."""
        when = self._timers.next()
        if self._connecting:
            opened = min(connection.opened for connection in self._connections if not connection.ready)
            when = min(when, opened + self.connect_timeout)
        elif self._waiting and not self._answered:
            when = min(when, self._open_at)
        return when

    def close(self, now: float) -> None:
        """End every call and connection."""
        for connection in list(self._connections):
            call, connection.call = connection.call, None
            if call is not None:
                self._end(call, Outcome.CLOSED, "")
            self._remove(connection)
        while self._waiting:
            self._end(self._waiting.popitem(last=False)[0], Outcome.CLOSED, "")

    def statistics(self) -> ClientStatistics:
        """Everything as it is now, as an immutable copy."""
        return ClientStatistics(
            in_flight=len(self._connections) - len(self._idle) - self._connecting,
            waiting=len(self._waiting),
            sockets=len(self._connections),
            **counted(self.counters),
        )

    # Calls

    def _pump(self, now: float) -> None:
        """Give waiting calls the connections there are, and open more for them."""
        while self._waiting and self._idle:
            call = self._waiting.popitem(last=False)[0]
            connection = self._idle.pop()
            connection.call = call
            call.connection = connection
            call.state = CallState.SENT
            self.actions.append(Send(connection, self.dialect.request(call.service, call.body)))
        wanted = min(len(self._waiting), self._max_connections if self._answered else 1)
        while self._connecting < wanted and len(self._connections) < self._max_connections and now >= self._open_at:
            connection = Connection(self._reconnect.endpoint, self._epoch, now)
            self._connections.add(connection)
            self._connecting += 1
            self.actions.append(Open(connection))

    def _try(self, call: Call, now: float) -> None:
        """Begin the next try: from now on its time runs."""
        call.tries += 1
        call.try_until = now + call.timeout / (call.retries + 1)
        self._timers.arm(call, min(call.try_until, call.until))

    def _may_retry(self, call: Call, now: float) -> bool:
        return call.tries <= call.retries and not call.parts and now < call.until

    def _retry(self, call: Call, now: float) -> None:
        self.counters.retries += 1
        call.state = CallState.WAITING
        self._try(call, now)
        self._waiting[call] = None
        self._waiting.move_to_end(call, last=False)

    def _abandon(self, call: Call, now: float) -> None:
        """Take the call out of line, or off its connection, and that with it."""
        self._waiting.pop(call, None)
        connection = call.connection
        if connection is not None:
            call.connection = None
            connection.call = None
            self._remove(connection)

    def _finish(self, call: Call) -> None:
        call.state = CallState.DONE
        call.connection = None
        self._timers.disarm(call)

    def _end(self, call: Call, outcome: Outcome, detail: str) -> None:
        self._finish(call)
        if outcome is Outcome.TIMEOUT:
            self.counters.timeouts += 1
        elif outcome is Outcome.CANCELLED:
            self.counters.cancelled += 1
        else:
            self.counters.errors += 1
        self.events.append(Ended(call, outcome, detail))

    def _remove(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not connection.ready:
            self._connecting -= 1
        elif connection in self._idle:
            self._idle.remove(connection)
        self.actions.append(Close(connection))

    def _why_not_sent(self) -> str:
        if self._answered:
            return "all connections were busy"
        return f"no broker answered ({self._trouble})"
