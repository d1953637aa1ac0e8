"""The command line: ``gmdp``, also ``python -m gmdp``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence


def load() -> Callable[[Sequence[str]], int]:
    """What runs the command line; it needs the extra ``cli``, and exits where that is not there."""
    try:
        from .commands import run
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich", "tomli"):
            raise
        sys.exit("gmdp: the command line needs more packages: pip install 'gmdp[cli]'")
    return run


def main(run: Callable[[Sequence[str]], int] | None = None) -> None:
    """Run the command line (with what :func:`load` returned) and exit."""
    status = (run or load())(sys.argv[1:])
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # What cannot be written now cannot at exit either: let it go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not status and not isinstance(error, BrokenPipeError):
            print(f"gmdp: standard output: {error.strerror}", file=sys.stderr)
        status = status or 1
    sys.exit(status)
