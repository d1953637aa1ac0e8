"""Requests as handlers get them, and how a handler is run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextvars import Context
from time import monotonic
from types import MappingProxyType
from typing import Any, Protocol, cast

import gevent
from gevent.pool import Pool
from zope.interface import implementer

from ..core.peer.sessions import Work
from ..exceptions import ConfigurationError, MDPError, RequestCancelled
from ..interfaces import IRequest
from ..io.lifecycle import running_in
from ..io.slots import Slot
from ..protocol.extension import is_traceparent
from ..tracing import traceparent, tracer
from ..validation import check_body

_log = logging.getLogger("gmdp.worker")
_NOTHING: Mapping[str, str] = MappingProxyType({})


@implementer(IRequest)
class Request:
    """One request as a handler gets it.  Immutable but for the list of frames.

    `metadata` holds ``traceparent`` (W3C Trace Context) if the caller gave one.
    """

    __slots__ = ("_clock", "_time_left", "attempt", "body", "metadata", "received", "service")

    def __init__(
        self,
        service: bytes,
        body: list[bytes],
        *,
        attempt: int = 1,
        time_left: float | None = None,
        metadata: Mapping[str, str] = _NOTHING,
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
        """Seconds since it arrived at this worker."""
        return self._clock() - self.received

    def remaining(self) -> float | None:
        """Seconds its caller still waits, never below 0; None if nobody told.

        0 once the caller has gone.  Any thread.
        """
        return None if self._time_left is None else max(0.0, self._time_left - self.age)

    def give_up(self) -> None:
        """Its caller has gone: nothing remains."""
        self._time_left = 0.0

    def __repr__(self) -> str:
        size = sum(map(len, self.body))
        return f"<Request {self.service[:60]!r} attempt={self.attempt} frames={len(self.body)} bytes={size}>"


Handler = Callable[[Any], Any]


class Sink(Protocol):
    """Where a running handler's results go; safe from any greenlet and thread."""

    def begun(self) -> bool:
        """The handler is about to run, and will say that it ended; False: it must not, this is another process."""

    def partial(self, work: Work, body: list[bytes], slot: Slot | None) -> None:
        """A part of the answer; `slot` hears True when it left, False if nobody wants it."""

    def final(self, work: Work, body: list[bytes] | None, failure: BaseException | None, seconds: float) -> None:
        """The handler ended."""


#: Parts a handler may be ahead of its connection.
PARTS_AHEAD = 16


def run(owner: object, handler: Handler, request: Request, work: Work, sink: Sink) -> None:
    """Run `handler` and everything it yields, catching everything, in a context of its own."""
    Context().run(_run, owner, handler, request, work, sink)


def _run(owner: object, handler: Handler, request: Request, work: Work, sink: Sink) -> None:
    if not sink.begun():
        return
    began = monotonic()
    body: list[bytes] | None = None
    failure: BaseException | None = None
    running_in.set(owner)
    parent = request.metadata.get("traceparent")
    if parent is not None:
        traceparent.set(parent)
    traced = tracer()
    try:
        if traced is None:
            body = _result(handler, request, work, sink)
        else:
            with traced.handler_span(request.service, parent, request.attempt):
                body = _result(handler, request, work, sink)
    except BaseException as error:
        failure = error
        # An error of ours says it all; anything else is the handler's, and needs its place.
        trace = not isinstance(error, MDPError)
        level = logging.INFO if isinstance(error, RequestCancelled) else logging.WARNING
        _log.log(level, "the handler of %.100r failed: %r", request.service, error, exc_info=trace)
    finally:
        sink.final(work, body, failure, monotonic() - began)
    if isinstance(failure, KeyboardInterrupt):
        raise failure  # the user's Ctrl-C was not meant for the handler it hit


def _result(handler: Handler, request: Request, work: Work, sink: Sink) -> list[bytes] | None:
    """The body of the FINAL; parts were sent before."""
    result = handler(request)
    return _drain(result, work, sink) if isinstance(result, Iterator) else check_body(result)


def _drain(parts: Iterator[Any], work: Work, sink: Sink) -> list[bytes] | None:
    """Send each item as a PARTIAL; returns what a generator returned as FINAL."""
    ahead = 0
    try:
        while True:
            body = check_body(next(parts))
            ahead += 1
            slot = Slot() if ahead % PARTS_AHEAD == 0 else None
            sink.partial(work, body, slot)
            if slot is not None:
                slot.wait()
                if not slot.get():
                    return None
    except StopIteration as stop:
        return None if stop.value is None else check_body(stop.value)
    finally:
        close = getattr(parts, "close", None)
        if close is not None:
            close()


class HandlerGreenlet(gevent.Greenlet):  # type: ignore[misc]
    """What runs a handler.  It does not keep where it was spawned, which is always the
    owner's loop: to look at that stack is a third of what a greenlet costs."""

    spawning_stack_limit = 0


def _callable(spawn: Any) -> Callable[..., Any]:
    return cast("Callable[..., Any]", spawn)


def spawner(spawn: Any) -> tuple[Callable[..., Any], bool]:
    """What gevent's servers take as ``spawn``, as one callable; and whether it may wait.

    None or "default": a new greenlet; "raw": the same without ``Greenlet``'s
    bookkeeping; a whole number: a pool of that size; an object with a ``spawn``
    method (a ``Pool``, a ``ThreadPool``); a callable.
    """
    if spawn is None or spawn == "default":
        return _callable(HandlerGreenlet.spawn), False
    if spawn == "raw":
        return _callable(gevent.spawn_raw), False
    if isinstance(spawn, int) and not isinstance(spawn, bool) and spawn > 0:
        return _callable(Pool(spawn).spawn), True
    for candidate in (getattr(spawn, "spawn", None), spawn):
        if callable(candidate):
            return _callable(candidate), True
    raise ConfigurationError(
        f'spawn must be a pool, a size of at least 1, a callable, "default" or "raw", not {spawn!r}'
    )


def request_of(service: bytes, work: Work, clock: Callable[[], float] = monotonic) -> Request:
    """The request that `work` is, with what its address tells."""
    told = work.told
    if told is None:
        return Request(service, work.body, clock=clock)
    metadata = _NOTHING
    if is_traceparent(told.traceparent):
        metadata = MappingProxyType({"traceparent": told.traceparent.decode()})
    return Request(service, work.body, attempt=told.attempt, time_left=told.time_left, metadata=metadata, clock=clock)
