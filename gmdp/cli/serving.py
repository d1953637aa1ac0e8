"""Running a broker, worker or gateway in a process of its own."""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import gevent

from ..core.states import State
from ..worker.worker import Worker


def configure_logging(verbosity: int) -> None:
    """Warnings, or with -v all there is to tell, on standard error."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)]
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


class Service(Protocol):
    """What gevent's servers, brokers and workers have in common."""

    def start(self) -> None:
        """Begin to listen."""

    def stop(self) -> Any:
        """Take no new work, finish what is being done, close."""

    def serve_forever(self) -> Any:
        """Wait until stopped."""


S = TypeVar("S", bound=Service)


def until_registered(worker: Worker) -> None:
    """Wait until it is."""
    changes = worker.subscribe()
    while worker.state is not State.RUNNING:
        changes.get()
    worker.unsubscribe(changes)


def print_when_registered(worker: Worker, line: str) -> None:
    """For :func:`serve`: a worker that no broker has yet does not serve."""

    def wait() -> None:
        until_registered(worker)
        print(line, flush=True)

    gevent.spawn(wait)


def serve(service: S, ready: Callable[[S], str], tell: Callable[[S, str], None] | None = None) -> None:
    """Start `service`, print what `ready` says of it, and run until a signal.

    SIGTERM and SIGINT drain; a second one ends the process at once.  `tell` gets
    what would be printed instead, and may switch.
    """
    hub = gevent.get_hub()
    stopping = False

    def on_signal(number: int, frame: object) -> None:
        # A plain handler, so that a handler that never yields does not keep it
        # from running; it must not switch, so the stop itself is the hub's.
        nonlocal stopping
        if stopping:
            os._exit(128 + number)
        stopping = True
        hub.loop.run_callback_threadsafe(gevent.spawn, service.stop)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    service.start()
    # What is there now stays: to look through all of it is the longest pause there is.
    gc.freeze()
    if tell is None:
        print(ready(service), flush=True)
    else:
        tell(service, ready(service))
    service.serve_forever()
