"""The options of a broker, checked in one place.

Their names are those of ``Broker``'s keywords, of the keys of the TOML file and of the command
line.  A wrong value raises ``ValueError`` with a message that says what would be right.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..numbers import MAX_FRAMES, MOST_INTERVAL, check_boolean, check_number, check_text, unknown_name

#: Bytes of a mebibyte.
MEBI = 1024 * 1024


@dataclass(frozen=True)
class ServiceOptions:
    """The options that may differ from service to service.

    Attributes:
        request_ttl: Seconds that all of a request's waits in the queue may take together, unless its
            caller states how long it waits (a ``timeout=`` given to a call or a client).  Set for a
            service (`services`), it binds all callers of that service.
        busy_timeout: Seconds that a worker which says nothing may go on with the work it has begun,
            from its last message on, while its process is alive.  A worker that sends heartbeats
            meanwhile may work for as long as it likes.
        attempts: How often a request is given to a worker before it is given up.
        max_queue: How many requests may wait for one service.
    """

    request_ttl: float = 30.0
    busy_timeout: float = 900.0
    attempts: int = 3
    max_queue: int = 100_000

    def __post_init__(self) -> None:
        check_number("request_ttl", self.request_ttl, 0, above=True)
        check_number("busy_timeout", self.busy_timeout, 0, above=True)
        check_number("attempts", self.attempts, 1, whole=True)
        check_number("max_queue", self.max_queue, 1, whole=True)


SERVICE_OPTIONS = frozenset(option.name for option in fields(ServiceOptions))


@dataclass(frozen=True)
class BrokerOptions(ServiceOptions):
    """The options of a broker; those of :class:`ServiceOptions` hold where a service has none of its own.

    Attributes:
        heartbeat_interval: Seconds between heartbeats.
        liveness: Intervals of silence after which a peer is lost.  Each frame must cross its link in less
            than ``heartbeat_interval * (liveness - 0.75)`` seconds, 5.6 by default: ZeroMQ notices a frame when
            the frame is complete, and ends a connection on which it notices nothing for so long.  For larger
            frames or slower links, raise these options, at both ends.
        zmtp_heartbeats: Whether ZeroMQ itself asks each connection if its process is alive.  False is
            for peers of ZMTP 3.0, which do not answer: a worker is then lost when it says nothing
            for the expiry, even while it works.
        stream_stall_timeout: Seconds for which the reader of a stream may take nothing while the
            handler waits for it; then the stream ends, and its session is free.  A part, with what is on its
            way before it, must cross the client's link in less time.
        max_request_ttl: Seconds that all waits of a request may take together whose caller states how
            long it waits.
        max_services: How many services there may be.
        max_workers: How many workers may be registered.
        max_in_flight: How many requests a gmdp client's connection may have open; more are refused.
            Strict clients cannot be told, so only `max_queue` and `max_queue_bytes` bound theirs.
        max_queue_bytes: Bytes of requests queued or assigned, of replies being joined, and of
            answers that wait for clients to read.  A request counts what it takes in memory:
            1,000, its body, and its return address if it came through a proxy.  Each frame of
            a return address, and each frame of a body beyond the first, counts 64 more.  A
            client may hold as many bytes as are still free; a request for which it has no room
            is refused.
        max_frames: How many frames a message may have, its envelope included; 100,000 at most.
        max_frame_size: How many bytes a frame may have.  A message with a larger one is dropped, counted and
            logged, and a gmdp client is told.  A frame of more than twice as many bytes ends its connection
            before it is read: ZeroMQ then says neither who sent it nor why the connection ended.
        max_connections: How many connections a secured broker may have.
        handshake_timeout: Seconds a connection's handshake may take.
        max_user_services: How many services a user may have opened.
        max_user_workers: How many workers a user may have registered.
        max_user_bytes: How many of the `max_queue_bytes` a user may hold.
        max_user_rate: How many requests a user may send a second.
        services: Per-service values: shell-style pattern of the name to options.  The first
            pattern that matches counts.
    """

    heartbeat_interval: float = 2.5
    liveness: float = 3
    zmtp_heartbeats: bool = True
    stream_stall_timeout: float = 30.0
    max_request_ttl: float = 86_400.0
    max_services: int = 10_000
    max_workers: int = 65_536
    max_in_flight: int = 10_000
    max_queue_bytes: int = 512 * MEBI
    max_frames: int = 1_000
    max_frame_size: int = 16 * MEBI
    max_connections: int = 10_000
    handshake_timeout: float = 5.0
    max_user_services: int = 1_000
    max_user_workers: int = 10_000
    max_user_bytes: int = 256 * MEBI
    max_user_rate: float = 10_000.0
    services: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("heartbeat_interval", self.heartbeat_interval, 0, above=True, most=MOST_INTERVAL)
        check_number("liveness", self.liveness, 3)
        check_number("max_request_ttl", self.max_request_ttl, 0, above=True)
        check_boolean("zmtp_heartbeats", self.zmtp_heartbeats)
        check_number("stream_stall_timeout", self.stream_stall_timeout, 0, above=True)
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
        check_number("max_frames", self.max_frames, 8, whole=True, most=MAX_FRAMES)
        if not isinstance(self.services, Mapping):
            raise ValueError(f"services must be a table of patterns, not {self.services!r}")
        for pattern, values in self.services.items():
            if not isinstance(pattern, str) or not isinstance(values, Mapping):
                raise ValueError(f"services[{pattern!r}] must be a table of options, not {values!r}")
            check_text("a pattern of services", pattern)
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
        """The options that hold for the service `name`."""
        return replace(self._defaults, **self._values_for(name))

    def stated_ttl(self, name: bytes) -> float:
        """The ``request_ttl`` of requests for the service `name` whose callers state how long they wait."""
        return float(self._values_for(name).get("request_ttl", self.max_request_ttl))

    def _values_for(self, name: bytes) -> Mapping[str, Any]:
        """The options of the first pattern that matches `name`."""
        for pattern, values in self.services.items():
            if fnmatch.fnmatchcase(name, pattern.encode()):
                return values
        return {}

    @property
    def _defaults(self) -> ServiceOptions:
        """The options of services that match no pattern."""
        return ServiceOptions(**{name: getattr(self, name) for name in SERVICE_OPTIONS})
