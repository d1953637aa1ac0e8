"""The command ``gmdp``: what must be settled before anything is imported."""

from __future__ import annotations

import os
import signal
import sys

#: True if the package `gmdp` is not to import all that is public; the package reads it.
lean = False


def main() -> None:
    """Run the command line and exit."""
    global lean
    lean = True
    # A closed standard stream leaves its number to the next file that is opened.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    # While modules are imported, an interrupt ends the process without a traceback.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    import gmdp.cli as cli  # "from gmdp import" would import all that is public

    run = cli.load(sys.argv[1:])
    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main(run)
