"""The errors of gmdp, all under one root.

::

    MDPError
    ├── ConfigurationError   (ValueError)    a wrong option, endpoint or name
    ├── BindError            (OSError)       an endpoint cannot be bound
    ├── StateError           (RuntimeError)  not possible in the present state
    ├── ClosedError                          the client was closed
    ├── CallError                            a call ended without its answer
    │   ├── RequestTimeout   (TimeoutError)  no reply in time
    │   │   └── HubNotRunning                the client's thread runs no hub
    │   ├── CallCancelled                    the caller cancelled the call
    │   ├── StreamOverflow                   a stream's reader did not keep up
    │   ├── BrokerLost                       the connection broke before the reply
    │   ├── UnsupportedBroker                no broker speaks the extension that is required
    │   ├── AuthenticationFailed             the security of the two ends does not match
    │   └── RequestRejected                  a gmdp broker said why there is no answer
    │       ├── NoWorker                     no worker is registered
    │       ├── RequestExpired               the request waited too long in the queue
    │       ├── Overloaded                   the broker reached one of its bounds
    │       ├── WorkerLost                   the workers that had it were lost
    │       ├── HandlerFailed                the worker's handler failed
    │       ├── NotAllowed                   the broker's policy forbids it
    │       ├── MessageTooLarge              the message exceeds a bound
    │       ├── BrokerShuttingDown           the broker stops
    │       └── StreamStalled                the reader of a stream took nothing for too long
    ├── RequestCancelled                     raised in a handler: its caller does not wait
    └── OwnerDied                            a bug in gmdp ended its owner

A ``zmq.ZMQError`` never escapes from gmdp.  A ``gevent.Timeout`` is always the caller's own.
Values of a wrong type raise ``TypeError``, as everywhere.
"""

from __future__ import annotations


class MDPError(Exception):
    """The root of all errors of gmdp."""


class ConfigurationError(MDPError, ValueError):
    """An option, endpoint or name is wrong; the message says what would be right."""


class BindError(MDPError, OSError):
    """A broker cannot bind one of its endpoints; ``errno`` says why."""


class StateError(MDPError, RuntimeError):
    """The operation is not possible in the present state."""


class ClosedError(MDPError):
    """The client is closed, or was closed before the reply came."""


class CallError(MDPError):
    """A call ended without its answer.

    Args:
        message: one line for people.
        service: the name of the service.
        elapsed: seconds since the call began.
        attempt: how many tries the client began.
        deliveries: how often the broker gave the request to a worker, as far as it said so.

    Attributes:
        service: the name of the service, bytes.
        elapsed: seconds since the call began.
        attempt: how many tries the client began; not the broker's attempts (`deliveries`).
        deliveries: how often the broker gave the request to a worker, as far as it said so.
    """

    def __init__(
        self, message: str, *, service: bytes = b"", elapsed: float = 0.0, attempt: int = 1, deliveries: int = 0
    ) -> None:
        super().__init__(message)
        self.service = service
        self.elapsed = elapsed
        self.attempt = attempt
        self.deliveries = deliveries


class RequestTimeout(CallError, TimeoutError):
    """No reply came in time.  A late reply is never given to another call."""


class HubNotRunning(RequestTimeout):
    """The hub that serves the client does not run: the thread that made the client is not waiting in gevent.

    ``Client(threaded=True)`` has a thread and hub of its own.
    """


class CallCancelled(CallError):
    """``Future.cancel()`` ended the call."""


class StreamOverflow(CallError):
    """The reader of a stream fell too far behind (``Client.stream_bytes``).

    Only where the broker or the worker knows no flow control: where both do, the handler waits.
    """


class BrokerLost(CallError):
    """The connection to the broker broke before the reply came."""


class UnsupportedBroker(CallError):
    """No broker speaks gmdp's extension, and ``require_extensions`` is set."""


class AuthenticationFailed(CallError):
    """The security of the client does not match that of any broker.

    No broker allows the client's key, password or address; or the brokers expect other
    security; or none has the server key that the client expects.
    """


class RequestRejected(CallError):
    """A gmdp broker said why there is no answer.

    The client does not try again by itself, except after :class:`BrokerShuttingDown`.
    """


class NoWorker(RequestRejected):
    """No worker is registered for the service, and the call has ``when_no_worker="fail"``.

    Where every broker has announced its stop, such a call ends with :class:`BrokerShuttingDown`: at once, or when
    brokers were tried again and none was reached.
    """


class RequestExpired(RequestRejected):
    """No worker was free before the broker's ``request_ttl`` was over."""


class Overloaded(RequestRejected):
    """The broker reached one of its bounds: requests queued or open, bytes, services, a user's rate.

    Or this client reads its answers too slowly.
    """


class WorkerLost(RequestRejected):
    """The workers that had the request were lost, as often as the broker's ``attempts`` allows.

    Or one was lost after it had sent a part of its answer.
    """


class HandlerFailed(RequestRejected):
    """The worker's handler failed.

    The worker's log has the reason.  The caller gets it, too, if the worker has ``reveal_errors=True``
    (``gmdp worker --reveal-errors``).

    Attributes:
        type_name: the name of the error's type; empty unless the worker reveals it.
        detail: the error's message; empty unless the worker reveals it.
    """

    type_name: str = ""
    detail: str = ""


class NotAllowed(RequestRejected):
    """The broker's policy does not allow this call, or the client's user was revoked."""


class MessageTooLarge(RequestRejected):
    """The request or its answer exceeds one of the broker's bounds on messages."""


class BrokerShuttingDown(RequestRejected):
    """The broker stopped before the worker that had the request answered.

    While the call has a try left, the client tries again, at the next broker.  A request that no worker has had
    does not end so: the client sends it to another broker, or to this one once that is back, as long as there is
    time.  There are two exceptions: calls with ``when_no_worker="fail"`` where every broker has announced its stop, and
    brokers or clients that speak version 1 of the extension (gmdp 0.1.0).
    """


class StreamStalled(RequestRejected):
    """The reader of a stream took nothing for the broker's ``stream_stall_timeout``, and its handler waited.

    The reader gets this error after the parts that have come.  It is also raised in the handler, where that
    waits in its ``yield``.
    """


class RequestCancelled(MDPError):
    """Raised in a handler of a worker with ``enforce_deadline``: its caller has stopped waiting."""


class OwnerDied(MDPError):
    """A bug in gmdp ended the greenlet that owns the sockets; ``__cause__`` is the exception."""
