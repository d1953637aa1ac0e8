"""The process that calls: ``python -m gmdp.cli.bench.load`` and one argument, JSON.

It prints lines of JSON: ``{"began": true}`` after the warm-up, ``{"requests": N}`` a few
times a second, and at last the :class:`Measured` figures.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from time import perf_counter, process_time
from typing import Any, NamedTuple

import gevent

#: Seconds between two lines that tell how far it is.
REPORT = 0.2


class Point(NamedTuple):
    """What to measure."""

    stack: str
    mdp: str
    #: Bytes of a body.
    size: int
    #: Calls at a time.
    concurrency: int
    #: Seconds, also before that.
    seconds: float
    warm_up: float
    #: Seconds after which a call has failed.
    timeout: float


class Measured(NamedTuple):
    """What came of it."""

    requests: int
    #: Errors by their type.
    errors: dict[str, int]
    seconds: float
    #: Milliseconds.
    p50: float
    p99: float
    max: float
    #: Seconds of the calling process's CPU.
    cpu: float


def percentile(ordered: list[float], part: float) -> float:
    """The value that so great a part of `ordered` does not exceed; nan if it is empty."""
    if not ordered:
        return float("nan")
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)]


class Meter:
    """What callers report to.  `warm` and `until` are set by :func:`drive`."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.errors: Counter[str] = Counter()
        self.warm = False
        self.running = True

    def answered(self, began: float) -> None:
        """A call that began then (perf_counter) was answered."""
        if self.warm:
            self.latencies.append(perf_counter() - began)

    def failed(self, error: BaseException) -> None:
        """A call failed."""
        if self.warm:
            self.errors[type(error).__name__] += 1


def tell(**what: Any) -> None:
    """One line of JSON, at once."""
    print(json.dumps(what), flush=True)


def drive(meter: Meter, point: Point, sleep: Any = gevent.sleep) -> Measured:
    """Let callers, who run already, call for as long as `point` says."""
    sleep(point.warm_up)
    tell(began=True)
    cpu, began = process_time(), perf_counter()
    meter.warm = True
    while (left := began + point.seconds - perf_counter()) > 0:
        sleep(min(left, REPORT))
        tell(requests=len(meter.latencies))
    meter.warm = False
    seconds, cpu = perf_counter() - began, process_time() - cpu
    meter.running = False
    ordered = sorted(meter.latencies)
    p50, p99, most = (1000 * percentile(ordered, part) for part in (0.5, 0.99, 1.0))
    return Measured(len(ordered), dict(meter.errors), seconds, p50, p99, most, cpu)


def main() -> None:
    """Measure one point."""
    from .stacks import STACKS

    *fields, endpoint, service = json.loads(sys.argv[1])
    point = Point(*fields)
    measured = STACKS[point.stack].call(point, endpoint, service)
    tell(**measured._asdict())
    os._exit(0)  # threads may still wait for an answer, and would say that they got none


if __name__ == "__main__":
    main()
