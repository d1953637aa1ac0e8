"""What the parts of a broker's core share."""

from __future__ import annotations

import math

from ..liveness import Gap
from ..timers import Timers
from .access import Access
from .complaints import Complaint, Complaints
from .decisions import DeadLetter, Event, Outgoing, QueueWait, Refusal
from .options import BrokerOptions
from .peers import Peers
from .statistics import BrokerCounters
from .unsent import Unsent


class BrokerState:
    """Options, counters, timers and decisions of one broker."""

    __slots__ = (
        "access",
        "complaints",
        "counters",
        "draining",
        "events",
        "gap",
        "held_bytes",
        "knows_processes",
        "options",
        "outbox",
        "peers",
        "refusals",
        "refused_at",
        "timers",
        "trace_waits",
        "unsent",
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
        #: The features that peers have named in their probes.
        self.peers = Peers()
        self.timers = Timers()
        self.gap = Gap(options.heartbeat_interval, options.expiry, now)
        #: Messages to send that the owner has not taken yet, in order.
        self.outbox: list[Outgoing] = []
        #: Where they stand, once somebody has asked.
        self.unsent: Unsent | None = None
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

    def find_unsent(self) -> Unsent:
        """Where the messages to send stand."""
        if self.unsent is None:
            self.unsent = Unsent(self.outbox)
        return self.unsent
