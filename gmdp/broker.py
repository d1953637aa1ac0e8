"""The broker as users hold it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from time import monotonic
from typing import Any

import zmq
import zmq.green
from zope.interface import implementer

from .connecting import MOST_INT, milliseconds
from .core.broker import BrokerCore
from .core.management import About
from .core.options import BrokerOptions, check_number, unknown
from .core.records import DeadLetter
from .core.states import State
from .core.statistics import BrokerCounters, BrokerStatistics
from .core.token import NONCE_SIZE
from .deadletters import ForwardDeadLetters, LogDeadLetters
from .endpoints import DEFAULT_ENDPOINT, check_body, check_endpoints, check_service, somebody_listens
from .exceptions import BindError, ConfigurationError
from .interfaces import IBroker
from .lifecycle import Lifecycle
from .link import Link
from .owner import Owner
from .version import __version__

_log = logging.getLogger("gmdp.broker")

DeadLetterHook = Callable[[DeadLetter, "Broker"], None]

_OPTIONS = frozenset(option.name for option in fields(BrokerOptions))


@implementer(IBroker)
class Broker(Lifecycle):
    """A Majordomo broker (RFC 7, RFC 18, RFC 8) on one ROUTER socket.

    ``with Broker("tcp://127.0.0.1:*") as broker: ...``

    `bind`: one endpoint or a sequence of them (``tcp://``, ``ipc://``,
    ``inproc://``; a port may be ``*``).  `context`: the ``zmq.green.Context``
    of an embedding application (default: ``zmq.green.Context.instance()``).
    `hwm`: whole messages ZeroMQ may hold per peer, each way.  `services`: values
    that differ per service, as ``{"pattern": {"request_ttl": 5.0}}``.
    `dead_letter`: what is called with each request that workers were lost over
    (:class:`gmdp.interfaces.IDeadLetterHook`), or the name of a service that gets
    them; they are logged unless told otherwise.  Other
    keywords are those of :class:`gmdp.core.options.BrokerOptions`; times are
    seconds, sizes bytes.

    Raises ConfigurationError here for a wrong value; `start` raises BindError
    if an endpoint cannot be bound.  For the greenlets of one thread; see
    :class:`gmdp.lifecycle.Lifecycle` for what other threads may do.
    """

    def __init__(
        self,
        bind: str | Sequence[str] = DEFAULT_ENDPOINT,
        *,
        context: zmq.green.Context[Any] | None = None,
        hwm: int = 1000,
        services: Mapping[str, Mapping[str, Any]] | None = None,
        dead_letter: DeadLetterHook | str | bytes | None = None,
        **options: Any,
    ) -> None:
        for name in options:
            if name not in _OPTIONS:
                raise ConfigurationError(unknown(name, _OPTIONS | {"bind", "context", "dead_letter", "hwm"}))
        self._bind = check_endpoints(bind, bind=True)
        try:
            check_number("hwm", hwm, 1, whole=True, most=MOST_INT)
            self.options = BrokerOptions(services={} if services is None else services, **options)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        self.dead_letter = _dead_letter_hook(dead_letter)
        super().__init__(context)
        self._hwm = hwm
        self._endpoints = self._bind
        self._counters = BrokerCounters()
        self._core = self._new_core()

    @property
    def endpoint(self) -> str:
        """The first of :attr:`endpoints`."""
        return self._endpoints[0]

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where it listens, wildcards resolved; before the first start as given."""
        return self._endpoints

    def statistics(self) -> BrokerStatistics:
        """Everything as it is at this moment, as an immutable copy.

        Any greenlet, any thread, any state; never waits for a socket.  From
        another thread it raises StateError if the broker's hub does not run.
        Totals go on over restarts.
        """
        core = self._core
        statistics: BrokerStatistics = self._in_owner_thread(self._owner, lambda: core.statistics(monotonic()))
        return statistics

    def enqueue(self, service: str | bytes, body: bytes | Sequence[bytes]) -> bool:
        """Have `service` work on a request of the broker's own; nobody hears the answer.

        False if it finds no room, or the broker is not running.  For hooks, and
        for greenlets of the broker's thread.  ConfigurationError or TypeError for a
        wrong argument.
        """
        name, frames = check_service(service), check_body(body)
        owner = self._owner
        if owner is None:
            return False
        accepted = self._core.inject(name, frames, monotonic())
        owner.post(_nothing)  # so that it looks
        return accepted

    def __repr__(self) -> str:
        core = self._core
        return (
            f"<{type(self).__name__} {self.state.value} {' '.join(self._endpoints)} services={len(core.services)} "
            f"workers={core.worker_count} queued={core.queued} assigned={core.assigned}>"
        )

    def _new_core(self) -> BrokerCore:
        about = About(version=__version__, hwm=self._hwm)
        # On inproc there is no MAXMSGSIZE.
        sized = not any(endpoint.startswith("inproc:") for endpoint in self._bind)
        return BrokerCore(self.options, os.urandom(NONCE_SIZE), monotonic(), self._counters, about, sized)

    def _open(self) -> tuple[Owner, State, str]:
        socket: zmq.green.Socket[bytes] | None = None
        endpoint = self._bind[0]
        try:
            socket = self._context.socket(zmq.ROUTER)
            socket.set(zmq.LINGER, 0)
            socket.set(zmq.ROUTER_MANDATORY, 1)
            socket.set(zmq.SNDHWM, self._hwm)
            socket.set(zmq.RCVHWM, self._hwm)
            socket.set(zmq.BACKLOG, 1024)
            socket.set(zmq.MAXMSGSIZE, self.options.max_frame_size)
            socket.set(zmq.HEARTBEAT_IVL, milliseconds(self.options.heartbeat_interval))
            socket.set(zmq.HEARTBEAT_TIMEOUT, milliseconds(self.options.expiry))
            if any("[" in endpoint for endpoint in self._bind):
                socket.set(zmq.IPV6, 1)
            bound = []
            for endpoint in self._bind:
                if endpoint.startswith("ipc:") and somebody_listens(endpoint):
                    raise zmq.ZMQError(zmq.EADDRINUSE)
                socket.bind(endpoint)
                resolved: Any = socket.get(zmq.LAST_ENDPOINT)
                bound.append(resolved.rstrip(b"\0").decode())
        except zmq.ZMQError as error:
            if socket is not None:
                socket.close(0)
            number = error.errno or 0
            raise BindError(number, f"cannot bind {endpoint}: {zmq.strerror(number)}") from None
        self._endpoints = tuple(bound)
        self._core = self._new_core()
        engine = _BrokerEngine(self, self._core)
        owner = Owner(engine, f"broker {bound[0]}")
        engine.start(owner, socket)
        self._engine = engine
        return owner, State.RUNNING, ""

    def _drain(self, until: float) -> None:
        self._engine.drain(until)


def _nothing() -> None:
    """For a mailbox that is only to be looked into."""


def _dead_letter_hook(given: DeadLetterHook | str | bytes | None) -> DeadLetterHook:
    if given is None:
        return LogDeadLetters()
    if isinstance(given, (str, bytes)):
        return ForwardDeadLetters(given)
    if not callable(given):
        raise ConfigurationError(f"dead_letter must be callable or the name of a service, not {given!r}")
    return given


class _BrokerEngine:
    """Between a broker's core and its socket."""

    #: Seconds the last messages have to leave, in the background.
    linger = 1.0

    owner: Owner
    link: Link

    def __init__(self, shell: Broker, core: BrokerCore) -> None:
        self._shell = shell
        self._core = core
        self._until: float | None = None
        self.awake = core.awake
        self.caught_up = core.caught_up

    def start(self, owner: Owner, socket: zmq.green.Socket[bytes]) -> None:
        self.owner = owner
        self.link = owner.link(socket, self._core.options.max_frames)

    def received(self, link: Link, frames: list[bytes], now: float) -> None:
        self._core.feed(frames, now)

    def up(self, link: Link, now: float) -> None:
        """Bound sockets do not connect."""

    def down(self, link: Link, reason: str, now: float) -> None:
        """Bound sockets do not connect."""

    def deadline(self) -> float:
        deadline = self._core.deadline()
        if self._until is not None:
            return 0.0 if self._core.drained else min(deadline, self._until)
        return deadline

    def tick(self, now: float) -> None:
        core = self._core
        core.tick(now)
        if self._until is not None and (core.drained or now >= self._until):
            core.finish(now)
            self.flush(now)
            self.link.close_bound(self._shell.endpoints, self.linger)
            self.owner.finish()
            self._shell._ended()

    def flush(self, now: float) -> None:
        core = self._core
        send = self.link.send
        # What cannot be sent, and what a hook does, may lead to more that is to be sent.
        while core.outbox or core.events:
            outbox = core.outbox[:]
            core.outbox.clear()
            for outgoing in outbox:
                if core.withheld(outgoing, now):
                    continue
                why_not = send(outgoing.frames)
                if why_not is not None:
                    core.unsent(outgoing, why_not == "full", now)
            events = core.events[:]
            core.events.clear()
            for event in events:
                if isinstance(event, DeadLetter):
                    self._bury(event)
                else:
                    level = logging.DEBUG if event.kind == "registered" or self._until is not None else logging.INFO
                    _log.log(level, "%s %.100r: %s", event.kind, event.service, event.reason)

    def _bury(self, letter: DeadLetter) -> None:
        try:
            self._shell.dead_letter(letter, self._shell)
        except Exception:
            _log.exception("the dead-letter hook failed for a request of %.100r", letter.service)

    def drain(self, until: float) -> None:
        self._core.drain()
        self._until = until if self._until is None else min(until, self._until)

    def died(self, error: BaseException) -> None:
        self._shell._ended(error)
