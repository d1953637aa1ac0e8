"""Calls that type checkers must refuse: mypy reads this file, nothing runs it.

Each line has an error that it is to have.  mypy reports an ignored error that is not there, so
a signature that takes anything fails the check.
"""

from __future__ import annotations

from collections.abc import Iterator

from gmdp import AsyncClient, Broker, Client, Handler, Request, Worker

ENDPOINT = "tcp://127.0.0.1:5555"


def text(request: Request) -> str:
    """A handler that answers with text."""
    return ""


def texts(request: Request) -> Iterator[str]:
    """A handler whose parts are text."""
    yield ""


def nothing(request: Request) -> None:
    """A handler without an answer."""


def no_request() -> bytes:
    """A handler that takes no request."""
    return b""


async def promise(request: Request) -> bytes:
    """A handler that is a coroutine."""
    return b""


def wrong() -> None:
    """Make each mistake once."""
    Broker(request_tll=3)  # type: ignore[arg-type]
    Broker(request_ttl="3")  # type: ignore[arg-type]
    Broker(3)  # type: ignore[arg-type]
    Client(ENDPOINT, timeoutt=3)  # type: ignore[call-arg]
    AsyncClient(ENDPOINT, timeoutt=3)  # type: ignore[call-arg]
    AsyncClient(ENDPOINT, timeout="3")  # type: ignore[arg-type]
    Worker(ENDPOINT, "it", text)  # type: ignore[arg-type]
    Worker(ENDPOINT, "it", texts)  # type: ignore[arg-type]
    Worker(ENDPOINT, "it", nothing)  # type: ignore[arg-type]
    Worker(ENDPOINT, "it", no_request)  # type: ignore[arg-type]
    Worker(ENDPOINT, "it", promise)  # type: ignore[arg-type]
    Worker(ENDPOINT, "it", lambda request: "")  # type: ignore[arg-type, return-value]
    Worker(ENDPOINT, "it", lambda request: b"", concurrent=2)  # type: ignore[call-arg]


def parts(request: Request) -> Iterator[bytes | list[bytes]]:
    """A handler that yields parts and returns a FINAL."""
    yield b"part"
    yield [b"part", b"of two frames"]


def right() -> None:
    """Make each thing that is allowed once."""
    handler: Handler = parts
    Worker(ENDPOINT, "it", handler)
    Worker(ENDPOINT, "it", lambda request: request.body)
    Worker(ENDPOINT, b"it", lambda request: (b"a", b"b"), concurrency=2)
    Broker(ENDPOINT, request_ttl=3, services={"echo": {"attempts": 1}})
