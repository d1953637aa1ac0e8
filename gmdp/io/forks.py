"""Every broker, worker and client of this process, and what becomes of them in the child of a fork.

The rules of this module:

* The parent's objects go on as if nothing had happened.
* In the child every instance is reset: a broker or worker may be started, a client connects anew.
* The child never touches the parent's sockets: any use of an inherited socket would never return.
* The program needs to do nothing for that.  A fork in Python is heard of at once (``os.register_at_fork``).
  A fork in C, as uWSGI forks, is noticed by the process id: each public method looks at it first
  (:func:`notice`), and so does each owner when it wakes, before it touches a socket.
"""

from __future__ import annotations

import contextlib
import logging
import os
import weakref
from typing import Any, Protocol, TypeVar

import gevent

from . import guarded, logs
from .slots import allocate_rlock

_log = logging.getLogger("gmdp")


T = TypeVar("T")


class Instance(Protocol):
    """A broker, worker or client."""

    @property
    def started(self) -> bool:
        """True from ``start()`` until stopping begins."""

    @property
    def closed(self) -> bool:
        """True while no socket is held."""

    def _on_fork(self) -> None:
        """In the child: let go of the parent's sockets and calls without touching them."""


_instances: weakref.WeakSet[Instance] = weakref.WeakSet()
#: The hubs in which sockets are owned.
_hubs: weakref.WeakSet[Any] = weakref.WeakSet()
#: The process to which the instances belong.
_process = os.getpid()
#: Guards the reset in a child whose threads notice the fork at the same time.
_reset_lock = allocate_rlock()
_resetting = False


def register(instance: Instance) -> None:
    """Have `instance` reset in the child of each fork, for as long as it lives."""
    _instances.add(instance)


def register_hub(hub: Any) -> None:
    """Have the loop of `hub`, in which sockets are owned, leave the parent's alone in the child of each fork."""
    _hubs.add(hub)


def instances() -> list[Instance]:
    """Every broker, worker and client of this process.  Any thread."""
    return _members(_instances)


def _members(known: weakref.WeakSet[T]) -> list[T]:
    while True:
        try:
            return list(known)
        except RuntimeError:  # another thread has just registered one
            continue


def notice() -> None:
    """Reset every instance if this process is the child of a fork that Python did not hear of.  Any thread."""
    if os.getpid() != _process:
        with _reset_lock:
            if os.getpid() != _process and not _resetting:
                _after_fork()


def _after_fork() -> None:
    global _process, _resetting
    _resetting = True
    try:
        if _instances:
            # This must come first, before any watcher is touched: each hub's loop waits on a descriptor that is
            # the parent's, too.  (libev notices by itself that it was forked, libuv does not.)
            gevent.reinit()
            _reinit_loops()
        logs.after_fork()
        _reset_instances()
    finally:
        _resetting = False
        _process = os.getpid()


def _reinit_loops() -> None:
    """Part the loops of all threads from the parent's: those of threads that are not here have watchers, too."""
    for hub in _members(_hubs):
        with contextlib.suppress(AttributeError, TypeError, ValueError):  # that hub is gone, and its loop with it
            hub.loop.reinit()


def _reset_instances() -> None:
    for instance in instances():
        try:
            instance._on_fork()
        except Exception:
            # At once: the child's hub may not run soon.
            guarded.call(_log_failure, instance, default=None, on_error=_ignore)


def _log_failure(instance: Instance) -> None:
    _log.exception("%s could not be reset in the child of a fork", type(instance).__name__)


def _ignore(error: BaseException) -> None:
    """Say nothing: it is the log that failed."""


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
