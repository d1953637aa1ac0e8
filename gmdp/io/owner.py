"""The greenlet that owns sockets.

The rules of this module:

* One owner per socket.  The owner alone reads, writes, polls and closes it; everybody else posts
  to the owner's mailbox.
* The owner wakes for three things: a socket's descriptor, its mailbox, the next deadline.  Its engine
  (a broker's, worker's or client's) decides what is done then.
* A pass reads before it judges: everything that waits is read before a peer can be late.
* A pass is bounded.  After :attr:`Owner.burst` messages other greenlets get their turn.
* A descriptor is edge-triggered: EVENTS are read before every wait.
* The hub may not have run for a while.  What the sockets have to tell is read before anything that was posted.
* While the end of a connection is reported in part, what was posted waits: it might be sent there, and lost.
* After each wait an owner looks whether its process was forked in C.
* Only gmdp's own code runs unguarded in an owner (:mod:`.guarded`, :mod:`.logs`).
* An owner that ends, for any reason, first answers all who wait for it.  Then it logs, and is gone
  when its records are written.  Later posts are answered, too.
* A signal's handler may raise SystemExit or KeyboardInterrupt in gmdp's own code, in the middle of a decision.
  The owner then ends in good order, and the hub gets the error.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from os import getpid
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import gevent
import zmq
import zmq.green
from gevent.hub import Hub, Waiter

from ..core.peer.reasons import CloseReason
from ..exceptions import OwnerDied, StateError
from . import forks, guarded, logs
from .descriptors import get_hub
from .frames import POLLIN, POLLOUT
from .lingering import Lingering
from .link import Link
from .slots import SHORTEST_TIMER, Slot, get_hub_if_exists

if TYPE_CHECKING:
    from ..core.peer.connector import Connection

_log = logs.QueuedLogger("gmdp.owner")

#: Seconds between two looks for the last report of a connection's end, which usually comes within a millisecond.
ENDING_INTERVAL = 0.001

T = TypeVar("T")


class Engine(Protocol):
    """What an owner drives.  Every method runs in the owner and must not block.

    `now` is the monotonic time, in seconds, at which the present pass began.
    """

    def on_wake(self, now: float) -> None:
        """A pass begins."""

    def on_message(self, link: Link, frames: list[bytes], now: float) -> None:
        """One whole message was received."""

    def on_transport_connected(self, link: Link, now: float) -> None:
        """The transport of a connecting link is connected; its handshake may go on."""

    def on_connected(self, link: Link, now: float) -> None:
        """The connection of a connecting link is established."""

    def on_disconnected(self, link: Link, reason: CloseReason, now: float) -> None:
        """The connection of a connecting link is gone, or could not be made."""

    def on_caught_up(self, now: float) -> None:
        """Everything was read."""

    def deadline(self) -> float:
        """When `tick` is needed next (monotonic seconds); infinity if never."""

    def tick(self, now: float) -> None:
        """Do what is due."""

    def flush(self, now: float) -> None:
        """Carry out what the core decided."""

    def on_owner_died(self, error: BaseException) -> None:
        """A bug ends the owner; its links are closed."""


class OwnerGreenlet(gevent.Greenlet):  # type: ignore[misc]
    """The greenlet of an owner: code that runs in one must not wait."""


_MUST_NOT_WAIT = (OwnerGreenlet, Hub)


def must_not_wait() -> bool:
    """Return True in an owner's greenlet, for a hook for instance, and in a hub: both would keep others waiting."""
    return isinstance(gevent.getcurrent(), _MUST_NOT_WAIT)


def check_may_wait() -> None:
    """Raise StateError where :func:`must_not_wait` is true."""
    if isinstance(gevent.getcurrent(), _MUST_NOT_WAIT):
        raise StateError("a hook, or a callback of the hub, must not wait: have another greenlet do it")


class Owner:
    """One greenlet, its links, its mailbox and its timer.

    Any greenlet of any thread may use :meth:`post` and :meth:`call`.  Everything else is for
    the owner itself and its engine.

    Args:
        engine: what the owner drives.
        name: what the owner is called in logs and errors.
    """

    #: Messages read from a link, and entries taken from the mailbox, before other greenlets
    #: get their turn: some 2.5 ms.  Doubling it raises the throughput by 5 %.
    burst = 50
    #: The longest wait in seconds, in case a descriptor misses an edge.
    safety_interval = 1.0
    #: Seconds without a pass after which the hub may not have run.
    idle_interval = 0.001

    #: The greenlet that runs the loop; set by `start`.
    greenlet: gevent.Greenlet

    def __init__(self, engine: Engine, name: str) -> None:
        self.hub = get_hub()
        self.loop = self.hub.loop
        logs.open_queue(self.hub)
        forks.register_hub(self.hub)
        self.name = name
        self._engine = engine
        self._mailbox: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._links: list[Link] = []
        #: Closed sockets whose last messages are on their way.
        self._lingering: list[Lingering] = []
        #: Links that may have something to read.
        self.ready: set[Link] = set()
        #: Links that were used: their EVENTS are read before the next wait.
        self.used: set[Link] = set()
        #: Links whose connection has ended, as was reported; the last report is about to come.
        self._ending: set[Link] = set()
        self._waiter: Waiter | None = None
        #: True while a call of `wake` is planned for what was posted.
        self._wake_planned = False
        self._timer: Any = None
        self._timer_at = 0.0
        #: When the engine needs its next tick, as it said.
        self._due_at = 0.0
        self._finished = False
        self._ended = False
        #: Errors of bugs that are not logged yet: the one that ended the owner, and later ones.
        self._defects: list[BaseException] = []
        #: True if an error of a signal's handler ended the owner.
        self._interrupted = False
        #: True once the owner's last act is done.
        self._gone = False
        self._end_waiters: deque[Slot] = deque()
        #: The process whose sockets it owns; True in the child of a fork.
        self._process = getpid()
        self.abandoned = False
        #: The bug that ended the owner, if one did.
        self.death: BaseException | None = None

    def start(self) -> None:
        """Begin to run."""
        self.greenlet = OwnerGreenlet(self._run)
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
            self._empty_mailbox_for_good()  # no socket is owned any more, and nothing can interleave
            self._log_defects()
        elif not self.runs_here:
            try:
                self.loop.run_callback_threadsafe(self.wake)
            except ValueError:
                pass  # that thread's hub is gone: for a caller that waits, its timeout ends the wait
        elif self._waiter is not None and not self._wake_planned:
            # One wake for everything that is posted before it comes.
            self._wake_planned = True
            self.loop.run_callback(self._planned_wake)

    def call(self, function: Callable[..., T], *args: Any, timeout: float) -> T:
        """Have the owner call `function(*args)`, and return its result or raise its error.

        Raises TimeoutError if the owner did not run for `timeout` seconds.
        """
        slot = Slot()
        self.post(self._call_for, slot, function, args)
        if not slot.wait(timeout):
            raise TimeoutError(f"the hub of {self.name} did not run for {timeout:g} seconds")
        result: T = slot.get()
        return result

    def _call_for(self, slot: Slot, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            value = function(*args)
        except Exception as error:
            slot.fail(error)
        except BaseException as error:
            slot.fail(OwnerDied(f"the owner of {self.name} was interrupted: {guarded.repr_of(error)}"))
            raise
        else:
            logs.after_flush(slot.set, value)

    def set_when_gone(self, slot: Slot) -> None:
        """Have `slot` set to None once the owner has ended, and what it logged is written."""
        self._end_waiters.append(slot)
        if self._gone:
            self._set_end_waiters()

    def _set_end_waiters(self) -> None:
        while self._end_waiters:
            self._end_waiters.popleft().set(None)

    # From the owner and its engine

    def add_link(self, socket: zmq.green.Socket[bytes], max_frames: int, connection: Connection | None = None) -> Link:
        """Take over a socket that is neither bound nor connected yet; returns its link."""
        link = Link(
            socket,
            max_frames,
            connection,
            loop=self.loop,
            ready=self.ready,
            used=self.used,
            wake=self.wake,
            on_closed=self._on_link_closed,
        )
        self._links.append(link)
        self.ready.add(link)
        return link

    def _on_link_closed(self, link: Link) -> None:
        self._links.remove(link)
        self.ready.discard(link)
        self.used.discard(link)
        self._ending.discard(link)

    def linger(self, link: Link, linger: float, until: float, listeners: int = 0, messages: bool = True) -> None:
        """Close `link` as :meth:`Link.linger` does; :attr:`lingers` is True until that has ended."""
        lingering = link.linger(linger, until, listeners, messages)
        if lingering is not None:
            self._lingering.append(lingering)

    def limit_lingering(self, until: float) -> None:
        """Wait for closed links until `until` at the latest."""
        for lingering in self._lingering:
            lingering.limit(until)

    @property
    def lingers(self) -> bool:
        """True while closed links are waited for."""
        return bool(self._lingering)

    def finish(self) -> None:
        """End after this pass, and close every link that is still open."""
        self._finished = True

    def abandon(self) -> None:
        """In the child of a fork: own nothing any more, and never run again.

        A greenlet that waits for an answer goes on waiting: the answer goes to the parent's greenlet.
        """
        self.abandoned = True
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        for link in self._links:
            link.abandon()
        self._links.clear()
        for lingering in self._lingering:
            lingering.abandon()
        self._lingering.clear()
        self.ready.clear()
        self.used.clear()
        self._ending.clear()

    def _planned_wake(self) -> None:
        self._wake_planned = False
        self.wake()

    def wake(self) -> None:
        """End the owner's wait, if it waits."""
        waiter = self._waiter
        if waiter is not None and not self.abandoned:
            self._waiter = None
            waiter.switch(None)

    # The loop

    def _run(self) -> None:
        death: BaseException | None = None
        try:
            self._loop()
        except BaseException as error:
            death = error
        if not self.abandoned:
            self._end(death)
        # A signal's handler runs in the greenlet that happens to run: its error was not meant for this one.
        if isinstance(death, guarded.INTERRUPTS):
            raise death  # gevent raises it in the main greenlet

    def _loop(self) -> None:
        engine, mailbox, ready = self._engine, self._mailbox, self.ready
        steps = 0  # passes, posted calls and messages since other greenlets last had a turn
        passed_at = monotonic()
        while True:
            now = monotonic()
            engine.on_wake(now)
            steps += 1
            if mailbox:
                if now > passed_at + self.idle_interval:
                    self._read_news(now)
                if not self._ending:
                    steps += self._empty_mailbox()
            passed_at = now
            due = now >= self._due_at  # compared once a pass: the next pass is never far
            if due:
                ready.update(self._links)  # everything that waits is read before a peer is judged
            if self._ending:
                ready.update(self._ending)
            if ready:
                for link in list(ready):
                    steps += self._read(link, now)
            if not ready:
                engine.on_caught_up(now)
            if self._lingering:
                self._lingering = [lingering for lingering in self._lingering if not lingering.poll(now)]
            if due:
                engine.tick(now)
            engine.flush(now)
            if self.used:
                self._recheck_used_links()
            if self._finished or self.abandoned:
                return
            self._due_at = engine.deadline()
            if self._lingering:
                self._due_at = min(self._due_at, *(lingering.due_at for lingering in self._lingering))
            try:
                if not ready and self._ending:
                    steps = 0
                    self._wait(min(self._due_at, now + ENDING_INTERVAL))
                elif not ready and not mailbox:
                    steps = 0
                    self._wait(self._due_at)
                elif steps >= self.burst:
                    steps = 0
                    gevent.sleep(0)
            except gevent.Timeout as timeout:
                _log.warning("%s: a hook began a timeout in the owner, and never ended it: %s", self.name, timeout)
            if getpid() != self._process:
                forks.notice()
                self.abandon()
                return

    def _end(self, death: BaseException | None) -> None:
        """Answer all who wait, then log, and wait until that is written.  An error in one step stops no other."""
        self._interrupted = isinstance(death, guarded.INTERRUPTS)
        if death is not None and not self._interrupted and not isinstance(death, gevent.GreenletExit):
            self._defects.append(death)
        self._take_last_step(self._close_links)
        if death is not None:
            died = OwnerDied(f"the owner of {self.name} ended: {guarded.repr_of(death)}")
            died.__cause__ = death
            self._take_last_step(self._engine.on_owner_died, died)
            self._take_last_step(self._close_links)
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        self._ended = True
        self._empty_mailbox_for_good()
        self._log_defects()
        self._take_last_step(logs.finish)
        self._gone = True
        self._set_end_waiters()

    def _take_last_step(self, step: Callable[..., object], *args: Any) -> None:
        """Call one of the steps of the owner's end, which all have to be taken."""
        try:
            step(*args)
        except guarded.INTERRUPTS as interrupt:
            if not self._interrupted:  # otherwise the program is about to end
                guarded.give_to_hub(interrupt)
        except BaseException as error:
            self._defects.append(error)

    def _log_defects(self) -> None:
        defects, self._defects = self._defects, []
        for defect in defects:
            _log.critical("%s: a bug ended the owner", self.name, exc_info=defect)

    def _empty_mailbox_for_good(self) -> None:
        """Call everything that was posted: even after the owner's end, callers get their answer.

        The first entry may have been called already: what ended the owner may have hit it.
        """
        while True:
            try:
                function, args = self._mailbox.popleft()
            except IndexError:
                return
            self._take_last_step(function, *args)

    def _empty_mailbox(self) -> int:
        mailbox = self._mailbox
        count = min(len(mailbox), self.burst)
        for _ in range(count):
            function, args = mailbox[0]
            function(*args)
            # Only now: what ends the owner in the middle of it leaves it to the owner's end, which answers.
            mailbox.popleft()
        return count

    def _read_news(self, now: float) -> None:
        """Read what the sockets have to tell though their watchers may not have run."""
        for link in self._links[:]:
            if link.has_news():
                self._read(link, now)

    def _read(self, link: Link, now: float) -> int:
        """Read a burst of messages; the link stays ready if there may be more.  Returns their number."""
        engine = self._engine
        count = 0
        self.used.add(link)
        if link.has_users:
            link.poll_new_peers(now)  # a descriptor may be that of another connection by now
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
                # With little traffic there is one message at a time.  Trying to receive another would
                # cost more than the message itself: pyzmq imports an exception and raises it.
                if not link.blocked and not link.inproc:
                    self.used.discard(link)  # its EVENTS were read just now
                self._after_reading(link, now)
                break
        return count

    def _after_reading(self, link: Link, now: float) -> None:
        self.ready.discard(link)
        established, gone = link.poll_connection(now)
        if link.loss is not None and not gone:
            self._ending.add(link)
        if link.transport_connected:
            link.transport_connected = False
            self._engine.on_transport_connected(link, now)
        if established:
            self._engine.on_connected(link, now)
        if gone and not link.closed:
            self._ending.discard(link)
            # Messages that arrived before the loss count.
            while not link.closed and (frames := link.receive()) is not None:
                self._engine.on_message(link, frames, now)
            if not link.closed:
                self._engine.on_disconnected(link, link.loss or CloseReason.NOT_MADE, now)

    def _recheck_used_links(self) -> None:
        """Before a wait: find the used links that have something to read by now.

        Reading EVENTS re-arms a descriptor, which is edge-triggered.
        """
        for link in list(self.used):
            if link.closed:
                continue
            events = link.events()
            if link.blocked and events & POLLOUT:
                # The socket has room again: one more pass.  On a ROUTER this is a guess, since
                # the room may be another peer's; so it is made once only.
                link.blocked = False
                self.ready.add(link)
            elif events & POLLIN or (link.inproc and not events & POLLOUT):
                self.ready.add(link)
        self.used.clear()

    def _wait(self, deadline: float) -> None:
        now = monotonic()
        until = now + self.safety_interval
        if deadline < until:
            until = deadline
            if until <= now:
                gevent.sleep(0)
                return
        # A timer that is armed for an earlier time does no harm.  It is replaced only if it
        # would fire too late, which under load never happens.
        if not now < self._timer_at <= until:
            if self._timer is not None:
                self._timer.stop()
                self._timer.close()
            self._timer = self.loop.timer(max(until - now, SHORTEST_TIMER))
            self._timer_at = until
            self._timer.start(self._on_timer)
        self._waiter = waiter = Waiter()
        try:
            waiter.get()
        finally:
            self._waiter = None

    def _on_timer(self) -> None:
        # Also the safety net for an edge that a descriptor missed.
        self.ready.update(self._links)
        self._timer_at = 0.0
        self.wake()

    def _close_links(self) -> None:
        for link in self._links[:]:
            link.close()
        for lingering in self._lingering:
            lingering.close()
        self._lingering.clear()
