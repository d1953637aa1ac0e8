"""How a handler is run.

The rules of this module:

* A handler runs in a context (:mod:`contextvars`) of its own, in the greenlet or thread that ``spawn`` made.
* Any error out of a handler is caught, and made text where the handler runs: its ``str()`` is the handler's code,
  too.  ``on_ended`` is called exactly once for each ``on_started`` that returned True, before anything is logged.
* SystemExit and KeyboardInterrupt end the program, as in any greenlet: a signal's handler may have raised them.
* A part that a handler yields is sent at once.  The handler waits in its ``yield`` while the parts sent have used
  up what their reader has granted (:mod:`gmdp.protocol.extension`), and for its connection once it is
  :data:`PARTS_AHEAD` parts or :data:`BYTES_AHEAD` bytes ahead of it.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
from collections.abc import Callable, Iterator
from contextvars import Context
from time import monotonic
from typing import Any, NamedTuple, Protocol

import gevent
from gevent.pool import Pool
from gevent.threadpool import ThreadPool

from ..core.peer.sessions import Failure, Work
from ..exceptions import ConfigurationError, MDPError, RequestCancelled, StreamStalled
from ..io import guarded, logs
from ..io.lifecycle import current_lifecycle
from ..io.slots import Slot
from ..protocol.extension import INITIAL_CREDIT, part_weight
from ..protocol.text import show_name
from ..tracing import traceparent, tracer
from ..validation import Frame, check_body
from .request import Request

_log = logs.QueuedLogger("gmdp.worker")

_INTERRUPTED = Failure("Interrupted", "the program was told to end")

#: The body of an answer: one frame, or a list or tuple of frames.
Body = Frame | list[bytes] | tuple[bytes, ...]
#: A handler, called with each request.  It returns the answer's body, or an iterator over the
#: bodies of its parts.
Handler = Callable[[Request], Body | Iterator[Body]]

#: Parts that a handler may be ahead of its connection.
PARTS_AHEAD = 16
#: Bytes that a handler may be ahead of its connection, and one part.
BYTES_AHEAD = 1024 * 1024


class HandlerOwner(Protocol):
    """What a running handler belongs to: a worker.  Both are read when they are needed."""

    handler: Handler
    enforce_deadline: bool


class HandlerObserver(Protocol):
    """Learns what a running handler does.  Any greenlet, any thread."""

    def on_started(self) -> bool:
        """The handler is about to run.  Returns False if it must not, since this is the child of a fork."""

    def on_part(self, work: Work, body: list[bytes], slot: PartSlot | None) -> None:
        """The handler yielded a part.

        `slot`: what the handler waits for before its next part; see :class:`PartSlot`.
        """

    def on_ended(self, work: Work, body: list[bytes] | None, failure: Failure | None, seconds: float) -> None:
        """The handler ended after `seconds`, with the body of the FINAL or with a failure.

        With neither, the parts are the whole answer.
        """


class WaitingObserver(HandlerObserver, Protocol):
    """The observer of a handler that may have to wait for its place, in a pool for instance."""

    @property
    def cancelled(self) -> RequestCancelled | None:
        """Why the handler must not begin any more; None if it may."""


def run(owner: HandlerOwner, request: Request, work: Work, observer: HandlerObserver) -> None:
    """Run the handler in a context of its own, and send what it yields; catch all that it raises."""
    Context().run(_run, owner, request, work, observer)


def run_after_wait(owner: HandlerOwner, request: Request, work: Work, observer: WaitingObserver) -> None:
    """Run the handler as :func:`run` does, unless the work was cancelled while it waited for its place."""
    error = observer.cancelled
    if error is None:
        run(owner, request, work, observer)
    elif observer.on_started():
        observer.on_ended(work, None, failure_of(error), 0.0)


def _run(owner: HandlerOwner, request: Request, work: Work, observer: HandlerObserver) -> None:
    if not observer.on_started():
        return
    began = monotonic()
    body: list[bytes] | None = None
    # The outcome if an interrupt hits this function itself.
    failure: Failure | None = _INTERRUPTED
    raised: BaseException | None = None
    try:
        current_lifecycle.set(owner)
        parent = request.metadata.get("traceparent")
        if parent is not None:
            traceparent.set(parent)
        active_tracer = tracer()
        if active_tracer is None:
            body = _answer(owner.handler, request, work, observer)
        else:
            with active_tracer.handler_span(request.service, parent, request.attempt):
                body = _answer(owner.handler, request, work, observer)
        failure = None
    except BaseException as error:
        raised = error
        failure = failure_of(error)
    finally:
        observer.on_ended(work, body, failure, monotonic() - began)
    if raised is not None:
        # The text of gmdp's own errors suffices; any other error needs its traceback.
        with_traceback = None if isinstance(raised, MDPError) else raised
        level = logging.INFO if isinstance(raised, (RequestCancelled, StreamStalled)) else logging.WARNING
        _log.log(level, "the handler of %s failed: %r", show_name(request.service), raised, exc_info=with_traceback)
        if isinstance(raised, guarded.INTERRUPTS):
            raise raised


def failure_of(error: BaseException) -> Failure:
    """Return an error's type and text, even if its class raises when it is asked for them."""
    return Failure(guarded.type_name(error), guarded.text_of(error))


def _answer(handler: Handler, request: Request, work: Work, observer: HandlerObserver) -> list[bytes] | None:
    """Call the handler, and send the parts it yields.  Returns the body of the FINAL."""
    result = handler(request)
    if type(result) is not bytes and isinstance(result, Iterator):  # the second question is a slow one
        return _send_parts(result, work, observer)
    return check_body(result)


class PartSlot(Slot):
    """The slot in which a handler waits in its ``yield``: set once; later values are ignored.

    The value is the credit up to which parts may be sent (a number), True if that has not changed, or
    False if no part is wanted any more.
    """

    __slots__ = ("_is_set",)

    def __init__(self) -> None:
        super().__init__()
        self._is_set = False

    def set(self, value: Any) -> None:
        """Set the value."""
        if not self._is_set:
            self._is_set = True
            super().set(value)

    def fail(self, error: BaseException) -> None:
        """Set an error, to be raised in the handler."""
        if not self._is_set:
            self._is_set = True
            super().fail(error)


def _send_parts(parts: Iterator[Any], work: Work, observer: HandlerObserver) -> list[bytes] | None:
    """Send each item as a PARTIAL.  Returns what a generator returned, as the body of the FINAL."""
    credit: float = INITIAL_CREDIT if work.hints is not None and work.hints.credits else math.inf
    count = sent = 0
    ahead_until = BYTES_AHEAD
    try:
        while True:
            body = check_body(next(parts))
            count += 1
            sent += part_weight(body)
            slot = None
            if sent >= credit or sent >= ahead_until or count % PARTS_AHEAD == 0:
                slot = PartSlot()
            observer.on_part(work, body, slot)
            if slot is not None:
                ahead_until = sent + BYTES_AHEAD
                slot.wait()
                answer = slot.get()
                if answer is False:
                    return None
                if answer is not True:
                    credit = answer
    except StreamStalled as error:
        throw = getattr(parts, "throw", None)
        if throw is None:
            raise
        try:
            throw(error)  # the handler waits in its yield; if it yields once more, it is closed
        except StopIteration:
            pass  # the handler has returned
        return None
    except StopIteration as stop:
        return None if stop.value is None else check_body(stop.value)
    finally:
        close = getattr(parts, "close", None)
        if close is not None:
            close()


class HandlerGreenlet(gevent.Greenlet):  # type: ignore[misc]
    """A greenlet that runs a handler.

    It does not record the stack that spawned it: that is always the owner's loop, and
    recording it is a third of a greenlet's cost.
    """

    spawning_stack_limit = 0


class Spawner(NamedTuple):
    """How handlers are run: `spawn` is called with a function and its arguments."""

    spawn: Callable[..., Any]
    #: True if `spawn` may wait, for a place in a pool for instance: an owner must not call it then.
    may_wait: bool
    #: Handlers that may run at once, where `spawn` is a pool's; else None.
    size: int | None = None
    #: True if handlers run in threads, off the hub.
    in_threads: bool = False


def check_handler(handler: Any) -> Handler:
    """Return `handler` if it can be called with a request; ConfigurationError if it cannot."""
    if not callable(handler):
        raise ConfigurationError(f"handler must be callable, not {handler!r}")
    if isinstance(handler, type):
        name = handler.__qualname__
        raise ConfigurationError(
            f"handler must be a function or an object, not the class {name}; {name}(...) makes one"
        )
    function: Any = handler
    while isinstance(function, functools.partial):
        function = function.func
    for candidate in (function, getattr(function, "__call__", None)):  # noqa: B004  (an object's own method)
        if inspect.iscoroutinefunction(candidate) or inspect.isasyncgenfunction(candidate):
            raise ConfigurationError(
                f"handler must not be async, as {_name(handler)} is: handlers run in greenlets, "
                "where a plain function may wait"
            )
    signature: inspect.Signature | None
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        signature = None  # written in C
    if signature is not None:
        try:
            signature.bind(None)
        except TypeError:
            raise ConfigurationError(
                f"handler must take one argument, the request, and no other; {_name(handler)} takes {signature}"
            ) from None
    checked: Handler = handler
    return checked


def _name(handler: Any) -> str:
    """The name of a function; of another callable, that of its class."""
    return str(getattr(handler, "__qualname__", None) or type(handler).__qualname__)


def make_spawner(spawn: Any) -> Spawner:
    """Return the spawner for what gevent's servers take as ``spawn``; ConfigurationError for anything else.

    None or "default": a new greenlet; "raw": the same without ``Greenlet``'s
    bookkeeping; a whole number: a pool of that size; an object with a ``spawn``
    method (a ``Pool``, a ``ThreadPool``); a callable.
    """
    if spawn is None or spawn == "default":
        return Spawner(HandlerGreenlet.spawn, may_wait=False)
    if spawn == "raw":
        return Spawner(gevent.spawn_raw, may_wait=False)
    if isinstance(spawn, int) and not isinstance(spawn, bool) and spawn > 0:
        return Spawner(Pool(spawn).spawn, may_wait=True, size=spawn)
    if isinstance(spawn, ThreadPool):
        return Spawner(spawn.spawn, may_wait=True, size=spawn.maxsize, in_threads=True)
    if isinstance(spawn, Pool):
        return Spawner(spawn.spawn, may_wait=True, size=spawn.size)
    for candidate in (getattr(spawn, "spawn", None), spawn):
        if callable(candidate):
            return Spawner(candidate, may_wait=True)
    raise ConfigurationError(
        f'spawn must be a pool, a size of at least 1, a callable, "default" or "raw", not {spawn!r}'
    )
