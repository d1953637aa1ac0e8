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
    ipv6: bool,
) -> Link:
    """Open a ROUTER socket, ready to be bound (RFC 7 and 18: "The broker MUST use a ROUTER socket").

    Args:
        owner: the owner of the new socket.
        context: the context to make the socket in; None: the one that the process shares.
        census: the census that learns of every connection to the socket.
        max_frames: frames of a message that are kept; one more is kept to show that the message had more.
        max_frame_size: bytes of a frame; a peer that sends a larger one is disconnected.
        hwm: whole messages that ZeroMQ may hold per peer, each way.
        zmtp_heartbeat: seconds between ZMTP heartbeats, and seconds without an answer that end a
            connection; None: no ZMTP heartbeats.
        handshake_timeout: seconds that a connection's handshake may take.
        ipv6: True if the socket will be bound to an IPv6 address.

    Raises:
        SocketError: no descriptors are left, or the context has too many sockets.
    """
    link = owner.add_link(open_socket(context, zmq.ROUTER), max_frames)
    link.large = LARGE  # the core reads heads only, bodies pass through
    try:
        socket = link.socket
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.ROUTER_MANDATORY, 1)
        socket.set(zmq.SNDHWM, hwm)
        socket.set(zmq.RCVHWM, hwm)
        socket.set(zmq.BACKLOG, _BACKLOG)
        socket.set(zmq.MAXMSGSIZE, max_frame_size)
        link.set_heartbeat(zmtp_heartbeat)
        socket.set(zmq.HANDSHAKE_IVL, milliseconds(handshake_timeout))
        if ipv6:
            socket.set(zmq.IPV6, 1)
        link.watch_peers(census)
    except SocketError:
        link.close()
        raise
    return link
