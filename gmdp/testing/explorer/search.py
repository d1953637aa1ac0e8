"""Looking for what does not hold, in installations drawn from seeds."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from ..simulator.failures import SimulationFailed
from .scenario import Scenario

#: Seeds that a process works on before it reports.
_CHUNK = 50


class Report(NamedTuple):
    """What came of some seeds."""

    failures: list[str]
    #: Virtual seconds, and things that happened in them.
    seconds: float
    steps: int


def run_seeds(seeds: Sequence[int]) -> Report:
    """Run the scenario of each seed."""
    failures, seconds, steps = [], 0.0, 0
    for seed in seeds:
        scenario = Scenario(seed)
        try:
            scenario.run()
        except SimulationFailed as error:
            failures.append(f"{error} (a scenario of the kind {scenario.kind!r})")
        seconds += scenario.simulation.now
        steps += scenario.simulation.schedule.steps
    return Report(failures, seconds, steps)


def reports(seeds: range, jobs: int) -> Iterator[Report]:
    """Run many seeds, in several processes."""
    chunks = [seeds[at : at + _CHUNK] for at in range(0, len(seeds), _CHUNK)]
    if jobs == 1:
        yield from map(run_seeds, chunks)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(run_seeds, chunks)
