"""The part of :mod:`gmdp_pytest` that does not need pytest: an installation for one test."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Any

import gevent

from ..broker.broker import Broker
from ..client.async_client import AsyncClient
from ..client.options import DEFAULT_TIMEOUT
from ..core.states import State
from ..exceptions import ConfigurationError
from ..worker.handlers import Handler
from ..worker.worker import Worker
from . import leaks
from .deadline import Deadline, DeadlinePassed
from .simulator.simulation import Simulation

#: The transports on which a test's broker may listen.
TRANSPORTS = ("tcp", "inproc")

#: Seconds that a worker may take to register.
REGISTER_TIMEOUT = 10.0

#: Seconds to wait for things that are about to end, after a test that failed.
PATIENCE_AFTER_FAILURE = 0.1

_names = itertools.count(1)


class Installation:
    """A broker, its workers and a client for one test, with its deadline and census.

    Args:
        transport: "tcp" or "inproc".
        options: The options of the :class:`gmdp.Broker`.
        seconds: Seconds the test may take; the clean-up may take as long again.
        error: Called with the message of a deadline that passed; returns the error to raise.
        allowed: The leaks that the test may have, of :data:`gmdp.testing.leaks.KINDS`.

    Attributes:
        deadline: The deadline of the test.
        watched: True from :meth:`begin` to :meth:`end`.
        failed: Set by the test's runner.  The traceback of a failed test keeps its variables alive, so
            :meth:`end` does not wait long for leaks to vanish.

    Raises:
        ConfigurationError: A value is wrong.
    """

    def __init__(
        self,
        *,
        transport: str = "tcp",
        options: Mapping[str, Any],
        seconds: float,
        error: Callable[[str], BaseException] = DeadlinePassed,
        allowed: Iterable[str] = (),
    ) -> None:
        if transport not in TRANSPORTS:
            raise ConfigurationError(f"gmdp_transport must be {' or '.join(TRANSPORTS)}, not {transport!r}")
        if not seconds > 0:
            raise ConfigurationError(f"gmdp_deadline must be more than 0 seconds, not {seconds!r}")
        self._kinds = leaks.all_but(allowed)
        bind = "tcp://127.0.0.1:*" if transport == "tcp" else f"inproc://gmdp-test-{next(_names)}"
        self._options = {"bind": bind, **options}
        self._broker: Broker | None = None
        self._client: AsyncClient | None = None
        self._workers: list[Worker] = []
        self._seconds = seconds
        self.deadline = Deadline(seconds, error)
        self.watched = False
        self.failed = False

    def begin(self) -> None:
        """Start the deadline, and make the census."""
        self.deadline.start()
        try:
            self._census = leaks.Census()  # after the deadline has its thread
            self.watched = True
        except BaseException:
            self.deadline.cancel()
            raise

    @property
    def broker(self) -> Broker:
        """The broker, which is started on the first access."""
        if self._broker is None:
            self._broker = Broker(**self._options)
            self._broker.start()
        return self._broker

    @property
    def client(self) -> AsyncClient:
        """A client of the broker, which is started on the first access; its calls take 0.8 of the test's deadline."""
        if self._client is None:
            # A call that nobody answers says why, before the test's deadline ends it.
            self._client = client = AsyncClient(self.broker.endpoint)
            client._defaults = client._defaults._replace(timeout=min(DEFAULT_TIMEOUT, 0.8 * self._seconds))
            self._client.start()
        return self._client

    def worker(self, service: str | bytes, handler: Handler, **options: Any) -> Worker:
        """Return a started worker of the broker, once all its sessions are registered.

        Args:
            service: The name of the service.
            handler: Called with each request.
            options: The options of the :class:`gmdp.Worker`.

        Raises:
            AssertionError: The worker has not registered within :data:`REGISTER_TIMEOUT` seconds.
        """
        worker = Worker(self.broker.endpoint, service, handler, **options)
        self._workers.append(worker)
        wanted = self._registered(worker) + worker.concurrency
        changes = worker.subscribe()
        until = monotonic() + REGISTER_TIMEOUT
        reason = ""
        worker.start()
        with gevent.Timeout(REGISTER_TIMEOUT, False):
            while worker.state is not State.RUNNING:
                reason = changes.get().reason or reason
        worker.unsubscribe(changes)
        while self._registered(worker) < wanted:  # the broker may not have read the worker's READY
            if monotonic() > until:
                raise AssertionError(
                    f"the worker has not registered within {REGISTER_TIMEOUT:g} s: {worker!r} {reason}".rstrip()
                )
            gevent.sleep(0.001)
        return worker

    def _registered(self, worker: Worker) -> int:
        service = self.broker.statistics().services.get(worker.service)
        return 0 if service is None else service.workers

    def simulation(self) -> Simulation:
        """Return a new simulation."""
        return Simulation()

    def end(self) -> list[leaks.Leak]:
        """Close everything, and return the leaks of the test."""
        self.watched = False
        self.deadline.start(self.deadline.seconds + 2 * leaks.PATIENCE)
        patience = PATIENCE_AFTER_FAILURE if self.failed else None
        try:
            # Requests first, while the workers that may answer them still run.
            found = self._census.wait([kind for kind in self._kinds if kind == "requests"], patience)
            self._close()
            found += self._census.wait([kind for kind in self._kinds if kind != "requests"], patience)
        finally:
            self.deadline.cancel()
        return found

    def abandon(self) -> None:
        """Close everything, without a search for leaks."""
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
