"""Starting and stopping, as gevent's ``BaseServer`` does it.

The rules of this module:

* Unlike gevent's servers, ``with`` starts, ``start`` after ``stop`` works, and ``stop`` from the
  object's own handler or hook begins the stop and returns at once.
* ``stop`` drains: running work is finished first, and the last messages arrive, for a bounded time.
* In the child of a fork an object is as if it had just been made: a client connects anew, a broker or
  worker may be started.  The parent's objects go on.
* A caller that waited for an answer during the fork is the parent's.  Its copy in the child goes on
  waiting.  A handler that had not begun does not begin in the child.  A running handler is a greenlet
  like any other: the child has a copy of it.
"""

from __future__ import annotations

import abc
import contextvars
import math
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import gevent
from gevent.event import Event
from gevent.queue import Full, Queue

from ..core.states import AT_REST, STARTED, State, StateChange, StateMachine
from ..exceptions import StateError
from ..validation import check_number
from . import forks, guarded, logs
from .contexts import Context, check_context
from .owner import Owner, must_not_wait
from .resolving import Wait
from .slots import Slot

if TYPE_CHECKING:
    from typing_extensions import Self

_log = logs.QueuedLogger("gmdp")

#: The worker whose handler runs in this context; None if none does.
current_lifecycle: contextvars.ContextVar[Any] = contextvars.ContextVar("gmdp_current_lifecycle", default=None)

#: Seconds that another thread waits for an owner's answer.
OWNER_TIMEOUT = 5.0

T = TypeVar("T")


class Lifecycle(abc.ABC):
    """What :class:`gmdp.Broker`, :class:`gmdp.Worker` and :class:`gmdp.Client` have in common.

    Threads: safe for any number of greenlets of the thread that called :meth:`start`.  Any
    thread may read the properties, and call :meth:`stop` and :meth:`close`.

    Args:
        context: the ``zmq.green.Context`` of an embedding application; None: the green context
            that the process shares.

    Raises:
        ConfigurationError: `context` is not a green context.
    """

    #: Seconds that running work may take after a :meth:`stop` without an argument.
    stop_timeout: float = 10.0
    #: Changes that a queue made by :meth:`subscribe` may hold; a queue that is full is dropped.
    subscriber_bound: int = 1_000

    def __init__(self, context: Context | None) -> None:
        #: None: the context that the process shares, which is made with its first socket.
        self._context = check_context(context)
        self._owner: Owner | None = None
        self._reset()
        forks.register(self)

    def _reset(self) -> None:
        self._machine = StateMachine(self._on_change)
        self._subscribers: list[Queue[StateChange]] = []
        #: The wait of a start that looks up a host name.
        self._name_wait: Wait | None = None
        #: The greenlet in which a start looks up names and opens sockets.
        self._starting: gevent.Greenlet | None = None
        #: Slots that are set to the change that ends the present start.
        self._start_waiters: list[Slot] = []
        self._finished = Event()
        self._finished.set()

    # What subclasses provide

    @abc.abstractmethod
    def _open(self) -> tuple[Owner, State, str]:
        """Open sockets; on an error none may stay open.

        Returns the owner, not yet started, and the state that follows with its reason.
        """

    @abc.abstractmethod
    def _drain(self, until: float) -> None:
        """In the owner: take no new work, and end by `until` (monotonic seconds) at the latest."""

    @abc.abstractmethod
    def _reset_after_fork(self) -> None:
        """In the child of a fork: forget the parent's counters, calls and files."""

    # Life

    @property
    def state(self) -> State:
        """The present state (:class:`gmdp.State`); any thread, any time."""
        forks.notice()
        return self._machine.state

    @property
    def started(self) -> bool:
        """True from :meth:`start` until stopping begins."""
        forks.notice()
        return self._machine.state in STARTED

    @property
    def closed(self) -> bool:
        """True while no socket is held; before the first start, too."""
        forks.notice()
        return self._machine.state in AT_REST

    def start(self) -> None:
        """Open sockets and begin; returns as soon as they are open.  No effect if started.

        After an error nothing is open.  A start by another greenlet, which looks up a name, is waited for.

        Raises:
            ConfigurationError: an option or file is wrong.
            BindError: a broker cannot bind an endpoint.
            StateError: the object is still stopping, the start that was waited for has failed, or the process
                is a child that was forked meanwhile.
        """
        self._join_start()
        if self.started:
            return
        if not self.closed:
            raise StateError(f"{self!r} is still stopping: wait for stop() to return")
        with logs.queue_all():
            self._starting = gevent.getcurrent()
            try:
                self._advance(State.STARTING)
                self._owner, state, reason = self._open()
            except BaseException as error:
                if self._starts_here():
                    self._starting = None
                    self._advance(State.CLOSED, guarded.text_of(error))
                raise
            self._starting = None
            self._finished.clear()
            self._owner.start()
            try:
                self._advance(state, reason)
            except BaseException:
                Lifecycle.stop(self, 0)
                raise

    def _join_start(self) -> None:
        """Wait until the start of another greenlet has ended; StateError if that has failed."""
        forks.notice()
        starting = self._starting
        if starting is None or starting is gevent.getcurrent() or must_not_wait():
            return
        slot = Slot()
        self._start_waiters.append(slot)
        if self._starting is starting:  # else it may have ended, in another thread, before the slot was there
            slot.wait()
            change: StateChange = slot.get()
            if change.new is State.CLOSED:
                raise StateError(f"the start by another greenlet has failed: {change.reason}")

    def _starts_here(self) -> bool:
        """Return whether the present start is this greenlet's: in the child of a fork its copy has none."""
        forks.notice()
        return self._starting is gevent.getcurrent()

    def stop(self, timeout: float | None = None) -> None:
        """Take no new work, finish the work in hand, close, and wait until all of this is done.

        No effect if not started; a start that still looks up a name is ended, and raises StateError.
        From the object's own handler, from any hook and in the hub (where a handler of ``signal.signal`` may
        run), the stop begins, and the method returns at once.  Any thread.  What the object logged is
        written by then, unless a log handler takes more than a second.

        Args:
            timeout: seconds that running work and the last messages may take; None:
                :attr:`stop_timeout`.  Work that takes longer is abandoned; those who wait for it are told,
                for which there is one more second.

        Raises:
            ConfigurationError: `timeout`, or :attr:`stop_timeout`, is not a number of seconds.
            StateError: the call is from another thread, and the object's hub does not run.
        """
        forks.notice()
        limit = self._check_stop_timeout(timeout)
        owner = self._owner
        if owner is None:
            wait = self._name_wait
            if wait is not None:
                self._end_start(wait)
            return
        if must_not_wait() and not owner.runs_here:
            owner.post(self._begin_stop, owner, limit)
            return
        self._call_in_owner_thread(owner, self._begin_stop, owner, limit)
        if current_lifecycle.get() is self or must_not_wait():
            return
        if owner.runs_here:
            self._finished.wait()
            owner.greenlet.join()
        else:
            slot = Slot()
            self._call_in_owner_thread(owner, owner.set_when_gone, slot)
            if not slot.wait(limit + OWNER_TIMEOUT):
                raise StateError(f"the hub of {owner.name} did not run: it is still stopping")

    def _end_start(self, wait: Wait) -> None:
        """End a start that looks up a name, and wait until it has ended."""
        ended = Slot()
        wait.call_in_thread(self._end_name_wait, ended)
        if not must_not_wait() and gevent.getcurrent() is not self._starting and not ended.wait(OWNER_TIMEOUT):
            raise StateError("the hub of the thread that looks up a name did not run: the start goes on")

    def _end_name_wait(self, ended: Slot) -> None:
        """In the thread that starts: end the wait for a name, and have `ended` set once the start has ended."""
        if self._name_wait is None:
            ended.set(None)
        else:
            self._start_waiters.append(ended)
            self._name_wait.end()

    def close(self) -> None:
        """Close at once, and drop what is being done.  No effect if closed.  Any thread, as for :meth:`stop`."""
        self.stop(timeout=0)

    def serve_forever(self, stop_timeout: float | None = None) -> None:
        """Start unless started, and wait until stopped from elsewhere.

        Args:
            stop_timeout: the argument of :meth:`stop` if an error ends this wait.

        Raises:
            ConfigurationError: `stop_timeout` is not a number of seconds.
            OwnerDied: a bug in gmdp ended the object; else what :meth:`start` raises.
        """
        self._check_stop_timeout(stop_timeout, "stop_timeout")
        self.start()
        owner = self._owner
        try:
            self._finished.wait()
        finally:
            # Another greenlet may have started the object again by now: that run is not ours to stop.
            if owner is not None and self._owner is owner:
                gevent.spawn(self.stop, stop_timeout).join()
        if owner is not None and owner.death is not None:
            raise owner.death

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # Changes

    def subscribe(self, queue: Queue[StateChange] | None = None) -> Queue[StateChange]:
        """Have every change of state put into a queue, in order, from now on.

        A queue that is full when a change comes is unsubscribed, because it would miss the change,
        and a warning is logged.  For greenlets of the thread that calls :meth:`start`.

        Args:
            queue: a gevent queue; None: a new one of :attr:`subscriber_bound` items.

        Returns:
            The queue; its items are :class:`gmdp.StateChange`.
        """
        forks.notice()
        if queue is None:
            queue = Queue(self.subscriber_bound)
        self._subscribers.append(queue)
        return queue

    def unsubscribe(self, queue: Queue[StateChange]) -> None:
        """Put no more changes into a queue.  No effect if the queue was not subscribed.

        Args:
            queue: a queue that :meth:`subscribe` returned.
        """
        self._subscribers = [other for other in self._subscribers if other is not queue]

    def _on_change(self, change: StateChange) -> None:
        if change.old is State.STARTING:
            waiters, self._start_waiters = self._start_waiters, []
            for waiter in waiters:
                waiter.set(change)
        _log.debug("%r: %s -> %s %s", self, change.old.value, change.new.value, change.reason)
        for queue in self._subscribers:
            if not guarded.call(self._put, queue, change, default=False, on_error=self._log_broken_queue):
                self.unsubscribe(queue)

    def _put(self, queue: Queue[StateChange], change: StateChange) -> bool:
        """Put a change into a subscriber's queue; False if there is no room."""
        try:
            queue.put_nowait(change)
        except Full:
            _log.warning("%r: a subscriber's queue of state changes is full; it is dropped", self)
            return False
        return True

    def _log_broken_queue(self, error: BaseException) -> None:
        _log.exception("%r: a subscriber's queue of state changes is broken; it is dropped", self)

    # For subclasses

    def _on_fork(self) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.abandon()
        self._context = None  # the parent's, with all its sockets
        self._reset()
        self._reset_after_fork()

    def _advance(self, state: State, reason: str = "") -> None:
        self._machine.advance(state, monotonic(), reason)

    def _check_stop_timeout(self, timeout: float | None, name: str = "timeout") -> float:
        """Return the seconds that a stop may take; ConfigurationError if that is not a number of seconds."""
        if timeout is None:
            name, timeout = "stop_timeout", self.stop_timeout
        return timeout if timeout == math.inf else check_number(name, timeout)

    def _begin_stop(self, owner: Owner, limit: float) -> None:
        if self._owner is not owner or self.closed:
            return
        try:
            if self._machine.state is not State.DRAINING:
                self._advance(State.DRAINING)
        finally:
            owner.post(self._drain, monotonic() + limit)

    def _on_owner_ended(self, death: BaseException | None = None) -> None:
        """In the owner, as its last act: every socket is closed."""
        if self._owner is not None:
            self._owner.death = death
        self._owner = None
        try:
            self._advance(State.CLOSED, "" if death is None else str(death))
        finally:
            self._finished.set()

    def _call_in_owner_thread(self, owner: Owner | None, function: Callable[..., T], *args: Any) -> T:
        """Call `function` while the owner is between two passes, and return its result.

        In the owner's thread that is now, since a pass does not switch greenlets in the middle
        of a decision.  From another thread the call goes through the mailbox; StateError if
        the owner's hub does not run.
        """
        if owner is None or owner.runs_here:
            return function(*args)
        try:
            return owner.call(function, *args, timeout=OWNER_TIMEOUT)
        except TimeoutError as error:
            raise StateError(str(error)) from None
