"""The command itself: progress while it runs, and what it prints at the end."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from . import report
from .load import Point
from .measuring import Plan, Result
from .stacks import STACKS


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
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
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
