"""The answers of calls that are not waited for: gevent's ``AsyncResult`` of a reply."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

import greenlet
from gevent.event import AsyncResult
from gevent.hub import Waiter

from ..core.peer.calls import Part
from ..exceptions import CallCancelled, MDPError
from ..io import guarded, logs
from .answers import Answer

_log = logs.QueuedLogger("gmdp")


class FutureAnswer(Answer):
    """An answer that becomes the value of a :class:`Future`."""

    __slots__ = ("_frames", "future")

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


def _call_in(context: Context, callback: Callable[[Any], Any], future: Future) -> None:
    guarded.call(context.run, callback, future, default=None, on_error=_log_failure)


def _log_failure(error: BaseException) -> None:
    _log.exception("a callback of a future failed")


class Future(AsyncResult):  # type: ignore[misc]
    """The reply of a call that :meth:`gmdp.AsyncClient.submit` began.

    A gevent ``AsyncResult`` of the reply's frames, which can be cancelled.  For greenlets
    of the client's thread.  Callbacks given to :meth:`rawlink` run in the context
    (:mod:`contextvars`) of the greenlet that began the call.

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

    def _resolve(self, frames: list[bytes] | None, error: MDPError | None) -> None:
        """Give the future its value or its error: the call has ended."""
        self._answer = None
        if error is None:
            self.set(frames)
        else:
            self.set_exception(error)

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
        self._cancelled = True
        answer.close()
        call = answer.call
        message = f"the call of service {call.service!r} was cancelled"
        self._resolve(None, CallCancelled(message, service=call.service, attempt=call.tries))
        return True

    def cancelled(self) -> bool:
        """True if :meth:`cancel` ended the call."""
        return self._cancelled
