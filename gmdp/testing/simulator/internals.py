"""The private parts of the cores that the simulator reads, all in one place."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ...core.broker.core import BrokerCore
from ...core.broker.records import Client, Connection
from ...core.peer.calls import Call
from ...core.peer.client import ClientCore
from ...core.peer.sessions import WorkerConnection
from ...core.peer.worker import WorkerCore

# Of a broker


def worker_connections(core: BrokerCore) -> Mapping[Any, Connection]:
    """Return the connections of workers, by key."""
    return core._registry.connections


def clients(core: BrokerCore) -> Mapping[Any, Client]:
    """Return the clients with requests or a backlog, by routing id."""
    return core._accounts.clients


def joinable_calls(core: BrokerCore) -> Collection[tuple[str, bytes]]:
    """Return the calls that a retry may join: user and request id of each."""
    return core._accounts.calls.keys()


def backlogs(core: BrokerCore) -> int:
    """Return the number of clients that do not read."""
    return core.backlogs.count


def timers(core: BrokerCore) -> int:
    """Return the number of timers that are armed."""
    return len(core._state.timers)


def gap_end(core: BrokerCore | WorkerCore) -> float:
    """Return the time until which silence counts for nothing, since the core itself did not run."""
    return core._state.gap.until if isinstance(core, BrokerCore) else core._gap.until


def limit_batch(core: BrokerCore, limit: int) -> None:
    """Have the broker send at most `limit` messages of one backlog at a time."""
    core.backlogs.batch = min(limit, core.backlogs.batch)


# Of a worker or client


def usable_connections(core: WorkerCore) -> Collection[WorkerConnection]:
    """Return the connections on which a worker may register."""
    return core._usable


def expiry(core: WorkerCore) -> float:
    """Return the seconds of silence after which a worker gives its broker up."""
    return core._expiry


def waiting_calls(core: ClientCore) -> Collection[Call]:
    """Return the calls that no connection has."""
    return core._waiting


def stream_bounds(core: ClientCore) -> tuple[int, int]:
    """Return how much a stream's credit may exceed INITIAL_CREDIT, and what all streams may still share."""
    return core._max_extra_credit, core._shared_credit


def max_sockets(core: ClientCore) -> int:
    """Return the number of sockets that a client may have now."""
    return core._max_connections + len(core._draining)
