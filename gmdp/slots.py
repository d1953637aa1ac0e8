"""One value from an owner to whoever waits for it, in whatever thread."""

from __future__ import annotations

from _thread import TIMEOUT_MAX
from typing import Any

import gevent.monkey
from gevent._hub_local import get_hub_if_exists as get_hub_if_exists
from gevent.event import AsyncResult

#: The real thing, whatever was monkey-patched and when.
_allocate_lock = gevent.monkey.get_original("_thread", "allocate_lock")


class Slot:
    """Set once, by any thread; awaited once, in the thread that made it.

    In a thread with a gevent hub the wait is cooperative.  In any other thread
    it is a wait on a lock of the operating system: a gevent object would leak
    descriptors there.
    """

    __slots__ = ("_hub", "_lock", "_result", "error", "value")

    def __init__(self) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        hub = get_hub_if_exists()
        if hub is None:
            self._result = None
            self._lock = _allocate_lock()
            self._lock.acquire()
        else:
            self._result = AsyncResult()
            self._hub = hub

    def set(self, value: Any) -> None:
        """Give the value."""
        self.value = value
        self._wake()

    def fail(self, error: BaseException) -> None:
        """Give an error, to be raised where the value is awaited."""
        self.error = error
        self._wake()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait; False if `timeout` seconds went by first."""
        if self._result is None:
            return bool(self._lock.acquire(True, -1 if timeout is None else min(max(timeout, 0), TIMEOUT_MAX)))
        self._result.wait(timeout)
        return bool(self._result.ready())

    def get(self) -> Any:
        """The value, or raise the error: after :meth:`wait` said True."""
        if self.error is not None:
            raise self.error
        return self.value

    def _wake(self) -> None:
        if self._result is None:
            self._lock.release()
        elif get_hub_if_exists() is self._hub:
            self._result.set(True)
        else:
            try:
                self._hub.loop.run_callback_threadsafe(self._result.set, True)
            except (AttributeError, ValueError):
                pass  # that thread's hub is gone, and with it whoever waited
