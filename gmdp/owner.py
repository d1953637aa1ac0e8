"""The greenlet that owns sockets.

The first law: one owner per socket; it alone reads, writes, polls and closes
it, and everybody else talks to its mailbox.  The owner wakes for three things:
a socket's descriptor, its mailbox, the next deadline.  What it does then, its
engine decides (a broker's, worker's or client's).
"""

from __future__ import annotations

import functools
import itertools
import logging
import operator
import os
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Protocol

import gevent
import zmq
import zmq.green
from gevent.hub import Waiter

from .exceptions import OwnerDied
from .slots import Slot, get_hub_if_exists

_log = logging.getLogger("gmdp.owner")

# Plain integers and the backend's own functions: a frame costs half as much, and
# zmq.green's versions wait where an owner must not.
_DONTWAIT = int(zmq.DONTWAIT)
_DONTWAIT_SNDMORE = int(zmq.DONTWAIT | zmq.SNDMORE)
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
_POLLOUT = int(zmq.POLLOUT)
_send = zmq.backend.Socket.send
_receive = zmq.backend.Socket.recv
_get = zmq.backend.Socket.get

# What a monitor tells of a connecting socket.  The end of a connection may be told
# before what arrived last can be read; when it is told that another attempt is
# planned, everything can.
_UP = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
_GONE = int(zmq.EVENT_CONNECT_RETRIED)
_WHY = {
    int(zmq.EVENT_DISCONNECTED): "the connection was closed",
    int(zmq.EVENT_CLOSED): "connection refused",
}
_REFUSED = {
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "the handshake failed",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "the peer does not speak this protocol",
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): "the broker refused the connection",
}
_ALL = functools.reduce(operator.or_, [*_WHY, *_REFUSED], _UP | _GONE)
_monitor_names = itertools.count(1)


class Engine(Protocol):
    """What an owner drives; every method runs in the owner and must not block."""

    def awake(self, now: float) -> None:
        """A pass begins."""

    def received(self, link: Link, frames: list[bytes], now: float) -> None:
        """One whole message was read."""

    def up(self, link: Link, now: float) -> None:
        """A connecting link stands."""

    def down(self, link: Link, reason: str, now: float) -> None:
        """A connecting link is gone, or could not be made."""

    def caught_up(self, now: float) -> None:
        """There was nothing more to read."""

    def deadline(self) -> float:
        """When `tick` is needed next (monotonic seconds); infinity if never."""

    def tick(self, now: float) -> None:
        """Do what is due."""

    def flush(self, now: float) -> None:
        """Carry out what was decided."""

    def died(self, error: BaseException) -> None:
        """The owner ends by a defect; its links are closed."""


class Link:
    """One ZeroMQ socket, its watchers, and what it is connected to.

    Made and used by one owner only.
    """

    #: Seconds ZeroMQ's thread may take for what it does in milliseconds: to free a
    #: bound endpoint, to tell all about a lost connection.
    patience = 1.0

    __slots__ = (
        "_monitor",
        "_owner",
        "_routes",
        "_touched",
        "_watchers",
        "blocked",
        "closed",
        "inproc",
        "lost",
        "lost_at",
        "max_frames",
        "socket",
        "tag",
    )

    def __init__(self, owner: Owner, socket: zmq.green.Socket[bytes], max_frames: int, tag: Any) -> None:
        self._owner = owner
        self.socket = socket
        #: Frames of a message that are kept; one more shows that there were more.
        self.max_frames = max_frames
        #: Whatever the engine knows this link by.
        self.tag = tag
        self.closed = False
        #: True after a message found no room: until there is some.
        self.blocked = False
        self.inproc = False
        self._routes = socket.socket_type == zmq.ROUTER
        self._touched = owner.touched
        #: Why the connection ended, once it has.
        self.lost = ""
        self.lost_at = 0.0
        self._monitor: zmq.green.Socket[bytes] | None = None
        self._watchers: list[Any] = []
        _stop_green_watcher(socket)
        self._watch(socket)

    def _watch(self, socket: zmq.green.Socket[bytes]) -> None:
        watcher = self._owner.loop.io(_get(socket, zmq.FD), 1)
        watcher.start(self._signal)
        self._watchers.append(watcher)

    def _signal(self) -> None:
        self._owner.ready.add(self)
        self._owner.wake()

    def connect(self, endpoint: str) -> None:
        """Connect to `endpoint`; the engine hears `up` or `down`.  ZMQError if that is impossible."""
        self.inproc = endpoint.startswith("inproc:")
        if not self.inproc:
            self._monitor = _monitor(self.socket, _ALL)
            self._watch(self._monitor)
        self.socket.connect(endpoint)

    def send(self, frames: list[bytes]) -> str | None:
        """Send one whole message at once; None, or why not: "full" or "gone"."""
        socket = self.socket
        self._touched.add(self)
        last = frames.pop()  # cheaper than to count
        try:
            for frame in frames:
                _send(socket, frame, _DONTWAIT_SNDMORE)
            _send(socket, last, _DONTWAIT)
        except zmq.Again:
            self.blocked = True
            return "full"
        except zmq.ZMQError:
            return "gone"
        finally:
            frames.append(last)
        self.blocked = False
        return None

    def receive(self) -> list[bytes] | None:
        """One whole message, None if there is none."""
        socket = self.socket
        # A frame that is not copied knows whether more follow; to ask the socket costs more.
        # What a ROUTER reads first is a routing id, and something always follows: one that
        # is copied costs a third.
        try:
            if self._routes:
                frames = [_receive(socket, _DONTWAIT)]
                more = True
            else:
                frame = _receive(socket, _DONTWAIT, False)
                frames = [frame.bytes]
                more = frame.more
        except zmq.ZMQError:
            return None
        while more:
            frame = _receive(socket, _DONTWAIT, False)
            more = frame.more
            if len(frames) <= self.max_frames:
                frames.append(frame.bytes)
        return frames

    def events(self) -> int:
        """The socket's EVENTS: whoever reads them re-arms the descriptor."""
        return int(_get(self.socket, _EVENTS))

    def news(self) -> tuple[bool, bool]:
        """What became of the connection since last asked: (it stands, it is gone)."""
        up = gone = False
        while self._monitor is not None:
            try:
                event = int.from_bytes(_receive(self._monitor, _DONTWAIT)[:2], "little")
                _receive(self._monitor, _DONTWAIT)
            except zmq.ZMQError:
                break
            up = up or event == _UP
            gone = gone or event == _GONE or event in _REFUSED
            if not self.lost:
                self.lost = _WHY.get(event, "") or _REFUSED.get(event, "")
                self.lost_at = monotonic()
        if self.lost and monotonic() > self.lost_at + self.patience:
            gone = True  # no other attempt is planned
        if self.inproc and not self.events() & _POLLOUT:
            # It has no bound and no monitor: no way out means no peer.
            gone, self.lost = True, "the broker closed its endpoint"
        return up, gone

    def close_bound(self, endpoints: Sequence[str], linger: float) -> None:
        """Close a socket that is bound to `endpoints`, and wait until they are free.

        Closing goes on in another thread: who binds again at once would find the
        address in use.
        """
        monitor = _monitor(self.socket, zmq.EVENT_CLOSED)
        listeners = 0
        for endpoint in endpoints:
            if endpoint.startswith("inproc:"):
                self.socket.unbind(endpoint)  # frees the name, and leaves the peers alone
            else:
                listeners += 1
        self.close(linger)
        until = monotonic() + self.patience
        try:
            while listeners and monotonic() < until:
                try:
                    _receive(monitor, _DONTWAIT)
                    _receive(monitor, _DONTWAIT)
                    listeners -= 1
                except zmq.ZMQError:
                    gevent.sleep(0.0005)
        finally:
            monitor.close(0)

    def close(self, linger: float = 0) -> None:
        """Close the socket; what is unsent has `linger` seconds, in the background."""
        if self.closed:
            return
        self.closed = True
        for watcher in self._watchers:
            watcher.stop()
            watcher.close()
        self._owner.forget(self)
        if self._monitor is not None:
            try:
                self.socket.disable_monitor()
            except zmq.ZMQError:
                pass
            self._monitor.close(0)
        self.socket.close(int(linger * 1000))


class Owner:
    """One greenlet, its links, its mailbox and its timer.

    `post` and `call` may be used by any greenlet of any thread, everything else
    by the owner itself and its engine only.
    """

    #: Messages read from a link, and entries taken from the mailbox, before
    #: other greenlets get their turn.
    burst = 100
    #: The longest wait in seconds, should a descriptor ever miss an edge.
    safety_interval = 1.0

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
        self._timer: Any = None
        self._timer_at = 0.0
        self._finished = False
        self._ended = False
        #: The defect that ended it, if one did.
        self.death: BaseException | None = None
        self.greenlet = gevent.Greenlet(self._run)
        self.greenlet.name = f"gmdp-{name}"

    def start(self) -> None:
        """Begin to run."""
        self.greenlet.start()

    # From anywhere

    @property
    def here(self) -> bool:
        """True in the thread of the owner's hub."""
        return get_hub_if_exists() is self.hub

    def post(self, function: Callable[..., Any], *args: Any) -> None:
        """Have the owner call `function(*args)`, soon."""
        self._mailbox.append((function, args))
        if self._ended:
            self._answer_the_rest()  # there is nothing owned any more
        elif not self.here:
            try:
                self.loop.run_callback_threadsafe(self.wake)
            except ValueError:
                pass  # that thread's hub is gone: who waits for an answer is told by his timeout
        elif self._waiter is not None:
            self.loop.run_callback(self.wake)

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

    def link(self, socket: zmq.green.Socket[bytes], max_frames: int, tag: Any = None) -> Link:
        """Take a socket over."""
        link = Link(self, socket, max_frames, tag)
        self._links.append(link)
        self.ready.add(link)
        return link

    def forget(self, link: Link) -> None:
        """A link is closed."""
        self._links.remove(link)
        self.ready.discard(link)
        self.touched.discard(link)

    def finish(self) -> None:
        """End after this pass, closing what is open."""
        self._finished = True

    def wake(self) -> None:
        """End the present wait, if there is one."""
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            waiter.switch(None)

    # The loop

    def _run(self) -> None:
        engine = self._engine
        try:
            done = 0
            while True:
                now = monotonic()
                engine.awake(now)
                done += 1 + self._empty_mailbox()
                if now >= engine.deadline():
                    self.ready.update(self._links)  # what waits is read before anybody is judged
                for link in list(self.ready):
                    done += self._read(link, now)
                if not self.ready:
                    engine.caught_up(now)
                if now >= engine.deadline():
                    engine.tick(now)
                engine.flush(now)
                self._look_again()
                if self._finished:
                    break
                if not self.ready and not self._mailbox:
                    done = 0
                    self._wait(engine.deadline())
                elif done >= self.burst:
                    done = 0
                    gevent.sleep(0)
        except BaseException as error:
            self._close_links()
            if not isinstance(error, gevent.GreenletExit):
                _log.critical("%s: the owner ended by a defect", self.name, exc_info=True)
            died = OwnerDied(f"the owner of {self.name} ended: {error!r}")
            died.__cause__ = error
            engine.died(died)
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
            engine.received(link, frames, now)
            if link.closed:
                break
        return count

    def _after_reading(self, link: Link, now: float) -> None:
        self.ready.discard(link)
        stands, gone = link.news()
        if stands:
            self._engine.up(link, now)
        if gone and not link.closed:
            # What arrived before the loss counts.
            while not link.closed and (frames := link.receive()) is not None:
                self._engine.received(link, frames, now)
            if not link.closed:
                self._engine.down(link, link.lost or "no connection could be made", now)

    def _look_again(self) -> None:
        """The descriptor is edge-triggered: before a wait, see what has come since."""
        for link in list(self.touched):
            if link.closed:
                continue
            events = link.events()
            if link.blocked and events & _POLLOUT:
                # There is room again: one more pass.  On a ROUTER this is no more than
                # a guess, since the room may be another peer's; so once only.
                link.blocked = False
                self.ready.add(link)
            elif events & _POLLIN or (link.inproc and not events & _POLLOUT):
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


def _monitor(socket: zmq.green.Socket[bytes], events: int) -> zmq.green.Socket[bytes]:
    """A socket that receives what happens to the connections of `socket`."""
    name = f"inproc://gmdp-monitor-{os.getpid()}-{next(_monitor_names)}"
    socket.monitor(name, events)
    monitor: zmq.green.Socket[bytes] = socket.context.socket(zmq.PAIR)
    _stop_green_watcher(monitor)
    # An undrained monitor stops all traffic once it is full: no bound here.
    monitor.set(zmq.RCVHWM, 0)
    monitor.set(zmq.LINGER, 0)
    monitor.connect(name)
    return monitor


def _stop_green_watcher(socket: zmq.green.Socket[bytes]) -> None:
    """zmq.green watches each socket for its own blocking calls, which no owner
    uses: without this, every message would wake two watchers."""
    watcher = getattr(socket, "_state_event", None)
    if watcher is not None:
        watcher.stop()
