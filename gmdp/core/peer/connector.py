"""Connections to brokers, as clients and workers have them.

The rules of this module:

* Every connection is a new socket: messages queued for one broker never reach
  the next.
* Connections of one *epoch* share a fate.  The first that is lost, or cannot be made,
  ends the epoch.  The next epoch's connections go to the endpoint that
  :mod:`~.reconnect` names, after the delay it names.
* Once every broker has refused, or has hung up in the handshake three times in a row,
  :attr:`Connector.denied` says why.  The connector goes on trying.
* Brokers are counted by endpoints.  An endpoint whose name has several addresses is judged once all of them
  have failed: it has refused, or announced its stop, if the broker at any of them has.
* A connection that stands is *probed* once: a request for ``mmi.gmdp``, in the
  peer's own version.  A gmdp broker's answer makes the connection *extended*.  Any
  other answer makes it *strict*.  Once an epoch is known to be strict, its further
  connections are not probed.
* A probe without an answer within :attr:`Connector.probe_timeout` costs its connection: some brokers keep one
  request for each client, and would answer nothing else there.  The epoch is strict from then on.
* The probe may be sent before the connection stands, once its transport is connected.  A broker that
  makes no report of its handshake (ZMTP 2.0) shows by taking the probe that the connection stands.
  Further connections to that broker stand as soon as their transport is connected.
* A broker whose offer says that it drains is left for the next one.
* The probe says what this peer speaks.  An extended connection speaks the lower version
  of the two peers', and has the features that both have named.

  ===========  =================================  ==============================
  phase        left when                          for
  ===========  =================================  ==============================
  connecting   it stands                          probing, or strict
               it fails or takes too long         closed
  probing      the broker answers the probe       extended, or strict
               no answer comes in time            closed
               extensions are required, and the   closed
               broker has none
               it is lost, or not needed          closed
  strict,      it is lost, or not needed          closed
  extended
  closed
  ===========  =================================  ==============================
"""

from __future__ import annotations

import abc
import enum
import math
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from ...protocol.dialects import EXTENDED, Dialect
from ...protocol.extension import PROBE_SERVICE, SUPPORTED, VERSION, Offer, probe_body, read_offer
from ..numbers import MAX_FRAMES, MAX_FRAMES_READ
from ..timers import Timers
from .reasons import CloseReason
from .reconnect import Reconnect
from .statistics import ClientCounters, WorkerCounters

#: The reasons that a socket reports where a broker refuses a connection.
REFUSALS = frozenset({CloseReason.NOT_ALLOWED, CloseReason.MISMATCH})
#: How many failed handshakes in a row, for each broker, count as a refusal.
FAILURES_THAT_COUNT = 3
#: How many rounds in which no broker says anything make :attr:`Connector.silent`.
SILENT_ROUNDS = 2
#: For each version, what to try where a broker has said nothing.
_HINTS = {
    "0.1": "a broker of MDP/0.2 alone needs version='0.2' (--mdp 0.2)",
    "0.2": "a broker of MDP/0.1, or a path through zmq_proxy, needs version='0.1' (--mdp 0.1)",
}


class Phase(enum.Enum):
    """The phase of a connection; :data:`TRANSITIONS` has the changes."""

    __hash__ = object.__hash__  # Enum's own is slow, and each message looks its phase up in USABLE

    CONNECTING = "connecting"
    PROBING = "probing"
    STRICT = "strict"
    EXTENDED = "extended"
    CLOSED = "closed"


#: Every change of phase, and when it happens.
TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.CONNECTING: frozenset(
        {
            Phase.PROBING,  # the socket is connected
            Phase.STRICT,  # the socket is connected, and its broker is known to speak an RFC only
            Phase.CLOSED,  # the connection failed, took too long, or is not needed any more
        }
    ),
    Phase.PROBING: frozenset(
        {
            Phase.EXTENDED,  # the broker answered with its offer
            Phase.STRICT,  # the broker answered anything else
            Phase.CLOSED,  # lost, no answer in time, not needed any more, or extensions are required
        }
    ),
    Phase.STRICT: frozenset({Phase.CLOSED}),  # lost, or not needed any more
    Phase.EXTENDED: frozenset({Phase.CLOSED}),  # the same
    Phase.CLOSED: frozenset(),
}


#: Phases in which a connection can be used.
USABLE = frozenset({Phase.STRICT, Phase.EXTENDED})


class Connection:
    """One socket to one broker, as the core knows it."""

    __slots__ = (
        "address",
        "endpoint",
        "epoch",
        "features",
        "handle",
        "looks_up",
        "offer",
        "phase",
        "probed",
        "timer",
        "version",
    )

    def __init__(self, endpoint: str, epoch: int) -> None:
        self.endpoint = endpoint
        #: The endpoint with an address in place of the name; empty until one is chosen, or if there is no name.
        self.address = ""
        #: True while the name is looked up.
        self.looks_up = False
        self.epoch = epoch
        self.phase = Phase.CONNECTING
        #: What a gmdp broker offers; None before, and of any other broker.
        self.offer: Offer | None = None
        #: True once the probe is sent.
        self.probed = False
        #: The version of the extension that is spoken; 0 before, and on a strict connection.
        self.version = 0
        #: The :class:`~gmdp.protocol.extension.Feature` flags that both peers have named.
        self.features = 0
        self.timer: list[Any] | None = None
        #: The shell's socket: a :class:`gmdp.io.dealers.SendQueue`, or a wire of the
        #: simulator.  The core keeps it for its shell.
        self.handle: Any = None

    @property
    def place(self) -> str:
        """The endpoint, and the address that was chosen for its name."""
        return f"{self.endpoint} ({self.address})" if self.address else self.endpoint

    def become(self, phase: Phase) -> None:
        """Go to `phase`; ValueError if :data:`TRANSITIONS` does not allow it."""
        if phase not in TRANSITIONS[self.phase]:
            raise ValueError(f"no change from {self.phase.value} to {phase.value}")
        self.phase = phase

    def accepts(self, frames: list[bytes]) -> bool:
        """True if this message is within the limits of the broker's offer."""
        offer = self.offer
        if offer is None:
            return True
        # The broker's socket adds one frame, the routing id.
        return len(frames) < offer.max_frames and max(map(len, frames)) <= offer.max_frame_size


class Open(NamedTuple):
    """Open a new socket and connect it to the connection's address, or to its endpoint if that has no name.

    Of an endpoint with a name and without an address, the addresses are looked up first
    (:meth:`Connector.on_lookup`).
    """

    connection: Connection


class Send(NamedTuple):
    """Send these frames."""

    connection: Connection
    frames: list[bytes]


class Close(NamedTuple):
    """Close this socket."""

    connection: Connection
    reason: CloseReason
    #: True if messages that were decided earlier must be sent first.
    after_sending: bool = False
    #: The operating system's words, or nothing.
    detail: str = ""


#: A decision about a socket.
Action = Open | Send | Close
C = TypeVar("C", bound=Connection)
E = TypeVar("E")


class Connector(abc.ABC, Generic[C, E]):
    """Opens and probes connections, and replaces lost ones.

    Decisions are appended to :attr:`actions` (for sockets) and :attr:`events` (for
    callers or handlers), until :meth:`take` hands them over.

    Args:
        dialect: RFC7, RFC18 or MAJORTOMO.
        reconnect: The brokers' endpoints.
        require_extensions: True if a broker that does not speak gmdp's extension is not used.

    ``now`` arguments are monotonic seconds; ``jitter`` arguments are random numbers
    from 0 to 1.
    """

    #: The counters of the client, or worker; they go on over restarts.
    counters: ClientCounters | WorkerCounters
    #: The version of the extension that this peer speaks, and the features that it names.
    extension_version = VERSION
    features: int = SUPPORTED
    #: Seconds until a connection that does not stand yet is closed.
    connect_timeout = 5.0
    #: Seconds for which a look-up is waited for where addresses are known from an earlier one.
    lookup_patience = 1.0
    #: Seconds until a broker that does not answer the probe counts as strict.
    probe_timeout = 1.0
    #: True if the answer to a probe shows that the broker is worth staying with.
    probe_suffices = True

    def __init__(self, dialect: Dialect, reconnect: Reconnect, require_extensions: bool = False) -> None:
        self.dialect = dialect
        #: The same dialect in the extension; of a dialect without extension, itself.
        self.extended = EXTENDED.get(dialect, dialect)
        self.actions: list[Action] = []
        self.events: list[E] = []
        self._reconnect = reconnect
        self._require_extensions = require_extensions
        self._timers = Timers()
        self._connections: set[C] = set()
        #: How many connections are being made or probed.
        self._pending = 0
        self._epoch = 0
        #: What the present epoch's broker speaks: STRICT or EXTENDED; None while unknown.
        self._mode: Phase | None = None
        #: True once the present epoch's broker has said anything.
        self._heard = False
        #: False if the present epoch's broker makes no report of its handshakes.
        self._handshakes_reported = True
        #: True once the present epoch's broker has said anything, be it only the answer to a probe.
        self._spoken = False
        #: Rounds in a row in which no broker said anything: calls without an answer, or connections of a worker.
        self._silent_rounds = 0
        #: Text for errors after many silent rounds: nothing was ever heard, and what to try.  Empty before.
        self.silent = ""
        #: When the present epoch's first connection may be opened.
        self._open_at = -math.inf
        #: Endpoints in a row whose brokers refused, with a reason.
        self._refused_in_a_row = 0
        #: Endpoints in a row whose brokers refused, or hung up in the handshake.
        self._failed_in_a_row = 0
        #: Endpoints in a row to which no connection could be made, for any reason.
        self._not_made_in_a_row = 0
        #: Why a broker refused at the present endpoint, or hung up, and where; None if none has.
        self._refusal: tuple[CloseReason, str] | None = None
        #: Why no broker lets this peer in; None while one does, or may.
        self.denied: CloseReason | None = None
        #: The same in words, with the place where a broker refused last; empty while one lets this peer in, or may.
        self.denial = ""
        #: The broker tried last and why no broker can be reached; empty while one can, or may.
        self.unreachable = ""
        #: True once any broker has said anything.
        self._ever_spoken = False
        #: The endpoints whose brokers have announced their stop, since the last connection that could be used.
        self._leaving: set[str] = set()
        #: True once a broker at the present endpoint has announced its stop.
        self._leaves = False
        #: When the last epoch ended.
        self._ended_at = -math.inf
        #: Where the broker is that has announced its stop; empty while another is used, or none has announced it.
        self._leaving_place = ""
        #: The broker tried last, empty before the first, and why the connection to it ended or was not made.
        self._trouble_place = ""
        self._trouble = "not connected yet"

    # What subclasses provide

    @abc.abstractmethod
    def _make_connection(self, endpoint: str, epoch: int) -> C:
        """Return a new connection."""

    @abc.abstractmethod
    def _on_usable(self, connection: C, now: float) -> None:
        """A connection has become strict or extended."""

    @abc.abstractmethod
    def _on_connection_lost(self, connection: C, reason: CloseReason, detail: str, now: float) -> None:
        """A connection was lost or never made; the connector has closed and unlisted it already."""

    @abc.abstractmethod
    def _on_message(self, connection: C, frames: list[bytes], now: float, jitter: float) -> None:
        """A message came on a strict or extended connection."""

    @abc.abstractmethod
    def _on_timer(self, item: Any, now: float, jitter: float) -> None:
        """The timer of `item` is due: of a strict or extended connection, or of the subclass's own item."""

    @abc.abstractmethod
    def _assign_waiting(self, now: float) -> None:
        """Assign waiting calls or sessions to free connections, and open further ones that they need."""

    @abc.abstractmethod
    def deadline(self) -> float:
        """When :meth:`tick` is needed next; infinity if never."""

    # What the owner calls

    def take(self) -> tuple[list[Action], list[E]]:
        """Return the decisions since the last call, (actions, events), and clear them."""
        decided = self.actions, self.events
        self.actions, self.events = [], []
        return decided

    @property
    def endpoint(self) -> str:
        """The endpoint of the broker in use, or tried at present."""
        return self._reconnect.endpoint

    @property
    def speaks_extension(self) -> bool | None:
        """True if the broker in use speaks gmdp's extension; None while unknown."""
        return None if self._mode is None else self._mode is Phase.EXTENDED

    def on_transport_connected(self, connection: C, now: float) -> bool:
        """The transport of a connection is connected, and its handshake may go on.

        Returns:
            True if the connection stands as soon as its socket has sent the message that was decided.
        """
        if connection.phase is not Phase.CONNECTING:
            return False
        if self._is_to_be_probed(connection):
            self._send_probe(connection)
            return True
        if connection.epoch == self._epoch and not self._handshakes_reported:
            self.on_connected(connection, now, handshake_reported=False)
        return False

    def on_connected(self, connection: C, now: float, handshake_reported: bool = True) -> None:
        """The socket of a connection is connected.

        `handshake_reported`: False if the broker makes no report of its handshakes (ZMTP 2.0).
        """
        if connection.epoch == self._epoch:
            self._handshakes_reported = handshake_reported
        if connection.phase is not Phase.CONNECTING:
            return
        self._refused_in_a_row = self._failed_in_a_row = self._not_made_in_a_row = 0
        self._refusal = self.denied = None
        self.denial = self.unreachable = ""
        if not connection.probed and not self._is_to_be_probed(connection):
            self._enter(connection, Phase.STRICT, now)
            return
        connection.become(Phase.PROBING)
        self._timers.arm(connection, now + self.probe_timeout)
        if not connection.probed:
            self._send_probe(connection)

    def on_lookup(self, connection: C, now: float) -> None:
        """The addresses of a connection's endpoint are being looked up."""
        connection.looks_up = True
        if self._reconnect.known(connection.endpoint):
            self._timers.arm(connection, now + self.lookup_patience)

    def on_looked_up(self, connection: C, addresses: Sequence[str], detail: str, now: float, jitter: float) -> None:
        """The addresses of a connection's endpoint were looked up.

        Args:
            connection: the connection; it may be closed already.
            addresses: endpoints with addresses; empty if the look-up failed.
            detail: why it failed.
            now: Monotonic seconds.
            jitter: A random number from 0 to 1.
        """
        self._reconnect.learn(connection.endpoint, addresses)
        if connection.phase is Phase.CONNECTING and connection.looks_up:
            if self._reconnect.known(connection.endpoint):
                self._connect(connection, now)
            else:
                self._lose_connection(connection, CloseReason.NAME_NOT_RESOLVED, now, jitter, detail)
                self._assign_waiting(now)

    def on_disconnected(self, connection: C, reason: CloseReason, now: float, jitter: float, detail: str = "") -> None:
        """A connection was lost, or could not be made; `detail` holds the operating system's words."""
        if connection.phase is not Phase.CLOSED:
            self._lose_connection(connection, reason, now, jitter, detail)
            self._assign_waiting(now)

    def feed(self, connection: C, frames: list[bytes], now: float, jitter: float) -> None:
        """Take one whole message from a broker.  A connection that is closed takes none."""
        if len(frames) > MAX_FRAMES_READ:  # the socket has not kept all of them
            if connection.phase is not Phase.CLOSED:
                self.counters.malformed += 1
                self._lose_connection(connection, CloseReason.TOO_MANY_FRAMES, now, jitter)
                self._assign_waiting(now)
            return
        if connection.phase in USABLE:
            self._on_message(connection, frames, now, jitter)
            return
        if connection.phase is Phase.CONNECTING and connection.probed:
            self.on_connected(connection, now)  # the broker has answered already
        if connection.phase is Phase.PROBING and (body := self._probe_answer(frames)) is not None:
            if self.probe_suffices:
                self._note_broker_heard(connection, now)
            self._note_spoken(connection)
            connection.offer = offer = read_offer(body)
            if offer is not None and offer.leaving:
                self._lose_connection(connection, CloseReason.SHUTTING_DOWN, now, jitter)
                self._assign_waiting(now)
            elif offer is not None:
                if offer.max_frames > MAX_FRAMES:  # such messages would not be read at the other end
                    connection.offer = offer._replace(max_frames=MAX_FRAMES)
                connection.version = min(offer.version, self.extension_version)
                connection.features = int(offer.features & self.features) if connection.version > 1 else 0
                self._enter(connection, Phase.EXTENDED, now)
            else:
                self._settle_for_strict(connection, now, jitter)

    def tick(self, now: float, jitter: float) -> None:
        """Do everything that is due by `now`."""
        while (item := self._timers.pop_due(now)) is not None:
            if not isinstance(item, Connection) or item.phase in USABLE:
                self._on_timer(item, now, jitter)
            elif item.phase is Phase.PROBING:
                self._on_probe_unanswered(item, now, jitter)  # type: ignore[arg-type]
            elif item.looks_up and self._reconnect.known(item.endpoint):
                self._connect(item, now)  # type: ignore[arg-type]
            else:
                detail = "its host name is still being looked up" if item.looks_up else ""
                self._lose_connection(item, CloseReason.NO_CONNECTION_IN_TIME, now, jitter, detail)  # type: ignore[arg-type]
        self._assign_waiting(now)

    # For subclasses

    @property
    def _all_leave(self) -> bool:
        """True if every broker has announced its stop, and none was reached since."""
        return self._leaving.issuperset(self._reconnect.endpoints)

    def _is_to_be_probed(self, connection: C) -> bool:
        """Return whether it is unknown if the connection's broker speaks the extension."""
        known_strict = self._mode is Phase.STRICT and connection.epoch == self._epoch
        return self.extended.extended and not known_strict

    def _send_probe(self, connection: C) -> None:
        connection.probed = True
        probe = probe_body(self.extension_version, self.features)
        self.actions.append(Send(connection, self.dialect.request(PROBE_SERVICE, probe)))

    def _open_connection(self, now: float) -> None:
        """Open one more connection."""
        connection = self._make_connection(self._reconnect.endpoint, self._epoch)
        connection.address = self._reconnect.address
        self._connections.add(connection)
        self._pending += 1
        self._timers.arm(connection, now + self.connect_timeout)
        self.actions.append(Open(connection))

    def _connect(self, connection: C, now: float) -> None:
        """Connect to an address of an endpoint whose name was looked up."""
        connection.looks_up = False
        if connection.epoch == self._epoch:
            connection.address = self._reconnect.choose()
        else:
            connection.address = self._reconnect.known(connection.endpoint)[0]
        self._timers.arm(connection, now + self.connect_timeout)
        self.actions.append(Open(connection))

    def _probe_answer(self, frames: list[bytes]) -> list[bytes] | None:
        """Return the body of a broker's answer to a probe; None for any other message."""
        parsed = self.dialect.parse_reply(frames)
        return parsed[2] if parsed is not None and parsed[1] == PROBE_SERVICE else None

    def _is_leaving(self, frames: list[bytes]) -> bool:
        """True if this message is a broker's offer, sent again, that says that the broker drains."""
        body = self._probe_answer(frames)
        offer = read_offer(body) if body is not None else None
        return offer is not None and offer.leaving

    def _note_broker_heard(self, connection: C, now: float) -> None:
        """Note that the broker has sent a valid message."""
        if connection.epoch == self._epoch and not self._heard:
            self._heard = True
            self._reconnect.on_answer(now)
            self._note_spoken(connection)

    def _note_spoken(self, connection: C) -> None:
        """Note that the broker has said anything."""
        if connection.epoch == self._epoch:
            self._spoken = self._ever_spoken = True
            self._silent_rounds = 0
            self.silent = ""

    def _note_silent_round(self, connection: C) -> str:
        """The broker had time to say something.  Returns what to try if it never did, else nothing."""
        if self._spoken or connection.epoch != self._epoch:
            return ""
        hint = _HINTS[self.dialect.version]
        self._silent_rounds += 1
        if self._silent_rounds >= SILENT_ROUNDS:
            self.silent = f"nothing was ever heard from {connection.place}: {hint}"
        return hint

    def _on_probe_unanswered(self, connection: C, now: float, jitter: float) -> None:
        """The broker speaks an RFC only; whether it says anything more on this connection is unknown."""
        if self._require_extensions or connection.epoch != self._epoch:
            self._settle_for_strict(connection, now, jitter)
        else:
            self._mode = Phase.STRICT
            self._close(connection, CloseReason.PROBE_UNANSWERED)

    def _settle_for_strict(self, connection: C, now: float, jitter: float) -> None:
        """Go on without gmdp's extension, or leave the broker if the extension is required."""
        if self._require_extensions:
            self._lose_connection(connection, CloseReason.NOT_EXTENDED, now, jitter)
            self._assign_waiting(now)
        else:
            self._enter(connection, Phase.STRICT, now)

    def _enter(self, connection: C, phase: Phase, now: float) -> None:
        """Begin to use a connection as strict or extended."""
        self._pending -= 1
        connection.become(phase)
        self._timers.disarm(connection)
        if connection.epoch == self._epoch:
            self._mode = phase
            self._leaving_place = ""
            self._leaving.clear()
            self._leaves = False
        self._on_usable(connection, now)
        self._assign_waiting(now)

    def _lose_connection(self, connection: C, reason: CloseReason, now: float, jitter: float, detail: str = "") -> None:
        """Close a connection that was lost or could not be made, and end its epoch."""
        if connection.epoch == self._epoch:
            delay = self._reconnect.on_lost(now, jitter)
            if connection.phase is Phase.CONNECTING:
                self._note_failed_connect(connection.place, reason, detail)
            self._end_epoch(connection, reason, delay, now, detail)
        self._close(connection, reason, detail=detail)
        self._on_connection_lost(connection, reason, detail, now)

    def _note_failed_connect(self, place: str, reason: CloseReason, detail: str) -> None:
        """Count an endpoint that has failed, and set `denied` or `unreachable` once every broker has."""
        text = f"{place}: {reason.describe(detail)}"
        if reason in REFUSALS or (reason is CloseReason.HUNG_UP and self._refusal is None):
            self._refusal = reason, text
        if not self._reconnect.endpoint_failed:
            return
        refusal, self._refusal = self._refusal, None
        self._refused_in_a_row = self._refused_in_a_row + 1 if refusal and refusal[0] in REFUSALS else 0
        self._failed_in_a_row = self._failed_in_a_row + 1 if refusal else 0
        brokers = len(self._reconnect.endpoints)
        decided = self._refused_in_a_row >= brokers or self._failed_in_a_row >= FAILURES_THAT_COUNT * brokers
        self.denied, self.denial = refusal if refusal and decided else (None, "")
        self._not_made_in_a_row += 1
        if self._not_made_in_a_row >= brokers:
            self.unreachable = "" if refusal else text

    def _end_epoch(self, connection: C, reason: CloseReason, delay: float, now: float, detail: str = "") -> None:
        """Open no further connection to the present broker, and none to the next before `delay` seconds are over."""
        self._epoch += 1
        self._mode = None
        self._heard = self._spoken = False
        self._handshakes_reported = True
        self._trouble_place, self._trouble = connection.place, reason.describe(detail)
        if reason is CloseReason.SHUTTING_DOWN:
            self._leaving_place = connection.place
            self._leaves = True
        if self._reconnect.endpoint_failed:
            if self._leaves:
                self._leaving.add(connection.endpoint)
            self._leaves = False
        self._ended_at = now
        self._open_at = now + delay

    def _close(self, connection: C, reason: CloseReason, after_sending: bool = False, detail: str = "") -> None:
        """Close a connection and its socket; `reason` says why."""
        if connection.phase not in USABLE:
            self._pending -= 1
        connection.become(Phase.CLOSED)
        self._connections.discard(connection)
        self._timers.disarm(connection)
        self.actions.append(Close(connection, reason, after_sending, detail))
