"""Where a broker listens: names and wildcards become endpoints with addresses.

The rules of this module:

* A host name is looked up before a socket is opened.  The broker binds each of its addresses that is
  one of this machine's, all to the same port.
* An interface (``tcp://eth0:*``) and ``*`` go to ZeroMQ as they are.
* Port ``*`` is the port of the last start, at which peers look for the broker, unless it has been taken.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence

from ..exceptions import BindError, StateError
from ..io.contexts import SocketError, error_text
from ..io.link import Link
from ..io.resolving import Wait, is_interface, split_name

_log = logging.getLogger("gmdp.broker")

#: Error numbers of an address that is not one of this machine's.
_ELSEWHERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENODEV})

#: How many free ports are tried, until one is free at every address of a name.
_TRIES = 10


def look_up(endpoint: str, on_wait: Callable[[Wait | None], None]) -> tuple[str, ...]:
    """Return what `endpoint` stands for: itself, or an endpoint for each address of its host name.

    The greenlet waits for the name.

    Args:
        endpoint: the endpoint, as the user has given it.
        on_wait: called with the wait, which may be ended, and then with None.

    Raises:
        BindError: the name has no address.
        StateError: the wait was ended.
    """
    name = split_name(endpoint)
    if name is None or is_interface(name[0]):
        return (endpoint,)
    host, port = name
    wait = Wait(host)
    on_wait(wait)
    try:
        answer = wait.get()
    finally:
        on_wait(None)
    if answer is None:
        raise StateError(f"the broker was closed while it looked up {host}")
    if not answer.addresses:
        raise BindError(
            errno.EADDRNOTAVAIL,
            f"cannot bind {endpoint}: {host} is not an interface, and the host name could not be resolved: "
            f"{answer.error}",
        )
    return answer.endpoints(port)


def bind(link: Link, endpoint: str, targets: Sequence[str], last: Sequence[str]) -> tuple[str, ...]:
    """Bind `link` to an endpoint.

    Args:
        link: the link of a socket.
        endpoint: the endpoint, as the user has given it.
        targets: what it stands for.
        last: where it was bound at the last start; empty before the first.

    Returns:
        Where it is bound, with wildcards resolved.

    Raises:
        BindError: it cannot be bound.
    """
    candidates = [targets]
    if last and last[0] != endpoint and last[0].startswith("tcp:"):
        candidates.insert(0, last if targets[0] == endpoint else [_with_port(target, last[0]) for target in targets])
    if len(targets) > 1 and targets[0].endswith((":*", ":0")):
        candidates += (_TRIES - 1) * [targets]
    failure: SocketError | None = None
    for candidate in candidates:
        try:
            return _bind_each(link, candidate)
        except SocketError as error:
            failure = error
            if candidate is targets and error.errno != errno.EADDRINUSE:
                break
    assert failure is not None
    reason = error_text(failure)
    if failure.errno == errno.EEXIST and endpoint.startswith("ipc:"):
        reason = "a file that is not a socket has this name, and is not replaced"
    raise BindError(failure.errno or 0, f"cannot bind {endpoint}: {reason}") from None


def _bind_each(link: Link, targets: Sequence[str]) -> tuple[str, ...]:
    """Bind to all targets that are addresses of this machine, at one port; SocketError unless there are any."""
    bound: list[str] = []
    elsewhere: SocketError | None = None
    for target in targets:
        try:
            bound.append(link.listen(_with_port(target, bound[0]) if bound else target))
        except SocketError as error:
            if error.errno not in _ELSEWHERE or len(targets) == 1:
                for endpoint in bound:
                    link.stop_listening(endpoint)
                raise
            elsewhere = error
            _log.info("not bound to %s: %s", target, error_text(error))
    if elsewhere is not None and not bound:
        raise elsewhere
    return tuple(bound)


def _with_port(endpoint: str, other: str) -> str:
    """Return `endpoint` with the port of `other`."""
    return f"{endpoint.rpartition(':')[0]}:{other.rpartition(':')[2]}"
