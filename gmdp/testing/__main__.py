"""The command line: ``python -m gmdp.testing``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from time import perf_counter

from .explorer.scenario import Scenario
from .explorer.search import reports
from .simulator.failures import SimulationFailed


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
    for report in reports(seeds, jobs):
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


if __name__ == "__main__":
    sys.exit(main())
