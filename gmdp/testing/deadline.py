"""A deadline that says what everybody was doing.

With or without pytest (whose plugin is :mod:`gmdp_pytest`)::

    from gmdp.testing.deadline import deadline

    with deadline(5.0):
        ...  # DeadlinePassed after five seconds, and all stacks on stderr
"""

from __future__ import annotations

import math
import signal
import sys
from _thread import TIMEOUT_MAX
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
import gevent.monkey
import gevent.util

from ..slots import allocate_lock, start_thread
from . import leaks

#: Seconds beyond its deadline after which a hub that does not run is held to be blocked.
GRACE = 2.0

#: Seconds that ending a block may take.
_LEAVING = 0.001

#: The real one, whatever was monkey-patched: what watches the hub cannot depend on it.
_get_ident = gevent.monkey.get_original("_thread", "get_ident")


class DeadlinePassed(BaseException):
    """A deadline passed; the message says what all greenlets were doing.

    No ``Exception``, as a ``gevent.Timeout`` is none: ``except Exception`` in a loop
    that tries for ever does not swallow it.
    """


class Deadline:
    """Raises :class:`DeadlinePassed` in the greenlet that started it, unless cancelled in time.

    The stacks of all greenlets and threads go to ``sys.stderr`` first.  It raises again
    each time as many seconds have gone by, should what cleans up hang as well.

    A hub that is blocked cannot keep a deadline.  Therefore a thread looks after it; when
    the hub has not run for :data:`GRACE` seconds beyond the deadline, the stacks of all
    threads go to ``sys.stderr``, and if the deadline is that of a program's main greenlet,
    its thread gets what Ctrl-C sends, SIGINT: whatever blocks it is left with
    KeyboardInterrupt, which :meth:`translate` makes DeadlinePassed of.  (Not where the
    program has no handler in Python for SIGINT; none is installed.)  Code in C that
    never lets Python run blocks that thread, too: pytest's ``faulthandler_timeout``
    shows such.
    """

    def __init__(self, seconds: float, error: Callable[[str], BaseException] = DeadlinePassed) -> None:
        self.seconds = seconds
        #: Makes what is raised of its message.
        self._error = error
        #: True once a blocked hub was interrupted.
        self.interrupted = False
        self._lock = allocate_lock()
        #: Locked while the thread has something to watch.
        self._ended: Any = None
        self._timer: Any = None
        #: When the thread is to interfere (monotonic seconds).
        self._limit = 0.0

    @property
    def running(self) -> bool:
        """True from `start` to `cancel`."""
        return self._ended is not None

    def start(self, seconds: float | None = None) -> None:
        """Begin, or begin again, with `seconds` if they are given."""
        if seconds is not None:
            self.seconds = seconds
        self.cancel()
        self.interrupted = False
        self._hub = gevent.get_hub()
        self._greenlet = gevent.getcurrent()
        self._may_interrupt = self._hub.main_hub and self._greenlet.parent is None
        self._ident = _get_ident()
        self._set_timer()
        self._ended = allocate_lock()
        self._ended.acquire()
        begun = allocate_lock()
        begun.acquire()
        start_thread(self._watch, (self._ended, begun))
        begun.acquire()  # so that whoever counts threads afterwards finds it

    def cancel(self) -> None:
        """Nothing is raised any more."""
        while self._ended is not None:
            try:
                self._cancel()
                if self.interrupted:
                    signal.pthread_sigmask(signal.SIG_BLOCK, ())  # a signal that is on its way comes now
            except KeyboardInterrupt:
                if not self.interrupted:
                    raise

    def translate(self) -> BaseException | None:
        """After a KeyboardInterrupt: if it came from here, cancel, and return what to raise instead."""
        if not self.interrupted:
            return None
        self.cancel()
        self.interrupted = False
        return self._error(
            f"the deadline of {self.seconds:g} s passed, and the hub was blocked: the KeyboardInterrupt "
            f"before this shows by what{_all_greenlets()}"
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

    def _set_timer(self) -> None:
        self._drop_timer()
        with self._lock:
            self._limit = monotonic() + self.seconds + GRACE
        # Where nothing else could ever happen, gevent's LoopExit says so sooner: hence no ref.
        self._timer = self._hub.loop.timer(self.seconds, ref=False)
        self._timer.start(self._passed, update=True)

    def _drop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()

    def _passed(self) -> None:
        """In the hub."""
        self._set_timer()
        try:
            stacks = "\n".join(gevent.util.format_run_info())
        except Exception as error:  # of an object that has no repr
            stacks = f"{leaks.thread_stacks()}(no greenlets: {error!r})"
        passed = self._error(f"the deadline of {self.seconds:g} s passed{_all_greenlets()}")
        _tell(f"{'=' * 80}\nThe deadline of {self.seconds:g} s passed.\n{stacks}\n")
        self._greenlet.throw(passed)

    def _watch(self, ended: Any, begun: Any) -> None:
        """In a thread of its own."""
        me = _get_ident()
        leaks.own_threads.add(me)
        begun.release()
        while not ended.acquire(True, min(max(0.0, self._limit - monotonic()), TIMEOUT_MAX)):
            # Under the lock, so that nothing comes after `cancel`.
            with self._lock:
                if self._ended is not ended:
                    break
                if monotonic() < self._limit:
                    continue
                if self._is_here():
                    self._limit = monotonic() + _LEAVING
                    continue
                self._limit = math.inf  # once is enough
                _tell(
                    f"{'=' * 80}\nThe deadline of {self.seconds:g} s passed, and the hub has not run "
                    f"for {GRACE:g} s since.\n{leaks.thread_stacks()}"
                )
                if self._may_interrupt and callable(signal.getsignal(signal.SIGINT)) and not self._is_here():
                    self.interrupted = True
                    signal.pthread_kill(self._ident, signal.SIGINT)  # unlike interrupt_main, it ends a sleep
        leaks.own_threads.discard(me)

    def _is_here(self) -> bool:
        """Has the block just ended?"""
        frame = sys._current_frames().get(self._ident)
        return frame is not None and frame.f_code.co_filename == __file__


def deadline(seconds: float) -> Deadline:
    """``with deadline(seconds): ...`` raises :class:`DeadlinePassed` in the block when they have gone by.

    See :class:`Deadline`.  For any greenlet.
    """
    return Deadline(seconds)


def _all_greenlets() -> str:
    told = [leaks.describe(one) for one in leaks.greenlets() if one is not gevent.getcurrent()]
    return "\n".join([f"; greenlets alive: {len(told)}", *told]).replace("\n", "\n  ")


def _tell(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        pass  # there is none, or it is closed: the error is raised all the same
