"""A whole installation under virtual time, made by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from ...core.broker.options import BrokerOptions
from ...protocol.dialects import VERSIONS, Dialect
from ...validation import check_service
from ...worker.handlers import Handler
from .broker import BrokerNode
from .client import ClientNode
from .failures import SimulationFailed
from .invariants import Invariants, watch_client
from .network import Network
from .node import Node
from .schedule import Schedule
from .worker import WorkerNode


class Simulation:
    """Brokers, workers and clients of gmdp in memory, under a clock that is moved by hand.

    No sockets, threads or greenlets, and no waiting: hours pass in seconds, and one
    seed always gives the same run.  After each step everything that has to hold is
    checked.  `latency`: the most seconds a message takes; `trace`: called with a line
    for each thing that happens.  Whatever goes wrong raises :class:`SimulationFailed`.

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

    A handler is any that a :class:`gmdp.Worker` takes, and runs in no time: its result
    comes after as many seconds as `takes` says.  One that raises
    :class:`~gmdp.testing.Crash` takes its whole process with it.
    """

    def __init__(self, seed: int = 0, *, latency: float = 0.01, trace: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.schedule = Schedule(seed, trace)
        self.network = Network(self.schedule, latency)
        self.brokers: list[BrokerNode] = []
        self.workers: list[WorkerNode] = []
        self.clients: list[ClientNode] = []
        self.invariants = Invariants()
        self.schedule.after_step = self._check
        self._made = 0

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self.schedule.now

    def broker(self, endpoint: str = "one", *, hwm: int = 1000, **options: Any) -> BrokerNode:
        """A broker at `endpoint`; `options` are those of :class:`gmdp.Broker`."""
        broker = BrokerNode(self.network, endpoint, BrokerOptions(**options), hwm)
        broker.watch = self.invariants.watch
        self.brokers.append(broker)
        return broker

    def worker(
        self, service: str | bytes, handler: Handler, *, version: str | Dialect = "0.2", **options: Any
    ) -> WorkerNode:
        """A worker of the broker at "one", or at `endpoints`.

        `options`: ``takes``, the least and most seconds a request takes; ``every``,
        seconds before each part of an answer; ``concurrency``,
        ``heartbeat_interval``, ``liveness``, ``enforce_deadline`` as for
        :class:`gmdp.Worker`; ``strict``: True if brokers appear to it as speaking an RFC
        only, "silent" if they do not even answer its probe.
        """
        name, endpoints = self._name("worker"), options.pop("endpoints", ["one"])
        worker = WorkerNode(
            self.network, name, endpoints, check_service(service), handler, _dialect(version), **options
        )
        self.workers.append(worker)
        return worker

    def client(
        self, *, version: str | Dialect = "0.2", endpoints: Sequence[str] = ("one",), **options: Any
    ) -> ClientNode:
        """A client of the broker at "one", or at `endpoints`; its ``request`` begins a call.

        `options`: ``max_connections``, ``max_in_flight``, ``strict`` as for a worker.
        """
        client = ClientNode(self.network, self._name("client"), endpoints, _dialect(version), **options)
        client.watch = watch_client
        self.clients.append(client)
        return client

    def at(self, when: float, function: Callable[..., Any], *args: Any, **options: Any) -> None:
        """Call `function(*args, **options)` at `when` seconds."""
        self.schedule.at(when, functools.partial(function, *args, **options))

    def after(self, seconds: float, function: Callable[..., Any], *args: Any, **options: Any) -> None:
        """Call `function(*args, **options)` in `seconds`."""
        self.at(self.now + seconds, function, *args, **options)

    def run(self, seconds: float) -> None:
        """Let `seconds` go by; SimulationFailed if anything does not hold."""
        try:
            self.schedule.run(seconds)
        except Exception as error:
            raise self.failed(error) from error

    def failed(self, error: Exception) -> SimulationFailed:
        """What to raise where something did not hold."""
        self.schedule.tell("FAILED:", error)
        return SimulationFailed(f"seed {self.seed}, after {self.now:.6f} s: {error}")

    @property
    def nodes(self) -> list[Node]:
        """All of them."""
        return [*self.brokers, *self.workers, *self.clients]

    def _name(self, kind: str) -> str:
        self._made += 1
        return f"{kind}{self._made}"

    def _check(self) -> None:
        for nodes in (self.brokers, self.workers, self.clients):
            for node in nodes:
                if node.ran:
                    node.ran = False
                    self.invariants.check(node)


def _dialect(version: str | Dialect) -> Dialect:
    return version if isinstance(version, Dialect) else VERSIONS[version]
