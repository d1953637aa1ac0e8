"""What the parts of a broker's core share."""

from __future__ import annotations

import math

from ...protocol import extension
from ...protocol.dialects import Dialect
from ..liveness import Gap
from ..timers import Timers
from .access import Access
from .complaints import Complaint, Complaints
from .decisions import DeadLetter, Event, Outgoing, QueueWait, Refusal
from .options import BrokerOptions
from .statistics import BrokerCounters

#: How many peers' features are remembered; beyond it, the oldest are forgotten.  A peer whose features
#: are not known is sent nothing that belongs to one.
MAX_FEATURES = 65_536


class BrokerState:
    """Options, counters, timers and decisions of one broker."""

    __slots__ = (
        "access",
        "complaints",
        "counters",
        "draining",
        "events",
        "features",
        "gap",
        "held_bytes",
        "knows_processes",
        "options",
        "outbox",
        "probe_dialects",
        "refusals",
        "refused_at",
        "timers",
        "trace_waits",
        "users",
    )

    def __init__(
        self,
        options: BrokerOptions,
        counters: BrokerCounters,
        now: float,
        access: Access | None,
        in_process: bool = False,
    ) -> None:
        self.options = options
        #: True if a connection to a process that has ended is unreachable within an expiry.
        self.knows_processes = options.zmtp_heartbeats or in_process
        self.counters = counters
        #: What users may do; None: everybody may do everything.
        self.access = access
        #: The user who last spoke under each routing id, where users are known.
        self.users: dict[bytes, str] = {}
        #: Refusals that the owner has not taken yet.
        self.refusals: list[Refusal | Complaint] = []
        #: Warnings about peers that cannot be told, which go to `refusals`, too.
        self.complaints = Complaints(self.refusals)
        #: By peer, routing id and return address: the features that its probe named.
        self.features: dict[tuple[bytes, ...], int] = {}
        #: By the same peers: the dialect of that probe.
        self.probe_dialects: dict[tuple[bytes, ...], Dialect] = {}
        self.timers = Timers()
        self.gap = Gap(options.heartbeat_interval, options.expiry, now)
        #: Messages to send that the owner has not taken yet, in order.
        self.outbox: list[Outgoing] = []
        #: Events that the owner has not taken yet, in order.
        self.events: list[Event | DeadLetter | QueueWait] = []
        #: True if :class:`QueueWait` events are wanted.
        self.trace_waits = False
        #: Bytes of bodies queued or assigned, of replies being joined, and of messages
        #: that wait for slow clients.
        self.held_bytes = 0
        self.draining = False
        #: While draining: when the last request was refused for that reason.
        self.refused_at = -math.inf

    def note_features(self, address: tuple[bytes, ...], features: int, dialect: Dialect) -> None:
        """Remember the features that a peer's probe named, and the dialect of that probe."""
        self.forget_features(address)  # the latest is last
        if features:
            self.features[address] = features
            self.probe_dialects[address] = dialect
            if len(self.features) > MAX_FEATURES:
                self.forget_features(next(iter(self.features)))

    def forget_features(self, address: tuple[bytes, ...]) -> None:
        """Forget a peer's features."""
        self.features.pop(address, None)
        self.probe_dialects.pop(address, None)

    def features_of(self, address: tuple[bytes, ...], frame: bytes) -> int:
        """Return the :class:`~gmdp.protocol.extension.Feature` flags of the peer at `address`.

        Args:
            address: The peer's routing id and return address.
            frame: Its call frame or session frame; empty for a strict peer, which has no features.
        """
        return self.features.get(address, 0) if frame and extension.version_of(frame) > 1 else 0
