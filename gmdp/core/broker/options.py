"""What a broker can be told, checked in one place.

The names are those of ``Broker``'s keywords, of the keys of the TOML file and
of the command line.  A wrong value raises ``ValueError`` with a message that
says what would be right.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..numbers import MOST_INTERVAL, check_number, unknown_name

MEBI = 1024 * 1024


@dataclass(frozen=True)
class ServiceOptions:
    """What may differ from service to service."""

    #: Seconds a request may wait in the queue, all its waits together.
    request_ttl: float = 30.0
    #: Seconds a worker that does not heartbeat while it works may work.
    busy_timeout: float = 900.0
    #: How often a request is given to a worker before it is given up.
    attempts: int = 3
    #: Requests that may wait for one service.
    max_queue: int = 100_000

    def __post_init__(self) -> None:
        check_number("request_ttl", self.request_ttl, 0, above=True)
        check_number("busy_timeout", self.busy_timeout, 0, above=True)
        check_number("attempts", self.attempts, 1, whole=True)
        check_number("max_queue", self.max_queue, 1, whole=True)


SERVICE_OPTIONS = frozenset(option.name for option in fields(ServiceOptions))


@dataclass(frozen=True)
class BrokerOptions(ServiceOptions):
    """All a broker's core is told."""

    #: Seconds between heartbeats.
    heartbeat_interval: float = 2.5
    #: Intervals of silence after which a peer is lost.
    liveness: float = 3
    max_services: int = 10_000
    max_workers: int = 65_536
    #: Requests a client's connection may have open; more are refused.
    max_in_flight: int = 10_000
    #: Bytes of request bodies queued or assigned, of replies being joined, and of
    #: answers that wait for clients to read; each frame beyond the first of a body
    #: counts 64 more.  A client may hold as many as are still free of it; what is
    #: more is refused.
    max_queue_bytes: int = 256 * MEBI
    #: Frames of a message, its envelope included.
    max_frames: int = 1_000
    #: Bytes of a frame.
    max_frame_size: int = 16 * MEBI
    #: Connections, where a broker is secured; seconds a connection's handshake may take.
    max_connections: int = 10_000
    handshake_timeout: float = 5.0
    #: Services that one user may have opened, workers he may have registered, bytes he may have queued (of those of
    #: `max_queue_bytes`), and requests he may send a second.
    max_user_services: int = 1_000
    max_user_workers: int = 10_000
    max_user_bytes: int = 128 * MEBI
    max_user_rate: float = 10_000.0
    #: Per-service values: shell-style pattern of the name to options.  The
    #: first pattern that matches counts.
    services: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("heartbeat_interval", self.heartbeat_interval, 0, above=True, most=MOST_INTERVAL)
        check_number("liveness", self.liveness, 3)
        for name in (
            "max_services",
            "max_workers",
            "max_in_flight",
            "max_queue_bytes",
            "max_frame_size",
            "max_user_services",
            "max_user_workers",
            "max_user_bytes",
            "max_connections",
        ):
            check_number(name, getattr(self, name), 1, whole=True)
        check_number("max_user_rate", self.max_user_rate, 1)
        check_number("handshake_timeout", self.handshake_timeout, 0, above=True, most=MOST_INTERVAL)
        check_number("max_frames", self.max_frames, 8, whole=True)
        if not isinstance(self.services, Mapping):
            raise ValueError(f"services must be a table of patterns, not {self.services!r}")
        for pattern, values in self.services.items():
            if not isinstance(pattern, str) or not isinstance(values, Mapping):
                raise ValueError(f"services[{pattern!r}] must be a table of options, not {values!r}")
            for name in values:
                if name not in SERVICE_OPTIONS:
                    raise ValueError(f"services[{pattern!r}]: {unknown_name(name, SERVICE_OPTIONS)}")
            try:
                ServiceOptions(**values)
            except ValueError as error:
                raise ValueError(f"services[{pattern!r}]: {error}") from None

    @property
    def expiry(self) -> float:
        """Seconds of silence after which a peer is lost."""
        return self.heartbeat_interval * self.liveness

    def for_service(self, name: bytes) -> ServiceOptions:
        """The values that hold for the service `name`."""
        for pattern, values in self.services.items():
            if fnmatch.fnmatchcase(name, pattern.encode()):
                return replace(self._plain, **values)
        return self._plain

    @property
    def _plain(self) -> ServiceOptions:
        return ServiceOptions(**{name: getattr(self, name) for name in SERVICE_OPTIONS})
