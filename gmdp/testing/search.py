"""Looking for what does not hold, in installations drawn from seeds: ``python -m gmdp.testing``."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from time import perf_counter
from typing import NamedTuple

from .scenario import Scenario
from .simulation import SimulationFailed

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


def replay(seed: int) -> int:
    """Run one seed and print everything that happens, step by step; returns the exit status."""
    try:
        Scenario(seed, trace=_print).run()
    except SimulationFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _print(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def search(seeds: range, jobs: int) -> int:
    """Run many seeds, in several processes; returns the exit status."""
    began = perf_counter()
    seconds, steps, failed = 0.0, 0, 0
    for report in _reports(seeds, jobs):
        for failure in report.failures:
            _print(failure)
        failed += len(report.failures)
        seconds += report.seconds
        steps += report.steps
    took = perf_counter() - began
    print(
        f"{len(seeds)} seeds, {failed} failures, {steps} steps, {seconds:.0f} virtual seconds "
        f"in {took:.1f} ({seconds / took:.0f} times real time)"
    )
    if failed:
        print("python -m gmdp.testing --replay SEED shows one of them step by step", file=sys.stderr)
    return 1 if failed else 0


def _reports(seeds: range, jobs: int) -> Iterator[Report]:
    chunks = [seeds[at : at + _CHUNK] for at in range(0, len(seeds), _CHUNK)]
    if jobs == 1:
        yield from map(run_seeds, chunks)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(run_seeds, chunks)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m gmdp.testing",
        description="Draw installations of gmdp and misfortunes from seeds, and check that everything holds "
        "that has to.  All of it happens in virtual time and in memory.",
    )
    parser.add_argument("--seeds", type=int, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first one (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per CPU)")
    parser.add_argument("--replay", type=int, metavar="SEED", help="run one seed and show everything that happens")
    given = parser.parse_args(arguments)
    if given.seeds < 1 or given.jobs < 1:
        parser.error("--seeds and --jobs must be at least 1")
    if given.replay is not None:
        return replay(given.replay)
    return search(range(given.first, given.first + given.seeds), given.jobs)
