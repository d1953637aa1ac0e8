"""The search for leaks: greenlets, descriptors, threads, and requests without an answer.

With or without pytest (whose plugin is :mod:`gmdp_pytest`)::

    from gmdp.testing.leaks import no_leaks

    with no_leaks():
        ...  # raises Leaked, an AssertionError, if something that began in the block still exists

The rules of this module:

* A greenlet, descriptor, thread or request that is about to end is no leak: the hub runs for up
  to :data:`PATIENCE` seconds, until all of them have ended.
* Things that existed before are no leaks, and neither are those that gevent makes once per process.
* A broker, worker or client that existed before goes on accepting and making connections, and a
  client starts by itself.  What belongs to one of these is no leak.
* No program can tell which descriptors ZeroMQ has opened for such a broker, worker or client.
  Therefore, while one of these is open, a socket, or a nameless descriptor of the system (of
  events, of polling), is a leak only if one of Python's own sockets holds it.
"""

from __future__ import annotations

import contextlib
import gc
import linecache
import os
import sys
import threading
import traceback
import weakref
from _socket import socket as _Socket
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from time import monotonic
from types import FrameType
from typing import Any

import gevent
import greenlet
from gevent.hub import Hub

from ..broker.broker import Broker
from ..client.client import Client
from ..core.broker.statistics import BrokerStatistics
from ..core.peer.statistics import ClientStatistics
from ..exceptions import ConfigurationError
from ..io import lifecycle, resolving
from ..io.contexts import open_lazy_descriptors
from ..io.forks import Instance, instances
from ..io.owner import Owner
from ..protocol.text import show_name

#: The kinds of leaks, in the order of a report.
KINDS = ("requests", "greenlets", "descriptors", "threads")

#: Seconds to wait for things that are about to end.
PATIENCE = 2.0

#: Seconds in which another thread's hub must report the requests of its brokers and clients.
ANSWER_TIMEOUT = 0.1

#: Lines of each stack that a report shows.
DEPTH = 3
#: Characters of each name that a report shows.
_WIDTH = 200

#: Seconds between two searches for leaks: the first time, and at most.
_FIRST_PAUSE, _LAST_PAUSE = 0.002, 0.1

#: The threads of :mod:`~gmdp.testing.deadline`, which are no leaks.
own_threads: set[int] = set()

#: The names of descriptors that ZeroMQ or a hub may have opened begin with one of these.  (Outside Linux,
#: all names begin with "inode ".)
_NAMELESS = ("socket:", "anon_inode:", "inode ")
#: The name of a loop's own descriptor, on Linux.
_EPOLL = "anon_inode:[eventpoll]"

#: Where the source files of gevent and gmdp lie; a report leaves their lines out.  Compiled modules of gevent
#: have relative names.
_INSIDE = (
    os.path.dirname(gevent.__file__) + os.sep,
    f"src{os.sep}gevent{os.sep}",
    os.path.dirname(os.path.dirname(lifecycle.__file__)) + os.sep,
)


@dataclass(frozen=True)
class Leak:
    """One leak.

    Attributes:
        kind: One of :data:`KINDS`.
        what: The name and the place of the leak, in one line or several.
    """

    kind: str
    what: str


class Leaked(AssertionError):
    """There are leaks; the message shows all of them.

    Attributes:
        leaks: The leaks, a tuple of :class:`Leak`.
    """

    def __init__(self, leaks: Collection[Leak]) -> None:
        super().__init__(report(leaks))
        self.leaks = tuple(leaks)


def report(leaks: Collection[Leak]) -> str:
    """Return `leaks` as readable text, grouped by kind."""
    lines = ["left behind:"]
    for kind in KINDS:
        found = [leak.what for leak in leaks if leak.kind == kind]
        if found:
            lines.append(f"  {kind}:")
            lines += ["    " + what.replace("\n", "\n    ") for what in found]
    return "\n".join(lines)


def all_but(allowed: Iterable[str]) -> tuple[str, ...]:
    """Return the kinds that are not `allowed`.

    Raises:
        ConfigurationError: One of `allowed` is not a kind of leak.
    """
    names = [allowed] if isinstance(allowed, str) else list(allowed)
    for name in names:
        if name not in KINDS:
            raise ConfigurationError(f"{name!r} is no kind of leak; the kinds are {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind not in names)


class Census:
    """The things in this process at the moment at which the census is made.

    A census counts:

    * greenlets, of all threads, that have been started and have not ended;
    * descriptors;
    * threads that run Python;
    * requests that wait at a :class:`gmdp.Broker` or that one of its workers has, and calls of a
      :class:`gmdp.Client` without an answer; but none of another thread whose hub does not run.

    It does not count what is made once per process: gevent's loop, the idle threads of the hub's
    own pool, and the sockets of ``zmq.green.Context.instance()``, which the census makes itself.

    A census is made and asked in a greenlet.  If a broker, worker or client is started, the hub runs
    for a moment first, so that whatever they have just begun is counted.
    """

    def __init__(self) -> None:
        gevent.get_hub()
        open_lazy_descriptors()
        existing = instances()
        if any(instance.started for instance in existing):
            gevent.sleep(_FIRST_PAUSE)
        self._instances = _references(existing)
        #: Owners in other threads whose hub did not answer.
        self._silent: weakref.WeakSet[Owner] = weakref.WeakSet()
        self._requests = [(weakref.ref(instance), counts) for instance, counts in _requests(self._silent)]
        self._greenlets = _references(greenlets())
        self._descriptors = _descriptors()
        threads = _threads()
        self._threads = _references(thread for thread, _ in threads.values() if thread is not None)
        self._unnamed_threads = {ident for ident, (thread, _) in threads.items() if thread is None}

    def leaks(self, kinds: Collection[str] = KINDS) -> list[Leak]:
        """Return the leaks of this moment, without waiting.

        Args:
            kinds: The kinds to look for, of :data:`KINDS`.
        """
        found: list[Leak] = []
        if "requests" in kinds:
            found += [Leak("requests", what) for what in self._new_requests()]
        if "greenlets" in kinds:
            theirs = [getattr(owner, "greenlet", None) for owner in self._client_owners()]
            new = [other for other in greenlets() if not _is_in(self._greenlets, other) and other not in theirs]
            found += [Leak("greenlets", describe(other)) for other in new]
        if "descriptors" in kinds:
            now = _descriptors()
            new_descriptors = {*now.items()} - self._descriptors.items()
            # A loop replaces its epoll descriptor after a report of one that was closed: libev does so itself.
            replaced = sum(target == _EPOLL for _, target in self._descriptors.items() - now.items())
            for entry in sorted(entry for entry in new_descriptors if entry[1] == _EPOLL)[:replaced]:
                new_descriptors.remove(entry)
            if new_descriptors and any(not instance.closed for instance in self._earlier_instances()):
                held = _python_sockets()
                new_descriptors = {
                    (number, target) for number, target in new_descriptors if number in held or not _is_nameless(target)
                }
            for number, target in sorted(new_descriptors):
                found.append(Leak("descriptors", f"{number} -> {target}"))
        if "threads" in kinds:
            homes = [owner.hub.thread_ident for owner in self._client_owners()]
            for ident, (thread, frame) in _threads().items():
                if ident in (*self._unnamed_threads, *homes) if thread is None else _is_in(self._threads, thread):
                    continue
                if thread is not None:
                    what = repr(thread)[:_WIDTH] + _place(frame)
                elif _is_idle(frame):
                    what = f"thread {ident:#x}, idle, of a gevent ThreadPool that was not killed"
                else:
                    what = f"thread {ident:#x}{_place(frame)}"
                found.append(Leak("threads", what))
        return found

    def wait(self, kinds: Collection[str] = KINDS, patience: float | None = None) -> list[Leak]:
        """Let the hub run until there are no leaks.

        Args:
            kinds: The kinds to look for, of :data:`KINDS`.
            patience: Seconds until the leaks that remain are returned; :data:`PATIENCE` by default.

        Returns:
            The leaks that remain.
        """
        until = monotonic() + (PATIENCE if patience is None else patience)
        pause = _FIRST_PAUSE
        # A request that was just made is counted only once its owner has run.
        gevent.sleep(pause)
        while self.leaks(kinds):
            gc.collect()
            if monotonic() >= until:
                return self.leaks(kinds)
            gevent.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE)
        return []

    def check(self, kinds: Collection[str] = KINDS, patience: float | None = None) -> None:
        """Let the hub run until there are no leaks.

        Args:
            kinds: The kinds to look for, of :data:`KINDS`.
            patience: Seconds until the leaks that remain are raised; :data:`PATIENCE` by default.

        Raises:
            Leaked: There are leaks.
        """
        leaks = self.wait(kinds, patience)
        if leaks:
            raise Leaked(leaks)

    def _earlier_instances(self) -> list[Instance]:
        """Return the brokers, workers and clients of the census that still exist."""
        return [instance for instance in instances() if _is_in(self._instances, instance)]

    def _client_owners(self) -> list[Owner]:
        """Return the owners of the census's clients, since a client starts by itself."""
        owners = [client._owner for client in self._earlier_instances() if isinstance(client, Client)]
        return [owner for owner in owners if owner is not None]

    def _new_requests(self) -> Iterator[str]:
        earlier = {
            id(instance): counts for reference, counts in self._requests if (instance := reference()) is not None
        }
        for instance, counts in _requests(self._silent):
            then = earlier.get(id(instance), {})
            for what, number in counts.items():
                if number > then.get(what, 0):
                    yield f"{what.format(number=number)}\n  {instance!r}"


@contextlib.contextmanager
def no_leaks(*, allowed: Iterable[str] = (), patience: float | None = None) -> Iterator[Census]:
    """``with no_leaks(): ...`` raises :class:`Leaked` after a block that leaves something behind.

    After a block that raises, no search is made: the block's own error matters more.

    Args:
        allowed: The kinds of leaks that the block may have, of :data:`KINDS`.
        patience: Seconds to wait for things that are about to end; :data:`PATIENCE` by default.

    Yields:
        The :class:`Census` made before the block.

    Raises:
        Leaked: There are leaks.
        ConfigurationError: One of `allowed` is not a kind of leak.
    """
    kinds = all_but(allowed)
    census = Census()
    yield census
    census.check(kinds, patience)


# The things in this process


def greenlets() -> list[greenlet.greenlet]:
    """Return all greenlets of this process that have been started and have not ended.

    Left out are hubs, the main greenlets of threads, and gevent's own greenlets in thread pools.
    """
    kinds: set[type] = set()
    others: list[type] = [greenlet.greenlet]
    while others:
        kind = others.pop()
        if kind not in kinds and not issubclass(kind, Hub) and kind.__module__ != "gevent.threadpool":
            kinds.add(kind)
            others += type.__subclasses__(kind)
    # type() and not isinstance(): a proxy that is asked for its class may load the object behind it.
    return [other for other in gc.get_objects() if type(other) in kinds and other and other.parent is not None]


def _descriptors() -> dict[int, str]:
    """Return the open descriptors, and the name of each."""
    found = {}
    for name in os.listdir("/dev/fd"):
        number = int(name)
        try:
            found[number] = os.readlink(f"/dev/fd/{number}")
        except OSError:
            try:  # this is not Linux, or the descriptor was that of the listing
                status = os.fstat(number)
            except OSError:
                continue
            found[number] = f"inode {status.st_ino} of device {status.st_dev}"
    return found


def _is_nameless(target: str) -> bool:
    """Return whether ZeroMQ or a hub may have opened a descriptor with this name."""
    return target.startswith(_NAMELESS)


def _python_sockets() -> set[int]:
    """Return the descriptors that Python's own sockets hold."""
    return {held.fileno() for held in gc.get_objects() if issubclass(type(held), _Socket)}


def _threads() -> dict[int, tuple[threading.Thread | None, FrameType]]:
    """Return the threads that run Python, with their frames; threads of libraries in C have none.

    Left out are threads that look a name up: they end with the answer, and nothing can end them earlier.
    """
    named = {thread.ident: thread for thread in threading.enumerate()}
    pool = getattr(gevent.get_hub(), "_threadpool", None)
    own = {worker._thread_ident for worker in list(getattr(pool, "_worker_greenlets", ()))}
    return {
        ident: (named.get(ident), frame)
        for ident, frame in sys._current_frames().items()
        if ident not in own_threads and ident not in resolving.threads and not (ident in own and _is_idle(frame))
    }


def _is_idle(frame: FrameType | None) -> bool:
    """Return whether this frame belongs to an idle thread of a gevent pool."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(_INSIDE) and frame.f_locals.get("gevent_threadpool_worker_idle"):
            return True
        frame = frame.f_back
    return False


def _requests(silent: weakref.WeakSet[Owner]) -> Iterator[tuple[Instance, dict[str, int]]]:
    """Each broker and client that is open, and the number of its requests by description.

    Brokers come first, since they know more of a request.  Owners that do not answer are added to `silent`.
    """
    running = [instance for instance in instances() if isinstance(instance, (Broker, Client)) and not instance.closed]
    for instance in sorted(running, key=lambda instance: isinstance(instance, Client)):
        now: Any = _statistics(instance, silent)
        counts: Counter[str] = Counter()
        if isinstance(now, BrokerStatistics):
            for name, service in now.services.items():
                shown = show_name(name, _WIDTH).replace("{", "{{").replace("}", "}}")
                counts[f"service {shown}: {{number}} queued, no worker was free"] = service.queued
                counts[f"service {shown}: {{number}} assigned, the worker has not answered"] = service.busy
        elif now is not None:
            counts["calls in flight: {number}"] = now.in_flight
            counts["calls not yet sent: {number}"] = now.waiting
        yield instance, +counts


def _statistics(
    instance: Broker | Client, silent: weakref.WeakSet[Owner]
) -> BrokerStatistics | ClientStatistics | None:
    """Return the statistics of `instance`; None if its thread's hub does not run.

    The owner of such an instance is added to `silent`.
    """
    owner = instance._owner
    if owner is None or owner.runs_here:
        return instance.statistics()
    if owner not in silent and owner.hub.thread_ident in sys._current_frames():
        try:
            statistics: Callable[[], BrokerStatistics | ClientStatistics] = instance.statistics
            return owner.call(statistics, timeout=ANSWER_TIMEOUT)
        except TimeoutError:
            silent.add(owner)
    return None


def _references(things: Iterable[Any]) -> dict[int, weakref.ref[Any]]:
    return {id(thing): weakref.ref(thing) for thing in things}


def _is_in(references: Mapping[int, weakref.ref[Any]], thing: object) -> bool:
    """Return whether `thing` itself is among these, and not just at the address of a thing that is gone."""
    reference = references.get(id(thing))
    return reference is not None and reference() is thing


# Where the things are


def describe(other: greenlet.greenlet) -> str:
    """Return the name, the function, the place, and the spawning place of the greenlet `other`."""
    try:
        text = repr(other)[:_WIDTH]
    except Exception:  # raised by the repr of an argument
        text = object.__repr__(other)
    if _hub_of(other) is not gevent.get_hub():
        return f"{text}\n  in another thread"
    text += _place(other.gr_frame) if other.gr_frame is not None else "\n  not yet begun"
    spawned = getattr(other, "spawning_stack", None)
    if spawned is not None:
        text += _place(spawned, "spawned at", depth=1)
    return text


def _hub_of(other: greenlet.greenlet) -> greenlet.greenlet | None:
    while other is not None and not isinstance(other, Hub):
        other = other.parent
    return other


def _place(frame: Any, title: str = "at", depth: int = DEPTH) -> str:
    """Return the innermost lines of a stack.  Lines of gevent and gmdp are left out, unless the stack has no others."""
    stack: list[tuple[str, int, str]] = []
    while frame is not None:  # or an object of gevent that looks like a frame
        stack.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    stack = [entry for entry in stack if not entry[0].startswith(_INSIDE)] or stack[:1]
    lines = [
        f"\n  {title} {file}:{line} in {name}: {linecache.getline(file, line).strip()}".rstrip(": ")
        for file, line, name in reversed(stack[:depth])
    ]
    return "".join(lines)


def thread_stacks() -> str:
    """Return the stacks of all threads, as a traceback shows them."""
    named = {thread.ident: thread.name for thread in threading.enumerate()}
    return "".join(
        f"Thread {ident:#x} ({named.get(ident, 'no name')}):\n" + "".join(traceback.format_stack(frame))
        for ident, frame in sys._current_frames().items()
    )
