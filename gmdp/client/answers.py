"""Answers on their way from a client's owner to the greenlet or thread that waits for them.

The owner appends a part and then looks for a slot to set.  The reader makes a slot and then
looks for parts.  Whatever their threads are, one of the two sees the other's act.
"""

from __future__ import annotations

import math
import operator
from collections import deque
from typing import Any, Protocol

from ..core.peer.calls import Call, Part
from ..exceptions import HubNotRunning, MDPError
from ..io import forks
from ..io.owner import Owner, check_may_wait
from ..io.slots import FirstPass, Slot
from ..protocol.extension import part_weight
from ..protocol.text import show_name
from ..validation import check_number


class Canceller(Protocol):
    """Cancels calls and grants credits: what an answer needs of its client's engine."""

    owner: Owner
    #: Tells whether the owner's hub runs.
    first_pass: FirstPass | None

    def cancel(self, call: Call) -> None:
        """In the owner: end `call`, whose caller has stopped waiting."""

    def grant(self, call: Call) -> None:
        """In the owner: grant the handler of `call` new credit, since its reader has taken parts."""


#: Seconds for which more than `stream_bytes` may be unread: a burst arrives before its reader runs.
CATCH_UP_TIME = 1.0


def hub_not_running(first_pass: FirstPass | None) -> str:
    """Return the words for an error: the hub of a client's thread does not run."""
    since = " since the client was made" if first_pass is not None and not first_pass.made else ""
    return f"the hub of the thread that made the client did not run{since}; threaded=True gives it one of its own"


class Answer:
    """The parts of one call's answer, as an iterator over their bodies.

    A part counts as taken once the reader asks for the next one, or says so earlier.

    Args:
        stream_bytes: weight of the parts before the last that may be unread for longer than
            :data:`CATCH_UP_TIME`.  Where the handler heeds credits, the unread parts never weigh more than that.
    """

    __slots__ = (
        "_has_ended",
        "_held",
        "_over_since",
        "_parts",
        "_slot",
        "_stream_bytes",
        "call",
        "canceller",
        "span",
    )

    #: True if the greenlet that makes the call waits for the parts.
    is_awaited = True

    #: Both are set before the call is posted to the owner.
    call: Call
    canceller: Canceller

    def __init__(self, stream_bytes: int) -> None:
        self._stream_bytes = stream_bytes
        #: The weight of the part that the reader has, as far as it is not counted as taken.
        self._held = 0
        #: The time since which too many bytes are unread; None if not too many are.
        self._over_since: float | None = None
        self._parts: deque[Part | MDPError] = deque()
        self._slot: Slot | None = None
        #: True once the reader gets nothing more.
        self._has_ended = False
        #: The call's span, where calls are traced.
        self.span: Any = None

    # In the owner

    def add_part(self, part: Part, now: float) -> bool:
        """Give a part to the reader; False if too much is unread."""
        if self._has_ended:
            return True  # the reader has stopped; the cancel is on its way to the owner
        self._append(part)
        if part.final:
            return True
        if self.call.received - self.call.consumed <= self._stream_bytes:
            self._over_since = None
        elif self._over_since is None:
            self._over_since = now
        else:
            return now <= self._over_since + CATCH_UP_TIME
        return True

    def fail(self, error: MDPError) -> None:
        """Give an error to the reader, in place of the parts that are missing."""
        self._append(error)

    def _append(self, part: Part | MDPError) -> None:
        self._parts.append(part)
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.set(None)

    # In the greenlet or thread that waits

    def __iter__(self) -> Answer:
        return self

    def __next__(self) -> list[bytes]:
        if self._has_ended:
            raise StopIteration
        if self._held:
            self.note_taken(self._held)
        try:
            part = self._next_part()
        except BaseException:
            # The reader was killed, or its own timeout fired: it has stopped waiting.
            self.close()
            raise
        if isinstance(part, MDPError):
            self._has_ended = True
            raise part
        if not part.final:
            self._held = part_weight(part.body)
        else:
            self._has_ended = True
            if part.body == [b""] and self.call.parts > 1:
                raise StopIteration
        return part.body

    def note_taken(self, weight: int) -> None:
        """Count `weight` of the part that was read last as taken: its handler may go on so much earlier."""
        call = self.call
        weight = min(weight, self._held)
        self._held -= weight
        call.consumed += weight
        if call.consumed >= call.grant_at:
            call.grant_at = math.inf  # until the owner has granted more
            self.canceller.owner.post(self.canceller.grant, call)

    def _next_part(self) -> Part | MDPError:
        while not self._parts:
            self._slot = slot = Slot()
            if self._parts:
                self._slot = None
            else:
                self.wait(slot)
        return self._parts.popleft()

    def wait(self, slot: Slot) -> None:
        """Wait until the owner has set `slot`; in another thread, HubNotRunning if the owner's hub does not run."""
        canceller = self.canceller
        if canceller.owner.runs_here:
            slot.wait()  # the owner keeps the time
            return
        time_to_wait = min(self.call.timeout, self.call.deadline) + 1.0
        first_pass = canceller.first_pass
        if not (slot.wait(time_to_wait) if first_pass is None else first_pass.wait(slot, time_to_wait)):
            raise HubNotRunning(
                f"no reply from {show_name(self.call.service)}: {hub_not_running(first_pass)}",
                service=self.call.service,
            )

    def close(self) -> None:
        """End the call; no effect if it has ended."""
        forks.notice()
        if not self._has_ended:
            self._has_ended = True
            self._parts.clear()
            self.canceller.owner.post(self.canceller.cancel, self.call)


class StreamAnswer(Answer):
    """An answer whose parts any code may ask for: each wait looks whether that code may wait."""

    __slots__ = ()

    def wait(self, slot: Slot) -> None:
        """Wait as other answers do; StateError in a hook or in a callback of the hub."""
        check_may_wait()
        super().wait(slot)


class Stream:
    """The iterator that :meth:`gmdp.Client.stream` returns.

    A reader that drops the stream ends its call: the owner keeps the answer alive, but not
    the stream.

    Args:
        answer: what the stream reads.
    """

    __slots__ = ("_answer",)

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> list[bytes]:
        return next(self._answer)

    def note_taken(self, size: int) -> None:
        """Note that `size` bytes of the part that was read last were passed on.

        A reader that passes large parts on slowly calls this as it goes: the handler may go on earlier,
        and the broker sees that the stream has not stalled.  Without it, a part counts once the next is read.

        Args:
            size: bytes, a whole number of at least 0.

        Raises:
            ConfigurationError: `size` is negative.
            TypeError: `size` is not a whole number.
        """
        # The owner puts the sum into a frame, where a fraction would end the client for all its callers.
        self._answer.note_taken(check_number("size", operator.index(size), whole=True))

    def close(self) -> None:
        """End the call; no effect if it has ended."""
        self._answer.close()

    __del__ = close
