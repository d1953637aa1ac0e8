"""The client as users hold it: its options, its life and its calls.

A call is checked here and posted to the owner (:mod:`gmdp.io.owner`).  There the engine
(:mod:`~gmdp.client.engine`) gives it to the core (:mod:`gmdp.core.peer.client`), and the parts of
its answer to the :class:`~gmdp.client.answers.Answer` on which the caller waits.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from zope.interface import implementer

from ..core.peer.calls import Call
from ..core.peer.client import ClientCore
from ..core.peer.reconnect import Reconnect
from ..core.peer.statistics import ClientCounters, ClientStatistics
from ..core.states import State
from ..exceptions import ClosedError, HubNotRunning, StateError
from ..interfaces import IClient
from ..io import forks
from ..io.contexts import Context
from ..io.dealers import EXTENSION_LABELS
from ..io.descriptors import get_hub
from ..io.lifecycle import OWNER_TIMEOUT, Lifecycle
from ..io.owner import Owner, check_may_wait, must_not_wait
from ..io.slots import FirstPass, Slot, get_hub_if_exists
from ..protocol.extension import CLIENT_NONCE_SIZE, NORMAL_PRIORITY, TIME_STATED
from ..security.credentials import make_credentials
from ..security.keys import Key
from ..tracing import traceparent as current_traceparent
from ..tracing import tracer
from ..validation import check_body, check_endpoints, check_flag, check_number, check_service, check_version
from .answers import Answer, Stream, StreamAnswer, hub_not_running
from .engine import ClientEngine
from .options import DEFAULT_TIMEOUT, FLAGS, CallOptions, check_retries, check_timeout, check_when_no_worker
from .threaded import ClientThread

#: The text of the error of a call whose client is closed.
CLOSED = "the client is closed; start() opens it again"


@implementer(IClient)
class Client(Lifecycle):
    """Asks services of a broker (RFC 7 and RFC 18, MDP/Client).

    ::

        with Client("tcp://127.0.0.1:5555", timeout=2.5) as client:
            client.request("echo", b"hello")  # -> [b"hello"]

    Life: a client starts by itself at its first call, in the thread that made it.  After
    :meth:`close` it stays closed until :meth:`start`.  ``stop`` is the same as ``close``.  An open
    client that is garbage-collected gives a ResourceWarning, and closes once its calls have ended.

    Threads: a client is safe for any number of greenlets, and for threads.  Calls from
    other threads are served by the hub of the thread that made or started the client, which
    has to run.  Where no hub runs, or one that is blocked for long, use `threaded`.

    Brokers: a gmdp broker gets many calls at a time over one connection, and says why a call
    has no answer (:class:`gmdp.RequestRejected`).  A connection to a broker that speaks only
    the RFCs carries one call at a time.  There are at most :attr:`max_sockets` of them, and
    `when_no_worker`, `priority` and `traceparent` have no effect.  :attr:`extensions` tells
    the two apart.  Calls for which there is no room wait in line while their time runs.

    Args:
        endpoint: the broker's endpoint, or a sequence of endpoints.  The first that answers is
            used, and the next one when it is lost.  None: those in ``$GMDP_BROKER``, with commas
            between.
        timeout: seconds a call may take in all; of a stream, seconds a part may take.  None: 30.
            A gmdp broker queues a request for as long as its caller states here or in the call, up to the
            broker's ``max_request_ttl``; without a statement, for the broker's ``request_ttl``.
        retries: tries of a call after the first one, when the broker is silent, lost or shutting
            down.  Each try has an equal share of `timeout`, and at least 0.1 s: there are at most
            ``timeout / 0.1`` tries.  Without gmdp's extension, each uses a new socket.
        max_in_flight: calls a gmdp broker may have at a time; the broker may allow fewer.
        when_no_worker: "wait", or "fail" at once where no worker is registered for the service, or
            where every broker has announced its stop.
        version: the protocol's version, "0.2" (RFC 18) or "0.1" (RFC 7).
        require_extensions: use no broker that does not speak gmdp's extension.
        zmtp_heartbeats: have ZeroMQ itself ask whether the broker's process is alive.  False is for brokers of
            ZMTP 3.0, which do not answer; a frozen broker or a cut link is then noticed by timeouts alone.
        curve_key: the client's secret key; None: a new one.  Each key is the name of a file,
            the key in Z85, or ``env:VARIABLE``.
        server_key: the broker's public key; None: the connection is not encrypted.
        username: the user's name, where the broker asks for a password.
        password: the user's password.
        threaded: have a thread and hub of its own, from the first call until the client is
            closed.  Any thread may call, and waits.  Subscribers to the client's state must
            not be in other threads.
        context: the ``zmq.green.Context`` of an embedding application; None: the green
            context that the process shares.

    Raises:
        ConfigurationError: an option is wrong.

    Attributes:
        endpoints (tuple of str): the brokers' endpoints, in order of preference.
    """

    #: Connections to a broker that speaks only the RFCs.
    max_sockets: int = 64
    #: Bytes of a stream's parts that may be unread before the stream's handler waits; 64 more count for each
    #: frame.  A handler may always send one part, however large.
    stream_window: int = 1024 * 1024
    #: Bytes of an answer's parts that may be unread for longer than a second.
    stream_bytes: int = 64 * 1024 * 1024
    #: Seconds between ZMTP heartbeats, by which a lost broker is noticed.  Three unanswered
    #: ones end the connection.  A frame of an answer must cross its link in less time than these three take.
    heartbeat_interval: float = 2.5
    #: Seconds, at most, before the first new attempt once every endpoint has failed; later
    #: delays double.
    reconnect_interval: float = 0.1

    #: The hub of the client's thread; None until that thread has one.
    _home: Any
    #: Tells whether that hub runs at all.
    _first_pass: FirstPass | None
    #: None unless the client is `threaded`.
    _thread: ClientThread | None

    def __init__(
        self,
        endpoint: str | Sequence[str] | None = None,
        *,
        timeout: float | None = None,
        retries: int = 0,
        max_in_flight: int = 10_000,
        when_no_worker: str = "wait",
        version: str = "0.2",
        require_extensions: bool = False,
        zmtp_heartbeats: bool = True,
        curve_key: Key | None = None,
        server_key: Key | None = None,
        username: str | None = None,
        password: str | None = None,
        threaded: bool = False,
        context: Context | None = None,
    ) -> None:
        self.endpoints = check_endpoints(endpoint)
        self._credentials = make_credentials(self.endpoints, curve_key, server_key, username, password)
        self._defaults = CallOptions(
            DEFAULT_TIMEOUT if timeout is None else check_timeout(timeout),
            check_retries(retries),
            check_when_no_worker(when_no_worker),
            stated=timeout is not None,
        )
        self.max_in_flight: int = check_number("max_in_flight", max_in_flight, at_least=1, whole=True)
        self.version = version
        self._dialect = check_version(version)
        self.require_extensions: bool = check_flag("require_extensions", require_extensions)
        self.zmtp_heartbeats: bool = check_flag("zmtp_heartbeats", zmtp_heartbeats)
        self.threaded: bool = check_flag("threaded", threaded)
        super().__init__(context)
        self._begin_anew()
        self._home = None if threaded else get_hub()
        self._first_pass = FirstPass(self._home) if self._home is not None else None

    @property
    def timeout(self) -> float:
        """Seconds a call may take unless the call says otherwise."""
        return self._defaults.timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        self._defaults = self._defaults._replace(timeout=check_timeout(seconds), stated=True)

    @property
    def retries(self) -> int:
        """Tries of a call after the first one, unless the call says otherwise."""
        return self._defaults.retries

    @retries.setter
    def retries(self, tries: int) -> None:
        self._defaults = self._defaults._replace(retries=check_retries(tries))

    @property
    def when_no_worker(self) -> str:
        """What a call does if no worker is registered, unless the call says otherwise: "wait" or "fail"."""
        return self._defaults.when_no_worker

    @when_no_worker.setter
    def when_no_worker(self, value: str) -> None:
        self._defaults = self._defaults._replace(when_no_worker=check_when_no_worker(value))

    @property
    def endpoint(self) -> str:
        """The endpoint of the broker in use, or of the one being tried.  Any thread."""
        return self._core.endpoint

    @property
    def extensions(self) -> bool | None:
        """Whether the broker speaks gmdp's extension; None until the client knows.  Any thread."""
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
        """Ask a service and wait for the answer.

        Any greenlet, any thread.  A greenlet that is killed here, or whose own timeout
        fires, cancels the call.

        Args:
            service: the service's name; a str is encoded as UTF-8.
            body: the request's frames; bytes are one frame.
            timeout: seconds in all, waiting in line included; None: the client's.
            retries: tries after the first one; None: the client's.
            when_no_worker: "wait" or "fail"; None: the client's.
            priority: from 0 to 3; higher is more urgent, and is served first.
            traceparent: the W3C ``traceparent`` to pass on to the handler.  None: that of the
                request the calling handler works on (:mod:`gmdp.tracing`).

        Returns:
            The frames of the answer, at least one.  The parts of a streamed answer are joined,
            without an empty FINAL.

        Raises:
            RequestTimeout: no reply came in time.
            CallError: the call ended without its answer; the subclass says why.
            ClosedError: the client is closed, or was closed before the reply came.
            StateError: the thread that made the client has ended, or the caller is a hook or a callback of the
                hub: an owner or hub that waits would keep others waiting.
            ConfigurationError: an argument has a wrong value.
            TypeError: the service or the body has a wrong type.
        """
        options = self._defaults.override(
            timeout=timeout,
            retries=retries,
            when_no_worker=when_no_worker,
            priority=priority,
            traceparent=traceparent,
        )
        answer = Answer(self.stream_bytes)
        self._begin_call(answer, service, body, options, options.timeout)
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
        """Ask a service; the parts of the answer are read as they come.

        The request is sent at once.  Any greenlet, any thread; the iterator is for the
        greenlet or thread that called.  Closing or dropping the iterator cancels the call.

        Args:
            service: the service's name; a str is encoded as UTF-8.
            body: the request's frames; bytes are one frame.
            timeout: seconds each part may take; None: the client's.
            deadline: seconds in all; None: no bound.
            retries: tries after the first one; None: the client's.
            when_no_worker: "wait" or "fail"; None: the client's.
            priority: from 0 to 3; higher is more urgent, and is served first.
            traceparent: the W3C ``traceparent`` to pass on to the handler.  None: that of the
                request the calling handler works on (:mod:`gmdp.tracing`).

        Returns:
            An iterator over the answer's parts, each a list of frames.  An empty FINAL after
            PARTIALs is left out.  Over MDP/0.1 there is one part.  Iteration raises what
            :meth:`request` raises, perhaps after some parts.

        Raises:
            ClosedError: the client is closed.
            StateError: as for :meth:`request`.
            ConfigurationError: an argument has a wrong value.
            TypeError: the service or the body has a wrong type.
        """
        options = self._defaults.override(
            timeout=timeout,
            retries=retries,
            when_no_worker=when_no_worker,
            priority=priority,
            traceparent=traceparent,
        )
        whole = math.inf if deadline is None else check_number("deadline", deadline, above=0)
        answer = StreamAnswer(self.stream_bytes)
        self._begin_call(answer, service, body, options, whole)
        return Stream(answer)

    def statistics(self) -> ClientStatistics:
        """An immutable copy of the client's counters and of its present numbers.

        Any greenlet, any thread, any state.  Totals go on over restarts.

        Raises:
            StateError: the call is from another thread, and the client's hub does not run.
        """
        forks.notice()
        core = self._core
        statistics: ClientStatistics = self._call_in_owner_thread(self._owner, core.statistics)
        return statistics

    def start(self) -> None:
        """Start; returns as soon as calls can be made.  No effect if started.

        Any thread if the client is `threaded`, else the thread whose hub will serve its calls.

        Raises:
            StateError: the client is closing, or its own thread does not start.
        """
        forks.notice()
        self._may_start = True
        try:
            self._start()
        except ClosedError:
            pass  # another thread has closed the client meanwhile

    def _start(self) -> None:
        """Start as :meth:`start` does, or for a call, unless the client was closed."""
        thread = self._thread
        if thread is None:
            self._start_here()
        else:
            thread.start(self, self._start_here, lambda: self.started and self._owner is not None)

    def _start_here(self) -> Owner | None:
        """In the thread that will serve the client: start, and return the owner.  ClosedError if it was closed."""
        if self._may_start:
            super().start()
        if not self._may_start:
            super().stop(0)  # another thread has closed the client meanwhile
            self._close_new()
            raise ClosedError(CLOSED)
        return self._owner

    def stop(self, timeout: float | None = None) -> None:
        """Close the client, as :meth:`close` does.  Any thread.

        Args:
            timeout: ignored; supervisors may give one.

        Raises:
            ConfigurationError: `timeout` is not a number of seconds.
        """
        self._check_stop_timeout(timeout)
        self.close()

    def close(self) -> None:
        """Close at once; callers that wait for a reply get ClosedError.  No effect if closed.  Any thread.

        No call opens the client again, not even its first one: :meth:`start` does.
        """
        forks.notice()
        self._may_start = False
        thread = self._thread
        starting = thread is not None and thread.starting
        if thread is not None and starting and not must_not_wait():
            thread.wait_for_start()
            starting = False
        super().stop(0)
        if thread is not None and get_hub_if_exists() is not self._home and not must_not_wait():
            thread.join()
        if self.state is State.NEW and not starting:
            if thread is not None or self._home is None or get_hub_if_exists() is self._home:
                self._close_new()
            else:
                try:
                    self._home.loop.run_callback_threadsafe(self._close_new)
                except (AttributeError, ValueError):
                    pass  # that thread's hub is gone: no call can start the client

    def _close_new(self) -> None:
        """In the thread that would serve the client: note that it was closed before it started."""
        if self.state is State.NEW and not self._may_start:
            self._advance(State.CLOSED)

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        owner = getattr(self, "_owner", None)
        if owner is not None:
            owner.post(self._engine.close_when_idle)  # first: a warning may be an error
            warn(f"unclosed {type(self).__name__} of {self.endpoints[0]}", ResourceWarning, source=self)

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
            stream_window=self.stream_window,
            stream_bytes=self.stream_bytes,
        )

    def _open(self) -> tuple[Owner, State, str]:
        if self._home is not get_hub():
            self._home = get_hub()
            self._first_pass = FirstPass(self._home)
        self._core = self._new_core()
        on_ended = functools.partial(_end_client, weakref.ref(self))
        engine = self._engine = ClientEngine(
            self._core,
            self._context,
            (self.heartbeat_interval, 3 * self.heartbeat_interval) if self.zmtp_heartbeats else None,
            self._credentials,
            on_ended,
        )
        engine.first_pass = self._first_pass
        engine.owner = Owner(engine, f"client of {self.endpoints[0]}")
        return engine.owner, State.RUNNING, ""

    def _reset_after_fork(self) -> None:
        self._begin_anew()
        self._home = None if self.threaded else get_hub_if_exists()
        self._first_pass = FirstPass(self._home) if self._home is not None else None

    def _begin_anew(self) -> None:
        """Make the parts of a client that has never started: counters, core and thread."""
        self._counters = ClientCounters()
        self._core = self._new_core()
        self._thread = ClientThread(OWNER_TIMEOUT) if self.threaded else None
        #: False from `close` to `start`: no call may start the client.
        self._may_start = True

    def _drain(self, until: float) -> None:
        self._engine.close(ClosedError("the client was closed before the reply came"))

    def _begin_call(
        self,
        answer: Answer,
        service: str | bytes,
        body: bytes | Sequence[bytes],
        options: CallOptions,
        deadline: float,
    ) -> None:
        """Post a call to the owner; its answer goes to `answer`.  `deadline`: seconds in all."""
        if answer.is_awaited:
            check_may_wait()
        forks.notice()
        call = Call(
            check_service(service),
            check_body(body),
            timeout=options.timeout,
            deadline=deadline,
            retries=options.retries,
            flags=FLAGS[options.when_no_worker] | (TIME_STATED if options.stated else 0),
            priority=options.priority,
            sink=answer,
        )
        answer.call = call
        answer.canceller = engine = self._start_engine(call.timeout)
        traceparent = options.traceparent
        active_tracer = tracer()
        if active_tracer is not None:
            answer.span, traceparent = active_tracer.begin_call(call.service, traceparent) or (None, traceparent)
        elif traceparent is None:
            traceparent = current_traceparent.get()
        if traceparent is not None:
            call.traceparent = traceparent.encode()
        engine.owner.post(engine.submit, call)

    def _start_engine(self, timeout: float) -> ClientEngine:
        """Return the engine; a client that has not started yet starts within `timeout` seconds."""
        if self._owner is None:
            if self.state is State.CLOSED or not self._may_start:
                raise ClosedError(CLOSED)
            if self.threaded or self._home is None or get_hub_if_exists() is self._home:
                # The client's own thread serves it, or this thread: the one that made the client,
                # or, in the child of a fork, the first one that calls.
                self._start()
            else:
                # Another thread made the client, and the hub of that thread must serve it.
                check_may_wait()
                slot = Slot()
                try:
                    self._home.loop.run_callback_threadsafe(self._start_for_thread, slot)
                except (AttributeError, ValueError):
                    raise StateError("the thread that made the client has ended, or its hub was destroyed") from None
                assert self._first_pass is not None  # there is one for each home
                if not self._first_pass.wait(slot, timeout):
                    raise HubNotRunning(hub_not_running(self._first_pass))
                slot.get()
        return self._engine

    def _start_for_thread(self, slot: Slot) -> None:
        """In the client's thread: start for a call from another thread, which waits on `slot`."""
        try:
            self._start()
            slot.set(None)
        except Exception as error:
            slot.fail(error)


def _end_client(reference: weakref.ref[Client], death: BaseException | None) -> None:
    """A client's owner has ended: tell the client, if it still exists."""
    client = reference()
    if client is not None:
        client._on_owner_ended(death)
