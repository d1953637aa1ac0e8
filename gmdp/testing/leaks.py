"""What is left behind: greenlets, descriptors, threads, requests nobody answered.

With or without pytest (whose plugin is :mod:`gmdp_pytest`)::

    from gmdp.testing.leaks import no_leaks

    with no_leaks():
        ...  # AssertionError if something that began in here is still there

What is about to end is waited for, :data:`PATIENCE` seconds at most, while the hub runs.

A broker, worker or client that was there before goes on accepting and making connections,
and a client starts by itself: all that is its own and counts for nothing.  Which
descriptors ZeroMQ opened for it, nobody can tell.  Therefore, while one of those is open,
sockets and the system's nameless descriptors (of events, of polling) count only if a
socket of Python's holds them.
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
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from time import monotonic
from types import FrameType
from typing import Any

import gevent
import greenlet
import zmq
import zmq.green
from gevent.hub import Hub

from ..broker.broker import Broker
from ..client.client import Client
from ..core.broker.statistics import BrokerStatistics
from ..core.peer.statistics import ClientStatistics
from ..exceptions import ConfigurationError
from ..io import lifecycle
from ..io.forks import Instance, instances
from ..io.owner import Owner

#: What is looked for, in the order of a report.
KINDS = ("requests", "greenlets", "descriptors", "threads")

#: Seconds that what is about to end is waited for.
PATIENCE = 2.0

#: Seconds that another thread's hub has to say what its brokers and clients have.
ANSWER = 0.1

#: Lines of a stack that a report shows.
DEPTH = 3
#: Characters of a name that a report shows.
_WIDTH = 200

#: Seconds between two looks, at first and at most.
_LOOK, _LOOK_MOST = 0.002, 0.1

#: Threads of deadlines, which come and go by themselves.
own_threads: set[int] = set()

#: How names of descriptors begin that ZeroMQ, or a hub, may have opened; not on Linux, any may be.
_NAMELESS = ("socket:", "anon_inode:", "inode ")

#: Where files lie whose lines tell nothing; what of gevent is compiled has relative names.
_INSIDE = (
    os.path.dirname(gevent.__file__) + os.sep,
    f"src{os.sep}gevent{os.sep}",
    os.path.dirname(os.path.dirname(lifecycle.__file__)) + os.sep,
)


@dataclass(frozen=True)
class Leak:
    """One thing that was left."""

    #: One of :data:`KINDS`.
    kind: str
    #: What it is and where, in one line or several.
    what: str


class Leaked(AssertionError):
    """Something was left; ``leaks`` holds what, the message tells it."""

    def __init__(self, leaks: Collection[Leak]) -> None:
        super().__init__(report(leaks))
        self.leaks = tuple(leaks)


def report(leaks: Collection[Leak]) -> str:
    """`leaks` in lines for people."""
    lines = ["left behind:"]
    for kind in KINDS:
        found = [leak.what for leak in leaks if leak.kind == kind]
        if found:
            lines.append(f"  {kind}:")
            lines += ["    " + what.replace("\n", "\n    ") for what in found]
    return "\n".join(lines)


def all_but(allowed: Iterable[str]) -> tuple[str, ...]:
    """The kinds that are not `allowed`; ConfigurationError if one of those is none."""
    names = [allowed] if isinstance(allowed, str) else list(allowed)
    for name in names:
        if name not in KINDS:
            raise ConfigurationError(f"{name!r} is no kind of leak; there are {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind not in names)


class Census:
    """What there is in this process at the moment it is made.

    Greenlets (of all threads) that have been started and have not ended; descriptors;
    threads of Python; requests that wait at a :class:`gmdp.Broker` or that one of its
    workers has, and calls of a :class:`gmdp.Client` without their answer; but for those
    of another thread whose hub does not run.  For greenlets of a thread with a hub, which
    runs for a moment first if there is a broker, worker or client: what was just begun is
    there then.

    What is made once per process is none of it: gevent's loop, the idle threads of the
    hub's own pool, and what ``zmq.green.Context.instance()`` holds, which is made here.
    """

    def __init__(self) -> None:
        gevent.get_hub()
        zmq.green.Context.instance().socket(zmq.DEALER).close(0)
        there = instances()
        if any(one.started for one in there):
            gevent.sleep(_LOOK)
        self._there = _references(there)
        #: Of other threads, those whose hub did not run when they were asked.
        self._silent: weakref.WeakSet[Owner] = weakref.WeakSet()
        self._requests = [(weakref.ref(one), counts) for one, counts in _requests(self._silent)]
        self._greenlets = _references(greenlets())
        self._descriptors = _descriptors()
        threads = _threads()
        self._threads = _references(thread for thread, _ in threads.values() if thread is not None)
        self._nameless = {ident for ident, (thread, _) in threads.items() if thread is None}

    def leaks(self, kinds: Collection[str] = KINDS) -> list[Leak]:
        """What there is now and was not then, at once."""
        found: list[Leak] = []
        if "requests" in kinds:
            found += [Leak("requests", what) for what in self._new_requests()]
        if "greenlets" in kinds:
            theirs = [getattr(owner, "greenlet", None) for owner in self._owners()]
            new = [one for one in greenlets() if not _is_in(self._greenlets, one) and one not in theirs]
            found += [Leak("greenlets", describe(one)) for one in new]
        if "descriptors" in kinds:
            news = {*_descriptors().items()} - self._descriptors.items()
            if news and any(not one.closed for one in self._still_there()):
                held = _python_sockets()
                news = {(number, target) for number, target in news if number in held or not _is_nameless(target)}
            for number, target in sorted(news):
                found.append(Leak("descriptors", f"{number} -> {target}"))
        if "threads" in kinds:
            homes = [owner.hub.thread_ident for owner in self._owners()]
            for ident, (thread, frame) in _threads().items():
                if ident in (*self._nameless, *homes) if thread is None else _is_in(self._threads, thread):
                    continue
                if thread is not None:
                    what = repr(thread)[:_WIDTH] + _place(frame)
                elif _is_idle(frame):
                    what = f"thread {ident:#x}, an idle one of a gevent ThreadPool that was not killed"
                else:
                    what = f"thread {ident:#x}{_place(frame)}"
                found.append(Leak("threads", what))
        return found

    def wait(self, kinds: Collection[str] = KINDS, patience: float | None = None) -> list[Leak]:
        """What is still left after the hub has run for `patience` seconds; sooner, if nothing is.

        `patience`: :data:`PATIENCE` if it is left out.
        """
        until = monotonic() + (PATIENCE if patience is None else patience)
        pause = _LOOK
        # What was just begun is seen only after its owner has run.
        gevent.sleep(pause)
        while self.leaks(kinds):
            gc.collect()
            if monotonic() >= until:
                return self.leaks(kinds)
            gevent.sleep(pause)
            pause = min(2 * pause, _LOOK_MOST)
        return []

    def check(self, kinds: Collection[str] = KINDS, patience: float | None = None) -> None:
        """Raise :class:`Leaked` if :meth:`wait` finds something."""
        leaks = self.wait(kinds, patience)
        if leaks:
            raise Leaked(leaks)

    def _still_there(self) -> list[Instance]:
        """The brokers, workers and clients that were there before."""
        return [one for one in instances() if _is_in(self._there, one)]

    def _owners(self) -> list[Owner]:
        """Those of clients that were there before: they start by themselves."""
        owners = [one._owner for one in self._still_there() if isinstance(one, Client)]
        return [owner for owner in owners if owner is not None]

    def _new_requests(self) -> Iterator[str]:
        before = {id(one): counts for reference, counts in self._requests if (one := reference()) is not None}
        for one, counts in _requests(self._silent):
            then = before.get(id(one), {})
            more = {what: number for what, number in counts.items() if number > then.get(what, 0)}
            for what, number in more.items():
                yield f"{what.format(number=number)}\n  {one!r}"


@contextlib.contextmanager
def no_leaks(*, allowed: Iterable[str] = (), patience: float | None = None) -> Iterator[Census]:
    """Raise :class:`Leaked` if what began within the block is left after it.

    `allowed`: kinds that may be left, of :data:`KINDS`.  `patience`: seconds that what
    is about to end is waited for, :data:`PATIENCE` if it is left out.  An error of
    the block's own goes first: then nothing is looked for.  ConfigurationError for
    a kind that is none.
    """
    kinds = all_but(allowed)
    census = Census()
    yield census
    census.check(kinds, patience)


# What there is


def greenlets() -> list[greenlet.greenlet]:
    """All greenlets of this process that have been started and have not ended, but for
    hubs, the threads' main greenlets and gevent's own in its pools of threads."""
    kinds: set[type] = set()
    others: list[type] = [greenlet.greenlet]
    while others:
        kind = others.pop()
        if kind not in kinds and not issubclass(kind, Hub) and kind.__module__ != "gevent.threadpool":
            kinds.add(kind)
            others += type.__subclasses__(kind)
    # By their types: to ask a proxy for its class would wake up what it stands for.
    return [one for one in gc.get_objects() if type(one) in kinds and one and one.parent is not None]


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/dev/fd"):
        number = int(name)
        try:
            found[number] = os.readlink(f"/dev/fd/{number}")
        except OSError:
            try:  # not on Linux; or it was the listing's own
                status = os.fstat(number)
            except OSError:
                continue
            found[number] = f"inode {status.st_ino} of device {status.st_dev}"
    return found


def _is_nameless(target: str) -> bool:
    """Might ZeroMQ, or a hub, have opened this descriptor?"""
    return target.startswith(_NAMELESS)


def _python_sockets() -> set[int]:
    """The descriptors that Python's own sockets hold."""
    return {one.fileno() for one in gc.get_objects() if issubclass(type(one), _Socket)}


def _threads() -> dict[int, tuple[threading.Thread | None, FrameType]]:
    """Every thread that Python runs in; those of libraries in C are none."""
    named = {thread.ident: thread for thread in threading.enumerate()}
    pool = getattr(gevent.get_hub(), "_threadpool", None)
    own = {worker._thread_ident for worker in list(getattr(pool, "_worker_greenlets", ()))}
    return {
        ident: (named.get(ident), frame)
        for ident, frame in sys._current_frames().items()
        if ident not in own_threads and not (ident in own and _is_idle(frame))
    }


def _is_idle(frame: FrameType | None) -> bool:
    """Is it that of a thread of a gevent pool that has nothing to do?"""
    while frame is not None:
        if frame.f_code.co_filename.startswith(_INSIDE) and frame.f_locals.get("gevent_threadpool_worker_idle"):
            return True
        frame = frame.f_back
    return False


def _requests(silent: weakref.WeakSet[Owner]) -> Iterator[tuple[Instance, dict[str, int]]]:
    """Whatever has requests or calls without an answer, and how many of which; but for the `silent`."""
    there = [one for one in instances() if isinstance(one, (Broker, Client)) and not one.closed]
    for one in sorted(there, key=lambda one: isinstance(one, Client)):  # brokers know more
        now: Any = _statistics(one, silent)
        counts: Counter[str] = Counter()
        if isinstance(now, BrokerStatistics):
            for name, service in now.services.items():
                shown = repr(name[:_WIDTH]).replace("{", "{{").replace("}", "}}")
                counts[f"service {shown}: {{number}} queued, no worker was free"] = service.queued
                counts[f"service {shown}: {{number}} assigned, the worker has not answered"] = service.busy
        elif now is not None:
            counts["calls in flight: {number}"] = now.in_flight
            counts["calls not yet sent: {number}"] = now.waiting
        yield one, +counts


def _statistics(one: Broker | Client, silent: weakref.WeakSet[Owner]) -> BrokerStatistics | ClientStatistics | None:
    """Those of `one`; None if they are another thread's whose hub does not run, which is then one of the `silent`."""
    owner = one._owner
    if owner is None or owner.runs_here:
        return one.statistics()
    if owner not in silent and owner.hub.thread_ident in sys._current_frames():
        try:
            answer: BrokerStatistics | ClientStatistics = owner.call(one.statistics, timeout=ANSWER)
            return answer
        except TimeoutError:
            silent.add(owner)
    return None


def _references(things: Iterable[Any]) -> dict[int, weakref.ref[Any]]:
    return {id(one): weakref.ref(one) for one in things}


def _is_in(references: Mapping[int, weakref.ref[Any]], one: object) -> bool:
    """Is it the same one, not another that got its place in memory?"""
    reference = references.get(id(one))
    return reference is not None and reference() is one


# Where it is


def describe(one: greenlet.greenlet) -> str:
    """A greenlet's name, what it runs, where it is and where it was spawned."""
    try:
        text = repr(one)[:_WIDTH]
    except Exception:  # of an argument of its function
        text = object.__repr__(one)
    if _hub_of(one) is not gevent.get_hub():
        return f"{text}\n  in another thread"
    text += _place(one.gr_frame) if one.gr_frame is not None else "\n  not yet begun"
    spawned = getattr(one, "spawning_stack", None)
    if spawned is not None:
        text += _place(spawned, "spawned at", depth=1)
    return text


def _hub_of(one: greenlet.greenlet) -> greenlet.greenlet | None:
    while one is not None and not isinstance(one, Hub):
        one = one.parent
    return one


def _place(frame: Any, title: str = "at", depth: int = DEPTH) -> str:
    """The innermost lines of a stack; gevent's and gmdp's own only where there are no others."""
    stack: list[tuple[str, int, str]] = []
    while frame is not None:  # also gevent's own, which are no frames but look like them
        stack.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    stack = [entry for entry in stack if not entry[0].startswith(_INSIDE)] or stack[:1]
    lines = [
        f"\n  {title} {file}:{line} in {name}: {linecache.getline(file, line).strip()}".rstrip(": ")
        for file, line, name in reversed(stack[:depth])
    ]
    return "".join(lines)


def thread_stacks() -> str:
    """The stacks of all threads, as a traceback shows them."""
    named = {thread.ident: thread.name for thread in threading.enumerate()}
    return "".join(
        f"Thread {ident:#x} ({named.get(ident, 'no name')}):\n" + "".join(traceback.format_stack(frame))
        for ident, frame in sys._current_frames().items()
    )
