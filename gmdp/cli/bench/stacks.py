"""What is measured: the processes of a stack, and gmdp's own stack.

``python -m gmdp.cli.bench.stacks JSON`` is gmdp's client process: see :func:`~.load.run`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

from ...client.async_client import AsyncClient
from ...worker.request import Request
from .load import Measured, Point, call_in_greenlets, run

#: The name of gmdp's stack: the only one that may use a running broker, and that others are compared with.
GMDP = "gmdp"


class Stack(NamedTuple):
    """The commands that start the processes of one stack.

    A server prints a line when it is ready.  If that line ends with an endpoint, the
    next processes get it.
    """

    #: The protocol versions it speaks; one empty name if there are none.
    versions: tuple[str, ...]
    #: Returns the broker's command; None if there is no broker.
    broker: Callable[[], list[str]] | None
    #: Returns a worker's command, given the broker's endpoint or an empty string, the
    #: service, the version and the worker's concurrency.
    worker: Callable[[str, str, str, int], list[str]]
    #: The command of the client process, less its last argument: see `run` of load.py.
    client: list[str]


def echo(request: Request) -> list[bytes]:
    """Handle a request: return its body."""
    return request.body


def _broker() -> list[str]:
    return [sys.executable, "-m", "gmdp", "broker", "--bind", "tcp://127.0.0.1:*"]


def _worker(endpoint: str, service: str, mdp: str, concurrency: int) -> list[str]:
    command = [sys.executable, "-m", "gmdp", "worker", service, "gmdp.cli.bench.stacks:echo"]
    return [*command, "--broker", endpoint, "--mdp", mdp, "--concurrency", str(concurrency)]


def call_gmdp(point: Point, endpoint: str, service: str) -> Measured:
    """Measure `point`: make its calls through one client."""
    in_flight = max(1000, point.concurrency)
    with AsyncClient(endpoint, version=point.mdp, timeout=point.timeout, max_in_flight=in_flight) as client:
        return call_in_greenlets(point, lambda body: client.request(service, body))


GMDP_STACK = Stack(("0.1", "0.2"), _broker, _worker, [sys.executable, "-m", "gmdp.cli.bench.stacks"])

if __name__ == "__main__":
    run(call_gmdp, sys.argv[1])
