"""The search for seeds whose scenario fails."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from ..simulator.failures import SimulationFailed
from .scenario import Scenario

#: Seeds that a process runs before it reports.
_CHUNK = 50


class Report(NamedTuple):
    """The results of some seeds."""

    #: A message for each seed that failed.
    failures: list[str]
    #: Virtual seconds that went by.
    seconds: float
    #: Steps that were made in them.
    steps: int


def run_seeds(seeds: Sequence[int]) -> Report:
    """Run the scenario of each seed, in this process."""
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


def run_in_processes(seeds: range, jobs: int) -> Iterator[Report]:
    """Run many seeds in `jobs` processes, and yield a report for every few of them."""
    chunks = [seeds[at : at + _CHUNK] for at in range(0, len(seeds), _CHUNK)]
    if jobs == 1:
        yield from map(run_seeds, chunks)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(run_seeds, chunks)
