"""What a call's end without its answer is to whoever waits: an error."""

from __future__ import annotations

from ..core.peer.calls import Ended, Outcome
from ..exceptions import (
    AuthenticationFailed,
    BrokerLost,
    BrokerShuttingDown,
    CallError,
    HandlerFailed,
    MessageTooLarge,
    NotAllowed,
    NoWorker,
    Overloaded,
    RequestExpired,
    RequestTimeout,
    StreamOverflow,
    UnsupportedBroker,
    WorkerLost,
)

_ERRORS: dict[Outcome, type[CallError]] = {
    Outcome.TIMEOUT: RequestTimeout,
    Outcome.BROKER_LOST: BrokerLost,
    Outcome.UNSUPPORTED: UnsupportedBroker,
    Outcome.DENIED: AuthenticationFailed,
    Outcome.OVERFLOW: StreamOverflow,
    Outcome.NO_WORKER: NoWorker,
    Outcome.EXPIRED: RequestExpired,
    Outcome.OVERLOADED: Overloaded,
    Outcome.WORKER_LOST: WorkerLost,
    Outcome.HANDLER_FAILED: HandlerFailed,
    Outcome.NOT_ALLOWED: NotAllowed,
    Outcome.TOO_LARGE: MessageTooLarge,
    Outcome.SHUTTING_DOWN: BrokerShuttingDown,
}

#: What an error's message adds where nobody said more.
_DETAILS = {
    Outcome.OVERFLOW: "its reader did not keep up",
    Outcome.NO_WORKER: "no worker is registered",
    Outcome.EXPIRED: "no worker was free in time",
    Outcome.OVERLOADED: "a bound of the broker's was reached",
    Outcome.WORKER_LOST: "the workers that had it were lost",
    Outcome.TOO_LARGE: "the broker does not take messages as large",
}


def error_of(ended: Ended, now: float) -> CallError:
    """The error of a call that was neither cancelled nor closed; one of its own for each caller."""
    call = ended.call
    elapsed = max(0.0, now - call.submitted)
    told = [frame.decode("utf-8", "replace") for frame in ended.body[:2]]
    detail = ended.detail or ": ".join(filter(None, told)) or _DETAILS.get(ended.outcome, "")
    tries = f"{call.tries} {'try' if call.tries == 1 else 'tries'}"
    if call.deliveries:
        tries += f", {call.deliveries} {'delivery' if call.deliveries == 1 else 'deliveries'}"
    error = _ERRORS[ended.outcome](
        f"{ended.outcome.value}: service {call.service!r}, after {elapsed:.3f} s and {tries}"
        + (f": {detail}" if detail else ""),
        service=call.service,
        elapsed=elapsed,
        attempt=call.tries,
        deliveries=call.deliveries,
    )
    if isinstance(error, HandlerFailed) and len(told) == 2:
        error.type_name, error.detail = told
    return error
