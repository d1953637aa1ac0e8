"""The broker's core against a simple model of it, over any sequence of what may happen to it.

Three things watch, each by its own means: a *model* that foretells every
message and counter, a *witness* that only sees the bytes that go in and out,
and *invariants* over the broker's own tables.
"""

import json
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from models import (
    DIALECTS,
    BrokerModel,
    ModelRequest,
    ModelWorker,
    Report,
    Token,
    client_request,
    read_client_reply,
    read_for_worker,
    request_weight,
    weight,
    worker_command,
)

from gmdp.core.broker import records
from gmdp.core.broker.core import BrokerCore
from gmdp.core.broker.options import BrokerOptions
from gmdp.core.broker.records import Connection, Place, Request, Worker
from gmdp.protocol import token
from gmdp.protocol.dialects import MAJORTOMO, RFC7, RFC18

pytestmark = pytest.mark.once

STEADY = settings(derandomize=False, deadline=None, database=None, report_multiple_bugs=False)

NONCE = b"nonce-of"
#: Routing id and return address, dialect.  All routing ids contain "rid-".
CLIENTS = (
    ([b"rid-client-0"], RFC7),
    ([b"rid-client-1"], RFC18),
    ([b"rid-client-2"], MAJORTOMO),
    ([b"rid-client-3", b"hop", b"rid-behind"], RFC7),
    ([b"rid-client-3", b"other hop"], MAJORTOMO),
)
WORKERS = (
    ((b"rid-worker-0",), RFC7),
    ((b"rid-worker-1",), RFC18),
    ((b"rid-worker-2",), MAJORTOMO),
    ((b"rid-worker-3",), RFC18),
    ((b"rid-worker-4", b"hop"), RFC7),
)
SERVICES = (b"alpha", b"beta", b"\xff\x00gamma", b"delta")
REPORTS = (b"mmi.services", b"mmi.workers", b"mmi.statistics", b"mmi.broker")


class Witness:
    """Sees only what goes in and out, and knows only what must never happen."""

    def __init__(self, expiry):
        self.expiry = expiry
        #: uid -> (client, dialect, service).
        self.asked = {}
        self.finished = set()
        #: Management requests out, by client.
        self.management = Counter()
        #: Worker key -> when it was told DISCONNECT, until its next READY.
        self.muted = {}
        self.ready = set()
        self.tokens = {}
        #: uid -> how often a worker got it.
        self.runs = Counter()

    def client_asked(self, uid, client, dialect, service):
        self.asked[uid] = (tuple(client), dialect, service)

    def said_ready(self, key):
        self.muted.pop(key, None)
        self.ready.add(key)

    def client_got(self, client, dialect, frames):
        final, service, body = read_client_reply(dialect, frames)
        if not body[0].startswith(b"uid"):
            assert final
            assert self.management[tuple(client)]
            self.management[tuple(client)] -= 1
            assert b"rid-" not in b"".join(body)
            return
        uids = {frame for frame in body if frame.startswith(b"uid")}
        assert len(uids) == 1, "parts of several answers in one"
        (uid,) = uids
        asked, in_dialect, of = self.asked[uid]
        assert (asked, in_dialect) == (tuple(client), dialect), "a reply went to another client"
        assert service in (of, None)
        assert uid not in self.finished, "something came after the FINAL"
        if final:
            self.finished.add(uid)

    def worker_got(self, key, dialect, frames, now):
        """Returns (token, uid) of a REQUEST."""
        name, address, body = read_for_worker(dialect, frames)
        told_at = self.muted.get(key)
        if told_at is not None:
            assert name == "DISCONNECT", f"{name} after a DISCONNECT"
            assert now >= told_at + self.expiry, "a second DISCONNECT"
        if name == "DISCONNECT":
            self.muted[key] = now
            self.ready.discard(key)
        elif name == "REQUEST":
            assert key in self.ready
            assert b"rid-" not in address
            assert address not in self.tokens
            self.tokens[address] = (key, body[0])
            self.runs[body[0]] += 1
            assert body[0] not in self.finished, "run again after it was answered"
            return address, body[0]
        else:
            assert name == "HEARTBEAT"
        return None


class BrokerMachine(RuleBasedStateMachine):
    """A broker, the messages of its peers, and what comes of them."""

    options = BrokerOptions(
        request_ttl=6.0,
        attempts=3,
        busy_timeout=9.0,
        max_queue=3,
        heartbeat_interval=1.0,
        max_services=3,
        max_workers=4,
        max_queue_bytes=100_000,
        max_frames=20,
        max_frame_size=300,
        services={"beta": {"attempts": 1, "max_queue": 1}, "de*": {"request_ttl": 2.5}},
    )
    #: False where the model does not foretell what happens.
    exact = True

    def __init__(self):
        super().__init__()
        self.now = 1000.0
        self.steps = 0
        self.core = BrokerCore(self.options, NONCE, self.now)
        self.model = BrokerModel(self.options, self._is_queued)
        self.witness = Witness(self.options.expiry)
        self.gone = set()
        self.full = set()
        #: Worker key -> (token, uid) pairs it got, the newest last.
        self.inbox = {key: [] for key, _ in WORKERS}
        #: uids whose FINAL a worker sent.
        self.answered = set()

    def _is_queued(self, uid):
        return any(request.body[0] == uid for service in self.core.services.values() for request in service.queue)

    # Feeding, and sending what comes of it

    def _step(self):
        """Time passes: no two things happen at once."""
        self.steps += 1
        self._advance(2**-12)

    def _feed(self, frames):
        self.core.feed(frames, self.now)

    def _advance(self, seconds):
        until = self.now + seconds
        passes = 0
        while self.core.deadline() <= until:
            passes = passes + 1 if self.core.deadline() <= self.now else 0
            self._run_to(max(self.now, self.core.deadline()))
            self._tick()
            # A drain takes a step in each pass.
            assert self.core.deadline() > self.now or (self.core.draining and passes < 5), "the broker would spin"
        self._run_to(until)

    def _run_to(self, until):
        """The broker runs all the time: no gap excuses a silent peer."""
        while self.now < until:
            self.now = min(until, self.now + self.options.heartbeat_interval / 2)
            self.core.on_wake(self.now)
            self.core.on_caught_up(self.now)

    def _tick(self):
        self.core.tick(self.now)
        if self.exact:
            beats = [tuple(outgoing.frames) for outgoing in self.core._state.outbox]
            firsts = [next((at for at, frames in enumerate(beats) if frames[0] == key[0]), -1) for key, _ in WORKERS]
            order = dict(zip([key for key, _ in WORKERS], firsts, strict=True))
            self.model.tick(self.now, order.__getitem__)
        self._send()

    def _send(self):
        """Act as the owner does."""
        core, model = self.core, self.model
        while outbox := core.take()[0]:
            expected, model.outbox = model.outbox, []
            if self.exact:
                expected = self._by_peer(outbox, expected)
                self._compare(outbox, expected)
            for at, outgoing in enumerate(outbox):
                # The model does not know that the rest of an answer is not even tried.
                if not self.exact and core.backlogs.hold_back(outgoing, self.now):
                    continue
                routing_id = outgoing.frames[0]
                if routing_id in self.gone or routing_id in self.full:
                    full = routing_id not in self.gone
                    core.send_failed(outgoing, full, self.now)
                    if self.exact:
                        model.unsent(expected[at], full, self.now)
                else:
                    self._deliver(outgoing.frames)
            # Nothing more is read before somebody says something.
            core.on_caught_up(self.now)
            if self.exact:
                model.on_caught_up(self.now)
        assert not model.outbox or not self.exact

    @staticmethod
    def _by_peer(outbox, expected):
        """The expected messages, with the peers in the order of `outbox`.

        No peer can see an order between peers, and of two messages due at one moment either may
        be first.
        """
        peers = {}
        for foretold in expected:
            peers.setdefault(foretold.frames[0], []).append(foretold)
        in_order = [peers[frames[0]].pop(0) for frames, *_ in outbox if peers.get(frames[0])]
        return in_order + [foretold for rest in peers.values() for foretold in rest]

    def _compare(self, outbox, expected):
        assert len(outbox) == len(expected), (outbox, [one.frames for one in expected])
        for outgoing, foretold in zip(outbox, expected, strict=True):
            assert outgoing.essential == foretold.essential
            kinds = {
                Worker: ModelWorker,
                Connection: ModelWorker,
                Request: ModelRequest,
                type(None): type(None),
            }
            assert kinds[type(outgoing.target)] is type(foretold.target)
            assert len(outgoing.frames) == len(foretold.frames), (outgoing.frames, foretold.frames)
            for frame, meant in zip(outgoing.frames, foretold.frames, strict=True):
                if isinstance(meant, Token):
                    assert token.read(frame) == (meant.attempt, None, False, False, b"")
                    meant.bytes = frame
                elif isinstance(meant, Report):
                    self._check_report(meant, json.loads(frame))
                else:
                    assert frame == meant, (outgoing.frames, foretold.frames)

    def _check_report(self, meant, report):
        model = self.model
        if meant.service == b"mmi.services":
            chosen = [name for name in model.services if not meant.only or name == meant.only]
            assert report["total"] == len(chosen) == len(report["services"])
        elif meant.service == b"mmi.workers":
            chosen = [worker for worker in model.workers.values() if not meant.only or worker.service == meant.only]
            assert report["total"] == len(chosen) == len(report["workers"])
            busy = [row for row in report["workers"] if row["state"] == "busy"]
            assert len(busy) == sum(worker.request is not None for worker in chosen)
        elif meant.service == b"mmi.statistics":
            assert report["requests"] == model.requests
            assert report["drops"] == +model.drops
            assert report["queued_bytes"] == model.held()
        else:
            assert report["state"] == ("draining" if model.draining else "running")

    def _deliver(self, frames):
        for address, dialect in CLIENTS:
            head = dialect.client_head
            rest = frames[len(address) :]
            if frames[: len(address)] == address and tuple(rest[: len(head)]) == head:
                self.witness.client_got(address, dialect, rest)
                return
        for key, _ in WORKERS:
            if tuple(frames[: len(key)]) == key:
                rest = frames[len(key) :]
                heads = {dialect: tuple(rest[: len(dialect.worker_head)]) for dialect in DIALECTS}
                (spoken,) = [dialect for dialect in DIALECTS if heads[dialect] == dialect.worker_head]
                got = self.witness.worker_got(key, spoken, rest, self.now)
                if got is not None:
                    self.inbox[key].append(got)
                return
        raise AssertionError(f"a message to nobody: {frames}")

    # What clients do

    clients = st.sampled_from(CLIENTS)
    workers = st.sampled_from(WORKERS)
    services = st.sampled_from(SERVICES[:1] * 5 + SERVICES)

    @initialize(chosen=st.lists(services, min_size=2, max_size=5))
    def begin(self, chosen):
        for worker, service in zip(WORKERS, chosen, strict=False):
            self._ready(worker, service)

    @rule(client=clients, service=services, size=st.integers(0, 40), count=st.sampled_from([1, 1, 1, 2, 4]))
    def request(self, client, service, size, count):
        address, dialect = client
        for _ in range(count):
            self._step()
            uid = b"uid%d;" % self.steps
            body = [uid, b"x" * size]
            self.witness.client_asked(uid, address, dialect, service)
            self._feed([*address, *client_request(dialect, service, body)])
            if self.exact:
                self.model.request(address, dialect, service, body, self.now)
            self._send()

    @rule(
        client=clients,
        service=st.sampled_from([b"mmi.service", b"mmi.service", *REPORTS, b"mmi.", b"mmi.gmdp2", b"mmi.\xff"]),
        only=st.sampled_from([*SERVICES, b"", b"\xfe", b"mmi.service"]),
    )
    def ask_management(self, client, service, only):
        self._step()
        address, dialect = client
        self.witness.management[tuple(address)] += 1
        self._feed([*address, *client_request(dialect, service, [only])])
        if self.exact:
            self.model.ask_management(address, dialect, service, only)
        self._send()

    # What workers do

    def _registered(self, key):
        return key in map(_key, self.core.workers)

    def _ready(self, worker, service):
        self._step()
        key, dialect = worker
        self.witness.said_ready(key)
        self._feed([*key, *worker_command(dialect, "READY", service)])
        if self.exact:
            self.model.ready(key, dialect, service, self.now)
        self._send()

    def _heartbeat(self, worker, dialect):
        self._step()
        key = worker[0]
        self._feed([*key, *worker_command(dialect, "HEARTBEAT")])
        if self.exact:
            self.model.heartbeat(key, dialect, self.now)
        self._send()

    def _answer(self, worker, address, body, final):
        self._step()
        key, dialect = worker
        name = "FINAL" if final or dialect is RFC7 else "PARTIAL"
        self._feed([*key, *worker_command(dialect, name, address, b"", *body)])
        if self.exact:
            self.model.answer(key, dialect, address, body, name == "FINAL", self.now)
        self._send()

    def _working(self):
        """Workers that have a request, as far as they know: (worker, token, uid)."""
        return [
            (worker, *self.inbox[worker[0]][-1])
            for worker in WORKERS
            if worker[0] in self.witness.ready
            and self.inbox[worker[0]]
            and self.inbox[worker[0]][-1][1] not in self.answered
        ]

    @rule(service=services, count=st.sampled_from([1, 5]))
    def bring_up(self, service, count):
        for worker in [worker for worker in WORKERS if not self._registered(worker[0])][:count]:
            self._ready(worker, service)

    @rule(worker=workers)
    def heartbeat(self, worker):
        self._heartbeat(worker, worker[1])

    @rule()
    def all_heartbeat(self):
        for worker in WORKERS:
            if self._registered(worker[0]):
                self._heartbeat(worker, worker[1])

    @precondition(lambda self: self._working())
    @rule(data=st.data(), parts=st.sampled_from([0, 0, 1, 2]), failed=st.booleans(), times=st.sampled_from([1, 1, 2]))
    def answer(self, data, parts, failed, times):
        """The answer to the newest request a worker got; the worker may be lost by now."""
        worker, address, uid = data.draw(st.sampled_from(self._working()))
        for part in range(parts):
            self._answer(worker, address, [uid, b"part %d" % part], final=False)
        address = token.mark_failed(address) if failed else address
        self.answered.add(uid)
        for _ in range(times):
            # W13: the same reply twice.
            self._answer(worker, address, [uid, b"final"], final=True)

    @precondition(lambda self: self._working())
    @rule(data=st.data(), parts=st.integers(1, 2))
    def part(self, data, parts):
        worker, address, uid = data.draw(st.sampled_from(self._working()))
        for part in range(parts):
            self._answer(worker, address, [uid, b"part %d" % part], final=False)

    @precondition(lambda self: self._working())
    @rule(rounds=st.integers(1, 3))
    def all_answer(self, rounds):
        for _ in range(rounds):
            for worker, address, uid in self._working():
                self.answered.add(uid)
                self._answer(worker, address, [uid, b"final"], final=True)

    # What workers should not do

    @precondition(lambda self: self._working())
    @rule(data=st.data())
    def leave(self, data):
        """W8, W10: in the middle of a request."""
        worker = data.draw(st.sampled_from(self._working()))[0]
        if data.draw(st.booleans()):
            self._disconnect(worker)
        else:
            self._ready(worker, b"alpha")

    @rule(
        worker=workers,
        misdeed=st.sampled_from(["reserved name", "second READY", "DISCONNECT", "other dialect", "forged", "forged"]),
        data=st.data(),
    )
    def misbehave(self, worker, misdeed, data):
        """W8 to W12"""
        key, dialect = worker
        if misdeed == "reserved name":
            self._ready(worker, data.draw(st.sampled_from([b"mmi.", b"mmi.service", b"mmi.any"])))
        elif misdeed == "second READY":
            self._ready(worker, b"alpha")
            self._ready(worker, data.draw(self.services))
        elif misdeed == "DISCONNECT":
            self._disconnect(worker)
        elif misdeed == "other dialect":
            self._heartbeat(worker, data.draw(st.sampled_from(DIALECTS)) if len(key) == 1 else dialect)
        else:
            self._forge(worker, data)

    def _disconnect(self, worker):
        self._step()
        key, dialect = worker
        self._feed([*key, *worker_command(dialect, "DISCONNECT")])
        if self.exact:
            self.model.disconnect(key, self.now)
        self._send()

    def _forge(self, worker, data):
        """A token of another worker, of an earlier request or of another broker, or a client's routing id."""
        mine = [address for address, _ in self.inbox[worker[0]][-1:]]
        known = [address for address in self.witness.tokens if address not in mine]
        forged = [
            b"",
            b"rid-client-0",
            b"rid-client-1",
            token.MAGIC,
            token.prefix(token.start(b"anothers"), 1) + token.tail(1),
        ]
        forged += [token.prefix(token.start(NONCE), 2**40) + token.tail(1)]
        for address in mine:
            forged += [address[:20], address[:20] + bytes([address[20] ^ 1]) + address[21:], b"\x00" + address]
        address = data.draw(st.sampled_from(known * 2 + forged))
        self._answer(worker, address, [b"uid-forged;", b"never to be seen"], data.draw(st.booleans()))

    # What nobody should do

    @rule(
        who=st.sampled_from([*(address[0] for address, _ in CLIENTS), *(key[0] for key, _ in WORKERS), b"rid-nobody"]),
        what=st.sampled_from(
            [
                ("malformed", []),
                ("malformed", [b""]),
                ("malformed", [b"", b"MDPW01"]),
                ("malformed", [b"", b"MDPW01", b"\x02", b"a", b"", b"b"]),
                ("malformed", [b"", b"MDPW01", b"\x02"]),
                ("malformed", [b"", b"MDPW01", b"\x06"]),
                ("malformed", [b"MDPW02", b"\x07"]),
                ("malformed", [b"MDPW02", b"\x04", b"address", b"no delimiter", b"body"]),
                ("malformed", [b"MDPW02", b"\x05", b"a heartbeat has no body"]),
                ("malformed", [b"MDPC02", b"\x02", b"alpha", b"body"]),
                ("malformed", [b"MDPC02", b"\x01", b"alpha"]),
                ("malformed", [b"", b"MDPC01", b"", b"body"]),
                ("malformed", [b"\x00" * 9] * 12),
                ("frame_too_large", [b"", b"MDPC01", b"alpha", b"x" * 301]),
                ("frame_too_large", [b"x" * 301, b"\xff", b"\xfe"]),
                ("too_many_frames", [b"", b"MDPC01", b"alpha", *([b""] * 17)]),
                ("too_many_frames", [b""] * 10_000),
            ]
        ),
    )
    def hostile(self, who, what):
        """B4"""
        self._step()
        reason, frames = what
        before = self.core.counters.drops.get(reason, 0)
        self._feed([who, *frames])
        assert self.core.counters.drops[reason] == before + 1
        if self.exact:
            self.model.malformed(who, reason, self.now)
        self._send()

    # What happens to connections and time

    @precondition(lambda self: len(self.gone) + len(self.full) < 3)
    @rule(
        peer=st.sampled_from([*(address[0] for address, _ in CLIENTS), *(key[0] for key, _ in WORKERS)]),
        full=st.booleans(),
    )
    def lose_peer(self, peer, full):
        # The model does not foretell what becomes of slow clients.
        full = full and (b"worker" in peer or not self.exact)
        (self.full if full else self.gone).add(peer)

    @precondition(lambda self: self.gone or self.full)
    @rule()
    def all_are_back(self):
        self.gone.clear()
        self.full.clear()

    @rule(seconds=st.sampled_from([0.3, 0.9, 1.0, 2.1, 3.0, 7.0]))
    def time_passes(self, seconds):
        self._step()
        self._advance(seconds)

    @rule(seconds=st.sampled_from([1.1, 2.6, 3.1]), service=services, client=clients, worker=workers)
    def time_passes_unnoticed(self, seconds, service, client, worker):
        """The broker comes late to what is due, and reads what has come first."""
        self._step()
        self._run_to(self.now + seconds)
        ours, self._advance = self._advance, lambda seconds: self._run_to(self.now + seconds)
        try:
            self.request(client, service, 3, 1)
            self._heartbeat(worker, worker[1])
        finally:
            self._advance = ours
        self.core.tick(self.now)
        # In which order it catches up is its own affair.
        self.model.outbox.clear()
        exact, self.exact = self.exact, False
        self._send()
        self.exact = exact
        self._adopt()

    def _adopt(self):
        if self.exact:
            self.model.adopt(self.core)
            # Lanes are served in the order in which they stand.
            self.compare_with_the_model()

    @precondition(lambda self: self.steps > 70)
    @rule()
    def drain(self):
        """B2"""
        self.core.drain()
        self.model.draining = True

    def teardown(self):
        while not self.core.finish(self.now):
            pass
        if self.exact:
            self.model.finish(self.now)
            assert len(self.core._state.outbox) == len(self.model.outbox)
        self.compare_with_the_model()
        self.nothing_is_lost()
        core = self.core
        assert not core.services
        assert not list(core.workers)
        assert (core.queued, core.assigned) == (0, 0)
        slow = [client.backlog for client in core._accounts.clients.values() if client.backlog is not None]
        assert len(core._state.timers) == core.backlogs.count == len(slow)
        unread = [message for backlog in slow for message in (*backlog.waiting, *backlog.front)]
        assert core.held_bytes == sum(records.charged_bytes(message.frames) for message in unread)

    # What always holds

    @invariant()
    def compare_with_the_model(self):
        if not self.exact:
            return
        core, model = self.core, self.model
        counters = core.counters
        for name in ("requests", "replies", "partials", "redeliveries", "management", "registrations"):
            assert getattr(counters, name) == getattr(model, name), name
        assert counters.ended == +model.ended
        assert counters.lost_workers == +model.lost
        assert counters.drops == +model.drops
        assert set(core.services) == set(model.services)
        assert list(core._services.without_worker) == model.unserved
        for name, service in core.services.items():
            foretold = model.services[name]
            assert service.workers == foretold.workers
            assert [request.body[0] for request in service.queue] == [one.uid for one in foretold.queue.items()]
            assert [_key(worker) for worker in service.idle] == [worker.key for worker in foretold.idle]
        assert {_key(worker) for worker in core.workers} == set(model.workers)
        for worker in core.workers:
            foretold = model.workers[_key(worker)]
            assert (worker.request is None) == (foretold.request is None)
            if worker.request is not None:
                # A body that is not needed any more is not kept.
                kept = [] if foretold.request.abandoned else [foretold.request.uid]
                assert worker.request.body[:1] == kept
        assert core.held_bytes == model.held()
        assert not self.witness.finished - set(self.witness.asked)

    @invariant()
    def nothing_is_lost(self):
        """Every request is in exactly one place, and the counters add up."""
        core, counters = self.core, self.core.counters
        queued = [request for service in core.services.values() for request in service.queue]
        assigned = [worker.request for worker in core.workers if worker.request is not None]
        assert len({id(request) for request in queued + assigned}) == len(queued + assigned)
        assert all(request.place is Place.QUEUED and request.timer is not None for request in queued)
        assert all(request.place is Place.ASSIGNED and request.timer is None for request in assigned)
        assert (core.queued, core.assigned) == (len(queued), len(assigned))
        assert counters.requests == counters.replies + sum(counters.ended.values()) + core.queued + core.assigned
        held = sum(
            request_weight(request.address, request.body) + weight(request.joined_parts or [])
            for request in queued + assigned
            if request.client is not None
        )
        for client in core._accounts.clients.values():
            if client.backlog is not None:
                unread = [*client.backlog.front, *client.backlog.waiting]
                held += sum(weight(outgoing.frames) for outgoing in unread)
        assert core.held_bytes == held
        statistics = core.statistics(self.now)
        assert (statistics.busy, statistics.queued, statistics.queued_bytes) == (len(assigned), len(queued), held)
        assert statistics.idle == sum(len(service.idle) + len(service.mute) for service in core.services.values())
        assert all(oldest.oldest >= 0 for oldest in statistics.services.values())

    @invariant()
    def every_worker_is_idle_or_busy(self):
        core = self.core
        for key, connection in core._registry.connections.items():
            (worker,) = connection.workers.values()
            assert worker.connection is connection
            assert connection.key == key
            assert worker.registered
            assert core.services[worker.service.name] is worker.service
            idle, mute = worker in worker.service.idle, worker in worker.service.mute
            assert (idle or mute) == (worker.request is None)
            assert not (idle and connection.mute)
            assert not (mute and not connection.mute)
            assert connection.timer is not None
            assert bool(worker.token) == (worker.request is not None)
        for service in core.services.values():
            mine = [worker for worker in core.workers if worker.service is service]
            assert service.workers == len(mine)
            assert set(service.idle) | set(service.mute) <= set(mine)
            assert not (service.idle and len(service.queue)), "a request waits while a worker is idle"
            assert mine or len(service.queue), "a service of nothing is remembered"
        assert set(core._services.without_worker) == {
            name for name, service in core.services.items() if not service.workers
        }

    @invariant()
    def bounds_hold(self):
        core, options = self.core, self.options
        assert len(core.services) <= options.max_services
        assert core.worker_count == len(list(core.workers)) <= options.max_workers
        assert len(core._state.timers) == core.worker_count + core.queued + core.backlogs.count
        for name, service in core.services.items():
            assert len(service.queue) <= options.for_service(name).max_queue
        assert core.held_bytes <= options.max_queue_bytes
        assert core.deadline() > self.now or core.draining

    @invariant()
    def attempts_hold(self):
        """No request is run more often than its attempts; a request that was never run counts none."""
        for uid, runs in self.witness.runs.items():
            assert runs <= self.options.for_service(self.witness.asked[uid][2]).attempts


def _key(worker):
    key = worker.connection.key
    return key if isinstance(key, tuple) else (key,)


class TightBrokerMachine(BrokerMachine):
    """A broker with hardly any room for bodies and parts."""

    options = BrokerOptions(
        request_ttl=6.0,
        attempts=2,
        busy_timeout=9.0,
        max_queue=20,
        heartbeat_interval=1.0,
        max_services=2,
        max_workers=4,
        max_queue_bytes=3_200,
        max_frames=20,
        max_frame_size=300,
    )
    exact = False


BrokerMachine.TestCase.settings = settings(STEADY, max_examples=250, stateful_step_count=50)
TightBrokerMachine.TestCase.settings = settings(STEADY, max_examples=60, stateful_step_count=40)
test_broker = BrokerMachine.TestCase
test_broker_with_little_room = TightBrokerMachine.TestCase


@pytest.mark.parametrize("dialect", DIALECTS)
def test_bodies_at_work_count_in_the_bound(dialect):
    """B6: `max_queue_bytes` bounds what is queued or assigned, whichever worker is idle."""
    core = BrokerCore(BrokerOptions(max_queue_bytes=2_000), NONCE, 0.0)
    for number in range(4):
        core.feed([b"worker %d" % number, *worker_command(RFC18, "READY", b"s")], 0.0)
    for number in range(4):
        core.feed([b"client %d" % number, *client_request(dialect, b"s", [b"x" * 60])], 1.0)
        assert core.held_bytes <= 2_000
    counters = core.counters
    assert counters.requests + sum(counters.drops.values()) == 4
    assert counters.requests == sum(counters.ended.values()) + core.queued + core.assigned


def test_a_body_that_finds_no_room_ends_no_other_request():
    """C8: what one client's large request is refused for, no other client's small ones pay."""
    core = BrokerCore(BrokerOptions(max_queue_bytes=10_000), NONCE, 0.0)
    for number in range(3):
        core.feed([b"modest", *client_request(RFC18, b"s", [b"uid%d" % number])], 1.0)
    core.feed([b"greedy", *client_request(RFC18, b"s", [b"x" * 8_000])], 2.0)
    assert core.held_bytes <= 10_000
    assert [request.body for request in core.services[b"s"].queue] == [[b"uid0"], [b"uid1"], [b"uid2"]]


def test_parts_that_wait_to_be_joined_count_in_the_bound():
    """B6: for a client that gets one reply; past the bound it gets none, and the worker goes on."""
    core = BrokerCore(BrokerOptions(max_queue_bytes=2_400), NONCE, 0.0)
    core.feed([b"worker", *worker_command(RFC18, "READY", b"s")], 0.0)
    core.feed([b"client", *client_request(RFC7, b"s", [b"x" * 20])], 0.0)
    _, address, _ = read_for_worker(RFC18, core.take()[0][-1].frames[1:])
    for held in (1_060, 1_164, 0, 0):
        core.feed([b"worker", *worker_command(RFC18, "PARTIAL", address, b"", b"x" * 40)], 1.0)
        assert core.held_bytes == held
    assert core.counters.drops == {"reply_too_large": 1, "abandoned": 1}
    core.feed([b"worker", *worker_command(RFC18, "FINAL", address, b"", b"end")], 1.0)
    assert core.take()[0] == []
    assert (core.held_bytes, core.counters.replies) == (0, 1)
    (worker,) = core.workers
    assert worker.request is None


def test_all_waits_of_a_request_together_are_bounded():
    """C1: a redelivered request has what is left of its time, not all of it once more."""
    core = BrokerCore(BrokerOptions(request_ttl=10.0), NONCE, 0.0)
    core.feed([b"client", *client_request(RFC18, b"s", [b"uid"])], 0.0)
    core.feed([b"worker", *worker_command(RFC18, "READY", b"s")], 6.0)
    core.feed([b"worker", *worker_command(RFC18, "DISCONNECT")], 7.0)
    core.tick(10.9)
    assert core.queued == 1
    core.tick(11.0)
    assert core.counters.ended == {"expired": 1}
    assert not core.services
