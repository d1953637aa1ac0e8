"""The worker as users hold it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import gevent
import greenlet
import zmq
import zmq.green
from gevent.queue import Queue
from zope.interface import implementer

from ..core.numbers import MOST_INTERVAL
from ..core.peer.connector import Close
from ..core.peer.reconnect import Reconnect
from ..core.peer.sessions import Failure, Gone, Session, SessionState, Work
from ..core.peer.statistics import WorkerCounters, WorkerStatistics
from ..core.peer.worker import WorkerCore
from ..core.snapshots import copy_counts
from ..core.states import State
from ..exceptions import ConfigurationError, RequestCancelled
from ..interfaces import IWorker
from ..io.connector import EXTENSION_LABELS, ConnectorEngine
from ..io.lifecycle import Lifecycle, running_in
from ..io.owner import Owner
from ..io.slots import Slot
from ..protocol.dialects import MMI_PREFIX
from ..security.credentials import make_credentials
from ..security.keys import Key
from ..validation import check_body, check_endpoints, check_flag, check_number, check_service, check_version
from .handlers import Handler, Request, request_of, run, spawner

_log = logging.getLogger("gmdp.worker")

#: How often in a row a worker is not kept before that is told.
TELLING_REFUSALS = 3


@implementer(IWorker)
class Worker(Lifecycle):
    """Offers `service` to the broker at `endpoint` (RFC 7 and RFC 18, MDP/Worker).

    `endpoint`: one, or a sequence: the first that answers is used, the next one
    when it is lost.  `handler`: called with a :class:`gmdp.Request`, see
    :class:`gmdp.interfaces.IRequestHandler`.  `concurrency`: requests worked on
    at once; over one connection if the broker is gmdp's, else over one each.
    `spawn`: what runs a handler, as gevent's servers take it: a pool, a size, a
    callable; a ``ThreadPool`` keeps handlers that compute off the hub.  Heartbeats
    never depend on a handler, but a handler that blocks the hub blocks them too.

    `version`: "0.2", or "0.1" (parts of an answer are then joined).
    `heartbeat_interval`: seconds; `liveness`: intervals of silence after which
    the broker is lost; `reconnect_interval`: seconds before the second attempt,
    doubled up to 16 times, with jitter.  `error_reply`: the body a strict client
    gets where a handler failed; gmdp clients get
    :class:`gmdp.HandlerFailed`, with the error's type and message if
    `reveal_errors`.  `enforce_deadline`: raise :class:`gmdp.RequestCancelled` in a
    handler, where it waits next, as soon as its caller has gone or its time is up
    (in greenlets only: a thread cannot be stopped; it may ask
    ``request.remaining()``).  `require_extensions`: do not work for a broker that
    does not speak gmdp's extension.  `server_key`: the broker's public key, and
    `curve_key`, one's own secret key (made up if it is left out), each by the name of a
    file, in Z85, or as ``env:VARIABLE``; or `username` and `password`.  `context`: the
    ``zmq.green.Context`` of an embedding application.

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
        reveal_errors: bool = False,
        enforce_deadline: bool = False,
        require_extensions: bool = False,
        curve_key: Key | None = None,
        server_key: Key | None = None,
        username: str | None = None,
        password: str | None = None,
        context: zmq.green.Context[Any] | None = None,
    ) -> None:
        self.endpoints = check_endpoints(endpoint)
        self._credentials = make_credentials(self.endpoints, curve_key, server_key, username, password)
        self.service = check_service(service)
        if self.service.startswith(MMI_PREFIX):
            raise ConfigurationError(
                f"a worker's service cannot be {self.service!r}: the broker itself serves what begins with mmi. (RFC 8)"
            )
        if not callable(handler):
            raise ConfigurationError(f"handler must be callable, not {handler!r}")
        self.handler = handler
        self.concurrency: int = check_number("concurrency", concurrency, at_least=1, whole=True)
        self.version = version
        self._dialect = check_version(version)
        self._heartbeat_interval: float = check_number(
            "heartbeat_interval", heartbeat_interval, above=0, at_most=MOST_INTERVAL
        )
        self._liveness: float = check_number("liveness", liveness, at_least=3)
        self._reconnect_interval: float = check_number("reconnect_interval", reconnect_interval, above=0)
        self._error_reply = check_body(error_reply)
        self.reveal_errors: bool = check_flag("reveal_errors", reveal_errors)
        self.enforce_deadline: bool = check_flag("enforce_deadline", enforce_deadline)
        self.require_extensions: bool = check_flag("require_extensions", require_extensions)
        self._spawn, self._spawn_waits = spawner(spawn)
        super().__init__(context)
        self._counters = WorkerCounters()
        self._core: WorkerCore | None = None
        self._started_at = monotonic()

    @property
    def extensions(self) -> bool | None:
        """Does the broker speak gmdp's extension?  None while that is not known.  Any thread."""
        return None if self._core is None else self._core.speaks_extension

    def statistics(self) -> WorkerStatistics:
        """Everything as it is at this moment, as an immutable copy.

        Any greenlet, any thread, any state; from another thread it raises
        StateError if the worker's hub does not run.  Totals go on over restarts.
        """
        statistics: WorkerStatistics = self._call_in_owner_thread(self._owner, self._statistics)
        return statistics

    def _statistics(self) -> WorkerStatistics:
        core = self._core
        sessions = core.sessions if core is not None else []
        return WorkerStatistics(
            uptime=monotonic() - self._started_at,
            sockets=core.sockets if core is not None else 0,
            sessions=len(sessions),
            registered=core.registered if core is not None else 0,
            busy=sum(session.handling for session in sessions),
            **copy_counts(self._counters),
        )

    def __repr__(self) -> str:
        now = self._statistics()
        return (
            f"<{type(self).__name__} {self.state.value} {self.service[:60]!r} {EXTENSION_LABELS[self.extensions]} "
            f"sessions={now.sessions} registered={now.registered} busy={now.busy}>"
        )

    def _open(self) -> tuple[Owner, State, str]:
        now = self._started_at = monotonic()
        self._core = WorkerCore(
            self.service,
            self._dialect,
            Reconnect(self.endpoints, self._reconnect_interval),
            self._counters,
            concurrency=self.concurrency,
            heartbeat_interval=self._heartbeat_interval,
            liveness=self._liveness,
            error_reply=self._error_reply,
            reveal_errors=self.reveal_errors,
            enforce_deadline=self.enforce_deadline,
            require_extensions=self.require_extensions,
            now=now,
        )
        self._engine = _WorkerEngine(self, self._core)
        owner = Owner(self._engine, f"worker {self.service[:60]!r}")
        self._engine.start(owner)
        return owner, State.CONNECTING, ""

    def _begin_stop(self, owner: Owner, limit: float) -> None:
        if running_in.get() is self:
            self._engine.spared = gevent.getcurrent()
        super()._begin_stop(owner, limit)

    def _reset_after_fork(self) -> None:
        self._counters = WorkerCounters()
        self._core = None

    def _drain(self, until: float) -> None:
        self._engine.drain(until)


class _Session:
    """Between a session and its handlers: what runs; and where `spawn` may wait, a
    dispatcher, a greenlet that does."""

    __slots__ = ("core", "dispatcher", "engine", "link", "queue", "request", "running", "task")

    def __init__(self, engine: _WorkerEngine, core: Session) -> None:
        self.engine = engine
        self.core = core
        #: Work on its way to the dispatcher, where there has to be one: one piece at most.
        self.queue: Queue[Work] | None = None
        self.dispatcher: gevent.Greenlet | None = None
        #: The work a handler has, the request made of it, and what runs the handler.
        self.running: Work | None = None
        self.request: Request | None = None
        self.task: Any = None
        #: What `task` calls if it ends before the handler began.
        self.link: Callable[[Any], None] | None = None
        if engine.shell._spawn_waits:
            self.queue = Queue()
            self._dispatch_again()

    def begin(self, work: Work) -> None:
        """In the owner, which must not wait: have a handler run."""
        if self.queue is not None:
            self.queue.put(work)
        else:
            self._start(work)

    def _dispatch_again(self, _: object = None) -> None:
        """Start the dispatcher; and again, should somebody kill it."""
        if self.core.state is not SessionState.CLOSED:
            self.dispatcher = gevent.spawn(self._dispatch)
            self.dispatcher.rawlink(self._dispatch_again)

    def _dispatch(self) -> None:
        assert self.queue is not None  # else there is no dispatcher
        while True:
            self._start(self.queue.get())

    def _start(self, work: Work) -> None:
        engine = self.engine
        worker = engine.shell
        self.running = work
        self.request = request = request_of(worker.service, work)
        try:
            self.task = task = worker._spawn(run, worker, worker.handler, request, work, self)
        except BaseException as error:
            self.final(work, None, error, 0.0)
            if not isinstance(error, Exception):
                raise
            _log.warning("the handler of %.100r could not be started", worker.service, exc_info=True)
            return
        # One that is killed before it began never says that it ended.
        link = getattr(task, "rawlink", None)
        if link is not None:
            self.link = functools.partial(self._never_began, work)
            link(self.link)

    def _never_began(self, work: Work, _: object) -> None:
        self.engine.owner.post(self.engine.task_ended, self, work)

    def gone(self, gone: Gone, enforce: bool) -> None:
        """Nobody waits for the answer any more: the handler may see it, or is stopped."""
        if self.running is not gone.work or self.request is None:
            return
        self.request.give_up()
        if enforce and isinstance(self.task, greenlet.greenlet):
            gevent.kill(self.task, RequestCancelled(f"nobody waits for the answer: {gone.reason.value}"))

    # A running handler's results; from any thread

    def begun(self) -> bool:
        if self.engine.owner.abandoned:
            return False
        task = self.task
        if task is gevent.getcurrent() and self.link is not None:
            task.unlink(self.link)  # it says itself when it ends
        return True

    def partial(self, work: Work, body: list[bytes], slot: Slot | None) -> None:
        self.engine.owner.post(self.engine.partial, self, work, body, slot)

    def final(self, work: Work, body: list[bytes] | None, failure: BaseException | None, seconds: float) -> None:
        self.engine.owner.post(self.engine.final, self, work, body, failure, seconds)


class _WorkerEngine(ConnectorEngine[WorkerCore]):
    """Between a worker's core, its sockets and its handlers."""

    def __init__(self, shell: Worker, core: WorkerCore) -> None:
        interval = shell._heartbeat_interval
        super().__init__(core, shell._context, interval, interval * shell._liveness, shell._credentials)
        self.shell = shell
        #: The handler that called stop(): it is not killed for it.
        self.spared: object = None
        self._last = monotonic()
        self._sessions: list[_Session] = []
        self._until: float | None = None
        self._reason = ""
        #: True while no broker lets it in.
        self._denied = False
        #: When it was registered last, and how many requests it had had by then.
        self._registered = (0.0, 0)
        #: How often in a row it was not for long, and had no request.
        self._turned_away = 0
        #: True once nothing more is waited for.
        self._time_up = False
        self.on_caught_up = core.caught_up

    def start(self, owner: Owner) -> None:
        self.owner = owner
        for session in self.core.sessions:
            session.tag = _Session(self, session)
            self._sessions.append(session.tag)
        self.core.start(monotonic())

    # What the owner calls

    def on_wake(self, now: float) -> None:
        pause = now - self._last
        if pause > self._heartbeat + self.owner.safety_interval:
            if any(session.running is not None for session in self._sessions):
                told = "while a handler of %.100r ran; one that computes belongs into a ThreadPool (spawn=)"
            else:
                told = "and with it the worker of %.100r"
            _log.warning(f"the hub did not run for %.1f seconds, {told}", pause, self.shell.service)
        self._last = now
        self.core.awake(now)

    def deadline(self) -> float:
        when = self.core.deadline()
        return when if self._until is None else min(when, self._until)

    def tick(self, now: float) -> None:
        super().tick(now)
        if self._until is not None and now >= self._until:
            self._time_up = True
            self._close_all(now)

    def flush(self, now: float) -> None:
        self.perform_actions(now)
        self._show(now)
        if self._until is not None and self.core.closed and not self._stuck and (self._time_up or self._all_done()):
            self._end()

    def _all_done(self) -> bool:
        """No handler runs any more, be it one whose connection was lost."""
        return all(session.running is None for session in self._sessions)

    def on_owner_died(self, error: BaseException) -> None:
        self._close_all(monotonic())
        self._end(error)

    # What is posted to the owner

    def partial(self, session: _Session, work: Work, body: list[bytes], slot: Slot | None) -> None:
        now = monotonic()
        wanted = self.core.partial(work, body, now)
        if slot is None:
            return
        if not wanted:
            slot.set(False)
            return
        self.perform_actions(now)
        connection = session.core.connection
        if connection is None or not connection.handle.unsent:
            slot.set(connection is not None)
        else:
            connection.handle.waiters.append(slot)

    def final(
        self, session: _Session, work: Work, body: list[bytes] | None, failure: BaseException | None, seconds: float
    ) -> None:
        if session.running is not work:
            return  # it has ended before
        session.running = session.request = session.task = None
        counters = self.shell._counters
        counters.busy_time += seconds
        told = None
        if failure is not None:
            counters.errors += 1
            told = Failure(type(failure).__name__, str(failure))
        errors = counters.errors
        self.core.final(work, body, told, monotonic())
        if counters.errors > errors:
            _log.warning(
                "an answer of the handler of %.100r is larger than the broker takes; its caller is told that it failed",
                self.shell.service,
            )

    def task_ended(self, session: _Session, work: Work) -> None:
        self.final(session, work, None, gevent.GreenletExit("killed before it began"), 0.0)

    def drain(self, until: float) -> None:
        self._until = until if self._until is None else min(until, self._until)
        self.core.drain(monotonic())

    # Carrying out

    def _close_all(self, now: float) -> None:
        self.core.close(now)
        self.perform_actions(now)
        self.close_stuck()

    def _on_events(self, events: list[Work | Gone], now: float) -> None:
        for event in events:
            if isinstance(event, Work):
                event.session.tag.begin(event)
            else:
                event.work.session.tag.gone(event, self.shell.enforce_deadline)

    def _on_socket_closed(self, action: Close) -> None:
        self._reason = action.reason.describe(action.detail)
        level = logging.DEBUG if self._until is not None else logging.INFO
        denied, self._denied = self._denied, bool(self.core.denied)
        if self._denied and not denied and self._until is None:
            level = logging.WARNING  # once: it goes on trying
        _log.log(level, "worker of %.100r: %s: %s", self.shell.service, action.connection.endpoint, self._reason)

    def _show(self, now: float) -> None:
        """Let the worker's state say whether a session is registered."""
        shell = self.shell
        if shell.state is State.CONNECTING and self.core.registered:
            self._registered = (now, self.core.counters.requests)
            shell._advance(State.RUNNING)
        elif shell.state is State.RUNNING and not self.core.registered:
            shell._advance(State.CONNECTING, self._reason)
            self._judge(now)

    def _judge(self, now: float) -> None:
        """It is registered no more: does the broker not take it at all?"""
        since, requests = self._registered
        if now - since > self._heartbeat or self.core.counters.requests > requests:
            self._turned_away = 0
            return
        self._turned_away += 1
        if self._turned_away == TELLING_REFUSALS:
            _log.warning(
                "%s does not keep a worker of %.100r: the broker's rules or bounds may be against it; trying on",
                self.core.endpoint,
                self.shell.service,
            )

    def _end(self, death: BaseException | None = None) -> None:
        for session in self._sessions:
            if session.dispatcher is not None:
                session.dispatcher.kill(block=False)
            kill = getattr(session.task, "kill", None)
            if kill is not None and session.task is not self.spared:
                kill(block=False)
        self.owner.finish()
        self.shell._on_owner_ended(death)
