"""The worker as users hold it."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import Any

import gevent
import zmq
import zmq.green
from gevent.queue import Queue
from zope.interface import implementer

from .connecting import check, check_version, dealer
from .core.liveness import Gap
from .core.options import MOST_INTERVAL
from .core.reconnect import Reconnect
from .core.states import State
from .core.statistics import WorkerCounters, WorkerStatistics, counted
from .core.timers import Timers
from .core.worker import Close, Open, Send, SessionState, Work, WorkerSession
from .endpoints import check_body, check_endpoints, check_service
from .exceptions import ConfigurationError
from .handlers import Handler, request_of, run, spawner
from .interfaces import IWorker
from .lifecycle import Lifecycle, running_in
from .owner import Link, Owner
from .slots import Slot

_log = logging.getLogger("gmdp.worker")


@implementer(IWorker)
class Worker(Lifecycle):
    """Offers `service` to the broker at `endpoint` (RFC 7 and RFC 18, MDP/Worker).

    `endpoint`: one, or a sequence: the first that answers is used, the next one
    when it is lost.  `handler`: called with a :class:`gmdp.Request`, see
    :class:`gmdp.interfaces.IRequestHandler`.  `concurrency`: requests worked on
    at once, each over a connection of its own.  `spawn`: what runs a handler, as
    gevent's servers take it: a pool, a size, a callable; a ``ThreadPool`` keeps
    handlers that compute off the hub.  Heartbeats never depend on a handler, but
    a handler that blocks the hub blocks them too.

    `version`: "0.2", or "0.1" (parts of an answer are then joined).
    `heartbeat_interval`: seconds; `liveness`: intervals of silence after which
    the broker is lost; `reconnect_interval`: seconds before the second attempt,
    doubled up to 16 times, with jitter.  `error_reply`: the body sent where a
    handler failed.  `context`: the ``zmq.green.Context`` of an embedding
    application.

    `start` returns at once; the state is CONNECTING until a session is
    registered.  A handler whose connection was lost is left to run to its end;
    its session registers again when it has.  Raises ConfigurationError for a
    wrong value.
    """

    def __init__(
        self,
        endpoint: str | Sequence[str],
        service: str | bytes,
        handler: Handler,
        concurrency: int = 1,
        spawn: Any = None,
        *,
        version: str = "0.2",
        heartbeat_interval: float = 2.5,
        liveness: float = 3,
        reconnect_interval: float = 0.5,
        error_reply: bytes | Sequence[bytes] = b"500",
        context: zmq.green.Context[Any] | None = None,
    ) -> None:
        self.endpoints = check_endpoints(endpoint)
        self.service = check_service(service)
        if not callable(handler):
            raise ConfigurationError(f"handler must be callable, not {handler!r}")
        self.handler = handler
        self.concurrency: int = check("concurrency", concurrency, 1, whole=True)
        self.version = version
        self._dialect = check_version(version)
        self._heartbeat_interval: float = check(
            "heartbeat_interval", heartbeat_interval, 0, above=True, most=MOST_INTERVAL
        )
        self._liveness: float = check("liveness", liveness, 3)
        self._reconnect_interval: float = check("reconnect_interval", reconnect_interval, 0, above=True)
        self._error_reply = check_body(error_reply)
        self._spawn = spawner(spawn)
        super().__init__(context)
        self._counters = WorkerCounters()
        self._sessions: list[WorkerSession] = []
        self._started_at = monotonic()

    def statistics(self) -> WorkerStatistics:
        """Everything as it is at this moment, as an immutable copy.

        Any greenlet, any thread, any state; from another thread it raises
        StateError if the worker's hub does not run.  Totals go on over restarts.
        """
        statistics: WorkerStatistics = self._in_owner_thread(self._owner, self._statistics)
        return statistics

    def _statistics(self) -> WorkerStatistics:
        return WorkerStatistics(
            uptime=monotonic() - self._started_at,
            sessions=len(self._sessions),
            registered=sum(session.registered for session in self._sessions),
            busy=sum(session.handling for session in self._sessions),
            **counted(self._counters),
        )

    def __repr__(self) -> str:
        now = self._statistics()
        return (
            f"<{type(self).__name__} {self.state.value} {self.service[:60]!r} sessions={now.sessions} "
            f"registered={now.registered} busy={now.busy}>"
        )

    def _open(self) -> tuple[Owner, State, str]:
        now = self._started_at = monotonic()
        gap = Gap(self._heartbeat_interval, self._heartbeat_interval * self._liveness, now)
        self._sessions = [
            WorkerSession(
                self.service,
                self._dialect,
                Reconnect(self.endpoints, self._reconnect_interval),
                self._counters,
                heartbeat_interval=self._heartbeat_interval,
                liveness=self._liveness,
                gap=gap,
                now=now,
            )
            for _ in range(self.concurrency)
        ]
        self._engine = _WorkerEngine(self, gap)
        owner = Owner(self._engine, f"worker {self.service[:60]!r}")
        self._engine.start(owner, self._sessions)
        return owner, State.CONNECTING, ""

    def _begin_stop(self, owner: Owner, limit: float) -> None:
        if running_in.get() is self:
            self._engine.spared = gevent.getcurrent()
        super()._begin_stop(owner, limit)

    def _drain(self, until: float) -> None:
        self._engine.drain(until)


class _Session:
    """A session, its link, and the greenlet that hands its work to handlers."""

    __slots__ = (
        "closing",
        "core",
        "dispatcher",
        "engine",
        "link",
        "queue",
        "registered",
        "running",
        "stuck",
        "task",
        "timer",
        "waiters",
    )

    def __init__(self, engine: _WorkerEngine, core: WorkerSession) -> None:
        self.engine = engine
        self.core = core
        self.link: Link | None = None
        #: Work on its way to the dispatcher: one piece at most.
        self.queue: Queue[Work] = Queue()
        #: What the link had no room for.
        self.stuck: deque[list[bytes]] = deque()
        #: Handlers that wait until it has.
        self.waiters: list[Slot] = []
        #: Set while the link is to be closed as soon as nothing is stuck.
        self.closing: Close | None = None
        self.registered = False
        #: The work a handler has, and what runs the handler.
        self.running: Work | None = None
        self.task: Any = None
        self.timer: tuple[float, int] | None = None
        self._dispatch_again()

    def _dispatch_again(self, _: object = None) -> None:
        """Start the dispatcher; and again, should somebody kill it."""
        if self.core.state is not SessionState.CLOSED:
            self.dispatcher = gevent.spawn(self._dispatch)
            self.dispatcher.rawlink(self._dispatch_again)

    def _dispatch(self) -> None:
        engine = self.engine
        worker = engine.shell
        while True:
            work = self.queue.get()
            request = request_of(worker.service, work)
            self.running = work
            try:
                self.task = task = worker._spawn(run, worker, worker.handler, request, work, self)
            except BaseException as error:
                self.final(work, None, error, 0.0)
                if not isinstance(error, Exception):
                    raise
                _log.warning("the handler of %.100r could not be started", worker.service, exc_info=True)
                continue
            # One that is killed before it began never says that it ended.
            link = getattr(task, "rawlink", None)
            if link is not None:
                link(lambda _, work=work: engine.owner.post(engine.task_ended, self, work))

    # A running handler's results; from any thread

    def partial(self, work: Work, body: list[bytes], slot: Slot | None) -> None:
        self.engine.owner.post(self.engine.partial, self, work, body, slot)

    def final(self, work: Work, body: list[bytes] | None, failure: BaseException | None, seconds: float) -> None:
        self.engine.owner.post(self.engine.final, self, work, body, failure, seconds)


class _WorkerEngine:
    """Between a worker's sessions, their sockets and its handlers."""

    #: Seconds the last messages have to leave, in the background.
    linger = 1.0

    owner: Owner

    def __init__(self, shell: Worker, gap: Gap) -> None:
        self.shell = shell
        #: The handler that called stop(): it is not killed for it.
        self.spared: object = None
        self._gap = gap
        self._last = monotonic()
        self._sessions: list[_Session] = []
        self._changed: set[_Session] = set()
        self._stuck: set[_Session] = set()
        self._timers = Timers()
        self._until: float | None = None
        self._registered = 0
        self._reason = ""
        self.caught_up = gap.caught_up

    def start(self, owner: Owner, cores: list[WorkerSession]) -> None:
        self.owner = owner
        self._sessions = [_Session(self, core) for core in cores]
        self._changed.update(self._sessions)

    # What the owner calls

    def awake(self, now: float) -> None:
        pause = now - self._last
        if pause > self.shell._heartbeat_interval * self.shell._liveness + self.owner.safety_interval:
            _log.warning(
                "the hub did not run for %.1f seconds, so the worker of %.100r sent no heartbeat; "
                "a handler that computes belongs into a ThreadPool (spawn=)",
                pause,
                self.shell.service,
            )
        self._last = now
        self._gap.awake(now, self._timers.next())

    def received(self, link: Link, frames: list[bytes], now: float) -> None:
        session: _Session = link.tag
        session.core.feed(frames, now, random.random())
        self._changed.add(session)

    def up(self, link: Link, now: float) -> None:
        link.tag.core.connected(now)
        self._changed.add(link.tag)

    def down(self, link: Link, reason: str, now: float) -> None:
        session: _Session = link.tag
        if session.closing is not None:
            self._disconnect(session, session.closing)
        session.core.disconnected(reason, now, random.random())
        self._changed.add(session)

    def deadline(self) -> float:
        when = self._timers.next()
        return when if self._until is None else min(when, self._until)

    def tick(self, now: float) -> None:
        while (session := self._timers.due(now)) is not None:
            session.core.tick(now, random.random())
            self._changed.add(session)
        if self._until is not None and now >= self._until:
            for session in self._sessions:
                session.core.close(now)
                self._settle(session, now)
                if session.closing is not None:
                    self._disconnect(session, session.closing)

    def flush(self, now: float) -> None:
        self._changed.update(self._stuck)
        while self._changed:
            self._settle(self._changed.pop(), now)
        if self._until is not None and all(
            session.core.state is SessionState.CLOSED and session.closing is None for session in self._sessions
        ):
            self._end()

    def died(self, error: BaseException) -> None:
        for session in self._sessions:
            session.core.close(monotonic())
            self._disconnect(session, Close(str(error)))
        self._end(error)

    # What is posted to the owner

    def partial(self, session: _Session, work: Work, body: list[bytes], slot: Slot | None) -> None:
        wanted = session.core.partial(work, body, monotonic())
        if slot is not None:
            if wanted:
                session.waiters.append(slot)
            else:
                slot.set(False)
        self._changed.add(session)

    def final(
        self, session: _Session, work: Work, body: list[bytes] | None, failure: BaseException | None, seconds: float
    ) -> None:
        if session.running is not work:
            return  # it has ended before
        session.running = None
        shell = self.shell
        shell._counters.busy_time += seconds
        if failure is not None:
            shell._counters.errors += 1
            body = shell._error_reply
        session.task = None
        session.core.final(work, body, failure is not None, monotonic())
        self._changed.add(session)

    def task_ended(self, session: _Session, work: Work) -> None:
        self.final(session, work, None, gevent.GreenletExit("killed before it began"), 0.0)

    def drain(self, until: float) -> None:
        self._until = until if self._until is None else min(until, self._until)
        for session in self._sessions:
            session.core.drain(monotonic())
            self._changed.add(session)

    # Carrying out

    def _settle(self, session: _Session, now: float) -> None:
        core = session.core
        self._send_stuck(session)
        while core.actions:
            actions, core.actions = core.actions, []
            for action in actions:
                if isinstance(action, Send):
                    session.stuck.append(action.frames)
                    self._send_stuck(session)
                elif isinstance(action, Work):
                    session.queue.put(action)
                elif isinstance(action, Open):
                    self._connect(session, action.endpoint, now)
                elif action.after_sending and session.stuck:
                    session.closing = action
                else:
                    self._disconnect(session, action)
        if session.closing is not None and not session.stuck:
            self._disconnect(session, session.closing)
        if not session.stuck:
            while session.waiters:
                session.waiters.pop().set(True)
        when = core.deadline()
        if session.timer is None or when < session.timer[0]:
            self._timers.arm(session, max(when, now)) if when < float("inf") else None
        if core.registered is not session.registered:
            session.registered = core.registered
            self._registered += 1 if core.registered else -1
            self._show()

    def _send_stuck(self, session: _Session) -> None:
        link = session.link
        while session.stuck and link is not None:
            if link.send(session.stuck[0]) is not None:
                # No room, or no peer any more: the socket will tell which.
                self._stuck.add(session)
                return
            session.stuck.popleft()
        self._stuck.discard(session)

    def _connect(self, session: _Session, endpoint: str, now: float) -> None:
        shell = self.shell
        interval = shell._heartbeat_interval
        try:
            session.link = link = dealer(
                self.owner, shell._context, endpoint, session, interval, interval * shell._liveness
            )
        except zmq.ZMQError as error:
            session.core.disconnected(error.strerror or str(error), now, random.random())
            return
        if link.inproc:
            session.core.connected(now)

    def _disconnect(self, session: _Session, action: Close) -> None:
        self._reason = action.reason
        session.closing = None
        if session.link is not None:
            level = logging.DEBUG if self._until is not None else logging.INFO
            _log.log(level, "worker of %.100r: %s", self.shell.service, action.reason)
            session.link.close(self.linger)
            session.link = None
        session.stuck.clear()
        self._stuck.discard(session)
        while session.waiters:
            session.waiters.pop().set(False)

    def _show(self) -> None:
        """Let the worker's state say whether a session is registered."""
        shell = self.shell
        if shell.state is State.CONNECTING and self._registered:
            shell._advance(State.RUNNING)
        elif shell.state is State.RUNNING and not self._registered:
            shell._advance(State.CONNECTING, self._reason)

    def _end(self, death: BaseException | None = None) -> None:
        for session in self._sessions:
            session.dispatcher.kill(block=False)
            kill = getattr(session.task, "kill", None)
            if kill is not None and session.task is not self.spared:
                kill(block=False)
        self.owner.finish()
        self.shell._ended(death)
