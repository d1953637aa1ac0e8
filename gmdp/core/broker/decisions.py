"""What a broker's core decides: messages to send, and events for logs and hooks."""

from __future__ import annotations

from typing import NamedTuple

from .reasons import DropReason

#: Makes a NamedTuple from a tuple of its fields, faster than its constructor.
new_tuple = tuple.__new__


class Target:
    """The base of what a message may be about: workers, their connections, and requests."""

    __slots__ = ()

    def stands(self) -> bool:
        """Return True if the message is for a worker that is registered, or a worker's connection that is."""
        return False


class Outgoing(NamedTuple):
    """One message to send.

    The two messages of each request are made with `new_tuple`, which costs a third.
    """

    frames: list[bytes]
    #: Tells :meth:`~.core.BrokerCore.send_failed` whom a failure concerns; None: a client, or nobody.
    target: Target | None
    #: False if the message may be dropped when the peer has no room.
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
    #: The user of the connection; empty if no user is known.
    user: str
    service: bytes
    #: NOT_ALLOWED (by the policy), REVOKED (the user is none any more), RATE_FULL,
    #: USER_SERVICES_FULL or USER_WORKERS_FULL.
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
        user: The user who sent it; empty if no user is known.
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
