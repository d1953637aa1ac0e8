"""What the parts of a broker's core share."""

from __future__ import annotations

from ..liveness import Gap
from ..timers import Timers
from .access import Access
from .decisions import DeadLetter, Event, Outgoing, Refusal, Waited
from .options import BrokerOptions
from .statistics import BrokerCounters


class BrokerState:
    """What the parts of a broker's core share."""

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
        "traced",
        "users",
    )

    def __init__(self, options: BrokerOptions, counters: BrokerCounters, now: float, access: Access | None) -> None:
        self.options = options
        self.counters = counters
        #: Who may do what; None: everybody everything.
        self.access = access
        #: Who spoke last under a routing id, where users are known.
        self.users: dict[bytes, str] = {}
        #: What was not allowed, to be told.
        self.refusals: list[Refusal] = []
        self.timers = Timers()
        self.gap = Gap(options.heartbeat_interval, options.expiry, now)
        #: What to send, in order.
        self.outbox: list[Outgoing] = []
        #: What to tell, in order.
        self.events: list[Event | DeadLetter | Waited] = []
        #: True if somebody wants to hear of :class:`Waited`.
        self.traced = False
        #: Bytes of bodies queued or assigned, of replies being joined, and of messages
        #: that wait for slow clients.
        self.held_bytes = 0
        self.draining = False
