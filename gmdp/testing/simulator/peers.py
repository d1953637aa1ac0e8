"""Clients and workers in virtual time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from ...core.peer.calls import Call, Ended, Outcome, Part
from ...core.peer.client import ClientCore
from ...core.peer.connector import Close, Connector, Open, Send
from ...core.peer.reconnect import Reconnect
from ...core.peer.sessions import Failure, Session, Work
from ...core.peer.worker import WorkerCore
from ...core.snapshots import ClientCounters, WorkerCounters
from ...protocol.wire import Dialect
from ...validation import check_body
from ...worker.handlers import Handler, Request, request_of
from .network import Network, Wire
from .nodes import Node

K = TypeVar("K", bound=Connector[Any])


class Crash(Exception):
    """Raised by a handler: its whole process dies."""


class ConnectingNode(Node, Generic[K]):
    """A client or worker."""

    core: K

    def __init__(self, network: Network, name: str, strict: bool | str) -> None:
        super().__init__(network, name)
        #: True if brokers appear to it as speaking an RFC only; "silent" if they do not even
        #: answer its probe.
        self.strict = strict
        #: Sees what is "received" and "sent" on which wire.
        self.watch: Callable[[str, Wire, list[bytes]], None] | None = None
        self.wires: list[Wire] = []

    def deadline(self) -> float:
        """When `tick` is needed next."""
        return self.core.deadline()

    def tick(self, now: float) -> None:
        """Do what is due."""
        self.core.tick(now, self.schedule.random.random())

    def connected(self, wire: Wire) -> None:
        """A wire stands."""
        if wire.open:
            self.core.connected(wire.connection, self.schedule.now)

    def lost(self, wire: Wire) -> None:
        """A wire is gone."""
        self.core.disconnected(wire.connection, "lost", self.schedule.now, self.schedule.random.random())

    def received(self, wire: Wire, frames: list[bytes]) -> None:
        """One message was read."""
        if self.watch is not None:
            self.watch("received", wire, frames)
        self.core.feed(wire.connection, frames, self.schedule.now, self.schedule.random.random())

    def crash(self) -> None:
        """The process dies: what was sent may arrive, nothing more comes."""
        if not self.dead:
            self.schedule.tell(self, "dies")
            self.dead = True
            self.inbox.clear()
            for wire in self.wires:
                wire.cut()

    def flush(self, now: float) -> None:
        """Carry out what was decided."""
        core = self.core
        while core.actions:
            actions, core.actions = core.actions, []
            for action in actions:
                if isinstance(action, Send):
                    if self.watch is not None:
                        self.watch("sent", action.connection.handle, action.frames)
                    action.connection.handle.send(action.frames)
                elif isinstance(action, Open):
                    wire = action.connection.handle = self.network.connect(self, action.connection)
                    self.wires = [*(wire for wire in self.wires if wire.open), wire]
                elif isinstance(action, Close):
                    action.connection.handle.close()
                else:
                    self.act(action)

    def act(self, action: Any) -> None:
        """Carry out a decision that is not about connections."""


class Run:
    """A handler at work."""

    def __init__(self, work: Work, request: Request) -> None:
        self.work = work
        self.request = request


class WorkerNode(ConnectingNode[WorkerCore]):
    """A worker.  Its handler runs in no time; when its results come is drawn by chance."""

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
    ) -> None:
        super().__init__(network, name, strict)
        self.handler = handler
        #: The least and most seconds from the request, or the last part, to the FINAL.
        self.takes = takes
        #: Seconds before each part.
        self.every = every
        self.enforce_deadline = enforce_deadline
        self.counters = WorkerCounters()
        #: Called when a handler begins, with the worker and the request.
        self.on_work: Callable[[WorkerNode, Request], None] | None = None
        self._runs: dict[Session, Run] = {}
        #: Handlers that have begun and not ended.
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
        self.core.start(self.schedule.now)
        self.run()

    def awake(self, now: float) -> None:
        """A pass begins."""
        self.core.awake(now)

    def caught_up(self, now: float) -> None:
        """There was nothing more to read."""
        self.core.caught_up(now)

    def drain(self) -> None:
        """Take no new request."""
        if not self.dead:
            self.schedule.tell(self, "drains")
            self.post(self.core.drain, self.schedule.now)

    def act(self, action: Any) -> None:
        """Run the handler, or tell it that its caller has gone."""
        if isinstance(action, Work):
            self._begin(action)
            return
        run = self._runs.get(action.work.session)
        if run is not None and run.work is action.work:
            run.request.give_up()
            if self.enforce_deadline:
                failure = Failure("RequestCancelled", action.reason)
                self.schedule.after(0, self.post, self._final, run, None, failure)

    def _begin(self, work: Work) -> None:
        run = self._runs[work.session] = Run(work, request_of(self.core.service, work, self.schedule.clock))
        self.running.add(run)
        request = run.request
        self.schedule.tell(self, f"works on {request.body[0]!r}, attempt {request.attempt}")
        if self.on_work is not None:
            self.on_work(self, request)
        after = 0.0
        body: list[bytes] | None = None
        failure = None
        try:
            result = self.handler(request)
            if isinstance(result, Iterator):
                while True:
                    try:
                        part = check_body(next(result))
                    except StopIteration as stop:
                        body = None if stop.value is None else check_body(stop.value)
                        break
                    after += self.every
                    self.schedule.after(after, self.post, self._partial, run, part)
            else:
                body = check_body(result)
        except Crash:
            self.crash()
            return
        except Exception as error:
            failure = Failure(type(error).__name__, str(error))
        after += self.schedule.random.uniform(*self.takes)
        self.schedule.after(after, self.post, self._final, run, body, failure)

    def _partial(self, run: Run, body: list[bytes]) -> None:
        if run in self.running:
            self.core.partial(run.work, body, self.schedule.now)

    def _final(self, run: Run, body: list[bytes] | None, failure: Failure | None) -> None:
        if run in self.running:
            self.running.remove(run)
            self.core.final(run.work, body, failure, self.schedule.now)


class SimulatedCall:
    """One call of a simulated client, and what came of it."""

    def __init__(self, call: Call, number: int, began: float) -> None:
        self.call = call
        self.number = number
        self.began = began
        #: The parts of the answer that came.
        self.parts: list[list[bytes]] = []
        #: How it ended: "reply", an :class:`~gmdp.core.peer.client.Outcome`, or None if it has not.
        self.outcome: str | Outcome | None = None
        #: What came with a failure.
        self.failure: list[bytes] = []
        self.ended = math.inf

    @property
    def reply(self) -> list[bytes]:
        """All frames of its answer, as ``Client.request`` returns them; AssertionError if there is none."""
        if self.outcome != "reply":
            raise AssertionError(f"{self!r} has no reply")
        frames = [frame for part in self.parts for frame in part]
        return frames[:-1] if len(self.parts) > 1 and self.parts[-1] == [b""] else frames

    def __repr__(self) -> str:
        return f"<call {self.number} of {self.call.service!r}: {self.outcome}>"


class ClientNode(ConnectingNode[ClientCore]):
    """A client.  Each of its calls ends once."""

    def __init__(
        self,
        network: Network,
        name: str,
        endpoints: Sequence[str],
        dialect: Dialect,
        *,
        max_connections: int = 3,
        max_in_flight: int = 100,
        strict: bool | str = False,
    ) -> None:
        super().__init__(network, name, strict)
        self.counters = ClientCounters()
        self.core = ClientCore(
            dialect,
            Reconnect(endpoints, 0.5),
            max_connections,
            self.counters,
            nonce=self.schedule.random.randbytes(16),
            max_in_flight=max_in_flight,
        )
        self.calls: list[SimulatedCall] = []
        #: Those that have not ended.
        self.open_calls: dict[SimulatedCall, None] = {}
        #: Called with each part that comes.
        self.on_part: Callable[[SimulatedCall, Part], None] | None = None

    def request(
        self, service: str | bytes, body: bytes | Sequence[bytes], *, timeout: float = 30.0, **options: Any
    ) -> SimulatedCall:
        """Begin a call; `options` are those of :class:`~gmdp.core.peer.client.Call`."""
        name = service.encode() if isinstance(service, str) else service
        options.setdefault("deadline", timeout)
        call = Call(name, check_body(body), timeout=timeout, **options)
        call.owner = asked = SimulatedCall(call, len(self.calls) + 1, self.schedule.now)
        self.calls.append(asked)
        self.open_calls[asked] = None
        self.post(self._submit, call)
        return asked

    def cancel(self, asked: SimulatedCall) -> None:
        """Give a call up."""
        self.post(self._cancel, asked.call)

    def close(self) -> None:
        """End all calls and connections."""
        self.post(self.core.close, self.schedule.now)

    def _submit(self, call: Call) -> None:
        self.schedule.tell(self, f"calls {call.service!r}: {call.body[0]!r}")
        self.core.submit(call, self.schedule.now)

    def _cancel(self, call: Call) -> None:
        self.core.cancel(call, Outcome.CANCELLED, self.schedule.now)

    def crash(self) -> None:
        """The process dies, and its calls with it."""
        super().crash()
        for asked in self.open_calls:
            asked.outcome = "crashed"
        self.open_calls.clear()

    def flush(self, now: float) -> None:
        """Carry out what was decided, and hear what came."""
        super().flush(now)
        events, self.core.events = self.core.events, []
        for event in events:
            asked: SimulatedCall = event.call.owner
            if asked.outcome is not None:
                raise AssertionError(f"{asked!r} had ended before")
            if isinstance(event, Ended):
                asked.outcome = event.outcome
                asked.failure = list(event.body)
            else:
                asked.parts.append(event.body)
                if self.on_part is not None:
                    self.on_part(asked, event)
                if not event.final:
                    continue
                asked.outcome = "reply"
            asked.ended = now
            del self.open_calls[asked]
            self.schedule.tell(self, f"{asked!r}")
