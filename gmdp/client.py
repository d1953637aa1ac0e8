"""The clients as users hold them."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from time import monotonic
from typing import Any

import gevent
import zmq
import zmq.green
from gevent.event import AsyncResult
from gevent.queue import Queue
from zope.interface import implementer

from .answers import Answer, Future, Stream
from .connecting import check, check_version, dealer
from .core.client import Call, ClientCore, Connection, Ended, Open, Outcome, Send
from .core.reconnect import Reconnect
from .core.states import State
from .core.statistics import ClientCounters, ClientStatistics
from .endpoints import check_body, check_endpoints, check_service
from .exceptions import BrokerLost, CallError, ClosedError, MDPError, RequestTimeout, StateError, StreamOverflow
from .interfaces import IAsyncClient, IClient
from .lifecycle import Lifecycle
from .owner import Link, Owner
from .slots import Slot, get_hub_if_exists

_ERRORS: dict[Outcome, type[CallError]] = {
    Outcome.TIMEOUT: RequestTimeout,
    Outcome.BROKER_LOST: BrokerLost,
    Outcome.OVERFLOW: StreamOverflow,
}


@implementer(IClient)
class Client(Lifecycle):
    """Asks services of the broker at `endpoint` (RFC 7 and RFC 18, MDP/Client).

    ``client.request("echo", b"hello") -> [b"hello"]``

    `endpoint`: one, or a sequence: the first that answers is used, the next one
    when it is lost.  `timeout`: seconds a call may take; `retries`: further
    tries, each with its share of that time, on a new connection.  `version`:
    "0.2" or "0.1".  `context`: the ``zmq.green.Context`` of an embedding
    application.  Raises ConfigurationError for a wrong value.

    It starts by itself at its first call, in the thread that made it, and stays
    closed after `close` until `start`.  Safe for any number of greenlets, and
    for threads: a call from another thread is served by the hub of the thread
    that made or started the client, which has to run.  `stop` is `close`.

    Towards a broker that speaks the RFCs a connection carries one call at a
    time; calls beyond the connections (`max_in_flight`, and never more than
    :attr:`max_sockets`) wait in line, and their time runs.
    """

    #: Connections to one broker.
    max_sockets: int = 64
    #: Parts of a stream that may lie unread before it is given up.
    stream_buffer: int = 10_000
    #: Seconds between ZMTP heartbeats, which notice a lost broker; three
    #: unanswered ones end the connection.
    heartbeat_interval: float = 2.5
    #: Seconds before a lost broker is tried for the second time.
    reconnect_interval: float = 0.1

    def __init__(
        self,
        endpoint: str | Sequence[str],
        *,
        timeout: float = 30.0,
        retries: int = 0,
        max_in_flight: int = 10_000,
        version: str = "0.2",
        context: zmq.green.Context[Any] | None = None,
    ) -> None:
        self.endpoints = check_endpoints(endpoint)
        self.timeout: float = check("timeout", timeout, 0, above=True)
        self.retries: int = check("retries", retries, 0, whole=True)
        self.max_in_flight: int = check("max_in_flight", max_in_flight, 1, whole=True)
        self.version = version
        self._dialect = check_version(version)
        super().__init__(context)
        self._counters = ClientCounters()
        self._core = self._new_core()
        self._home = gevent.get_hub()

    @property
    def endpoint(self) -> str:
        """The broker in use, or the one tried at present."""
        return self._core.endpoint

    def request(
        self,
        service: str | bytes,
        body: bytes | Sequence[bytes],
        *,
        timeout: float | None = None,
        retries: int | None = None,
    ) -> list[bytes]:
        """Ask `service` and wait for the answer: a list of frames, at least one.

        `body`: bytes are one frame.  Of an answer in parts, all frames joined;
        an empty FINAL that only ends it is left out.  `timeout`: seconds in all,
        waiting in line included.  Raises RequestTimeout, BrokerLost,
        ClosedError; ConfigurationError or TypeError for a wrong argument.
        Any greenlet, any thread.
        """
        whole = self.timeout if timeout is None else timeout
        answer = self._begin(Answer(self.stream_buffer), service, body, timeout, whole, retries)
        return list(itertools.chain.from_iterable(answer))

    def stream(
        self,
        service: str | bytes,
        body: bytes | Sequence[bytes],
        *,
        timeout: float | None = None,
        deadline: float | None = None,
        retries: int | None = None,
    ) -> Iterator[list[bytes]]:
        """Ask `service`; an iterator over the parts of the answer as they come.

        Each part is a list of frames; an empty FINAL after PARTIALs is left out.
        Over MDP/0.1 there is one part.  `timeout`: seconds per part;
        `deadline`: seconds in all.  The request is sent at once.  Iteration
        raises RequestTimeout, BrokerLost (a part may have come before),
        StreamOverflow, ClosedError.  Closing the iterator gives the call up.
        Any greenlet, any thread; the iterator in the one that began.
        """
        return Stream(self._begin(Answer(self.stream_buffer), service, body, timeout, deadline, retries))

    def statistics(self) -> ClientStatistics:
        """Everything as it is at this moment, as an immutable copy.

        Any greenlet, any thread, any state; from another thread it raises
        StateError if the client's hub does not run.  Totals go on over restarts.
        """
        core = self._core
        statistics: ClientStatistics = self._in_owner_thread(self._owner, core.statistics)
        return statistics

    def stop(self, timeout: float | None = None) -> None:
        """The same as :meth:`close`; `timeout` is accepted for supervisors."""
        super().stop(0)

    def close(self) -> None:
        """Close at once: whoever waits for a reply gets ClosedError."""
        super().stop(0)

    def __repr__(self) -> str:
        now = self._core.statistics()
        return (
            f"<{type(self).__name__} {self.state.value} {self._core.endpoint} in_flight={now.in_flight} "
            f"waiting={now.waiting} sockets={now.sockets}>"
        )

    def _new_core(self) -> ClientCore:
        connections = min(self.max_in_flight, self.max_sockets)
        return ClientCore(
            self._dialect, Reconnect(self.endpoints, self.reconnect_interval), connections, self._counters
        )

    def _open(self) -> tuple[Owner, State, str]:
        self._home = gevent.get_hub()
        self._core = self._new_core()
        self._engine = _ClientEngine(self, self._core)
        owner = self._engine.owner = Owner(self._engine, f"client of {self.endpoints[0]}")
        return owner, State.RUNNING, ""

    def _drain(self, until: float) -> None:
        self._engine.end(ClosedError("the client was closed before the reply came"))

    def _begin(
        self,
        sink: Answer,
        service: str | bytes,
        body: bytes | Sequence[bytes],
        timeout: float | None,
        deadline: float | None,
        retries: int | None,
    ) -> Answer:
        """Begin a call whose answer goes to `sink`."""
        call = Call(
            check_service(service),
            check_body(body),
            timeout=self.timeout if timeout is None else check("timeout", timeout, 0, above=True),
            retries=self.retries if retries is None else check("retries", retries, 0, whole=True),
            owner=sink,
        )
        if deadline is not None:
            call.deadline = check("deadline", deadline, 0, above=True)
        sink.call = call
        sink.engine = engine = self._running_engine(call.timeout)
        engine.owner.post(engine.submit, call)
        return sink

    def _running_engine(self, timeout: float) -> _ClientEngine:
        if self._owner is None:
            if self.state is State.CLOSED:
                raise ClosedError("the client is closed; start() opens it again")
            if get_hub_if_exists() is self._home:
                self.start()
            else:
                slot = Slot()
                try:
                    self._home.loop.run_callback_threadsafe(self._start_for, slot)
                except (AttributeError, ValueError):
                    raise StateError("the hub of the thread that made the client is gone") from None
                if not slot.wait(timeout):
                    raise RequestTimeout(f"the hub of the thread that made the client did not run for {timeout:g} s")
                slot.get()
        return self._engine

    def _start_for(self, slot: Slot) -> None:
        try:
            self.start()
            slot.set(None)
        except Exception as error:
            slot.fail(error)


@implementer(IAsyncClient)
class AsyncClient(Client):
    """A :class:`Client` whose calls need not be waited for.

    `submit` and `map` are for greenlets of the thread the client belongs to.
    """

    def submit(
        self,
        service: str | bytes,
        body: bytes | Sequence[bytes],
        *,
        timeout: float | None = None,
        retries: int | None = None,
    ) -> AsyncResult[list[bytes]]:
        """Begin a call; returns a gevent ``AsyncResult`` of what `request` returns.

        Its ``get`` raises what `request` raises.  Arguments as for `request`;
        a wrong one raises here.
        """
        return self._submit(service, body, timeout, retries).result

    def map(
        self,
        service: str | bytes,
        bodies: Iterable[bytes | Sequence[bytes]],
        *,
        in_flight: int = 100,
        ordered: bool = True,
        timeout: float | None = None,
        retries: int | None = None,
    ) -> Iterator[list[bytes]]:
        """An iterator over the replies to `bodies`, which are taken one by one.

        At most `in_flight` calls are begun and unread at a time.  `ordered`:
        replies in the order of the bodies, else as they come.  A call's error
        is raised where its reply would be, and ends the iteration; that, and
        closing the iterator, gives up the calls still open.  Other arguments as
        for `request`, per call.
        """
        check("in_flight", in_flight, 1, whole=True)
        check_service(service)
        return self._map(service, iter(bodies), in_flight, ordered, timeout, retries)

    def _submit(
        self, service: str | bytes, body: bytes | Sequence[bytes], timeout: float | None, retries: int | None
    ) -> Future:
        future = Future(self.stream_buffer)
        self._begin(future, service, body, timeout, self.timeout if timeout is None else timeout, retries)
        return future

    def _map(
        self,
        service: str | bytes,
        bodies: Iterator[bytes | Sequence[bytes]],
        in_flight: int,
        ordered: bool,
        timeout: float | None,
        retries: int | None,
    ) -> Iterator[list[bytes]]:
        open_calls: deque[Future] = deque()
        done: Queue[Future] = Queue()
        try:
            while True:
                for body in itertools.islice(bodies, in_flight - len(open_calls)):
                    future = self._submit(service, body, timeout, retries)
                    open_calls.append(future)
                    if not ordered:
                        future.result.rawlink(lambda _, future=future: done.put_nowait(future))
                if not open_calls:
                    return
                if ordered:
                    reply = open_calls[0].result.get()
                    open_calls.popleft()
                else:
                    future = done.get()
                    open_calls.remove(future)
                    reply = future.result.get()
                yield reply
        finally:
            for future in open_calls:
                future.close()


class _ClientEngine:
    """Between a client's core, its sockets and its callers."""

    owner: Owner

    def __init__(self, shell: Client, core: ClientCore) -> None:
        self._shell = shell
        self._core = core
        self._error: MDPError | None = None
        self.deadline = core.deadline

    # What the owner calls

    def awake(self, now: float) -> None:
        """Nothing of a client's depends on when it ran last."""

    def caught_up(self, now: float) -> None:
        """Nothing of a client's waits for that."""

    def received(self, link: Link, frames: list[bytes], now: float) -> None:
        self._core.feed(link.tag, frames, now)

    def up(self, link: Link, now: float) -> None:
        self._core.connected(link.tag, now)

    def down(self, link: Link, reason: str, now: float) -> None:
        self._core.disconnected(link.tag, reason, now, random.random())

    def tick(self, now: float) -> None:
        self._core.tick(now, random.random())

    def flush(self, now: float) -> None:
        core = self._core
        while core.actions or core.events:
            actions, core.actions = core.actions, []
            for action in actions:
                if isinstance(action, Send):
                    self._send(action, now)
                elif isinstance(action, Open):
                    self._connect(action.connection, now)
                elif action.connection.handle is not None:
                    action.connection.handle.close()
            events, core.events = core.events, []
            for event in events:
                if isinstance(event, Ended):
                    self._tell_end(event, now)
                elif not event.call.owner.part(event):
                    core.cancel(event.call, Outcome.OVERFLOW, now)

    def died(self, error: BaseException) -> None:
        self.end(error if isinstance(error, MDPError) else ClosedError(str(error)), error)

    # What is posted to the owner

    def submit(self, call: Call) -> None:
        if self._error is not None:
            call.owner.fail(self._closed())
        else:
            self._core.submit(call, monotonic())

    def cancel(self, call: Call) -> None:
        if self._error is None:
            self._core.cancel(call, Outcome.CANCELLED, monotonic())

    def end(self, error: MDPError, death: BaseException | None = None) -> None:
        if self._error is None:
            self._error = error
            now = monotonic()
            self._core.close(now)
            self.flush(now)
            self.owner.finish()
            self._shell._ended(death)

    # Carrying out

    def _closed(self) -> MDPError:
        """Why it is closed: an error for each caller, since a traceback is added to it."""
        error = type(self._error)(str(self._error)) if self._error is not None else ClosedError("closed")
        error.__cause__ = self._error.__cause__ if self._error is not None else None
        return error

    def _connect(self, connection: Connection, now: float) -> None:
        shell = self._shell
        interval = shell.heartbeat_interval
        try:
            connection.handle = dealer(
                self.owner, shell._context, connection.endpoint, connection, interval, 3 * interval
            )
        except zmq.ZMQError as error:
            self._core.disconnected(connection, error.strerror or str(error), now, random.random())
            return
        if connection.handle.inproc:
            self._core.connected(connection, now)

    def _send(self, action: Send, now: float) -> None:
        link: Link = action.connection.handle
        if link.closed or link.send(action.frames) is not None:
            # One message on a connection that stands has room, or there is no peer.
            self._core.disconnected(action.connection, "the connection was closed", now, random.random())

    def _tell_end(self, ended: Ended, now: float) -> None:
        call = ended.call
        if ended.outcome is Outcome.CANCELLED:
            return
        if ended.outcome is Outcome.CLOSED:
            call.owner.fail(self._closed())
            return
        elapsed = now - call.submitted
        detail = ended.detail or "its reader did not keep up"
        call.owner.fail(
            _ERRORS[ended.outcome](
                f"{ended.outcome.value}: service {call.service!r}, after {elapsed:.3f} s and {call.tries} "
                f"{'try' if call.tries == 1 else 'tries'}: {detail}",
                service=call.service,
                elapsed=elapsed,
                attempt=call.tries,
            )
        )
