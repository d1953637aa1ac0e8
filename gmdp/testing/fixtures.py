"""What the fixtures of :mod:`gmdp_pytest` hold, without pytest."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Any

import gevent

from ..broker.broker import Broker
from ..client.async_client import AsyncClient
from ..core.states import State
from ..exceptions import ConfigurationError
from ..worker.handlers import Handler
from ..worker.worker import Worker
from . import leaks
from .deadline import Deadline, DeadlinePassed
from .simulator.simulation import Simulation

#: Where a test's broker listens.
TRANSPORTS = ("tcp", "inproc")

#: Seconds a worker may take to register.
REGISTRATION = 10.0

#: Seconds that what is about to end is waited for after a test that failed.
HASTE = 0.1

_names = itertools.count(1)


class Installation:
    """A broker, its workers and a client, for one test; and what is watched meanwhile.

    `transport`: "tcp" or "inproc".  `options`: of the :class:`gmdp.Broker`.  `seconds`:
    what the test may take, and what cleans up again; `passed` makes of a message what is
    raised then.  `allowed`: what it may leave behind, of :data:`gmdp.testing.leaks.KINDS`.
    ConfigurationError for a wrong value.  Where the test has :attr:`failed`, its traceback
    holds what its variables were: for what it left, :meth:`end` does not wait for long.
    """

    def __init__(
        self,
        *,
        transport: str = "tcp",
        options: Mapping[str, Any],
        seconds: float,
        passed: Callable[[str], BaseException] = DeadlinePassed,
        allowed: Iterable[str] = (),
    ) -> None:
        if transport not in TRANSPORTS:
            raise ConfigurationError(f"gmdp_transport must be {' or '.join(TRANSPORTS)}, not {transport!r}")
        if not seconds > 0:
            raise ConfigurationError(f"gmdp_deadline must be above 0 seconds, not {seconds!r}")
        self._kinds = leaks.all_but(allowed)
        bind = "tcp://127.0.0.1:*" if transport == "tcp" else f"inproc://gmdp-test-{next(_names)}"
        self._options = {"bind": bind, **options}
        self._broker: Broker | None = None
        self._client: AsyncClient | None = None
        self._workers: list[Worker] = []
        self.deadline = Deadline(seconds, passed)
        #: True from `begin` to `end`.
        self.watched = False
        #: To be set by whoever runs the test.
        self.failed = False

    def begin(self) -> None:
        """Watch from now on."""
        self.deadline.start()
        try:
            self._census = leaks.Census()  # the deadline's thread is no leak
            self.watched = True
        except BaseException:
            self.deadline.cancel()
            raise

    @property
    def broker(self) -> Broker:
        """It is started when it is first asked for."""
        if self._broker is None:
            self._broker = Broker(**self._options)
            self._broker.start()
        return self._broker

    @property
    def client(self) -> AsyncClient:
        """Started, and connected to the broker."""
        if self._client is None:
            self._client = AsyncClient(self.broker.endpoint)
            self._client.start()
        return self._client

    def worker(self, service: str | bytes, handler: Handler, **options: Any) -> Worker:
        """A worker of the broker's, once all its sessions are registered there.

        `options`: of the :class:`gmdp.Worker`.  AssertionError if that does not happen
        within :data:`REGISTRATION` seconds.
        """
        worker = Worker(self.broker.endpoint, service, handler, **options)
        self._workers.append(worker)
        wanted = self._registered(worker) + worker.concurrency
        changes = worker.subscribe()
        until = monotonic() + REGISTRATION
        reason = ""
        worker.start()
        with gevent.Timeout(REGISTRATION, False):
            while worker.state is not State.RUNNING:
                reason = changes.get().reason or reason
        worker.unsubscribe(changes)
        while self._registered(worker) < wanted:  # what the worker has said, the broker has yet to hear
            if monotonic() > until:
                raise AssertionError(f"not registered within {REGISTRATION:g} s: {worker!r} {reason}".rstrip())
            gevent.sleep(0.001)
        return worker

    def _registered(self, worker: Worker) -> int:
        service = self.broker.statistics().services.get(worker.service)
        return 0 if service is None else service.workers

    def simulation(self) -> Simulation:
        """A new one."""
        return Simulation()

    def end(self) -> list[leaks.Leak]:
        """Close everything; returns what the test has left."""
        self.watched = False
        self.deadline.start(self.deadline.seconds + 2 * leaks.PATIENCE)
        patience = HASTE if self.failed else None
        try:
            # While those are there who could answer.
            left = self._census.wait([kind for kind in self._kinds if kind == "requests"], patience)
            self._close()
            left += self._census.wait([kind for kind in self._kinds if kind != "requests"], patience)
        finally:
            self.deadline.cancel()
        return left

    def abandon(self) -> None:
        """Close everything, and look for nothing."""
        self.watched = False
        self.deadline.start()
        try:
            self._close()
        finally:
            self.deadline.cancel()

    def _close(self) -> None:
        with contextlib.ExitStack() as closing:
            if self._broker is not None:
                closing.callback(self._broker.close)
            for worker in self._workers:
                closing.callback(worker.close)
            if self._client is not None:
                closing.callback(self._client.close)
