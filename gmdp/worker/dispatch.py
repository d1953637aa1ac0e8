"""From a session's work to a running handler, and back.

The rules of this module:

* A session has one handler running at most, and its dispatcher knows which.
* Where ``spawn`` may wait, the dispatcher calls it in a greenlet of its own: an owner must not wait.
* A handler that is killed before it began still ends, as a failure.
* Results go through the owner's mailbox: handlers may run in any thread.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, Protocol

import gevent
import greenlet
from gevent.queue import Queue

from ..core.peer.sessions import CallerGone, Session, SessionState, Work
from ..exceptions import RequestCancelled
from ..io.owner import Owner
from ..io.slots import Slot
from .handlers import HandlerOwner, Spawner, run
from .request import Request, make_request

_log = logging.getLogger("gmdp.worker")


class ResultReceiver(Protocol):
    """Receives the results of handlers.  Every method runs in the owner."""

    def on_part(self, dispatcher: Dispatcher, work: Work, body: list[bytes], slot: Slot | None) -> None:
        """A handler yielded a part; see :meth:`.handlers.HandlerObserver.on_part`."""

    def on_handler_ended(
        self,
        dispatcher: Dispatcher,
        work: Work,
        body: list[bytes] | None,
        failure: BaseException | None,
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
        "_on_task_ended",
        "_owner",
        "_queue",
        "_receiver",
        "_service",
        "_spawn",
        "_worker",
        "request",
        "running",
        "session",
        "starter",
        "task",
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
        self._owner = owner
        self._receiver = receiver
        #: The work that a handler has, the request made of it, and what runs the handler; the
        #: receiver resets them when the handler has ended.
        self.running: Work | None = None
        self.request: Request | None = None
        self.task: Any = None
        #: What `task` calls if it ends before the handler began.
        self._on_task_ended: Callable[[Any], None] | None = None
        #: Where `spawn` may wait: the greenlet that calls `spawn`, and its queue of one piece of work at most.
        self.starter: gevent.Greenlet | None = None
        self._queue: Queue[Work] | None = None
        if spawner.may_wait:
            self._queue = Queue()
            self._spawn_starter()

    # In the owner, which must not wait

    def dispatch(self, work: Work) -> None:
        """Have the handler run for `work`."""
        if self._queue is not None:
            self._queue.put(work)
        else:
            self._start(work)

    def cancel(self, event: CallerGone, kill: bool) -> None:
        """Note that nobody waits any more for the answer to the work of `event`.

        The handler sees this in ``request.remaining()``.  If `kill` is true and the handler runs
        in a greenlet, RequestCancelled is raised in that greenlet.
        """
        if self.running is not event.work or self.request is None:
            return
        self.request.give_up()
        if kill and isinstance(self.task, greenlet.greenlet):
            gevent.kill(self.task, RequestCancelled(f"nobody waits for the answer: {event.reason.value}"))

    def kill(self, spared: object) -> None:
        """Stop the starter, and kill the running handler unless it is `spared`."""
        if self.starter is not None:
            self.starter.kill(block=False)
        kill = getattr(self.task, "kill", None)
        if kill is not None and self.task is not spared:
            kill(block=False)

    # In the starter, or in the owner where `spawn` does not wait

    def _spawn_starter(self, _: object = None) -> None:
        """Spawn the starter, and do so again if some other code has killed it."""
        if self.session.state is not SessionState.CLOSED:
            self.starter = gevent.spawn(self._start_all)
            self.starter.rawlink(self._spawn_starter)

    def _start_all(self) -> None:
        assert self._queue is not None  # without a queue there is no starter
        while True:
            self._start(self._queue.get())

    def _start(self, work: Work) -> None:
        self.running = work
        self.request = request = make_request(self._service, work)
        try:
            self.task = task = self._spawn(run, self._worker, request, work, self)
        except BaseException as error:
            self.on_ended(work, None, error, 0.0)
            if not isinstance(error, Exception):
                raise
            _log.warning("the handler of %.100r could not be started", self._service, exc_info=True)
            return
        # A task that is killed before it began never calls on_ended itself.
        link = getattr(task, "rawlink", None)
        if link is not None:
            self._on_task_ended = functools.partial(self._on_never_began, work)
            link(self._on_task_ended)

    def _on_never_began(self, work: Work, _: object) -> None:
        self.on_ended(work, None, gevent.GreenletExit("killed before it began"), 0.0)

    # What a running handler calls; any thread

    def on_started(self) -> bool:
        """The handler is about to run; False in the child of a fork, where it must not."""
        if self._owner.abandoned:
            return False
        task = self.task
        if task is gevent.getcurrent() and self._on_task_ended is not None:
            task.unlink(self._on_task_ended)  # from now on it calls on_ended itself
        return True

    def on_part(self, work: Work, body: list[bytes], slot: Slot | None) -> None:
        """The handler yielded a part."""
        self._owner.post(self._receiver.on_part, self, work, body, slot)

    def on_ended(self, work: Work, body: list[bytes] | None, failure: BaseException | None, seconds: float) -> None:
        """The handler ended."""
        self._owner.post(self._receiver.on_handler_ended, self, work, body, failure, seconds)
