"""Messages that gmdp peers have not asked for: the broker's offer, again.

The rules of this module:

* Only peers that named the feature ``leaving`` in their probe get their answer to it again.
* When the broker begins to drain, each of them gets it once.
* At each heartbeat interval, a client that had open requests at the last one, too, and has no backlog gets it.
  A client that is gone cannot be sent a message: so the broker learns to drop its queued requests.
  A client that has been without an open request in between is sent nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Iterator, Mapping

from ...protocol.extension import PROBE_SERVICE, Feature
from .accounts import Accounts
from .decisions import Outgoing
from .records import Client, Connection
from .replies import Replies
from .reports import Reports
from .services import BURST
from .state import BrokerState


class Notices:
    """Sends the broker's offer again."""

    def __init__(self, state: BrokerState, accounts: Accounts, replies: Replies, reports: Reports) -> None:
        self._state = state
        self._accounts = accounts
        self._replies = replies
        self._reports = reports
        #: The clients that are still to be looked at, in this interval; None: all were.
        self._to_check: Iterator[Client] | None = None

    def check_clients(self, now: float) -> None:
        """Send the offer to some of the clients that have waited for answers since the last time."""
        accounts = self._accounts
        if self._to_check is None:
            self._to_check = iter(list(accounts.clients.values()))
        some = list(itertools.islice(self._to_check, BURST))
        accounts.check_at = now
        if len(some) < BURST:
            self._to_check = None
            accounts.check_at += self._state.options.heartbeat_interval
        offer: list[bytes] | None = None
        for client in some:
            address: tuple[bytes, ...] = (client.key,)  # type: ignore[assignment]  # a connection's is its routing id
            probe = self._state.peers.probe_of(address)
            if probe is None or not probe.features & Feature.LEAVING or client.gone:
                continue
            if not client.open or client.backlog is not None:
                continue
            if not client.waits:
                client.waits = True
                continue
            if offer is None:
                offer = self._reports.offer()
            self._replies.send([*address, *probe.dialect.reply(PROBE_SERVICE, offer)], now)

    def tell_leaving(
        self, peers: Iterable[tuple[bytes, ...]], connections: Mapping[Hashable, Connection], now: float
    ) -> None:
        """Tell these peers that the broker drains; `connections` are those of workers, by their keys."""
        offer = self._reports.offer()
        for address in peers:
            probe = self._state.peers.probe_of(address)
            if probe is None:
                continue  # it has gone meanwhile
            frames = [*address, *probe.dialect.reply(PROBE_SERVICE, offer)]
            connection = connections.get(address if len(address) > 1 else address[0])
            if connection is not None:
                self._state.outbox.append(Outgoing(frames, connection, False))
            else:
                self._replies.send(frames, now)
