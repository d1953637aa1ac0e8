"""The worker: what users make, start and stop."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any

import gevent
from zope.interface import implementer

from ..core.liveness import zmtp_heartbeat
from ..core.numbers import MOST_INTERVAL
from ..core.peer.reconnect import Reconnect
from ..core.peer.statistics import WorkerCounters, WorkerStatistics
from ..core.peer.worker import WorkerCore
from ..core.snapshots import copy_counts
from ..core.states import State
from ..exceptions import ConfigurationError
from ..interfaces import IWorker
from ..io import forks
from ..io.contexts import Context
from ..io.dealers import EXTENSION_LABELS
from ..io.lifecycle import Lifecycle, current_lifecycle
from ..io.owner import Owner
from ..protocol.dialects import MMI_PREFIX
from ..protocol.text import show_name
from ..security.credentials import make_credentials
from ..security.keys import Key
from ..validation import check_body, check_endpoints, check_flag, check_number, check_service, check_version
from .engine import WorkerEngine
from .handlers import Handler, check_handler, make_spawner


@implementer(IWorker)
class Worker(Lifecycle):
    """Offers one service to a broker (RFC 7 and RFC 18, MDP/Worker).

    ::

        with Worker("tcp://127.0.0.1:5555", "echo", lambda request: request.body):
            ...

    Life: ``start()`` returns at once, in state CONNECTING; the state is RUNNING while the
    worker is registered.  ``stop()`` finishes the requests in hand; see
    :class:`gmdp.io.lifecycle.Lifecycle`.  A handler whose connection was lost runs to its end,
    its answer is dropped, and its session registers again when it has ended.

    Threads: a worker is for the greenlets of the thread that started it.  Any thread may call
    ``stop``, ``close`` and :meth:`statistics`, and read the properties.

    Handlers that compute: heartbeats never depend on a handler, unless the handler blocks the hub.
    Then the worker says nothing and gets no further request until the hub runs again.  The broker leaves it to
    the work it has begun for the broker's ``busy_timeout``, as long as the process lives.
    ``spawn=ThreadPool(4)`` keeps handlers off the hub.

    Times are seconds.

    Args:
        endpoint: the broker's endpoint, or a sequence of endpoints.  The first that answers is
            used, and the next one when it is lost.  None: those in ``$GMDP_BROKER``, with commas
            between; `service` and `handler` are keywords then.
        service: the name of the service, which must be given; str is encoded as UTF-8.
        handler: what must be given, too: called with each :class:`gmdp.Request`; see
            :class:`gmdp.interfaces.IRequestHandler`.
        concurrency: requests that are worked on at once: over one connection to a gmdp broker,
            over one connection each to any other.  None: the size of the pool that `spawn` names, else 1.
        spawn: what runs a handler, as gevent's servers take it: a pool, a size, a callable,
            "raw", or None for a new greenlet.  A ``ThreadPool`` keeps handlers off the hub.
        version: the protocol's version, "0.2" (RFC 18), or "0.1" (RFC 7: the parts of an answer
            are joined, unless a gmdp broker takes them one by one).
        heartbeat_interval: seconds between heartbeats.
        liveness: intervals of silence after which the broker is lost, 3 at least.  A broker that speaks only the
            RFCs may be silent while the worker has work, as many are.  Each frame must cross its link in
            less than ``heartbeat_interval * (liveness - 0.75)`` seconds.
        reconnect_interval: seconds, at most, before the first new attempt once every endpoint
            has failed.  Later delays double, up to 16 times this.  Jitter shortens each delay by
            up to half.
        error_reply: the reply to a request whose handler failed, where the client or the broker
            speaks the RFCs only.  Otherwise the call ends with :class:`gmdp.HandlerFailed`.
        reveal_errors: give gmdp clients the error's type and message.
        enforce_deadline: raise :class:`gmdp.RequestCancelled` in a handler, where it waits
            next, as soon as nobody waits for its answer.  This works in greenlets only; a
            handler in a thread may ask ``request.remaining()``.
        require_extensions: use only brokers that speak gmdp's extension.
        zmtp_heartbeats: have ZeroMQ itself ask whether the broker's process is alive.  False is for brokers of
            ZMTP 3.0, which do not answer.
        curve_key: the worker's secret key; None: a new one.  Each key is the name of a file,
            the key in Z85, or ``env:VARIABLE``.
        server_key: the broker's public key; None: the connection is not encrypted.
        username: the user's name, where the broker asks for a password.
        password: the user's password.
        context: the ``zmq.green.Context`` of an embedding application; None: the green context
            that the process shares.

    Raises:
        ConfigurationError: an option is wrong.
        TypeError: `service` or `error_reply` has a wrong type.

    Attributes:
        endpoints (tuple of str): the brokers' endpoints, in order of preference.
        service (bytes): the name of the service.
        handler (IRequestHandler): called with each request.
        concurrency (int): requests that are worked on at once.
        version (str): "0.1" or "0.2".
    """

    #: The option that keeps handlers off the hub, as the warning about a blocked hub names it.
    threads_option: str = "spawn=ThreadPool(N)"

    def __init__(
        self,
        endpoint: str | Sequence[str] | None = None,
        service: str | bytes | None = None,
        handler: Handler | None = None,
        concurrency: int | None = None,
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
        zmtp_heartbeats: bool = True,
        curve_key: Key | None = None,
        server_key: Key | None = None,
        username: str | None = None,
        password: str | None = None,
        context: Context | None = None,
    ) -> None:
        self.endpoints = check_endpoints(endpoint)
        self._credentials = make_credentials(self.endpoints, curve_key, server_key, username, password)
        if service is None or handler is None:
            missing = "service" if service is None else "handler"
            raise TypeError(f"a Worker needs a {missing}: Worker(endpoint, service, handler), or both as keywords")
        self.service = check_service(service)
        if self.service.startswith(MMI_PREFIX):
            raise ConfigurationError(
                f"a worker's service cannot be {show_name(self.service)}: "
                "the broker itself serves what begins with mmi. (RFC 8)"
            )
        self.handler: Handler = check_handler(handler)
        self._spawner = make_spawner(spawn)
        if concurrency is None:
            concurrency = self._spawner.size or 1
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
        self.zmtp_heartbeats: bool = check_flag("zmtp_heartbeats", zmtp_heartbeats)
        super().__init__(context)
        self._counters = WorkerCounters()
        self._core: WorkerCore | None = None
        self._started_at = monotonic()

    @property
    def extensions(self) -> bool | None:
        """True if the broker speaks gmdp's extension; None while that is not known.  Any thread."""
        return None if self._core is None else self._core.speaks_extension

    def statistics(self) -> WorkerStatistics:
        """Return an immutable copy of all counters.  Totals go on over restarts.

        Any greenlet, any thread, any state.

        Raises:
            StateError: the call is from another thread, and the worker's hub does not run.
        """
        forks.notice()
        return self._call_in_owner_thread(self._owner, self._statistics)

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
            f"<{type(self).__name__} {self.state.value} {show_name(self.service, 60)} "
            f"{EXTENSION_LABELS[self.extensions]} sessions={now.sessions} registered={now.registered} busy={now.busy}>"
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
            (
                zmtp_heartbeat(self._heartbeat_interval, self._heartbeat_interval * self._liveness)
                if self.zmtp_heartbeats
                else None
            ),
            self._credentials,
            worker=self,
            spawner=self._spawner,
            threads_option=self.threads_option,
            on_registered=self._on_registered,
            on_ended=self._on_owner_ended,
        )
        owner = Owner(self._engine, f"worker {show_name(self.service, 60)}")
        self._engine.start(owner)
        return owner, State.CONNECTING, ""

    def _begin_stop(self, owner: Owner, limit: float) -> None:
        if current_lifecycle.get() is self:
            self._engine.spared_task = gevent.getcurrent()
        super()._begin_stop(owner, limit)

    def _on_registered(self, registered: bool, reason: str) -> None:
        """A session is registered, or no session is any more."""
        if registered and self.state is State.CONNECTING:
            self._advance(State.RUNNING)
        elif not registered and self.state is State.RUNNING:
            self._advance(State.CONNECTING, reason)

    def _reset_after_fork(self) -> None:
        self._counters = WorkerCounters()
        self._core = None

    def _drain(self, until: float) -> None:
        self._engine.drain(until)
