"""``gmdp worker --processes N``: a parent that keeps N worker processes running.

The rules:

* The parent holds no socket of gmdp and imports no handler.  A child is a new
  interpreter with the same command line, so a reload runs what is installed by then.
* The first child is started alone.  If it ends before it serves (no such handler, a
  wrong option), that is the end of the parent too, with its line and its exit status.
* A child that ends later is started again: see `Backoff`.
* Each child is at the other end of its standard input, a socket.  It says there that
  it serves, and that it is registered.  Whatever it hears there means that another has
  its place: it takes no new work, and ends when it has done what it has, however long
  that takes.  At the end of file, it stops as on SIGTERM, within the time that is given
  for that: so when it is told to, and when its parent has gone, however that went.
* SIGTERM and SIGINT stop all children, each of which finishes what it is doing; a
  second one kills them.  SIGHUP replaces one after another: the new one is registered
  before the old one is stopped, and where the old one's work takes long, the next one's
  turn comes meanwhile.
* Children have sessions of their own: what a terminal sends is for the parent alone.
  And a signal a child gets from others who stop all processes of a service (systemd
  does) is its first, not its second, for the parent sends none to one that serves.
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

import gevent
import gevent.socket
from gevent import subprocess
from gevent.event import Event

from ..exceptions import MDPError
from ..worker.worker import Worker
from .serving import until_registered

_log = logging.getLogger("gmdp.supervisor")

#: The hidden option of a child: see `Parent`.
UNTIL_EOF = "--until-eof"
#: Seconds before the second restart in a row (the first is at once); doubled each time.
FIRST_DELAY = 0.1
#: Seconds between restarts at most.
MOST_DELAY = 30.0
#: A process that ran for so many seconds is restarted at once again.
STEADY = 60.0
#: Seconds a replacement may take to be registered.
REGISTERING = 30.0
#: Seconds a replaced process is waited for before the next one is replaced.
REPLACED = 10.0
#: Seconds a process that was told to stop may take beyond its own limit.
BEYOND = 5.0
#: Seconds a killed process is waited for: the system may be unable to end it.
DYING = 5.0

#: What a child says: its ready line, later this; each with a NUL behind it.
_REGISTERED = b"registered"
_END = b"\0"


class Backoff:
    """When to start a process again."""

    def __init__(self) -> None:
        self._delay = 0.0

    def after(self, ran: float) -> float:
        """Seconds to wait before the next start, if the last one ran for `ran` seconds."""
        if ran >= STEADY:
            self._delay = 0.0
        delay = self._delay
        self._delay = min(max(2 * delay, FIRST_DELAY), MOST_DELAY)
        return delay


class Parent:
    """In a child: the parent, at the other end of what was standard input.

    What comes to be standard input is empty: handlers, and what these start, have
    nothing to do with the parent.
    """

    def __init__(self) -> None:
        self._socket = gevent.socket.socket(fileno=os.dup(0))
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        # Who sends it to all processes of this name means the parent.
        signal.signal(signal.SIGHUP, lambda number, frame: None)

    def ready(self, worker: Worker, line: str) -> None:
        """Say so; from now on, the worker stops when the parent says so, or has gone."""
        self._say(line.encode("utf-8", "surrogateescape"))
        gevent.spawn(self._report, worker)
        gevent.spawn(self._obey, worker)

    def _report(self, worker: Worker) -> None:
        until_registered(worker)
        self._say(_REGISTERED)

    def _obey(self, worker: Worker) -> None:
        try:
            while self._socket.recv(64):
                gevent.spawn(worker.stop, math.inf)
        except OSError:
            pass
        worker.stop()

    def _say(self, word: bytes) -> None:
        try:
            self._socket.sendall(word + _END)
        except OSError:
            pass  # it has gone, as `_obey` will see


class _Child:
    """One process.  Raises OSError if there can be none.  `news` is set when there are any."""

    def __init__(self, arguments: Sequence[str], news: Event) -> None:
        self._news = news
        #: The line it would have printed; None until it serves.
        self.line: str | None = None
        self.registered = False
        #: True once it is to end, and once it is to end soon.
        self.told = self.stopping = False
        #: Seconds it ran, once it has ended.
        self.ran = 0.0
        #: Set for what is waited for; `ended` comes with both others.
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
        self._process.rawlink(self._has_ended)

    def _listen(self) -> None:
        buffer = b""
        while data := self._receive():
            *words, buffer = (buffer + data).split(_END)
            for word in words:
                self._hear(word)

    def _receive(self) -> bytes:
        try:
            data: bytes = self._socket.recv(4096)
            return data
        except OSError:
            return b""

    def _hear(self, word: bytes) -> None:
        if self.line is None:
            self.line = word.decode("utf-8", "surrogateescape")
            self.serving.set()
        elif word == _REGISTERED:
            self.registered = True
            self.ready.set()
        self._news.set()

    def _has_ended(self, _: object) -> None:
        self.ran = monotonic() - self._began
        if self.told:
            _log.info("worker process %d %s", self.pid, self.how)
        for event in (self.serving, self.ready, self.ended, self._news):
            event.set()
        self._socket.close()

    @property
    def status(self) -> int | None:
        """Its exit status, or the negative number of the signal that ended it; None while it runs."""
        status: int | None = self._process.returncode
        return status

    @property
    def how(self) -> str:
        """How it ended, in words."""
        status = self.status
        if status is None or status >= 0:
            return f"ended with status {status}"
        try:
            return f"was ended by {signal.Signals(-status).name}"
        except ValueError:
            return f"was ended by signal {-status}"

    def retire(self) -> None:
        """Have it do what it has, however long that takes, and end."""
        if self.line is None:
            self.stop()
        elif not self.told and self.status is None:
            self.told = True
            _log.info("retiring worker process %d", self.pid)
            try:
                self._socket.send(b".")
            except OSError:
                pass  # it has gone

    def stop(self) -> None:
        """Have it finish what it is doing, within its limit, and end."""
        if self.stopping or self.status is not None:
            return
        self.told = self.stopping = True
        _log.info("stopping worker process %d", self.pid)
        if self.line is None:
            self._send(signal.SIGTERM)  # there is nothing to finish, and nobody who listens
        else:
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it has gone

    def kill(self) -> None:
        """End it at once."""
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        try:
            self._process.send_signal(number)
        except ProcessLookupError:
            pass


def _ignore_hangups() -> None:
    # Until it can tell what they mean: see Parent.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


class _Place:
    """One of the N; `child` is the process that has it, or had it."""

    def __init__(self, child: _Child) -> None:
        self.child = child
        self.backoff = Backoff()
        #: Set when a reload has put another child here.
        self.replaced = Event()

    def replace(self, new: _Child) -> _Child:
        """Let `new` be the one; returns the one before."""
        old, self.child = self.child, new
        self.backoff = Backoff()
        self.replaced.set()
        return old


class Supervisor:
    """The parent of `count` worker processes with the command line `arguments`.

    One greenlet, the caller of `run`, starts, reloads and ends; one for each place
    starts its process again.  All waiting ends when the end is wanted.
    """

    def __init__(self, arguments: Sequence[str], count: int, stop_timeout: float) -> None:
        self._arguments = arguments
        self._count = count
        self._stopping = stop_timeout + BEYOND
        self._places: list[_Place] = []
        self._keepers: list[gevent.Greenlet] = []
        #: All processes that run, also those that are to come or go.
        self._children: set[_Child] = set()
        self._announced = False
        self._reload_wanted = False
        #: Set when there may be something to do.
        self._news = Event()
        #: Set by the first signal, and by a defect; and by the second signal.
        self._end, self._end_now = Event(), Event()
        self._status = 0
        self._defect: BaseException | None = None

    def run(self) -> int:
        """Run until a signal; returns the exit status.

        Raises MDPError or OSError if no process can be started.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            gevent.signal_handler(number, self._on_end, number)
        gevent.signal_handler(signal.SIGHUP, self._on_reload)
        try:
            if self._start_all():
                self._serve()
        finally:
            self._end.set()
            self._end_all()
        if self._defect is not None:
            raise self._defect
        return self._status

    # Signals

    def _on_end(self, number: int) -> None:
        if self._end.is_set():
            self._status = 128 + number
            self._end_now.set()
        self._end.set()

    def _on_reload(self) -> None:
        self._reload_wanted = True
        self._news.set()

    # Waiting

    def _wait(self, *events: Event, timeout: float | None = None) -> bool:
        """Until one of `events` is set, or time is up; True if the end is wanted, whatever else happened."""
        gevent.wait([*events, self._end], timeout, count=1)
        ending: bool = self._end.is_set()
        return ending

    # Starting

    def _start(self) -> _Child:
        child = _Child(self._arguments, self._news)
        self._children.add(child)
        _log.info("started worker process %d", child.pid)
        return child

    def _start_all(self) -> bool:
        """Start the first, and if it serves, the others; False if that was the end."""
        first = self._start()
        if self._wait(first.serving):
            return False
        if first.line is None:
            status = first.status
            if status is None or status <= 0:
                raise MDPError(f"worker process {first.pid} {first.how} before it served")
            self._status = status  # it has said why
            return False
        for number in range(self._count):
            place = _Place(self._start() if number else first)
            self._places.append(place)
            keeper = gevent.spawn(self._keep, place)
            keeper.link_exception(self._keeper_died)
            self._keepers.append(keeper)
        return True

    def _keeper_died(self, keeper: gevent.Greenlet) -> None:
        self._defect = keeper.exception
        self._end.set()

    def _keep(self, place: _Place) -> None:
        """Start the process of `place` again, whenever it ends."""
        while not self._wait(place.child.ended, place.replaced):
            place.replaced.clear()
            child = place.child
            if not child.ended.is_set():
                continue
            self._children.discard(child)
            what, ran = f"worker process {child.pid} {child.how}", child.ran
            while place.child is child:
                delay = place.backoff.after(ran)
                _log.warning("%s; starting another %s", what, f"in {delay:g} s" if delay else "now")
                if self._end.wait(delay):
                    return
                if place.child is not child:
                    break  # a reload was faster
                try:
                    new = self._start()
                except OSError as error:
                    what, ran = f"cannot start a worker process: {error}", 0.0
                    continue
                if place.child is child:
                    place.child = new
                else:
                    new.stop()  # a reload was faster while it started
                    self._keep_book_of(new)

    # Serving

    def _serve(self) -> None:
        """Announce what there is to announce, reload when that is wanted."""
        while not self._wait(self._news):
            self._news.clear()
            if not self._announced and all(place.child.registered for place in self._places):
                self._announced = True
                several = "process" if self._count == 1 else "processes"
                print(f"{self._places[0].child.line} ({self._count} {several})", flush=True)
            if self._reload_wanted:
                self._reload_wanted = False
                self._reload()

    def _reload(self) -> None:
        """Replace one after another; if one cannot be, leave it and the rest as they are."""
        _log.info("reloading %d worker processes", self._count)
        for place in self._places:
            try:
                new = self._start()
            except OSError as error:
                _log.error("reload given up: cannot start a worker process: %s", error)
                return
            if self._wait(new.ready, timeout=REGISTERING):
                return
            if new.ended.is_set() or not new.registered:
                how = new.how if new.ended.is_set() else f"was not registered within {REGISTERING:g} s"
                _log.error("reload given up: the new worker process %d %s", new.pid, how)
                self._stop(new)
                return
            old = place.replace(new)
            old.retire()
            if self._wait(old.ended, timeout=REPLACED):
                return
            if old.status is None:
                _log.info("worker process %d ends when it has done what it has", old.pid)
            self._keep_book_of(old)
        _log.info("reloaded")

    def _stop(self, child: _Child) -> None:
        """Stop `child` and wait for its end, or for the end of all."""
        child.stop()
        if self._wait(child.ended, timeout=self._stopping):
            return
        if child.status is None:
            self._give_up(child)
        self._keep_book_of(child)

    def _keep_book_of(self, child: _Child) -> None:
        """Forget `child` once it has ended."""
        child.ended.rawlink(lambda _: self._children.discard(child))

    # Ending

    def _give_up(self, child: _Child) -> None:
        _log.warning("worker process %d did not stop within %g s: killing it", child.pid, self._stopping)
        child.kill()

    def _end_all(self) -> None:
        """Stop all processes, wait for them; kill those that outlive their time, or a second signal."""
        gevent.joinall(self._keepers)  # so that nothing is started any more
        children = list(self._children)  # some leave it when they end
        for child in children:
            child.stop()
        until = monotonic() + self._stopping
        for child in children:
            gevent.wait([child.ended, self._end_now], max(0.0, until - monotonic()), count=1)
        left = [child for child in children if child.status is None]
        for child in left:
            if self._end_now.is_set():
                child.kill()
            else:
                self._give_up(child)
        gevent.wait([child.ended for child in left], DYING)


def supervise(arguments: Sequence[str], count: int, stop_timeout: float) -> int:
    """Run `count` processes of ``gmdp worker`` with `arguments`; returns the exit status.

    `stop_timeout`: seconds each of them gives its work when it is to stop.
    """
    return Supervisor(arguments, count, stop_timeout).run()
