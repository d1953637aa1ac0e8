"""Brokers, workers and clients in virtual time: the pure cores, each with a stand-in for its owner."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from ..core.broker import BrokerCore
from ..core.client import Call, ClientCore, Ended, Outcome, Part
from ..core.connections import Close, Connector, Open, Send
from ..core.management import About
from ..core.options import BrokerOptions
from ..core.reconnect import Reconnect
from ..core.records import DeadLetter
from ..core.statistics import BrokerCounters, ClientCounters, WorkerCounters
from ..core.token import NONCE_SIZE
from ..core.wire import Dialect
from ..core.worker import Failure, Session, Work, WorkerCore
from ..endpoints import check_body
from ..handlers import Handler, Request, request_of
from .network import Network, Wire


class Crash(Exception):
    """Raised by a handler: its whole process dies."""


class Node:
    """What an owner does: read a burst, do what is due, send."""

    #: Messages read before anything else is done.
    burst = 3

    def __init__(self, network: Network, name: str) -> None:
        self.network = network
        self.schedule = network.schedule
        self.name = name
        self.inbox: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        #: True while its hub does something else, or the process is frozen.
        self.blocked = False
        self.dead = False
        #: True if it ran since somebody reset this.
        self.ran = False
        self._wake_at = math.inf

    def __repr__(self) -> str:
        return self.name

    # What subclasses provide

    def awake(self, now: float) -> None:
        """A pass begins."""

    def caught_up(self, now: float) -> None:
        """There was nothing more to read."""

    def deadline(self) -> float:
        """When `tick` is needed next."""
        raise NotImplementedError  # pragma: no cover

    def tick(self, now: float) -> None:
        """Do what is due."""

    def flush(self, now: float) -> None:
        """Carry out what was decided."""

    # Running

    def post(self, function: Callable[..., None], *args: Any) -> None:
        """Have the node call `function(*args)` when it reads next."""
        if not self.dead:
            self.inbox.append((function, args))
            self.run()

    def block(self, seconds: float) -> None:
        """It does not run for so long; what comes waits."""
        if not self.blocked and not self.dead:
            self.schedule.tell(self, f"does not run for {seconds:.3f} s")
            self.blocked = True
            self.schedule.after(seconds, self.unblock)

    def unblock(self) -> None:
        """It runs again."""
        if self.blocked:
            self.blocked = False
            self.run()

    def has_died(self) -> bool:
        """True once the process is dead."""
        return self.dead

    def run(self) -> None:
        """Pass after pass, until there is nothing more to do now."""
        self.ran = True
        if self.blocked or self.dead:
            return
        now = self.schedule.now
        # What could not be sent may leave something that is due at once; but not for ever.
        spins = 20
        while True:
            self.awake(now)
            for function, args in self.inbox[: self.burst]:
                function(*args)
                if self.has_died():
                    return
            del self.inbox[: self.burst]
            if not self.inbox:
                self.caught_up(now)
            if now >= self.deadline():
                self.tick(now)
            self.flush(now)
            if self.has_died():
                return
            if not self.inbox:
                when = self.deadline()
                if when > now:
                    break
                spins -= 1
                if not spins:
                    raise AssertionError(f"{self} spins")
        if when < self._wake_at or self._wake_at <= now:
            self._wake_at = when
            if when < math.inf:
                self.schedule.at(when, self._wake, when)

    def _wake(self, when: float) -> None:
        if when == self._wake_at:
            self._wake_at = math.inf
            self.run()


class BrokerNode(Node):
    """A broker, which can be killed and started again at its endpoint."""

    def __init__(self, network: Network, endpoint: str, options: BrokerOptions, hwm: int = 1000) -> None:
        super().__init__(network, endpoint)
        self.options = options
        self.hwm = hwm
        self.generation = 0
        self.up = False
        self.peers: dict[bytes, Wire] = {}
        self.letters: list[DeadLetter] = []
        #: Sees what is "received", "sent", and "unsent" since its peer is gone, and who is
        #: "lost" while something of his waits unread.
        self.watch: Callable[[BrokerNode, str, list[bytes]], None] | None = None
        self._until: float | None = None
        network.brokers[endpoint] = self
        self.start()

    def start(self) -> None:
        """Start, with empty hands."""
        if self.up:
            return
        self.schedule.tell(self, "starts")
        self.generation += 1
        self.up = True
        self._until = None
        self.peers = {}
        self.inbox.clear()
        self.counters = BrokerCounters()
        nonce = self.schedule.random.randbytes(NONCE_SIZE)
        about = About(hwm=self.hwm)
        self.core = BrokerCore(self.options, nonce, self.schedule.now, self.counters, about)
        self._wake_at = math.inf
        self.run()

    def kill(self) -> None:
        """End at once, as after ``kill -9``."""
        if self.up:
            self.schedule.tell(self, "is killed")
            self._down()

    def stop(self, timeout: float) -> None:
        """Drain for up to `timeout` seconds, and end."""
        if self.up and self._until is None:
            self.schedule.tell(self, "drains")
            self.core.drain()
            self._until = self.schedule.now + timeout
            self.run()

    def _down(self) -> None:
        self.up = False
        self.generation += 1
        for wire in list(self.peers.values()):
            wire.cut()
        self.peers = {}
        self.inbox.clear()

    def run(self) -> None:
        """Run, unless it is down."""
        if self.up:
            super().run()

    def awake(self, now: float) -> None:
        """A pass begins."""
        self.core.awake(now)

    def caught_up(self, now: float) -> None:
        """There was nothing more to read."""
        self.core.caught_up(now)

    def deadline(self) -> float:
        """When `tick` is needed next."""
        if not self.up:
            return math.inf
        when = self.core.deadline()
        if self._until is not None:
            return 0.0 if self.core.drained else min(when, self._until)
        return when

    def received(self, frames: list[bytes]) -> None:
        """One message was read."""
        if self.watch is not None:
            self.watch(self, "received", frames)
        self.core.feed(frames, self.schedule.now)

    def tick(self, now: float) -> None:
        """Do what is due."""
        unread = {args[0][0] for function, args in self.inbox if function == self.received}
        alive = unread & self.core._workers.connections.keys()
        self.core.tick(now)
        if self.watch is not None:
            for key in alive - self.core._workers.connections.keys():
                self.watch(self, "lost", [key])
        if self._until is not None and (self.core.drained or now >= self._until):
            self.core.finish(now)
            self.flush(now)
            self.schedule.tell(self, "has stopped")
            self._down()

    def flush(self, now: float) -> None:
        """Send what was decided."""
        core = self.core
        while core.outbox or core.events:
            outbox = core.outbox[:]
            core.outbox.clear()
            for outgoing in outbox:
                if core.withheld(outgoing, now):
                    continue
                routing_id, *frames = outgoing.frames
                wire = self.peers.get(routing_id)
                why_not = wire.deliver(frames, self.hwm) if wire is not None else "gone"
                if why_not is not None:
                    if self.watch is not None and why_not == "gone":
                        self.watch(self, "unsent", outgoing.frames)
                    core.unsent(outgoing, why_not == "full", now)
                elif self.watch is not None:
                    self.watch(self, "sent", outgoing.frames)
            for event in core.events:
                if isinstance(event, DeadLetter):
                    self.letters.append(event)
            core.events.clear()


K = TypeVar("K", bound=Connector[Any])


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
        #: How it ended: "reply", an :class:`~gmdp.core.client.Outcome`, or None if it has not.
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
        """Begin a call; `options` are those of :class:`~gmdp.core.client.Call`."""
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
