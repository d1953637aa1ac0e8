"""Brokers, workers and clients coupled back to back, in virtual time and without a socket.

A :class:`World` holds one broker, any number of workers and clients, and the
connections between them.  Connections deliver in order, after a while, as long
as nobody cuts them; nodes can be blocked, crash, and be started again.
Everything random comes from one seed.
"""

import heapq
import itertools
import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import DIALECTS, client_reply, worker_command

from gmdp.core import worker as worker_core
from gmdp.core.broker import BrokerCore
from gmdp.core.client import Call, CallState, ClientCore, Close, Open, Outcome, Part, Send
from gmdp.core.liveness import Gap, Pulse
from gmdp.core.options import BrokerOptions
from gmdp.core.reconnect import MAX_FACTOR, Reconnect
from gmdp.core.statistics import BrokerCounters, ClientCounters, WorkerCounters
from gmdp.core.wire import MAJORTOMO, RFC7, RFC18, Command
from gmdp.core.worker import SessionState, WorkerSession

STEADY = settings(derandomize=True, deadline=None, database=None)

#: Which frame of a message from or to a worker, routing id included, is the command.
COMMAND_AT = {RFC7: 3, RFC18: 2, MAJORTOMO: 3}


class World:
    """Time, chance, and what is going to happen."""

    def __init__(self, seed=0, latency=0.01):
        self.now = 0.0
        self.random = random.Random(seed)
        self.latency = latency
        self._coming = []
        self._sequence = itertools.count()
        self.wires = []

    def at(self, when, function, *args):
        heapq.heappush(self._coming, (max(when, self.now), next(self._sequence), function, args))

    def after(self, seconds, function, *args):
        self.at(self.now + seconds, function, *args)

    def run(self, seconds):
        until = self.now + seconds
        while self._coming and self._coming[0][0] <= until:
            self.now, _, function, args = heapq.heappop(self._coming)
            function(*args)
        self.now = until

    def delay(self):
        return self.random.uniform(0.1, 1.0) * self.latency


class Wire:
    """One connection of a node to the broker."""

    def __init__(self, world, node, broker, tag):
        self.world = world
        self.node = node
        self.broker = broker
        self.tag = tag
        self.routing_id = b"rid%d" % len(world.wires)
        world.wires.append(self)
        #: False as soon as the node has closed it, or heard that it is lost.
        self.open = True
        #: False as soon as the broker knows that nobody is there.
        self.there = False
        self.silent = False
        self.generation = None
        self._last = {True: 0.0, False: 0.0}
        self._in_order(True, self._reach)

    def _in_order(self, inward, function, *args):
        when = max(self.world.now + self.world.delay(), self._last[inward] + 1e-6)
        self._last[inward] = when
        self.world.at(when, function, *args)

    def _reach(self):
        if self.broker.up and not self.silent:
            self.there = True
            self.generation = self.broker.generation
            self.broker.wires[self.routing_id] = self
            self._in_order(False, self._tell, self.node.connected)
        else:
            self._in_order(False, self._tell, self.node.lost)

    def _tell(self, function, *args):
        if self.open and not (self.silent and function != self.node.lost):
            if function == self.node.lost:
                self.open = False
            self.node.post(function, self, *args)

    # The node's end

    def send(self, frames):
        assert self.open
        self._in_order(True, self._arrive, frames)

    def close(self):
        self.open = False
        self._in_order(True, self._gone)

    # The broker's end

    def _arrive(self, frames):
        if self.there and not self.silent and self.generation == self.broker.generation:
            self.broker.post(self.broker.received, [self.routing_id, *frames])

    def _gone(self):
        self.there = False

    def deliver(self, frames):
        """False if there is nobody."""
        if not self.there:
            return False
        self._in_order(False, self._tell, self.node.received, frames)
        return True

    # Misfortune

    def cut(self):
        """Both ends notice."""
        self.there = False
        self._in_order(False, self._tell, self.node.lost)

    def cut_silently(self):
        """W3: nobody notices."""
        self.silent = True


class Node:
    """What an owner does: it reads a burst, does what is due, and sends."""

    burst = 3

    def __init__(self, world):
        self.world = world
        self.inbox = []
        self.blocked = False
        self.dead = False
        self._wake_at = math.inf
        self.passes = 0

    def post(self, function, *args):
        self.inbox.append((function, args))
        self.run()

    def block(self, seconds):
        """Its hub does something else for so long."""
        if not self.blocked:
            self.blocked = True
            self.world.after(seconds, self._unblock)

    def _unblock(self):
        self.blocked = False
        self.run()

    def run(self):
        if self.blocked or self.dead:
            return
        now = self.world.now
        # What could not be sent may leave something that is due at once; but not for ever.
        spins = 10
        while True:
            self.awake(now)
            self.passes += 1
            for function, args in self.inbox[: self.burst]:
                function(*args)
            del self.inbox[: self.burst]
            if not self.inbox:
                self.caught_up(now)
            self.tick(now)
            self.flush(now)
            if not self.inbox:
                when = self.deadline()
                if when > now:
                    break
                spins -= 1
                assert spins, "it would spin"
        if when < self._wake_at or self._wake_at <= self.world.now:
            self._wake_at = when
            if when < math.inf:
                self.world.at(when, self._wake, when)

    def _wake(self, when):
        if when == self._wake_at:
            self._wake_at = math.inf
            self.run()


class BrokerNode(Node):
    def __init__(self, world, **options):
        super().__init__(world)
        self.options = BrokerOptions(**options)
        self.counters = BrokerCounters()
        self.generation = 0
        self.up = False
        #: (direction, command) -> messages between broker and workers.
        self.heartbeats = Counter()
        self.start()

    def start(self):
        self.generation += 1
        self.up = True
        self.wires = {}
        self.inbox.clear()
        self.counters = BrokerCounters()
        self.core = BrokerCore(self.options, b"nonce%03d" % self.generation, self.world.now, self.counters)
        self.awake, self.caught_up, self.deadline = self.core.awake, self.core.caught_up, self.core.deadline
        self.run()

    def kill(self):
        """B1"""
        self.check()
        self.up = False
        self.generation += 1
        for wire in self.wires.values():
            wire.cut()
        self.wires = {}
        self.inbox.clear()

    def run(self):
        if self.up:
            super().run()

    def received(self, frames):
        if any(frames[1:] == worker_command(dialect, "HEARTBEAT") for dialect in DIALECTS):
            self.heartbeats["in"] += 1
        self.core.feed(frames, self.world.now)

    def tick(self, now):
        if now >= self.core.deadline():
            self.core.tick(now)

    def flush(self, now):
        core = self.core
        while core.outbox:
            outbox, core.outbox = core.outbox, []
            for outgoing in outbox:
                routing_id, *frames = outgoing.frames
                if any(frames == worker_command(dialect, "HEARTBEAT") for dialect in DIALECTS):
                    self.heartbeats["out"] += 1
                wire = self.wires.get(routing_id)
                if wire is None or not wire.deliver(frames):
                    core.unsent(outgoing, False, now)
        core.events.clear()

    def check(self):
        core, counters = self.core, self.counters
        assert counters.requests == counters.replies + sum(counters.ended.values()) + core.queued + core.assigned
        assert len(core._timers) == len(core.workers) + core.queued
        assert core.assigned == sum(worker.request is not None for worker in core.workers.values())


class WorkerNode(Node):
    """Sessions of one owner; every handler takes a while and answers with what it was asked."""

    def __init__(self, world, broker, dialect, *, sessions=1, work=(0.0, 0.0), parts=(0, 0), every=0.0, **options):
        super().__init__(world)
        interval = options.get("heartbeat_interval", 2.5)
        liveness = options.get("liveness", 3)
        self.broker = broker
        self.work = work
        self.parts = parts
        #: Seconds between two parts.
        self.every = every
        self.gap = Gap(interval, interval * liveness, world.now)
        self.caught_up = self.gap.caught_up
        self.counters = WorkerCounters()
        self.reasons = Counter()
        #: uid -> how often it was worked on.
        self.runs = Counter()
        #: uid -> how many parts its answer has.
        self.parted = {}
        self.sessions = [
            WorkerSession(
                b"s",
                dialect,
                Reconnect(options.get("endpoints", ["one"]), 0.5),
                self.counters,
                heartbeat_interval=interval,
                liveness=liveness,
                gap=self.gap,
                now=world.now,
            )
            for _ in range(sessions)
        ]
        self.links = dict.fromkeys(self.sessions)
        self.run()

    def awake(self, now):
        self.gap.awake(now, self.deadline())

    def deadline(self):
        return min(session.deadline() for session in self.sessions)

    def tick(self, now):
        for session in self.sessions:
            if now >= session.deadline():
                session.tick(now, self.world.random.random())

    def connected(self, wire):
        if self.links[wire.tag] is wire:
            wire.tag.connected(self.world.now)

    def lost(self, wire):
        if self.links[wire.tag] is wire:
            wire.tag.disconnected("lost", self.world.now, self.world.random.random())

    def received(self, wire, frames):
        if self.links[wire.tag] is wire:
            wire.tag.feed(frames, self.world.now, self.world.random.random())

    def flush(self, now):
        for session in self.sessions:
            actions, session.actions = session.actions, []
            for action in actions:
                wire = self.links[session]
                if isinstance(action, worker_core.Open):
                    assert wire is None
                    self.links[session] = Wire(self.world, self, self.broker, session)
                elif isinstance(action, worker_core.Close):
                    self.reasons[action.reason] += 1
                    if wire.open:
                        wire.close()
                    self.links[session] = None
                elif isinstance(action, worker_core.Send):
                    if wire.open:
                        wire.send(action.frames)
                else:
                    self._work(session, action)

    def _work(self, session, work):
        uid = work.body[0]
        self.runs[uid] += 1
        at = 0.0
        self.parted[uid] = self.world.random.randint(*self.parts)
        for part in range(self.parted[uid]):
            at += self.every
            self.world.after(at, self.post, self._partial, session, work, [uid, b"part%d" % part])
        at += self.world.random.uniform(*self.work)
        self.world.after(at, self.post, self._final, session, work, [uid, b"final"])

    def _partial(self, session, work, body):
        session.partial(work, body, self.world.now)

    def _final(self, session, work, body):
        session.final(work, body, False, self.world.now)

    def crash(self):
        """W1"""
        self.dead = True
        for wire in self.links.values():
            if wire is not None:
                wire.cut()

    @property
    def registered(self):
        return all(session.registered for session in self.sessions)


class ClientNode(Node):
    """A client; every call is watched: its parts are its own, and it ends once."""

    def __init__(self, world, broker, dialect, connections=3):
        super().__init__(world)
        self.broker = broker
        self.counters = ClientCounters()
        self.core = ClientCore(dialect, Reconnect(["one"], 0.5), connections, self.counters)
        self.deadline = self.core.deadline
        self.calls = []
        #: Call -> Outcome.
        self.outcomes = {}
        self.frames = {}
        self.ended_at = {}
        self.run()

    def awake(self, now):
        """Nothing."""

    caught_up = awake

    def ask(self, uid, timeout=60.0, retries=0, service=b"s", **more):
        call = Call(service, [uid, b"body"], timeout=timeout, retries=retries, **more)
        self.calls.append(call)
        self.frames[call] = []
        self.post(self._submit, call)
        return call

    def _submit(self, call):
        self.core.submit(call, self.world.now)

    def cancel(self, call):
        self.post(self._cancel, call)

    def _cancel(self, call):
        self.core.cancel(call, Outcome.CANCELLED, self.world.now)

    def close(self):
        self.core.close(self.world.now)
        self.flush(self.world.now)

    def tick(self, now):
        if now >= self.core.deadline():
            self.core.tick(now, self.world.random.random())

    def connected(self, wire):
        if wire.open:
            self.core.connected(wire.tag, self.world.now)

    def lost(self, wire):
        self.core.disconnected(wire.tag, "lost", self.world.now, self.world.random.random())

    def received(self, wire, frames):
        if wire.open:
            self.core.feed(wire.tag, frames, self.world.now)

    def flush(self, now):
        core = self.core
        while core.actions or core.events:
            actions, core.actions = core.actions, []
            for action in actions:
                wire = action.connection.handle
                if isinstance(action, Open):
                    action.connection.handle = Wire(self.world, self, self.broker, action.connection)
                elif isinstance(action, Close):
                    if wire.open:
                        wire.close()
                elif wire.open:
                    assert isinstance(action, Send)
                    wire.send(action.frames)
                else:
                    core.disconnected(action.connection, "closed", now, self.world.random.random())
            events, core.events = core.events, []
            for event in events:
                self._heard(event, now)

    def _heard(self, event, now):
        call = event.call
        assert call not in self.outcomes, "it had ended before"
        if isinstance(event, Part):
            assert set(event.body) & {call.body[0]}, "the reply to another call"
            assert not [frame for frame in event.body if frame.startswith(b"uid") and frame != call.body[0]]
            self.frames[call] += event.body
            parts = [frame for frame in self.frames[call] if frame.startswith(b"part")]
            assert parts == [b"part%d" % part for part in range(len(parts))], "the answer begins anew in its middle"
            if event.final:
                self.outcomes[call] = Outcome.REPLY
                self.ended_at[call] = now
        else:
            assert event.outcome is not Outcome.REPLY
            self.outcomes[call] = event.outcome
            self.ended_at[call] = now

    def check(self):
        counters, statistics = self.counters, self.core.statistics()
        assert counters.requests == (
            counters.replies
            + counters.timeouts
            + counters.cancelled
            + counters.errors
            + statistics.waiting
            + statistics.in_flight
        )
        assert statistics.sockets <= self.core._max_connections

    def check_ended(self):
        self.check()
        assert set(self.outcomes) == set(self.calls)
        statistics = self.core.statistics()
        assert (statistics.waiting, statistics.in_flight) == (0, 0)
        assert all(call.state is CallState.DONE and call.timer is None for call in self.calls)


def numbered():
    return (b"uid%d;" % number for number in itertools.count())


# Without faults


@settings(STEADY, max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    latency=st.sampled_from([0.0001, 0.01, 0.2]),
    clients=st.lists(st.sampled_from(DIALECTS), min_size=1, max_size=4),
    workers=st.lists(st.tuples(st.sampled_from(DIALECTS), st.integers(1, 3)), min_size=1, max_size=3),
    calls=st.integers(1, 40),
    work=st.sampled_from([(0.0, 0.0), (0.001, 0.3), (0.0, 9.0)]),
    parts=st.sampled_from([(0, 0), (0, 3)]),
)
def test_without_faults_everybody_gets_the_own_reply(seed, latency, clients, workers, calls, work, parts):
    """C10, C4: every call is run once, and its reply is whole."""
    world = World(seed, latency)
    broker = BrokerNode(world, request_ttl=10_000.0)
    working = [
        WorkerNode(world, broker, dialect, sessions=sessions, work=work, parts=parts, every=0.01)
        for dialect, sessions in workers
    ]
    asking = [ClientNode(world, broker, dialect) for dialect in clients]
    uids = numbered()
    for client in asking:
        for _ in range(calls):
            world.at(world.random.uniform(0, 5), client.ask, next(uids), 5_000.0)
    world.run(5_000)
    for client in asking:
        client.check_ended()
        for call in client.calls:
            assert client.outcomes[call] is Outcome.REPLY
            frames = client.frames[call]
            (count,) = [worker.parted[call.body[0]] for worker in working if call.body[0] in worker.parted]
            parts = [b"part%d" % part for part in range(count)]
            assert frames == [frame for part in [*parts, b"final"] for frame in (call.body[0], part)]
    runs = sum((worker.runs for worker in working), Counter())
    assert set(runs.values()) <= {1}
    assert len(runs) == calls * len(clients)
    assert broker.counters.replies == calls * len(clients)
    assert not broker.counters.drops
    assert not broker.counters.lost_workers
    assert not any(worker.reasons for worker in working)
    broker.check()


# With faults


class Faults:
    """One fault after the other, of all kinds."""

    def __init__(self, world, broker, workers, clients, kinds):
        self.world = world
        self.broker = broker
        self.workers = workers
        self.clients = clients
        self.kinds = kinds
        self.until = 0.0

    def go_on(self, until):
        self.until = until
        self._next()

    def _next(self):
        if self.world.now < self.until:
            getattr(self, self.world.random.choice(self.kinds))()
            self.world.after(self.world.random.uniform(0.05, 4), self._next)

    def _wire(self):
        there = [wire for wire in self.broker.wires.values() if wire.there and wire.open]
        return self.world.random.choice(there) if there else None

    def cut(self):
        wire = self._wire()
        if wire is not None:
            wire.cut()

    def cut_silently(self):
        wire = self._wire()
        if wire is not None:
            wire.cut_silently()
            if isinstance(wire.node, ClientNode):
                # ZMTP's own heartbeats find out; a worker does by itself.
                self.world.after(8, wire.cut)

    def restart_broker(self):
        if self.broker.up:
            self.broker.kill()
            self.world.after(self.world.random.uniform(0, 5), self.broker.start)

    def crash_worker(self):
        worker = self.world.random.choice(self.workers)
        if not worker.dead:
            worker.crash()
            self.world.after(self.world.random.uniform(0, 5), self._new_worker)

    def _new_worker(self):
        dialect = self.world.random.choice(DIALECTS)
        self.workers.append(WorkerNode(self.world, self.broker, dialect, sessions=2, work=(0, 2), parts=(0, 2)))

    def block(self):
        node = self.world.random.choice([self.broker, *self.workers, *self.clients])
        node.block(self.world.random.uniform(0.1, 20))


@settings(STEADY, max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    dialects=st.lists(st.sampled_from(DIALECTS), min_size=2, max_size=4),
    kinds=st.sets(st.sampled_from(["cut", "cut_silently", "restart_broker", "crash_worker", "block"]), min_size=1).map(
        sorted
    ),
    timeouts=st.sampled_from([(0.5, 3.0), (5.0, 40.0)]),
)
def test_whatever_happens_every_call_ends_once_and_all_recover(seed, dialects, kinds, timeouts):
    """W1, W3, C3, C5, B1, B11: no wrong reply, no lost call, no peer that does not come back."""
    world = World(seed, 0.02)
    broker = BrokerNode(world, request_ttl=20.0)
    workers = [
        WorkerNode(world, broker, dialect, sessions=2, work=(0, 2), parts=(0, 2), every=0.1) for dialect in dialects
    ]
    clients = [ClientNode(world, broker, dialect) for dialect in reversed(dialects)]
    uids = numbered()
    for client in clients:
        for _ in range(40):
            when = world.random.uniform(0, 60)
            timeout, retries = world.random.uniform(*timeouts), world.random.choice([0, 0, 1, 3])
            deadline = world.random.choice([timeout, math.inf])
            world.at(when, _ask, client, next(uids), timeout, retries, deadline)
    for _ in range(10):
        world.at(world.random.uniform(0, 60), _cancel_one, world, clients)
    Faults(world, broker, workers, clients, kinds).go_on(60)
    for _ in range(40):
        world.run(5)
        for client in clients:
            client.check()
        broker.check()
    for client in clients:
        client.check_ended()
        for call in client.calls:
            # What the owner was blocked for comes on top, of a try and of a part without a deadline in all.
            waits = sum(frame.startswith(b"part") for frame in client.frames[call]) + call.tries
            patience = min(call.deadline + 20.1, (call.timeout + 20.1) * waits)
            assert client.ended_at[call] <= call.submitted + patience
    # Now that nothing happens any more, everything works as at the start.
    lost = sum(broker.counters.lost_workers.values())
    assert all(worker.registered for worker in workers if not worker.dead)
    again = [client.ask(next(uids)) for client in clients for _ in range(5)]
    world.run(60)
    for client in clients:
        client.check_ended()
    outcomes = {call: outcome for client in clients for call, outcome in client.outcomes.items()}
    assert [outcomes[call] for call in again] == [Outcome.REPLY] * len(again)
    assert sum(broker.counters.lost_workers.values()) == lost
    broker.check()
    assert (broker.core.queued, broker.core.assigned, broker.core.held_bytes) == (0, 0, 0)


def _ask(client, uid, timeout, retries, deadline):
    client.ask(uid, timeout, retries, deadline=deadline)


def _cancel_one(world, clients):
    client = world.random.choice(clients)
    if client.calls:
        client.cancel(world.random.choice(client.calls))


def test_close_ends_what_waits_and_what_is_out():
    """C6"""
    world = World()
    broker = BrokerNode(world)
    client = ClientNode(world, broker, RFC18)
    for uid in itertools.islice(numbered(), 10):
        client.ask(uid)
    world.run(1)
    assert client.core.statistics().in_flight == 3
    client.close()
    assert set(client.outcomes.values()) == {Outcome.CLOSED}
    client.check_ended()
    world.run(10)
    assert client.core.statistics().sockets == 0


def test_drained_sessions_answer_and_leave():
    """W15"""
    world = World()
    broker = BrokerNode(world)
    worker = WorkerNode(world, broker, RFC18, sessions=3, work=(5, 5))
    client = ClientNode(world, broker, RFC7)
    for uid in itertools.islice(numbered(), 4):
        client.ask(uid)
    world.run(2)
    assert broker.core.assigned == 3
    for session in worker.sessions:
        session.drain(world.now)
    world.run(20)
    assert all(session.state is SessionState.CLOSED for session in worker.sessions)
    assert broker.counters.lost_workers == {"disconnect": 3}
    assert sum(worker.runs.values()) == 3
    assert Counter(client.outcomes.values())[Outcome.REPLY] == 3
    assert (client.core.statistics().in_flight, broker.core.queued) == (1, 1)


# Heartbeats

PAIRS = [(mine, theirs) for mine in (0.5, 1.0, 2.4, 2.5, 2.6, 5.0, 7.5, 60.0) for theirs in (2.5, 0.5, 60.0)]


def watch(hours, mine, theirs, *, latency=0.05, seed=0, dialects=DIALECTS, ask=False, **work):
    """Heartbeats only, for so long: (broker, workers)."""
    world = World(seed, latency)
    broker = BrokerNode(world, heartbeat_interval=theirs, request_ttl=1e6, busy_timeout=1e6)
    workers = [WorkerNode(world, broker, dialect, heartbeat_interval=mine, **work) for dialect in dialects]
    if ask:
        client = ClientNode(world, broker, RFC18)
        for uid in itertools.islice(numbered(), len(workers)):
            client.ask(uid, timeout=1e6)
    world.run(hours * 3600)
    return broker, workers


def nobody_was_lost(broker, workers):
    assert not broker.counters.lost_workers
    assert not sum((worker.reasons for worker in workers), Counter())
    assert len(broker.core.workers) == sum(len(worker.sessions) for worker in workers)


@pytest.mark.parametrize(("mine", "theirs"), PAIRS)
def test_heartbeats_keep_everybody_and_do_not_storm(mine, theirs):
    """ "Mismatched intervals then do no harm, and nobody answers for ever\""""
    hours = 0.5
    broker, workers = watch(hours, mine, theirs)
    nobody_was_lost(broker, workers)
    most = (hours * 3600 / min(mine, theirs) + 2) * len(workers)
    least = hours * 3600 / max(mine, theirs) / 2 - 2
    assert least <= broker.heartbeats["in"] <= most
    assert least <= broker.heartbeats["out"] <= most


@settings(STEADY, max_examples=25)
@given(
    mine=st.floats(0.5, 60), theirs=st.floats(0.5, 60), latency=st.sampled_from([0.0, 0.01, 0.1]), seed=st.integers(0)
)
def test_any_intervals_do(mine, theirs, latency, seed):
    minutes = 20
    broker, workers = watch(minutes / 60, mine, theirs, latency=latency, seed=seed, dialects=[RFC18])
    nobody_was_lost(broker, workers)
    most = minutes * 60 / min(mine, theirs) + 2
    assert broker.heartbeats["in"] <= most
    assert broker.heartbeats["out"] <= most


def test_heartbeats_keep_everybody_for_hours():
    broker, workers = watch(6, 2.5, 2.5)
    nobody_was_lost(broker, workers)
    assert broker.heartbeats["in"] <= 3 * (6 * 3600 / 2.5 + 2)


@pytest.mark.parametrize(("mine", "theirs"), PAIRS)
def test_heartbeats_keep_those_who_work(mine, theirs):
    """Work of twenty minutes, a worker that sends nothing else meanwhile."""
    broker, workers = watch(0.5, mine, theirs, ask=True, work=(1200, 1200))
    nobody_was_lost(broker, workers)
    assert broker.counters.replies == len(workers)
    assert broker.counters.redeliveries == 0


@pytest.mark.parametrize(("mine", "theirs"), PAIRS)
def test_heartbeats_keep_those_who_stream(mine, theirs):
    """Work that sends a part every 0.2 s for two minutes: neither the worker is silent, nor may the broker be."""
    broker, workers = watch(0.1, mine, theirs, dialects=[RFC18], ask=True, parts=(600, 600), every=0.2)
    nobody_was_lost(broker, workers)
    assert broker.counters.replies == 1
    most = 0.1 * 3600 / min(mine, theirs) + 2
    assert broker.heartbeats["in"] <= most
    assert broker.heartbeats["out"] <= most


# Hubs that are blocked


@pytest.mark.parametrize("blocked", [8.0, 20.0, 60.0])
def test_a_blocked_broker_loses_nobody_who_was_heard_meanwhile(blocked):
    """B11: it reads its backlog in bursts, and judges nobody before it has read all."""
    world = World()
    broker = BrokerNode(world)
    workers = [WorkerNode(world, broker, dialect, sessions=5, liveness=40) for dialect in DIALECTS]
    world.run(30)
    broker.block(blocked)
    world.run(blocked + 30)
    nobody_was_lost(broker, workers)


@pytest.mark.parametrize("blocked", [8.0, 20.0, 60.0])
def test_a_blocked_worker_does_not_leave_a_broker_that_was_heard_meanwhile(blocked):
    """B11, from the other side."""
    world = World()
    broker = BrokerNode(world, liveness=40)
    workers = [WorkerNode(world, broker, dialect, sessions=5) for dialect in DIALECTS]
    world.run(30)
    for worker in workers:
        worker.block(blocked)
    world.run(blocked + 30)
    nobody_was_lost(broker, workers)


def test_those_who_died_while_the_broker_was_blocked_are_found_out():
    """B11: a gap is no pardon."""
    world = World()
    broker = BrokerNode(world)
    workers = [WorkerNode(world, broker, RFC18, liveness=40) for _ in range(3)]
    world.run(30)
    broker.block(20)
    for wire in list(broker.wires.values())[:2]:
        wire.cut_silently()
    world.run(20 + 2 * broker.options.expiry + 1)
    assert broker.counters.lost_workers == {"expired": 2}
    assert len(broker.core.workers) == 1
    assert len(workers) == 3


@pytest.mark.parametrize("mine", [2.5, 10.0, 60.0])
def test_a_blocked_broker_loses_nobody_who_waited_for_its_heartbeat(mine):
    """B11 with mismatched intervals: a worker with a long one answers heartbeats, and got none to answer."""
    world = World()
    broker = BrokerNode(world)
    workers = [WorkerNode(world, broker, dialect, heartbeat_interval=mine, liveness=100) for dialect in DIALECTS]
    world.run(31)
    broker.block(9)
    world.run(60)
    nobody_was_lost(broker, workers)


def test_a_gap_is_to_run_late_by_half_an_interval():
    gap = Gap(interval=1.0, grace=3.0, now=10.0)
    gap.awake(11.4, due=11.0)
    assert gap.may_judge(11.4)
    gap.awake(12.5, due=11.9)
    assert not gap.may_judge(12.5)
    # A flooded socket is never read empty: the grace ends all the same.
    for now in (12.9, 13.3, 13.7, 14.1, 14.5, 14.9, 15.3):
        gap.awake(now, due=12.0)
        assert not gap.may_judge(now)
    gap.awake(15.5, due=12.0)
    assert gap.may_judge(15.5)


def test_after_a_gap_peers_have_two_intervals_to_answer():
    gap = Gap(interval=1.0, grace=3.0, now=10.0)
    gap.awake(20.0, due=11.0)
    gap.caught_up(20.0)
    assert gap.until == 22.0
    assert not gap.may_judge(21.9)
    gap.caught_up(21.9)
    assert gap.may_judge(22.0)


@pytest.mark.parametrize("pause", [0.1, 1.01, 1.4, 100.0])
def test_who_runs_when_it_has_to_has_no_gaps(pause):
    """Timers are a little late, always; and where nothing was due, no pause is too long."""
    gap = Gap(interval=1.0, grace=3.0, now=0.0)
    for number in range(1, 100):
        due = pause * number if pause < 100 else math.inf
        gap.awake(pause * number + 0.02, due)
        assert gap.may_judge(pause * number + 0.02)
        gap.caught_up(pause * number + 0.02)
        assert gap.may_judge(pause * number + 0.02)


# What is heard and sent


def test_a_heartbeat_is_answered_where_nothing_else_was_sent():
    pulse = Pulse(0.0)
    assert pulse.heartbeat_due()
    pulse.sending(1.0)
    assert pulse.sent == 1.0
    assert not pulse.heartbeat_due()
    assert pulse.heartbeat_due()
    pulse.sending(2.0)
    pulse.sending(3.0)
    assert not pulse.heartbeat_due()
    assert pulse.heartbeat_due()


@settings(STEADY, max_examples=100)
@given(st.lists(st.sampled_from(["left beats", "right beats", "left speaks", "right speaks"]), max_size=60))
def test_heartbeats_are_not_answered_for_ever(script):
    """One heartbeat makes at most one answer, whatever went before."""
    pulses = {"left": Pulse(0.0), "right": Pulse(0.0)}
    for line in script:
        side, verb = line.split()
        other = "right" if side == "left" else "left"
        pulses[side].sending(1.0)
        answers = 0
        while verb == "beats" and pulses[other].heartbeat_due():
            answers += 1
            pulses[other].sending(1.0)
            side, other = other, side
        assert answers <= 1


# Reconnecting


@settings(STEADY, max_examples=100)
@given(
    count=st.integers(1, 4), interval=st.floats(0.01, 10), jitters=st.lists(st.floats(0, 1), min_size=1, max_size=60)
)
def test_reconnecting_doubles_its_delay_up_to_a_bound(count, interval, jitters):
    """W3: each endpoint in turn, a wait after each round, with jitter."""
    endpoints = [f"endpoint {number}" for number in range(count)]
    reconnect = Reconnect(endpoints, interval)
    for failures, jitter in enumerate(jitters, 1):
        assert reconnect.endpoint == endpoints[(failures - 1) % count]
        delay = reconnect.lost(jitter)
        rounds, rest = divmod(failures, count)
        if rest:
            assert delay == 0.0
        else:
            longest = interval * min(2 ** (rounds - 1), MAX_FACTOR)
            assert longest / 2 <= delay <= longest
            assert delay == pytest.approx(longest * (0.5 + jitter / 2))


def test_reconnecting_starts_anew_once_a_broker_has_answered():
    reconnect = Reconnect(["one"], 1.0)
    delays = [reconnect.lost(1.0) for _ in range(8)]
    assert delays == [1, 2, 4, 8, 16, 16, 16, 16]
    reconnect.answered()
    assert reconnect.lost(1.0) == 1.0
    assert reconnect.lost(0.0) == 1.0
    many = Reconnect(["one"], 1.0)
    for _ in range(100_000):
        last = many.lost(0.0)
    assert last == MAX_FACTOR / 2


def test_the_endpoint_that_answered_is_used_until_it_is_lost():
    reconnect = Reconnect(["one", "two", "three"], 1.0)
    assert reconnect.lost(0.5) == 0.0
    assert reconnect.endpoint == "two"
    reconnect.answered()
    assert reconnect.endpoint == "two"
    assert [reconnect.lost(1.0) for _ in range(3)] == [0.0, 0.0, 1.0]
    assert reconnect.endpoint == "two"


def test_a_refusal_by_one_who_had_answered_is_no_loss():
    """W2: it was thought dead, is told DISCONNECT, and registers again, there."""
    reconnect = Reconnect(["one", "two"], 1.0)
    reconnect.answered()
    assert 0.5 <= reconnect.refused(0.3) <= 1.0
    assert reconnect.endpoint == "one"
    # Refused again before it had answered: the next one may have room.
    reconnect.refused(0.3)
    assert reconnect.endpoint == "two"


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_a_refusal_at_every_try_is_waited_for_longer_and_longer(jitter):
    reconnect = Reconnect(["one"], 1.0)
    delays = [reconnect.refused(jitter) for _ in range(8)]
    assert delays == [factor * (0.5 + jitter / 2) for factor in (1, 2, 4, 8, 16, 16, 16, 16)]


# Calls, one by one


def one_call(retries=0, dialect=RFC18, **more):
    """A client with one call out: (core, call, connection)."""
    core = ClientCore(dialect, Reconnect(["one"], 0.5), 3, ClientCounters())
    call = Call(b"s", [b"body"], timeout=10.0, retries=retries, **more)
    core.submit(call, 0.0)
    (opened,) = core.actions
    core.connected(opened.connection, 0.0)
    core.actions.clear()
    return core, call, opened.connection


@pytest.mark.parametrize("retries", [0, 1])
def test_what_comes_on_a_lost_connection_is_for_nobody(retries):
    """C3: whatever the owner still reads from it."""
    core, _, connection = one_call(retries)
    core.disconnected(connection, "lost", 1.0, 0.5)
    core.events.clear()
    core.feed(connection, client_reply(RFC18, b"s", [b"late"]), 1.0)
    assert core.events == []
    assert core.counters.malformed == 1
    assert core.counters.replies == 0
    assert core.statistics().waiting == retries


def test_what_comes_after_close_is_for_nobody():
    """C6"""
    core, _, connection = one_call()
    core.close(1.0)
    assert [event.outcome for event in core.events] == [Outcome.CLOSED]
    core.feed(connection, client_reply(RFC18, b"s", [b"late"]), 1.0)
    assert len(core.events) == 1
    assert core.counters.replies == 0


def test_what_comes_after_a_timeout_is_for_nobody():
    """C3"""
    core, _, connection = one_call()
    core.tick(10.0, 0.5)
    assert [event.outcome for event in core.events] == [Outcome.TIMEOUT]
    assert core.actions == [Close(connection)]
    core.feed(connection, client_reply(RFC18, b"s", [b"late"]), 11.0)
    assert len(core.events) == 1
    assert core.counters.malformed == 1


def test_an_answer_that_began_is_not_asked_for_again():
    """W1: once a part went out, the loss is told."""
    core, call, connection = one_call(retries=3)
    core.feed(connection, client_reply(RFC18, b"s", [b"part"], final=False), 1.0)
    core.disconnected(connection, "lost", 2.0, 0.5)
    assert [event.outcome for event in core.events[1:]] == [Outcome.BROKER_LOST]
    assert call.tries == 1


def test_a_reply_that_names_another_service_is_no_reply():
    core, call, connection = one_call()
    core.feed(connection, client_reply(RFC18, b"other", [b"body"]), 1.0)
    assert core.events == []
    assert core.counters.malformed == 1
    assert call.state is CallState.SENT


def test_connections_that_are_lost_together_are_one_loss():
    """B1: the next endpoint is tried, not the one after it, after one delay; without being asked again."""
    core = ClientCore(RFC18, Reconnect(["one", "two", "three"], 0.5), 3, ClientCounters())
    calls = [Call(b"s", [b"body"], timeout=60.0, retries=1) for _ in range(3)]
    for call in calls:
        core.submit(call, 0.0)
    connections = []
    while opened := [action.connection for action in core.actions if isinstance(action, Open)]:
        core.actions.clear()
        connections += opened
        for connection in opened:
            core.connected(connection, 0.0)
    assert [connection.endpoint for connection in connections] == ["one"] * 3
    core.actions.clear()
    for connection in connections:
        core.disconnected(connection, "the broker stopped", 1.0, 0.5)
    assert core.endpoint == "two"
    for endpoint in ("two", "three"):
        (opened,) = [action.connection for action in core.actions if isinstance(action, Open)]
        assert opened.endpoint == endpoint
        core.actions.clear()
        core.disconnected(opened, "nobody there", 1.0, 0.5)
    # Each was tried once: now there is a delay, which ends by itself.
    assert core.actions == [Close(opened)]
    assert 1.0 < core.deadline() <= 1.5
    core.actions.clear()
    core.tick(core.deadline(), 0.5)
    assert [(type(action), action.connection.endpoint) for action in core.actions] == [(Open, "one")]


def test_a_connection_that_is_never_made_is_given_up():
    """C3: a broker that is silent, not absent; the next endpoint is tried, the call goes on."""
    core = ClientCore(RFC18, Reconnect(["one", "two"], 0.5), 3, ClientCounters())
    core.submit(Call(b"s", [b"body"], timeout=60.0), 0.0)
    (first,) = core.actions
    assert core.deadline() == core.connect_timeout
    core.actions.clear()
    core.tick(core.connect_timeout, 0.5)
    assert core.actions[0] == Close(first.connection)
    assert (type(core.actions[1]), core.actions[1].connection.endpoint) == (Open, "two")
    # Too late: it is closed.
    core.actions.clear()
    core.connected(first.connection, core.connect_timeout)
    assert core.actions == []
    assert core.counters.disconnects == 0


def test_a_stream_of_many_parts_costs_no_memory():
    """A call's timer is armed at every part; what that leaves behind is bounded."""
    core, call, connection = one_call(deadline=60.0)
    for part in range(20_000):
        core.feed(connection, client_reply(RFC18, b"s", [b"part"], final=False), part / 1000)
        core.events.clear()
    assert call.parts == 20_000
    assert len(core._timers._heap) <= 5_000


# Sessions, one by one


def a_session(dialect=RFC18):
    session = WorkerSession(
        b"s",
        dialect,
        Reconnect(["one"], 0.5),
        WorkerCounters(),
        heartbeat_interval=1.0,
        liveness=3,
        gap=Gap(1.0, 3.0, 0.0),
        now=0.0,
    )
    session.tick(0.0, 0.5)
    session.connected(0.0)
    return session


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_reply_of_an_earlier_connection_is_dropped(dialect):
    """W2: the handler runs on, its reply is late; only then is a new connection made."""
    session = a_session(dialect)
    session.feed(dialect.worker(Command.REQUEST, b"address", b"", b"body"), 0.0, 0.5)
    work = session.actions[-1]
    session.feed(dialect.worker(Command.DISCONNECT), 0.0, 0.5)
    assert session.state is SessionState.WAITING
    session.tick(100.0, 0.5)
    assert session.state is SessionState.WAITING
    assert session.deadline() == math.inf
    session.actions.clear()
    assert not session.partial(work, [b"part"], 100.0)
    assert not session.final(work, [b"late"], False, 100.0)
    assert session.actions == []
    assert session.counters.late_replies == 1
    session.tick(100.0, 0.5)
    session.connected(100.0)
    assert [type(action).__name__ for action in session.actions] == ["Open", "Send"]
    assert not session.final(work, [b"late again"], False, 101.0)
    assert len(session.actions) == 2


@pytest.mark.parametrize("garbage", [[], [b"garbage"], [b"MDPW02", b"\x09"], [b"MDPW02", b"\x02", b"address", b"no"]])
def test_garbage_ends_a_session_s_connection(garbage):
    """ "DISCONNECT, silence, lost, garbage: waiting\", says the table of sessions."""
    session = a_session()
    session.feed(garbage, 1.0, 0.5)
    assert session.counters.malformed == 1
    assert session.state is SessionState.WAITING
