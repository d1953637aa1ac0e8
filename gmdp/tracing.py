"""What the hops of one request have in common: W3C Trace Context, and spans of OpenTelemetry.

* A handler runs in a context (:mod:`contextvars`) of its own, in which :data:`traceparent` is
  the value that its caller gave.  Calls that the handler makes carry on that value, unless
  they are given another.
* Spans are made where the package ``opentelemetry-api`` is installed (the extra ``otel``): one of
  kind CLIENT for the call, one of kind INTERNAL for the request's wait in the broker, and one of
  kind SERVER for the handler, in which it is the current span.
* The call's span travels in the request: gmdp's extension has a place for it, the RFCs have none.
  The other two spans are its children, in other processes.
* The program sets the tracer provider, such as that of the SDK.  Until then no spans are made.
* An error of the program's processors, samplers and exporters is logged, and harms nothing
  but its span.  What an owner calls here goes through :mod:`gmdp.io.guarded` besides.

Logger: ``gmdp.tracing``.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import gevent

from .core.rates import Rates
from .protocol.text import plain_name
from .version import __version__

# Imported with gmdp, and not at the first call: in a monkey-patched program, a later import fails
# if two threads begin it at the same time.
try:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    trace = None

#: The ``traceparent`` (W3C Trace Context) of the request that this context works on; None elsewhere.
traceparent: ContextVar[str | None] = ContextVar("gmdp_traceparent", default=None)

_FIELD = "traceparent"

#: Where failures are logged; :mod:`gmdp.io.logs` replaces it by a logger that never waits.
log: Any = logging.getLogger("gmdp.tracing")
_log_rate = Rates(1.0)

F = TypeVar("F", bound=Callable[..., Any])


def log_failure(error: BaseException) -> None:
    """Log that a span could not be made or ended, once a second at most."""
    if _log_rate.take(None, time.monotonic()):
        log.error("a span could not be made or ended", exc_info=error)


def _guarded(method: F) -> F:
    """Return a version of `method` that logs an Exception and returns None instead.

    The ``gevent.Timeout`` that a caller began may fire in a processor that waits: it is the caller's.
    """

    @functools.wraps(method)
    def call(*args: Any) -> Any:
        try:
            return method(*args)
        except Exception as error:
            log_failure(error)
            return None

    return call  # type: ignore[return-value]


class Tracer:
    """Makes gmdp's spans, through OpenTelemetry's public API.  Any thread."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("gmdp", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def _context_of(self, parent: str | None) -> Any:
        """Return the context whose current span is `parent`; None (the caller's context) if there is no parent."""
        return None if parent is None else self._propagator.extract({_FIELD: parent})

    @_guarded
    def begin_call(self, service: bytes, parent: str | None) -> tuple[Any, str | None] | None:
        """Begin a call's span.  Returns it and the ``traceparent`` of its request; None if that fails."""
        if parent is None and not trace.get_current_span().get_span_context().is_valid:
            parent = traceparent.get()
        span = self._tracer.start_span(
            f"call {plain_name(service)}",
            self._context_of(parent),
            trace.SpanKind.CLIENT,
            attributes={"rpc.system": "gmdp", "rpc.service": plain_name(service)},
        )
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, trace.set_span_in_context(span))
        return span, carrier.get(_FIELD, parent)

    @_guarded
    def end_call(self, span: Any, error: str = "") -> None:
        """End a call's span; `error` says why there is no answer, if there is none."""
        if error:
            span.set_status(trace.StatusCode.ERROR, error)
        span.end()

    @_guarded
    def record_wait(self, service: bytes, parent: bytes, seconds: float, attempt: int) -> None:
        """Make the span of a request that waited for `seconds` in a broker until a worker got it."""
        now = time.time_ns()  # the only use of a wall clock: readers compare the spans of many hosts
        self._tracer.start_span(
            f"wait {plain_name(service)}",
            self._context_of(parent.decode("latin-1")),
            attributes={"rpc.system": "gmdp", "rpc.service": plain_name(service), "gmdp.attempt": attempt},
            start_time=now - int(seconds * 1e9),
        ).end(now)

    @contextmanager
    def handler_span(self, service: bytes, parent: str | None, attempt: int) -> Iterator[None]:
        """Keep a span open while a handler runs; the span records the handler's error."""
        manager = self._enter_handler_span(service, parent, attempt)
        try:
            yield
        except BaseException as error:
            if manager is not None:
                self._exit(manager, type(error), error, error.__traceback__)
            raise
        if manager is not None:
            self._exit(manager, None, None, None)

    @_guarded
    def _enter_handler_span(self, service: bytes, parent: str | None, attempt: int) -> Any:
        manager = self._tracer.start_as_current_span(
            f"handle {plain_name(service)}",
            self._context_of(parent),
            trace.SpanKind.SERVER,
            attributes={"rpc.system": "gmdp", "rpc.service": plain_name(service), "gmdp.attempt": attempt},
        )
        manager.__enter__()
        return manager

    def _exit(self, manager: Any, *error: Any) -> None:
        try:
            manager.__exit__(*error)
        except (KeyboardInterrupt, SystemExit, gevent.GreenletExit):
            raise
        except BaseException as failure:  # a gevent.Timeout, too: the handler has returned
            log_failure(failure)


def can_trace() -> bool:
    """Return whether OpenTelemetry is installed, so that spans may be made, now or later."""
    return trace is not None


def record_wait(service: bytes, parent: bytes, seconds: float, attempt: int) -> None:
    """Make the span of a request that waited in a broker, as :meth:`Tracer.record_wait` does, if spans are made."""
    active_tracer = tracer()
    if active_tracer is not None:
        active_tracer.record_wait(service, parent, seconds, attempt)


_tracer: Tracer | None = None


def tracer() -> Tracer | None:
    """Return the tracer if OpenTelemetry is installed and the program has set a provider; else None.

    Without a provider every span would be empty, and would cost a quarter of its call.  A provider that fails
    is as none.
    """
    global _tracer
    if _tracer is None and trace is not None:
        try:
            if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
                _tracer = Tracer()
        except Exception as error:
            log_failure(error)
    return _tracer
