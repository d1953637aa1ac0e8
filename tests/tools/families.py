"""Commands that start a process of their own, and the sign that all their processes have ended."""

import contextlib
import os
import shlex
import signal
import sys

from waiting import wait_until

_CODE = """
import os, sys, time
with open(sys.argv[1], "w") as fifo:
    os.set_inheritable(fifo.fileno(), True)
    first = os.getpid()
    child = os.fork()
    if not child:
        if sys.argv[3] == "leaves":
            os.setsid()
        os.write(fifo.fileno(), b"%d\\n" % os.getpid())
    if not child or sys.argv[2] == "stays":
        time.sleep(1000)
"""


class Family:
    """A command whose first process starts another; both run until they are killed.

    Args:
        folder: where its FIFO is made.
        first: "stays", or "ends" at once.
        second: "stays" in the process group, or "leaves" it.

    At the end of a ``with``, its processes are killed.
    """

    def __init__(self, folder, first="stays", second="stays"):
        fifo = folder / "fifo"
        os.mkfifo(fifo)
        #: The command line.
        self.command = shlex.join([sys.executable, "-I", "-S", "-c", _CODE, str(fifo), first, second])
        self._fifo = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        self._pids = []

    def _read(self):
        try:
            return os.read(self._fifo, 100)
        except BlockingIOError:
            return None

    def started(self):
        """Wait until both processes run."""
        self._pids = list(map(int, wait_until(self._read).split()))

    def runs(self):
        """Whether a process of the family runs."""
        return self._read() is None

    def ended(self):
        """Wait until all processes have ended: nobody holds the FIFO any more."""
        wait_until(lambda: not self.runs(), timeout=10, message=lambda: "the command's processes live on")
        self._pids = []

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os.close(self._fifo)
