"""ZeroMQ contexts: the one that a process shares, an embedding program's, and a secured broker's own.

The packages above this one refer to ZeroMQ through this module, and do not import ``zmq``.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import weakref
from typing import TYPE_CHECKING, Any

import zmq
import zmq.green

from ..exceptions import ConfigurationError
from .descriptors import shortage, shortage_text
from .slots import Slot, start_thread

if TYPE_CHECKING:
    Context = zmq.green.Context[Any]
    GreenSocket = zmq.green.Socket[bytes]
else:
    Context = zmq.green.Context
    GreenSocket = zmq.green.Socket

#: What a call of ZeroMQ raises; its ``errno`` and ``strerror`` say why.
SocketError = zmq.ZMQError

#: Descriptors that a context and a broker's sockets need.
_DESCRIPTORS = 16
#: Descriptors that one more socket, its monitor and its connection need.
_DESCRIPTORS_OF_SOCKET = 4
#: The default of MAX_SOCKETS in a context.
_USUAL_MAX_SOCKETS = 1023

#: False for pyzmq 24: a context makes sockets of its own class only.
_CONTEXTS_TAKE_A_CLASS = "socket_class" in inspect.signature(zmq.Context.socket).parameters

#: Contexts in which a socket was opened, so that ZeroMQ's threads have their descriptors.
_begun: weakref.WeakSet[Context] = weakref.WeakSet()


class LimitReached(SocketError):
    """A limit does not allow another socket; ``strerror`` says which."""


class _Socket(GreenSocket):
    """A green socket that could not be opened is collected without a traceback."""

    def __del__(self) -> None:
        if self._state_event is not None:
            super().__del__()


def error_text(error: SocketError) -> str:
    """Return the text of an error, without the endpoint that pyzmq appends to ``strerror``."""
    return str(error.strerror) if isinstance(error, LimitReached) else zmq.strerror(error.errno or 0)


def check_context(context: object) -> Context | None:
    """Return `context` if it is a green context or None; else raise ConfigurationError."""
    if context is None or isinstance(context, zmq.green.Context):
        return context
    raise ConfigurationError(
        f"context must be a zmq.green.Context, not {type(context).__module__}.{type(context).__name__}"
    )


def require_descriptors(count: int) -> None:
    """Raise LimitReached unless `count` descriptors are free."""
    number = shortage(count)
    if number:
        raise LimitReached(number, shortage_text(number))


def explained(error: SocketError) -> SocketError:
    """Return the error of a socket that could not be opened; LimitReached where a limit was the cause."""
    if error.errno != errno.EMFILE or isinstance(error, LimitReached):
        return error
    number = shortage(_DESCRIPTORS_OF_SOCKET)
    if number:
        return LimitReached(number, shortage_text(number))
    return LimitReached(error.errno, "the ZeroMQ context has as many sockets as its MAX_SOCKETS allows")


def find_shortage() -> str:
    """Return the words for a lack of descriptors, because of which ZeroMQ may have failed; empty if there are some."""
    number = shortage(1)
    return shortage_text(number) if number else ""


def shared_context() -> Context:
    """Return the green context that the whole process shares.

    It may have as many sockets as ZeroMQ allows, unless the program has chosen a number, or has
    already opened a socket in it.  Raises SocketError if there are no descriptors for it.
    """
    context: Context = zmq.green.Context.instance()
    if context.get(zmq.MAX_SOCKETS) == _USUAL_MAX_SOCKETS:
        context.set(zmq.MAX_SOCKETS, context.get(zmq.SOCKET_LIMIT))
    return context


def new_context() -> Context:
    """Return a new green context.  Raises LimitReached if too few descriptors are left for its sockets."""
    require_descriptors(_DESCRIPTORS)
    return zmq.green.Context()


def open_socket(context: Context | None, kind: int) -> GreenSocket:
    """Open a socket.

    Args:
        context: the context; None: the one that the process shares.
        kind: the socket's type.

    Raises:
        LimitReached: there are too few descriptors, or too many sockets in the context.
        SocketError: ZeroMQ cannot open it for another reason.
    """
    try:
        if context is None:
            context = shared_context()
        if context not in _begun:
            require_descriptors(_DESCRIPTORS)  # libzmq ends the process if its threads find none
        opened = _make_socket(context, kind)
    except SocketError as error:
        raise explained(error) from None
    _begun.add(context)
    return opened


def _make_socket(context: Context, kind: int) -> GreenSocket:
    if _CONTEXTS_TAKE_A_CLASS:
        opened: GreenSocket = context.socket(kind, socket_class=_Socket)
        return opened
    made = _Socket(context, kind)
    for option, value in context.sockopts.items():
        with contextlib.suppress(SocketError):  # not for sockets of this type
            made.set(option, value)
    context._add_socket(made)
    return made


def open_lazy_descriptors() -> None:
    """Have the shared context open now the descriptors that it would open with its first socket."""
    open_socket(None, zmq.DEALER).close(0)


def terminate(context: Context, timeout: float) -> None:
    """End a context once its last messages are sent.  After `timeout` seconds that goes on in the background."""
    # In a real thread: term() waits for lingering messages, and would block the hub.
    ended = Slot()
    start_thread(_terminate, (context, ended))
    ended.wait(timeout)


def _terminate(context: Context, ended: Slot) -> None:
    context.term()
    ended.set(None)
