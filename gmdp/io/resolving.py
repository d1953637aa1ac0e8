"""Host names become addresses before libzmq sees them.

libzmq resolves a name in its I/O thread, which all sockets of a context share: one silent name server would stop
every connection of the process.  It also tries the first address only, of one family.

The rules of this module:

* gevent's resolver of the asking hub decides.  gevent's default, the system's functions in threads, runs in threads
  of gmdp's own: silent names take none of the hub's.  Any other resolver (ares, dnspython, a program's own) runs
  in greenlets of the asking hub, as it is made to; ``block`` blocks the hub, as its user has chosen.
* At most :data:`MAX_LOOKUPS` names are looked up at a time, in the process or, for other resolvers, in the hub.  The
  others wait in line.
* A name is looked up once for all that ask meanwhile, and its answer is used for :data:`FRESH_TIME`.
* Nothing waits here: an answer is given to a callback, in any thread.
* A thread ends with its last look-up.  After a fork everything begins anew.
* Interfaces (``tcp://eth0:*``, to be bound) and wildcards are not names.  Addresses are never looked up.
"""

from __future__ import annotations

import contextlib
import copy
import os
import re
import socket
import weakref
from _thread import get_ident
from collections import deque
from collections.abc import Callable, Hashable
from functools import partial
from time import monotonic
from typing import Any, NamedTuple

import gevent
from gevent.resolver.thread import Resolver as ThreadResolver

from ..exceptions import StateError
from . import guarded
from .descriptors import get_hub
from .slots import Slot, allocate_lock, get_hub_if_exists, start_thread

#: Names that are looked up at a time.
MAX_LOOKUPS = 2
#: Seconds for which an answer is used.
FRESH_TIME = 1.0

#: Seconds for which a greenlet waits for an answer; name servers that are silent take about 30.
WAIT_TIMEOUT = 120.0

_TCP = re.compile(r"tcp://(?P<host>[^\[\]]+):(?P<port>[^:]+)\Z")
_FAMILIES = (socket.AF_INET, socket.AF_INET6)

#: The threads that look names up at present.
threads: set[int] = set()


class Answer(NamedTuple):
    """The answer to a look-up of a name.

    Attributes:
        addresses: IPv4 addresses, then IPv6 addresses in brackets; empty if there are none.
        error: why there are none.
    """

    addresses: tuple[str, ...]
    error: str = ""

    def endpoints(self, port: str) -> tuple[str, ...]:
        """Return an endpoint for each address."""
        return tuple(f"tcp://{address}:{port}" for address in self.addresses)


def split_name(endpoint: str) -> tuple[str, str] | None:
    """Return the host name in an endpoint and the port; None if there is no name to be looked up."""
    match = _TCP.match(endpoint)
    if match is None or match["host"] == "*":
        return None
    with contextlib.suppress(OSError, ValueError):
        socket.inet_aton(match["host"])
        return None
    return match["host"], match["port"]


def is_interface(host: str) -> bool:
    """Return whether this is the name of a network interface, which ZeroMQ can bind."""
    try:
        return socket.if_nametoindex(host) > 0
    except OSError:
        return False


Callback = Callable[[Answer], object]


class Lookup:
    """One name that is looked up, for all that have asked for it."""

    __slots__ = ("callbacks", "greenlet", "host", "key", "resolver")

    def __init__(self, key: Hashable, host: str, resolver: Any) -> None:
        self.key = key
        self.host = host
        self.resolver = resolver
        self.callbacks: list[Callback] = []
        #: The greenlet that looks the name up, unless a thread does.
        self.greenlet: gevent.Greenlet | None = None


class Lookups:
    """Looks names up, a bounded number at a time.  Safe for any number of threads.

    Args:
        run: begins a look-up, and has its second argument called with the answer.  RuntimeError if that is
            impossible.
    """

    def __init__(self, run: Callable[[Lookup, Callable[[Lookup, Answer], None]], None]) -> None:
        self._run = run
        #: Guards everything below.
        self._lock = allocate_lock()
        #: Fresh answers, and until when they are, by type of resolver and host.
        self._answers: dict[Hashable, tuple[float, Answer]] = {}
        #: The look-ups that run or wait for their turn.
        self._open: dict[Hashable, Lookup] = {}
        self._line: deque[Lookup] = deque()
        self._running = 0

    def ask(self, resolver: Any, host: str, callback: Callback) -> Lookup | None:
        """Have `callback` called with the answer: at once if it is fresh, and None is returned then."""
        key = (type(resolver), host)
        now = monotonic()
        with self._lock:
            for old in [old for old, (until, _) in self._answers.items() if until <= now]:
                del self._answers[old]
            found = self._answers.get(key)
            if found is None:
                lookup = self._open.get(key)
                if lookup is None:
                    lookup = self._open[key] = Lookup(key, host, resolver)
                    self._line.append(lookup)
                lookup.callbacks.append(callback)
        if found is not None:
            callback(found[1])
            return None
        self._start_next()
        return lookup

    def cancel(self, lookup: Lookup, callback: Callback) -> None:
        """Do not call `callback`.  A look-up without callbacks ends, unless a thread has begun it."""
        greenlet = None
        with self._lock:
            if callback in lookup.callbacks:
                lookup.callbacks.remove(callback)
            if not lookup.callbacks:
                greenlet = lookup.greenlet
                if lookup in self._line:
                    self._line.remove(lookup)
                    del self._open[lookup.key]
                elif greenlet is not None and self._open.get(lookup.key) is lookup:
                    del self._open[lookup.key]  # it will have no answer for those who ask before it has ended
        if greenlet is not None:
            greenlet.kill(block=False)

    def _start_next(self) -> None:
        while True:
            with self._lock:
                if not self._line or self._running >= MAX_LOOKUPS:
                    return
                lookup = self._line.popleft()
                self._running += 1
            try:
                self._run(lookup, self._finish)
            except RuntimeError as error:  # the system allows no further thread
                self._give_answer(lookup, Answer((), str(error)))

    def _finish(self, lookup: Lookup, answer: Answer) -> None:
        self._give_answer(lookup, answer)
        self._start_next()

    def _give_answer(self, lookup: Lookup, answer: Answer) -> None:
        with self._lock:
            self._running -= 1
            lookup.greenlet = None
            if self._open.get(lookup.key) is lookup:
                del self._open[lookup.key]
            if answer is not ENDED:
                self._answers[lookup.key] = (monotonic() + FRESH_TIME, answer)
            callbacks, lookup.callbacks = lookup.callbacks, []
        for callback in callbacks:
            callback(answer)


#: The answer of a look-up that was ended before it had one.
ENDED = Answer((), "the look-up was ended")


def _run_in_thread(lookup: Lookup, finish: Callable[[Lookup, Answer], None]) -> None:
    start_thread(_resolve_in_thread, (lookup, finish))


def _resolve_in_thread(lookup: Lookup, finish: Callable[[Lookup, Answer], None]) -> None:
    threads.add(get_ident())
    answer = ENDED
    try:
        resolver = copy.copy(lookup.resolver)
        resolver.pool = _Here()
        answer = resolve(resolver, lookup.host)
    except Exception as error:  # of the copy: the resolver's class may be the program's own
        answer = _failure(error)
    finally:
        finish(lookup, answer)
        hub = get_hub_if_exists()  # a resolver of the program's own may have made one
        if hub is not None:
            hub.destroy(destroy_loop=True)
        threads.discard(get_ident())


class _Here:
    """Stands for the thread pool of gevent's resolver where there is a thread already."""

    @staticmethod
    def apply(function: Callable[..., Any], arguments: Any = (), keywords: Any = None) -> Any:
        """Call a function."""
        return function(*arguments, **(keywords or {}))


def _run_in_greenlet(lookup: Lookup, finish: Callable[[Lookup, Answer], None]) -> None:
    def done(greenlet: gevent.Greenlet) -> None:
        finish(lookup, greenlet.value if isinstance(greenlet.value, Answer) else ENDED)

    lookup.greenlet = gevent.Greenlet(resolve, lookup.resolver, lookup.host)
    lookup.greenlet.rawlink(done)
    lookup.greenlet.start()


def resolve(resolver: Any, host: str) -> Answer:
    """Ask a resolver for the addresses of a host, and wait for the answer."""
    try:
        addresses = _ask(resolver, host, socket.AF_UNSPEC)
        if not any(map(_is_ipv4, addresses)):
            # Some resolvers have IPv4 addresses only for those who ask for them: glibc, for "::1 localhost".
            with contextlib.suppress(OSError):
                addresses += _ask(resolver, host, socket.AF_INET)
    except (gevent.GreenletExit, *guarded.INTERRUPTS):
        raise  # it ends this greenlet, or the program
    except BaseException as error:  # of a resolver that may be the program's own
        return _failure(error)
    # IPv4 first, because a broker that is bound to tcp://* listens there only.
    ordered = sorted(dict.fromkeys(addresses), key=_is_ipv4, reverse=True)
    return Answer(tuple(ordered), "" if ordered else "it has no address")


def _failure(error: BaseException) -> Answer:
    words = error.strerror if isinstance(error, OSError) else None
    return Answer((), words if isinstance(words, str) else guarded.type_name(error))


def _ask(resolver: Any, host: str, family: int) -> list[str]:
    found = resolver.getaddrinfo(host, 0, family, socket.SOCK_STREAM)
    return [_address(found_family, *address) for found_family, _, _, _, address in found if found_family in _FAMILIES]


def _is_ipv4(address: str) -> bool:
    return not address.startswith("[")


def _address(family: int, host: str, _port: int, _flow: int = 0, scope: int = 0) -> str:
    if family == socket.AF_INET:
        return host
    return f"[{host}%{scope}]" if scope and "%" not in host else f"[{host}]"


class _Process:
    """The look-ups of one process: those in threads, and those of each hub."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.in_threads = Lookups(_run_in_thread)
        self.in_hubs: weakref.WeakKeyDictionary[Any, Lookups] = weakref.WeakKeyDictionary()


_process = _Process()


def _lookups_of(hub: Any, resolver: Any) -> Lookups:
    global _process
    if _process.pid != os.getpid():
        _process = _Process()  # the parent's threads do not exist here, and its lock may be held
        threads.clear()
    if isinstance(resolver, ThreadResolver):
        return _process.in_threads
    lookups = _process.in_hubs.get(hub)
    if lookups is None:
        lookups = _process.in_hubs[hub] = Lookups(_run_in_greenlet)
    return lookups


def look_up(host: str, callback: Callback) -> Callable[[], None]:
    """Look up a host by the resolver of this thread's hub.

    Args:
        host: the host's name.
        callback: called once with the answer, at once or later, in any thread.  It must not raise.

    Returns:
        A function that cancels: the callback is not called any more, unless it is being called.
    """
    hub = get_hub()
    failures: list[BaseException] = []
    # gevent makes the resolver on first use, of a class that may be the program's own or lack what it imports.
    resolver = guarded.call(getattr, hub, "resolver", default=None, on_error=failures.append)
    if resolver is None:
        reason = ": ".join(["gevent's resolver cannot be made", *map(guarded.text_of, failures)])
        callback(Answer((), reason))
        return _do_nothing
    lookups = _lookups_of(hub, resolver)
    lookup = lookups.ask(resolver, host, callback)
    return _do_nothing if lookup is None else partial(lookups.cancel, lookup, callback)


def _do_nothing() -> None:
    """Nothing is left to cancel."""


class Wait:
    """The wait of one greenlet for the answer to a name, which another thread or greenlet may end."""

    def __init__(self, host: str) -> None:
        self._hub = get_hub()
        self._slot = Slot()
        self._cancel = look_up(host, self._slot.set)

    def get(self) -> Answer | None:
        """Wait for the answer; None if :meth:`end` ended the wait."""
        try:
            # Without a timeout, a caller whose hub has nothing else to wait for would get LoopExit.
            if not self._slot.wait(WAIT_TIMEOUT):
                return Answer((), f"there was no answer for {WAIT_TIMEOUT:g} s")
        finally:
            self._cancel()
        answer: Answer | None = self._slot.get()
        return answer

    def end(self) -> None:
        """End the wait.  For the thread that waits."""
        self._cancel()
        self._slot.set(None)

    def call_in_thread(self, function: Callable[..., object], *args: Any) -> None:
        """Have the thread that waits call `function(*args)`: at once if that is this one.

        Raises:
            StateError: the hub of that thread is gone.
        """
        if get_hub_if_exists() is self._hub:
            function(*args)
            return
        try:
            self._hub.loop.run_callback_threadsafe(function, *args)
        except (AttributeError, ValueError):
            raise StateError("the hub of the thread that looks up a name is gone") from None
