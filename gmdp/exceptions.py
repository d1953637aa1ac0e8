"""The errors of gmdp, all under one root.

::

    MDPError
    ├── ConfigurationError   (ValueError)    a wrong option, endpoint or name
    ├── BindError            (OSError)       an endpoint cannot be bound
    ├── StateError           (RuntimeError)  not possible in the present state
    ├── ClosedError                          the client was closed
    ├── CallError                            a call ended without its answer
    │   ├── RequestTimeout   (TimeoutError)  no reply in time
    │   ├── BrokerLost                       the connection broke before the reply
    │   └── StreamOverflow                   a stream's reader did not keep up
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

    ``service`` (bytes), ``elapsed`` (seconds since the call began) and
    ``attempt`` (tries begun) tell the facts.
    """

    def __init__(self, message: str, *, service: bytes = b"", elapsed: float = 0.0, attempt: int = 1) -> None:
        super().__init__(message)
        self.service = service
        self.elapsed = elapsed
        self.attempt = attempt


class RequestTimeout(CallError, TimeoutError):
    """No reply came in time.  A late one is never given to another call."""


class BrokerLost(CallError):
    """The connection to the broker broke while the reply was awaited."""


class StreamOverflow(CallError):
    """The reader of a stream fell too far behind (``Client.stream_buffer``)."""


class OwnerDied(MDPError):
    """A defect in gmdp ended the greenlet that owns the sockets; see ``__cause__``."""
