"""Messages that gmdp peers have not asked for: the broker's offer, again.

The rules of this module:

* Only peers that named the feature ``leaving`` in their probe get their answer to it again.
* When the broker begins to drain, each of them gets it once.
* At each heartbeat interval, a client that had open requests at the last one, too, and has no backlog gets it.
  A client that is gone cannot be sent a message: so the broker learns to drop its queued requests.
  It costs nothing for requests that are answered within an interval.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...protocol.extension import PROBE_SERVICE, Feature
from .accounts import Accounts
from .decisions import Outgoing
from .records import Connection
from .replies import Replies
from .reports import Reports
from .state import BrokerState


class Notices:
    """Sends the broker's offer again."""

    def __init__(self, state: BrokerState, accounts: Accounts, replies: Replies, reports: Reports) -> None:
        self._state = state
        self._accounts = accounts
        self._replies = replies
        self._reports = reports

    def check_clients(self, now: float) -> None:
        """Send the offer to the clients that have waited for answers since the last time."""
        self._accounts.check_at = now + self._state.options.heartbeat_interval
        offer: list[bytes] | None = None
        for client in list(self._accounts.clients.values()):
            address: tuple[bytes, ...] = (client.key,)  # type: ignore[assignment]  # a connection's is its routing id
            probe = self._state.peers.probe_of(address)
            if probe is None or not probe.features & Feature.LEAVING or not client.open or client.backlog is not None:
                continue
            if not client.waits:
                client.waits = True
                continue
            if offer is None:
                offer = self._reports.offer()
            self._replies.send([*address, *probe.dialect.reply(PROBE_SERVICE, offer)], now)

    def peers_to_tell(self) -> list[tuple[bytes, ...]]:
        """Return the peers that understand that the broker leaves."""
        return list(self._state.peers.having(Feature.LEAVING))

    def tell_leaving(self, peers: Iterable[tuple[bytes, ...]], connections: Iterable[Connection], now: float) -> None:
        """Tell these peers that the broker drains; `connections` are those of workers."""
        offer = self._reports.offer()
        workers = {connection.address: connection for connection in connections}
        for address in peers:
            probe = self._state.peers.probe_of(address)
            if probe is None:
                continue  # it has gone meanwhile
            frames = [*address, *probe.dialect.reply(PROBE_SERVICE, offer)]
            if address in workers:
                self._state.outbox.append(Outgoing(frames, workers[address], False))
            else:
                self._replies.send(frames, now)
