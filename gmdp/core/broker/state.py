"""What the parts of a broker's core share."""

from __future__ import annotations

from ..liveness import Gap
from ..timers import Timers
from .access import Access
from .decisions import DeadLetter, Event, Outgoing, QueueWait, Refusal
from .options import BrokerOptions
from .statistics import BrokerCounters


class BrokerState:
    """Options, counters, timers and decisions of one broker."""

    __slots__ = (
        "access",
        "counters",
        "draining",
        "events",
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
