"""File descriptors: libzmq and libev end the whole process where they find none, so gmdp looks first.

The rules of this module:

* Somebody looks before a context's first socket, before each bind, and before a thread gets its hub.
  libzmq opens its own threads' descriptors with the first socket, and asks the system for its
  interfaces with each bind.
* All later calls of ZeroMQ report a shortage themselves.
"""

from __future__ import annotations

import errno
import os
import resource
from typing import Any

import gevent

from ..exceptions import StateError
from .slots import get_hub_if_exists

#: Descriptors that a hub takes when it is made.
_FOR_HUB = 8


def shortage(count: int) -> int:
    """Return 0 if `count` descriptors are free, else the system's error number.  Nothing stays open."""
    opened = []
    try:
        for _ in range(count):
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno or errno.EMFILE
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return 0


def shortage_text(number: int) -> str:
    """Return the words for a shortage of descriptors with this error number."""
    if number == errno.EMFILE:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return (
            f"{os.strerror(number)}: too few descriptors are left of the {limit} that this process may have (ulimit -n)"
        )
    return os.strerror(number)


def get_hub() -> Any:
    """Return the hub of this thread; make it if there is none.  StateError if too few descriptors are left for it."""
    hub = get_hub_if_exists()
    if hub is not None:
        return hub
    number = shortage(_FOR_HUB)
    if number:
        raise StateError(f"this thread's hub cannot be made: {shortage_text(number)}")
    return gevent.get_hub()
