"""The command ``gmdp``: what has to be so before anything is imported."""

from __future__ import annotations

import os
import signal


def main() -> None:
    """Run the command line and exit."""
    # Where a standard stream is closed, nothing else may come to have its number.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    # Until there is somebody to handle it, an interrupt ends the process without a traceback.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from gmdp import cli

    run = cli.load()
    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main(run)
