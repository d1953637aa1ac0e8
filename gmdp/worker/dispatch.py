"""From a session's work to a running handler, and back.

The rules of this module:

* A session has one handler running at most, and its dispatcher knows which.
* Where ``spawn`` may wait, the dispatcher calls it in a greenlet of its own: an owner must not wait.
* A handler that is killed before it began still ends, as a failure.
* The object that ``spawn`` returns is the program's: its methods are called through the gate (:mod:`gmdp.io.guarded`).
* Results go through the owner's mailbox: handlers may run in any thread.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import gevent
import greenlet
from gevent.queue import Queue

from ..core.peer.reasons import GoneReason
from ..core.peer.sessions import CallerGone, Failure, Session, Work
from ..exceptions import RequestCancelled, StreamStalled
from ..io import guarded, logs
from ..io.dealers import SendQueue
from ..io.owner import Owner
from ..protocol.text import show_name
from .handlers import HandlerGreenlet, HandlerOwner, PartSlot, Spawner, failure_of, run, run_after_wait
from .request import Request, make_request

_log = logs.QueuedLogger("gmdp.worker")


class ResultReceiver(Protocol):
    """Receives the results of handlers.  Every method runs in the owner."""

    def on_part(self, dispatcher: Dispatcher, work: Work, body: list[bytes], slot: PartSlot | None) -> None:
        """A handler yielded a part; see :meth:`.handlers.HandlerObserver.on_part`."""

    def on_handler_ended(
        self,
        dispatcher: Dispatcher,
        work: Work,
        body: list[bytes] | None,
        failure: Failure | None,
        seconds: float,
    ) -> None:
        """A handler ended; see :meth:`.handlers.HandlerObserver.on_ended`."""


class Dispatcher:
    """Runs the handlers of one session.

    Args:
        session: the session whose work this runs.
        service: the name of the service, for requests and logs.
        worker: the worker whose handler is run.
        spawner: how handlers are run.
        owner: the owner that receives the results.
        receiver: what is called with the results, in the owner.
    """

    __slots__ = (
        "_killed",
        "_on_task_ended",
        "_owner",
        "_queue",
        "_receiver",
        "_run",
        "_service",
        "_spawn",
        "_worker",
        "cancelled",
        "request",
        "running",
        "session",
        "starter",
        "task",
        "waiting",
    )

    def __init__(
        self,
        session: Session,
        service: bytes,
        worker: HandlerOwner,
        spawner: Spawner,
        owner: Owner,
        receiver: ResultReceiver,
    ) -> None:
        self.session = session
        self._service = service
        self._worker = worker
        self._spawn = spawner.spawn
        self._run = run_after_wait if spawner.may_wait else run
        self._owner = owner
        self._receiver = receiver
        #: The work that a handler has, the request made of it, and what runs the handler; the
        #: receiver resets them when the handler has ended.
        self.running: Work | None = None
        self.request: Request | None = None
        self.task: Any = None
        #: Where the handler waits, or has waited, in its ``yield``.
        self.waiting: PartSlot | None = None
        #: Where `spawn` may wait: the error of work whose handler must not begin any more.
        self.cancelled: RequestCancelled | None = None
        #: What `task` calls if it ends before the handler began.
        self._on_task_ended: Callable[[Any], None] | None = None
        #: Where `spawn` may wait: the greenlet that calls `spawn`, and its queue of one piece of work at most.
        self.starter: gevent.Greenlet | None = None
        self._queue: Queue[Work] | None = None
        #: True once `kill` has stopped the starter for good.
        self._killed = False
        if spawner.may_wait:
            self._queue = Queue()
            self._spawn_starter()

    # In the owner, which must not wait

    def dispatch(self, work: Work) -> None:
        """Have the handler run for `work`."""
        self.running = work
        self.waiting = None
        self.request = make_request(self._service, work)
        if self._queue is not None:
            self.cancelled = None
            self._queue.put(work)
        else:
            self._start(work)

    def cancel(self, event: CallerGone, kill: bool) -> None:
        """Note that nobody waits any more for the answer to the work of `event`.

        The handler sees this in ``request.remaining()``.  If `kill` is true and the handler runs
        in a greenlet, RequestCancelled is raised in that greenlet; a handler that waits for its place does
        not begin.  Else a handler that waits in its ``yield`` is closed there; if its stream has stalled,
        StreamStalled is raised there.
        """
        if self.running is not event.work or self.request is None:
            return
        self.request.give_up()
        waiting, self.waiting = self.waiting, None
        if waiting is not None and event.reason is GoneReason.STALLED:
            waiting.fail(StreamStalled(f"the stream has stalled: {event.reason.value}", service=self._service))
            return
        if kill:
            self.cancelled = error = RequestCancelled(f"nobody waits for the answer: {event.reason.value}")
        if kill and isinstance(self.task, greenlet.greenlet):
            guarded.call(_raise_in, self.task, error, default=None, on_error=self._log_broken_task)
        elif waiting is not None:
            waiting.set(False)

    def resume(self, work: Work) -> None:
        """Let the handler of `work` go on, if it waits in its ``yield`` and may send a further part.

        It ends there if the session has lost the work.
        """
        waiting = self.waiting
        if waiting is None or self.running is not work:
            return
        session = self.session
        if session.work is not work or session.connection is None:
            waiting.set(False)
        elif session.sent < session.credit:
            queue: SendQueue = session.connection.handle
            if queue.unsent:
                queue.waiters.append(waiting)
            else:
                waiting.set(session.credit)

    def kill(self, spared: object) -> None:
        """Stop the starter, and kill the running handler, unless `spared` is the one or the other."""
        self._killed = True
        if self.starter is not None and self.starter is not spared:  # the handler may run in the starter
            self.starter.kill(block=False)
        if self.waiting is not None:
            self.waiting.set(False)
        if self.task is not None and self.task is not spared:
            guarded.call(_kill, self.task, default=None, on_error=self._log_broken_task)

    # In the starter, or in the owner where `spawn` does not wait

    def _spawn_starter(self, _: object = None) -> None:
        """Spawn the starter, and do so again if some other code has killed it."""
        if not self._killed:
            self.starter = gevent.spawn(self._start_all)
            self.starter.rawlink(self._spawn_starter)

    def _start_all(self) -> None:
        assert self._queue is not None  # without a queue there is no starter
        while not self._killed:
            self._start(self._queue.get())

    def _start(self, work: Work) -> None:
        try:
            self.task = task = self._spawn(self._run, self._worker, self.request, work, self)
        except BaseException as error:
            self.on_ended(work, None, failure_of(error), 0.0)
            if isinstance(error, (gevent.GreenletExit, *guarded.INTERRUPTS)):
                raise
            _log.warning("the handler of %s could not be started", show_name(self._service), exc_info=True)
            return
        # A task that is killed before it began never calls on_ended itself.
        if type(task) is HandlerGreenlet:
            self._on_task_ended = functools.partial(self._on_never_began, work)
            task.rawlink(self._on_task_ended)
        elif type(task) is not greenlet.greenlet:  # a raw greenlet links nothing
            guarded.call(self._link, task, work, default=None, on_error=self._log_broken_task)

    def _link(self, task: Any, work: Work) -> None:
        """Learn when `task` ends, if it can tell."""
        if hasattr(task, "rawlink"):
            self._on_task_ended = functools.partial(self._on_never_began, work)
            task.rawlink(self._on_task_ended)

    def _on_never_began(self, work: Work, _: object) -> None:
        self.on_ended(work, None, Failure("GreenletExit", "killed before it began"), 0.0)

    def _log_broken_task(self, error: BaseException) -> None:
        _log.warning("what spawn returned for the handler of %s is broken", show_name(self._service), exc_info=error)

    # What a running handler calls; any thread

    def on_started(self) -> bool:
        """The handler is about to run; False in the child of a fork, where it must not."""
        if self._owner.abandoned:
            return False
        task = self.task
        if task is gevent.getcurrent() and self._on_task_ended is not None:
            task.unlink(self._on_task_ended)  # from now on it calls on_ended itself
        return True

    def on_part(self, work: Work, body: list[bytes], slot: PartSlot | None) -> None:
        """The handler yielded a part."""
        self._owner.post(self._receiver.on_part, self, work, body, slot)

    def on_ended(self, work: Work, body: list[bytes] | None, failure: Failure | None, seconds: float) -> None:
        """The handler ended."""
        self._owner.post(self._receiver.on_handler_ended, self, work, body, failure, seconds)


def _kill(task: Any) -> None:
    """Kill what runs a handler, if that can be done; raw greenlets have no method for it."""
    if hasattr(task, "kill"):
        task.kill(block=False)
    elif isinstance(task, greenlet.greenlet):
        gevent.kill(task)


def _raise_in(task: Any, error: BaseException) -> None:
    """Raise an error in what runs a handler, if that is a greenlet."""
    if isinstance(task, greenlet.greenlet):
        gevent.kill(task, error)
