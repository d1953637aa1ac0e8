"""A thread with a hub of its own, for clients of programs in which no hub runs.

The rules of this module:

* The thread lives from a client's start until its owner's end.
* Any thread may start the client.  Calls to start it that come together make one thread
  between them, and each waits until the client has started.
* Locks and threads are those of the operating system, whatever is monkey-patched: a patched
  one would need the hub of the thread that uses it.
* A thread in the middle of gevent's code does not survive the end of the interpreter.  So
  every client that has had such a thread is closed at exit, and :meth:`ClientThread.join`
  waits for the thread's end.
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from ..exceptions import StateError
from ..io import guarded, logs
from ..io.descriptors import get_hub
from ..io.owner import Owner, check_may_wait
from ..io.slots import Slot, allocate_lock, start_thread

_log = logs.QueuedLogger("gmdp.connections")


class Closable(Protocol):
    """A client, which is closed at the end of the interpreter."""

    def close(self) -> None:
        """Close at once."""


_closed_at_exit: weakref.WeakSet[Closable] = weakref.WeakSet()
_threads: weakref.WeakSet[ClientThread] = weakref.WeakSet()


@atexit.register
def _close_at_exit() -> None:
    for client in list(_closed_at_exit):
        client.close()
    for thread in list(_threads):  # of clients that were garbage-collected
        thread.join()


class ClientThread:
    """The thread of one client; any thread may call its methods.

    Args:
        patience: seconds within which the thread must start, and end.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        #: A slot for each caller that waits for the client's start.
        self._starters: list[Slot] = []
        #: Guards `_starters`.
        self._starters_lock = allocate_lock()
        #: A lock that the thread holds until its end.
        self._alive = allocate_lock()

    @property
    def starting(self) -> bool:
        """True while a caller waits for the client to start in the thread."""
        return bool(self._starters)

    @property
    def alive(self) -> bool:
        """True from the thread's first act to its last."""
        return bool(self._alive.locked())

    def start(self, client: Closable, open_owner: Callable[[], Owner | None], is_open: Callable[[], bool]) -> None:
        """Have a new thread call `open_owner` and serve the owner until it ends; wait until it is open.

        Args:
            client: closed at the interpreter's end.
            open_owner: starts the client in the thread; returns its owner.
            is_open: tells whether the client has started already.

        Raises:
            StateError: the thread did not start in time, or the caller is a hook or a callback of the hub.
            MDPError: what `open_owner` raised.
        """
        slot = Slot()
        with self._starters_lock:
            if is_open():
                return
            check_may_wait()
            self._starters.append(slot)
            first = len(self._starters) == 1
        if first:
            _closed_at_exit.add(client)
            _threads.add(self)
            # In a list: the arguments of a thread live as long as it does, and would keep the client alive.
            start_thread(self._run, ([open_owner],))
        # Without a timeout, a caller whose hub has nothing else to wait for would get LoopExit.
        if not slot.wait(self._patience):
            raise StateError(f"the client's own thread did not start within {self._patience:g} seconds")
        slot.get()

    def wait_for_start(self) -> None:
        """Wait until no caller waits any more for the client to start, whether or not it has started."""
        slot = Slot()
        with self._starters_lock:
            if not self._starters:
                return
            self._starters.append(slot)
        slot.wait(self._patience)

    def join(self) -> None:
        """Wait until the thread has ended: an interpreter must not end while it runs."""
        if self._alive.acquire(True, self._patience):
            self._alive.release()

    def _run(self, open_owner: list[Callable[[], Owner | None]]) -> None:
        with self._alive:
            self._serve(open_owner)

    def _serve(self, open_owner: list[Callable[[], Owner | None]]) -> None:
        hub: Any = None
        owner: Owner | None = None
        error: BaseException | None = None
        try:
            hub = get_hub()
            owner = open_owner.pop()()
        except BaseException as failure:
            error = failure
        with self._starters_lock:
            starters, self._starters = self._starters, []
        for slot in starters:
            if error is None:
                slot.set(None)
            else:
                slot.fail(error)
        while owner is not None:
            try:
                owner.greenlet.join()
                break
            except guarded.INTERRUPTS as interrupt:  # of a span processor; no signal's handler runs in this thread
                _log.warning("code that runs in the client's own thread raised %r: it goes on", interrupt)
        if hub is not None:
            hub.destroy(destroy_loop=True)
