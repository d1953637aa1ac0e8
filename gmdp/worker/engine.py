"""What the owner of a worker's sockets drives: core, sockets and handlers.

The rules of this module:

* The core decides; the engine sends, has handlers run and logs.
* The engine knows no :class:`gmdp.Worker`: it is given values and two callbacks.
* Draining ends when the core is closed, no handler runs and the last messages have arrived, or when its
  time is up.  After that time the last messages, DISCONNECT among them, have :attr:`WorkerEngine.linger` seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

from ..core.peer.connector import Close
from ..core.peer.sessions import CallerGone, Failure, Resumed, Work
from ..core.peer.worker import WorkerCore
from ..io import logs
from ..io.contexts import Context
from ..io.dealers import ConnectorEngine
from ..io.owner import Owner
from ..protocol.text import show_name
from ..security.credentials import Credentials
from .dispatch import Dispatcher
from .handlers import HandlerOwner, PartSlot, Spawner

_log = logs.QueuedLogger("gmdp.worker")

#: Brief registrations in a row after which a warning is logged.
LOGGED_BRIEF_REGISTRATIONS = 3


class WorkerEngine(ConnectorEngine[WorkerCore]):
    """Drives one worker from :meth:`start` to its end.  For its owner only.

    Args:
        core: decides what becomes of each message.
        context: the context to make sockets in.
        heartbeat: seconds between heartbeats.
        zmtp_heartbeat: seconds between ZMTP heartbeats, and seconds without an answer that end a
            connection; None: no ZMTP heartbeats.
        credentials: the keys or the password to show; None: none.
        worker: what running handlers belong to.
        spawner: how handlers are run.
        threads_option: what keeps handlers off the hub, for a warning.
        on_registered: called with True when a session is registered, and with False and the
            reason when no session is registered any more.
        on_ended: called once every socket is closed, with the bug that ended the owner, or None.
    """

    def __init__(
        self,
        core: WorkerCore,
        context: Context | None,
        heartbeat: float,
        zmtp_heartbeat: tuple[float, float] | None,
        credentials: Credentials | None,
        *,
        worker: HandlerOwner,
        spawner: Spawner,
        threads_option: str,
        on_registered: Callable[[bool, str], None],
        on_ended: Callable[[BaseException | None], None],
    ) -> None:
        super().__init__(core, context, zmtp_heartbeat, credentials)
        self._heartbeat = heartbeat
        self._threads_option = threads_option
        self._worker = worker
        self._spawner = spawner
        self._on_registered = on_registered
        self._on_ended = on_ended
        #: The task whose handler called stop(): it is not killed.
        self.spared_task: object = None
        self._dispatchers: list[Dispatcher] = []
        #: When the present pass began.
        self._pass_began_at = monotonic()
        #: When draining ends at the latest; None while not draining.
        self._drain_until: float | None = None
        #: True once the time for draining is up.
        self._time_up = False
        #: True if the last messages are not waited for.
        self._abrupt = False
        #: Why a connection was closed last.
        self._close_reason = ""
        #: True while every broker refuses the worker.
        self._denied = False
        #: True while a session is registered.
        self._registered = False
        #: When the last registration began, and the requests received by then.
        self._registered_at = 0.0
        self._requests_at_registration = 0
        #: Registrations in a row that ended soon, without a request.
        self._brief_registrations = 0

    def start(self, owner: Owner) -> None:
        """Begin to connect; `owner` starts to run after that."""
        self.owner = owner
        for session in self.core.sessions:
            dispatcher = Dispatcher(session, self.core.service, self._worker, self._spawner, owner, self)
            session.dispatcher = dispatcher
            self._dispatchers.append(dispatcher)
        self.core.start(monotonic())

    # What the owner calls

    def on_wake(self, now: float) -> None:
        """A pass begins.  Logs a warning if the last pass began so long ago that the hub was blocked."""
        pause = now - self._pass_began_at
        if pause > self._heartbeat + self.owner.safety_interval:
            handling = any(dispatcher.running is not None for dispatcher in self._dispatchers)
            _log.warning(
                "the hub did not run for %.1f seconds%s: the worker of %s said nothing meanwhile; a silent worker "
                "gets no request, and the broker gives it up after busy_timeout%s",
                pause,
                ", while a handler ran" if handling else "",
                show_name(self.core.service),
                self._advice() if handling else "",
            )
        self._pass_began_at = now
        self.core.on_wake(now)

    def _advice(self) -> str:
        """Return the end of the warning about a blocked hub: what would have kept the handler off the hub."""
        if self._spawner.in_threads:
            return "; a thread blocks the hub, too, while it holds Python's interpreter lock"
        return f"; {self._threads_option} keeps a handler that computes off the hub"

    def on_caught_up(self, now: float) -> None:
        """Everything was read."""
        self.core.on_caught_up(now)

    def deadline(self) -> float:
        """When `tick` is needed next (monotonic seconds)."""
        deadline = self.core.deadline()
        return deadline if self._drain_until is None or self._time_up else min(deadline, self._drain_until)

    def tick(self, now: float) -> None:
        """Do what is due."""
        super().tick(now)
        if self._drain_until is not None and now >= self._drain_until and not self._time_up:
            self._time_up = True
            self.linger_until = None if self._abrupt else now + self.linger
            self._kill_handlers()
            self._close_connections(now)

    def flush(self, now: float) -> None:
        """Carry out what the core decided."""
        self.perform_actions(now)
        if self._registered is not (self.core.registered > 0):
            self._change_registered(now)
        if self._drain_until is not None and self._is_drained():
            self._finish()

    def on_owner_died(self, error: BaseException) -> None:
        """A bug ends the owner."""
        try:
            self._close_connections(monotonic())
        finally:
            self._finish(error)

    # What is posted to the owner

    def on_part(self, dispatcher: Dispatcher, work: Work, body: list[bytes], slot: PartSlot | None) -> None:
        """A handler yielded a part, and waits on `slot`, if it is not None, before the next."""
        now = monotonic()
        if slot is None:
            self.core.partial(work, body, now)
            return
        try:
            wanted = self.core.partial(work, body, now)
            if wanted:
                self.perform_actions(now)
        except BaseException:
            slot.set(False)  # a defect ends the owner
            raise
        if wanted:
            dispatcher.waiting = slot
            dispatcher.resume(work)
        else:
            slot.set(False)

    def on_handler_ended(
        self,
        dispatcher: Dispatcher,
        work: Work,
        body: list[bytes] | None,
        failure: Failure | None,
        seconds: float,
    ) -> None:
        """A handler ended, with the body of the FINAL or with a failure."""
        if dispatcher.running is not work:
            return  # it ended earlier
        dispatcher.running = dispatcher.request = dispatcher.task = None
        counters = self.core.counters
        counters.busy_time += seconds
        if failure is not None:
            counters.errors += 1
        errors = counters.errors
        self.core.final(work, body, failure, monotonic())
        if counters.errors > errors:
            _log.warning(
                "an answer of the handler of %s is larger than the broker allows; its caller gets an error",
                show_name(self.core.service),
            )

    def drain(self, until: float) -> None:
        """Take no new requests, and end when none is left, at `until` (monotonic seconds) at the latest."""
        now = monotonic()
        self._abrupt = self._abrupt or until <= now
        self._drain_until = until if self._drain_until is None else min(until, self._drain_until)
        self.linger_until = None if self._abrupt else self._drain_until
        self.owner.limit_lingering(self._drain_until)
        self.core.drain(now)

    # Carrying out

    def _on_events(self, events: list[Work | CallerGone | Resumed], now: float) -> None:
        for event in events:
            if isinstance(event, Work):
                event.session.dispatcher.dispatch(event)
            elif isinstance(event, CallerGone):
                event.work.session.dispatcher.cancel(event, self._worker.enforce_deadline)
            else:
                event.work.session.dispatcher.resume(event.work)

    def _on_socket_closed(self, action: Close) -> None:
        self._close_reason = action.reason.describe(action.detail)
        level = logging.DEBUG if self._drain_until is not None else logging.INFO
        denied, self._denied = self._denied, bool(self.core.denied)
        if self._denied and not denied and self._drain_until is None:
            # Once, while the worker goes on trying.
            _log.warning("worker of %s: %s", show_name(self.core.service), self.core.denial)
            return
        _log.log(
            level, "worker of %s: %s: %s", show_name(self.core.service), action.connection.place, self._close_reason
        )

    def _change_registered(self, now: float) -> None:
        """The first session was registered, or the last one is no longer registered."""
        self._registered = not self._registered
        self._on_registered(self._registered, self._close_reason)
        if self._registered:
            self._registered_at, self._requests_at_registration = now, self.core.counters.requests
        elif self._drain_until is None:
            self._count_brief_registration(now)

    def _count_brief_registration(self, now: float) -> None:
        """Log once that the broker drops the worker soon after each registration, without giving it a request."""
        if now - self._registered_at > self._heartbeat or self.core.counters.requests > self._requests_at_registration:
            self._brief_registrations = 0
            return
        self._brief_registrations += 1
        if self._brief_registrations == LOGGED_BRIEF_REGISTRATIONS:
            _log.warning(
                "%s does not keep a worker of %s: its rules or bounds may not allow the worker; still trying",
                self.core.endpoint,
                show_name(self.core.service),
            )

    # The end

    def _close_connections(self, now: float) -> None:
        self.core.close(now)
        self.perform_actions(now)
        self.close_unsent_queues()

    def _is_drained(self) -> bool:
        if not self.core.closed or self._unsent_queues or self.owner.lingers:
            return False
        # A handler whose connection was lost counts, too.
        return self._time_up or all(dispatcher.running is None for dispatcher in self._dispatchers)

    def _kill_handlers(self) -> None:
        for dispatcher in self._dispatchers:
            dispatcher.kill(self.spared_task)

    def _finish(self, death: BaseException | None = None) -> None:
        self._kill_handlers()
        self.cancel_lookups()
        self.owner.finish()
        self._on_ended(death)
