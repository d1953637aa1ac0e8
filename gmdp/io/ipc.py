"""ipc endpoints: sockets in the file system, or abstract ones of Linux."""

from __future__ import annotations

import socket


def has_listener(endpoint: str) -> bool:
    """True if a process listens on an ``ipc://`` endpoint.

    ZeroMQ does not check: a second bind silently takes the endpoint over.
    """
    path = endpoint.partition("://")[2]
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.setblocking(False)
        probe.connect("\0" + path[1:] if path.startswith("@") else path)
    except BlockingIOError:  # its backlog is full
        return True
    except OSError:
        return False
    finally:
        probe.close()
    return True
