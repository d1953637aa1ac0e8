"""One value from an owner to a caller that waits for it, in any thread."""

from __future__ import annotations

from _thread import TIMEOUT_MAX
from typing import Any

import gevent
import gevent.monkey
from gevent._hub_local import get_hub_if_exists as get_hub_if_exists
from gevent.hub import Waiter

#: The functions of the standard library, even where gevent has patched it.
allocate_lock = gevent.monkey.get_original("_thread", "allocate_lock")
allocate_rlock = gevent.monkey.get_original("_thread", "RLock")
get_ident = gevent.monkey.get_original("_thread", "get_ident")
start_thread = gevent.monkey.get_original("_thread", "start_new_thread")

#: Seconds of the shortest timer that gevent sets with each of its loops: with libuv it warns of a shorter one.
SHORTEST_TIMER = 0.001

#: Seconds that a hub gets for its first pass.
FIRST_PASS_TIME = 2.0


class FirstPass:
    """Tells whether a hub has made a pass since this object was made, in the hub's thread.

    Args:
        hub: the hub.
    """

    __slots__ = ("made",)

    def __init__(self, hub: Any) -> None:
        self.made = False
        hub.loop.run_callback(self._note)

    def _note(self) -> None:
        self.made = True

    def wait(self, slot: Slot, timeout: float) -> bool:
        """Wait in another thread until the hub's thread has set `slot`.

        A hub that has made a pass may be busy, and is waited for.

        Args:
            slot: made by the calling thread.
            timeout: seconds.

        Returns:
            False if `timeout` seconds went by, or if the hub has made no pass and :data:`FIRST_PASS_TIME` went by.
        """
        first = min(timeout, FIRST_PASS_TIME)
        return slot.wait(first) or (self.made and slot.wait(timeout - first))


class Slot:
    """A value that any thread sets once, and that the thread which made the slot awaits once.

    In a thread with a gevent hub the wait is cooperative.  In any other thread it is a wait on
    a lock of the operating system: a gevent object would leak descriptors there.
    """

    __slots__ = ("_hub", "_lock", "_ready", "_waiter", "error", "value")

    def __init__(self) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self._ready = False
        self._waiter: Waiter | None = None
        self._hub = get_hub_if_exists()
        if self._hub is None:
            self._lock = allocate_lock()
            self._lock.acquire()

    def set(self, value: Any) -> None:
        """Set the value."""
        self.value = value
        self._wake()

    def fail(self, error: BaseException) -> None:
        """Set an error, to be raised by :meth:`get`."""
        self.error = error
        self._wake()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the slot is set.  Returns False if `timeout` seconds go by first."""
        if self._hub is None:
            return bool(self._lock.acquire(True, -1 if timeout is None else min(max(timeout, 0), TIMEOUT_MAX)))
        if not self._ready:
            self._waiter = Waiter(self._hub)
            if timeout is None:
                self._waiter.get()
            else:
                with gevent.Timeout(min(max(timeout, SHORTEST_TIMER), TIMEOUT_MAX), False):
                    self._waiter.get()
        return self._ready

    def get(self) -> Any:
        """Return the value, or raise the error.  Call this only after :meth:`wait` has returned True."""
        if self.error is not None:
            raise self.error
        return self.value

    def _wake(self) -> None:
        hub = self._hub
        if hub is None:
            self._lock.release()
        elif get_hub_if_exists() is hub:
            self._on_set()
        else:
            try:
                hub.loop.run_callback_threadsafe(self._on_set)
            except (AttributeError, ValueError):
                pass  # that thread's hub is gone, and the waiter with it

    def _on_set(self) -> None:
        """Wake the waiter; runs in the thread that waits."""
        self._ready = True
        if self._waiter is not None:
            self._hub.loop.run_callback(self._waiter.switch, True)
