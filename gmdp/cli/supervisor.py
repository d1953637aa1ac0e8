"""``gmdp worker --processes N``: a parent that keeps N worker processes running.

The rules:

* The parent holds no socket of gmdp and imports no handler.  A child is a new
  interpreter with the same command line, so a reload runs the code that is installed by then.
* The first child is started alone.  If it ends before it serves (there is no such handler,
  an option is wrong), the parent ends, too, with the child's line and exit status.
* A child that ends later is started again, after a delay: see `Backoff`.
* A child's standard input is a socket; the parent has the other end.  On it the child says
  that it serves, and later that it is registered.
* Any byte from the parent means that another child has taken this child's place.  This child
  then takes no new work, and ends when its work is done, however long that takes.
* At the end of file, a child stops as on SIGTERM, within the time given for that.  The parent
  ends the file to stop a child; if the parent dies, the system does.
* SIGTERM and SIGINT stop all children, each of which finishes its running work; a second
  one kills them.  SIGHUP replaces one child after another.  The new child is registered
  before the old one is retired.  Where the old one's work takes long, the reload goes on meanwhile.
* Children have sessions of their own: a terminal's signals reach the parent alone.  Where
  a signal goes to all processes of a service (systemd does so), a child gets the signal
  once: from the system, not from the parent too.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING

import gevent
import gevent.socket
from gevent import subprocess
from gevent.event import Event

from ..exceptions import MDPError
from .serving import wait_until_registered

if TYPE_CHECKING:
    from ..worker.worker import Worker

_log = logging.getLogger("gmdp.supervisor")

#: The hidden option of a child: see `Parent`.
UNTIL_EOF = "--until-eof"
#: Seconds before the second restart in a row (the first is at once); doubled each time.
FIRST_DELAY = 0.1
#: Seconds between restarts at most.
MAX_DELAY = 30.0
#: Seconds after which a process counts as steady: its next restart is at once again.
STEADY_AFTER = 60.0
#: Seconds that a replacement may take to be registered.
REGISTER_TIMEOUT = 30.0
#: Seconds that the reload waits for a retired process to end, before it replaces the next one.
RETIRE_TIMEOUT = 10.0
#: Seconds that a stopping process may take beyond its own limit.
STOP_GRACE = 5.0
#: Seconds that the parent waits for killed processes: the system may be unable to end one.
KILL_TIMEOUT = 5.0

#: A child sends two messages, each ending with a NUL: the line that it would print, and later this word.
_REGISTERED = b"registered"
_NUL = b"\0"


class Backoff:
    """How long to wait before a process is started again: not at all, then longer each time."""

    def __init__(self) -> None:
        self._delay = 0.0

    def after(self, ran: float) -> float:
        """Return the seconds to wait before the next start; the last process ran for `ran` seconds."""
        if ran >= STEADY_AFTER:
            self._delay = 0.0
        delay = self._delay
        self._delay = min(max(2 * delay, FIRST_DELAY), MAX_DELAY)
        return delay


class Parent:
    """In a child: the parent, at the other end of the socket that was standard input.

    Standard input becomes an empty file, for handlers and the processes they start.
    """

    def __init__(self) -> None:
        self._socket = gevent.socket.socket(fileno=os.dup(0))
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        # A SIGHUP that goes to all processes of this name is meant for the parent.
        signal.signal(signal.SIGHUP, lambda number, frame: None)

    def announce(self, worker: Worker, line: str) -> None:
        """Tell the parent that `worker` serves; from now on the worker obeys the parent."""
        self._send(line.encode("utf-8", "surrogateescape"))
        gevent.spawn(self._report_registered, worker)
        gevent.spawn(self._stop_on_word, worker)

    def _report_registered(self, worker: Worker) -> None:
        wait_until_registered(worker)
        self._send(_REGISTERED)

    def _stop_on_word(self, worker: Worker) -> None:
        """Stop `worker`: at a byte without a limit of time, at the end of file within its own limit."""
        try:
            while self._socket.recv(64):
                gevent.spawn(worker.stop, math.inf)
        except OSError:
            pass
        worker.stop()

    def _send(self, word: bytes) -> None:
        try:
            self._socket.sendall(word + _NUL)
        except OSError:
            pass  # the parent has gone; `_stop_on_word` sees that, too


class _Child:
    """One worker process, seen from the parent.  `changed` is set whenever its state changes.

    The constructor raises OSError if the process cannot be started.
    """

    def __init__(self, arguments: Sequence[str], changed: Event) -> None:
        self._changed = changed
        #: The line it would have printed; None until the process serves.
        self.line: str | None = None
        self.registered = False
        #: True once the process was asked to end: by `retire` or `stop`; by `stop` alone.
        self.ending = self.stopping = False
        #: Seconds the process ran, once it has ended.
        self.ran = 0.0
        #: Set when the process serves, when it is registered, and when it has ended.  The end sets all three.
        self.serving, self.ready, self.ended = Event(), Event(), Event()
        self._socket, theirs = gevent.socket.socketpair()
        self._began = monotonic()
        command = [sys.executable, "-m", "gmdp", "worker", UNTIL_EOF, *arguments]
        try:
            self._process = subprocess.Popen(command, stdin=theirs, start_new_session=True, preexec_fn=_ignore_hangups)
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()
        self.pid: int = self._process.pid
        self._listener = gevent.spawn(self._listen)
        self._process.rawlink(self._on_end)

    def _listen(self) -> None:
        buffer = b""
        while data := self._receive():
            *words, buffer = (buffer + data).split(_NUL)
            for word in words:
                self._on_word(word)

    def _receive(self) -> bytes:
        try:
            data: bytes = self._socket.recv(4096)
            return data
        except OSError:
            return b""

    def _on_word(self, word: bytes) -> None:
        if self.line is None:
            self.line = word.decode("utf-8", "surrogateescape")
            self.serving.set()
        elif word == _REGISTERED:
            self.registered = True
            self.ready.set()
        self._changed.set()

    def _on_end(self, _: object) -> None:
        self.ran = monotonic() - self._began
        if self.ending:
            _log.info("worker process %d %s", self.pid, self.end_description)
        for event in (self.serving, self.ready, self.ended, self._changed):
            event.set()
        self._socket.close()

    @property
    def status(self) -> int | None:
        """The exit status, or the negative number of the signal that ended the process; None while it runs."""
        status: int | None = self._process.returncode
        return status

    @property
    def end_description(self) -> str:
        """How the process ended, in words."""
        status = self.status
        if status is None or status >= 0:
            return f"ended with status {status}"
        try:
            return f"was ended by {signal.Signals(-status).name}"
        except ValueError:
            return f"was ended by signal {-status}"

    def retire(self) -> None:
        """Let the process finish all its work, however long that takes, and end."""
        if self.line is None:
            self.stop()
        elif not self.ending and self.status is None:
            self.ending = True
            _log.info("retiring worker process %d", self.pid)
            try:
                self._socket.send(b".")
            except OSError:
                pass  # the process has gone

    def stop(self) -> None:
        """Let the process finish its running work within its limit of time, and end."""
        if self.stopping or self.status is not None:
            return
        self.ending = self.stopping = True
        _log.info("stopping worker process %d", self.pid)
        if self.line is None:
            self._send_signal(signal.SIGTERM)  # it has no work, and does not read the socket yet
        else:
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the process has gone

    def kill(self) -> None:
        """Kill the process."""
        self._send_signal(signal.SIGKILL)

    def _send_signal(self, number: int) -> None:
        try:
            self._process.send_signal(number)
        except ProcessLookupError:
            pass


def _ignore_hangups() -> None:
    # Until the child handles them itself: see `Parent`.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


class _Place:
    """One of the N places; `child` is the process in it, or the last process that was."""

    def __init__(self, child: _Child) -> None:
        self.child = child
        self.backoff = Backoff()
        #: Set when a reload has put another child here.
        self.replaced = Event()

    def replace(self, new: _Child) -> _Child:
        """Put `new` here; returns the child before it."""
        old, self.child = self.child, new
        self.backoff = Backoff()
        self.replaced.set()
        return old


class Supervisor:
    """The parent of `count` worker processes with the command line `arguments`.

    One greenlet, the caller of `run`, starts, reloads and ends.  Each place has a greenlet, its
    keeper, that starts the place's process again.  All waiting ends when a signal ends the parent.
    """

    def __init__(self, arguments: Sequence[str], count: int, stop_timeout: float) -> None:
        self._arguments = arguments
        self._count = count
        self._stop_limit = stop_timeout + STOP_GRACE
        self._places: list[_Place] = []
        self._keepers: list[gevent.Greenlet] = []
        #: All processes that run, including those that have no place yet, or no longer.
        self._children: set[_Child] = set()
        self._announced = False
        self._reload_wanted = False
        #: Set when the state of a child has changed, or a reload is wanted.
        self._changed = Event()
        #: Set by the first signal, and by a keeper's error; set by the second signal.
        self._stop_wanted, self._kill_wanted = Event(), Event()
        self._status = 0
        self._keeper_error: BaseException | None = None

    def run(self) -> int:
        """Run until a signal; returns the exit status.

        Raises MDPError or OSError if no process can be started.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            gevent.signal_handler(number, self._on_stop_signal, number)
        gevent.signal_handler(signal.SIGHUP, self._on_hangup)
        try:
            if self._start_all():
                self._serve()
        finally:
            self._stop_wanted.set()
            self._stop_all()
        if self._keeper_error is not None:
            raise self._keeper_error
        return self._status

    # Signals

    def _on_stop_signal(self, number: int) -> None:
        if self._stop_wanted.is_set():
            self._status = 128 + number
            self._kill_wanted.set()
        self._stop_wanted.set()

    def _on_hangup(self) -> None:
        self._reload_wanted = True
        self._changed.set()

    # Waiting

    def _wait(self, *events: Event, timeout: float | None = None) -> bool:
        """Wait until one of `events` is set, or time is up.  Returns True if the parent must stop."""
        gevent.wait([*events, self._stop_wanted], timeout, count=1)
        stopping: bool = self._stop_wanted.is_set()
        return stopping

    # Starting

    def _start(self) -> _Child:
        child = _Child(self._arguments, self._changed)
        self._children.add(child)
        _log.info("started worker process %d", child.pid)
        return child

    def _start_all(self) -> bool:
        """Start the first process and, once it serves, the others.  Returns False if the parent has to end."""
        first = self._start()
        if self._wait(first.serving):
            return False
        if first.line is None:
            status = first.status
            if status is None or status <= 0:
                raise MDPError(f"worker process {first.pid} {first.end_description} before it served")
            self._status = status  # the process has printed why
            return False
        for number in range(self._count):
            place = _Place(self._start() if number else first)
            self._places.append(place)
            keeper = gevent.spawn(self._keep_running, place)
            keeper.link_exception(self._on_keeper_died)
            self._keepers.append(keeper)
        return True

    def _on_keeper_died(self, keeper: gevent.Greenlet) -> None:
        self._keeper_error = keeper.exception
        self._stop_wanted.set()

    def _keep_running(self, place: _Place) -> None:
        """Start the process of `place` again, whenever it ends."""
        while not self._wait(place.child.ended, place.replaced):
            place.replaced.clear()
            child = place.child
            if not child.ended.is_set():
                continue
            self._children.discard(child)
            reason, ran = f"worker process {child.pid} {child.end_description}", child.ran
            while place.child is child:
                delay = place.backoff.after(ran)
                _log.warning("%s; starting another %s", reason, f"in {delay:g} s" if delay else "now")
                if self._stop_wanted.wait(delay):
                    return
                if place.child is not child:
                    break  # a reload was faster
                try:
                    new = self._start()
                except OSError as error:
                    reason, ran = f"cannot start a worker process: {error}", 0.0
                    continue
                if place.child is child:
                    place.child = new
                else:
                    new.stop()  # a reload was faster while it started
                    self._forget_when_ended(new)

    # Serving

    def _serve(self) -> None:
        """Announce once that all processes are registered, and reload on SIGHUP, until the parent must stop."""
        while not self._wait(self._changed):
            self._changed.clear()
            if not self._announced and all(place.child.registered for place in self._places):
                self._announced = True
                noun = "process" if self._count == 1 else "processes"
                print(f"{self._places[0].child.line} ({self._count} {noun})", flush=True)
            if self._reload_wanted:
                self._reload_wanted = False
                self._reload()

    def _reload(self) -> None:
        """Replace one process after another; where that fails, keep the old process and the rest as they are."""
        _log.info("reloading %d worker processes", self._count)
        for place in self._places:
            try:
                new = self._start()
            except OSError as error:
                _log.error("reload given up: cannot start a worker process: %s", error)
                return
            if self._wait(new.ready, timeout=REGISTER_TIMEOUT):
                return
            if new.ended.is_set() or not new.registered:
                obstacle = (
                    new.end_description if new.ended.is_set() else f"was not registered within {REGISTER_TIMEOUT:g} s"
                )
                _log.error("reload given up: the new worker process %d %s", new.pid, obstacle)
                self._stop(new)
                return
            old = place.replace(new)
            old.retire()
            if self._wait(old.ended, timeout=RETIRE_TIMEOUT):
                return
            if old.status is None:
                _log.info("worker process %d ends when its work is done", old.pid)
            self._forget_when_ended(old)
        _log.info("reloaded")

    def _stop(self, child: _Child) -> None:
        """Stop `child` and wait until it has ended, or the parent must stop."""
        child.stop()
        if self._wait(child.ended, timeout=self._stop_limit):
            return
        if child.status is None:
            self._kill_late(child)
        self._forget_when_ended(child)

    def _forget_when_ended(self, child: _Child) -> None:
        """Take `child` off the list of processes once it has ended."""
        child.ended.rawlink(lambda _: self._children.discard(child))

    # Ending

    def _kill_late(self, child: _Child) -> None:
        _log.warning("worker process %d did not stop within %g s: killing it", child.pid, self._stop_limit)
        child.kill()

    def _stop_all(self) -> None:
        """Stop all processes and wait for them; kill those that outlive their time, or a second signal."""
        gevent.joinall(self._keepers)  # after this, nothing is started any more
        children = list(self._children)  # a child leaves the set when it ends
        for child in children:
            child.stop()
        until = monotonic() + self._stop_limit
        for child in children:
            gevent.wait([child.ended, self._kill_wanted], max(0.0, until - monotonic()), count=1)
        late = [child for child in children if child.status is None]
        for child in late:
            if self._kill_wanted.is_set():
                child.kill()
            else:
                self._kill_late(child)
        gevent.wait([child.ended for child in late], KILL_TIMEOUT)


def supervise(arguments: Sequence[str], count: int, stop_timeout: float) -> int:
    """Run `count` processes of ``gmdp worker`` with `arguments`; returns the exit status.

    `stop_timeout`: seconds each process gives its running work after a signal to stop.
    """
    return Supervisor(arguments, count, stop_timeout).run()
