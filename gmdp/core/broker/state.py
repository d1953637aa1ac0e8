"""What the parts of a broker's core share."""

from __future__ import annotations

from ...protocol import extension
from ..liveness import Gap
from ..timers import Timers
from .access import Access
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
        "counters",
        "draining",
        "events",
        "features",
        "gap",
        "held_bytes",
        "options",
        "outbox",
        "refusals",
        "timers",
        "trace_waits",
        "users",
    )

    def __init__(self, options: BrokerOptions, counters: BrokerCounters, now: float, access: Access | None) -> None:
        self.options = options
        self.counters = counters
        #: What users may do; None: everybody may do everything.
        self.access = access
        #: The user who last spoke under each routing id, where users are known.
        self.users: dict[bytes, str] = {}
        #: Refusals that the owner has not taken yet.
        self.refusals: list[Refusal] = []
        #: By peer, routing id and return address: the features that its probe named.
        self.features: dict[tuple[bytes, ...], int] = {}
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

    def note_features(self, address: tuple[bytes, ...], features: int) -> None:
        """Remember the features that a peer's probe named."""
        known = self.features
        known.pop(address, None)  # the latest is last
        if features:
            known[address] = features
            if len(known) > MAX_FEATURES:
                del known[next(iter(known))]

    def features_of(self, address: tuple[bytes, ...], frame: bytes) -> int:
        """Return the :class:`~gmdp.protocol.extension.Feature` flags of the peer at `address`.

        Args:
            address: The peer's routing id and return address.
            frame: Its call frame or session frame; empty for a strict peer, which has no features.
        """
        return self.features.get(address, 0) if frame and extension.version_of(frame) > 1 else 0
