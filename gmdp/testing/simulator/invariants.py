"""The invariants of gmdp, checked from outside after each step, whatever faults there are.

A check raises AssertionError; its message says which invariant does not hold.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from ...core.broker.decisions import Outgoing
from ...core.broker.records import Connection, Place, Request, Service, Worker, charged_bytes
from ...core.liveness import MUTE_AFTER
from ...core.peer.calls import CallState
from ...core.peer.connector import Phase, Send
from ...core.peer.sessions import SessionState
from ...protocol import extension, token, wire
from ...protocol.dialects import EMPTY, Command
from . import internals
from .broker import BrokerNode
from .client import ClientNode
from .conversation import Conversation, is_request
from .failures import require
from .network import Wire
from .turns import Turns
from .worker import WorkerNode


class Invariants:
    """The checks of all nodes of one simulation."""

    def __init__(self) -> None:
        #: Per broker, the messages between it and its peers.
        self._conversations: dict[BrokerNode, Conversation] = {}
        self._turns: dict[BrokerNode, Turns] = {}
        #: Routing ids of clients that ever failed to read.  They stay: no routing id is used twice.
        self._slow_clients: set[bytes] = set()
        #: Per broker, when each connection was first found to lead to no process any more.
        self._missing: dict[BrokerNode, dict[Connection, float]] = {}
        #: Routing ids of workers that could not be reached.
        self._unreachable_workers: set[bytes] = set()

    def on_traffic(self, node: BrokerNode, direction: str, frames: list[bytes]) -> None:
        """Check a message of a broker; for the broker's :attr:`BrokerNode.on_traffic`."""
        require(direction != "lost", "a worker was lost though a message of it waited unread:", *frames)
        conversation = self._conversations.get(node)
        if conversation is None or conversation.generation != node.generation:
            conversation = self._conversations[node] = Conversation(node.generation)
        if direction == "received":
            check_version(node.core.about.extension, frames[1:])
            check_credit(node, frames)
            conversation.on_received(frames, node.schedule.now, node.options.expiry)
        elif direction == "unsent":
            conversation.now = node.schedule.now
            conversation.on_unsent(frames, slow=self._is_slow(node, frames[0]))
            if is_request(frames):
                self._unreachable_workers.add(frames[0])
        else:
            conversation.now = node.schedule.now
            conversation.on_sent(frames, slow=self._is_slow(node, frames[0]))

    def begun_anew(self, call_id: bytes) -> int:
        """Return how many tries of a call reached a broker after it had sent the answer to an earlier one."""
        return sum(conversation.begun_anew[call_id] for conversation in self._conversations.values())

    def _is_slow(self, node: BrokerNode, routing_id: bytes) -> bool:
        """Return whether messages wait for this client to read them, or ever did."""
        client = internals.clients(node.core).get(routing_id)
        if client is not None and client.backlog is not None:
            self._slow_clients.add(routing_id)
        return routing_id in self._slow_clients

    def check(self, node: Any) -> None:
        """Check the state of one node, if the node is up."""
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
        connections = internals.worker_connections(core)
        requests: list[Request] = []
        for service in core.services.values():
            requests += self._check_service(node, service)
        require(core.queued == len(requests), "queued:", core.queued, "of", len(requests))
        assigned: list[Request] = []
        count = 0
        for connection in connections.values():
            suspects = []
            for worker in connection.workers.values():
                count += 1
                request = worker.request
                if not worker.registered or worker.connection is not connection:
                    raise AssertionError("a connection has a worker that is lost or another's")
                idle, mute = worker in worker.service.idle, worker in worker.service.mute
                if (idle or mute) is not (request is None) or (idle and mute):
                    raise AssertionError("a worker is idle and busy, or neither")
                if (idle and connection.mute) or (mute and not connection.mute):
                    raise AssertionError("a mute worker may get requests, or one that speaks may not")
                if request is not None:
                    assigned.append(request)
                    self._check_assigned(node, worker, request)
                    if request.suspect:
                        suspects.append(request)
            if connection.suspect is not None or suspects:
                require(
                    [connection.suspect] == suspects,
                    "a connection's suspect is not its workers' one suspect",
                )
        require(core.worker_count == count, "workers:", core.worker_count, "of", count)
        require(core.worker_count <= core.options.max_workers, "more workers than max_workers")
        require(core.assigned == len(assigned), "assigned:", core.assigned, "of", len(assigned))
        requests += assigned
        self._check_silence(node)
        self._check_turns(node)
        counters = core.counters
        require(
            counters.requests == counters.replies + sum(counters.ended.values()) + len(requests),
            "requests do not add up: some are neither open, answered nor ended",
        )
        require(
            internals.timers(core)
            == len(connections)
            + core.queued
            + internals.backlogs(core)
            + sum(request.timer is not None for request in assigned),
            "timers:",
            internals.timers(core),
        )
        self._check_accounts(node, requests)

    def _check_silence(self, node: BrokerNode) -> None:
        """Check that no worker counts as attentive, or as alive, after too long a silence."""
        now, interval = node.schedule.now, node.options.heartbeat_interval
        judged = now >= internals.gap_end(node.core) and not node.blocked
        missing = self._missing.setdefault(node, {})
        for connection in internals.worker_connections(node.core).values():
            heard = connection.pulse.heard_at
            if not judged:
                missing.pop(connection, None)
                continue
            if now >= heard + MUTE_AFTER * interval and not connection.mute:
                raise AssertionError(f"a silent worker is not mute: {connection.key!r}")
            lost_at, first = heard + node.options.expiry, connection.first_assignment()
            for worker in connection.workers.values():
                if worker.request is not None:
                    unbegun = not worker.has_begun(first)
                    # The broker looks once an interval.
                    if connection.mute and unbegun and now > worker.assigned_at + 2.5 * interval:
                        raise AssertionError(f"a mute worker keeps what it has not begun: {connection.key!r}")
                    # ZMTP heartbeats have shown that its process is alive: the wires of this network lead to it.
                    begun_at = max(heard, worker.assigned_at)
                    lost_at = max(lost_at, begun_at + worker.service.options.busy_timeout)
            if now >= lost_at:
                raise AssertionError(f"a silent worker is not lost: {connection.key!r}")
            if connection.address[0] in node.peers:
                missing.pop(connection, None)
            elif now > missing.setdefault(connection, now) + interval:
                raise AssertionError(f"a worker whose process has ended is not lost: {connection.key!r}")

    def _check_turns(self, node: BrokerNode) -> None:
        """Check that clients are served in turn."""
        turns = self._turns.setdefault(node, Turns(node.generation))
        if turns.generation != node.generation:
            turns = self._turns[node] = Turns(node.generation)
        turns.check(node)

    def _check_service(self, node: BrokerNode, service: Service) -> list[Request]:
        queued = list(service.queue)
        require(
            len(queued) == len(service.queue) <= service.options.max_queue,
            "a queue is too long, or miscounted",
        )
        require(len({id(request) for request in queued}) == len(queued), "a request is queued twice")
        suspects = failing = 0
        for request in queued:
            if request.place is not Place.QUEUED or not request.waiting:
                raise AssertionError(f"a queued request is {request.place}")
            if request.worker is not None or request.timer is None:
                raise AssertionError("a queued request has a worker, or no timer")
            suspects += request.suspect
            failing += request.terms.fail_without_worker
        require(service.queue.suspects == suspects, "a queue's count of suspects is wrong")
        require(
            service.failing_without_worker == failing,
            "a service miscounts its requests that fail without a worker",
        )
        for worker in service.idle:
            if not worker.registered or worker.request is not None or worker.service is not service:
                raise AssertionError("an idle worker is lost, busy, or of another service")
            if queued and (worker.connection.suspect is None or suspects < len(queued)):
                raise AssertionError("a worker is idle though a request waits")
        if not service.workers:
            require(queued, "a service without workers and requests is kept")
            require(not service.failing_without_worker, "a request waits though it is to fail without a worker")
        return queued

    def _check_assigned(self, node: BrokerNode, worker: Worker, request: Request) -> None:
        now = node.schedule.now
        require(request.place is Place.ASSIGNED, "an assigned request is", request.place)
        require(
            request.worker is worker and not request.waiting and (request.timer is None or request.flow is not None),
            "an assigned request has another worker, waits, or has a timer",
        )
        flow = request.flow
        if flow is not None and request.abandon_reason is None:
            waits = flow.sent >= flow.granted
            require(not waits or request.timer is not None, "a stream may wait for its reader for ever")
            require(flow.passed_on <= flow.granted, "a worker has more credit than the reader granted")
        require(request.attempts <= request.service.options.attempts, "more attempts than the service allows")
        require(
            worker.connection.key not in self._unreachable_workers,
            "a worker that could not be reached keeps its request",
        )
        if worker.assigned_at != now:
            return
        if now >= internals.gap_end(node.core):
            # A pass reads before it judges, and may be late by half an interval.
            overdue = worker.connection.pulse.heard_at + (MUTE_AFTER + 0.5) * node.options.heartbeat_interval
            require(now <= overdue, "a mute worker was given a request")
        require(now < request.deadline, "a request was assigned after its deadline")
        require(not request.partial_sent, "a request was assigned after a part of its answer was sent")
        if request.attempts == 1:
            for other in request.service.queue:
                if other.lane == request.lane and other.priority == request.priority and other is not request:
                    barred = other.suspect and worker.connection.suspect is not None
                    # A request that came back within this step may have come back after the assignment.
                    earlier = other.accepted_at < request.accepted_at and other.queued_at < now
                    require(barred or not earlier, "a client's later request was assigned before an earlier one")

    def _check_accounts(self, node: BrokerNode, requests: list[Request]) -> None:
        core = node.core
        held = 0
        opened: Counter[Any] = Counter()
        typed: Counter[Any] = Counter()
        identities = []
        for request in requests:
            if request.client is None:
                require(request.abandon_reason, "a request that is not abandoned is on no client's account")
                continue
            held += request.size + request.joined_bytes
            opened[request.client] += 1  # a newcomer may have the routing id of one that is gone
            frames = [*request.address[1:], *request.body]
            least = 1_000 + sum(map(len, frames)) + 64 * (len(frames) - 1)
            require(request.size >= least, "a request counts", request.size, "bytes and takes", least)
            if request.terms.identity is not None:
                identities.append(request.terms.identity)
                typed[request.client] += 1
        limit = core.options.max_in_flight + core.counters.joins
        for client in internals.clients(core).values():
            require(client.open == opened[client], "open requests of a client:", client.open, "of", opened[client])
            require(client.open or client.backlog is not None, "a client without requests and backlog is kept")
            require(typed[client] <= limit, "more open requests of a gmdp client than max_in_flight")
            if client.backlog is not None:
                waiting: list[Outgoing] = [*client.backlog.front, *client.backlog.waiting]
                held += sum(charged_bytes(message.frames) for message in waiting)
        require(held == core.held_bytes, "bytes held:", core.held_bytes, "of", held)
        require(held <= core.options.max_queue_bytes, "more bytes are held than max_queue_bytes")
        require(len(identities) == len(set(identities)), "two open requests have one identity")
        conversation = self._conversations.get(node)
        if conversation is not None and conversation.generation == node.generation:
            for request in requests:
                identity = request.terms.identity
                given_up = identity is not None and identity[1] in conversation.cancelled
                require(not given_up or request.place is not Place.QUEUED, "a cancelled request is queued")
        require(
            set(identities) == set(internals.joinable_calls(core)),
            "the calls that may be joined are not the open ones",
        )


def check_version(version: int, frames: list[bytes]) -> None:
    """Check that a peer that speaks this version of the extension gets no frame of a later one."""
    extra = frames[0] if frames else EMPTY
    if extension.is_call(extra) or extension.is_session(extra):
        require(extension.version_of(extra) <= version, "a frame of a version that its reader does not speak:", frames)


def check_credit(node: BrokerNode, frames: list[bytes]) -> None:
    """Check that a worker sends a part of a stream only as far as its credit goes."""
    message = wire.parse(frames)
    if message is None or message.command is not Command.PARTIAL:
        return
    key = (frames[0], *message.stack) if message.stack else frames[0]
    connection = internals.worker_connections(node.core).get(key)
    worker = connection.workers.get(message.extra) if connection is not None else None
    request = worker.request if worker is not None else None
    if worker is None or request is None or message.subject[: token.PREFIX_SIZE] != worker.token:
        return
    flow = request.flow
    require(flow is None or flow.sent < flow.passed_on, "a part was sent without credit")


def check_peer_traffic(node: WorkerNode | ClientNode, direction: str, peer_wire: Wire, frames: list[bytes]) -> None:
    """Check a message of a client or worker."""
    if direction == "received":
        check_version(node.extension, frames)
    if isinstance(node, ClientNode):
        on_client_traffic(node, direction, peer_wire, frames)


def _check_worker(node: WorkerNode) -> None:
    core = node.core
    registered = 0
    for session in core.sessions:
        connection = session.connection
        if (connection is None) is session.registered:
            raise AssertionError("a session is registered without a connection, or not registered with one")
        if connection is not None:
            registered += 1
            if connection.sessions.get(session.frame) is not session:
                raise AssertionError("a session's connection does not know the session")
        if session.work is not None and not session.handling:
            raise AssertionError("a session has work, but no handler runs")
        if (session.state is SessionState.BUSY) is not (session.work is not None):
            raise AssertionError("a session is busy without work, or has work and is not busy")
    require(core.registered == registered, "registered:", core.registered, "of", registered)
    require(len(node.running) <= len(core.sessions), "more handlers run than there are sessions")
    for usable in internals.usable_connections(core):
        alive = node.schedule.now < max(usable.pulse.heard_at + internals.expiry(core), internals.gap_end(core))
        unused = not usable.sessions and usable.timer is None
        # A broker that speaks an RFC only may be silent while its worker has work.
        trusted = usable.phase is Phase.STRICT and any(session.work for session in usable.sessions.values())
        require(alive or node.blocked or unused or trusted, "a broker that is silent for too long is still used")
    require(core.sockets <= len(core.sessions) + 1, "more connections than sessions, and one")


def on_client_traffic(node: ClientNode, direction: str, peer_wire: Wire, frames: list[bytes]) -> None:
    """Check a message of a client: no call is decided for a broker that has said that it stops."""
    if extension.is_call(frames[0]):
        call = extension.read_call(frames[0])
        decided = peer_wire.decided_before_stop
        if direction == "received":
            if decided is None and call.status in (extension.Status.SHUTTING_DOWN, extension.Status.NOT_RUN):
                sends = [action for action in node.core.actions if isinstance(action, Send)]
                peer_wire.decided_before_stop = [send.frames for send in sends]
        elif decided is not None:
            old = call.attempt > 1 or call.flags & (extension.CANCEL | extension.GRANT)
            require(old or any(frames is earlier for earlier in decided), "a call begins at a broker that stops")


def _check_client(node: ClientNode) -> None:
    core, counters = node.core, node.counters
    statistics = core.statistics()
    require(
        counters.requests
        == counters.replies
        + counters.timeouts
        + counters.cancelled
        + counters.errors
        + statistics.waiting
        + statistics.in_flight,
        "calls do not add up",
    )
    require(statistics.sockets <= internals.max_sockets(core), "more sockets than max_connections")
    window, shared = internals.stream_bounds(core)
    extra = 0
    for simulated in node.open_calls:
        call = simulated.call
        extra += call.extra_credit
        if call.credit < math.inf:
            ahead = call.credit - call.consumed
            require(ahead <= extension.INITIAL_CREDIT + window, "a stream has more credit than its window")
            # A stream whose reader has taken everything may send at least one part more.
            taken = not call.received or call.consumed < call.received or call.received < call.credit
            require(taken or node.blocked, "a stream waits for a reader that has nothing to read")
    require(extra + shared == node.stream_bytes, "credits that streams share do not add up:", extra, shared)
    require(shared >= 0, "streams have more credit than they may share")
    for simulated in node.open_calls:
        call = simulated.call
        if call.number:
            require(
                call.state is not CallState.DONE and call.timer is not None,
                "a call ended, but its caller waits",
            )
            waits = call in internals.waiting_calls(core)
            require(waits is (call.connection is None), "a call waits and is on a connection, or neither")
            if call.connection is not None:
                require(call.connection.calls.get(call.number) is call, "a call's connection does not know the call")
