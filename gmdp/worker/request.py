"""Requests as handlers get them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic

from zope.interface import implementer

from ..core.peer.sessions import Work
from ..core.snapshots import FrozenDict
from ..interfaces import IRequest
from ..protocol.extension import is_traceparent
from ..protocol.text import show_name

_NO_METADATA: Mapping[str, str] = FrozenDict()


@implementer(IRequest)
class Request:
    """One request as a handler gets it (RFC 7 and RFC 18, REQUEST of MDP/Worker).

    A request is immutable, except for the list of its frames.  Any thread may use it.
    A program makes one only to test its handlers.  It can be pickled, for a process on the same
    machine, and copied.

    Args:
        service: the service asked for.
        body: the frames of the body, at least one.
        attempt: which attempt at the request this is, from 1.
        time_left: seconds that the caller still waits; None if the broker does not say.
        metadata: what the caller gave besides the body.
        clock: returns monotonic seconds.

    Attributes:
        service (bytes): the service asked for.
        body (list of bytes): the frames of the body.
        attempt (int): which attempt this is; 1 if the broker does not say.
        metadata (Mapping of str to str): ``traceparent`` (W3C Trace Context), if the caller gave one.
        received (float): monotonic seconds when the request arrived at this worker.
    """

    __slots__ = ("_clock", "_time_left", "attempt", "body", "metadata", "received", "service")

    def __init__(
        self,
        service: bytes,
        body: list[bytes],
        *,
        attempt: int = 1,
        time_left: float | None = None,
        metadata: Mapping[str, str] = _NO_METADATA,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.service = service
        self.body = body
        self.attempt = attempt
        self.metadata = metadata
        self._clock = clock
        self.received = clock()
        self._time_left = time_left

    @property
    def age(self) -> float:
        """Seconds since the request arrived at this worker."""
        return self._clock() - self.received

    def remaining(self) -> float | None:
        """Seconds that the caller still waits, never below 0; None if the broker does not say.

        0 once the caller has gone.  Any thread.
        """
        return None if self._time_left is None else max(0.0, self._time_left - self.age)

    def give_up(self) -> None:
        """Note that the caller has gone: :meth:`remaining` returns 0 from now on."""
        self._time_left = 0.0

    def __repr__(self) -> str:
        size = sum(map(len, self.body))
        return f"<Request {show_name(self.service, 60)} attempt={self.attempt} frames={len(self.body)} bytes={size}>"


def make_request(service: bytes, work: Work, clock: Callable[[], float] = monotonic) -> Request:
    """Make the request that a handler of `service` gets for `work`, with the hints of a gmdp broker."""
    hints = work.hints
    if hints is None:
        return Request(service, work.body, clock=clock)
    metadata = _NO_METADATA
    if hints.traceparent and is_traceparent(hints.traceparent):
        metadata = FrozenDict({"traceparent": hints.traceparent.decode()})
    return Request(service, work.body, attempt=hints.attempt, time_left=hints.time_left, metadata=metadata, clock=clock)
