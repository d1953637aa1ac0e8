"""Start the processes of a stack and measure one point after another."""

from __future__ import annotations

import functools
import json
import os
import select
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

from ...exceptions import MDPError
from .load import Measured, Point
from .stacks import GMDP, Stack

#: Seconds that a process may take to start, or to end once its time is up.
PATIENCE = 60.0


class Result(NamedTuple):
    """One point, measured."""

    point: Point
    measured: Measured
    #: Seconds of CPU; None where the system does not tell, or where the process was not started here.
    broker_cpu: float | None
    worker_cpu: float | None

    @property
    def rate(self) -> float:
        """Answered requests per second."""
        return self.measured.requests / self.measured.seconds

    def cpu_per_request(self, seconds: float | None) -> float | None:
        """Return the microseconds of CPU per request, given the `seconds` of CPU of all requests."""
        return None if seconds is None or not self.measured.requests else 1e6 * seconds / self.measured.requests


class Process:
    """One started process that prints lines."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self._child.stdout is not None  # a pipe
        self.pid = self._child.pid
        self._out = self._child.stdout.fileno()
        self._rest = b""

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.terminate()
        try:
            self._child.wait(2)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        if self._child.stdout is not None:
            self._child.stdout.close()

    def line(self, timeout: float) -> str:
        """Wait for the next line; MDPError if the process ends, or prints nothing for `timeout` seconds."""
        until = monotonic() + timeout
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._out], [], [], max(until - monotonic(), 0))
            data = os.read(self._out, 65536) if ready else None
            if not data:
                reason = "ended" if data is not None else f"printed nothing for {timeout:g} seconds"
                raise MDPError(f"{self.name} {reason}")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def cpu(self) -> float | None:
        """Return the seconds of CPU of all its threads; None where the system does not tell (Linux does)."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError):
            return None


def _sum_cpu(processes: Sequence[Process]) -> float | None:
    seconds = [process.cpu() for process in processes]
    return None if not seconds or None in seconds else sum(filter(None, seconds))


class Servers:
    """The servers of one stack, for one version."""

    def __init__(
        self, name: str, stack: Stack, mdp: str, broker: str | None, worker_processes: int, worker_concurrency: int
    ) -> None:
        self.name = name
        self.stack = stack
        self.mdp = mdp
        self.service = f"gmdp.bench.{os.getpid()}"
        self.endpoint = broker or ""
        #: Without a broker, all callers call one worker.
        self._worker_count = worker_processes if stack.broker is not None else 1
        self._worker_concurrency = worker_concurrency
        self._started = ExitStack()
        self.brokers: list[Process] = []
        self.workers: list[Process] = []

    def __enter__(self) -> Servers:
        try:
            if self.stack.broker is not None and not self.endpoint:
                process = self._start("the broker", self.stack.broker())
                self.brokers.append(process)
                self.endpoint = process.line(PATIENCE).split()[-1]
            for _ in range(self._worker_count):
                command = self.stack.worker(self.endpoint, self.service, self.mdp, self._worker_concurrency)
                process = self._start("a worker", command)
                self.workers.append(process)
                words = process.line(PATIENCE).split()
                self.endpoint = self.endpoint or words[-1]
        except BaseException:
            self._started.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._started.close()

    def _start(self, role: str, command: list[str]) -> Process:
        return self._started.enter_context(Process(f"{role} of {self.name}", command))

    def measure(self, point: Point, progress: Callable[[int], None]) -> Result:
        """Measure one point; `progress` gets the number of requests that were answered so far."""
        argument = json.dumps([*point, self.endpoint, self.service])
        with Process(f"the client of {self.name}", [*self.stack.client, argument]) as client:
            before: tuple[float | None, float | None] = (None, None)
            while True:
                report: dict[str, Any] = json.loads(client.line(point.warm_up + point.timeout + PATIENCE))
                now = (_sum_cpu(self.brokers), _sum_cpu(self.workers))
                if "began" in report:
                    before = now
                elif "seconds" in report:
                    break
                else:
                    progress(report["requests"])
        spent = [None if a is None or b is None else b - a for a, b in zip(before, now, strict=True)]
        return Result(point, Measured(**report), *spent)


class Plan(NamedTuple):
    """All points to measure."""

    stacks: Mapping[str, Stack]
    #: The protocol versions, for gmdp alone.
    versions: Sequence[str]
    sizes: Sequence[int]
    concurrencies: Sequence[int]
    seconds: float
    warm_up: float
    timeout: float
    #: The endpoint of a broker that runs already, for gmdp alone.
    broker: str | None
    worker_processes: int
    worker_concurrency: int

    def points(self, name: str) -> dict[str, list[Point]]:
        """Return the points of one stack, by version."""
        versions = self.versions if name == GMDP else self.stacks[name].versions
        return {
            mdp: [
                Point(name, mdp, size, concurrency, self.seconds, self.warm_up, self.timeout)
                for size in self.sizes
                for concurrency in self.concurrencies
            ]
            for mdp in versions
        }

    def total(self) -> int:
        """Return the number of points."""
        return sum(len(points) for name in self.stacks for points in self.points(name).values())

    def measure(self, progress: Callable[[Point, int | None], None]) -> Iterator[Result]:
        """Measure all points.

        `progress` gets a point with None when the point begins, later with the number of
        requests that were answered so far.
        """
        for name, stack in self.stacks.items():
            broker = self.broker if name == GMDP else None
            for mdp, points in self.points(name).items():
                with Servers(name, stack, mdp, broker, self.worker_processes, self.worker_concurrency) as servers:
                    for point in points:
                        progress(point, None)
                        yield servers.measure(point, functools.partial(progress, point))
