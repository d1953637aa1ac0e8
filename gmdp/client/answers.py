"""Answers on their way from a client's owner to whoever waits for them."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, Protocol

import greenlet
from gevent.event import AsyncResult
from gevent.hub import Waiter

from ..core.peer.calls import Call, Part
from ..exceptions import CallCancelled, HubNotRunning, MDPError
from ..io.owner import Owner
from ..io.slots import Slot


class CallEngine(Protocol):
    """What an answer knows of the client it belongs to."""

    owner: Owner

    def cancel(self, call: Call) -> None:
        """In the owner: nobody waits for `call` any more."""


#: Seconds in which a reader may catch up that has more bytes unread than it may: what
#: comes at once, comes before its turn.
CATCHING_UP = 1.0


class Answer:
    """The parts of one answer, from the owner to the one who waits for them.

    The owner appends, then looks for a slot to set; the reader makes a slot,
    then looks for parts: whatever the threads, one of them sees the other.
    """

    __slots__ = (
        "_came",
        "_ended",
        "_over_since",
        "_parts",
        "_slot",
        "_stream_buffer",
        "_stream_bytes",
        "_taken",
        "call",
        "engine",
        "span",
    )

    call: Call
    engine: CallEngine

    def __init__(self, stream_buffer: int, stream_bytes: int) -> None:
        self._stream_buffer = stream_buffer
        self._stream_bytes = stream_bytes
        #: Bytes that came before the last part, for the owner to count; and those of them
        #: that were read, for the reader to.
        self._came = self._taken = 0
        #: Since when more lies unread than may; None if that is not so.
        self._over_since: float | None = None
        self._parts: deque[Part | MDPError] = deque()
        self._slot: Slot | None = None
        self._ended = False
        #: Of the call, where calls are traced.
        self.span: Any = None

    # In the owner

    def part(self, part: Part, now: float) -> bool:
        """A part came; False if there are too many unread."""
        if self._ended:
            return True  # nobody wants it, and the owner will hear of that
        self._tell(part)
        if part.final:
            return True
        self._came += sum(map(len, part.body))
        if self._came - self._taken <= self._stream_bytes:
            self._over_since = None
        elif self._over_since is None:
            self._over_since = now
        elif now > self._over_since + CATCHING_UP:
            return False
        return len(self._parts) <= self._stream_buffer

    def fail(self, error: MDPError) -> None:
        """There will be no answer."""
        self._tell(error)

    def _tell(self, news: Part | MDPError) -> None:
        self._parts.append(news)
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.set(None)

    # In the greenlet or thread that waits

    def __iter__(self) -> Answer:
        return self

    def __next__(self) -> list[bytes]:
        if self._ended:
            raise StopIteration
        try:
            news = self._next_news()
        except BaseException:
            # The caller is killed, or its own timeout fires: nobody waits any more.
            self.close()
            raise
        if isinstance(news, MDPError):
            self._ended = True
            raise news
        if not news.final:
            self._taken += sum(map(len, news.body))
        else:
            self._ended = True
            if news.body == [b""] and self.call.parts > 1:
                raise StopIteration
        return news.body

    def _next_news(self) -> Part | MDPError:
        while not self._parts:
            self._slot = slot = Slot()
            if self._parts:
                self._slot = None
            elif not slot.wait(self._patience()):
                raise HubNotRunning(
                    f"no reply from {self.call.service!r}: the hub of the thread that made the client did not run; "
                    "threaded=True gives the client one of its own",
                    service=self.call.service,
                )
        return self._parts.popleft()

    def _patience(self) -> float | None:
        """In the owner's thread the owner keeps the time; another thread has to
        reckon with a hub that does not run."""
        if self.engine.owner.runs_here:
            return None
        return min(self.call.timeout, self.call.deadline) + 1.0

    def close(self) -> None:
        """Give the call up."""
        if not self._ended:
            self._ended = True
            self._parts.clear()
            self.engine.owner.post(self.engine.cancel, self.call)


class Stream:
    """What :meth:`Client.stream` returns: forgotten by its reader, it gives the
    call up (the owner keeps the answer itself alive)."""

    __slots__ = ("_answer",)

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> list[bytes]:
        return next(self._answer)

    def close(self) -> None:
        """Give the call up; no effect if it has ended."""
        self._answer.close()

    __del__ = close


class FutureAnswer(Answer):
    """An answer as an ``AsyncResult``."""

    __slots__ = ("_frames", "future")

    def __init__(self) -> None:
        super().__init__(0, 0)  # nothing lies unread
        self._frames: list[bytes] = []
        self.future = Future(self)

    def part(self, part: Part, now: float) -> bool:
        """A part came."""
        if self._ended:
            return True
        if not (part.final and part.body == [b""] and self._frames):
            self._frames += part.body
        if part.final:
            self._ended = True
            self.future.settle(self._frames, None)
        return True

    def fail(self, error: MDPError) -> None:
        """There will be no answer."""
        if not self._ended:
            self._ended = True
            self.future.settle(None, error)


def _call_in(context: Context, callback: Callable[[Any], Any], future: Future) -> None:
    context.run(callback, future)


class Future(AsyncResult):  # type: ignore[misc]
    """What :meth:`AsyncClient.submit` returns: a gevent ``AsyncResult`` of the reply's
    frames that can be cancelled.  For greenlets of the client's thread.

    What is given to :meth:`rawlink` runs in the context (:mod:`contextvars`) of the one
    that submitted the call.
    """

    def __init__(self, answer: FutureAnswer) -> None:
        super().__init__()
        self._answer: FutureAnswer | None = answer
        self._cancelled = False
        self._context = copy_context()
        self._linked: list[tuple[Any, Any]] | None = None

    def rawlink(self, callback: Callable[[Any], Any]) -> None:
        """Have the hub call ``callback(future)`` once the call has ended; it must not wait."""
        if callable(callback) and not isinstance(getattr(callback, "__self__", None), (greenlet.greenlet, Waiter)):
            # (What wakes a greenlet is left as it is: that has a context of its own.)
            wrapped = functools.partial(_call_in, self._context.copy(), callback)
            if self._linked is None:
                self._linked = []
            self._linked.append((callback, wrapped))
            callback = wrapped
        super().rawlink(callback)

    def unlink(self, callback: Callable[[Any], Any]) -> None:
        """Do not call it."""
        for index, (given, wrapped) in enumerate(self._linked or ()):
            if given == callback:
                assert self._linked is not None
                del self._linked[index]
                callback = wrapped
                break
        super().unlink(callback)

    def settle(self, frames: list[bytes] | None, error: MDPError | None) -> None:
        """For the client: how the call ended."""
        self._answer = None
        if error is None:
            self.set(frames)
        else:
            self.set_exception(error)

    def cancel(self) -> bool:
        """Give the call up: whoever waits gets CallCancelled.

        A gmdp broker takes the request out of its queue; if a worker has it, its
        answer is dropped, and the worker is told.  False if the call has ended.
        """
        answer = self._answer
        if answer is None:
            return False
        self._cancelled = True
        answer.close()
        call = answer.call
        message = f"the call of service {call.service!r} was cancelled"
        self.settle(None, CallCancelled(message, service=call.service, attempt=call.tries))
        return True

    def cancelled(self) -> bool:
        """True if it was cancelled."""
        return self._cancelled
