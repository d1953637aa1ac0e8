"""The features that peers have named in their probes.

The rules of this module:

* A peer is known by its routing id and its return address.  A peer whose features are not known is sent
  nothing that belongs to one.
* When the broker learns that a connection is closed, or another user speaks under its routing id, all its peers
  are forgotten.  A broker without security learns it only if a message cannot be sent.
* Of each routing id :data:`MAX_BEHIND` peers are remembered.  Behind a proxy, many peers have one; beyond
  the bound, the one that probed first gives way.
* In all, :data:`MAX_PEERS` are remembered.  Beyond this number a peer with the newcomer's routing id gives way,
  else one with the routing id that was used the longest ago: by a probe or, once half as many are remembered, by a
  request that was its connection's only one.
* A connection that has open requests, a backlog or workers gives way only if :data:`MAX_SPARED` others are in the
  same case.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ...protocol import extension
from ...protocol.dialects import Dialect
from ...protocol.extension import Feature

#: How many peers are remembered, with one routing id and in all.
MAX_BEHIND = 1_024
MAX_PEERS = 65_536
#: How many connections in use are passed over for one that is not.
MAX_SPARED = 16


class Probe(NamedTuple):
    """A peer's last probe."""

    #: The features that the peer and this broker name.
    features: int
    dialect: Dialect


class Peers:
    """The peers that have named features in their probes."""

    __slots__ = ("_by_routing_id", "count", "crowded", "is_in_use")

    def __init__(self) -> None:
        #: By routing id, then by address (routing id and return address); the latest are last.
        self._by_routing_id: OrderedDict[bytes, dict[tuple[bytes, ...], Probe]] = OrderedDict()
        #: True if so many are remembered that :meth:`on_use` is to be called.
        self.crowded = False
        #: Returns True if the connection of a routing id has open requests, a backlog or workers.
        self.is_in_use: Callable[[bytes], bool] = lambda routing_id: False
        #: How many peers are remembered.
        self.count = 0

    def note(self, address: tuple[bytes, ...], features: int, dialect: Dialect) -> None:
        """Remember the features that a peer's probe named, and the dialect of that probe."""
        self._forget(address)  # the latest is last
        if not features:
            return
        routing_id = address[0]
        sharing = self._by_routing_id.get(routing_id)
        if sharing is not None and (len(sharing) >= MAX_BEHIND or self.count >= MAX_PEERS):
            self._forget(next(iter(sharing)))
        elif self.count >= MAX_PEERS:
            self._forget_oldest()
        self._by_routing_id.setdefault(routing_id, {})[address] = Probe(int(features), dialect)
        self._by_routing_id.move_to_end(routing_id)
        self.count += 1
        self.crowded = self.count > MAX_PEERS // 2

    def on_use(self, routing_id: bytes) -> None:
        """A connection is used: of all routing ids, its own gives way last."""
        if routing_id in self._by_routing_id:
            self._by_routing_id.move_to_end(routing_id)

    def _forget_oldest(self) -> None:
        for _ in range(MAX_SPARED):
            oldest = next(iter(self._by_routing_id))
            if not self.is_in_use(oldest):
                break
            self._by_routing_id.move_to_end(oldest)
        self._forget(next(iter(next(iter(self._by_routing_id.values())))))

    def _forget(self, address: tuple[bytes, ...]) -> None:
        sharing = self._by_routing_id.get(address[0], {})
        if sharing.pop(address, None) is not None:
            self.count -= 1
            if not sharing:
                del self._by_routing_id[address[0]]

    def forget_routing_id(self, routing_id: bytes) -> None:
        """Forget all peers that have this routing id."""
        self.count -= len(self._by_routing_id.pop(routing_id, ()))

    def probe_of(self, address: tuple[bytes, ...]) -> Probe | None:
        """Return a peer's last probe; None if it is not known, or named no feature."""
        return self._by_routing_id.get(address[0], {}).get(address)

    def features_of(self, address: tuple[bytes, ...], frame: bytes) -> int:
        """Return the :class:`~gmdp.protocol.extension.Feature` flags of the peer at `address`.

        Args:
            address: The peer's routing id and return address.
            frame: Its call frame or session frame; empty for a strict peer, which has no features.
        """
        if not frame or extension.version_of(frame) < 2:
            return 0
        probe = self.probe_of(address)
        return probe.features if probe is not None else 0

    def having(self, feature: Feature) -> Iterator[tuple[bytes, ...]]:
        """Return the addresses of the peers that have named this feature; others may come and go between two steps."""
        for sharing in list(self._by_routing_id.values()):
            for address, probe in list(sharing.items()):
                if probe.features & feature:
                    yield address
