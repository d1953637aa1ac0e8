"""ZeroMQ contexts: the one that a process shares, an embedding program's, and a secured broker's own.

The packages above this one refer to ZeroMQ through this module, and do not import ``zmq``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import zmq
import zmq.green

from ..exceptions import ConfigurationError
from .slots import Slot, start_thread

if TYPE_CHECKING:
    Context = zmq.green.Context[Any]
else:
    Context = zmq.green.Context

#: What a call of ZeroMQ raises; its ``errno`` and ``strerror`` say why.
SocketError = zmq.ZMQError

#: The text for an error's number, without the endpoint that pyzmq appends to ``strerror``.
error_text = zmq.strerror

#: Descriptors that a context and a broker's sockets need.
_DESCRIPTORS = 16


def check_context(context: object) -> Context | None:
    """Return `context` if it is a green context or None; else raise ConfigurationError."""
    if context is None or isinstance(context, zmq.green.Context):
        return context
    raise ConfigurationError(
        f"context must be a zmq.green.Context, not {type(context).__module__}.{type(context).__name__}"
    )


def shared_context() -> Context:
    """Return the green context that the whole process shares."""
    return zmq.green.Context.instance()


def new_context() -> Context:
    """Return a new green context.

    Raises SocketError if too few descriptors are left: libzmq ends the process if a context finds none.
    """
    opened = []
    try:
        for _ in range(_DESCRIPTORS):
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        raise SocketError(error.errno) from None
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return zmq.green.Context()


def open_lazy_descriptors() -> None:
    """Have the shared context open now the descriptors that it would open with its first socket."""
    shared_context().socket(zmq.DEALER).close(0)


def terminate(context: Context, timeout: float) -> None:
    """End a context once its last messages are sent.  After `timeout` seconds that goes on in the background."""
    # In a real thread: term() waits for lingering messages, and would block the hub.
    ended = Slot()
    start_thread(_terminate, (context, ended))
    ended.wait(timeout)


def _terminate(context: Context, ended: Slot) -> None:
    context.term()
    ended.set(None)
