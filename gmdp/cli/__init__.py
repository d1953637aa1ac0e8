"""The command line: ``gmdp``, also ``python -m gmdp``."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence

#: What the extra ``cli`` installs.
EXTRA = ("click", "rich", "tomli")


def load(arguments: Sequence[str]) -> Callable[[Sequence[str]], int]:
    """Import what the command line `arguments` needs; returns the function that runs it.

    Exits with one line if the extra ``cli`` is not installed.
    """
    try:
        from .group import import_command, run

        if arguments:
            import_command(arguments[0])
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        sys.exit("gmdp: the command line needs more packages: pip install 'gmdp[cli]'")
    return run


def main(run: Callable[[Sequence[str]], int] | None = None) -> None:
    """Run the command line and exit; `run` is what :func:`load` returned, if it was called before."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # not every terminal has every letter
    arguments = sys.argv[1:]
    status = (run or load(arguments))(arguments)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # Python flushes once more at exit; that flush must not fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not status and not isinstance(error, BrokenPipeError):
            print(f"gmdp: standard output: {error.strerror}", file=sys.stderr)
        status = status or 1
    sys.exit(status)
