"""The answers of calls that are not waited for: gevent's ``AsyncResult`` of a reply."""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

import gevent
import greenlet
from gevent.event import AsyncResult
from gevent.hub import Waiter

from ..core.peer.calls import Part
from ..exceptions import CallCancelled, MDPError
from ..io import guarded, logs
from ..io.owner import check_may_wait
from ..io.slots import Slot
from ..protocol.text import show_name
from .answers import Answer

_log = logs.QueuedLogger("gmdp")


class FutureAnswer(Answer):
    """An answer that becomes the value of a :class:`Future`."""

    __slots__ = ("_frames", "future")

    is_awaited = False

    def __init__(self) -> None:
        super().__init__(0)  # no part waits to be read
        self._frames: list[bytes] = []
        self.future = Future(self)

    def add_part(self, part: Part, now: float) -> bool:
        """Join a part to those before it.  Returns True, since no part waits to be read."""
        if self._has_ended:
            return True
        if not (part.final and part.body == [b""] and self._frames):
            self._frames += part.body
        if not part.final:
            call = part.call
            call.consumed = call.received
            if call.consumed >= call.grant_at:
                self.canceller.grant(call)
        else:
            self._has_ended = True
            self.future._resolve(self._frames, None)
        return True

    def fail(self, error: MDPError) -> None:
        """End with `error`."""
        if not self._has_ended:
            self._has_ended = True
            self.future._resolve(None, error)


class EndedQueue:
    """Futures in the order in which their calls ended, for one reader in any thread."""

    def __init__(self) -> None:
        self._futures: deque[Future] = deque()
        self._slot: Slot | None = None

    def put(self, future: Future) -> None:
        """Add a future; any thread."""
        self._futures.append(future)
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.set(None)

    def get(self, waits_for: Future) -> Future:
        """Wait for a future and return it.

        `waits_for`: a future that will come; it knows how long to wait for its owner.
        """
        while not self._futures:
            self._slot = slot = Slot()
            if self._futures:
                self._slot = None
            else:
                check_may_wait()
                waits_for.wait_for_owner(slot)
        return self._futures.popleft()


def _call_in(context: Context, callback: Callable[[Any], Any], future: Future) -> None:
    guarded.call(context.run, callback, future, default=None, on_error=_log_failure)


def _log_failure(error: BaseException) -> None:
    _log.exception("a callback of a future failed")


class Future(AsyncResult):  # type: ignore[misc]
    """The reply of a call that :meth:`gmdp.AsyncClient.submit` began.

    A gevent ``AsyncResult`` of the reply's frames, which can be cancelled.  Any greenlet of any thread
    may wait for it.  In a thread without a hub no hub is made.  Callbacks given to :meth:`rawlink` run
    in a hub, and in the context (:mod:`contextvars`) of the code that began the call.

    Args:
        answer: takes the reply from the client.
    """

    def __init__(self, answer: FutureAnswer) -> None:
        super().__init__()
        #: None once the call has ended.
        self._answer: FutureAnswer | None = answer
        self._cancelled = False
        self._context = copy_context()
        #: Callbacks as they were given, and as they were linked.
        self._linked: list[tuple[Any, Any]] | None = None
        #: The owner, or `cancel` in any thread, takes the one entry, and thereby ends the call.
        self._open = [True]
        #: Slots of those that wait in another thread than the client's, and queues that get the future.
        self._slots: deque[Slot] = deque()
        self._queues: deque[EndedQueue] = deque()

    def get(self, block: bool = True, timeout: float | None = None) -> list[bytes]:
        """Wait for the reply and return it.

        Args:
            block: False: do not wait.
            timeout: seconds; None: as long as the call takes.

        Raises:
            gevent.Timeout: there is no reply yet.
            StateError: there is no reply yet, and the caller is a hook or a callback of the hub.
            MDPError: how the call ended, as :meth:`gmdp.Client.request` raises it.
        """
        if block and self._is_elsewhere():
            if not self._wait_elsewhere(timeout):
                error = gevent.Timeout()  # one of so many seconds would make a hub
                error.seconds = timeout
                raise error
            block = False
        frames: list[bytes] = super().get(block, timeout)
        return frames

    def wait(self, timeout: float | None = None) -> list[bytes] | None:
        """Wait until the call has ended, for `timeout` seconds at most; returns the reply, or None.

        Raises:
            StateError: the call has not ended, and the caller is a hook or a callback of the hub.
        """
        if not self._is_elsewhere():
            super().wait(timeout)
        else:
            self._wait_elsewhere(timeout)
        frames: list[bytes] | None = self.value
        return frames

    def _is_elsewhere(self) -> bool:
        """Before a wait: return whether the call may be open, and its owner is of another thread."""
        if self.ready():
            return False
        check_may_wait()
        answer = self._answer
        return answer is None or not answer.canceller.owner.runs_here

    def _wait_elsewhere(self, timeout: float | None) -> bool:
        slot = Slot()
        self._slots.append(slot)
        if self.ready():
            return True
        was_set = False
        try:
            if timeout is None:
                self.wait_for_owner(slot)
                was_set = True
            else:
                was_set = slot.wait(timeout)
        finally:
            if not was_set:
                with contextlib.suppress(ValueError):  # the call has just ended
                    self._slots.remove(slot)
        return was_set

    def rawlink(self, callback: Callable[[Any], Any]) -> None:
        """Have the hub call a callback once the call has ended.  What it raises is logged.

        Args:
            callback: called with the future; it must not block.
        """
        # A waiting greenlet has a context of its own, so its callback is linked unchanged.
        if callable(callback) and not isinstance(getattr(callback, "__self__", None), (greenlet.greenlet, Waiter)):
            wrapped = functools.partial(_call_in, self._context.copy(), callback)
            if self._linked is None:
                self._linked = []
            self._linked.append((callback, wrapped))
            callback = wrapped
        super().rawlink(callback)

    def unlink(self, callback: Callable[[Any], Any]) -> None:
        """Undo one :meth:`rawlink`; no effect if there was none.

        Args:
            callback: the one that was given to :meth:`rawlink`.
        """
        for index, (original, wrapped) in enumerate(self._linked or ()):
            if original == callback:
                assert self._linked is not None
                del self._linked[index]
                callback = wrapped
                break
        super().unlink(callback)

    def _resolve(self, frames: list[bytes] | None, error: MDPError | None) -> bool:
        """Give the future its value or its error: the call has ended.  Returns False if it had ended before."""
        try:
            self._open.pop()
        except IndexError:
            return False
        self._answer = None
        self._cancelled = isinstance(error, CallCancelled)
        if error is None:
            self.set(frames)
        else:
            self.set_exception(error)
        try:
            while True:
                self._slots.popleft().set(None)
        except IndexError:
            pass  # a thread whose wait has timed out takes its slot away
        self._empty_queues()
        return True

    def put_into(self, queue: EndedQueue) -> None:
        """Put the future into `queue` once the call has ended."""
        self._queues.append(queue)
        if self.ready():
            self._empty_queues()

    def _empty_queues(self) -> None:
        try:
            while True:
                self._queues.pop().put(self)
        except IndexError:
            return

    def wait_for_owner(self, slot: Slot) -> None:
        """Wait until `slot` is set; HubNotRunning if the owner is of another thread, and its hub does not run."""
        answer = self._answer
        if answer is None:
            slot.wait()  # the call has just ended
        else:
            answer.wait(slot)

    def cancel(self) -> bool:
        """End the call; waiting greenlets get CallCancelled.

        A gmdp broker takes the request out of its queue.  If a worker has the request, the
        worker is told, and its answer is dropped.

        Returns:
            False if the call had ended before.
        """
        answer = self._answer
        if answer is None:
            return False
        answer.close()
        call = answer.call
        message = f"the call of service {show_name(call.service)} was cancelled"
        return self._resolve(None, CallCancelled(message, service=call.service, attempt=call.tries))

    def cancelled(self) -> bool:
        """True if :meth:`cancel` ended the call."""
        return self._cancelled
