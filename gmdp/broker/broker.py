"""The broker: what users make, start and stop."""

from __future__ import annotations

import inspect
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, NoReturn

from zope.interface import implementer

from ..core.broker.access import Access, Policy
from ..core.broker.core import BrokerCore
from ..core.broker.decisions import DeadLetter
from ..core.broker.options import BrokerOptions
from ..core.broker.reports import About
from ..core.broker.statistics import BrokerCounters, BrokerStatistics
from ..core.numbers import unknown_name
from ..core.states import State
from ..exceptions import BindError, ConfigurationError, StateError
from ..interfaces import IBroker
from ..io import forks, guarded, logs
from ..io.contexts import Context, SocketError, error_text
from ..io.lifecycle import Lifecycle
from ..io.owner import Owner
from ..io.resolving import Wait
from ..protocol.text import show_name
from ..protocol.token import NONCE_SIZE
from ..security.credentials import warn_of_clear_passwords
from ..security.gate import Gate, KeyCheck, PasswordCheck
from ..security.keys import Key
from ..validation import DEFAULT_ENDPOINT, MAX_INT, check_body, check_endpoints, check_number, check_service
from ..version import __version__
from .audit import AuditHook, LogAudit
from .binding import bind, look_up
from .engine import BrokerEngine
from .policy import make_dead_letter_hook, make_policy

_log = logs.QueuedLogger("gmdp.broker")

DeadLetterHook = Callable[[DeadLetter, "Broker"], None]


@implementer(IBroker)
class Broker(Lifecycle):
    """A Majordomo broker (RFC 7, RFC 18, RFC 8) on one ROUTER socket.

    ::

        with Broker("tcp://127.0.0.1:*") as broker:
            ...

    Life: ``start()`` binds, ``stop()`` finishes the requests in hand, ``close()`` ends at
    once; see :class:`gmdp.io.lifecycle.Lifecycle`.  Totals of :meth:`statistics` go on over
    restarts.

    Threads: a broker is for the greenlets of the thread that started it.  Any thread may call
    ``stop``, ``close``, :meth:`statistics`, :meth:`enqueue` and :meth:`reconsider`, and read the
    properties.

    Security: a broker is *secured* if `curve_key`, `plain_users`, `allow` or `deny` is given.
    It has a ZeroMQ context of its own then, and does not bind ``inproc://``.

    Times are seconds, sizes are bytes.

    Args:
        bind: where to listen: one endpoint or a sequence of them (``tcp://``, ``ipc://``,
            ``inproc://``).  Port ``*`` is any free port; the next start uses the same port
            again, unless it has been taken.  The broker listens at each address of a host name
            that is one of this machine's; ``tcp://eth0:5555`` is an interface.  ``ipc://*`` is a
            new socket for temporary files.
        context: the ``zmq.green.Context`` of an embedding application; None: the green context
            that the process shares.
        hwm: whole messages that ZeroMQ may hold per peer, each way.
        services: options that differ per service, as ``{"pattern": {"request_ttl": 5.0}}``; see
            ``services`` of :class:`gmdp.BrokerOptions`.
        dead_letter: called with each request that was given up because workers were lost over
            it (:class:`gmdp.interfaces.IDeadLetterHook`); or the name of a service that gets
            those requests; None: they are logged.
        curve_key: the broker's secret key: the name of a file, the key in Z85, or
            ``env:VARIABLE``.
        curve_clients: whose keys are allowed: a folder of public keys (``NAME.key`` is the key
            of user NAME), a callable ``(key) -> user, True or None`` that may wait
            cooperatively, or "*" for any key.
        plain_users: whose passwords are allowed, instead of keys: a file of names and hashes,
            or a callable ``(name, password)`` that answers as for `curve_clients`.  Passwords
            are not encrypted: for ipc, and for networks that are.
        allow: the only addresses that may connect: IP addresses, networks (``192.0.2.0/24``) or
            "ipc"; None: all.
        deny: addresses that may not connect.
        access: which user may serve, call and inspect which service: an
            :class:`gmdp.interfaces.IAccessPolicy`, or rules as in the TOML file; None: all.
        audit: called with each :class:`gmdp.AuditRecord`
            (:class:`gmdp.interfaces.IAuditHook`); None: records are logged.

    The further keywords are the fields of :class:`gmdp.BrokerOptions`, which describes them.

    Raises:
        ConfigurationError: an option is wrong.

    Attributes:
        options (BrokerOptions): the options in force.
        dead_letter (IDeadLetterHook): the hook in force.
        audit (IAuditHook): the hook in force, from the next start on.
    """

    def __init__(
        self,
        bind: str | Sequence[str] = DEFAULT_ENDPOINT,
        *,
        context: Context | None = None,
        hwm: int = 1000,
        services: Mapping[str, Mapping[str, Any]] | None = None,
        dead_letter: DeadLetterHook | str | bytes | None = None,
        curve_key: Key | None = None,
        curve_clients: str | os.PathLike[str] | KeyCheck | None = None,
        plain_users: str | os.PathLike[str] | PasswordCheck | None = None,
        allow: str | Sequence[str] | None = None,
        deny: str | Sequence[str] | None = None,
        access: Policy | Sequence[Mapping[str, Any]] | None = None,
        audit: AuditHook | None = None,
        request_ttl: float = BrokerOptions.request_ttl,
        busy_timeout: float = BrokerOptions.busy_timeout,
        attempts: int = BrokerOptions.attempts,
        max_queue: int = BrokerOptions.max_queue,
        heartbeat_interval: float = BrokerOptions.heartbeat_interval,
        liveness: float = BrokerOptions.liveness,
        zmtp_heartbeats: bool = BrokerOptions.zmtp_heartbeats,
        stream_stall_timeout: float = BrokerOptions.stream_stall_timeout,
        max_request_ttl: float = BrokerOptions.max_request_ttl,
        max_services: int = BrokerOptions.max_services,
        max_workers: int = BrokerOptions.max_workers,
        max_in_flight: int = BrokerOptions.max_in_flight,
        max_queue_bytes: int = BrokerOptions.max_queue_bytes,
        max_frames: int = BrokerOptions.max_frames,
        max_frame_size: int = BrokerOptions.max_frame_size,
        max_connections: int = BrokerOptions.max_connections,
        handshake_timeout: float = BrokerOptions.handshake_timeout,
        max_user_services: int = BrokerOptions.max_user_services,
        max_user_workers: int = BrokerOptions.max_user_workers,
        max_user_bytes: int = BrokerOptions.max_user_bytes,
        max_user_rate: float = BrokerOptions.max_user_rate,
        **unknown: NoReturn,
    ) -> None:
        for name in unknown:
            raise ConfigurationError(unknown_name(name, _KEYWORDS))
        self._bind = check_endpoints(bind, bind=True)
        self._hwm = check_number("hwm", hwm, at_least=1, at_most=MAX_INT, whole=True)
        try:
            self.options = BrokerOptions(
                request_ttl=request_ttl,
                busy_timeout=busy_timeout,
                attempts=attempts,
                max_queue=max_queue,
                heartbeat_interval=heartbeat_interval,
                liveness=liveness,
                zmtp_heartbeats=zmtp_heartbeats,
                stream_stall_timeout=stream_stall_timeout,
                max_request_ttl=max_request_ttl,
                max_services=max_services,
                max_workers=max_workers,
                max_in_flight=max_in_flight,
                max_queue_bytes=max_queue_bytes,
                max_frames=max_frames,
                max_frame_size=max_frame_size,
                max_connections=max_connections,
                handshake_timeout=handshake_timeout,
                max_user_services=max_user_services,
                max_user_workers=max_user_workers,
                max_user_bytes=max_user_bytes,
                max_user_rate=max_user_rate,
                services={} if services is None else services,
            )
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        self.dead_letter: DeadLetterHook = make_dead_letter_hook(dead_letter)
        if audit is not None and not callable(audit):
            raise ConfigurationError(f"audit must be callable, not {audit!r}")
        self.audit: AuditHook = audit if audit is not None else LogAudit()
        self._policy = make_policy(access)
        self._gate: Gate | None = None
        if any(option is not None for option in (curve_key, curve_clients, plain_users, allow, deny)):
            if context is not None:
                raise ConfigurationError("a secured broker has a context of its own: leave out context")
            if any(endpoint.startswith("inproc:") for endpoint in self._bind):
                raise ConfigurationError("on inproc:// ZeroMQ asks for no key: a secured broker binds ipc:// or tcp://")
            self._gate = Gate(
                curve_key=curve_key,
                curve_clients=curve_clients,
                plain_users=plain_users,
                allow=allow,
                deny=deny,
                max_connections=self.options.max_connections,
                # A check must end before libzmq gives up the handshake.
                check_timeout=0.8 * self.options.handshake_timeout,
            )
            self._gate.log = logs.QueuedLogger("gmdp.security")
            if plain_users is not None:
                warn_of_clear_passwords(self._bind)
        super().__init__(context)
        self._endpoints = self._bind
        self._bound: list[tuple[str, ...]] = [()] * len(self._bind)
        self._counters = BrokerCounters()
        self._core = self._new_core()

    @property
    def endpoint(self) -> str:
        """The first of :attr:`endpoints`."""
        return self._endpoints[0]

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where the broker listens; before the first start as given.

        With wildcards resolved, and with an endpoint for each address of a host name, IPv4 first.
        """
        return self._endpoints

    def statistics(self) -> BrokerStatistics:
        """Return an immutable copy of all counters, and of the state of every service.

        Any greenlet, any thread, any state.  Never waits for a socket.

        Raises:
            StateError: the call is from another thread, and the broker's hub does not run.
        """
        forks.notice()
        core = self._core
        return self._call_in_owner_thread(self._owner, lambda: core.statistics(monotonic()))

    @property
    def secured(self) -> bool:
        """True if connections need a key, a password or an allowed address."""
        return self._gate is not None

    def reconsider(self) -> None:
        """Ask the access policy again, and end what it does not allow any more.

        Workers get DISCONNECT, calls of gmdp clients end with NotAllowed.  Any greenlet, any
        thread.  No effect if not started.

        Raises:
            StateError: the call is from another thread, and the broker's hub does not run.
        """
        forks.notice()
        owner = self._owner
        if owner is not None:
            self._call_in_owner_thread(owner, self._reconsider, owner)

    def _reconsider(self, owner: Owner) -> None:
        if self._owner is owner:
            self._core.reconsider(monotonic())
            owner.post(_do_nothing)  # the pass sends what was decided

    def enqueue(self, service: str | bytes, body: bytes | Sequence[bytes]) -> bool:
        """Queue a request of the broker's own; its answer is dropped.

        For hooks, too.  Any greenlet, any thread.

        Args:
            service: the service's name; str is encoded as UTF-8.
            body: the request's frames; bytes are one frame.

        Returns:
            False if there is no room for the request, or the broker is not running.

        Raises:
            ConfigurationError: the service's name is empty or too long.
            TypeError: an argument has a wrong type.
            StateError: the call is from another thread, and the broker's hub does not run.
        """
        name, frames = check_service(service), check_body(body)
        forks.notice()
        owner = self._owner
        if owner is None:
            return False
        return self._call_in_owner_thread(owner, self._enqueue, owner, name, frames)

    def _enqueue(self, owner: Owner, service: bytes, body: list[bytes]) -> bool:
        if self._owner is not owner:
            return False
        accepted = self._core.inject(service, body, monotonic())
        owner.post(_do_nothing)  # the pass sends what was decided
        return accepted

    def __repr__(self) -> str:
        core = self._core
        return (
            f"<{type(self).__name__} {self.state.value} {' '.join(self._endpoints)} services={len(core.services)} "
            f"workers={core.worker_count} queued={core.queued} assigned={core.assigned}>"
        )

    def _new_core(self) -> BrokerCore:
        about = About(version=__version__, hwm=self._hwm)
        access = None
        if self._policy is not None or (self._gate is not None and self._gate.authenticates):
            access = Access(self._policy, self.options.max_user_rate)
        return BrokerCore(
            self.options,
            os.urandom(NONCE_SIZE),
            monotonic(),
            self._counters,
            about,
            True,  # io/frames.py checks the size of frames
            access,
            in_process=all(endpoint.startswith("inproc:") for endpoint in self._bind),
        )

    def _open(self) -> tuple[Owner, State, str]:
        targets = [look_up(endpoint, self._set_name_wait) for endpoint in self._bind]
        if not self._starts_here():
            raise StateError("this process was forked while the broker looked up a name: start it again")
        self._core = self._new_core()
        engine = BrokerEngine(self._core, self._gate, self.audit, self._call_dead_letter_hook, self._on_owner_ended)
        owner = Owner(engine, f"broker {self._bind[0]}")
        try:
            engine.open(owner, self._context, self._hwm)
            self._bound = [
                bind(engine.link, endpoint, addresses, last)
                for endpoint, addresses, last in zip(self._bind, targets, self._bound, strict=True)
            ]
        except BaseException as error:
            engine.close()
            if isinstance(error, SocketError):
                raise BindError(error.errno or 0, f"cannot bind {self._bind[0]}: {error_text(error)}") from None
            raise
        self._endpoints = engine.endpoints = tuple(itertools.chain.from_iterable(self._bound))
        owner.name = f"broker {self._endpoints[0]}"
        self._engine = engine
        return owner, State.RUNNING, ""

    def _set_name_wait(self, wait: Wait | None) -> None:
        if self._starts_here():
            self._name_wait = wait

    def _reset_after_fork(self) -> None:
        if self._gate is not None:
            self._gate.abandon()
        self._endpoints = self._bind
        self._bound = [()] * len(self._bind)
        self._counters = BrokerCounters()
        self._core = self._new_core()

    def _call_dead_letter_hook(self, letter: DeadLetter) -> None:
        def log_failure(error: BaseException) -> None:
            _log.exception("the dead-letter hook failed for a request of %s", show_name(letter.service))

        guarded.call(lambda: self.dead_letter(letter, self), default=None, on_error=log_failure)

    def _drain(self, until: float) -> None:
        self._engine.drain(until)


def _do_nothing() -> None:
    """Do nothing: posted to an owner, this makes it begin a pass."""


#: The names of all options of a broker.
_KEYWORDS = frozenset(inspect.signature(Broker).parameters) - {"unknown"}
