"""A whole installation under virtual time."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from ...core.broker.options import BrokerOptions
from ...protocol.dialects import VERSIONS, Dialect
from ...protocol.extension import VERSION
from ...validation import check_service
from ...worker.handlers import Handler
from .broker import BrokerNode
from .client import ClientNode
from .failures import SimulationFailed
from .invariants import Invariants, check_peer_traffic
from .network import Network
from .node import Node
from .schedule import Schedule
from .worker import WorkerNode


class Simulation:
    """Brokers, workers and clients of gmdp in memory, under a clock that is moved by hand.

    A simulation needs no sockets, threads or greenlets, and does not wait: hours pass in
    seconds, and one seed always gives the same run.  All invariants of gmdp are checked
    after each step.  Not thread-safe.

    ::

        simulation = Simulation(seed=7)
        simulation.broker()
        worker = simulation.worker("upper", lambda request: request.body[0].upper(), takes=(0.1, 0.5))
        client = simulation.client()
        call = client.request("upper", b"hello", timeout=10.0)
        simulation.after(0.2, worker.crash)
        simulation.after(1.0, simulation.worker, "upper", lambda request: request.body[0].upper())
        simulation.run(20)
        assert call.reply == [b"HELLO"]

    A handler is any callable that a :class:`gmdp.Worker` takes.  It runs in no time: its
    result comes after as many seconds as `takes` says.  A handler that raises
    :class:`~gmdp.testing.Crash` takes its whole process with it.

    Args:
        seed: The seed of all that is drawn by chance.
        latency: The most seconds that a message takes.
        bandwidth: Bytes a second of each connection.
        trace: Called with a line of text for each thing that happens.

    Attributes:
        seed: The seed.
        schedule: The clock, and the calls that are planned.
        network: The connections between the nodes.
        brokers: All brokers, in the order in which they were made.
        workers: All workers, in the order in which they were made.
        clients: All clients, in the order in which they were made.
        invariants: The checks that are made after each step.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        latency: float = 0.01,
        bandwidth: float = math.inf,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        self.seed = seed
        self.schedule = Schedule(seed, trace)
        self.network = Network(self.schedule, latency)
        self.network.bandwidth = bandwidth
        self.brokers: list[BrokerNode] = []
        self.workers: list[WorkerNode] = []
        self.clients: list[ClientNode] = []
        self.invariants = Invariants()
        self.schedule.on_step = self._check
        self._names = 0

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self.schedule.now

    def broker(self, endpoint: str = "one", *, hwm: int = 1000, extension: int = VERSION, **options: Any) -> BrokerNode:
        """Return a new broker, started.

        Args:
            endpoint: The name under which workers and clients find the broker.
            hwm: Messages that may wait for a peer that does not read.
            extension: The version of gmdp's extension that it speaks.
            options: Those of :class:`gmdp.Broker` that :class:`gmdp.BrokerOptions` has.

        Raises:
            ConfigurationError: An option has a wrong value.
        """
        broker = BrokerNode(self.network, endpoint, BrokerOptions(**options), hwm, extension)
        broker.on_traffic = self.invariants.on_traffic
        self.brokers.append(broker)
        return broker

    def worker(
        self, service: str | bytes, handler: Handler, *, version: str | Dialect = "0.2", **options: Any
    ) -> WorkerNode:
        """Return a new worker, started.

        Args:
            service: The name of the service.
            handler: Called with each request.
            version: Of MDP: "0.1" or "0.2", or a dialect.
            options: ``endpoints``, those of its brokers, by default ["one"];
                ``takes``, the least and most seconds a request takes;
                ``computes``, the least and most seconds for which the handler blocks the worker's hub;
                ``every``, seconds before each part of an answer;
                ``concurrency``, ``heartbeat_interval``, ``liveness``, ``enforce_deadline`` as for :class:`gmdp.Worker`;
                ``strict``, True if brokers appear to the worker as speaking an RFC only,
                "silent" if they do not even answer its probe;
                ``extension``, the version of gmdp's extension that it speaks;
                ``bandwidth``, the most bytes a second of its connections.
        """
        name, endpoints = self._name("worker"), options.pop("endpoints", ["one"])
        worker = WorkerNode(
            self.network, name, endpoints, check_service(service), handler, _dialect(version), **options
        )
        worker.on_traffic = functools.partial(check_peer_traffic, worker)
        self.workers.append(worker)
        return worker

    def client(
        self, *, version: str | Dialect = "0.2", endpoints: Sequence[str] = ("one",), **options: Any
    ) -> ClientNode:
        """Return a new client, whose ``request`` begins a call.

        Args:
            version: Of MDP: "0.1" or "0.2", or a dialect.
            endpoints: Those of its brokers.
            options: ``max_connections`` and ``max_in_flight`` as for :class:`gmdp.Client`;
                ``strict``, ``extension`` and ``bandwidth`` as for a worker.
        """
        client = ClientNode(self.network, self._name("client"), endpoints, _dialect(version), **options)
        client.on_traffic = functools.partial(check_peer_traffic, client)
        self.clients.append(client)
        return client

    def at(self, when: float, function: Callable[..., Any], *args: Any, **options: Any) -> None:
        """Plan a call of `function` with `args` and `options`, `when` seconds after the beginning."""
        self.schedule.at(when, functools.partial(function, *args, **options))

    def after(self, seconds: float, function: Callable[..., Any], *args: Any, **options: Any) -> None:
        """Plan a call of `function` with `args` and `options`, `seconds` from now."""
        self.at(self.now + seconds, function, *args, **options)

    def run(self, seconds: float) -> None:
        """Let `seconds` go by.

        Raises:
            SimulationFailed: An invariant did not hold, or a planned call failed.
        """
        try:
            self.schedule.run(seconds)
        except Exception as error:
            raise self.failed(error) from error

    def failed(self, error: Exception) -> SimulationFailed:
        """Return the SimulationFailed to raise for `error`, with the seed and the time."""
        self.schedule.record("FAILED:", error)
        return SimulationFailed(f"seed {self.seed}, after {self.now:.6f} s: {error}")

    @property
    def nodes(self) -> list[Node]:
        """All brokers, workers and clients."""
        return [*self.brokers, *self.workers, *self.clients]

    def _name(self, kind: str) -> str:
        self._names += 1
        return f"{kind}{self._names}"

    def _check(self) -> None:
        for nodes in (self.brokers, self.workers, self.clients):
            for node in nodes:
                if node.ran:
                    node.ran = False
                    self.invariants.check(node)


def _dialect(version: str | Dialect) -> Dialect:
    return version if isinstance(version, Dialect) else VERSIONS[version]
