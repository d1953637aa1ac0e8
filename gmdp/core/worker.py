"""One session of a worker (RFC 7 and RFC 18, MDP/Worker).

The rules of this module, as a table of :class:`SessionState`:

==============  ===================================  ========================
state           left when                            for
==============  ===================================  ========================
waiting         the delay is over and no handler     connecting
                runs any more
connecting      the connection stands: READY sent    idle
                it fails or takes too long           waiting
idle            REQUEST                              busy
                DISCONNECT, silence, lost, garbage   waiting
busy            FINAL sent                           idle, or closed if
                                                     draining
                DISCONNECT, silence, lost, garbage   waiting; the handler
                                                     runs on, its reply is
                                                     dropped
any             close, or drain when not busy:       closed
                DISCONNECT sent
==============  ===================================  ========================

Every connection is a new socket: what was queued for one never reaches the
next, and a reply made for one is dropped on the next (``generation``).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from typing import NamedTuple

from . import token
from .liveness import Gap, Pulse
from .reconnect import Reconnect
from .statistics import WorkerCounters
from .wire import EMPTY, Command, Dialect


class SessionState(enum.Enum):
    """Where a session is; see the table above."""

    WAITING = "waiting"
    CONNECTING = "connecting"
    IDLE = "idle"
    BUSY = "busy"
    CLOSED = "closed"


#: Every change there is.
TRANSITIONS: dict[SessionState, frozenset[SessionState]] = {
    SessionState.WAITING: frozenset({SessionState.CONNECTING, SessionState.CLOSED}),
    SessionState.CONNECTING: frozenset({SessionState.IDLE, SessionState.WAITING, SessionState.CLOSED}),
    SessionState.IDLE: frozenset({SessionState.BUSY, SessionState.WAITING, SessionState.CLOSED}),
    SessionState.BUSY: frozenset({SessionState.IDLE, SessionState.WAITING, SessionState.CLOSED}),
    SessionState.CLOSED: frozenset(),
}


class Open(NamedTuple):
    """Open a new socket and connect it."""

    endpoint: str


class Send(NamedTuple):
    """Send these frames on the socket that is open."""

    frames: list[bytes]


class Close(NamedTuple):
    """Close the socket that is open."""

    reason: str
    #: True if what was decided before is to be sent first.
    after_sending: bool = False


class Work(NamedTuple):
    """Run the handler."""

    generation: int
    address: bytes
    body: list[bytes]


class WorkerSession:
    """One session: registered at most once, with one request at a time.

    Decisions are appended to :attr:`actions`.  ``jitter`` arguments are random
    numbers from 0 to 1.  `gap` is told by the owner when it runs; sessions of
    one owner share it.
    """

    def __init__(
        self,
        service: bytes,
        dialect: Dialect,
        reconnect: Reconnect,
        counters: WorkerCounters,
        *,
        heartbeat_interval: float,
        liveness: float,
        gap: Gap,
        now: float,
    ) -> None:
        self.service = service
        self.dialect = dialect
        self.counters = counters
        self.state = SessionState.WAITING
        #: Counts connections; work of an earlier one is late.
        self.generation = 0
        self.draining = False
        #: True while a handler runs, on this connection or an earlier one.
        self.handling = False
        self.actions: list[Open | Send | Close | Work] = []
        self._reconnect = reconnect
        self._interval = heartbeat_interval
        self._expiry = heartbeat_interval * liveness
        self._gap = gap
        self._pulse = Pulse(now)
        self._open_at = now
        #: What is being worked on.  Only its own answer may end it.
        self._work: Work | None = None
        self._parts: list[bytes] | None = None

    # What the owner calls

    @property
    def registered(self) -> bool:
        """True while a connection stands and READY was sent on it."""
        return self.state is SessionState.IDLE or self.state is SessionState.BUSY

    def connected(self, now: float) -> None:
        """The connection stands: register."""
        if self.state is not SessionState.CONNECTING:
            return
        self._become(SessionState.IDLE)
        if self.generation > 1:
            self.counters.reconnects += 1
        self._pulse = Pulse(now)
        # "The worker opens the connection to the broker by creating a new socket,
        # connecting it, and then sending a READY command to register a service."
        self._send(self.dialect.worker(Command.READY, self.service), now)

    def disconnected(self, reason: str, now: float, jitter: float) -> None:
        """The connection is gone, or could not be made."""
        if self.registered or self.state is SessionState.CONNECTING:
            self._drop(reason, now, self._reconnect.lost(jitter))

    def feed(self, frames: list[bytes], now: float, jitter: float) -> None:
        """One whole message from the broker."""
        if not self.registered:
            return
        parsed = self.dialect.parse_for_worker(frames)
        if parsed is None:
            self._reject("the broker sent what is no command", now, jitter)
            return
        self._pulse.heard = now
        command, address, body = parsed
        if command is Command.DISCONNECT:
            # "When the worker receives DISCONNECT it must send no further commands to
            # the broker; it MUST close its socket, and reconnect to the broker on a
            # new socket."
            self._drop("the broker said DISCONNECT", now, self._reconnect.refused(jitter))
            return
        self._reconnect.answered()
        if command is Command.HEARTBEAT:
            if self._pulse.heartbeat_due():
                self._heartbeat(now)
        elif self.state is SessionState.BUSY:
            self._reject("a second request came before the reply", now, jitter)
        else:
            self._become(SessionState.BUSY)
            self.handling = True
            self._parts = None
            self.counters.requests += 1
            self._work = Work(self.generation, address, body)
            self.actions.append(self._work)

    def partial(self, work: Work, body: Sequence[bytes], now: float) -> bool:
        """The handler made a part of its answer; False if nobody wants it."""
        if work is not self._work:
            return False
        self.counters.partials += 1
        if self.dialect.streams:
            self._send(self.dialect.worker(Command.PARTIAL, work.address, EMPTY, *body), now)
        else:
            if self._parts is None:
                self._parts = []
            self._parts += body
        return True

    def final(self, work: Work, body: Sequence[bytes] | None, failed: bool, now: float) -> bool:
        """The handler ended; False if its answer came too late.

        `body` None: there is nothing to add to the parts.
        """
        if work is not self._work:
            if work.generation != self.generation or self._work is None:
                self.handling = False
            self.counters.late_replies += 1
            return False
        self._work = None
        self.handling = False
        self.counters.replies += 1
        # "The worker SHALL send zero or more PARTIAL commands for a single REQUEST,
        # followed by exactly one FINAL command."
        if self._parts is not None:
            body = [*self._parts, *(body or ())]
            self._parts = None
        address = token.failed(work.address) if failed else work.address
        self._send(self.dialect.worker(Command.FINAL, address, EMPTY, *(body or (EMPTY,))), now)
        self._become(SessionState.IDLE)
        if self.draining:
            self.close(now)
        return True

    def tick(self, now: float, jitter: float) -> None:
        """Do what is due by `now`."""
        if self.state is SessionState.WAITING:
            if now >= self._open_at and not self.handling:
                self._become(SessionState.CONNECTING)
                self.generation += 1
                self._open_at = now
                self.actions.append(Open(self._reconnect.endpoint))
        elif self.state is SessionState.CONNECTING:
            if now >= self._open_at + self._expiry:
                self._drop("no connection in time", now, self._reconnect.lost(jitter))
        elif self.state is not SessionState.CLOSED:
            if now >= self._pulse.heard + self._expiry and self._gap.may_judge(now):
                # "If the worker detects that the broker has disconnected, it SHOULD
                # restart a new conversation."
                self._drop("no heartbeat from the broker", now, self._reconnect.lost(jitter))
            elif now >= self._pulse.beat_at(self._interval):
                self._heartbeat(now)

    def deadline(self) -> float:
        """When :meth:`tick` is needed next; infinity if never."""
        if self.state is SessionState.WAITING:
            return math.inf if self.handling else self._open_at
        if self.state is SessionState.CONNECTING:
            return self._open_at + self._expiry
        if self.state is SessionState.CLOSED:
            return math.inf
        lost = max(self._pulse.heard + self._expiry, self._gap.until)
        return min(self._pulse.beat_at(self._interval), lost)

    def drain(self, now: float) -> None:
        """Take no new request; close as soon as the present one is answered."""
        self.draining = True
        if self.state is not SessionState.BUSY:
            self.close(now)

    def close(self, now: float) -> None:
        """Say DISCONNECT if registered, and end."""
        if self.state is SessionState.CLOSED:
            return
        if self.registered:
            # "The worker MAY send DISCONNECT at any time"
            self._send(self.dialect.worker(Command.DISCONNECT), now)
        opened = self.state is not SessionState.WAITING
        self._become(SessionState.CLOSED)
        self._work = None
        self.generation += 1
        if opened:
            self.actions.append(Close("closed", after_sending=True))

    def _reject(self, reason: str, now: float, jitter: float) -> None:
        """This broker breaks the protocol: it may give the request to another."""
        self.counters.malformed += 1
        self._send(self.dialect.worker(Command.DISCONNECT), now)
        self._drop(reason, now, self._reconnect.lost(jitter))

    def _drop(self, reason: str, now: float, delay: float) -> None:
        self._become(SessionState.WAITING)
        self._work = None
        self._open_at = now + delay
        self.actions.append(Close(reason))
        if self.draining:
            self._become(SessionState.CLOSED)

    def _heartbeat(self, now: float) -> None:
        self._pulse.beating(now)
        self._send(self.dialect.worker(Command.HEARTBEAT), now)

    def _send(self, frames: list[bytes], now: float) -> None:
        self._pulse.sending(now)
        self.actions.append(Send(frames))

    def _become(self, state: SessionState) -> None:
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"no change from {self.state.value} to {state.value}")
        self.state = state
