"""The command itself: progress while it runs, and what it prints at the end."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ...protocol.dialects import VERSIONS
from ..terminal import progress_bar
from . import report
from .load import Point
from .measuring import Plan, Result
from .stacks import STACKS


@click.command()
@click.option("--broker", "endpoint", metavar="ENDPOINT", help="A broker that runs already.  [default: one is started]")
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
@click.option("--compare", is_flag=True, help="Measure peers, too, if they are installed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), metavar="FILE.png|svg", help="Draw a picture.")
def bench(
    endpoint: str | None,
    sizes: tuple[int, ...],
    concurrencies: tuple[int, ...],
    versions: tuple[str, ...],
    seconds: float,
    warm_up: float,
    timeout: float,
    worker_processes: int,
    worker_concurrency: int,
    compare: bool,
    as_json: bool,
    picture: Path | None,
) -> int:
    """Measure how fast broker, worker and client are on this machine.

    Each is a process of its own; the worker sends back what it gets.  Options that may be
    given several times multiply.  With --compare, peers that are installed are measured in
    the same sitting: zerorpc (no broker in between), majortomo (a thread for each caller), NATS (asyncio),
    and libzmq's own proxy, which does nothing but forward: the limit.  Exit status 1 if
    calls failed.
    """
    return measure(
        compare=compare,
        as_json=as_json,
        picture=picture,
        broker=endpoint,
        sizes=sizes,
        concurrencies=concurrencies,
        versions=versions,
        seconds=seconds,
        warm_up=warm_up,
        timeout=timeout,
        worker_processes=worker_processes,
        worker_concurrency=worker_concurrency,
    )


def measure(*, compare: bool, as_json: bool, picture: Path | None, **plan: Any) -> int:
    """Measure, tell, and return the exit status; ConfigurationError or MDPError if it cannot be."""
    if picture is not None:
        report.check_picture(picture)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no process stays behind
    stacks = [name for name, stack in STACKS.items() if stack.ours or (compare and stack.installed)]
    results = _run(Plan(stacks, **plan))
    found = report.rows(results, compare)
    if picture is not None:
        report.plot(found, picture)
    if as_json:
        click.echo(json.dumps({"machine": report.machine(), "results": found}, indent=1))
    else:
        Console(width=None if sys.stdout.isatty() else 4000).print(report.table(found))
        missing = [name for name, stack in STACKS.items() if compare and not stack.installed]
        if missing:
            click.echo(f"not installed: {', '.join(missing)}", err=True)
    failed = any(result.measured.errors or not result.measured.requests for result in results)
    return 1 if failed else 0


def _run(plan: Plan) -> list[Result]:
    console = Console(stderr=True)
    bar = progress_bar(console, disable=not console.is_terminal)
    results = []
    with bar:
        task = bar.add_task("starting", total=plan.total())

        def progress(point: Point, requests: int | None) -> None:
            what = f"{point.stack} {point.mdp}".strip() + f", {point.size} bytes, {point.concurrency} callers"
            bar.update(task, description=what if requests is None else f"{what}: {requests:,} requests")
            if requests is None and not console.is_terminal:
                click.echo(what, err=True)

        for result in plan.measure(progress):
            results.append(result)
            bar.advance(task)
    return results
