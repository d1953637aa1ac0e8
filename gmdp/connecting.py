"""What worker and client sockets have in common."""

from __future__ import annotations

import math
from typing import Any

import zmq
import zmq.green

from .core.options import check_number
from .core.wire import VERSIONS, Dialect
from .exceptions import ConfigurationError
from .owner import Link, Owner

#: Frames of a message that are read; more is no answer to anything.
MAX_FRAMES = 100_000

#: Milliseconds before libzmq would reconnect by itself: a socket is long closed then.
NEVER = 24 * 3600 * 1000

#: The most a socket option of type int can be.
MOST_INT = 2**31 - 1


def milliseconds(seconds: float) -> int:
    """`seconds` as a socket option: at least one, and at most what fits."""
    return min(max(1, math.ceil(seconds * 1000)), MOST_INT)


def dealer(
    owner: Owner, context: zmq.green.Context[Any], endpoint: str, tag: Any, heartbeat: float, expiry: float
) -> Link:
    """A new DEALER socket being connected to `endpoint`.

    It does not reconnect (whoever owns it closes it first): what was queued for one broker must not reach the
    next.  `heartbeat`: seconds between ZMTP heartbeats; `expiry`: seconds without
    an answer to one that end the connection.  ZMQError if there are no descriptors left.
    """
    socket = context.socket(zmq.DEALER)
    link = owner.link(socket, MAX_FRAMES, tag)
    try:
        socket.set(zmq.LINGER, 0)
        # Neither RECONNECT_IVL -1 nor IMMEDIATE: with either, libzmq throws away
        # what arrived and was not yet read when the connection ends.
        socket.set(zmq.RECONNECT_IVL, NEVER)
        socket.set(zmq.HEARTBEAT_IVL, milliseconds(heartbeat))
        socket.set(zmq.HEARTBEAT_TIMEOUT, milliseconds(expiry))
        if "[" in endpoint:
            socket.set(zmq.IPV6, 1)
        if endpoint.startswith("inproc:"):
            # Its bound is the sum of both ends'; without one, EVENTS tells
            # whether there is a peer.
            socket.set(zmq.SNDHWM, 0)
        link.connect(endpoint)
    except zmq.ZMQError:
        link.close()
        raise
    return link


def check_version(version: object) -> Dialect:
    """The dialect of "0.1" or "0.2"; else ConfigurationError."""
    if not isinstance(version, str) or version not in VERSIONS:
        raise ConfigurationError(f'version must be "0.1" or "0.2", not {version!r}')
    return VERSIONS[version]


def check(
    name: str, value: Any, least: float, whole: bool = False, above: bool = False, most: float | None = None
) -> Any:
    """`value`, if it is a number of at least (or `above`) `least`; else ConfigurationError."""
    try:
        check_number(name, value, least, whole, above, most)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    return value
