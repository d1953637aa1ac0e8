"""The errors of calls that ended without their answer."""

from __future__ import annotations

from .. import exceptions
from ..core.outcomes import ROW_OF_OUTCOME
from ..core.peer.calls import LEAST_TRY, Ended
from ..exceptions import CallError, HandlerFailed
from ..protocol.text import show_name

#: The class of each outcome's error.
_CLASSES = {outcome: getattr(exceptions, row.error) for outcome, row in ROW_OF_OUTCOME.items()}


def error_of(ended: Ended, now: float) -> CallError:
    """Return a new error that says how a call ended; not for calls that were cancelled or closed.

    The message's last part is the first of these that exists: the client's own detail, the
    body that the broker sent, the text of the table of outcomes.
    """
    call = ended.call
    elapsed = max(0.0, now - call.submitted_at)
    texts = [frame.decode("utf-8", "replace") for frame in ended.body[:2]]
    detail = ended.detail or ": ".join(filter(None, texts)) or ROW_OF_OUTCOME[ended.outcome].message
    tries = f"{call.tries} {'try' if call.tries == 1 else 'tries'}"
    if call.deliveries:
        tries += f", {call.deliveries} {'delivery' if call.deliveries == 1 else 'deliveries'}"
    if call.retries_cut:
        tries += f" (a try lasts at least {LEAST_TRY:g} s)"
    error: CallError = _CLASSES[ended.outcome](
        f"{ended.outcome.value}: service {show_name(call.service)}, after {elapsed:.3f} s and {tries}"
        + (f": {detail}" if detail else ""),
        service=call.service,
        elapsed=elapsed,
        attempt=call.tries,
        deliveries=call.deliveries,
    )
    if isinstance(error, HandlerFailed) and len(texts) == 2:
        error.type_name, error.detail = texts
    return error
