"""Who is connected to a bound socket, from what its monitor tells.

The rules of this module:

* A connection is known by its descriptor, which the next one may get again.
* It is *established* once its handshake succeeded.  The monitor tells that without a
  descriptor, so it is counted: whoever is connected for longer than a handshake may take is
  established; of the younger ones, no more than handshakes have succeeded meanwhile.  So
  strangers who never finish theirs do not count, however many they are.
* Where messages tell their connection (its descriptor), a routing id is *gone* when
  that is closed.  It is told when all that was read from the socket had come before.
"""

from __future__ import annotations

from collections import OrderedDict, deque

#: Seconds that ZeroMQ may be late to end a handshake.
GRACE = 1.0


class Visitors:
    """The connections of one bound socket.  `handshake_timeout`: seconds."""

    def __init__(self, handshake_timeout: float) -> None:
        self._patience = handshake_timeout + GRACE
        #: True if anything came that changes what is told; to be reset by whoever takes it.
        self.changed = False
        #: Connections, by descriptor: those that may be in their handshake, the oldest first,
        #: and those that are not.
        self._young: OrderedDict[int, float] = OrderedDict()
        self._old: set[int] = set()
        #: When handshakes succeeded.
        self._successes: deque[float] = deque()
        #: Totals since the last time they were taken.
        self.accepted = 0
        self.handshakes = 0
        self.failures: dict[str, int] = {}
        #: By descriptor, the routing id that spoke on it last.
        self._spoke: dict[int, bytes] = {}
        #: Descriptors that are closed, though something of them may have been read since.
        self._closed: set[int] = set()
        #: Routing ids whose connection is closed, to be told.
        self._gone: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def established(self, now: float) -> int:
        """How many connections have their handshake behind them, at most."""
        self._age(now)
        return len(self._old) + min(len(self._young), len(self._successes))

    def _age(self, now: float) -> None:
        limit = now - self._patience
        young, successes = self._young, self._successes
        while young and (oldest := next(iter(young.items())))[1] <= limit:
            self._old.add(oldest[0])
            del young[oldest[0]]
        while successes and successes[0] <= limit:
            successes.popleft()

    # What the monitor tells

    def came(self, descriptor: int, now: float) -> None:
        """A connection was accepted."""
        self.changed = True
        self.left(descriptor)  # should its end not have been told
        self._closed.discard(descriptor)
        self._young[descriptor] = now
        self.accepted += 1

    def succeeded(self, now: float) -> None:
        """Some connection's handshake succeeded."""
        self.changed = True
        self.handshakes += 1
        self._age(now)
        self._successes.append(now)

    def failed(self, reason: str) -> None:
        """Some connection's handshake failed."""
        self.changed = True
        self.failures[reason] = self.failures.get(reason, 0) + 1

    def left(self, descriptor: int) -> None:
        """A connection was closed."""
        self.changed = True
        self._old.discard(descriptor)
        self._young.pop(descriptor, None)
        self._closed.add(descriptor)
        routing_id = self._spoke.pop(descriptor, None)
        if routing_id is not None:
            self._gone[routing_id] = descriptor

    # Who speaks

    def spoke(self, descriptor: int, routing_id: bytes) -> bool:
        """A message came on this connection; True if one before it under the same routing id is gone."""
        if descriptor in self._closed:
            self.changed = True
            self._gone[routing_id] = descriptor
            return False
        self._spoke[descriptor] = routing_id
        return self._gone.pop(routing_id, descriptor) != descriptor

    def gone(self) -> list[bytes]:
        """Routing ids whose connection is closed, since the last time: to be asked when everything was read."""
        if not self._gone:
            return []
        gone = list(self._gone)
        self._gone.clear()
        return gone
