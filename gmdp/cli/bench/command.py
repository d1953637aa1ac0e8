"""The command itself: progress while it runs, and what it prints at the end."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ...exceptions import ConfigurationError
from ...protocol.dialects import VERSIONS
from ..spelling import Command
from ..terminal import progress_bar
from . import report
from .load import Point
from .measuring import Plan, Result
from .stacks import GMDP, GMDP_STACK, Stack


def _refuse_compare(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        raise ConfigurationError(
            "--compare has moved: the script bench/compare.py in gmdp's sources measures other stacks"
        )


@click.command(cls=Command)
@click.option("--broker", metavar="ENDPOINT", help="A broker that runs already.  [default: one is started]")
@click.option(
    "--size", "sizes", type=click.IntRange(0), multiple=True, default=(64,), show_default=True, help="Bytes of a body."
)
@click.option(
    "--concurrency",
    "concurrencies",
    type=click.IntRange(1),
    multiple=True,
    default=(1, 32, 128),
    show_default=True,
    help="Greenlets that call, all through one client.",
)
@click.option(
    "--mdp", "versions", type=click.Choice(sorted(VERSIONS)), multiple=True, default=("0.2",), show_default=True
)
@click.option("--seconds", type=click.FloatRange(0.1), default=5.0, show_default=True, help="How long to measure.")
@click.option("--warm-up", type=click.FloatRange(0), default=1.0, show_default=True, help="Seconds before that.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.1),
    default=10.0,
    show_default=True,
    help="Seconds after which a call has failed.",
)
@click.option("--worker-processes", type=click.IntRange(1), default=1, show_default=True)
@click.option("--worker-concurrency", type=click.IntRange(1), default=64, show_default=True)
@click.option("--compare", is_flag=True, hidden=True, expose_value=False, callback=_refuse_compare)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), metavar="FILE.png|svg", help="Draw a picture.")
def bench(**options: Any) -> int:
    """Measure how fast broker, worker and client are on this machine.

    Each is a process of its own; the worker sends back what it gets.  Options that may be
    given several times multiply.  Exit status 1 if calls failed.  The script
    bench/compare.py in gmdp's sources measures other stacks besides gmdp.
    """
    return measure({GMDP: GMDP_STACK}, **options)


def measure(stacks: Mapping[str, Stack], *, as_json: bool, picture: Path | None, **plan: Any) -> int:
    """Measure `stacks` and print the results.  Returns the exit status.

    `plan`: the other fields of `Plan`.  Raises ConfigurationError or MDPError if they cannot
    be measured.
    """
    if picture is not None:
        report.check_picture(picture)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no process stays behind
    results = _measure_all(Plan(stacks, **plan))
    rows = report.rows(results)
    if picture is not None:
        report.plot(rows, picture)
    if as_json:
        click.echo(json.dumps({"machine": report.machine(), "results": rows}, indent=1))
    else:
        report.print_rows(rows)
    failed = any(result.measured.errors or not result.measured.requests for result in results)
    return 1 if failed else 0


def _measure_all(plan: Plan) -> list[Result]:
    console = Console(stderr=True)
    bar = progress_bar(console, disable=not console.is_terminal)
    results = []
    with bar:
        task = bar.add_task("starting", total=plan.total())

        def progress(point: Point, requests: int | None) -> None:
            callers = "1 caller" if point.concurrency == 1 else f"{point.concurrency} callers"
            name = f"{point.stack} {point.mdp}".strip() + f", {point.size} bytes, {callers}"
            bar.update(task, description=name if requests is None else f"{name}: {requests:,} requests")
            if requests is None and not console.is_terminal:
                click.echo(name, err=True)

        for result in plan.measure(progress):
            results.append(result)
            bar.advance(task)
    return results
