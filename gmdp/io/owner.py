"""The greenlet that owns sockets.

The first law: one owner per socket; it alone reads, writes, polls and closes
it, and everybody else talks to its mailbox.  The owner wakes for three things:
a socket's descriptor, its mailbox, the next deadline.  What it does then, its
engine decides (a broker's, worker's or client's).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

import gevent
import zmq
import zmq.green
from gevent.hub import Waiter

from ..core.peer.connector import Connection
from ..core.peer.reasons import CloseReason
from ..exceptions import OwnerDied
from .frames import POLLIN, POLLOUT
from .link import Link
from .slots import Slot, get_hub_if_exists

_log = logging.getLogger("gmdp.owner")


class Engine(Protocol):
    """What an owner drives; every method runs in the owner and must not block."""

    def on_wake(self, now: float) -> None:
        """A pass begins."""

    def on_message(self, link: Link, frames: list[bytes], now: float) -> None:
        """One whole message was read."""

    def on_connected(self, link: Link, now: float) -> None:
        """A connecting link stands."""

    def on_disconnected(self, link: Link, reason: CloseReason, now: float) -> None:
        """A connecting link is gone, or could not be made."""

    def on_caught_up(self, now: float) -> None:
        """There was nothing more to read."""

    def deadline(self) -> float:
        """When `tick` is needed next (monotonic seconds); infinity if never."""

    def tick(self, now: float) -> None:
        """Do what is due."""

    def flush(self, now: float) -> None:
        """Carry out what was decided."""

    def on_owner_died(self, error: BaseException) -> None:
        """The owner ends by a defect; its links are closed."""


class Owner:
    """One greenlet, its links, its mailbox and its timer.

    `post` and `call` may be used by any greenlet of any thread, everything else
    by the owner itself and its engine only.
    """

    #: Messages read from a link, and entries taken from the mailbox, before
    #: other greenlets get their turn: some 2.5 ms.  Twice as many carry a twentieth more.
    burst = 50
    #: The longest wait in seconds, should a descriptor ever miss an edge.
    safety_interval = 1.0

    #: From `start` on.
    greenlet: gevent.Greenlet

    def __init__(self, engine: Engine, name: str) -> None:
        self.hub = gevent.get_hub()
        self.loop = self.hub.loop
        self.name = name
        self._engine = engine
        self._mailbox: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._links: list[Link] = []
        #: Links that may have something to read.
        self.ready: set[Link] = set()
        #: Links that were used: their EVENTS are looked at before the next wait.
        self.touched: set[Link] = set()
        self._waiter: Waiter | None = None
        #: True while `wake` is about to be called for what was posted.
        self._called = False
        self._timer: Any = None
        self._timer_at = 0.0
        #: When the engine said it needs its next tick.
        self._due_at = 0.0
        self._finished = False
        self._ended = False
        #: True in the child of a fork.
        self.abandoned = False
        #: The defect that ended it, if one did.
        self.death: BaseException | None = None

    def start(self) -> None:
        """Begin to run."""
        self.greenlet = gevent.Greenlet(self._run)
        self.greenlet.name = f"gmdp-{self.name}"
        self.greenlet.start()

    # From anywhere

    @property
    def runs_here(self) -> bool:
        """True in the thread of the owner's hub."""
        return get_hub_if_exists() is self.hub

    def post(self, function: Callable[..., Any], *args: Any) -> None:
        """Have the owner call `function(*args)`, soon."""
        self._mailbox.append((function, args))
        if self._ended:
            self._answer_the_rest()  # there is nothing owned any more
        elif not self.runs_here:
            try:
                self.loop.run_callback_threadsafe(self.wake)
            except ValueError:
                pass  # that thread's hub is gone: who waits for an answer is told by his timeout
        elif self._waiter is not None and not self._called:
            # One call for all who post before it comes.
            self._called = True
            self.loop.run_callback(self._wake_called)

    def call(self, function: Callable[..., Any], *args: Any, timeout: float) -> Any:
        """Have the owner call `function(*args)`, and return what it returns.

        Raises TimeoutError if the owner did not run for `timeout` seconds.
        """
        slot = Slot()
        self.post(self._answer, slot, function, args)
        if not slot.wait(timeout):
            raise TimeoutError(f"the hub of {self.name} did not run for {timeout:g} seconds")
        return slot.get()

    @staticmethod
    def _answer(slot: Slot, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            slot.set(function(*args))
        except Exception as error:
            slot.fail(error)

    # From the owner and its engine

    def add_link(self, socket: zmq.green.Socket[bytes], max_frames: int, connection: Connection | None = None) -> Link:
        """Take a socket over, neither bound nor connected yet; returns its link."""
        link = Link(
            socket,
            max_frames,
            connection,
            loop=self.loop,
            ready=self.ready,
            touched=self.touched,
            wake=self.wake,
            on_closed=self._on_link_closed,
        )
        self._links.append(link)
        self.ready.add(link)
        return link

    def _on_link_closed(self, link: Link) -> None:
        self._links.remove(link)
        self.ready.discard(link)
        self.touched.discard(link)

    def finish(self) -> None:
        """End after this pass, closing what is open."""
        self._finished = True

    def abandon(self) -> None:
        """In the child of a fork: nothing is owned here, and whatever is posted is for nobody.

        What waits for it goes on waiting: to whom an answer would go, he is the parent's.
        """
        self.abandoned = True
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        for link in self._links:
            link.abandon()
        self._links.clear()
        self.ready.clear()
        self.touched.clear()

    def _wake_called(self) -> None:
        self._called = False
        self.wake()

    def wake(self) -> None:
        """End the present wait, if there is one."""
        waiter = self._waiter
        if waiter is not None and not self.abandoned:
            self._waiter = None
            waiter.switch(None)

    # The loop

    def _run(self) -> None:
        engine = self._engine
        try:
            done = 0
            while True:
                now = monotonic()
                engine.on_wake(now)
                done += 1
                if self._mailbox:
                    done += self._empty_mailbox()
                due = now >= self._due_at  # to ask once a pass is enough: no pass is far from the next
                if due:
                    self.ready.update(self._links)  # what waits is read before anybody is judged
                for link in list(self.ready):
                    done += self._read(link, now)
                if not self.ready:
                    engine.on_caught_up(now)
                if due:
                    engine.tick(now)
                engine.flush(now)
                self._look_again()
                if self._finished or self.abandoned:
                    break
                self._due_at = engine.deadline()
                if not self.ready and not self._mailbox:
                    done = 0
                    self._wait(self._due_at)
                elif done >= self.burst:
                    done = 0
                    gevent.sleep(0)
        except BaseException as error:
            if self.abandoned:
                return
            self._close_links()
            # A signal's handler runs in whatever greenlet runs: that was not meant for this one.
            meant_for_main = isinstance(error, (KeyboardInterrupt, SystemExit))
            if not meant_for_main and not isinstance(error, gevent.GreenletExit):
                _log.critical("%s: the owner ended by a defect", self.name, exc_info=True)
            died = OwnerDied(f"the owner of {self.name} ended: {error!r}")
            died.__cause__ = error
            engine.on_owner_died(died)
            if meant_for_main:
                raise  # gevent raises it in the main greenlet
        finally:
            self._close_links()
            if self._timer is not None:
                self._timer.stop()
                self._timer.close()
                self._timer = None
            self._ended = True
            self._answer_the_rest()

    def _answer_the_rest(self) -> None:
        """Whoever posts after the end is answered all the same."""
        while True:
            try:
                function, args = self._mailbox.popleft()
            except IndexError:
                return
            function(*args)

    def _empty_mailbox(self) -> int:
        mailbox = self._mailbox
        count = min(len(mailbox), self.burst)
        for _ in range(count):
            function, args = mailbox.popleft()
            function(*args)
        return count

    def _read(self, link: Link, now: float) -> int:
        """Read a burst; the link stays ready if there may be more."""
        engine = self._engine
        count = 0
        self.touched.add(link)
        while count < self.burst:
            frames = link.receive()
            if frames is None:
                self._after_reading(link, now)
                break
            count += 1
            engine.on_message(link, frames, now)
            if link.closed:
                break
            if count == 1 and not link.events() & POLLIN:
                # With little traffic there is one message at a time.  To receive in vain would
                # cost more than the message: an exception, which pyzmq imports first.
                if not link.blocked and not link.inproc:
                    self.touched.discard(link)  # its EVENTS were read just now
                self._after_reading(link, now)
                break
        return count

    def _after_reading(self, link: Link, now: float) -> None:
        self.ready.discard(link)
        stands, gone = link.poll_connection(now)
        if stands:
            self._engine.on_connected(link, now)
        if gone and not link.closed:
            # What arrived before the loss counts.
            while not link.closed and (frames := link.receive()) is not None:
                self._engine.on_message(link, frames, now)
            if not link.closed:
                self._engine.on_disconnected(link, link.loss or CloseReason.NOT_MADE, now)

    def _look_again(self) -> None:
        """The descriptor is edge-triggered: before a wait, see what has come since."""
        for link in list(self.touched):
            if link.closed:
                continue
            events = link.events()
            if link.blocked and events & POLLOUT:
                # There is room again: one more pass.  On a ROUTER this is no more than
                # a guess, since the room may be another peer's; so once only.
                link.blocked = False
                self.ready.add(link)
            elif events & POLLIN or (link.inproc and not events & POLLOUT):
                self.ready.add(link)
        self.touched.clear()

    def _wait(self, deadline: float) -> None:
        now = monotonic()
        until = min(deadline, now + self.safety_interval)
        if until <= now:
            gevent.sleep(0)
            return
        # A timer that is armed for an earlier time does no harm; it is replaced
        # only when it would come too late, which under load is never.
        if self._timer is None or self._timer_at > until or self._timer_at <= now:
            if self._timer is not None:
                self._timer.stop()
                self._timer.close()
            self._timer = self.loop.timer(until - now)
            self._timer_at = until
            self._timer.start(self._tick)
        self._waiter = waiter = Waiter()
        try:
            waiter.get()
        finally:
            self._waiter = None

    def _tick(self) -> None:
        # Also the safety net for a descriptor's missed edge.
        self.ready.update(self._links)
        self._timer_at = 0.0
        self.wake()

    def _close_links(self) -> None:
        for link in self._links[:]:
            link.close()
