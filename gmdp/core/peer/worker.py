"""A worker's sessions (RFC 7 and RFC 18, MDP/Worker; the extension).

The rules of this module:

* A session moves through the states of :class:`~.sessions.SessionState`.
* A strict connection has one session.  An extended one has as many as the broker
  allows (:mod:`gmdp.protocol.extension`).  By the RFC each is a worker of its own.
* A session of an extended connection has a number, which is never used again on that
  connection.  DISCONNECT retires the number.  The session registers again under a new
  one, after a delay that doubles for as long as it gets no request.
* When a broker says that it drains, the sessions that it lets go register at the next one at once; those
  that are busy stay until they have answered.
* Where the caller grants credits, a handler may send a part while the parts sent weigh less than
  its credit (:mod:`gmdp.protocol.extension`); else there is no such bound.
* A connection is lost when its broker is silent, sends a message that is no command, or
  says DISCONNECT to the connection.  :mod:`~.connector` has the other rules of connections.
* A strict broker may be silent while its worker has work: many heartbeat idle workers only.
  The worker trusts its socket until the answer is sent, and counts the broker's silence from then on.
* A strict broker is sent a HEARTBEAT each interval, beside any other messages: some brokers take
  nothing else for a sign of life.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from ...protocol import extension, token
from ...protocol.dialects import EMPTY, Command, Dialect
from ...protocol.extension import INITIAL_CREDIT, Feature
from ..liveness import Gap, Pulse
from .connector import Action, Connector, Phase, Send
from .reasons import CloseReason, GoneReason
from .reconnect import Reconnect, backoff
from .sessions import CallerGone, Failure, Resumed, Session, SessionState, Work, WorkerConnection
from .statistics import WorkerCounters

_new = tuple.__new__  # costs a third of a NamedTuple's own constructor
_BEGUN = int(Feature.BEGUN)  # an IntFlag's own operators are Python functions
# Needed for each message: looking a member up costs as much as a call.
_EXTENDED, _IDLE, _BUSY = Phase.EXTENDED, SessionState.IDLE, SessionState.BUSY
_FINAL, _HEARTBEAT, _DISCONNECT = Command.FINAL, Command.HEARTBEAT, Command.DISCONNECT
#: Seconds without a pass after which the worker reads everything before anything begins: the broker may have
#: taken back what it gave.
PAUSE = 0.02
#: The most bytes of an error's type name, and of its message, that are sent.
MAX_REVEALED = 4_000


class WorkerCore(Connector[WorkerConnection, Work | CallerGone | Resumed]):
    """All sessions of one worker.

    Its events are :class:`~.sessions.Work`, :class:`~.sessions.CallerGone` and :class:`~.sessions.Resumed`.

    Args:
        service: The name of the service that is offered.
        dialect: RFC7, RFC18 or MAJORTOMO.
        reconnect: The brokers' endpoints.
        counters: The worker's counters, which survive restarts.
        concurrency: How many sessions there are.
        heartbeat_interval: Seconds between the worker's heartbeats.
        liveness: Intervals of silence after which a broker is lost.
        error_reply: The body of the FINAL when a handler fails, for callers that know no typed failures.
        now: When the worker begins (monotonic seconds).
        reveal_errors: True if gmdp clients get the error's type and message.
        enforce_deadline: True if a caller's deadline makes a
            :class:`~.sessions.CallerGone`, too.
        require_extensions: True if a broker that does not speak gmdp's extension is not used.
    """

    counters: WorkerCounters
    #: A broker may answer the probe, and yet refuse to register this worker.
    probe_suffices = False

    def __init__(
        self,
        service: bytes,
        dialect: Dialect,
        reconnect: Reconnect,
        counters: WorkerCounters,
        *,
        concurrency: int,
        heartbeat_interval: float,
        liveness: float,
        error_reply: Sequence[bytes],
        now: float,
        reveal_errors: bool = False,
        enforce_deadline: bool = False,
        require_extensions: bool = False,
    ) -> None:
        super().__init__(dialect, reconnect, require_extensions)
        self.service = service
        self.counters = counters
        self.draining = False
        self.sessions = [Session() for _ in range(concurrency)]
        #: True if brokers are told what is about to begin; what a single session was given is what it works on.
        self._says_begun = concurrency > 1
        if not self._says_begun:
            self.features &= ~Feature.BEGUN
        #: True from a pause in the worker's own running until everything was read: nothing begins meanwhile.
        self._reads_first = False
        #: When the present pass began, and when work that is held begins even if not everything was read.
        self._woke_at = self._begins_at = now
        #: Work that begins once everything was read, and what was decided about it meanwhile.
        self._held: list[Work | CallerGone | Resumed] = []
        #: How many sessions are registered.
        self.registered = 0
        self._interval = heartbeat_interval
        self._expiry = heartbeat_interval * liveness
        self.connect_timeout = self._expiry
        self._error_reply = list(error_reply)
        self._reveal_errors = reveal_errors
        self._enforce_deadline = enforce_deadline
        self._gap = Gap(heartbeat_interval, self._expiry, now)
        #: Sessions that wait for a connection.
        self._waiting: OrderedDict[Session, None] = OrderedDict.fromkeys(self.sessions)
        #: Connections that can be used.
        self._usable: list[WorkerConnection] = []
        #: How many sessions are not closed.
        self._open_sessions = concurrency
        #: How many connections were lost and not replaced yet.
        self._unreplaced = 0

    # What the owner calls

    def on_wake(self, now: float) -> None:
        """The owner begins a pass."""
        self._gap.on_wake(now, self._timers.next_due())
        if now > self._woke_at + PAUSE:
            self._reads_first = True
            self._begins_at = now + self._expiry
        elif self._reads_first and now >= self._begins_at:
            self._begin_held()  # the socket is flooded
        self._woke_at = now

    def on_caught_up(self, now: float) -> None:
        """The owner has read everything that was there."""
        self._gap.on_caught_up(now)
        if self._reads_first:
            self._begin_held()

    def _begin_held(self) -> None:
        self._reads_first = False
        self.events += self._held
        self._held.clear()

    def take(self) -> tuple[list[Action], list[Work | CallerGone | Resumed]]:
        """Return the decisions since the last call, (actions, events), and clear them.

        The actions say which of the events begin, where the broker wants to know.
        """
        if self._says_begun and self.events:
            for connection in self._usable:
                # Of one request alone the broker takes that for granted.
                if connection.busy > 1 and connection.features & _BEGUN:
                    self._report_begun(connection)
        return Connector.take(self)

    def _report_begun(self, connection: WorkerConnection) -> None:
        """Tell a broker which sessions' requests are about to begin."""
        begun = [
            event.session.frame
            for event in self.events
            if type(event) is Work and event.session.connection is connection
        ]
        for frame in extension.begun_frames(begun):
            self.actions.append(Send(connection, [frame, *self.extended.worker_command(Command.HEARTBEAT)]))

    def start(self, now: float) -> None:
        """Open the first connection."""
        self._assign_waiting(now)

    @property
    def closed(self) -> bool:
        """True when every session has ended."""
        return not self._open_sessions

    @property
    def sockets(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    def partial(self, work: Work, body: Sequence[bytes], now: float) -> bool:
        """Send a part of a handler's answer.

        Returns False if the answer is not wanted any more, the session has lost the work, or the part is too large.
        """
        session = work.session
        connection = session.connection
        if session.work is not work or session.oversize or session.unwanted or connection is None:
            return False
        if not self.dialect.streams and not connection.features & Feature.PARTS:
            self.counters.partials += 1
            if session.parts is None:
                session.parts = []
            session.parts += body
            return True
        frames = self._command_frames(session, Command.PARTIAL, work.address, EMPTY, *body)
        if not connection.accepts(frames):
            session.oversize = True
            return False
        self.counters.partials += 1
        session.sent += extension.part_weight(body)
        self._send_frames(connection, frames, now)
        return True

    def final(self, work: Work, body: Sequence[bytes] | None, failure: Failure | None, now: float) -> bool:
        """Send the end of a handler's answer.

        Args:
            work: The work that the handler had.
            body: The frames of the FINAL; None: the FINAL adds nothing to the parts.
            failure: How the handler failed; None if it did not.
            now: Monotonic seconds.

        Returns:
            False if the answer came too late.
        """
        session = work.session
        connection = session.connection
        if session.work is not work or connection is None:
            self.counters.late_replies += 1
            if session.work is None and session.handling:
                session.handling = False
                if session.state is SessionState.DETACHED and session.timer is None:
                    self._waiting[session] = None
                self._assign_waiting(now)
            return False
        frames = None
        if failure is None and not session.oversize:
            # "The worker SHALL send zero or more PARTIAL commands for a single REQUEST,
            # followed by exactly one FINAL command."
            if session.parts is not None:
                body = [*session.parts, *(body or ())]
            frames = self._command_frames(session, _FINAL, work.address, EMPTY, *(body or (EMPTY,)))
        if frames is None or not connection.accepts(frames):
            if failure is None:
                self.counters.errors += 1
            if failure is None or session.oversize:
                failure = Failure("MessageTooLarge", "the answer is larger than the broker takes")
            typed = work.hints is not None and work.hints.typed_failures
            reply = self._failure_body(failure) if typed else self._error_reply
            frames = self._command_frames(session, Command.FINAL, token.mark_failed(work.address), EMPTY, *reply)
        self.counters.replies += 1
        if not session.frame:
            connection.pulse.heard_at = now  # a strict broker's silence counts from the answer on
        session.work = None
        connection.busy -= 1
        session.parts = None
        session.oversize = False
        session.handling = False
        self._timers.disarm(session)
        session.become(_IDLE)
        if self.draining and session.frame:
            frames[0] = self._last_frame(session)
            self._send_frames(connection, frames, now)
            self._end_session(session, now)
        else:
            self._send_frames(connection, frames, now)
            if self.draining:
                self._close_session(session, now)
        return True

    def deadline(self) -> float:
        """When :meth:`tick` is needed next; infinity if never."""
        when = self._timers.next_due()
        if self._waiting and not self._pending:
            when = min(when, self._open_at)
        return when

    def drain(self, now: float) -> None:
        """Take no new request, and close each session once its request is answered."""
        self.draining = True
        for connection in list(self._connections):
            if not connection.sessions:
                self._hang_up(connection, CloseReason.CLOSED, now)
        for session in self.sessions:
            if session.state in (SessionState.IDLE, SessionState.DETACHED):
                self._close_session(session, now)

    def close(self, now: float) -> None:
        """Say DISCONNECT on every connection, and close all sessions."""
        self.draining = True
        for connection in list(self._connections):
            self._hang_up(connection, CloseReason.CLOSED, now)
        for session in self.sessions:
            if session.state is SessionState.DETACHED:
                self._close_session(session, now)

    # Connections

    def _make_connection(self, endpoint: str, epoch: int) -> WorkerConnection:
        return WorkerConnection(endpoint, epoch)

    def _on_usable(self, connection: WorkerConnection, now: float) -> None:
        if self._unreplaced:
            self._unreplaced -= 1
            self.counters.reconnects += 1
        connection.pulse = Pulse(now)
        self._usable.append(connection)

    def _on_connection_lost(self, connection: WorkerConnection, reason: CloseReason, detail: str, now: float) -> None:
        self.counters.denied += bool(self.denied)
        if connection in self._usable:
            self._usable.remove(connection)
            self._unreplaced += 1
        sessions = list(connection.sessions.values())
        self._detach(*sessions)
        for session in sessions if self.draining else ():
            self._close_session(session, now)

    def _assign_waiting(self, now: float) -> None:
        """Register waiting sessions on the connections that have room, and open further ones for the rest."""
        waiting = self._waiting
        for connection in self._usable[:] if waiting else ():
            while waiting and connection.room > 0:
                self._attach(waiting.popitem(last=False)[0], connection, now)
        for connection in [c for c in self._usable if c.phase is Phase.STRICT and not c.sessions]:
            self._hang_up(connection, CloseReason.NOT_NEEDED, now)
        wanted = len(waiting) if self._mode is Phase.STRICT else min(len(waiting), 1)
        while self._pending < wanted and now >= self._open_at:
            self._open_connection(now)

    def _on_message(self, connection: WorkerConnection, frames: list[bytes], now: float, jitter: float) -> None:
        flags = credit = 0
        extended = connection.phase is _EXTENDED
        frame = frames[0] if extended and frames else EMPTY
        if frame and frame in connection.sessions:
            parsed = self.extended.parse_for_worker(frames, 1)
        elif extension.is_session(frame):
            flags, _ = extension.read_session(frame)
            credit = extension.read_credit(extension.session_fields(frame))
            frame = extension.mark_session(frame, 0)
            parsed = self.extended.parse_for_worker(frames, 1)
        else:
            frame = EMPTY
            parsed = self.dialect.parse_for_worker(frames)
            if parsed is not None and extended and parsed[0] is Command.REQUEST:
                parsed = None  # a request without a session
        if parsed is None:
            if self._is_leaving(frames):
                self._on_leaving(connection, now, jitter)
            elif self._probe_answer(frames) is None:
                self._leave_broker(connection, CloseReason.NOT_A_COMMAND, now, jitter)
            return
        connection.pulse.heard_at = now
        command, address, body = parsed
        session = connection.sessions.get(frame)
        if command is _DISCONNECT:
            if frame:
                self._on_session_disconnect(session, now, jitter)
            else:
                self._on_disconnect(connection, now, jitter)
            return
        self._note_broker_heard(connection, now)
        if command is _HEARTBEAT:
            if session is not None and session.work is not None:
                if flags & extension.CALLER_GONE:
                    stalled = flags & extension.STALLED
                    self._report_caller_gone(session.work, GoneReason.STALLED if stalled else GoneReason.CALLER_GONE)
                elif credit > session.credit:
                    session.credit = credit
                    self._report(Resumed(session.work))
            if credit:
                return  # no question whether this worker is alive
            if connection.pulse.on_heartbeat():
                self._send_heartbeat(connection, now)
        elif session is None:
            pass  # the broker sent this before it heard of the session's end
        elif session.state is _BUSY:
            self._leave_broker(connection, CloseReason.SECOND_REQUEST, now, jitter)
        else:
            connection.busy += 1
            self._begin_work(session, address, body, now)

    def _on_timer(self, item: Any, now: float, jitter: float) -> None:
        """Check a connection's pulse, report a caller's deadline, or end a session's delay."""
        if isinstance(item, WorkerConnection):
            self._check_pulse(item, now, jitter)
        elif item.work is not None:
            self._report_caller_gone(item.work, GoneReason.TIME_UP)
        elif item.state is SessionState.DETACHED and not item.handling:
            self._waiting[item] = None

    def _check_pulse(self, connection: WorkerConnection, now: float, jitter: float) -> None:
        """Leave a broker that is silent, and send a HEARTBEAT when one is due."""
        pulse = connection.pulse
        lost_at = pulse.heard_at + self._expiry
        next_heartbeat = pulse.next_heartbeat
        if connection.phase is Phase.STRICT:
            next_heartbeat = pulse.next_regular_heartbeat
            session = connection.sessions.get(EMPTY)
            if session is not None and session.work is not None:
                lost_at = math.inf
        if now >= lost_at:
            if self._gap.may_judge(now):
                # "If the worker detects that the broker has disconnected, it SHOULD
                # restart a new conversation."
                self._note_silent_round(connection)
                self._lose_connection(connection, CloseReason.NO_HEARTBEAT, now, jitter)
                return
            lost_at = self._gap.until
        if now >= next_heartbeat(self._interval):
            self._send_heartbeat(connection, now)
        self._timers.arm(connection, min(lost_at, next_heartbeat(self._interval)))

    def _send_heartbeat(self, connection: WorkerConnection, now: float) -> None:
        connection.pulse.on_heartbeat_sent(now)
        self.actions.append(Send(connection, self.dialect.worker_command(Command.HEARTBEAT)))

    def _leave_broker(self, connection: WorkerConnection, reason: CloseReason, now: float, jitter: float) -> None:
        """Leave a broker that breaks the protocol; the broker may give the requests to other workers."""
        self.counters.malformed += 1
        self.actions.append(Send(connection, self.dialect.worker_command(Command.DISCONNECT)))
        self._lose_connection(connection, reason, now, jitter)
        self._assign_waiting(now)

    def _on_leaving(self, connection: WorkerConnection, now: float, jitter: float) -> None:
        """The broker drains: sessions stay until it lets them go, and then register at the next broker."""
        connection.leaving = True
        if connection.epoch == self._epoch:
            self._end_epoch(connection, CloseReason.SHUTTING_DOWN, self._reconnect.on_lost(now, jitter), now)
        self._assign_waiting(now)

    def _on_disconnect(self, connection: WorkerConnection, now: float, jitter: float) -> None:
        """The broker said DISCONNECT to the connection."""
        # "When the worker receives DISCONNECT it must send no further commands to
        # the broker; it MUST close its socket, and reconnect to the broker on a
        # new socket."
        reason = CloseReason.DISCONNECT
        self._note_spoken(connection)
        if connection.epoch == self._epoch:
            self._end_epoch(connection, reason, self._reconnect.on_disconnect(now, jitter), now)
        self._lose_connection(connection, reason, now, jitter)
        self._assign_waiting(now)

    def _hang_up(self, connection: WorkerConnection, reason: CloseReason, now: float) -> None:
        """Say DISCONNECT, close all sessions of a connection, and then the connection."""
        if connection in self._usable:
            self._usable.remove(connection)
            if connection.sessions or connection.phase is Phase.EXTENDED:
                # "The worker MAY send DISCONNECT at any time"
                self.actions.append(Send(connection, self.dialect.worker_command(Command.DISCONNECT)))
        sessions = list(connection.sessions.values())
        self._detach(*sessions)
        for session in sessions:
            self._close_session(session, now)
        self._close(connection, reason, after_sending=True)

    # Sessions

    def _attach(self, session: Session, connection: WorkerConnection, now: float) -> None:
        """Register a session on a connection."""
        connection.last_number += 1
        session.frame = EMPTY
        if connection.phase is Phase.EXTENDED:
            session.frame = extension.session_frame(connection.last_number, version=connection.version)
        session.connection = connection
        connection.sessions[session.frame] = session
        session.become(SessionState.IDLE)
        self.registered += 1
        # "The worker opens the connection to the broker by creating a new socket,
        # connecting it, and then sending a READY command to register a service."
        self._send_frames(connection, self._command_frames(session, Command.READY, self.service), now)
        if connection.timer is None:
            self._timers.arm(connection, now + self._interval)

    def _detach(self, *sessions: Session) -> None:
        """Take sessions off their connection.  A running handler goes on, and its answer is dropped."""
        forgotten = self._forget_work_not_begun(sessions)
        for session in sessions:
            connection = session.connection
            assert connection is not None  # each caller has checked
            del connection.sessions[session.frame]
            session.connection = None
            work = session.work
            if work is not None:
                connection.busy -= 1
                if id(work) in forgotten:
                    session.handling = False
                else:
                    self.events.append(Resumed(work))
            session.work = None
            session.parts = None
            session.oversize = False
            self._timers.disarm(session)
            session.become(SessionState.DETACHED)
            self.registered -= 1
            if not session.handling:
                self._waiting[session] = None

    def _forget_work_not_begun(self, sessions: Sequence[Session]) -> set[int]:
        """Sessions lose their work: work that has not begun never begins.  Returns the ids of such work."""
        lost = {id(session.work) for session in sessions if session.work is not None}
        forgotten: set[int] = set()
        for events in (self._held, self.events) if lost else ():
            found = lost.intersection(map(id, events))
            if found:
                # Decisions about the work go with it.
                events[:] = [
                    event for event in events if id(event if isinstance(event, Work) else event.work) not in found
                ]
                forgotten |= found
        return forgotten

    def _on_session_disconnect(self, session: Session | None, now: float, jitter: float) -> None:
        """The broker said DISCONNECT to a session."""
        if session is None:
            return
        connection = session.connection
        self._detach(session)
        if self.draining:
            self._close_session(session, now)
            return
        if connection is not None and connection.leaving:
            if not connection.sessions:
                self._hang_up(connection, CloseReason.SHUTTING_DOWN, now)
            self._assign_waiting(now)
            return
        delay = backoff(self._reconnect.interval, session.refusals, jitter)
        session.refusals += 1
        self._waiting.pop(session, None)
        self._timers.arm(session, now + delay)

    def _close_session(self, session: Session, now: float) -> None:
        """Say DISCONNECT for a session, if it is registered, and end it."""
        connection = session.connection
        if connection is not None:
            frames = self._command_frames(session, Command.DISCONNECT)
            if session.frame:
                frames[0] = self._last_frame(session)
            self._send_frames(connection, frames, now)
        self._end_session(session, now)

    @staticmethod
    def _last_frame(session: Session) -> bytes:
        """Return a session's frame with the flag LAST: no message of the session follows."""
        return extension.mark_session(session.frame, extension.LAST)

    def _end_session(self, session: Session, now: float) -> None:
        """Close a session for good; a connection that has none left is closed with it."""
        connection = session.connection
        if connection is not None:
            self._detach(session)
            if not connection.sessions:
                self._hang_up(connection, CloseReason.CLOSED, now)
        self._waiting.pop(session, None)
        self._timers.disarm(session)
        session.become(SessionState.CLOSED)
        self._open_sessions -= 1

    def _begin_work(self, session: Session, address: bytes, body: list[bytes], now: float) -> None:
        """Have the session's handler run for a request."""
        session.become(_BUSY)
        session.handling = True
        session.refusals = 0
        self.counters.requests += 1
        hints = token.read(address)
        session.work = work = _new(Work, (session, address, body, hints))
        session.unwanted = False
        session.sent = 0
        session.credit = INITIAL_CREDIT if hints is not None and hints.credits else math.inf
        (self._held if self._reads_first else self.events).append(work)
        # The caller's deadline bounds the handler: _on_timer reports when the time is up.
        if self._enforce_deadline and hints is not None and hints.time_left is not None:
            self._timers.arm(session, now + hints.time_left)

    def _report_caller_gone(self, work: Work, reason: GoneReason) -> None:
        """Have the handler of `work` told that nobody waits for its answer."""
        self.counters.callers_gone += 1
        work.session.unwanted = True
        self._report(CallerGone(work, reason))

    def _report(self, event: CallerGone | Resumed) -> None:
        """Tell the handler of some work; work that is held begins first."""
        held = self._held
        (held if any(work is event.work for work in held) else self.events).append(event)

    def _failure_body(self, failure: Failure) -> list[bytes]:
        """Return the body of a failure for a gmdp client: type name and message, if they may be revealed."""
        if not self._reveal_errors:
            return [EMPTY, EMPTY]
        return [part.encode("utf-8", "backslashreplace")[:MAX_REVEALED] for part in failure]

    def _command_frames(self, session: Session, command: Command, *rest: bytes) -> list[bytes]:
        """Return a session's command as the frames of a message."""
        if session.frame:
            return [session.frame, *self.extended.worker_command(command, *rest)]
        return self.dialect.worker_command(command, *rest)

    def _send_frames(self, connection: WorkerConnection, frames: list[bytes], now: float) -> None:
        connection.pulse.on_sent(now)
        self.actions.append(_new(Send, (connection, frames)))
