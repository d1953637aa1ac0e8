"""What a broker's core decides: messages to send, and what to tell the broker's users."""

from __future__ import annotations

from typing import NamedTuple

from .reasons import DropReason

#: What makes a NamedTuple of a tuple of all its fields.
new_tuple = tuple.__new__


class Target:
    """What a message to send is about; the base of the records that may be that."""

    __slots__ = ()


class Outgoing(NamedTuple):
    """One message to send.  Those of every request are made by `new_tuple`, for a third of the price."""

    frames: list[bytes]
    #: What the core is told about if sending fails: a worker, its connection or a request.
    target: Target | None
    #: False if a peer with no room for it may do without.
    essential: bool


class Event(NamedTuple):
    """Something worth a line in a log."""

    #: "registered" or "lost": a worker, or several of one connection.
    kind: str
    service: bytes
    reason: str


class Refusal(NamedTuple):
    """Something a broker did not let a user do."""

    #: "serve", "call" or "inspect".
    action: str
    #: Whoever's connection it came on; empty if that is not known.
    user: str
    service: bytes
    reason: DropReason


class DeadLetter(NamedTuple):
    """A request that workers were lost over, and that ended without an answer."""

    service: bytes
    body: list[bytes]
    #: How often a worker had it.
    attempts: int
    #: "attempts" (there are no more), "worker_lost" (part of its answer had gone
    #: out) or "expired" (waiting for its next attempt).
    reason: str
    #: Seconds since it was accepted.
    age: float
    #: The user it came from; empty if that is not known.
    user: str


class Waited(NamedTuple):
    """A request whose caller traces it was given to a worker."""

    service: bytes
    traceparent: bytes
    #: Seconds since it was accepted.
    seconds: float
    #: How often a worker had it, this time included.
    attempt: int
