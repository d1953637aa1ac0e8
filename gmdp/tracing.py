"""What the hops of one request have in common: W3C Trace Context, and spans where OpenTelemetry is installed.

* A handler runs in a context (:mod:`contextvars`) of its own in which :data:`traceparent`
  is what its caller gave.  Calls it makes carry that on, unless they are told another.
* Where the package ``opentelemetry-api`` is installed (the extra ``otel``), there are
  spans, through its public API: one of kind CLIENT for each call, one INTERNAL for what
  the request waited in the broker, one of kind SERVER for its handler, which is the
  current span there.  The call's span goes along in the request (RFC 18 has no place for
  it: gmdp's extension has), so that the other two are its children in other processes.
  Where they go to is the program's to say: until it has set a tracer provider, as that of the
  SDK, there are none.  What the program's processors, samplers and exporters raise is logged,
  and harms nothing but the span.

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

from .core.rates import Rates
from .version import __version__

# Here and now: an import from two threads at a time, later, is one too many where it is monkey-patched.
try:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    trace = None

#: ``traceparent`` (W3C Trace Context) of the request this context works on; None elsewhere.
traceparent: ContextVar[str | None] = ContextVar("gmdp_traceparent", default=None)

_FIELD = "traceparent"

_log = logging.getLogger("gmdp.tracing")
_complaints = Rates(1.0)

F = TypeVar("F", bound=Callable[..., Any])


def _complain() -> None:
    if _complaints.take(None, time.monotonic()):
        _log.exception("a span could not be made or ended")


def _harmless(method: F) -> F:
    """A method that returns None where what it calls fails."""

    @functools.wraps(method)
    def guarded(*args: Any) -> Any:
        try:
            return method(*args)
        except Exception:
            _complain()
            return None

    return guarded  # type: ignore[return-value]


class Tracer:
    """OpenTelemetry as gmdp uses it.  Any thread."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("gmdp", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def _context(self, parent: str | None) -> Any:
        """Where a span belongs that has this parent; None for what is current."""
        return None if parent is None else self._propagator.extract({_FIELD: parent})

    @_harmless
    def call(self, service: bytes, given: str | None) -> tuple[Any, str | None] | None:
        """Begin a call's span; returns it, and what its request is to carry; None if there can be none."""
        if given is None and not trace.get_current_span().get_span_context().is_valid:
            given = traceparent.get()
        span = self._tracer.start_span(
            f"call {_name(service)}",
            self._context(given),
            trace.SpanKind.CLIENT,
            attributes={"rpc.system": "gmdp", "rpc.service": _name(service)},
        )
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, trace.set_span_in_context(span))
        return span, carrier.get(_FIELD, given)

    @_harmless
    def ended(self, span: Any, error: str = "") -> None:
        """A call's span ends; `error` says why there is no answer."""
        if error:
            span.set_status(trace.StatusCode.ERROR, error)
        span.end()

    @_harmless
    def waited(self, service: bytes, parent: bytes, seconds: float, attempt: int) -> None:
        """A request was given to a worker, after `seconds` in a broker."""
        now = time.time_ns()  # the one place for a wall clock: what a span's readers compare
        self._tracer.start_span(
            f"wait {_name(service)}",
            self._context(parent.decode("latin-1")),
            attributes={"rpc.system": "gmdp", "rpc.service": _name(service), "gmdp.attempt": attempt},
            start_time=now - int(seconds * 1e9),
        ).end(now)

    @contextmanager
    def handling(self, service: bytes, parent: str | None, attempt: int) -> Iterator[None]:
        """A handler runs; what it raises is recorded."""
        manager = self._handling(service, parent, attempt)
        try:
            yield
        except BaseException as error:
            if manager is not None:
                self._leave(manager, type(error), error, error.__traceback__)
            raise
        if manager is not None:
            self._leave(manager, None, None, None)

    @_harmless
    def _handling(self, service: bytes, parent: str | None, attempt: int) -> Any:
        manager = self._tracer.start_as_current_span(
            f"handle {_name(service)}",
            self._context(parent),
            trace.SpanKind.SERVER,
            attributes={"rpc.system": "gmdp", "rpc.service": _name(service), "gmdp.attempt": attempt},
        )
        manager.__enter__()
        return manager

    @_harmless
    def _leave(self, manager: Any, *error: Any) -> None:
        manager.__exit__(*error)


def _name(service: bytes) -> str:
    return service.decode("utf-8", "replace")


def can_trace() -> bool:
    """Might there be spans, now or later?"""
    return trace is not None


_tracer: Tracer | None = None


def tracer() -> Tracer | None:
    """OpenTelemetry, if it is installed and the program has set a provider.

    Without one all spans would be empty, and making them a quarter of what a call costs.
    """
    global _tracer
    if _tracer is None:
        if trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            return None
        _tracer = Tracer()
    return _tracer
