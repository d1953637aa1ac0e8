"""The processes of ``gmdp worker --exec``: a command for each request, and a guard over all of them.

The rules:

* A command has a session of its own, thus a process group.  Signals of the worker's terminal do
  not reach it.  The group's number is that of the command's first process.
* When a handler is killed, all processes of its command's group are killed.
* When the worker's process ends, the guard kills the groups that run.  The end of a pipe
  tells the guard, so it does not matter how the worker ended: SIGKILL, a second signal, no memory.
* The command tells the guard its group before it runs the program.  No moment is
  left in which a command runs that the guard does not know.
* A command that has ended by itself may leave processes behind.  They live on, as a shell's do.
* A process that leaves the group (``setsid``, a daemon, a shell's job control) is out of reach.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from gevent import subprocess
from gevent.lock import BoundedSemaphore

from . import guard


class Guard:
    """The guard's process, seen from the worker.  If it was ended, :meth:`ensure` starts another."""

    def __init__(self) -> None:
        self._process: Any = None
        #: The end of the guard's pipe that is written to.
        self._pipe = -1
        #: The process groups of running commands.
        self._groups: set[int] = set()
        self._starting = BoundedSemaphore()

    def ensure(self) -> None:
        """Start the guard unless it runs.  Raises OSError if it cannot be started."""
        with self._starting:  # starting a process waits
            if self._process is None or self._process.returncode is not None:
                self._start()

    def _start(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
        reading, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)  # a guard that is stopped must not stop the worker
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
                preexec_fn=_ignore_signals,
            )
        finally:
            os.close(reading)
        for group in self._groups:
            self._write(b"+%d\n" % group)

    def enter(self) -> None:
        """In the child that becomes a command: make it a group, and tell the guard."""
        os.setsid()
        self._write(b"+%d\n" % os.getpid())

    def add(self, group: int) -> None:
        """Note that the command of `group` runs."""
        self._groups.add(group)
        self._write(b"+%d\n" % group)  # again: the guard may be another one by now

    def remove(self, group: int) -> None:
        """Note that the command of `group` has ended."""
        self._groups.discard(group)
        self._write(b"-%d\n" % group)

    def _write(self, line: bytes) -> None:
        try:
            os.write(self._pipe, line)
        except OSError:
            pass  # the guard was ended, and the next request starts another; or it was stopped


def _ignore_signals() -> None:
    # A service manager signals all processes of a service.  The guard ignores that, and ends after the worker.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class Command(subprocess.Popen):  # type: ignore[misc]
    """A running command, known to a guard.  Raises OSError if it cannot be run.

    Args:
        arguments: the program and its arguments.
        guard: the guard, which runs.
    """

    def __init__(self, arguments: Sequence[str], guard: Guard) -> None:
        pipe = subprocess.PIPE
        try:
            super().__init__(arguments, bufsize=0, stdin=pipe, stdout=pipe, preexec_fn=guard.enter)
        except BaseException:
            # The constructor waits until the program runs, and the handler may be killed there.
            if self.pid is not None:
                self.kill_group()
                self.wait()
                guard.remove(self.pid)
            raise
        guard.add(self.pid)

    def kill_group(self) -> None:
        """Kill all processes of the command that have not left its group."""
        self.kill()  # it may not have a group yet
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except OSError:
            pass  # they have ended
