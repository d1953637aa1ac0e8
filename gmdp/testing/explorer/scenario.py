"""Installations and faults that are drawn from a seed, and the outcomes that their calls must have.

A scenario has three phases:

* *trouble*, with any fault at any time;
* *healing*, without new faults, after which all living nodes are connected and registered;
* *proof*, in which every call must succeed at once.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Generator
from typing import Any

from ...core.outcomes import Outcome
from ...core.peer.calls import Part
from ...protocol.dialects import EMPTY, MAJORTOMO, RFC7, RFC18, Dialect
from ...protocol.extension import (
    FAIL_WITHOUT_WORKER,
    PRIORITIES,
    TIME_STATED,
    VERSION,
    call_frame,
    request_id,
    session_frame,
)
from ...worker.request import Request
from ..simulator import internals
from ..simulator.broker import BrokerNode
from ..simulator.client import ClientNode, SimulatedCall
from ..simulator.failures import SimulationFailed, require
from ..simulator.simulation import Simulation
from ..simulator.worker import Crash, WorkerNode

#: Seconds of trouble, of healing, and of proof.
TROUBLE = 20.0
HEALING = 30.0
PROOF = 15.0

INTERVAL = 1.0
LIVENESS = 3
BUSY_TIMEOUT = 8.0
REQUEST_TTL = 6.0
STALL_TIMEOUT = 3.0
ATTEMPTS = 3

#: A body that begins with one of these makes the handler crash its process, or fail.
POISON = b"poison"
BROKEN = b"broken"
#: A body that begins with this, in a scenario of slow links, is answered by a stream of 400,000 bytes.
STREAM = b"stream"
#: Bytes a second of a slow link.
SLOW = 20_000.0

SERVICES = (b"a", b"b")

#: Per kind of scenario, the faults there may be, and their weights.
KINDS: dict[str, dict[str, int]] = {
    "mixed": {
        "cut": 4,
        "silence": 2,
        "stall": 3,
        "kill_broker": 2,
        "stop_broker": 1,
        "block_broker": 2,
        "freeze_broker": 1,
        "crash_worker": 4,
        "block_worker": 3,
        "freeze_worker": 3,
        "drain_worker": 2,
        "block_client": 3,
        "freeze_client": 1,
        "crash_client": 1,
        "cancel": 6,
        "hostile": 6,
        "poison": 1,
    },
    "quiet": {"cancel": 1},
    "workers": {
        "crash_worker": 5,
        "block_worker": 4,
        "freeze_worker": 4,
        "drain_worker": 2,
        "cut": 2,
        "poison": 1,
        "block_client": 3,
        "crash_client": 1,
    },
    "computing": {"block_worker": 1, "cancel": 1},
    "slow links": {"cut": 1, "cancel": 1},
    "callers": {"block_client": 6, "crash_client": 1, "crash_worker": 6, "cut": 2},
    "poison": {"poison": 1},
    "slow clients": {"block_client": 6, "cancel": 2, "cut": 1, "stop_broker": 2},
    "brokers": {"kill_broker": 4, "stop_broker": 2, "block_broker": 4, "freeze_broker": 2},
    "hostile": {"hostile": 1},
    "flood": {"block_worker": 1, "cancel": 2},
    "streams": {"cancel": 1},
    "broken streams": {
        "cancel": 4,
        "cut": 2,
        "silence": 1,
        "crash_client": 1,
        "block_client": 2,
        "crash_worker": 2,
        "freeze_worker": 2,
        "drain_worker": 1,
        "kill_broker": 1,
        "stop_broker": 1,
        "block_broker": 1,
    },
}
#: The kinds in which answers are long streams.
STREAMS = frozenset({"streams", "broken streams"})


class Scenario:
    """One run; all chance in it comes from `seed`."""

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None) -> None:
        self.simulation = simulation = Simulation(seed, trace=trace)
        self.random = random = simulation.schedule.random
        self.kind = random.choice(list(KINDS))
        simulation.schedule.record("a scenario of the kind", repr(self.kind))
        simulation.network.latency = random.choice([0.0005, 0.01, 0.05])
        self._uids = itertools.count(1)
        #: How often a handler has begun with each body.
        self.runs: Counter[bytes] = Counter()
        #: When a handler has begun with each body.
        self.begun: dict[bytes, list[float]] = {}
        self._healing = False
        self._proving = False
        #: The clients that have called for a stream, in a scenario of slow links.
        self._streaming: set[ClientNode] = set()
        flood = self.kind == "flood"
        self.options: dict[str, Any] = {
            "heartbeat_interval": INTERVAL,
            "liveness": LIVENESS,
            "busy_timeout": BUSY_TIMEOUT,
            "request_ttl": REQUEST_TTL,
            "attempts": ATTEMPTS,
            "stream_stall_timeout": STALL_TIMEOUT,
            "max_queue": random.choice([4, 10]) if flood else 1_000,
            "max_queue_bytes": self._max_queue_bytes(),
            "max_in_flight": random.choice([5, 50]) if flood else 50,
        }
        if self.kind in STREAMS:
            self.options["max_queue_bytes"] = 50_000_000
        self.hwm = random.choice([3, 8]) if self.kind == "slow clients" else random.choice([20, 1000])
        self.endpoints = ["one", "two"][: random.choice([1, 1, 2])]
        self.brokers = [
            simulation.broker(name, hwm=self.hwm, extension=self._draw_version(), **self.options)
            for name in self.endpoints
        ]
        for _ in range(random.randint(2, 4)):
            self._new_worker()
        for _ in range(random.randint(2, 3)):
            self._new_client()

    def run(self) -> None:
        """Run all phases.

        Raises:
            SimulationFailed: An invariant did not hold, or a call had a wrong outcome.
        """
        try:
            self._run()
        except SimulationFailed:
            raise
        except Exception as error:
            raise self.simulation.failed(error) from error

    def _run(self) -> None:
        simulation = self.simulation
        calls = self.random.randint(15, 40) * {"flood": 3, "slow clients": 2}.get(self.kind, 1)
        for _ in range(calls):
            simulation.at(self.random.uniform(0, TROUBLE), self._start_call)
        names = list(KINDS[self.kind])
        weights = list(KINDS[self.kind].values())
        if self.kind == "quiet":
            times = 3
        elif self.kind == "poison":
            times = 1
        elif self.kind == "slow links":
            times = self.random.randint(1, 4)
        else:
            times = self.random.randint(4, 14)
        for name in self.random.choices(names, weights, k=times):
            simulation.at(self.random.uniform(0.5, TROUBLE), getattr(self, f"_{name}"))
        simulation.run(TROUBLE)
        self._heal()
        simulation.run(HEALING)
        self._check_healed()
        self._prove()

    # Nodes and calls

    def _draw_version(self) -> int:
        """Draw the version of gmdp's extension that a peer speaks: some are of an earlier release."""
        return self.random.choice([1, VERSION, VERSION, VERSION])

    def _max_queue_bytes(self) -> int:
        if self.kind == "slow links":
            return 10_000_000
        bounds = {"flood": [8_000, 30_000], "slow clients": [15_000, 60_000]}
        return self.random.choice(bounds.get(self.kind, [30_000, 60_000, 1_000_000]))

    def _handler(self, endpoints: list[str], request: Request) -> Any:
        """Answer with parts that name the request, the run of its handler, and the part."""
        uid = request.body[0]
        self.runs[uid] += 1
        self.begun.setdefault(uid, []).append(self.simulation.now)
        run = b"%d" % self.runs[uid]
        if uid.startswith(POISON):
            self._restart_later(request.service, endpoints)
            raise Crash
        if uid.startswith(BROKEN):
            raise ValueError(uid.decode())
        counts, fillings = [0, 0, 0, 1, 3], [0, 0, 50]
        if self.kind == "slow clients":
            counts, fillings = [0, 4, 8], [0, 0, 50 if self._proving else 2_000]
        elif self.kind in STREAMS:
            counts, fillings = [0, 4, 8, 16], [50, 5_000, 40_000, 100_000]
        count = 0 if self._proving else self.random.choice(counts)
        filling = b"x" * self.random.choice(fillings)
        if uid.startswith(STREAM):
            count, filling = 40, b"x" * 10_000
        if count == 0:
            return [uid, run, b"final 0", filling]
        return self._parts(uid, run, count, filling)

    @staticmethod
    def _parts(uid: bytes, run: bytes, count: int, filling: bytes) -> Generator[list[bytes], None, list[bytes]]:
        for part in range(count):
            yield [uid, run, b"part %d" % part, filling]
        return [uid, run, b"final %d" % count, filling]

    def _restart_later(self, service: bytes, endpoints: list[str]) -> None:
        """Start a new worker in place of a dead one after a while, as a supervisor does."""
        self.simulation.after(self.random.uniform(0.1, 2), self._new_worker, service, endpoints)

    def _new_worker(self, service: bytes | None = None, endpoints: list[str] | None = None) -> None:
        random = self.random
        # A broker cannot know which strict connections belong to one process, and so die together.
        strict = random.random() < 0.4 and self.kind != "poison"
        # Most workers on slow links, and most clients, know credits.
        extended = [RFC18] if self.kind == "slow links" else [RFC7, RFC18]
        dialect: Dialect = random.choice([RFC7, RFC18, MAJORTOMO] if strict else extended)
        endpoints = endpoints or self.endpoints
        self.simulation.worker(
            service or random.choice(SERVICES),
            functools.partial(self._handler, endpoints),
            version=dialect,
            endpoints=endpoints,
            strict=strict and random.choice([True, True, "silent"]),
            takes=(0.0, 1.0) if self._healing else random.choice([(0.0, 0.01), (0.0, 1.0), (0.5, 4.0)]),
            every=random.choice([0.001, 0.03, 0.3]),
            concurrency=2 if self._healing else random.choice([1, 2, 4]),
            heartbeat_interval=random.choice([INTERVAL, INTERVAL, INTERVAL, INTERVAL, 0.2, 3.0]),
            liveness=LIVENESS + 1,
            enforce_deadline=random.random() < 0.2,
            extension=self._draw_version(),
            # Four at once, one after the other, take less than BUSY_TIMEOUT.
            computes=(0.1, 1.8) if self.kind == "computing" and not self._healing else (0.0, 0.0),
            # A fast worker's stream waits for the client's link, a slow one's for the worker's own.
            bandwidth=random.choice([SLOW, math.inf, math.inf]) if self.kind == "slow links" else math.inf,
        )

    def _new_client(self) -> ClientNode:
        slow = self.kind == "slow links"
        strict = self.random.random() < (0.1 if slow else 0.4)
        extended = [RFC18] if slow else [RFC7, RFC18]
        dialect: Dialect = self.random.choice([RFC7, RFC18, MAJORTOMO] if strict else extended)
        client = self.simulation.client(
            version=dialect,
            endpoints=self.endpoints,
            strict=strict and self.random.choice([True, True, "silent"]),
            max_connections=self.random.choice([1, 3]),
            max_in_flight=self.random.choice([2, 30]),
            stream_window=self.random.choice([10_000, 250_000, 250_000] if slow else [10_000, 100_000, 400_000]),
            stream_bytes=self.random.choice([0, 100_000, 1_000_000]),
            extension=self._draw_version(),
            heartbeat_interval=INTERVAL,
            bandwidth=SLOW if slow else math.inf,
        )
        client.on_part = self._on_part
        return client

    def _start_call(self) -> None:
        living = [client for client in self.simulation.clients if not client.dead]
        if not living:
            return
        random = self.random
        mark = BROKEN if random.random() < 0.05 else b"uid"
        options: dict[str, Any] = {
            "timeout": random.choice([0.5, 2.0, 5.0, 12.0]),
            "retries": random.choice([0, 0, 1, 3]),
            "priority": random.choice([1, 1, 1, *PRIORITIES]),
        }
        if random.random() < 0.2:
            options["deadline"] = math.inf  # a stream's
        if self.kind in STREAMS:
            # At most two looks at its reader fall within STALL_TIMEOUT, so no part may take as long.
            options["reads"] = random.choice([(0.0, 0.0), (0.0, 0.3), (0.2, 0.6), (0.0, math.inf)])
            if random.random() < 0.7:
                options.update(timeout=12.0, retries=0, deadline=math.inf)
        options["flags"] = random.choice([0, 0, TIME_STATED])
        if random.random() < 0.1:
            options["flags"] |= FAIL_WITHOUT_WORKER
        sizes = [200, 10_000, 40_000, 90_000] if self.kind == "slow links" else [0, 20, 200]
        body = [mark + b" %d" % next(self._uids), b"x" * random.choice(sizes)]
        client = random.choice(living)
        if self.kind == "slow links" and self.simulation.now < 5.0 and not client.calls and len(self._streaming) < 2:
            self._streaming.add(client)
            body = [body[0].replace(mark, STREAM)]
            options.update(timeout=12.0, retries=0, deadline=math.inf)
        elif client in self._streaming:
            del body[1:]  # grants would wait behind large requests
        client.request(random.choice(SERVICES), body, **options)

    def _on_part(self, simulated: SimulatedCall, part: Part) -> None:
        """Check that a part of an answer belongs to its call, to one run, and is the next one."""
        uid = simulated.call.body[0]
        if part.body == [b"500"]:
            require(uid.startswith(BROKEN), "an error for a request whose handler did not fail")
            return
        require(len(part.body) % 4 == 0, "a part of an answer lacks frames:", part.body)
        frames = iter(part.body)
        earlier_frames = [frame for earlier in simulated.parts[:-1] for frame in earlier]
        count = sum(frame.startswith(b"part") for frame in earlier_frames)
        run = earlier_frames[1] if earlier_frames else None
        for own_uid, own_run, label, _ in zip(frames, frames, frames, frames, strict=True):
            require(own_uid == uid, "a reply to another call:", own_uid, "for", uid)
            require(run in (None, own_run), "an answer mixes two runs")
            run = own_run
            if label == b"part %d" % count:
                count += 1
            else:
                require(label == b"final %d" % count, "an answer lacks a part:", label, "after", count, "parts")

    # Faults

    def _pick_wire(self) -> Any:
        wires = [wire for wire in self.simulation.network.wires if wire.open and wire.attached]
        return self.random.choice(wires) if wires else None

    def _cut(self) -> None:
        wire = self._pick_wire()
        if wire is not None:
            wire.cut()
            if self.random.random() < 0.3:
                self.simulation.after(self.random.uniform(0, 2), wire.repeat, self.random.randint(1, 3))

    def _silence(self) -> None:
        wire = self._pick_wire()
        if wire is not None:
            wire.cut_silently()

    def _stall(self) -> None:
        wire = self._pick_wire()
        if wire is not None:
            wire.stall(self.random.uniform(0.1, 6))

    def _kill_broker(self) -> None:
        broker = self.random.choice(self.brokers)
        broker.kill()
        broker.extension = self._draw_version()  # an upgrade, or a step back
        self.simulation.after(self.random.uniform(0, 5), broker.start)

    def _stop_broker(self) -> None:
        broker = self.random.choice(self.brokers)
        broker.stop(self.random.uniform(0, 3))
        broker.extension = self._draw_version()
        self.simulation.after(self.random.uniform(3, 6), broker.start)

    def _block_broker(self) -> None:
        self.random.choice(self.brokers).block(self.random.uniform(0.5, 8))

    def _freeze_broker(self) -> None:
        self.random.choice(self.brokers).freeze(self.random.uniform(0.5, 8))

    def _pick_worker(self) -> WorkerNode | None:
        living = [worker for worker in self.simulation.workers if not worker.dead]
        return self.random.choice(living) if living else None

    def _crash_worker(self) -> None:
        worker = self._pick_worker()
        if worker is not None:
            worker.crash()
            if self.random.random() < 0.7:
                self._restart_later(worker.core.service, self.endpoints)

    def _block_worker(self) -> None:
        worker = self._pick_worker()
        if worker is not None:
            worker.block(self.random.uniform(0.5, 4 if self.kind == "computing" else 10))

    def _freeze_worker(self) -> None:
        worker = self._pick_worker()
        if worker is not None:
            worker.freeze(self.random.uniform(0.5, 10))

    def _drain_worker(self) -> None:
        worker = self._pick_worker()
        if worker is not None:
            worker.drain()

    def _block_client(self) -> None:
        self.random.choice(self.simulation.clients).block(self.random.uniform(0.5, 8))

    def _freeze_client(self) -> None:
        self.random.choice(self.simulation.clients).freeze(self.random.uniform(0.5, 8))

    def _crash_client(self) -> None:
        self.random.choice(self.simulation.clients).crash()

    def _cancel(self) -> None:
        client = self.random.choice(self.simulation.clients)
        if client.open_calls:
            client.cancel(self.random.choice(list(client.open_calls)))

    def _poison(self) -> None:
        living = [client for client in self.simulation.clients if not client.dead]
        if living:
            body = POISON + b" %d" % next(self._uids)
            self.random.choice(living).request(self.random.choice(SERVICES), body, timeout=12.0)

    def _hostile(self) -> None:
        """Send a broker messages that no honest peer sends, from strangers and from its peers."""
        random = self.random
        broker = random.choice(self.brokers)
        tokens = {worker.token: worker.head[0] for worker in broker.core.workers if worker.token} if broker.up else {}
        token = random.choice([*tokens, b"token", EMPTY])
        # A worker may send anything about its own request.
        peers = [peer for peer in broker.peers if peer != tokens.get(token)]
        stranger = self.simulation.network.routing_id()
        for _ in range(random.randint(1, 5)):
            sender = random.choice([stranger, stranger, *peers[:3]])
            version = broker.core.about.extension
            if sender is not stranger:
                # An answer must be in a version that the peer understands.
                version = min(version, broker.peers[sender].node.extension)
            frames = self._hostile_frames(token + b"\0" * random.choice([0, 7]), version)
            broker.post(self._attack, broker, [sender, *frames])

    def _attack(self, broker: BrokerNode, frames: list[bytes]) -> None:
        if broker.up:
            self.simulation.schedule.record("an attack:", frames)
            broker.on_message(frames)

    def _hostile_frames(self, token: bytes, version: int) -> list[bytes]:
        random = self.random
        session = session_frame(random.randint(0, 5), random.choice([0, 0, 1]), version=version)
        call = call_frame(request_id(b"n" * 16, next(self._uids)), flags=random.randint(0, 3), version=version)
        pieces = [
            EMPTY,
            b"MDPC01",
            b"MDPC02",
            b"MDPW01",
            b"MDPW02",
            *(bytes((code,)) for code in range(1, 7)),
            token,
            session,
            call,
            random.choice(SERVICES),
            b"mmi.service",
        ]
        shapes = [
            [b"MDPW02", random.choice([b"\x03", b"\x04"]), token, EMPTY, b"forged"],
            [EMPTY, b"MDPW01", b"\x03", token, EMPTY, b"forged"],
            [session, EMPTY, b"MDPW02", b"\x04", token, EMPTY, b"forged"],
            [session, EMPTY, b"MDPW02", random.choice([b"\x05", b"\x06"])],
            [b"MDPW02", random.choice([b"\x05", b"\x06"])],
            [b"MDPW02", b"\x01", b"mmi.fake"],
            [call, EMPTY, b"MDPC02", b"\x01", random.choice(SERVICES), b"hostile"],
            [random.choice(pieces) for _ in range(random.randint(1, 8))],
        ]
        return random.choice(shapes)

    # Healing and proof

    def _heal(self) -> None:
        """End all faults: start the brokers, unblock all nodes, and give each service a worker."""
        simulation = self.simulation
        simulation.schedule.record("no more faults")
        self._healing = True
        for broker in self.brokers:
            simulation.after(6, broker.start)
        for node in simulation.nodes:
            node.unblock()
        for worker in simulation.workers:
            worker.computes = (0.0, 0.0)
        for service in SERVICES:
            for endpoint in self.endpoints:
                handler = functools.partial(self._handler, [endpoint])
                simulation.worker(service, handler, endpoints=[endpoint], concurrency=2)

    def _check_healed(self) -> None:
        simulation = self.simulation
        for client in simulation.clients:
            require(not client.open_calls, client, "waits for ever for", *client.open_calls)
        self._check_outcomes()
        for worker in simulation.workers:
            if not worker.dead and not worker.core.draining:
                idle = [session for session in worker.core.sessions if session.registered]
                require(len(idle) == len(worker.core.sessions), worker, "has not registered again")
        for broker in self.brokers:
            core = broker.core
            if "hostile" not in KINDS[self.kind]:
                require("malformed" not in broker.counters.drops, broker, "counted a message of a peer as malformed")
            require(
                not core.queued and not core.assigned,
                broker,
                "keeps requests (queued, assigned):",
                core.queued,
                core.assigned,
            )
            require(not core.held_bytes and not internals.clients(core), broker, "keeps bytes or accounts of clients")
            for key, connection in internals.worker_connections(core).items():
                wire = broker.peers.get(connection.address[0])
                require(wire is not None and wire.attached, broker, "takes a dead worker for alive:", key)
                require(wire is None or not wire.node.dead, broker, "takes a dead worker for alive:", key)

    def _check_outcomes(self) -> None:
        for client in self.simulation.clients:
            for simulated in client.calls:
                uid = simulated.call.body[0]
                require(
                    not (uid.startswith(POISON) and simulated.outcome == "reply"),
                    "a reply to a request that kills its handler",
                )
                patience = simulated.call.deadline + simulated.call.timeout + 20
                require(
                    simulated.ended - simulated.began < patience or simulated.ended == math.inf,
                    simulated,
                    "ended far too late",
                )
                if self.kind == "quiet" and uid.startswith(b"uid") and simulated.call.timeout > 10:
                    expected: set[Outcome | str] = {"reply", Outcome.CANCELLED, Outcome.NO_WORKER, Outcome.EXPIRED}
                    expected |= {Outcome.TIMEOUT, Outcome.TOO_LARGE}
                    if any("bytes_full" in broker.counters.drops for broker in self.brokers):
                        expected.add(Outcome.OVERLOADED)  # the broker has room for few requests
                    require(simulated.outcome in expected, simulated, "without a fault")
                if self.kind == "computing":
                    self._check_ran_once(client, simulated)
                if uid.startswith(STREAM):
                    require(simulated.outcome is not Outcome.STALLED, "a slow link was taken for a reader:", simulated)
                if self.kind == "streams" and uid.startswith(b"uid"):
                    self._check_stream(simulated)
                if self.kind == "poison" and uid.startswith(b"uid"):
                    innocent = simulated.outcome is not Outcome.WORKER_LOST or simulated.parts
                    require(innocent, "a request that kills no worker ended with a lost one:", simulated)

    def _check_ran_once(self, client: ClientNode, simulated: SimulatedCall) -> None:
        """Check that no worker that computes was taken for lost."""
        require(simulated.outcome is not Outcome.WORKER_LOST, "a worker that computes was lost:", simulated)
        # A retry of a strict client is a request of its own, and so is one that crosses its answer.
        anew = self.simulation.invariants.begun_anew(simulated.call.identity)
        allowed = simulated.call.tries if client.strict else 1 + anew
        runs = self.begun.get(simulated.call.body[0], [])
        recalls = [when for broker in self.brokers for when in broker.recalls]
        # A worker may wake, and begin, while the broker's recall is on its way.
        crossed = any(abs(run - when) < 0.2 for run in runs for when in recalls)
        require(len(runs) <= allowed or crossed, "a request that a worker had begun was given to another:", simulated)

    def _check_stream(self, simulated: SimulatedCall) -> None:
        """Check how a stream ended that saw no fault but its reader's."""
        if simulated.call.deadline < math.inf or simulated.call.timeout < 10:
            return
        expected: set[Outcome | str] = {"reply", Outcome.CANCELLED, Outcome.NO_WORKER, Outcome.EXPIRED}
        if simulated.reads[1] == math.inf:
            expected.add(Outcome.STALLED)
        if not simulated.parts:
            expected |= {Outcome.TIMEOUT, Outcome.TOO_LARGE}  # it waited in line, or for parts that are joined
        if any("client_full" in broker.counters.drops for broker in self.brokers):
            expected.add(Outcome.OVERLOADED)  # for a caller of an earlier version the broker is the reader
        require(simulated.outcome in expected, simulated, "in parts:", len(simulated.parts), "read in", simulated.reads)

    def _prove(self) -> None:
        """Check that new calls succeed at once, run once, and cost no worker."""
        self._proving = True
        simulation = self.simulation
        lost = sum(sum(broker.counters.lost_workers.values()) for broker in self.brokers)
        clients = [client for client in simulation.clients if not client.dead]
        calls = [
            client.request(service, b"uid %d" % next(self._uids), timeout=14.0)
            for client in clients
            for service in SERVICES
        ]
        simulation.run(PROOF)
        for simulated in calls:
            require(simulated.outcome == "reply", simulated, "after healing")
            require(self.runs[simulated.call.body[0]] == 1, simulated, "was not run exactly once")
        now = sum(sum(broker.counters.lost_workers.values()) for broker in self.brokers)
        require(now == lost, "workers were lost without a fault")
