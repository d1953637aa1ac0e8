"""What a broker's core decides: messages to send, and what to tell the broker's users."""

from __future__ import annotations

from typing import NamedTuple

from .reasons import DropReason

#: Makes a NamedTuple of a tuple of all its fields.
new_tuple = tuple.__new__


class Target:
    """What a message to send is about: the base of workers, their connections, and requests."""

    __slots__ = ()


class Outgoing(NamedTuple):
    """One message to send.

    The messages of every request are made by `new_tuple`, at a third of the price.
    """

    frames: list[bytes]
    #: What the core is told about if sending fails.
    target: Target | None
    #: False if a peer without room for the message may do without it.
    essential: bool


class Event(NamedTuple):
    """A change worth a line in a log."""

    #: "registered" or "lost": a worker, or several workers of one connection.
    kind: str
    service: bytes
    #: The worker's dialect, or why it was lost.
    reason: str


class Refusal(NamedTuple):
    """An act that a broker did not allow a user."""

    #: "serve", "call" or "inspect".
    action: str
    #: The user of the connection; empty if that is not known.
    user: str
    service: bytes
    reason: DropReason


class DeadLetter(NamedTuple):
    """A request that workers were lost over, and that ended without an answer.

    Attributes:
        service: The service that was asked.
        body: The request's body.
        attempts: How often a worker had the request.
        reason: "attempts" (none was left), "worker_lost" (a part of the answer had gone out)
            or "expired" (the request waited for its next attempt for too long).
        age: Seconds since the broker accepted the request.
        user: The user who sent it; empty if that is not known.
    """

    service: bytes
    body: list[bytes]
    attempts: int
    reason: str
    age: float
    user: str


class QueueWait(NamedTuple):
    """How long a traced request waited before it was given to a worker."""

    service: bytes
    traceparent: bytes
    #: Seconds since the broker accepted the request.
    seconds: float
    #: How often a worker had the request, this time included.
    attempt: int
