"""A worker in virtual time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from ...core.liveness import zmtp_heartbeat
from ...core.peer.reasons import GoneReason
from ...core.peer.reconnect import Reconnect
from ...core.peer.sessions import CallerGone, Failure, Resumed, Session, Work
from ...core.peer.statistics import WorkerCounters
from ...core.peer.worker import WorkerCore
from ...protocol.dialects import Command, Dialect
from ...protocol.extension import VERSION
from ...validation import check_body
from ...worker.handlers import Handler
from ...worker.request import Request, make_request
from .failures import require
from .network import Network
from .peer import PeerNode


class Crash(Exception):
    """A handler raises this to let its whole process die."""


class Run:
    """A handler that works on a request."""

    def __init__(self, work: Work, request: Request) -> None:
        self.work = work
        self.request = request
        #: The parts that are still to be sent, and the end of the answer.
        self.parts: deque[list[bytes]] = deque()
        self.body: list[bytes] | None = None
        self.failure: Failure | None = None
        #: True while it waits in its ``yield``.
        self.waits = False


class WorkerNode(PeerNode[WorkerCore]):
    """A worker.  Its handler runs in no time; the time of its results is drawn by chance.

    Attributes:
        handler: Called with each request, as a :class:`gmdp.Worker` calls it.
        takes: The least and most seconds from the request, or the last part, to the end of an answer.
        computes: The least and most seconds for which a handler does not let the hub run.
        every: Seconds before each part of an answer.
        enforce_deadline: True if handlers are stopped once their caller has gone.
        counters: What the worker counted.
        running: The handlers that have begun and have not ended.
        on_work: Called with the node and the request when a handler begins.
    """

    def __init__(
        self,
        network: Network,
        name: str,
        endpoints: Sequence[str],
        service: bytes,
        handler: Handler,
        dialect: Dialect,
        *,
        takes: tuple[float, float] = (0.0, 0.0),
        every: float = 0.01,
        concurrency: int = 1,
        heartbeat_interval: float = 2.5,
        liveness: float = 3,
        strict: bool | str = False,
        enforce_deadline: bool = False,
        extension: int = VERSION,
        computes: tuple[float, float] = (0.0, 0.0),
        bandwidth: float = math.inf,
    ) -> None:
        super().__init__(network, name, strict, extension, bandwidth)
        self.zmtp_heartbeat = zmtp_heartbeat(heartbeat_interval, heartbeat_interval * liveness)
        self.handler = handler
        self.takes = takes
        self.computes = computes
        #: Seconds that the handlers begun in this pass compute, one after the other.
        self._computing = 0.0
        self.every = every
        self.enforce_deadline = enforce_deadline
        self.counters = WorkerCounters()
        self.on_work: Callable[[WorkerNode, Request], None] | None = None
        self._runs: dict[Session, Run] = {}
        self.running: set[Run] = set()
        self.core = WorkerCore(
            service,
            dialect,
            Reconnect(endpoints, 0.5),
            self.counters,
            concurrency=concurrency,
            heartbeat_interval=heartbeat_interval,
            liveness=liveness,
            error_reply=[b"500"],
            reveal_errors=True,
            enforce_deadline=enforce_deadline,
            now=self.schedule.now,
        )
        self.core.extension_version = extension
        self.core.start(self.schedule.now)
        self.run()

    def on_wake(self, now: float) -> None:
        """Take note that a pass begins."""
        self.core.on_wake(now)

    def on_caught_up(self, now: float) -> None:
        """Take note that nothing is left to read."""
        self.core.on_caught_up(now)

    def drain(self) -> None:
        """Take no new request from now on."""
        if not self.dead:
            self.schedule.record(self, "drains")
            self.post(self.core.drain, self.schedule.now)

    def on_event(self, event: Work | CallerGone | Resumed, now: float) -> None:
        """Start a handler, or tell a running one that its caller has gone, or that it may send more."""
        if isinstance(event, Work):
            self._start_handler(event)
            return
        run = self._runs.get(event.work.session)
        if run is None or run.work is not event.work or run not in self.running:
            return
        if isinstance(event, Resumed):
            if run.waits:
                self.schedule.after(0, self.post, self._resume, run)
            return
        run.request.give_up()
        failure = None
        if event.reason is GoneReason.STALLED:
            failure = Failure("StreamStalled", event.reason.value)
        elif self.enforce_deadline:
            failure = Failure("RequestCancelled", event.reason.value)
        if run.waits or self.enforce_deadline:
            self.schedule.after(0, self.post, self._finish, run, None, failure)

    def flush(self, now: float) -> None:
        """Carry out the core's decisions; handlers that compute then keep the hub from running."""
        super().flush(now)
        if self._computing and not self.dead:
            seconds, self._computing = self._computing, 0.0
            self.block(seconds)

    def _check_read_first(self, work: Work) -> None:
        """Check that the broker has not taken back this work in a message that waits unread."""
        frame = work.session.frame
        disconnect = self.core.extended.worker_command(Command.DISCONNECT)
        for _, args in self.inbox:
            taken_back = frame and args and args[0] == [frame, *disconnect]
            require(not taken_back, "a handler begins though its request was taken back:", work.body[0])

    def _start_handler(self, work: Work) -> None:
        self._check_read_first(work)
        run = self._runs[work.session] = Run(work, make_request(self.core.service, work, self.schedule.clock))
        self.running.add(run)
        request = run.request
        self._computing += self.schedule.random.uniform(*self.computes) if self.computes[1] else 0.0
        self.schedule.record(self, f"works on {request.body[0]!r}, attempt {request.attempt}")
        if self.on_work is not None:
            self.on_work(self, request)
        try:
            result = self.handler(request)
            if isinstance(result, Iterator):
                while True:
                    try:
                        run.parts.append(check_body(next(result)))
                    except StopIteration as stop:
                        run.body = None if stop.value is None else check_body(stop.value)
                        break
            else:
                run.body = check_body(result)
        except Crash:
            self.crash()
            return
        except Exception as error:
            run.failure = Failure(type(error).__name__, str(error))
        self._go_on(run)

    def _go_on(self, run: Run) -> None:
        """Have the next part sent after a while, or the end of the answer."""
        if run.parts:
            self.schedule.after(self.every, self.post, self._send_part, run)
        else:
            takes = self.schedule.random.uniform(*self.takes)
            self.schedule.after(takes, self.post, self._finish, run, run.body, run.failure)

    def _send_part(self, run: Run) -> None:
        if run not in self.running:
            return
        if self.core.partial(run.work, run.parts.popleft(), self.schedule.now):
            run.waits = True
            self._resume(run)
        else:
            self._finish(run, None, None)

    def _resume(self, run: Run) -> None:
        """Let a handler that waits in its ``yield`` go on or end; see :mod:`gmdp.worker.dispatch`."""
        session = run.work.session
        if run not in self.running or not run.waits:
            return
        if session.work is not run.work:
            self._finish(run, None, None)
        elif session.sent < session.credit:
            run.waits = False
            self._go_on(run)

    def _finish(self, run: Run, body: list[bytes] | None, failure: Failure | None) -> None:
        if run in self.running:
            self.running.remove(run)
            self.core.final(run.work, body, failure, self.schedule.now)
