"""The connections of a bound socket, from what its monitor reports.

The rules of this module:

* A connection is known by its descriptor, which a later connection may get again.
* A connection is *established* once its handshake has succeeded.  The monitor reports a success
  without its descriptor, so successes are only counted.
* A connection that is older than a handshake may take is established, since ZeroMQ closes a
  connection whose handshake takes longer.
* Of the younger connections, at most as many are established as handshakes have succeeded in that
  time.  An example: ten connections were accepted a second ago, and one handshake has succeeded
  since.  Then one of the ten counts as established, and the other nine do not.
* A peer of ZMTP 2.0 (libzmq 3, jeromq 0.3) makes no report of its handshake, and its messages have no
  descriptor.  The end of its connection is reported as a handshake that failed.  It counts as a failure only
  if no such peer has spoken, and the connection is younger than a handshake may take.
* Where each message has its connection's descriptor, a routing id is *gone* when its
  connection is closed.  The census says so once every message that arrived earlier has been read.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from collections.abc import Iterator

#: Seconds by which ZeroMQ may be late to end a handshake that takes too long.
GRACE = 1.0
#: The reason of a handshake that was broken off.
BROKEN_OFF = "handshake"


class PeerCensus:
    """The connections of one bound socket.  `handshake_timeout`: seconds that a handshake may take."""

    def __init__(self, handshake_timeout: float) -> None:
        self._patience = handshake_timeout + GRACE
        #: True if a report has changed anything; the reader of the census resets it.
        self.changed = False
        #: True if a connection was closed; the reader of the census resets it.
        self.closed = False
        #: Connections that may be in their handshake, the oldest first: when each was accepted, by descriptor.
        self._young: OrderedDict[int, float] = OrderedDict()
        #: Descriptors of the older connections: those that are certainly established.
        self._old: set[int] = set()
        #: When each recent handshake succeeded, the oldest first.
        self._successes: deque[float] = deque()
        #: Totals since the reader of the census last reset them.
        self.accepted = 0
        self.handshakes = 0
        self.failures: dict[str, int] = {}
        #: An upper bound of the open connections whose handshake may never be reported.
        self.unreported = 0
        #: Routing ids of messages without a descriptor, at most as many as there are such connections.
        self._unreported_speakers: set[bytes] = set()
        #: Failed handshakes whose connection's end is not reported yet.
        self._ending = 0
        #: Failed handshakes of young connections: :meth:`judge` decides.
        self.undecided = 0
        #: The routing id of the last message of each connection, by descriptor.
        self._speakers: dict[int, bytes] = {}
        #: Closed descriptors; a message that arrived earlier may still be read.
        self._closed: set[int] = set()
        #: Routing ids whose connection is closed, with its descriptor.
        self._gone: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def __iter__(self) -> Iterator[int]:
        """The descriptors of the connections."""
        return itertools.chain(self._young, self._old)

    def established(self, now: float) -> int:
        """Return an upper bound of the number of established connections."""
        self.age(now)
        return len(self._old) + min(len(self._young), len(self._successes))

    def age(self, now: float) -> None:
        """Count connections that are old enough as established."""
        limit = now - self._patience
        young, successes = self._young, self._successes
        while young and (oldest := next(iter(young.items())))[1] <= limit:
            self._old.add(oldest[0])
            del young[oldest[0]]
        while successes and successes[0] <= limit:
            successes.popleft()
        self._set_unreported(self.unreported)

    def _set_unreported(self, count: int) -> None:
        count = max(0, min(count, len(self._young)))
        if count != self.unreported:
            self.unreported = count
            self.changed = True
        while len(self._unreported_speakers) > count + self.undecided + self._ending:
            self._unreported_speakers.pop()

    # What the monitor reports

    def on_accepted(self, descriptor: int, now: float) -> None:
        """A connection was accepted."""
        self.changed = True
        self._unlist(descriptor)  # in case the end of its predecessor was not reported
        self._closed.discard(descriptor)
        self._young[descriptor] = now
        self._set_unreported(self.unreported + 1)
        self.accepted += 1

    def on_handshake(self, now: float) -> None:
        """A connection's handshake succeeded."""
        self.changed = True
        self.handshakes += 1
        self._successes.append(now)
        self.age(now)
        self._set_unreported(self.unreported - 1)

    def on_handshake_failed(self, reason: str) -> None:
        """A connection's handshake failed."""
        self.changed = True
        self.failures[reason] = self.failures.get(reason, 0) + 1
        self._set_unreported(self.unreported - 1)

    def on_broken_off(self) -> None:
        """A connection whose handshake was not reported is about to be closed."""
        self._ending += 1

    def on_closed(self, descriptor: int) -> None:
        """A connection was closed."""
        self.closed = True
        if self._ending:
            self._ending -= 1
            self.undecided += descriptor in self._young
            self._unlist(descriptor)
            self._set_unreported(self.unreported - 1)
        else:
            self._unlist(descriptor)
            self._set_unreported(self.unreported)

    def judge(self) -> None:
        """Decide which connections have failed in their handshake.  Call this once everything has been read."""
        failed = self.undecided - len(self._unreported_speakers)
        for _ in range(min(self.undecided, len(self._unreported_speakers))):
            self._unreported_speakers.pop()
        self.undecided = 0
        self.changed = True
        if failed > 0:
            self.failures[BROKEN_OFF] = self.failures.get(BROKEN_OFF, 0) + failed

    def _unlist(self, descriptor: int) -> None:
        self.changed = True
        self._old.discard(descriptor)
        self._young.pop(descriptor, None)
        self._closed.add(descriptor)
        routing_id = self._speakers.pop(descriptor, None)
        if routing_id is not None:
            self._gone[routing_id] = descriptor

    # Routing ids and their connections

    def on_unreported(self, routing_id: bytes) -> None:
        """A message came without a descriptor, while there may be connections whose handshake is not reported."""
        if len(self._unreported_speakers) < self.unreported + self.undecided:
            self._unreported_speakers.add(routing_id)

    def on_message(self, descriptor: int, routing_id: bytes) -> bool:
        """A message came on a connection.  Returns True if an earlier connection with its routing id is gone."""
        if descriptor in self._closed:
            self.changed = True
            self._gone[routing_id] = descriptor
            return False
        self._speakers[descriptor] = routing_id
        return self._gone.pop(routing_id, descriptor) != descriptor

    def take_gone(self) -> list[bytes]:
        """Return the routing ids that have gone since the last call.  Call this once everything has been read."""
        if not self._gone:
            return []
        gone = list(self._gone)
        self._gone.clear()
        return gone
