"""The errors of gmdp, all under one root.

::

    MDPError
    ├── ConfigurationError   (ValueError)    a wrong option, endpoint or name
    ├── BindError            (OSError)       an endpoint cannot be bound
    ├── StateError           (RuntimeError)  not possible in the present state
    ├── ClosedError                          the client was closed
    ├── CallError                            a call ended without its answer
    │   ├── RequestTimeout   (TimeoutError)  no reply in time
    │   │   └── HubNotRunning                its client's thread runs no hub
    │   ├── CallCancelled                    it was cancelled
    │   ├── StreamOverflow                   a stream's reader did not keep up
    │   ├── BrokerLost                       the connection broke before the reply
    │   ├── UnsupportedBroker                extensions are required and it has none
    │   ├── AuthenticationFailed             no broker lets this client in, or is the right one
    │   └── RequestRejected                  what a gmdp broker says of it:
    │       ├── NoWorker                     no worker is registered
    │       ├── RequestExpired               it waited too long in the queue
    │       ├── Overloaded                   a bound of the broker's was reached
    │       ├── WorkerLost                   the workers that had it were lost
    │       ├── HandlerFailed                the worker's handler failed
    │       ├── NotAllowed                   the broker's policy forbids it
    │       ├── MessageTooLarge              a bound of the message's was exceeded
    │       └── BrokerShuttingDown           the broker stops
    ├── RequestCancelled                     raised in a handler: nobody waits
    └── OwnerDied                            a defect in gmdp ended its owner

A ``zmq.ZMQError`` never escapes, and a ``gevent.Timeout`` is always the
caller's own.  Wrong types raise ``TypeError`` as everywhere.
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
    """The client was closed before the reply came, or is closed."""


class CallError(MDPError):
    """A call ended without its answer.

    ``service`` (bytes), ``elapsed`` (seconds since the call began), ``attempt``
    (tries begun) and ``deliveries`` (how often the broker gave the request to a
    worker, as far as it told) are the facts.
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
    """No reply came in time.  A late one is never given to another call."""


class HubNotRunning(RequestTimeout):
    """The hub that serves the client does not run: another thread made the client and does not wait in gevent.

    ``Client(threaded=True)`` has a thread and hub of its own.
    """


class CallCancelled(CallError):
    """The call was cancelled by ``Future.cancel()``."""


class StreamOverflow(CallError):
    """The reader of a stream fell too far behind (``Client.stream_buffer``, ``Client.stream_bytes``)."""


class BrokerLost(CallError):
    """The connection to the broker broke while the reply was awaited."""


class UnsupportedBroker(CallError):
    """No broker speaks gmdp's extension, and ``require_extensions`` is set."""


class AuthenticationFailed(CallError):
    """No broker lets this client in (its key, password or address is not allowed, or the
    broker asks for other security), or none has the server key that is expected."""


class RequestRejected(CallError):
    """A gmdp broker said why there is no answer.  It is not tried again by itself."""


class NoWorker(RequestRejected):
    """No worker is registered for the service, and the call was to fail then."""


class RequestExpired(RequestRejected):
    """No worker was free before the broker's ``request_ttl`` was over."""


class Overloaded(RequestRejected):
    """A bound of the broker's was reached: requests queued or open, bytes, services;
    or this client reads its answers too slowly."""


class WorkerLost(RequestRejected):
    """The workers that had the request were lost, as often as ``attempts`` allows, or
    one was after it had sent a part of its answer."""


class HandlerFailed(RequestRejected):
    """The worker's handler failed.

    ``type_name`` and ``detail`` are the error's type and message if the worker
    reveals them, else empty.
    """

    type_name: str = ""
    detail: str = ""


class NotAllowed(RequestRejected):
    """The broker's policy does not allow this call."""


class MessageTooLarge(RequestRejected):
    """The request, or its answer, exceeds the broker's bounds of a message."""


class BrokerShuttingDown(RequestRejected):
    """The broker stops and takes no new request, or did not finish this one."""


class RequestCancelled(MDPError):
    """Raised in a handler of a worker with ``enforce_deadline``: nobody waits for its answer."""


class OwnerDied(MDPError):
    """A defect in gmdp ended the greenlet that owns the sockets; see ``__cause__``."""
