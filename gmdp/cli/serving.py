"""Run a broker or a worker in a process of its own."""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import gevent

from ..core.states import State
from .printing import PrintableFormatter, printable

if TYPE_CHECKING:
    from ..worker.worker import Worker


def configure_logging(verbosity: int) -> None:
    """Log to standard error: warnings; with one -v also information, with two everything."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)]
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


class Server(Protocol):
    """What brokers and workers have in common."""

    def start(self) -> None:
        """Begin to listen."""

    def stop(self) -> Any:
        """Take no new work, finish running work, close."""

    def serve_forever(self) -> Any:
        """Wait until stopped."""


S = TypeVar("S", bound=Server)


def wait_until_registered(worker: Worker) -> None:
    """Wait until a broker has registered `worker`."""
    changes = worker.subscribe()
    while worker.state is not State.RUNNING:
        changes.get()
    worker.unsubscribe(changes)


def print_when_registered(worker: Worker, line: str) -> None:
    """Announce for :func:`serve` that `worker` serves: print `line` once a broker has registered the worker."""

    def wait_and_print() -> None:
        wait_until_registered(worker)
        try:
            print(line, flush=True)
        except OSError as error:
            # Nobody reads it, and the worker serves all the same.
            logging.getLogger("gmdp.cli").warning("%s (standard output: %s)", line, error.strerror)

    gevent.spawn(wait_and_print)


def serve(server: S, describe: Callable[[S], str], announce: Callable[[S, str], None] | None = None) -> None:
    """Start `server`, announce it, and run until a signal.

    SIGTERM, SIGINT and SIGHUP (a terminal is closed) drain; a second one ends the process at once.  A SIGHUP
    that is ignored, as under nohup, or handled already stays so.  `describe` returns the line that announces
    the started server.  The line is printed, or given to `announce`, which may switch.
    """
    hub = gevent.get_hub()
    stopping = False

    def on_signal(number: int, frame: object) -> None:
        # A plain signal handler runs even while a request's handler never yields.  The signal
        # handler must not switch, so it has the hub spawn `stop`.
        nonlocal stopping
        if stopping:
            os._exit(128 + number)
        stopping = True
        hub.loop.run_callback_threadsafe(gevent.spawn, server.stop)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number is not signal.SIGHUP or signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, on_signal)
    server.start()
    # All objects made so far stay.  A garbage collection that looks through them would be the longest pause of all.
    gc.freeze()
    line = printable(describe(server))
    if announce is None:
        print(line, flush=True)
    else:
        announce(server, line)
    server.serve_forever()
