"""The clients as users hold them."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import gevent
import zmq
import zmq.green
from zope.interface import implementer

from ..core.peer.calls import Call
from ..core.peer.client import ClientCore
from ..core.peer.reconnect import Reconnect
from ..core.peer.statistics import ClientCounters, ClientStatistics
from ..core.states import State
from ..exceptions import ClosedError, HubNotRunning, StateError
from ..interfaces import IClient
from ..io.connector import EXTENSION_LABELS
from ..io.lifecycle import OWNER_TIMEOUT, Lifecycle
from ..io.owner import Owner
from ..io.slots import Slot, get_hub_if_exists
from ..protocol.extension import CLIENT_NONCE_SIZE, NORMAL_PRIORITY
from ..security.credentials import make_credentials
from ..security.keys import Key
from ..tracing import traceparent as current_traceparent
from ..tracing import tracer
from ..validation import check_body, check_endpoints, check_flag, check_number, check_service, check_version
from .answers import Answer, Stream
from .engine import ClientEngine
from .options import FLAGS, CallOptions, check_retries, check_timeout, check_when_no_worker
from .threaded import ClientThread


@implementer(IClient)
class Client(Lifecycle):
    """Asks services of the broker at `endpoint` (RFC 7 and RFC 18, MDP/Client).

    ``client.request("echo", b"hello") -> [b"hello"]``

    `endpoint`: one, or a sequence: the first that answers is used, the next one
    when it is lost.  `timeout`: seconds a call may take; `retries`: further
    tries, each with its share of that time, after silence or when the broker is
    lost.  `when_no_worker`: "wait", or "fail" at once where no worker is
    registered.  `version`: "0.2" or "0.1".  `require_extensions`: do not use a
    broker that does not speak gmdp's extension.  `server_key`: the broker's public
    key, and `curve_key`, one's own secret key (made up if it is left out), each by the
    name of a file, in Z85, or as ``env:VARIABLE``; or `username` and `password`.
    `context`: the ``zmq.green.Context`` of an embedding application.  Raises
    ConfigurationError for a wrong value.

    It starts by itself at its first call, in the thread that made it, and stays
    closed after `close` until `start`.  Safe for any number of greenlets, and
    for threads: a call from another thread is served by the hub of the thread
    that made or started the client, which has to run.  `stop` is `close`.

    `threaded`: for programs in which no hub runs, or one that is blocked for long: the
    client has a thread and hub of its own, from its first call until it is closed.  Its
    calls may come from any thread, and wait there.  Subscribers to its state are not for
    other threads.

    A gmdp broker is asked for up to `max_in_flight` calls at a time over one
    connection (the broker may allow fewer), and says why a call has no answer
    (:class:`gmdp.RequestRejected`).  Towards a broker that speaks the RFCs only, a
    connection carries one call at a time, there are at most :attr:`max_sockets`,
    a retry uses a new one, and `when_no_worker`, `priority` and `traceparent`
    have no effect.  Which it is, :attr:`extensions` tells.  Calls beyond wait in
    line, and their time runs.
    """

    #: Connections to one broker that speaks the RFCs only.
    max_sockets: int = 64
    #: Parts of a stream that may lie unread before it is given up.
    stream_buffer: int = 10_000
    #: Bytes of them that may for longer than a second.
    stream_bytes: int = 64 * 1024 * 1024
    #: Seconds between ZMTP heartbeats, which notice a lost broker; three
    #: unanswered ones end the connection.
    heartbeat_interval: float = 2.5
    #: Seconds before a lost broker is tried for the second time.
    reconnect_interval: float = 0.1

    #: The hub of the thread it belongs to; None until there is one.
    _home: Any
    #: The thread of its own, if it has one.
    _thread: ClientThread | None

    def __init__(
        self,
        endpoint: str | Sequence[str],
        *,
        timeout: float = 30.0,
        retries: int = 0,
        max_in_flight: int = 10_000,
        when_no_worker: str = "wait",
        version: str = "0.2",
        require_extensions: bool = False,
        curve_key: Key | None = None,
        server_key: Key | None = None,
        username: str | None = None,
        password: str | None = None,
        threaded: bool = False,
        context: zmq.green.Context[Any] | None = None,
    ) -> None:
        self.endpoints = check_endpoints(endpoint)
        self._credentials = make_credentials(self.endpoints, curve_key, server_key, username, password)
        self._defaults = CallOptions(
            check_timeout(timeout), check_retries(retries), check_when_no_worker(when_no_worker)
        )
        self.max_in_flight: int = check_number("max_in_flight", max_in_flight, at_least=1, whole=True)
        self.version = version
        self._dialect = check_version(version)
        self.require_extensions: bool = check_flag("require_extensions", require_extensions)
        self.threaded: bool = check_flag("threaded", threaded)
        super().__init__(context)
        self._reset_after_fork()
        if not threaded:
            self._home = gevent.get_hub()

    @property
    def timeout(self) -> float:
        """Seconds a call may take unless it says otherwise."""
        return self._defaults.timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        self._defaults = self._defaults._replace(timeout=check_timeout(seconds))

    @property
    def retries(self) -> int:
        """Further tries of a call unless it says otherwise."""
        return self._defaults.retries

    @retries.setter
    def retries(self, tries: int) -> None:
        self._defaults = self._defaults._replace(retries=check_retries(tries))

    @property
    def when_no_worker(self) -> str:
        """ "wait" or "fail", unless a call says otherwise."""
        return self._defaults.when_no_worker

    @when_no_worker.setter
    def when_no_worker(self, value: str) -> None:
        self._defaults = self._defaults._replace(when_no_worker=check_when_no_worker(value))

    @property
    def endpoint(self) -> str:
        """The broker in use, or the one tried at present."""
        return self._core.endpoint

    @property
    def extensions(self) -> bool | None:
        """Does the broker speak gmdp's extension?  None while that is not known.  Any thread."""
        return self._core.speaks_extension

    def request(
        self,
        service: str | bytes,
        body: bytes | Sequence[bytes],
        *,
        timeout: float | None = None,
        retries: int | None = None,
        when_no_worker: str | None = None,
        priority: int = NORMAL_PRIORITY,
        traceparent: str | None = None,
    ) -> list[bytes]:
        """Ask `service` and wait for the answer: a list of frames, at least one.

        `body`: bytes are one frame.  Of an answer in parts, all frames joined;
        an empty FINAL that only ends it is left out.  `timeout`: seconds in all,
        waiting in line included; `retries`, `when_no_worker`: as for the class.
        `priority`: from 0 to 3, more urgent ones higher; 1 is the rule.
        `traceparent`: of W3C Trace Context, for the handler; if it is left out, that of the
        request this handler works on (:mod:`gmdp.tracing`).  Raises
        RequestTimeout, another CallError, ClosedError; ConfigurationError or
        TypeError for a wrong argument.  Any greenlet, any thread.  A greenlet that
        is killed here, or whose own timeout fires, cancels the call.
        """
        options = self._defaults.override(
            timeout=timeout,
            retries=retries,
            when_no_worker=when_no_worker,
            priority=priority,
            traceparent=traceparent,
        )
        answer = Answer(self.stream_buffer, self.stream_bytes)
        self._begin(answer, service, body, options, options.timeout)
        return list(itertools.chain.from_iterable(answer))

    def stream(
        self,
        service: str | bytes,
        body: bytes | Sequence[bytes],
        *,
        timeout: float | None = None,
        deadline: float | None = None,
        retries: int | None = None,
        when_no_worker: str | None = None,
        priority: int = NORMAL_PRIORITY,
        traceparent: str | None = None,
    ) -> Iterator[list[bytes]]:
        """Ask `service`; an iterator over the parts of the answer as they come.

        Each part is a list of frames; an empty FINAL after PARTIALs is left out.
        Over MDP/0.1 there is one part.  `timeout`: seconds per part;
        `deadline`: seconds in all.  The request is sent at once.  Iteration
        raises RequestTimeout, another CallError (a part may have come before),
        ClosedError.  Closing the iterator cancels the call.  Other arguments as for
        `request`.  Any greenlet, any thread; the iterator in the one that began.
        """
        options = self._defaults.override(
            timeout=timeout,
            retries=retries,
            when_no_worker=when_no_worker,
            priority=priority,
            traceparent=traceparent,
        )
        until = math.inf if deadline is None else check_number("deadline", deadline, above=0)
        answer = Answer(self.stream_buffer, self.stream_bytes)
        self._begin(answer, service, body, options, until)
        return Stream(answer)

    def statistics(self) -> ClientStatistics:
        """Everything as it is at this moment, as an immutable copy.

        Any greenlet, any thread, any state; from another thread it raises
        StateError if the client's hub does not run.  Totals go on over restarts.
        """
        core = self._core
        statistics: ClientStatistics = self._call_in_owner_thread(self._owner, core.statistics)
        return statistics

    def start(self) -> None:
        """Start; returns as soon as calls can be made.  No effect if started.  Any thread, if it is `threaded`.

        Raises StateError while it is closing.
        """
        thread = self._thread
        if thread is None:
            super().start()
            return
        thread.start(self, self._start_here, lambda: self.started and self._owner is not None)

    def _start_here(self) -> Owner | None:
        """In the thread of its own."""
        super().start()
        return self._owner

    def stop(self, timeout: float | None = None) -> None:
        """The same as :meth:`close`; `timeout` is accepted for supervisors."""
        self.close()

    def close(self) -> None:
        """Close at once: whoever waits for a reply gets ClosedError."""
        thread = self._thread
        if thread is not None and thread.starting:
            self.start()  # it is about to start: there is nothing to close yet
        super().stop(0)
        if thread is not None and get_hub_if_exists() is not self._home:
            thread.join()

    def __repr__(self) -> str:
        now = self._core.statistics()
        return (
            f"<{type(self).__name__} {self.state.value} {self._core.endpoint} {EXTENSION_LABELS[self.extensions]} "
            f"in_flight={now.in_flight} waiting={now.waiting} sockets={now.sockets}>"
        )

    def _new_core(self) -> ClientCore:
        return ClientCore(
            self._dialect,
            Reconnect(self.endpoints, self.reconnect_interval),
            min(self.max_in_flight, self.max_sockets),
            self._counters,
            nonce=os.urandom(CLIENT_NONCE_SIZE),
            max_in_flight=self.max_in_flight,
            require_extensions=self.require_extensions,
        )

    def _open(self) -> tuple[Owner, State, str]:
        self._home = gevent.get_hub()
        self._core = self._new_core()
        engine = self._engine = ClientEngine(
            self._core, self._context, self.heartbeat_interval, self._credentials, self._on_owner_ended
        )
        engine.owner = Owner(engine, f"client of {self.endpoints[0]}")
        return engine.owner, State.RUNNING, ""

    def _reset_after_fork(self) -> None:
        self._counters = ClientCounters()
        self._core = self._new_core()
        self._home = None if self.threaded else get_hub_if_exists()
        self._thread = ClientThread(OWNER_TIMEOUT) if self.threaded else None

    def _drain(self, until: float) -> None:
        self._engine.close(ClosedError("the client was closed before the reply came"))

    def _begin(
        self,
        sink: Answer,
        service: str | bytes,
        body: bytes | Sequence[bytes],
        options: CallOptions,
        deadline: float,
    ) -> None:
        """Begin a call whose answer goes to `sink`; `deadline`: seconds in all."""
        call = Call(
            check_service(service),
            check_body(body),
            timeout=options.timeout,
            deadline=deadline,
            retries=options.retries,
            flags=FLAGS[options.when_no_worker],
            priority=options.priority,
            owner=sink,
        )
        sink.call = call
        sink.engine = engine = self._running_engine(call.timeout)
        traceparent = options.traceparent
        traced = tracer()
        if traced is not None:
            sink.span, traceparent = traced.call(call.service, traceparent) or (None, traceparent)
        elif traceparent is None:
            traceparent = current_traceparent.get()
        if traceparent is not None:
            call.traceparent = traceparent.encode()
        engine.owner.post(engine.submit, call)

    def _running_engine(self, timeout: float) -> ClientEngine:
        if self._owner is None:
            if self.state is State.CLOSED:
                raise ClosedError("the client is closed; start() opens it again")
            if self.threaded or self._home is None or get_hub_if_exists() is self._home:
                self.start()
            else:
                slot = Slot()
                try:
                    self._home.loop.run_callback_threadsafe(self._start_for, slot)
                except (AttributeError, ValueError):
                    raise StateError("the hub of the thread that made the client is gone") from None
                if not slot.wait(timeout):
                    raise HubNotRunning(
                        f"the hub of the thread that made the client did not run for {timeout:g} s; "
                        "threaded=True gives the client one of its own"
                    )
                slot.get()
        return self._engine

    def _start_for(self, slot: Slot) -> None:
        try:
            self.start()
            slot.set(None)
        except Exception as error:
            slot.fail(error)
