"""The socket of a broker: one ROUTER for clients and workers of every dialect."""

from __future__ import annotations

import zmq

from .census import PeerCensus
from .contexts import Context, SocketError, open_socket
from .frames import LARGE
from .link import Link, milliseconds
from .owner import Owner

#: Connections that the system may keep until the broker accepts them.
_BACKLOG = 1024
#: A frame of more than `max_frame_size` bytes is refused with a warning.  ZeroMQ closes the connection of a frame
#: so many times as large, before it is read; its monitor reports the end of the connection and no reason.
CUT_AT = 2
MAX_INT64 = 2**63 - 1


def open_router(
    owner: Owner,
    context: Context | None,
    census: PeerCensus,
    *,
    max_frames: int,
    max_frame_size: int,
    hwm: int,
    zmtp_heartbeat: tuple[float, float] | None,
    handshake_timeout: float,
) -> Link:
    """Open a ROUTER socket, ready to be bound (RFC 7 and 18: "The broker MUST use a ROUTER socket").

    Args:
        owner: the owner of the new socket.
        context: the context to make the socket in; None: the one that the process shares.
        census: the census that learns of every connection to the socket.
        max_frames: frames of a message that are kept; one more is kept to show that the message had more.
        max_frame_size: bytes of a frame; a message with a larger one is refused, and a peer that sends one
            above :data:`CUT_AT` times as large is disconnected.
        hwm: whole messages that ZeroMQ may hold per peer, each way.
        zmtp_heartbeat: seconds between ZMTP heartbeats, and seconds without an answer that end a
            connection; None: no ZMTP heartbeats.
        handshake_timeout: seconds that a connection's handshake may take.

    Raises:
        SocketError: no descriptors are left, or the context has too many sockets.
    """
    link = owner.add_link(open_socket(context, zmq.ROUTER), max_frames)
    link.large = min(LARGE, max_frame_size + 1)  # the core reads heads only, bodies pass through
    link.max_frame_size = max_frame_size
    try:
        socket = link.socket
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.ROUTER_MANDATORY, 1)
        socket.set(zmq.SNDHWM, hwm)
        socket.set(zmq.RCVHWM, hwm)
        socket.set(zmq.BACKLOG, _BACKLOG)
        socket.set(zmq.MAXMSGSIZE, min(CUT_AT * max_frame_size, MAX_INT64))
        link.set_heartbeat(zmtp_heartbeat)
        socket.set(zmq.HANDSHAKE_IVL, milliseconds(handshake_timeout))
        link.watch_peers(census)
    except SocketError:
        link.close()
        raise
    return link
