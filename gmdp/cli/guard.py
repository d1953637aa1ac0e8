"""A process that ends the commands of a worker, however the worker has ended.

``gmdp worker --exec`` runs this file as a script: see :mod:`gmdp.cli.commands`.  It imports
nothing of gmdp's, so that it starts fast and holds little memory.

Its standard input is a pipe to which the worker alone writes.  A line ``+NUMBER`` tells that the
process group NUMBER runs a command; ``-NUMBER`` tells that the command has ended.  At the end of
file the worker has ended; each group that is left is killed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable


def collect(lines: Iterable[bytes]) -> set[int]:
    """Return the process groups that are left at the end of `lines`."""
    groups: set[int] = set()
    for line in lines:
        (groups.add if line.startswith(b"+") else groups.discard)(int(line[1:]))
    return groups


def main() -> None:
    """Read standard input to its end, and kill the groups that are left."""
    with open(0, "rb") as lines:
        groups = collect(lines)
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except OSError:
            pass  # it has ended, or changed its user


if __name__ == "__main__":
    main()
