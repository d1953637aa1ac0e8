"""The table of all ways in which requests and calls end without an answer.

A broker ends a request for an :class:`EndReason`.  It tells a gmdp client a
:class:`~gmdp.protocol.extension.Status`.  The client ends the call with an
:class:`Outcome`, and its caller gets an error.  A gateway answers that error with an
HTTP status.  Each row of :data:`TABLE` is one chain from reason to HTTP status.  The other
names of this module are views of the table.  Two copies are kept by hand, for readers: the table
of statuses in the docstring of :mod:`gmdp.wsgi`, and the README's.  A test compares them.

The rules of this module:

* Each status that is no answer, each end reason and each outcome stands in exactly one row.
* An error is given by the name of its class in :mod:`gmdp.exceptions`: the core imports
  nothing above itself.
* What a broker says about a request may be shown to an HTTP client.  The text of any other
  error may name endpoints, so the row has another text for the gateway.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from ..protocol.extension import Status


class EndReason(enum.Enum):
    """Why a broker ended an accepted request without an answer.

    The value is the reason's key in ``ended`` of a broker's statistics.
    """

    # Enum's own hash goes through the name: a Python call for each request that ends.
    __hash__ = object.__hash__

    EXPIRED = "expired"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    CLIENT_GONE = "client_gone"
    CLIENT_FULL = "client_full"
    TOO_LARGE = "too_large"
    NO_WORKER = "no_worker"
    OVERLOADED = "overloaded"
    EVICTED = "evicted"
    ATTEMPTS = "attempts"
    WORKER_LOST = "worker_lost"
    NOT_ALLOWED = "not_allowed"
    STOPPED = "stopped"
    STALLED = "stalled"

    @property
    def text(self) -> str:
        """One line for people."""
        return _TEXTS[self]


_TEXTS = {
    EndReason.EXPIRED: "the request waited in the queue for request_ttl",
    EndReason.DEADLINE: "the caller's time was up",
    EndReason.CANCELLED: "the caller cancelled the call",
    EndReason.CLIENT_GONE: "the client's connection was closed",
    EndReason.CLIENT_FULL: "the client reads its answers too slowly",
    EndReason.TOO_LARGE: "the parts of the answer were too large to be joined",
    EndReason.NO_WORKER: "no worker was registered, and the request was to fail then",
    EndReason.OVERLOADED: "the queue was full",
    EndReason.EVICTED: "the service gave way to a worker of another service",
    EndReason.ATTEMPTS: "workers were lost, and no attempt was left",
    EndReason.WORKER_LOST: "the worker was lost after part of the answer had gone out",
    EndReason.NOT_ALLOWED: "the user may not call the service any more",
    EndReason.STOPPED: "the broker stopped",
    EndReason.STALLED: "the reader of the stream granted nothing for stream_stall_timeout",
}


class Outcome(enum.Enum):
    """How a client's call ended without its answer; the value is what its error's message begins with."""

    TIMEOUT = "timeout"
    BROKER_LOST = "broker lost"
    UNSUPPORTED = "unsupported broker"
    DENIED = "authentication failed"
    OVERFLOW = "overflow"
    CANCELLED = "cancelled"
    CLOSED = "closed"
    NO_WORKER = "no worker"
    EXPIRED = "expired in the queue"
    OVERLOADED = "overloaded"
    WORKER_LOST = "worker lost"
    HANDLER_FAILED = "handler failed"
    NOT_ALLOWED = "not allowed"
    TOO_LARGE = "too large"
    SHUTTING_DOWN = "broker shutting down"
    STALLED = "stream stalled"


def notice_time(seconds: float) -> float:
    """Return how long before the end of its time a caller hears that its request still waits in a queue.

    Args:
        seconds: How long the caller waits in all.
    """
    return min(seconds / 20, 0.25)


_GATEWAY_FAILED = "the gateway failed"


class Row(NamedTuple):
    """One way to end without an answer, from the broker to the HTTP client."""

    #: How the call ends; None for errors that are not the end of a call.
    outcome: Outcome | None
    #: The name of the error's class.
    error: str
    #: The HTTP status of the error.
    http_status: int = 500
    #: The gateway's text in place of the error's own; None: the error's own.
    http_message: str | None = _GATEWAY_FAILED
    #: The status that the broker sends to a gmdp client; None: no message is sent.
    status: Status | None = None
    #: Why the broker ends the request.
    reasons: tuple[EndReason, ...] = ()
    #: True if the broker's hook gets the request, once a worker has had it.
    dead_letter: bool = False
    #: The end of the error's message where the broker gave no text of its own.
    message: str = ""


TABLE = (
    # The client decides this itself.  The broker may have ended the request independently.
    Row(Outcome.TIMEOUT, "RequestTimeout", 504, "no reply came in time", None, (EndReason.DEADLINE,)),
    Row(
        Outcome.BROKER_LOST,
        "BrokerLost",
        503,
        "the connection to the broker broke before the reply came",
        None,
        (EndReason.CLIENT_GONE,),
    ),
    Row(Outcome.UNSUPPORTED, "UnsupportedBroker", 503, "no broker speaks what the gateway needs"),
    Row(Outcome.DENIED, "AuthenticationFailed", 503, "no broker lets the gateway in"),
    Row(Outcome.OVERFLOW, "StreamOverflow", message="its reader did not keep up"),
    Row(Outcome.CANCELLED, "CallCancelled", reasons=(EndReason.CANCELLED,)),
    Row(Outcome.CLOSED, "ClosedError", 503, "the gateway's connection is closed"),
    # A gmdp broker decides, and tells the client.
    Row(
        Outcome.NO_WORKER,
        "NoWorker",
        503,
        None,
        Status.NO_WORKER,
        (EndReason.NO_WORKER,),
        message="no worker is registered",
    ),
    Row(
        Outcome.EXPIRED,
        "RequestExpired",
        504,
        None,
        Status.EXPIRED,
        (EndReason.EXPIRED,),
        dead_letter=True,
        message="no worker was free in time",
    ),
    Row(
        Outcome.OVERLOADED,
        "Overloaded",
        429,
        None,
        Status.OVERLOADED,
        (EndReason.OVERLOADED, EndReason.EVICTED, EndReason.CLIENT_FULL),
        message="the broker reached one of its bounds",
    ),
    Row(
        Outcome.WORKER_LOST,
        "WorkerLost",
        502,
        None,
        Status.WORKER_LOST,
        (EndReason.ATTEMPTS, EndReason.WORKER_LOST),
        dead_letter=True,
        message="the workers that had it were lost: they ended, or said nothing for the broker's busy_timeout",
    ),
    Row(
        Outcome.HANDLER_FAILED,
        "HandlerFailed",
        502,
        None,
        Status.HANDLER_FAILED,
        message="the worker's log has the reason; a worker with reveal_errors=True (--reveal-errors) tells it",
    ),
    Row(Outcome.NOT_ALLOWED, "NotAllowed", 403, None, Status.NOT_ALLOWED, (EndReason.NOT_ALLOWED,)),
    Row(
        Outcome.TOO_LARGE,
        "MessageTooLarge",
        413,
        None,
        Status.TOO_LARGE,
        (EndReason.TOO_LARGE,),
        message="the broker does not take messages as large",
    ),
    Row(Outcome.SHUTTING_DOWN, "BrokerShuttingDown", 503, None, Status.SHUTTING_DOWN, (EndReason.STOPPED,)),
    Row(
        Outcome.STALLED,
        "StreamStalled",
        504,
        None,
        Status.STALLED,
        (EndReason.STALLED,),
        message="its reader took nothing for the broker's stream_stall_timeout",
    ),
    # Errors that are not the end of a call: the client's thread runs no hub, and any other error.
    Row(None, "HubNotRunning"),
    Row(None, "MDPError"),
)

#: The row of each outcome.
ROW_OF_OUTCOME = {row.outcome: row for row in TABLE if row.outcome is not None}
#: The outcome of a call whose answer has this status.
OUTCOME_OF_STATUS: dict[int, Outcome] = {
    row.status: row.outcome for row in TABLE if row.status is not None and row.outcome is not None
}
#: The status that a gmdp client gets when its request ends for a reason; None: no message is sent.
STATUS_OF_REASON: dict[EndReason, Status | None] = {reason: row.status for row in TABLE for reason in row.reasons}
#: The reasons for which a request that a worker has had becomes a dead letter.
DEAD_LETTER_REASONS = frozenset(reason for row in TABLE if row.dead_letter for reason in row.reasons)
