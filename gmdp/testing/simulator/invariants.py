"""What holds at all times, whatever happens: checked from outside, after each step.

A check raises AssertionError; its message says what did not hold.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from ...core.broker.records import Outgoing, Place, Request, Service, Worker, weight
from ...core.peer.calls import CallState
from ...core.peer.sessions import SessionState
from ...protocol import extension, wire
from ...protocol.wire import CLIENT_01, CLIENT_02, EMPTY, WORKER_01, WORKER_02, Command
from .network import Wire
from .nodes import BrokerNode
from .peers import ClientNode, WorkerNode

_Address = tuple[bytes, ...]

_REQUESTS = {WORKER_01, WORKER_02}
_DISCONNECTS = {WORKER_01: b"\x05", WORKER_02: b"\x06"}


def hold(condition: object, *what: object) -> None:
    """Raise AssertionError unless `condition`."""
    if not condition:
        raise AssertionError(" ".join(map(str, what)))


class Invariants:
    """Everything that is checked of the nodes of one simulation."""

    def __init__(self) -> None:
        #: Per broker: what was said to whom, as far as it matters later.
        self._talks: dict[BrokerNode, _Talk] = {}
        self._turns: dict[BrokerNode, _Turns] = {}
        #: Clients that did not read, and workers that could not be reached: routing ids are
        #: not used twice.
        self._slow: set[bytes] = set()
        self._gone: set[bytes] = set()

    def watch(self, node: BrokerNode, direction: str, frames: list[bytes]) -> None:
        """A broker "received" or "sent" a message, or could not send it to a peer that was gone ("unsent"),
        or "lost" a connection of which messages wait unread."""
        hold(direction != "lost", "a worker was thought dead while a message of it waited:", *frames)
        talk = self._talks.get(node)
        if talk is None or talk.generation != node.generation:
            talk = self._talks[node] = _Talk(node.generation)
        if direction == "received":
            talk.received(frames, node.schedule.now, node.options.expiry)
        elif direction == "unsent":
            talk.now = node.schedule.now
            talk.unsent(frames, slow=self._is_slow(node, frames[0]))
            if _parts(frames)[2] in _REQUESTS and _parts(frames)[3] == b"\x02":
                self._gone.add(frames[0])
        else:
            talk.now = node.schedule.now
            talk.sent(frames, slow=self._is_slow(node, frames[0]))

    def _is_slow(self, node: BrokerNode, routing_id: bytes) -> bool:
        """Do messages wait for this client, or did they ever?"""
        client = node.core._replies.clients.get(routing_id)
        if client is not None and client.backlog is not None:
            self._slow.add(routing_id)
        return routing_id in self._slow

    def check(self, node: Any) -> None:
        """Check one node."""
        if isinstance(node, BrokerNode):
            if node.up:
                self._check_broker(node)
        elif node.dead:
            pass
        elif isinstance(node, WorkerNode):
            _check_worker(node)
        elif isinstance(node, ClientNode):
            _check_client(node)

    def _check_broker(self, node: BrokerNode) -> None:
        core = node.core
        ledger, delivery, replies, workers = core._ledger, core._delivery, core._replies, core._workers
        now = node.schedule.now
        requests: list[Request] = []
        for service in delivery.services.values():
            requests += self._check_service(node, service)
        hold(delivery.queued == len(requests), "queued:", delivery.queued, "of", len(requests))
        assigned: list[Request] = []
        count = 0
        for connection in workers.connections.values():
            suspects = []
            for worker in connection.workers.values():
                count += 1
                request = worker.request
                if not worker.registered or worker.connection is not connection:
                    raise AssertionError("a lost worker is on a connection")
                if (worker in worker.service.idle) is not (request is None):
                    raise AssertionError("a worker is idle and busy, or neither")
                if request is not None:
                    assigned.append(request)
                    self._check_assigned(worker, request, now)
                    if request.suspect:
                        suspects.append(request)
            if connection.suspect is not None or suspects:
                hold([connection.suspect] == suspects, "a connection's suspect is another, or it has two")
        hold(workers.count == count, "workers:", workers.count, "of", count)
        hold(workers.count <= core.options.max_workers, "too many workers")
        hold(delivery.assigned == len(assigned), "assigned:", delivery.assigned, "of", len(assigned))
        requests += assigned
        self._check_silence(node)
        self._check_turns(node)
        counters = core.counters
        hold(
            counters.requests == counters.replies + sum(counters.ended.values()) + len(requests),
            "requests do not add up",
        )
        hold(
            len(ledger.timers) == len(workers.connections) + delivery.queued + replies.backlogs,
            "timers:",
            len(ledger.timers),
        )
        self._check_accounts(node, requests)

    def _check_silence(self, node: BrokerNode) -> None:
        """Nobody is taken for alive for longer than silence may last."""
        now, expiry, gap = node.schedule.now, node.options.expiry, node.core._ledger.gap
        for connection in node.core._workers.connections.values():
            heard, allowance = connection.pulse.heard, expiry
            worker = connection.workers.get(EMPTY)
            if worker is not None and worker.request is not None:
                heard = max(heard, worker.assigned_at)
                if not connection.heard_busy:
                    allowance = worker.service.options.busy_timeout
            if now >= heard + allowance and now >= gap.until and not node.blocked:
                raise AssertionError(f"a silent worker is not lost: {connection.key!r}")

    def _check_turns(self, node: BrokerNode) -> None:
        """No client has three requests served in a row while another's waits."""
        turns = self._turns.setdefault(node, _Turns(node.generation))
        if turns.generation != node.generation:
            turns = self._turns[node] = _Turns(node.generation)
        turns.check(node)

    def _check_service(self, node: BrokerNode, service: Service) -> list[Request]:
        queued = list(service.queue)
        hold(len(queued) == len(service.queue) <= service.options.max_queue, "a queue's length")
        hold(len({id(request) for request in queued}) == len(queued), "a request is queued twice")
        suspects = hasty = 0
        for request in queued:
            if request.place is not Place.QUEUED or not request.waiting:
                raise AssertionError(f"a queued request is {request.place}")
            if request.worker is not None or request.timer is None:
                raise AssertionError("a queued request has a worker, or no end")
            suspects += request.suspect
            hasty += request.terms.hasty
        hold(service.queue.suspects == suspects, "queued suspects")
        hold(service.hasty == hasty, "requests that are not to wait")
        for worker in service.idle:
            if not worker.registered or worker.request is not None or worker.service is not service:
                raise AssertionError("an idle worker is not")
            if queued and (worker.connection.suspect is None or suspects < len(queued)):
                raise AssertionError("idle, and a request waits")
        if not service.workers:
            hold(queued, "a service without workers and requests is remembered")
            hold(not service.hasty, "a request waits that was to fail")
        return queued

    def _check_assigned(self, worker: Worker, request: Request, now: float) -> None:
        hold(request.place is Place.ASSIGNED, "an assigned request is", request.place)
        hold(request.worker is worker and not request.waiting and request.timer is None, "an assigned request is not")
        hold(request.attempts <= request.service.options.attempts, "one attempt too many")
        hold(worker.connection.key not in self._gone, "a worker that could not be reached keeps its request")
        if worker.assigned_at != now:
            return
        hold(now < request.deadline, "given to a worker after its deadline")
        hold(not request.streamed, "given to a worker after a part of its answer went out")
        if request.attempts == 1:
            for other in request.service.queue:
                if other.lane == request.lane and other.priority == request.priority and other is not request:
                    barred = other.suspect and worker.connection.suspect is not None
                    # What came back only now may have come after the other had gone.
                    first = other.accepted < request.accepted and other.queued_at < now
                    hold(barred or not first, "a client's later request was taken first")

    def _check_accounts(self, node: BrokerNode, requests: list[Request]) -> None:
        core = node.core
        ledger, replies = core._ledger, core._replies
        held = 0
        opened: Counter[Any] = Counter()
        identities = []
        for request in requests:
            if request.client is None:
                hold(request.abandoned, "a request is on nobody's account")
                continue
            held += request.size + request.joined_size
            opened[request.client.key] += 1
            if request.terms.identity is not None:
                identities.append(request.terms.identity)
        limit = core.options.max_in_flight + core.counters.joins
        for key, client in replies.clients.items():
            hold(client.open == opened[key], "open requests of a client:", client.open, "of", opened[key])
            hold(client.open or client.backlog is not None, "a client of which there is nothing is remembered")
            hold(client.open <= limit, "too many requests of one connection")
            if client.backlog is not None:
                waiting: list[Outgoing] = [*client.backlog.returned, *client.backlog.waiting]
                held += sum(weight(message.frames) for message in waiting)
        hold(held == ledger.held_bytes, "bytes held:", ledger.held_bytes, "of", held)
        hold(held <= core.options.max_queue_bytes, "too many bytes are held")
        hold(len(identities) == len(set(identities)), "one call runs twice")
        talk = self._talks.get(node)
        if talk is not None and talk.generation == node.generation:
            for request in requests:
                identity = request.terms.identity
                given_up = identity is not None and identity[1] in talk.cancelled
                hold(not given_up or request.place is not Place.QUEUED, "a request is queued that was cancelled")
        hold(set(identities) == set(replies.calls), "the calls that may be joined are others than those there are")


class _Turns:
    """Whose requests were given to workers, one after the other, at one start of a broker."""

    #: How many of one client may be, while another's wait: one more than in turn, since
    #: what is given back goes first, and one for what happened within a step.
    MOST = 3

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self._seen: set[bytes] = set()
        #: Per service and priority: who waits, and how often each other was served since.
        self._served: dict[Any, dict[Any, Counter[Any]]] = {}

    def check(self, node: BrokerNode) -> None:
        """Look at what was assigned since the last time, then at who waits now."""
        given = [
            worker.request
            for worker in node.core.workers
            if worker.request is not None and worker.assigned_at == node.schedule.now and worker.token not in self._seen
        ]
        self._seen.update(request.worker.token for request in given if request.worker is not None)
        for request in given:
            waiting = self._served.get((request.service.name, request.priority), {})
            waiting.pop(request.lane, None)
            if request.attempts == 1:
                for lane, others in waiting.items():
                    others[request.lane] += 1
                    hold(
                        others[request.lane] <= self.MOST, "one client is served again and again, another waits:", lane
                    )
        present: dict[Any, dict[Any, Counter[Any]]] = {}
        for service in node.core.services.values():
            for request in service.queue if service.queue else ():
                if not request.suspect:
                    key = (service.name, request.priority)
                    earlier = self._served.get(key, {}).get(request.lane)
                    present.setdefault(key, {})[request.lane] = earlier if earlier is not None else Counter()
        self._served = present


class _Origin(NamedTuple):
    """Where a call was last asked from."""

    attempt: int
    service: bytes
    peer: _Address
    when: float


class _Talk:
    """What one start of a broker said, and to whom."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.now = 0.0
        #: Connections, and sessions of some, that were told DISCONNECT; and when each
        #: was last heard or told anything.
        self._disconnected: dict[tuple[_Address, bytes], float] = {}
        #: The same: when each last said DISCONNECT.
        self._left: dict[tuple[_Address, bytes], float] = {}
        #: When a READY last came on a connection.
        self._ready: dict[_Address, float] = {}
        #: Gmdp clients' calls: requests without a FINAL, where a retry that joined counts.
        self._calls: Counter[bytes] = Counter()
        #: When each last had a FINAL, or was cancelled.
        self._answered: dict[bytes, float] = {}
        #: Where each was last asked from.
        self._origins: dict[bytes, _Origin] = {}
        #: Calls that were cancelled.
        self.cancelled: set[bytes] = set()
        #: Strict clients: requests without a FINAL.
        self._open: Counter[_Address] = Counter()

    def received(self, frames: list[bytes], now: float, expiry: float) -> None:
        self.now = now
        message = wire.parse(frames)
        if message is None:
            return
        peer = (frames[0], *message.stack)
        if not message.client:
            if message.command is Command.READY:
                self._disconnected.pop((peer, EMPTY), None)
                self._ready[peer] = now
                return
            if (told := self._disconnected.get((peer, EMPTY))) is not None:
                # A broker remembers whom it has told for one expiry after they last spoke.
                self._disconnected[(peer, EMPTY)] = now
                if now >= told + expiry:
                    del self._disconnected[(peer, EMPTY)]
            if message.command is Command.DISCONNECT:
                session = EMPTY
                if message.extra:
                    session = extension.session_frame(extension.read_session(message.extra)[1])
                self._disconnected[(peer, session)] = self._left[(peer, session)] = now
        elif message.extra:
            call = extension.read_call(message.extra)
            if call.flags & extension.CANCEL:
                self.cancelled.add(call.id)
                self._answered[call.id] = now
                return
            self.cancelled.discard(call.id)
            self._calls[call.id] += 1
            known = self._origins.get(call.id)
            # One that asks another service under an id in use is not heard, and what comes late
            # from an earlier try does not call the answer back.
            anew = known is None or self._answered.get(call.id, -1.0) > known.when
            if known is None or anew or (call.attempt >= known.attempt and known.service == message.subject):
                self._origins[call.id] = _Origin(call.attempt, message.subject, peer, now)
        else:
            self._open[peer] += 1

    def unsent(self, frames: list[bytes], slow: bool) -> None:
        at, extra, _, _ = _parts(frames)
        if extension.is_call(extra):
            self._check_origin(extension.read_call(extra).id, tuple(frames[: at - 1]), slow)

    def sent(self, frames: list[bytes], slow: bool) -> None:
        at, extra, head, command = _parts(frames)
        if head in (CLIENT_01, CLIENT_02):
            self._answer(frames, extra, at, head == CLIENT_01 or command != b"\x02", slow)
            return
        peer, session = tuple(frames[:at]), EMPTY
        if extension.is_session(extra):
            peer, session = peer[:-1], extension.session_frame(extension.read_session(extra)[1])
        told = self._disconnected
        for key in ((peer, EMPTY), (peer, session)):
            # What was decided before its DISCONNECT may leave after it.
            just_now = self._left.get(key) == self.now
            hold(key not in told or just_now, "something went to a worker after DISCONNECT:", frames)
        # What was decided before a READY may leave after it.
        if command == _DISCONNECTS[head] and self._ready.get(peer) != self.now:
            told[(peer, session)] = self.now

    def _answer(self, frames: list[bytes], extra: bytes, at: int, final: bool, slow: bool) -> None:
        if extension.is_call(extra):
            call = extension.read_call(extra)
            hold((call.status == extension.Status.PARTIAL) is not final, "status and command differ")
            hold(self._calls[call.id] > 0, "something follows a FINAL, or answers nothing:", frames)
            self._check_origin(call.id, tuple(frames[: at - 1]), slow)
            if final:
                self._calls[call.id] -= 1
                self._answered[call.id] = self.now
            return
        key = tuple(frames[:at])
        if frames[at] == EMPTY and frames[at + 1] == CLIENT_02:
            final = frames[at + 2] != b"\x03"  # majortomo's codes
        hold(self._open[key] > 0, "something follows a FINAL, or answers nothing:", frames)
        if final:
            self._open[key] -= 1

    def _check_origin(self, identity: bytes, peer: _Address, slow: bool) -> None:
        """An answer goes to where it was asked for."""
        origin = self._origins[identity]
        # What was decided before a retry came may leave after it.
        settled = origin.when < self.now and not slow
        hold(not settled or origin.peer == peer, "an answer goes elsewhere:", peer, "not", origin.peer)


def _parts(frames: list[bytes]) -> tuple[int, bytes, bytes, bytes]:
    """Of a message to a peer: where its delimiter or header is, the last frame of its return address,
    the header and the command."""
    at = 1
    extra = EMPTY
    if frames[1] not in (EMPTY, CLIENT_02, WORKER_02):
        at = frames.index(EMPTY, 2)
        extra = frames[at - 1]
    if frames[at] == EMPTY:
        return at, extra, frames[at + 1], frames[at + 2]
    return at, extra, frames[at], frames[at + 1]


def _check_worker(node: WorkerNode) -> None:
    core = node.core
    registered = 0
    for session in core.sessions:
        connection = session.connection
        if (connection is None) is session.registered:
            raise AssertionError("a session without connection is registered")
        if connection is not None:
            registered += 1
            if connection.sessions.get(session.frame) is not session:
                raise AssertionError("a session is not on its connection")
        if session.work is not None and not session.handling:
            raise AssertionError("work without a handler")
        if (session.state is SessionState.BUSY) is not (session.work is not None):
            raise AssertionError("busy without work")
    hold(core.registered == registered, "registered:", core.registered, "of", registered)
    hold(len(node.running) <= len(core.sessions), "more handlers run than there are sessions")
    for usable in core._usable:
        alive = node.schedule.now < max(usable.pulse.heard + core._expiry, core._gap.until)
        unused = not usable.sessions and usable.timer is None
        hold(alive or node.blocked or unused, "a silent broker is not left")
    hold(len(core._connections) <= len(core.sessions) + 1, "too many connections")


def watch_client(direction: str, wire: Wire, frames: list[bytes]) -> None:
    """A client "received" or "sent" a message: no call begins where the broker has said that it stops."""
    if extension.is_call(frames[0]):
        call = extension.read_call(frames[0])
        if direction == "received":
            wire.is_left = wire.is_left or call.status == extension.Status.SHUTTING_DOWN
        else:
            hold(call.flags & extension.CANCEL or not wire.is_left, "a call begins at a broker that stops")


def _check_client(node: ClientNode) -> None:
    core, counters = node.core, node.counters
    statistics = core.statistics()
    hold(
        counters.requests
        == counters.replies
        + counters.timeouts
        + counters.cancelled
        + counters.errors
        + statistics.waiting
        + statistics.in_flight,
        "calls do not add up",
    )
    hold(statistics.sockets <= core._max_connections + len(core._leaving), "too many sockets")
    for asked in node.open_calls:
        call = asked.call
        if call.number:
            hold(call.state is not CallState.DONE and call.timer is not None, "a call has ended in silence")
            waits = call in core._waiting
            hold(waits is (call.connection is None), "a call is in line and on a connection, or neither")
            if call.connection is not None:
                hold(call.connection.calls.get(call.number) is call, "a call is not on its connection")
