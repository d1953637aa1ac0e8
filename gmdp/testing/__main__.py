"""The command line: ``python -m gmdp.testing``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from time import perf_counter

from .explorer.scenario import Scenario
from .explorer.search import run_in_processes
from .simulator.failures import SimulationFailed


def replay(seed: int) -> int:
    """Run one seed, and print each thing that happens; returns the exit status."""
    try:
        Scenario(seed, trace=_print).run()
    except SimulationFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _print(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:  # the reader, such as ``head``, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def search(seeds: range, jobs: int) -> int:
    """Run many seeds in several processes, and print those that fail; returns the exit status."""
    began = perf_counter()
    seconds, steps, failed = 0.0, 0, 0
    for report in run_in_processes(seeds, jobs):
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
        print("python -m gmdp.testing --replay SEED shows a failure step by step", file=sys.stderr)
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m gmdp.testing",
        description="Draw installations of gmdp and faults from seeds, and check all invariants after each step. "
        "Everything happens in virtual time and in memory.",
    )
    parser.add_argument("--seeds", type=int, default=1000, help="number of seeds (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: %(default)s)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="number of processes (default: one per CPU)"
    )
    parser.add_argument("--replay", type=int, metavar="SEED", help="run one seed and print each thing that happens")
    options = parser.parse_args(arguments)
    if options.seeds < 1 or options.jobs < 1:
        parser.error("--seeds and --jobs must be at least 1")
    if options.replay is not None:
        return replay(options.replay)
    return search(range(options.first, options.first + options.seeds), options.jobs)


if __name__ == "__main__":
    sys.exit(main())
