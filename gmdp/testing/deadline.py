"""A deadline that says what everybody was doing.

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
    KeyboardInterrupt, which :meth:`translate` makes DeadlinePassed of.  It gets another
    one every :data:`GRACE` seconds until it is left: asyncio, of Python 3.11 on, does no
    more than cancel its task at the first.  (Not where the program has no handler in
    Python for SIGINT; none is installed.)  Code in C that never lets Python run blocks
    that thread, too: pytest's ``faulthandler_timeout`` shows such.

    The child of a fork has no deadline: its parent's goes on there.
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
        #: When it passes, and when the thread is to interfere (monotonic seconds).
        self._due = self._limit = 0.0
        #: What remains of a pause on; None if there is none.
        self._remaining: float | None = None
        #: The process it was started in.
        self._process = 0

    @property
    def running(self) -> bool:
        """True from `start` to `cancel`."""
        return self._ended is not None

    def start(self, seconds: float | None = None) -> None:
        """Begin, or begin again, with `seconds` if they are given."""
        if seconds is not None:
            self.seconds = seconds
        self._start(self.seconds)

    def pause(self) -> None:
        """Cancel; `resume` goes on with what remains.  No effect if it does not run."""
        if self.running:
            remaining = max(0.0, self._due - monotonic())
            self.cancel()
            self._remaining = remaining

    def resume(self) -> None:
        """Go on after `pause`, in this greenlet.  No effect if it was not paused, or cancelled since."""
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
        begun.acquire()  # so that whoever counts threads afterwards finds it

    def cancel(self) -> None:
        """Nothing is raised any more."""
        self._remaining = None
        if self._is_parents():
            return
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

    def _is_parents(self) -> bool:
        """In the child of a fork, which has a copy of the timer: drop it."""
        if self._ended is None or self._process == os.getpid():
            return False
        self._drop_timer()
        self._ended = None
        self._lock = allocate_lock()  # the thread may have held it
        self.interrupted = False
        return True

    def _set_timer(self, seconds: float) -> None:
        self._drop_timer()
        with self._lock:
            self._due = monotonic() + seconds
            self._limit = self._due + GRACE
        # Where nothing else could ever happen, gevent's LoopExit says so sooner: hence no ref.
        self._timer = self._hub.loop.timer(seconds, ref=False)
        self._timer.start(self._passed, update=True)

    def _drop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()

    def _passed(self) -> None:
        """In the hub."""
        if self._is_parents():
            return
        self._set_timer(self.seconds)
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
        told = False
        while not ended.acquire(True, min(max(0.0, self._limit - monotonic()), TIMEOUT_MAX)):
            # Under the lock, so that nothing comes after `cancel`.
            with self._lock:
                if self._ended is not ended:
                    break
                if monotonic() < self._limit:
                    continue
                if self._is_here():
                    self._limit = monotonic() + _LEAVING
                elif not told:
                    told = True  # then look again: that took its time
                    _tell(
                        f"{'=' * 80}\nThe deadline of {self.seconds:g} s passed, and the hub has not run "
                        f"for {GRACE:g} s since.\n{leaks.thread_stacks()}"
                    )
                else:
                    self._limit = monotonic() + GRACE
                    if self._may_interrupt and callable(signal.getsignal(signal.SIGINT)):
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
