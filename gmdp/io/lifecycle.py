"""Starting and stopping, as gevent's ``BaseServer`` does it.

Unlike gevent's servers: ``with`` starts; ``start`` after ``stop`` works;
``stop`` from one's own handler begins the stop and returns at once; what was
being worked on is finished (drained) first.

In the child of a fork everything is as new: a client works (with a connection of its
own), a broker or worker may be started; the parent's goes on.  That needs nothing of
the program, however it forks.  What waited for an answer when it forked is the parent's
business, and goes on waiting in the child; a handler that had not begun does not there.
One that had is a greenlet like others: gevent copies it.
"""

from __future__ import annotations

import abc
import contextvars
import logging
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
import zmq
import zmq.green
from gevent.event import Event
from gevent.queue import Full, Queue

from ..core.states import AT_REST, STARTED, State, StateChange, StateMachine
from ..exceptions import ConfigurationError, StateError
from . import forks
from .owner import Owner
from .slots import Slot

if TYPE_CHECKING:
    from typing_extensions import Self

_log = logging.getLogger("gmdp")

#: The object whose handler or hook runs in this context, if one does.
running_in: contextvars.ContextVar[Any] = contextvars.ContextVar("gmdp_running_in", default=None)

#: Seconds after which an owner that does not answer another thread is given up.
OWNER_TIMEOUT = 5.0


class Lifecycle(abc.ABC):
    """What Broker, Worker and Client have in common.

    Safe for any number of greenlets of the thread that called ``start()``.
    ``state``, ``started`` and ``closed`` may be read from any thread.
    """

    #: Seconds :meth:`stop` lets running work go on, if it is not told otherwise.
    stop_timeout: float = 10.0
    #: Changes a subscriber may leave unread before it is dropped.
    subscriber_bound: int = 1_000

    def __init__(self, context: zmq.green.Context[Any] | None) -> None:
        if context is not None and not isinstance(context, zmq.green.Context):
            raise ConfigurationError(
                f"context must be a zmq.green.Context, not {type(context).__module__}.{type(context).__name__}"
            )
        self._given_context = context
        self._owner: Owner | None = None
        self._reset()
        forks.register(self)

    def _reset(self) -> None:
        self._machine = StateMachine(self._on_change)
        self._subscribers: list[Queue[StateChange]] = []
        self._end_waiters: list[Slot] = []
        self._finished = Event()
        self._finished.set()

    # What subclasses provide

    @abc.abstractmethod
    def _open(self) -> tuple[Owner, State, str]:
        """Open sockets; returns the owner, not yet started, the state that
        follows and its reason.  On an error nothing may stay open."""

    @abc.abstractmethod
    def _drain(self, until: float) -> None:
        """In the owner: finish what is being done, by `until` at the latest."""

    @abc.abstractmethod
    def _reset_after_fork(self) -> None:
        """In the child of a fork: forget what the parent's is."""

    # Life

    @property
    def state(self) -> State:
        """The present state (:class:`gmdp.State`); any thread, any time."""
        return self._machine.state

    @property
    def started(self) -> bool:
        """True from :meth:`start` until stopping begins."""
        return self._machine.state in STARTED

    @property
    def closed(self) -> bool:
        """True while no socket is held; before the first start, too."""
        return self._machine.state in AT_REST

    def start(self) -> None:
        """Start; returns as soon as sockets are open.  No effect if started.

        Raises ConfigurationError, BindError, or StateError while stopping;
        nothing half-started remains then.
        """
        if self.started:
            return
        if not self.closed:
            raise StateError("it is still stopping: wait for stop() to return")
        self._advance(State.STARTING)
        try:
            self._owner, state, reason = self._open()
        except BaseException as error:
            self._advance(State.CLOSED, str(error))
            raise
        self._finished.clear()
        self._owner.start()
        self._advance(state, reason)

    def stop(self, timeout: float | None = None) -> None:
        """Take no new work, finish what is being done, close; wait for that.

        `timeout`: seconds the work may take (None: :attr:`stop_timeout`); what
        is not done by then is let go.  Called from one's own handler or hook,
        this begins the stop and returns at once.  No effect if not started.
        """
        limit = self.stop_timeout if timeout is None else timeout
        owner = self._owner
        if owner is None:
            return
        self._call_in_owner_thread(owner, self._begin_stop, owner, limit)
        if running_in.get() is self or gevent.getcurrent() is owner.greenlet:
            return
        if owner.runs_here:
            self._finished.wait()
            owner.greenlet.join()
        else:
            slot = Slot()
            self._call_in_owner_thread(owner, self._set_when_ended, owner, slot)
            if not slot.wait(limit + OWNER_TIMEOUT):
                raise StateError(f"the hub of {owner.name} did not run: it is still stopping")

    def close(self) -> None:
        """Close at once, whatever is being done.  No effect if closed."""
        self.stop(timeout=0)

    def serve_forever(self, stop_timeout: float | None = None) -> None:
        """Start unless started, and wait until stopped from elsewhere.

        `stop_timeout`: what :meth:`stop` gets if this wait is ended by an error.
        Raises OwnerDied if a defect of gmdp ended it.
        """
        if not self.started:
            self.start()
        owner = self._owner
        try:
            self._finished.wait()
        finally:
            # Somebody may have started it again by now: that is not ours to stop.
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
        """A gevent queue that receives every state change from now on, in order.

        Each is a :class:`gmdp.StateChange`.  A queue that is full when a change
        comes is dropped, with a warning in the log: it could no longer be
        complete.  For greenlets of the thread that calls ``start()``.
        """
        if queue is None:
            queue = Queue(self.subscriber_bound)
        self._subscribers.append(queue)
        return queue

    def unsubscribe(self, queue: Queue[StateChange]) -> None:
        """Send no more changes to `queue`.  No effect if it was not subscribed."""
        self._subscribers = [other for other in self._subscribers if other is not queue]

    def _on_change(self, change: StateChange) -> None:
        _log.debug("%r: %s -> %s %s", self, change.old.value, change.new.value, change.reason)
        for queue in self._subscribers:
            try:
                queue.put_nowait(change)
            except Full:
                _log.warning("%r: a subscriber to state changes does not read; it is dropped", self)
                self.unsubscribe(queue)

    # For subclasses

    @property
    def _context(self) -> zmq.green.Context[Any]:
        return self._given_context if self._given_context is not None else zmq.green.Context.instance()

    def _on_fork(self) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.abandon()
        self._given_context = None  # it is the parent's, with all its sockets
        self._reset()
        self._reset_after_fork()

    def _advance(self, state: State, reason: str = "") -> None:
        self._machine.advance(state, monotonic(), reason)

    def _begin_stop(self, owner: Owner, limit: float) -> None:
        if self._owner is not owner or self.closed:
            return
        if self._machine.state is not State.DRAINING:
            self._advance(State.DRAINING)
        owner.post(self._drain, monotonic() + limit)

    def _on_owner_ended(self, death: BaseException | None = None) -> None:
        """In the owner: its last act, every socket is closed."""
        if self._owner is not None:
            self._owner.death = death
        self._owner = None
        self._advance(State.CLOSED, "" if death is None else str(death))
        self._finished.set()
        while self._end_waiters:
            self._end_waiters.pop().set(None)

    def _set_when_ended(self, owner: Owner, slot: Slot) -> None:
        if self._owner is not owner:
            slot.set(None)
        else:
            self._end_waiters.append(slot)

    def _call_in_owner_thread(self, owner: Owner | None, function: Any, *args: Any) -> Any:
        """Call `function` where no owner's pass is half done: directly in its
        thread (it does not switch in the middle of a decision), else through
        its mailbox.  StateError if its hub does not run."""
        if owner is None or owner.runs_here:
            return function(*args)
        try:
            return owner.call(function, *args, timeout=OWNER_TIMEOUT)
        except TimeoutError as error:
            raise StateError(str(error)) from None
