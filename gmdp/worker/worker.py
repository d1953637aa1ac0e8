"""The worker as users hold it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import monotonic
from typing import Any

import gevent
import zmq
import zmq.green
from zope.interface import implementer

from ..core.numbers import MOST_INTERVAL
from ..core.peer.reconnect import Reconnect
from ..core.peer.statistics import WorkerCounters, WorkerStatistics
from ..core.peer.worker import WorkerCore
from ..core.snapshots import copy_counts
from ..core.states import State
from ..exceptions import ConfigurationError
from ..interfaces import IWorker
from ..io.connector import EXTENSION_LABELS
from ..io.lifecycle import Lifecycle, running_in
from ..io.owner import Owner
from ..protocol.dialects import MMI_PREFIX
from ..security.credentials import make_credentials
from ..security.keys import Key
from ..validation import check_body, check_endpoints, check_flag, check_number, check_service, check_version
from .engine import WorkerEngine
from .handlers import Handler, make_spawner

_log = logging.getLogger("gmdp.worker")


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
        self._spawner = make_spawner(spawn)
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
        self._engine = WorkerEngine(
            self._core,
            self._context,
            self._heartbeat_interval,
            self._heartbeat_interval * self._liveness,
            self._credentials,
            worker=self,
            spawner=self._spawner,
            enforce_deadline=self.enforce_deadline,
            on_registered=self._on_registered,
            on_ended=self._on_owner_ended,
        )
        owner = Owner(self._engine, f"worker {self.service[:60]!r}")
        self._engine.start(owner)
        return owner, State.CONNECTING, ""

    def _begin_stop(self, owner: Owner, limit: float) -> None:
        if running_in.get() is self:
            self._engine.spared_task = gevent.getcurrent()
        super()._begin_stop(owner, limit)

    def _on_registered(self, registered: bool, reason: str) -> None:
        """A session is registered, or none is any more."""
        if registered and self.state is State.CONNECTING:
            self._advance(State.RUNNING)
        elif not registered and self.state is State.RUNNING:
            self._advance(State.CONNECTING, reason)

    def _reset_after_fork(self) -> None:
        self._counters = WorkerCounters()
        self._core = None

    def _drain(self, until: float) -> None:
        self._engine.drain(until)
