"""Where messages stand among those to be sent, for whoever takes some of them back.

Thousands of workers and clients may be lost before the next message is sent.  The first loss finds
out where every message stands, and the others read on from there.  So a message that is decided
need not note its place.
"""

from __future__ import annotations

from bisect import bisect_left

from .decisions import Outgoing
from .records import Worker


class Unsent:
    """The messages of one outbox, by worker and by routing id.

    A *place* is where a message would stand if none had been removed.
    """

    __slots__ = ("_outbox", "_places", "_read", "_removed", "_requests")

    def __init__(self, outbox: list[Outgoing]) -> None:
        self._outbox = outbox
        #: How many messages were read, and the places of those that were removed, in order.
        self._read = 0
        self._removed: list[int] = []
        #: The place of each worker's last request.
        self._requests: dict[Worker, int] = {}
        #: The places of each routing id's messages, in order.
        self._places: dict[bytes, list[int]] = {}

    def take_back(self, worker: Worker) -> bool:
        """Remove the last request to a worker; False if there is none."""
        self._read_on()
        place = self._requests.pop(worker, None)
        if place is None or (at := self._find(place)) is None:
            return False
        self._remove(place, at)
        return True

    def drop(self, routing_id: bytes) -> int:
        """Remove the messages to a routing id, but not those to workers that stand; return how many were removed."""
        self._read_on()
        dropped, kept = 0, []
        for place in self._places.pop(routing_id, ()):
            at = self._find(place)
            if at is None:
                continue
            target = self._outbox[at].target
            if target is not None and target.stands():
                kept.append(place)
            else:
                self._remove(place, at)
                dropped += 1
        if kept:
            self._places[routing_id] = kept
        return dropped

    def _read_on(self) -> None:
        """Note the places of the messages that are new."""
        outbox = self._outbox
        removed = len(self._removed)
        for at in range(self._read - removed, len(outbox)):
            frames, target, _ = outbox[at]
            self._places.setdefault(frames[0], []).append(at + removed)
            if isinstance(target, Worker):
                self._requests[target] = at + removed
        self._read = len(outbox) + removed

    def _find(self, place: int) -> int | None:
        """Where the message of this place stands; None if it was removed."""
        removed = self._removed
        before = bisect_left(removed, place)
        return None if before < len(removed) and removed[before] == place else place - before

    def _remove(self, place: int, at: int) -> None:
        del self._outbox[at]
        self._removed.insert(place - at, place)
