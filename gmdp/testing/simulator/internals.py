"""What the cores keep private and the simulator reads: here, and nowhere else."""

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
    """The connections of workers, by key."""
    return core._registry.connections


def clients(core: BrokerCore) -> Mapping[Any, Client]:
    """The clients that hold something, by routing id."""
    return core._accounts.clients


def joinable_calls(core: BrokerCore) -> Collection[tuple[str, bytes]]:
    """The calls that a retry may join: user and request id of each."""
    return core._accounts.calls.keys()


def backlogs(core: BrokerCore) -> int:
    """How many clients do not read."""
    return core.backlogs.count


def timers(core: BrokerCore) -> int:
    """How many timers are armed."""
    return len(core._state.timers)


def gap_end(core: BrokerCore | WorkerCore) -> float:
    """Until when silence counts for nothing, since the core itself did not run."""
    return core._state.gap.until if isinstance(core, BrokerCore) else core._gap.until


def limit_batch(core: BrokerCore, limit: int) -> None:
    """Try at most `limit` messages of one backlog at a time."""
    core.backlogs.batch = min(limit, core.backlogs.batch)


# Of a worker or client


def usable_connections(core: WorkerCore) -> Collection[WorkerConnection]:
    """The connections on which a worker may register."""
    return core._usable


def expiry(core: WorkerCore) -> float:
    """Seconds of silence after which a worker gives its broker up."""
    return core._expiry


def waiting_calls(core: ClientCore) -> Collection[Call]:
    """The calls that no connection has."""
    return core._waiting


def max_sockets(core: ClientCore) -> int:
    """How many sockets a client may have now."""
    return core._max_connections + len(core._draining)
