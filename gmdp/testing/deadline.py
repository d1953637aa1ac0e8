"""A deadline that shows what every greenlet and thread was doing.

With or without pytest (whose plugin is :mod:`gmdp_pytest`)::

    from gmdp.testing.deadline import deadline

    with deadline(5.0):
        ...  # DeadlinePassed after five seconds, and all stacks on stderr
"""

from __future__ import annotations

import os
import signal
import sys
from _thread import TIMEOUT_MAX
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
import gevent.monkey
import gevent.util

from ..io.slots import allocate_lock, start_thread
from . import leaks

#: Seconds beyond a deadline until a hub that does not run counts as blocked.
GRACE = 2.0

#: Seconds that the exit of a ``with`` block may take.
_EXIT_TIME = 0.001

#: Not the patched function: the thread that watches the hub must not depend on the hub.
_get_ident = gevent.monkey.get_original("_thread", "get_ident")


class DeadlinePassed(BaseException):
    """A deadline passed; the message shows all greenlets.

    Like a ``gevent.Timeout``, this is no ``Exception``: a loop with ``except Exception``
    does not swallow it.
    """


class Deadline:
    """Raises an error in the greenlet that started the deadline, unless it is cancelled in time.

    First the stacks of all greenlets and threads go to ``sys.stderr``.  The deadline passes
    again each time `seconds` have gone by, in case the clean-up hangs as well.

    A blocked hub raises nothing.  Therefore a thread watches the hub.  When the hub has not
    run for :data:`GRACE` seconds beyond the deadline, the stacks of all threads go to
    ``sys.stderr``.  If the deadline was started in the main greenlet of the program, the main
    thread then gets SIGINT, as from Ctrl-C: the code that blocks the hub ends with
    KeyboardInterrupt, and :meth:`translate` returns the error for it.  Another SIGINT follows
    every :data:`GRACE` seconds until the block has ended, since asyncio, from Python 3.11 on,
    only cancels its task at the first one.

    Two cases are not covered.  No signal is sent where the program has no Python handler
    for SIGINT; a deadline installs none.  Code in C that never lets Python run also stops the
    watching thread; pytest's ``faulthandler_timeout`` shows where that code is.

    The child of a fork has no deadline; its parent's goes on in the parent.

    A deadline is started and cancelled in one greenlet, of any thread.

    Args:
        seconds: Seconds from the start until the deadline passes.
        error: Called with the message; returns the error to raise.  :class:`DeadlinePassed` by default.

    Attributes:
        seconds: Seconds from the start until the deadline passes.
        interrupted: True once a blocked hub got SIGINT.
    """

    def __init__(self, seconds: float, error: Callable[[str], BaseException] = DeadlinePassed) -> None:
        self.seconds = seconds
        self._error = error
        self.interrupted = False
        self._lock = allocate_lock()
        #: A lock that the watching thread waits for; None unless the deadline runs.
        self._ended: Any = None
        self._timer: Any = None
        #: When the deadline passes (monotonic seconds).
        self._due = 0.0
        #: When the watching thread acts next (monotonic seconds).
        self._limit = 0.0
        #: Seconds that remained at the pause; None if the deadline is not paused.
        self._remaining: float | None = None
        #: The process in which the deadline was started.
        self._process = 0

    @property
    def running(self) -> bool:
        """True from :meth:`start` to :meth:`cancel`."""
        return self._ended is not None

    def start(self, seconds: float | None = None) -> None:
        """Start the deadline, or start it again, for the present greenlet.

        Args:
            seconds: A new value for :attr:`seconds`; None keeps the old one.
        """
        if seconds is not None:
            self.seconds = seconds
        self._start(self.seconds)

    def pause(self) -> None:
        """Stop the deadline until :meth:`resume`; no effect if it does not run."""
        if self.running:
            remaining = max(0.0, self._due - monotonic())
            self.cancel()
            self._remaining = remaining

    def resume(self) -> None:
        """Resume with the seconds that remained at the pause, in the present greenlet.

        No effect unless the deadline is paused.
        """
        if self._remaining is not None:
            self._start(self._remaining)

    def _start(self, seconds: float) -> None:
        self.cancel()
        self.interrupted = False
        self._process = os.getpid()
        self._hub = gevent.get_hub()
        self._greenlet = gevent.getcurrent()
        self._may_interrupt = self._hub.main_hub and self._greenlet.parent is None
        self._ident = _get_ident()
        self._set_timer(seconds)
        self._ended = allocate_lock()
        self._ended.acquire()
        begun = allocate_lock()
        begun.acquire()
        start_thread(self._watch, (self._ended, begun))
        begun.acquire()  # a census made from now on knows the thread

    def cancel(self) -> None:
        """Stop the deadline: no error is raised, and no signal sent, from now on."""
        self._remaining = None
        if self._drop_after_fork():
            return
        while self._ended is not None:
            try:
                self._cancel()
                if self.interrupted:
                    signal.pthread_sigmask(signal.SIG_BLOCK, ())  # a signal on its way arrives here
            except KeyboardInterrupt:
                if not self.interrupted:
                    raise

    def translate(self) -> BaseException | None:
        """Return the error to raise instead of a KeyboardInterrupt that this deadline caused; else None.

        A deadline that caused one is cancelled.
        """
        if not self.interrupted:
            return None
        self.cancel()
        self.interrupted = False
        return self._error(
            f"the deadline of {self.seconds:g} s passed, and the hub was blocked: the traceback of the "
            f"KeyboardInterrupt shows where{_all_greenlets()}"
        )

    def __enter__(self) -> Deadline:
        self.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.cancel()
        if error is None or isinstance(error, KeyboardInterrupt):
            passed = self.translate()
            if passed is not None:
                raise passed from error

    def _cancel(self) -> None:
        self._drop_timer()
        with self._lock:
            ended, self._ended = self._ended, None
        if ended is not None:
            ended.release()

    def _drop_after_fork(self) -> bool:
        """In the child of a fork, drop the copies of the timer and the lock; returns True there."""
        if self._ended is None or self._process == os.getpid():
            return False
        self._drop_timer()
        self._ended = None
        self._lock = allocate_lock()  # the watching thread may have held the old one
        self.interrupted = False
        return True

    def _set_timer(self, seconds: float) -> None:
        self._drop_timer()
        with self._lock:
            self._due = monotonic() + seconds
            self._limit = self._due + GRACE
        # Without a reference: where nothing else can ever happen, gevent raises LoopExit sooner.
        self._timer = self._hub.loop.timer(seconds, ref=False)
        self._timer.start(self._on_timer, update=True)

    def _drop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()

    def _on_timer(self) -> None:
        """The deadline has passed; runs in the hub."""
        if self._drop_after_fork():
            return
        self._set_timer(self.seconds)
        try:
            stacks = "\n".join(gevent.util.format_run_info())
        except Exception as error:  # raised by the repr of some object
            stacks = f"{leaks.thread_stacks()}(no greenlets: {error!r})"
        passed = self._error(f"the deadline of {self.seconds:g} s passed{_all_greenlets()}")
        _write(f"{'=' * 80}\nThe deadline of {self.seconds:g} s passed.\n{stacks}\n")
        self._greenlet.throw(passed)

    def _watch(self, ended: Any, begun: Any) -> None:
        """Watch the hub until the deadline is cancelled; runs in a thread of its own."""
        ident = _get_ident()
        leaks.own_threads.add(ident)
        begun.release()
        reported = False
        while not ended.acquire(True, min(max(0.0, self._limit - monotonic()), TIMEOUT_MAX)):
            # With the lock held, so that no signal follows `cancel`.
            with self._lock:
                if self._ended is not ended:
                    break
                if monotonic() < self._limit:
                    continue
                if self._is_exiting():
                    self._limit = monotonic() + _EXIT_TIME
                elif not reported:
                    reported = True  # the report took time, in which the hub may have run: look again
                    _write(
                        f"{'=' * 80}\nThe deadline of {self.seconds:g} s passed, and the hub has not run "
                        f"for {GRACE:g} s since.\n{leaks.thread_stacks()}"
                    )
                else:
                    self._limit = monotonic() + GRACE
                    if self._may_interrupt and callable(signal.getsignal(signal.SIGINT)):
                        self.interrupted = True
                        signal.pthread_kill(self._ident, signal.SIGINT)  # ends a sleep, unlike interrupt_main
        leaks.own_threads.discard(ident)

    def _is_exiting(self) -> bool:
        """Return whether the block has just ended, so that its greenlet runs code of this module."""
        frame = sys._current_frames().get(self._ident)
        return frame is not None and frame.f_code.co_filename == __file__


def deadline(seconds: float) -> Deadline:
    """``with deadline(seconds): ...`` raises :class:`DeadlinePassed` in a block that takes longer.

    It may be used in any greenlet of any thread.  See :class:`Deadline`, whose `error` chooses
    another exception.

    Args:
        seconds: Seconds that the block may take.

    Returns:
        A :class:`Deadline`, a context manager.
    """
    return Deadline(seconds)


def _all_greenlets() -> str:
    """Return a description of the other greenlets, to be appended to a message."""
    described = [leaks.describe(other) for other in leaks.greenlets() if other is not gevent.getcurrent()]
    return "\n".join([f"; greenlets alive: {len(described)}", *described]).replace("\n", "\n  ")


def _write(text: str) -> None:
    """Write to stderr, if possible."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        pass  # stderr is None or closed; the error is raised all the same
