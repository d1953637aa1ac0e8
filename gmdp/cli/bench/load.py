"""The client process: it makes the calls and prints lines of JSON.

``{"began": true}`` comes after the warm-up, ``{"requests": N}`` a few times a second,
and at last the fields of :class:`Measured`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from time import perf_counter, process_time
from typing import Any, NamedTuple

import gevent

#: Seconds between two lines that give the number of answered requests.
REPORT_INTERVAL = 0.2


class Point(NamedTuple):
    """What to measure."""

    stack: str
    mdp: str
    #: Bytes of a body.
    size: int
    #: Calls at a time.
    concurrency: int
    #: Seconds to measure, and seconds of calls before that.
    seconds: float
    warm_up: float
    #: Seconds after which a call has failed.
    timeout: float


class Measured(NamedTuple):
    """What the client process found."""

    #: Requests that were answered.
    requests: int
    #: Errors by their type.
    errors: dict[str, int]
    seconds: float
    #: Milliseconds.
    p50: float
    p99: float
    max: float
    #: Seconds of the client process's CPU.
    cpu: float


def percentile(ordered: list[float], part: float) -> float:
    """Return the value below which the fraction `part` of `ordered` lies; nan if `ordered` is empty."""
    if not ordered:
        return float("nan")
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)]


class Meter:
    """Where callers record how their calls ended."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.errors: Counter[str] = Counter()
        #: True while calls count: from the end of the warm-up on.
        self.warm = False
        #: False once callers must stop.
        self.running = True

    def record_reply(self, began: float) -> None:
        """Record the reply of a call that began at `began` (perf_counter)."""
        if self.warm:
            self.latencies.append(perf_counter() - began)

    def record_error(self, error: BaseException) -> None:
        """Record the error of a call."""
        if self.warm:
            self.errors[type(error).__name__] += 1


def print_line(**fields: Any) -> None:
    """Print one line of JSON now."""
    print(json.dumps(fields), flush=True)


def measure_callers(meter: Meter, point: Point, sleep: Callable[[float], Any] = gevent.sleep) -> Measured:
    """Let the callers, which already run, call for as long as `point` says; return what `meter` recorded."""
    sleep(point.warm_up)
    print_line(began=True)
    cpu, began = process_time(), perf_counter()
    meter.warm = True
    while (remaining := began + point.seconds - perf_counter()) > 0:
        sleep(min(remaining, REPORT_INTERVAL))
        print_line(requests=len(meter.latencies))
    meter.warm = False
    seconds, cpu = perf_counter() - began, process_time() - cpu
    meter.running = False
    ordered = sorted(meter.latencies)
    p50, p99, longest = (1000 * percentile(ordered, part) for part in (0.5, 0.99, 1.0))
    return Measured(len(ordered), dict(meter.errors), seconds, p50, p99, longest, cpu)


def call_in_greenlets(point: Point, call: Callable[[bytes], Any]) -> Measured:
    """Measure callers that are greenlets; `call` sends one body and waits for its reply."""
    meter = Meter()
    body = b"x" * point.size

    def run_caller() -> None:
        while meter.running:
            began = perf_counter()
            try:
                call(body)
            except Exception as error:
                meter.record_error(error)
                gevent.sleep(0.01)  # a call that fails at once must not spin
            else:
                meter.record_reply(began)

    callers = [gevent.spawn(run_caller) for _ in range(point.concurrency)]
    measured = measure_callers(meter, point)
    gevent.killall(callers)
    return measured


def run(call: Callable[[Point, str, str], Measured], argument: str) -> None:
    """Measure one point by ``call(point, endpoint, service)``, print the result, and end the process.

    `argument` is JSON: the fields of the point, the endpoint, the service.
    """
    *fields, endpoint, service = json.loads(argument)
    print_line(**call(Point(*fields), endpoint, service)._asdict())
    os._exit(0)  # threads that still wait for a reply would print their errors
