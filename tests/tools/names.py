"""Resolvers of a test's own: host names that exist in one test."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gmdp.io import resolving

V4, V6 = "127.0.0.1", "::1"


def entries(*addresses: str) -> list[tuple[Any, ...]]:
    """Return what getaddrinfo returns for these addresses."""
    kind = socket.SOCK_STREAM
    return [
        (socket.AF_INET6, kind, 6, "", (address, 0, 0, 0))
        if ":" in address
        else (socket.AF_INET, kind, 6, "", (address, 0))
        for address in addresses
    ]


class Names:
    """A resolver of the program's own: addresses by name; an Event is waited for first."""

    def __init__(self, **names: Any) -> None:
        self.names = names
        self.asked: list[str] = []

    def getaddrinfo(
        self, host: str, port: Any, family: int = 0, socktype: int = 0, proto: int = 0, flags: int = 0
    ) -> list[tuple[Any, ...]]:
        """Look up a name without its domain."""
        self.asked.append(host)
        found = self.names.get(host.partition(".")[0], ())
        if isinstance(found, Event):
            found.wait()
            found = (V4,)
        if isinstance(found, BaseException):
            raise found
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [entry for entry in entries(*found) if family in (0, entry[0])]

    def close(self) -> None:
        """As gevent's resolvers have it."""


def use_resolvers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], Any]]:
    """Make a fixture: a function that gives this thread's hub a resolver.  No answer of an earlier test counts."""
    monkeypatch.setattr(resolving, "_process", resolving._Process())
    hub: Any = gevent.get_hub()
    earlier = hub.resolver

    def put(resolver: Any) -> Any:
        hub.resolver = resolver
        return resolver

    yield put
    hub.resolver = earlier
